/** A live meeting in this page: microphone, buffer, storage, socket and transcript, put together. */

import { Archive, type SessionRecord, type SessionSpool } from "./archive.ts";
import { AudioBuffer, NO_SPOOL } from "./buffer.ts";
import { Chronicle } from "./chronicle.ts";
import { Capture, CaptureError, type Frame, type Source } from "./capture.ts";
import { LiveSocket, type World } from "./socket.ts";
import type { Tabs } from "./tabs.ts";
import { Transcript, type Change } from "./transcript.ts";
import { BYTES_PER_SECOND, isDraft, type Finished, type ServerEvent, type StartFields } from "./wire.ts";
import { describe, type Words } from "./words.ts";

/** Two minutes. */
const MEMORY_MAX_BYTES = 4 * 1024 * 1024;

export interface Watcher {
  /** A row of the transcript is new or another; null: only the tail, or something around it. */
  changed(change: Change | null): void;
}

export class Recording {
  readonly transcript = new Transcript();
  /** What happened on the way, for those who want to know. */
  readonly chronicle = new Chronicle();
  finished: Finished | null = null;
  paused = false;
  /** RMS of the last tenth of a second, 0 to 1. */
  level = 0;
  /** Why the microphone is not heard; empty while it is. */
  silent = "";
  needsGesture = false;
  source: Source = { kind: "microphone" };
  sourceLabel = "";

  #capture: Capture | null = null;
  #buffer: AudioBuffer;
  #socket: LiveSocket;
  /** What is heard before the platform has told where to go on; null once it has. */
  #early: Uint8Array[] | null;
  #wakeLock: WakeLockSentinel | null = null;
  #told = { phase: "", state: "" };
  #closing = false;

  constructor(
    readonly record: SessionRecord,
    private readonly spool: SessionSpool | null,
    private readonly archive: Archive | null,
    private readonly tabs: Tabs,
    world: Omit<World, "read" | "now" | "after" | "draw">,
    private readonly watcher: Watcher,
  ) {
    this.#buffer = new AudioBuffer(MEMORY_MAX_BYTES, spool ?? NO_SPOOL);
    const stretches = spool?.stretches ?? [];
    const isOld = record.resume !== null || stretches.length > 0;
    if (isOld) this.#buffer.restore(record.acked, Math.max(record.acked, stretches.at(-1)?.end ?? 0), stretches);
    this.#early = record.resume ? [] : null;
    this.paused = record.paused;
    this.#socket = new LiveSocket(
      {
        ...world,
        now: () => performance.now() / 1000,
        after: (seconds, then) => {
          const timer = setTimeout(then, seconds * 1000);
          return () => clearTimeout(timer);
        },
        draw: Math.random,
        read: (start, end) => (spool ?? NO_SPOOL).read(start, end),
      },
      { heard: (event) => this.#heard(event), changed: () => this.#changed() },
      this.#buffer,
      record.fields,
      record.resume,
    );
    tabs.hold(record.id, () => this.#yield());
  }

  /** A new meeting's record. */
  static record(account: string, fields: StartFields): SessionRecord {
    return {
      id: crypto.randomUUID(), account, title: fields.title ?? "", fields, resume: null,
      acked: 0, written: 0, paused: false, finishing: false, savedAt: Date.now(),
    }; // prettier-ignore
  }

  get meetingId(): string | null {
    return this.#socket.resume?.meeting_id ?? null;
  }

  get isOver(): boolean {
    return this.#socket.isOver;
  }

  get phase(): string {
    return this.#socket.phase;
  }

  get reconnects(): number {
    return this.#socket.reconnects;
  }

  get secondsRecorded(): number {
    return this.#buffer.written / BYTES_PER_SECOND;
  }

  /** Whether audio would be lost if the page went away now and nobody came back to it. */
  get isAtRisk(): boolean {
    return this.#buffer.written - this.#buffer.acked > 3 * BYTES_PER_SECOND || (this.#early?.length ?? 0) > 0;
  }

  get words(): Words {
    const socket = this.#socket;
    const earlyBytes = this.#early?.reduce((sum, one) => sum + one.length, 0) ?? 0;
    return describe({
      phase: socket.phase,
      state: socket.state,
      reason: socket.reason,
      fault: socket.fault,
      fresh: socket.isFresh,
      paused: this.paused,
      waitingBytes: this.#buffer.written - this.#buffer.acked + earlyBytes,
      droppedBytes: this.#buffer.droppedBytes,
      nextTryInS: socket.nextTryAt - performance.now() / 1000,
      online: navigator.onLine,
      silent: this.silent,
    });
  }

  /** Listen and connect. A microphone that does not work is told by `silent`, the session is opened all the same. */
  async start(source: Source): Promise<void> {
    if (this.spool) await this.spool.flush();
    window.addEventListener("online", this.#online);
    document.addEventListener("visibilitychange", this.#visible);
    if (this.record.finishing) {
      this.#socket.finish();
      this.#socket.open();
      return;
    }
    this.#socket.open();
    await this.listen(source);
    await this.#stayAwake();
  }

  /** Take another source, or the same again. */
  async listen(source: Source): Promise<void> {
    const old = this.#capture;
    this.#capture = null;
    await old?.close();
    try {
      this.#capture = await Capture.open(source, (frame) => this.#take(frame), () => this.#unplugged());
      this.source = source;
      this.sourceLabel = this.#capture.label;
      this.silent = "";
      this.#capture.mute(this.paused);
      this.needsGesture = this.#capture.isSuspended;
    } catch (fault) {
      if (!(fault instanceof CaptureError)) throw fault;
      this.silent = fault.message;
      this.chronicle.add(fault.message);
    }
    if (this.isOver) await this.#deafen();
    this.watcher.changed(null);
  }

  /** Let the browser hear: it asks for a gesture of the person after a reload. */
  async wake(): Promise<void> {
    await this.#capture?.wake();
    this.needsGesture = this.#capture?.isSuspended ?? false;
    this.watcher.changed(null);
  }

  pause(paused: boolean): void {
    if (this.paused === paused || this.isOver) return;
    this.paused = this.record.paused = paused;
    this.#capture?.mute(paused);
    this.level = 0;
    this.#socket.say({ type: paused ? "pause" : "unpause" });
    this.spool?.touch();
    this.chronicle.add(paused ? "Paused" : "Goes on");
    this.watcher.changed(null);
  }

  /** End the meeting: hand over the last sound, then wait for the accounts. */
  async finish(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    await this.#deafen();
    this.record.finishing = true;
    this.#socket.finish();
    this.spool?.touch();
    this.watcher.changed(null);
  }

  retry(): void {
    this.#socket.retry();
  }

  /** Let go of everything in this page; the session stays and may be gone on with. */
  async leave(): Promise<void> {
    await this.#deafen();
    this.#socket.leave();
    await this.#end();
  }

  /** Another page asks for the session. */
  async #yield(): Promise<void> {
    await this.#deafen();
    this.#socket.leave();
    this.#socket.phase = "taken_over";
    await this.#end();
    this.#changed();
  }

  #take(frame: Frame): void {
    if (this.paused || this.isOver || this.record.finishing) return;
    this.level = frame.level;
    if (this.#early) this.#early.push(frame.audio);
    else this.#write(frame.audio);
    this.watcher.changed(null);
  }

  #write(audio: Uint8Array): void {
    const start = this.#buffer.written;
    this.#buffer.write(audio);
    this.record.written = this.#buffer.written;
    this.spool?.append(start, audio);
    this.#socket.nudge();
  }

  #heard(event: ServerEvent): void {
    this.record.acked = this.#buffer.acked;
    switch (event.type) {
      case "session_restored":
        this.chronicle.add("Connected again");
        this.#whole();
        for (const segment of event.segments) this.#apply({ ...segment, type: "segment" });
        for (const gap of event.gaps ?? []) this.#apply({ ...gap, type: "gap" });
        break;
      case "started":
        this.#whole();
        break;
      case "finished":
        this.finished = event;
        this.chronicle.add("Finished");
        this.#apply(event);
        void this.#over();
        break;
      default:
        this.#apply(event);
    }
  }

  /** It is known where the stream goes on: what was heard meanwhile follows. */
  #whole(): void {
    const early = this.#early ?? [];
    this.#early = null;
    for (const audio of early) this.#write(audio);
    this.record.resume = this.#socket.resume;
    this.spool?.touch();
  }

  #apply(event: ServerEvent): void {
    const change = this.transcript.apply(event);
    if (change?.type === "replace" && change.wasDraft && !isDraft(change.row.segment)) this.chronicle.healed();
    if (change?.type === "add" && change.row.kind === "gap") this.chronicle.gap(change.row.gap);
    if (change || event.type === "partial" || event.type === "finished") this.watcher.changed(change);
  }

  #changed(): void {
    const { phase, state } = this.#socket;
    if (phase !== this.#told.phase || state !== this.#told.state) {
      this.#told = { phase, state };
      const { title, detail } = this.words;
      if (phase !== "live" || state !== "ok") this.chronicle.add([title, detail].filter(Boolean).join(". "));
      if (this.isOver && phase !== "finished") void this.#deafen().then(() => this.#end());
      if (phase === "lost") void this.archive?.forget(this.record.id);
    }
    this.watcher.changed(null);
  }

  #unplugged(): void {
    this.silent = "The microphone is gone. Connect it again, or choose another one.";
    this.chronicle.add(this.silent);
    this.watcher.changed(null);
  }

  async #over(): Promise<void> {
    await this.#deafen();
    await this.#end();
    await this.archive?.forget(this.record.id);
  }

  async #deafen(): Promise<void> {
    const capture = this.#capture;
    this.#capture = null;
    this.level = 0;
    await capture?.close();
  }

  async #end(): Promise<void> {
    window.removeEventListener("online", this.#online);
    document.removeEventListener("visibilitychange", this.#visible);
    this.tabs.release();
    await this.spool?.close();
    await this.#wakeLock?.release();
    this.#wakeLock = null;
  }

  #online = () => this.#socket.retry();

  #visible = () => {
    if (document.visibilityState === "visible") void this.#stayAwake();
  };

  /** Keep the screen on: a phone that sleeps stops listening. */
  async #stayAwake(): Promise<void> {
    try {
      this.#wakeLock = (await navigator.wakeLock?.request("screen")) ?? null;
    } catch {
      // The battery is low, or the page is not in sight: it is asked for again when it is.
      this.#wakeLock = null;
    }
  }
}
