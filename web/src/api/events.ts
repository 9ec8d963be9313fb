/** Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html, as text comes in pieces. */

export interface SentEvent {
  id: string;
  data: string;
}

export class EventParser {
  #rest = "";
  #id = "";
  #data: string[] = [];

  feed(text: string): SentEvent[] {
    const lines = (this.#rest + text).split(/\r\n|\n|\r/);
    // A piece may end between the two characters of a line end: keep it for the next one.
    this.#rest = lines.pop()!;
    const events: SentEvent[] = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) events.push({ id: this.#id, data: this.#data.join("\n") });
        this.#id = "";
        this.#data = [];
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "id") this.#id = value;
      else if (name === "data") this.#data.push(value);
    }
    return events;
  }
}
