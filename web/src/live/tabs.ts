/** The pages of this browser among themselves: who holds a session, and how it is handed over without losing a byte. */

const CHANNEL = "verbatim-live";
/** A page that lives answers at once; one that crashed never does. */
const ANSWER_WITHIN_MS = 600;
const YIELD_WITHIN_MS = 3000;

type Word = { ask: "who" | "yield"; id: string } | { tell: "mine" | "yielded"; id: string };

export class Tabs {
  #channel = new BroadcastChannel(CHANNEL);
  #held: { id: string; letGo: () => Promise<void> } | null = null;
  #waiting = new Set<(word: Word) => void>();

  constructor() {
    this.#channel.onmessage = ({ data }: MessageEvent<Word>) => {
      if ("tell" in data) for (const one of this.#waiting) one(data);
      else void this.#answer(data);
    };
  }

  /** Say that this page holds a session; `letGo` is called when another one asks for it. */
  hold(id: string, letGo: () => Promise<void>): void {
    this.#held = { id, letGo };
  }

  /** Say that this page holds none any more. */
  release(): void {
    this.#held = null;
  }

  /** Tell whether another page holds a session. */
  async isHeld(id: string): Promise<boolean> {
    return this.#ask({ ask: "who", id }, "mine", ANSWER_WITHIN_MS);
  }

  /** Have the page that holds a session stop, and keep what it has. Settles when it has done so, or does not answer. */
  async takeOver(id: string): Promise<void> {
    if (await this.isHeld(id)) await this.#ask({ ask: "yield", id }, "yielded", YIELD_WITHIN_MS);
  }

  async #answer(word: Word & { ask: string }): Promise<void> {
    const held = this.#held;
    if (held?.id !== word.id) return;
    if (word.ask === "who") {
      this.#channel.postMessage({ tell: "mine", id: word.id });
      return;
    }
    this.#held = null;
    await held.letGo();
    this.#channel.postMessage({ tell: "yielded", id: word.id });
  }

  #ask(word: Word, answer: string, withinMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = (heard: boolean) => {
        this.#waiting.delete(listen);
        resolve(heard);
      };
      const listen = (heard: Word) => {
        if ("tell" in heard && heard.tell === answer && heard.id === word.id) settle(true);
      };
      this.#waiting.add(listen);
      this.#channel.postMessage(word);
      setTimeout(() => settle(false), withinMs);
    });
  }
}
