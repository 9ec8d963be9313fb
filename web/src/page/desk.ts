/** What this page records, and what was left unfinished in this browser. One for the whole page. */

import { accessToken, account } from "../api/login.ts";
import { ApiError } from "../api/errors.ts";
import { Archive, type SessionRecord } from "../live/archive.ts";
import type { Source } from "../live/capture.ts";
import { Recording } from "../live/recording.ts";
import { RefusedLogin, type SocketLike } from "../live/socket.ts";
import { Tabs } from "../live/tabs.ts";
import type { Change } from "../live/transcript.ts";
import type { StartFields } from "../live/wire.ts";

export interface Unfinished {
  record: SessionRecord;
  /** Whether another tab is recording it right now. */
  elsewhere: boolean;
}

export type Listener = (change: Change | null) => void;

class Desk {
  current: Recording | null = null;
  unfinished: Unfinished[] = [];
  #tabs = new Tabs();
  #archive: Promise<Archive | null> = Archive.open();
  #listeners = new Set<Listener>();

  /** Be told when something about the recording changes; gives how to stop that. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get isRecording(): boolean {
    return this.current !== null && !this.current.isOver;
  }

  async start(fields: StartFields, source: Source): Promise<void> {
    const who = account();
    if (who) await this.#run(Recording.record(who.id, fields), source);
  }

  /** Look for what an earlier page left; go on with it at once if no other tab has it. */
  async look(): Promise<void> {
    const who = account();
    const archive = await this.#archive;
    if (!who || !archive || this.isRecording) return;
    const records = (await archive.sessions(who.id)).filter((one) => one.id !== this.current?.record.id);
    this.unfinished = await Promise.all(
      records.map(async (record) => ({ record, elsewhere: await this.#tabs.isHeld(record.id) })),
    );
    this.#tell();
  }

  /** Go on with a session in this page; another one that has it stops first. */
  async resume(id: string): Promise<void> {
    const archive = await this.#archive;
    await this.#tabs.takeOver(id);
    const record = await archive?.session(id);
    if (record) await this.#run(record, { kind: "microphone", ...remembered() });
    await this.look();
  }

  async discard(id: string): Promise<void> {
    await (await this.#archive)?.forget(id);
    await this.look();
    this.unfinished = this.unfinished.filter(({ record }) => record.id !== id);
    this.#tell();
  }

  /** Put away a recording that is over. */
  clear(): void {
    if (this.current?.isOver) this.current = null;
    this.#tell();
  }

  async #run(record: SessionRecord, source: Source): Promise<void> {
    const archive = await this.#archive;
    const spool = (await archive?.keep(record)) ?? null;
    const world = { open, token };
    const watcher = { changed: (change: Change | null) => this.#tell(change) };
    this.current = new Recording(record, spool, archive, this.#tabs, world, watcher);
    this.unfinished = this.unfinished.filter((one) => one.record.id !== record.id);
    this.#tell();
    await this.current.start(source);
  }

  #tell(change: Change | null = null): void {
    for (const listener of this.#listeners) listener(change);
  }
}

export const desk = new Desk();

const DEVICE = "verbatim.microphone";

/** The microphone that was chosen last. */
export function remembered(): { deviceId?: string } {
  const deviceId = localStorage.getItem(DEVICE);
  return deviceId ? { deviceId } : {};
}

export function remember(deviceId: string): void {
  localStorage.setItem(DEVICE, deviceId);
}

function open(): SocketLike {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  return new WebSocket(`${scheme}://${location.host}/transcribe`) as SocketLike;
}

async function token(renew: boolean): Promise<string> {
  try {
    return await accessToken(renew);
  } catch (fault) {
    if (fault instanceof ApiError && fault.status === 401) {
      throw new RefusedLogin("You are signed out. Sign in again: what was recorded waits in this browser.");
    }
    throw fault;
  }
}
