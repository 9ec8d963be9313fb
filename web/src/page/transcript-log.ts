/** The rows of a transcript. Not a template: rows are added one by one and never looked at again. */

import { clock, gapWords } from "../live/words.ts";
import type { Change, Row, SegmentRow } from "../live/transcript.ts";
import { isDraft, type PartialText, type Segment } from "../live/wire.ts";

/** Rows in a block; the browser skips the layout of blocks that are out of sight. */
const BLOCK_ROWS = 10;
const NEAR_END_PX = 80;

export class TranscriptLog extends HTMLElement {
  /** Where a time leads to; null: times are plain text. */
  addressOf: ((segment: Segment) => string) | null = null;
  /** Told when the reader leaves or reaches the end. */
  onfollow: (() => void) | null = null;
  /** Told which segment is to be corrected; null: nothing can be. */
  oncorrect: ((segmentId: string) => void) | null = null;
  following = false;
  /** Rows that came while the reader was elsewhere. */
  unseen = 0;

  #rows = new Map<string, HTMLElement>();
  #list = document.createElement("div");
  #tail = document.createElement("div");
  #empty = document.createElement("p");
  #scheduled = false;

  connectedCallback(): void {
    if (this.#list.parentElement) return;
    const isLive = this.hasAttribute("live");
    this.#list.className = "rows";
    if (isLive) {
      // Only what is confirmed is read out, and only once: a draft that heals is not.
      this.#list.setAttribute("role", "log");
      this.#list.setAttribute("aria-relevant", "additions");
      this.#list.setAttribute("aria-label", "Captions");
      this.following = true;
    }
    this.#tail.className = "tail";
    // Words that still change would make a screen reader stutter.
    this.#tail.setAttribute("aria-hidden", "true");
    this.#empty.className = "empty";
    this.append(this.#empty, this.#list, this.#tail);
    this.addEventListener("scroll", () => this.#scrolled(), { passive: true });
  }

  /** What to say while there is no row. */
  set placeholder(text: string) {
    this.#empty.textContent = text;
    this.#empty.hidden = this.#rows.size > 0 || !text;
  }

  get size(): number {
    return this.#rows.size;
  }

  /** Show rows from nothing, without reading them out. */
  reset(rows: readonly Row[]): void {
    this.#rows.clear();
    const blocks: HTMLElement[] = [];
    for (let at = 0; at < rows.length; at += BLOCK_ROWS) {
      const block = newBlock();
      block.append(...rows.slice(at, at + BLOCK_ROWS).map((row) => this.#made(row)));
      blocks.push(block);
    }
    this.#list.replaceChildren(...blocks);
    this.#empty.hidden = this.#rows.size > 0;
    this.#stick();
  }

  show(change: Change): void {
    if (change.type === "remove") {
      this.#rows.get(change.key)?.remove();
      this.#rows.delete(change.key);
      return;
    }
    if (change.type === "replace") {
      const old = this.#rows.get(change.row.key);
      const healed = this.#made(change.row);
      if (change.wasDraft && !isDraft(change.row.segment)) healed.classList.add("healed");
      if (old?.classList.contains("target")) {
        healed.classList.add("target");
        this.#offer(healed, change.row.segment.id);
      }
      old?.replaceWith(healed);
      return;
    }
    const following = change.before ? this.#rows.get(change.before) : undefined;
    const row = this.#made(change.row);
    if (following) following.before(row);
    else this.#lastBlock().append(row);
    this.#empty.hidden = true;
    if (!this.following) this.unseen += 1;
    this.#stick();
  }

  /** Show the speech that goes on. Never moves what is confirmed. */
  set tails(tails: readonly PartialText[]) {
    const text = tails.map(({ speaker, text: words }) => (speaker ? `${speaker}: ${words}` : words)).join("  ");
    if (this.#tail.textContent !== text) {
      this.#tail.textContent = text;
      this.#stick();
    }
  }

  jumpToEnd(): void {
    this.following = true;
    this.unseen = 0;
    this.scrollTop = this.scrollHeight;
    this.onfollow?.();
  }

  /** Bring a segment into sight and mark it; false if it is not there (yet). */
  reveal(segmentId: string): boolean {
    const row = this.querySelector<HTMLElement>(`#s-${CSS.escape(segmentId)}`);
    if (!row) return false;
    const before = this.querySelector(".row.target");
    before?.classList.remove("target");
    before?.querySelector(".correct")?.remove();
    row.classList.add("target");
    this.#offer(row, segmentId);
    row.scrollIntoView({ block: "center" });
    row.tabIndex = -1;
    row.focus({ preventScroll: true });
    return true;
  }

  /** One row at a time can be corrected, the one that was chosen: ten thousand buttons would be in everybody's way. */
  #offer(row: HTMLElement, segmentId: string): void {
    if (!this.oncorrect || row.querySelector(".correct")) return;
    const button = document.createElement("button");
    row.tabIndex = -1;
    button.className = "link correct";
    button.textContent = "Correct";
    button.addEventListener("click", () => this.oncorrect?.(segmentId));
    row.querySelector(".said")?.append(" ", button);
  }

  #made(row: Row): HTMLElement {
    const element = document.createElement("div");
    element.className = "row";
    if (row.kind === "gap") {
      element.classList.add("gap");
      element.append(text("span", "time", clock(row.start)));
      element.append(text("p", "said", gapWords(row.gap.start, row.gap.end, row.gap.reason)));
    } else {
      this.#fill(element, row);
    }
    this.#rows.set(row.key, element);
    return element;
  }

  #fill(element: HTMLElement, { segment }: SegmentRow): void {
    element.id = `s-${segment.id}`;
    const time = this.addressOf ? document.createElement("a") : document.createElement("span");
    time.className = "time";
    time.textContent = clock(segment.start);
    if (this.addressOf) (time as HTMLAnchorElement).href = this.addressOf(segment);
    const said = document.createElement("p");
    said.className = "said";
    if (segment.speaker) said.append(text("span", "speaker", segment.speaker), " ");
    said.append(text("span", "words", segment.text));
    if (isDraft(segment)) {
      element.classList.add("draft");
      said.append(" ", text("span", "mark", "draft"));
    }
    if (segment.edited?.length) said.append(" ", text("span", "mark", "corrected"));
    element.append(time, said);
  }

  #lastBlock(): HTMLElement {
    const last = this.#list.lastElementChild as HTMLElement | null;
    if (last && last.childElementCount < BLOCK_ROWS) return last;
    const block = newBlock();
    this.#list.append(block);
    return block;
  }

  #stick(): void {
    if (!this.following || this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      if (this.following) this.scrollTop = this.scrollHeight;
    });
  }

  #scrolled(): void {
    if (!this.hasAttribute("live")) return;
    const isAtEnd = this.scrollHeight - this.scrollTop - this.clientHeight < NEAR_END_PX;
    if (isAtEnd === this.following) return;
    this.following = isAtEnd;
    if (isAtEnd) this.unseen = 0;
    this.onfollow?.();
  }
}

function newBlock(): HTMLElement {
  const block = document.createElement("div");
  block.className = "block";
  return block;
}

function text(tag: string, className: string, content: string): HTMLElement {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = content;
  return element;
}

customElements.define("transcript-log", TranscriptLog);
