/** What survives the tab: the sessions that are under way in this browser and their unacknowledged audio (IndexedDB). */

import type { Spool } from "./buffer.ts";
import type { Resume } from "./socket.ts";
import type { StartFields } from "./wire.ts";

const NAME = "verbatim";
const AUDIO = "audio";
const SESSIONS = "sessions";
/** 2.3 hours of 16 kHz mono PCM. */
const KEPT_MAX_BYTES = 256 * 1024 * 1024;
const CHUNK_MAX_BYTES = 64 * 1024;
const FLUSH_MS = 250;

/** A session that a page has begun and nobody has seen the end of. */
export interface SessionRecord {
  id: string;
  account: string;
  title: string;
  fields: StartFields;
  resume: Resume | null;
  acked: number;
  written: number;
  paused: boolean;
  finishing: boolean;
  /** Milliseconds since 1970. */
  savedAt: number;
}

interface Chunk {
  id: string;
  start: number;
  end: number;
  audio: ArrayBuffer;
}

export class Archive {
  private constructor(private readonly db: IDBDatabase) {}

  /** Open it; null where the browser keeps nothing (a private window): then only memory holds the audio. */
  static async open(): Promise<Archive | null> {
    try {
      const asked = indexedDB.open(NAME, 1);
      asked.onupgradeneeded = () => {
        asked.result.createObjectStore(AUDIO, { keyPath: ["id", "start"] });
        asked.result.createObjectStore(SESSIONS, { keyPath: "id" });
      };
      return new Archive(await done(asked));
    } catch {
      return null;
    }
  }

  async sessions(account: string): Promise<SessionRecord[]> {
    const all = await done<SessionRecord[]>(this.db.transaction(SESSIONS).objectStore(SESSIONS).getAll());
    return all.filter((one) => one.account === account).sort((a, b) => b.savedAt - a.savedAt);
  }

  async session(id: string): Promise<SessionRecord | undefined> {
    return done<SessionRecord | undefined>(this.db.transaction(SESSIONS).objectStore(SESSIONS).get(id));
  }

  async forget(id: string): Promise<void> {
    const change = this.db.transaction([AUDIO, SESSIONS], "readwrite");
    change.objectStore(SESSIONS).delete(id);
    change.objectStore(AUDIO).delete(IDBKeyRange.bound([id, 0], [id, Infinity]));
    await committed(change);
  }

  /** Begin to keep a session, or go on with it. */
  async keep(record: SessionRecord): Promise<SessionSpool> {
    const range = IDBKeyRange.bound([record.id, 0], [record.id, Infinity]);
    const chunks = await done<Chunk[]>(this.db.transaction(AUDIO).objectStore(AUDIO).getAll(range));
    return new SessionSpool(this.db, record, chunks.map(({ start, end }) => ({ start, end })));
  }
}

/** The unacknowledged audio of one session, written as it comes in batches of a quarter of a second. */
export class SessionSpool implements Spool {
  #pending: Uint8Array[] = [];
  #pendingStart = 0;
  #pendingBytes = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #writing: Promise<void> = Promise.resolve();
  #closed = false;
  #keptBytes: number;

  constructor(
    private readonly db: IDBDatabase,
    readonly record: SessionRecord,
    readonly stretches: { start: number; end: number }[],
  ) {
    this.#keptBytes = stretches.reduce((sum, one) => sum + one.end - one.start, 0);
  }

  has(start: number, end: number): boolean {
    let reached = start;
    for (const one of this.stretches) {
      if (one.start <= reached && one.end > reached) reached = one.end;
      if (reached >= end) return true;
    }
    return false;
  }

  async read(start: number, end: number): Promise<Uint8Array> {
    const id = this.record.id;
    const range = IDBKeyRange.bound([id, Math.max(0, start - 2 * CHUNK_MAX_BYTES)], [id, end], false, true);
    const chunks = await done<Chunk[]>(this.db.transaction(AUDIO).objectStore(AUDIO).getAll(range));
    const audio = new Uint8Array(end - start);
    let reached = start;
    for (const chunk of chunks) {
      if (chunk.start > reached || chunk.end <= reached) continue;
      const part = new Uint8Array(chunk.audio).subarray(reached - chunk.start, Math.min(chunk.end, end) - chunk.start);
      audio.set(part, reached - start);
      reached += part.length;
    }
    if (reached < end) throw new Error("the browser has thrown audio away");
    return audio;
  }

  /** Keep the next bytes of the stream, soon. */
  append(start: number, audio: Uint8Array): void {
    if (this.#pendingBytes && start !== this.#pendingStart + this.#pendingBytes) this.#cut();
    if (!this.#pendingBytes) this.#pendingStart = start;
    this.#pending.push(audio);
    this.#pendingBytes += audio.length;
    if (this.#pendingBytes >= CHUNK_MAX_BYTES) this.#cut();
    else this.touch();
  }

  /** Write what has changed, soon. */
  touch(): void {
    if (!this.#closed) this.#timer ??= setTimeout(() => this.#cut(), FLUSH_MS);
  }

  /** Write now all that was handed over; settles when it is kept. */
  async flush(): Promise<void> {
    this.#cut();
    await this.#writing;
  }

  /** Write what is left, and nothing after that: another page goes on with the session, or it is over. */
  async close(): Promise<void> {
    await this.flush();
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #cut(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#closed) return;
    const chunk = this.#pendingBytes ? this.#taken() : null;
    this.#writing = this.#writing.then(() => this.#write(chunk)).catch(() => undefined);
  }

  #taken(): Chunk {
    const joined = new Uint8Array(this.#pendingBytes);
    let at = 0;
    for (const part of this.#pending) {
      joined.set(part, at);
      at += part.length;
    }
    const start = this.#pendingStart;
    this.#pending = [];
    this.#pendingBytes = 0;
    return { id: this.record.id, start, end: start + at, audio: joined.buffer };
  }

  async #write(chunk: Chunk | null): Promise<void> {
    const { id, acked } = this.record;
    const change = this.db.transaction([AUDIO, SESSIONS], "readwrite", { durability: "relaxed" });
    const fits = chunk !== null && this.#keptBytes + chunk.audio.byteLength <= KEPT_MAX_BYTES;
    if (fits) change.objectStore(AUDIO).put(chunk);
    const old = this.stretches.filter((one) => one.end <= acked);
    const last = old.at(-1);
    if (last) change.objectStore(AUDIO).delete(IDBKeyRange.bound([id, 0], [id, last.start]));
    change.objectStore(SESSIONS).put({ ...this.record, savedAt: Date.now() });
    await committed(change);
    this.stretches.splice(0, old.length);
    for (const one of old) this.#keptBytes -= one.end - one.start;
    if (fits) {
      this.stretches.push({ start: chunk.start, end: chunk.end });
      this.#keptBytes += chunk.audio.byteLength;
    }
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's storage fails"));
  });
}

function committed(change: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    change.oncomplete = () => resolve();
    change.onerror = change.onabort = () => reject(change.error ?? new Error("the browser's storage fails"));
  });
}
