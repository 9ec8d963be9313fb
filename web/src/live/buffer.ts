/** Everything that was said and is not acknowledged: in memory, beyond that in the spool, beyond that a declared gap. */

/** A stretch of the stream. `audio` is null where it lies in the spool only, and in a gap. */
export interface Piece {
  start: number;
  end: number;
  audio: Uint8Array | null;
  gap: boolean;
}

/** Where audio survives the tab. */
export interface Spool {
  /** Whether the audio between two offsets can be read back. */
  has(start: number, end: number): boolean;
  read(start: number, end: number): Promise<Uint8Array>;
}

export const NO_SPOOL: Spool = {
  has: () => false,
  read: () => Promise.reject(new Error("nothing is kept")),
};

/**
 * Pieces from `acked` to `written` without a hole: every byte is kept, or part of a gap that will be declared.
 * `sent` divides them into those that are under way on this connection and those that are due.
 */
export class AudioBuffer {
  acked = 0;
  sent = 0;
  written = 0;
  droppedBytes = 0;
  memoryBytes = 0;
  #pieces: Piece[] = [];
  #next = 0;
  #everSent = 0;
  #inherited = false;

  /** `memoryMaxBytes` holds while the spool takes what is more; without it, twice as much is kept. */
  constructor(
    private readonly memoryMaxBytes: number,
    private readonly spool: Spool = NO_SPOOL,
  ) {}

  /**
   * Begin where an earlier page stopped: what lies between is in the spool, or a gap.
   *
   * Nothing may be written before the first `rewind`: the platform may be further than what was kept.
   */
  restore(acked: number, written: number, stretches: { start: number; end: number }[]): void {
    this.acked = this.sent = this.written = acked;
    for (const one of stretches) {
      if (one.end <= this.written || one.start >= written) continue;
      if (one.start > this.written) this.drop(one.start - this.written);
      this.#append({ start: this.written, end: one.end, audio: null, gap: false });
    }
    if (this.written < written) this.drop(written - this.written);
    // What was sent by the page before us counts: the platform may ask for any of it, or have more than was kept.
    this.#everSent = this.written;
    this.#inherited = true;
  }

  /** Take the next bytes of the stream. */
  write(audio: Uint8Array): void {
    if (this.memoryBytes + audio.length > this.memoryMaxBytes) this.#evict(audio.length);
    if (this.memoryBytes + audio.length > 2 * this.memoryMaxBytes) {
      this.drop(audio.length);
      return;
    }
    this.memoryBytes += audio.length;
    this.#append({ start: this.written, end: this.written + audio.length, audio, gap: false });
  }

  /** Let the next bytes of the stream be a gap. */
  drop(bytes: number): void {
    this.droppedBytes += bytes;
    const last = this.#pieces.at(-1);
    if (last?.gap && this.#next < this.#pieces.length) {
      this.written = last.end += bytes;
    } else {
      this.#append({ start: this.written, end: this.written + bytes, audio: null, gap: true });
    }
  }

  /** Return what is to be sent next. */
  peek(): Piece | undefined {
    return this.#pieces[this.#next];
  }

  /** Count the next piece as sent. */
  advance(): void {
    const piece = this.#pieces[this.#next];
    if (!piece) throw new Error("nothing is due");
    this.#next += 1;
    this.sent = piece.end;
    this.#everSent = Math.max(this.#everSent, this.sent);
  }

  /**
   * Forget everything below an offset. Throws RangeError for what was never sent.
   *
   * What was sent on an earlier connection may have arrived late: then it need not be sent again.
   */
  acknowledge(offset: number): void {
    if (offset > this.#everSent) throw new RangeError(`acknowledged up to ${offset}, sent up to ${this.#everSent}`);
    if (offset <= this.acked) return;
    let whole = 0;
    for (const piece of this.#pieces) {
      if (piece.end > offset) break;
      this.memoryBytes -= piece.audio?.length ?? 0;
      whole += 1;
    }
    this.#pieces.splice(0, whole);
    this.#next = Math.max(0, this.#next - whole);
    const first = this.#pieces[0];
    if (first && first.start < offset) this.#cut(first, offset);
    this.acked = offset;
    this.sent = Math.max(this.sent, offset);
  }

  /**
   * Make everything from an offset on due again. Throws RangeError if that was never sent.
   *
   * A platform that asks for what it has acknowledged has lost its log: what was forgotten since becomes a gap.
   */
  rewind(offset: number): void {
    if (this.#inherited && offset > this.written) {
      this.#pieces = [];
      this.#next = 0;
      this.memoryBytes = 0;
      this.acked = this.written = this.#everSent = offset;
    }
    this.#inherited = false;
    if (offset < 0 || offset > this.#everSent) throw new RangeError(`asked for ${offset}, sent up to ${this.#everSent}`);
    if (offset < this.acked) {
      this.#pieces.unshift({ start: offset, end: this.acked, audio: null, gap: true });
      this.droppedBytes += this.acked - offset;
      this.acked = offset;
    }
    this.#next = this.#pieces.findIndex((piece) => piece.end > offset);
    if (this.#next < 0) this.#next = this.#pieces.length;
    const due = this.#pieces[this.#next];
    if (due && due.start < offset) {
      const head: Piece = { ...due, end: offset, audio: due.audio?.slice(0, offset - due.start) ?? null };
      this.#pieces.splice(this.#next, 0, head);
      this.#next += 1;
      // The head's bytes are counted with it, the tail keeps its own.
      due.audio = due.audio?.slice(offset - due.start) ?? null;
      due.start = offset;
    }
    this.sent = offset;
  }

  /** Take back into memory what was read from the spool, if it is still wanted. */
  fill(start: number, audio: Uint8Array): void {
    const piece = this.peek();
    if (!piece || piece.gap || piece.audio || piece.start !== start || piece.end !== start + audio.length) return;
    piece.audio = audio;
    this.memoryBytes += audio.length;
  }

  /** The spool does not give back what is due: it becomes a gap that is declared. */
  forfeit(start: number): void {
    const piece = this.peek();
    if (!piece || piece.audio || piece.start !== start) return;
    piece.gap = true;
    this.droppedBytes += piece.end - piece.start;
  }

  #append(piece: Piece): void {
    this.#pieces.push(piece);
    this.written = piece.end;
  }

  #cut(piece: Piece, offset: number): void {
    if (piece.audio) {
      this.memoryBytes -= offset - piece.start;
      piece.audio = piece.audio.slice(offset - piece.start);
    }
    piece.start = offset;
  }

  /** Let go of what is due last and can be read back. */
  #evict(wantedBytes: number): void {
    for (let at = this.#pieces.length - 1; at > this.#next; at -= 1) {
      const piece = this.#pieces[at]!;
      if (piece.audio === null && !piece.gap) break;
      if (piece.audio && this.spool.has(piece.start, piece.end)) {
        this.memoryBytes -= piece.audio.length;
        piece.audio = null;
      }
      if (this.memoryBytes + wantedBytes <= this.memoryMaxBytes / 2) return;
    }
  }
}
