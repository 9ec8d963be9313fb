/** What happened to a meeting on its way here: connections lost and back, drafts and their healing, gaps. */

import type { Gap, State } from "./wire.ts";
import { clock, gapWords } from "./words.ts";

const KEPT_MAX = 200;

export interface Happening {
  at: Date;
  text: string;
}

const STATES: Record<State, string> = {
  ok: "The speech service writes again",
  degraded: "Drafts are written now and heal later",
  hold: "The server asked to wait",
  catching_up: "The server catches up",
  draining: "The server hands the meeting over to another",
};

export class Chronicle {
  readonly happenings: Happening[] = [];
  #healed = 0;
  #state: State = "ok";

  constructor(private readonly now: () => Date = () => new Date()) {}

  /** Note something; the same again, with nothing between, is noted once. */
  add(text: string): void {
    if (this.happenings.at(-1)?.text === text) return;
    this.#healed = 0;
    this.#push(text);
  }

  /** Note that a draft has got its better words; several in a row are counted. */
  healed(): void {
    this.#healed += 1;
    const text = this.#healed === 1 ? "1 draft healed" : `${this.#healed} drafts healed`;
    if (this.#healed > 1) this.happenings.pop();
    this.#push(text);
  }

  gap(gap: Gap): void {
    this.add(`At ${clock(gap.start)}: ${gapWords(gap.start, gap.end, gap.reason)}`);
  }

  /** Note the state that the platform tells; what it was already is no news. */
  state(state: State): void {
    if (state !== this.#state) this.add(STATES[state]);
    this.#state = state;
  }

  #push(text: string): void {
    this.happenings.push({ at: this.now(), text });
    if (this.happenings.length > KEPT_MAX) this.happenings.shift();
  }
}
