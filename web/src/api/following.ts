/** Following a meeting that others speak in, over as many connections as it takes. */

import { Backoff } from "../live/backoff.ts";
import type { ServerEvent } from "../live/wire.ts";
import { answer, type Insights } from "./calls.ts";
import { ApiError } from "./errors.ts";
import { EventParser } from "./events.ts";

/** The platform breaks every 15 s of silence with a comment. */
const SILENT_AT_MOST_MS = 45_000;
const RETRYABLE: ReadonlySet<number> = new Set([429, 500, 502, 503, 504]);

export type ViewerEvent = ServerEvent | ({ type: "insights" } & Insights);

/** `connected`: what is shown is what there is. `waiting`: it may be old. `over`: nothing more will come. */
export type Sight = "connecting" | "connected" | "waiting" | "over" | "gave_up";

export class Following {
  sight: Sight = "connecting";
  #position = "";
  #over = false;
  #backoff = new Backoff(() => performance.now() / 1000);
  #abort = new AbortController();
  #wake: () => void = () => {};

  constructor(
    private readonly meetingId: string,
    private readonly heard: (events: ViewerEvent[]) => void,
    private readonly changed: () => void,
  ) {}

  /** Follow to the end. Throws ApiError when the platform refuses for good. */
  async run(): Promise<void> {
    window.addEventListener("online", this.#online);
    try {
      while (!this.#abort.signal.aborted && !this.#over) await this.#once();
      this.#see("over");
    } finally {
      window.removeEventListener("online", this.#online);
    }
  }

  /** Another one that goes on where this one stands. */
  again(): Following {
    const next = new Following(this.meetingId, this.heard, this.changed);
    next.#position = this.#position;
    return next;
  }

  stop(): void {
    this.#abort.abort();
    this.#wake();
  }

  retry(): void {
    this.#backoff.reset();
    this.#wake();
  }

  async #once(): Promise<void> {
    let retryAfterS: number | undefined;
    try {
      retryAfterS = await this.#connection();
    } catch (fault) {
      if (this.#abort.signal.aborted) return;
      if (fault instanceof ApiError && !RETRYABLE.has(fault.status)) throw fault;
      if (fault instanceof ApiError) retryAfterS = fault.retryAfterS ?? undefined;
    }
    if (this.#over || this.#abort.signal.aborted) return;
    const waitS = this.#backoff.lost(retryAfterS);
    this.#see(waitS === null ? "gave_up" : "waiting");
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (waitS !== null) setTimeout(resolve, waitS * 1000);
    });
  }

  async #connection(): Promise<number | undefined> {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (this.#position) headers["Last-Event-ID"] = this.#position;
    const path = `/api/meetings/${this.meetingId}/live`;
    const response = await answer("GET", path, { headers, signal: this.#abort.signal });
    if (response.status === 204 || !response.body) {
      this.#over = true;
      return undefined;
    }
    this.#backoff.connected();
    this.#see("connected");
    const parser = new EventParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (;;) {
        const piece = await within(SILENT_AT_MOST_MS, reader.read());
        if (piece.done) return undefined;
        const events: ViewerEvent[] = [];
        for (const { id, data } of parser.feed(piece.value)) {
          const event = JSON.parse(data) as ViewerEvent;
          if (event.type === "error") {
            if (!event.retryable) throw new ApiError(400, event.error, event.message ?? "The meeting cannot be followed.");
            return event.retry_after;
          }
          if (id) this.#position = id;
          if (event.type === "finished") this.#over = true;
          events.push(event);
        }
        if (events.length) this.heard(events);
        if (this.#over) return undefined;
      }
    } finally {
      void reader.cancel().catch(() => undefined);
    }
  }

  #online = () => this.retry();

  #see(sight: Sight): void {
    if (this.sight === sight) return;
    this.sight = sight;
    this.changed();
  }
}

async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new TypeError("the stream fell silent")), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
