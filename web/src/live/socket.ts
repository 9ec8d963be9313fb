/**
 * One live session over as many connections as it takes: the client rules of the protocol as a state machine.
 *
 * Knows nothing of pages, microphones or storage: the socket, the clock and the timers are handed in.
 */

import { Backoff } from "./backoff.ts";
import type { AudioBuffer } from "./buffer.ts";
import {
  BYTES_PER_SECOND,
  FINAL_CLOSES,
  NOT_FOUND,
  TAKEN_OVER,
  UNAUTHORIZED,
  frame,
  parsed,
  type Fault,
  type Greeting,
  type ServerEvent,
  type StartFields,
  type State,
} from "./wire.ts";

const CONNECT_WITHIN_S = 10;
const GREETING_WITHIN_S = 15;
/** Nothing heard for so long: ask; and nothing for as long again: the connection is dead, whatever TCP believes. */
const QUIET_S = 5;
const TICK_S = 0.25;
/** After a reconnect, what gathered goes at this multiple of real time. */
const CATCH_UP = 8;
const BURST_S = 1;
const QUEUED_MAX_BYTES = 1024 * 1024;

/**
 * connecting: a socket is being opened, or its greeting awaited. live: audio flows. waiting: for the next try.
 * finishing: all is said, the platform transcribes the rest.
 * These are ends: finished; taken_over: another page has the session; gave_up: too many failures, `retry` goes on;
 * lost: the platform no longer knows the session; refused: it will not have us (`fault` says why); left: by ourselves.
 */
export type Phase =
  | "connecting"
  | "live"
  | "waiting"
  | "finishing"
  | "finished"
  | "taken_over"
  | "gave_up"
  | "lost"
  | "refused"
  | "left";

/** What a WebSocket of a browser can do, as far as it is needed here. */
export interface SocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  onopen: (() => void) | null;
  onmessage: ((message: { data: unknown }) => void) | null;
  onclose: ((close: { code: number }) => void) | null;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number): void;
}

export interface Resume {
  session_id: string;
  meeting_id: string;
  resume_token: string;
}

export interface World {
  open(): SocketLike;
  /** Gives a token; `true`: a new one, the old was refused. Throws `RefusedLogin` if there is no login any more. */
  token(renew: boolean): Promise<string>;
  /** Seconds, never going back. */
  now(): number;
  /** Calls back after seconds; gives how to prevent it. */
  after(seconds: number, then: () => void): () => void;
  draw(): number;
  /** Reads audio back that is not in memory. */
  read(start: number, end: number): Promise<Uint8Array>;
}

export interface Hooks {
  heard(event: ServerEvent): void;
  /** The phase, the state of the platform or the resume token is another. */
  changed(): void;
}

/** The login is over: no other try helps before a person signs in. */
export class RefusedLogin extends Error {}

export class LiveSocket {
  phase: Phase = "connecting";
  state: State = "ok";
  reason = "";
  fault: Fault | null = null;
  resume: Resume | null;
  lastEvent = 0;
  storedOffset = 0;
  reconnects = 0;
  /** When the next try begins (`now`), while waiting. */
  nextTryAt = 0;
  /** When the platform was last heard, by the clock of `now`. */
  heardAt = 0;

  #socket: SocketLike | null = null;
  #greeted = false;
  #backoff: Backoff;
  #renew = false;
  #wanted = true;
  #windowBytes = Number.MAX_SAFE_INTEGER;
  #heartbeatS = 20;
  #pingedAt = 0;
  #allowance = 0;
  #allowedAt = 0;
  #catchingUp = false;
  #reading = false;
  #controls: { at: number; message: object & { type: string } }[] = [];
  #pausedAt: number | null = null;
  #finishAt: number | null = null;
  #finishSaid = false;
  #hole = { expected: -1, at: -Infinity };
  #stopTimer: () => void = () => {};
  #attempt = 0;

  constructor(
    private readonly world: World,
    private readonly hooks: Hooks,
    private readonly buffer: AudioBuffer,
    private readonly fields: StartFields,
    resume: Resume | null = null,
  ) {
    this.resume = resume;
    this.#backoff = new Backoff(() => world.now(), () => world.draw());
  }

  /** Whether nothing more will come without a person. */
  get isOver(): boolean {
    return ["finished", "taken_over", "lost", "refused", "left"].includes(this.phase);
  }

  /** Whether the platform's promise is kept up right now: connected, greeted, and heard a moment ago. */
  get isFresh(): boolean {
    return this.#greeted && this.world.now() - this.heardAt < 2 * QUIET_S;
  }

  open(): void {
    void this.#connect();
  }

  /** Try at once: a person asks for it, or the network is back. */
  retry(): void {
    if (this.phase !== "waiting" && this.phase !== "gave_up") return;
    this.#backoff.reset();
    this.#stopTimer();
    void this.#connect();
  }

  /** Say that there is audio, or room for it. */
  nudge(): void {
    this.#pump();
  }

  say(message: object & { type: "pause" | "unpause" | "finalize" }): void {
    if (message.type !== "finalize") this.#pausedAt = message.type === "pause" ? this.buffer.written : null;
    this.#controls.push({ at: this.buffer.written, message });
    this.#pump();
  }

  /** Say that this was all; nothing is written after this. */
  finish(): void {
    this.#finishAt ??= this.buffer.written;
    if (this.phase === "live") this.#become("finishing");
    this.retry();
    this.#pump();
  }

  /** Drop the connection and do not come back; the session stays open at the platform. */
  leave(): void {
    this.#wanted = false;
    this.#drop();
    this.#stopTimer();
    if (!this.isOver) this.#become("left");
  }

  async #connect(): Promise<void> {
    const attempt = (this.#attempt += 1);
    this.#become("connecting");
    let token: string;
    try {
      token = await this.world.token(this.#renew);
    } catch (fault) {
      if (attempt !== this.#attempt || !this.#wanted) return;
      if (fault instanceof RefusedLogin) this.#end("refused", { error: "unauthorized", message: fault.message });
      else this.#again({ error: "unreachable", message: "The platform cannot be reached." });
      return;
    }
    if (attempt !== this.#attempt || !this.#wanted) return;
    const socket = this.world.open();
    this.#socket = socket;
    this.#greeted = false;
    this.fault = null;
    socket.binaryType = "arraybuffer";
    this.#timer(CONNECT_WITHIN_S, () => this.#closed(null));
    socket.onopen = () => {
      this.#timer(GREETING_WITHIN_S, () => this.#closed(null));
      const resume = this.resume && {
        session_id: this.resume.session_id,
        resume_token: this.resume.resume_token,
        last_event: this.lastEvent,
      };
      socket.send(JSON.stringify({ type: "start", token, ...(resume ? { resume } : this.fields) }));
    };
    socket.onmessage = (message) => this.#hear(parsed(message.data));
    socket.onclose = (close) => this.#closed(close.code);
  }

  #hear(event: ServerEvent | null): void {
    if (!event) {
      this.#end("refused", { error: "bad_gateway", message: "The other side does not speak the live protocol." });
      return;
    }
    this.heardAt = this.world.now();
    this.#pingedAt = 0;
    try {
      this.#take(event);
    } catch (fault) {
      if (!(fault instanceof RangeError)) throw fault;
      this.#end("refused", { error: "bad_gateway", message: `The platform broke the protocol: ${fault.message}.` });
      return;
    }
    this.lastEvent = Math.max(this.lastEvent, event.event ?? 0);
    this.hooks.heard(event);
    this.#pump();
  }

  #take(event: ServerEvent): void {
    switch (event.type) {
      case "started":
      case "session_restored":
        this.#greet(event, event.type === "session_restored");
        break;
      case "ack":
        this.buffer.acknowledge(event.offset);
        this.storedOffset = Math.max(this.storedOffset, event.stored_offset);
        break;
      case "status":
        if (this.state === "hold" && event.state !== "hold") this.#pace();
        this.state = event.state;
        this.reason = event.reason ?? "";
        this.hooks.changed();
        break;
      case "session_not_found":
        this.fault = event;
        break;
      case "error":
        if (event.error === "offset_gap" && event.expected !== undefined) this.#fill(event.expected);
        if (event.fatal) this.fault = event;
        break;
      case "finished":
        this.#end("finished", null);
        break;
    }
  }

  #greet(greeting: Greeting, resumed: boolean): void {
    if (resumed) this.reconnects += 1;
    this.resume = {
      session_id: greeting.session_id,
      meeting_id: greeting.meeting_id,
      resume_token: greeting.resume_token,
    };
    this.buffer.rewind(greeting.offset);
    this.#windowBytes = greeting.window_bytes ?? this.#windowBytes;
    this.#heartbeatS = greeting.heartbeat_s ?? this.#heartbeatS;
    this.#greeted = true;
    this.#renew = false;
    this.#finishSaid = false;
    this.#backoff.connected();
    this.state = "ok";
    this.#pace();
    if (this.#pausedAt !== null && !this.#controls.some(({ message }) => message.type === "pause")) {
      // Whether the platform heard of the pause on the connection before, nobody knows.
      this.#controls.unshift({ at: this.#pausedAt, message: { type: "pause" } });
    }
    this.#become(this.#finishAt === null ? "live" : "finishing");
    this.#tick();
  }

  /** Every frame that was under way behind a hole earns the same error: one answer to all of them. */
  #fill(expected: number): void {
    const now = this.world.now();
    if (this.#hole.expected === expected && now - this.#hole.at < 1) return;
    this.#hole = { expected, at: now };
    this.buffer.rewind(expected);
    this.#finishSaid = false;
  }

  #pace(): void {
    this.#catchingUp = this.buffer.sent < this.buffer.written;
    this.#allowance = BURST_S * CATCH_UP * BYTES_PER_SECOND;
    this.#allowedAt = this.world.now();
  }

  #tick(): void {
    this.#timer(TICK_S, () => {
      const now = this.world.now();
      const quietS = now - this.heardAt;
      if (this.#pingedAt && now - this.#pingedAt > QUIET_S) {
        this.#closed(null);
        return;
      }
      if (!this.#pingedAt && quietS > Math.min(QUIET_S, this.#heartbeatS)) {
        this.#pingedAt = now;
        this.#socket?.send(JSON.stringify({ type: "ping", t: Math.round(now * 1000) }));
      }
      this.#pump();
      if (this.#socket) this.#tick();
    });
  }

  #pump(): void {
    const socket = this.#socket;
    while (socket && socket === this.#socket && this.#greeted && socket.bufferedAmount < QUEUED_MAX_BYTES) {
      const control = this.#controls[0];
      if (control && control.at <= this.buffer.sent) {
        this.#controls.shift();
        socket.send(JSON.stringify(control.message));
        continue;
      }
      if (this.buffer.peek()) {
        if (!this.#sendAudio(socket)) return;
        continue;
      }
      this.#catchingUp = false;
      if (this.#finishAt !== null && !this.#finishSaid) {
        this.#finishSaid = true;
        socket.send(JSON.stringify({ type: "finish", offset: this.#finishAt }));
      }
      return;
    }
  }

  /** Send the next piece if it may go now. */
  #sendAudio(socket: SocketLike): boolean {
    const piece = this.buffer.peek()!;
    const buffer = this.buffer;
    if (this.state === "hold" || this.#reading) return false;
    if (!piece.gap && piece.end - buffer.acked > this.#windowBytes && buffer.sent > buffer.acked) return false;
    const bytes = piece.gap ? 0 : piece.end - piece.start;
    if (this.#catchingUp && !this.#mayCatchUp(bytes)) return false;
    if (piece.gap) {
      socket.send(JSON.stringify({ type: "gap", from: piece.start, to: piece.end }));
    } else if (piece.audio) {
      socket.send(frame(piece.start, piece.audio));
    } else {
      this.#fetch(piece.start, piece.end);
      return false;
    }
    this.#allowance -= bytes;
    buffer.advance();
    return true;
  }

  #mayCatchUp(bytes: number): boolean {
    const now = this.world.now();
    const rate = CATCH_UP * BYTES_PER_SECOND;
    this.#allowance = Math.min(BURST_S * rate, this.#allowance + (now - this.#allowedAt) * rate);
    this.#allowedAt = now;
    return this.#allowance >= bytes;
  }

  #fetch(start: number, end: number): void {
    this.#reading = true;
    this.world
      .read(start, end)
      .then(
        (audio) => this.buffer.fill(start, audio),
        () => this.buffer.forfeit(start),
      )
      .finally(() => {
        this.#reading = false;
        this.#pump();
      });
  }

  #closed(code: number | null): void {
    const greeted = this.#greeted;
    this.#drop();
    if (!this.#wanted || this.isOver) return;
    const fault = this.fault ?? { error: "disconnected", message: "The connection broke off." };
    if (code === TAKEN_OVER) this.#end("taken_over", fault);
    else if (this.resume && (fault.error === "Session expired" || code === NOT_FOUND)) this.#end("lost", fault);
    else if (code === UNAUTHORIZED && this.#renew && !greeted) this.#end("refused", fault);
    else if (code === UNAUTHORIZED) {
      this.#renew = true;
      this.#again(fault);
    } else if ((code !== null && FINAL_CLOSES.has(code)) || (fault.fatal && !fault.retryable)) this.#end("refused", fault);
    else this.#again(fault);
  }

  #again(fault: Fault): void {
    this.fault = fault;
    const waitS = this.#backoff.lost(fault.retry_after);
    if (waitS === null) {
      this.#become("gave_up");
      return;
    }
    this.nextTryAt = this.world.now() + waitS;
    this.#timer(waitS, () => void this.#connect());
    this.#become("waiting");
  }

  #end(phase: Phase, fault: Fault | null): void {
    this.#drop();
    this.fault = fault;
    this.#become(phase);
  }

  #drop(): void {
    this.#stopTimer();
    this.#attempt += 1;
    this.#greeted = false;
    this.#pingedAt = 0;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #timer(seconds: number, then: () => void): void {
    this.#stopTimer();
    this.#stopTimer = this.world.after(seconds, then);
  }

  #become(phase: Phase): void {
    this.phase = phase;
    this.hooks.changed();
  }
}
