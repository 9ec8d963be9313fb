/** What was said so far, as the events of a session or of a meeting tell it, and how a page follows it row by row. */

import { isDraft, type Gap, type PartialText, type Segment, type ServerEvent } from "./wire.ts";

export interface SegmentRow {
  kind: "segment";
  key: string;
  start: number;
  segment: Segment;
}

export interface GapRow {
  kind: "gap";
  key: string;
  start: number;
  gap: Gap;
}

export type Row = SegmentRow | GapRow;

/** `before` is the key of the row that follows; null at the end. */
export type Change =
  | { type: "add"; row: Row; before: string | null }
  | { type: "replace"; row: SegmentRow; wasDraft: boolean }
  | { type: "remove"; key: string };

/**
 * Of each segment the newest revision, in the order of time. A repeat, or what is older, changes nothing.
 *
 * A segment without text says that nothing was said there, or that nobody could hear it yet: it has no row.
 */
export class Transcript {
  readonly rows: Row[] = [];
  #known = new Map<string, Segment>();
  #gaps = new Set<string>();
  #partials = new Map<string, PartialText>();
  /** By session; "" is the one of the speaker's own socket, whose partials name none. */
  #newest = new Map<string, number>();

  /** The text of speech that goes on: one for each session. */
  get tails(): PartialText[] {
    return [...this.#partials.values()];
  }

  /** The newest revision of a segment. */
  segment(id: string): Segment | null {
    for (const row of this.rows) if (row.kind === "segment" && row.segment.id === id) return row.segment;
    return null;
  }

  get drafts(): number {
    let count = 0;
    for (const segment of this.#known.values()) if (isDraft(segment) && segment.text) count += 1;
    return count;
  }

  /** Take an event; null if no row changes by it. */
  apply(event: ServerEvent): Change | null {
    switch (event.type) {
      case "segment":
      case "revised":
        return this.#segment(event);
      case "gap":
        return this.#gap(event);
      case "partial":
        this.#partial(event);
        return null;
      case "finished":
        this.#partials.clear();
        return null;
      default:
        return null;
    }
  }

  #segment(segment: Segment): Change | null {
    const key = `${segment.session_id}/${segment.index}`;
    const known = this.#known.get(key);
    if (known && known.revision >= segment.revision) return null;
    this.#known.set(key, segment);
    for (const session of [segment.session_id, ""]) {
      this.#newest.set(session, Math.max(segment.index, this.#newest.get(session) ?? -1));
      const tail = this.#partials.get(session);
      if (tail && tail.index <= segment.index) this.#partials.delete(session);
    }
    const row: SegmentRow = { kind: "segment", key, start: segment.start, segment };
    if (known?.text) {
      const at = this.rows.findIndex((one) => one.key === key);
      if (segment.text) {
        // Its place and times stay those of the draft.
        this.rows[at] = row;
        return { type: "replace", row, wasDraft: isDraft(known) };
      }
      this.rows.splice(at, 1);
      return { type: "remove", key };
    }
    return segment.text ? this.#insert(row) : null;
  }

  #gap(gap: Gap): Change | null {
    const key = `${gap.session_id ?? ""}/gap/${gap.start}`;
    if (this.#gaps.has(key)) return null;
    this.#gaps.add(key);
    return this.#insert({ kind: "gap", key, start: gap.start, gap });
  }

  #insert(row: Row): Change {
    let at = this.rows.length;
    while (at > 0 && this.rows[at - 1]!.start > row.start) at -= 1;
    const before = this.rows[at]?.key ?? null;
    this.rows.splice(at, 0, row);
    return { type: "add", row, before };
  }

  #partial(partial: PartialText): void {
    const session = partial.session_id ?? "";
    // It may be overtaken by its segment: what is confirmed is never shown as a tail again.
    if (partial.index > (this.#newest.get(session) ?? -1)) this.#partials.set(session, partial);
  }
}
