/** A world for the live socket in which time passes when the test says so, and the platform is a script. */

import { AudioBuffer, NO_SPOOL, type Spool } from "../src/live/buffer.ts";
import { LiveSocket, type Resume, type SocketLike, type World } from "../src/live/socket.ts";
import type { ServerEvent } from "../src/live/wire.ts";

export class FakeSocket implements SocketLike {
  binaryType = "";
  bufferedAmount = 0;
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: unknown }) => void) | null = null;
  onclose: ((close: { code: number }) => void) | null = null;
  sent: (string | Uint8Array)[] = [];
  isClosed = false;

  send(data: string | Uint8Array): void {
    this.sent.push(data);
  }

  close(): void {
    this.isClosed = true;
  }

  /** What was said in text, parsed. */
  get said(): Record<string, unknown>[] {
    return this.sent.filter((one) => typeof one === "string").map((one) => JSON.parse(one));
  }

  /** Offset and length of each audio frame. */
  get audio(): [number, number][] {
    return this.sent
      .filter((one) => one instanceof Uint8Array)
      .map((one) => [Number(new DataView(one.buffer, one.byteOffset).getBigUint64(0)), one.length - 8]);
  }

  tell(event: object): void {
    this.onmessage?.({ data: JSON.stringify(event) });
  }
}

export class Scene {
  time = 0;
  sockets: FakeSocket[] = [];
  renewals: boolean[] = [];
  heard: ServerEvent[] = [];
  refuse: Error | null = null;
  readonly buffer: AudioBuffer;
  readonly live: LiveSocket;
  #timers: { at: number; then: () => void }[] = [];

  constructor(options: { resume?: Resume; memory?: number; spool?: Spool } = {}) {
    this.buffer = new AudioBuffer(options.memory ?? 10_000_000, options.spool ?? NO_SPOOL);
    const world: World = {
      open: () => {
        const socket = new FakeSocket();
        this.sockets.push(socket);
        return socket;
      },
      token: (renew) => {
        this.renewals.push(renew);
        return this.refuse ? Promise.reject(this.refuse) : Promise.resolve("token");
      },
      now: () => this.time,
      after: (seconds, then) => {
        const timer = { at: this.time + seconds, then };
        this.#timers.push(timer);
        return () => void (this.#timers = this.#timers.filter((one) => one !== timer));
      },
      draw: () => 1,
      read: (start, end) => (options.spool ?? NO_SPOOL).read(start, end),
    };
    const hooks = { heard: (event: ServerEvent) => void this.heard.push(event), changed: () => {} };
    this.live = new LiveSocket(world, hooks, this.buffer, { title: "T" }, options.resume ?? null);
  }

  get socket(): FakeSocket {
    return this.sockets.at(-1)!;
  }

  /** Let promises settle. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
  }

  async pass(seconds: number): Promise<void> {
    const until = this.time + seconds;
    for (;;) {
      await this.settle();
      const due = this.#timers.filter((one) => one.at <= until).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.time = Math.max(this.time, due.at);
      this.#timers = this.#timers.filter((one) => one !== due);
      due.then();
    }
    this.time = until;
    await this.settle();
  }

  /** Connect and be greeted. */
  async greet(greeting: object = {}): Promise<void> {
    await this.settle();
    this.socket.onopen?.();
    this.socket.tell({
      type: "started", event: 1, session_id: "s", meeting_id: "m", resume_token: "r1", offset: 0,
      window_bytes: 1_000_000, heartbeat_s: 20, ...greeting,
    }); // prettier-ignore
    await this.settle();
  }

  speak(bytes: number): void {
    this.buffer.write(new Uint8Array(bytes));
    this.live.nudge();
  }

  drop(code: number): void {
    this.socket.onclose?.({ code });
  }
}
