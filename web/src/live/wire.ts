/** The live protocol as types and bytes (docs/protocol.md): frames, messages, what close codes mean. */

export const SAMPLE_RATE_HZ = 16_000;
export const BYTES_PER_SECOND = 2 * SAMPLE_RATE_HZ;

export const TAKEN_OVER = 4409;
export const UNAUTHORIZED = 4401;
export const NOT_FOUND = 4404;
/** Closes after which the same session is not worth another try. */
export const FINAL_CLOSES: ReadonlySet<number> = new Set([1009, 4400, 4403, NOT_FOUND, TAKEN_OVER]);

export interface Segment {
  id: string;
  session_id: string;
  index: number;
  revision: number;
  speaker: string | null;
  /** Seconds: from the start of the session on the socket, of the meeting everywhere else. */
  start: number;
  end: number;
  text: string;
  engine: string;
  quality: "draft" | "final";
  /** What a change names; the same as `revision`. */
  version?: number;
  /** Fields that hold a person's words. */
  edited?: ("text" | "speaker")[];
  /** What was heard, where something else is shown. */
  heard?: { text: string | null; speaker: string | null };
}

/** Whether a segment is to be shown as a draft: what a person wrote is none. */
export function isDraft(segment: Segment): boolean {
  return segment.quality === "draft" && !segment.edited?.includes("text");
}

export interface Gap {
  session_id?: string;
  start: number;
  end: number;
  reason: string;
}

export interface PartialText {
  session_id?: string;
  speaker?: string | null;
  index: number;
  start: number;
  end: number;
  text: string;
  stable_chars: number;
}

export interface Fault {
  error: string;
  message?: string;
  fatal?: boolean;
  retryable?: boolean;
  /** Seconds. */
  retry_after?: number;
  expected?: number;
}

export interface Greeting {
  session_id: string;
  meeting_id: string;
  resume_token: string;
  /** Send from here. */
  offset: number;
  window_bytes?: number;
  heartbeat_s?: number;
}

export interface Finished {
  meeting_id: string;
  segments: number;
  audio_seconds: number;
  gap_seconds: number;
  draft_segments: number;
  coverage: number | null;
}

export type State = "ok" | "degraded" | "hold" | "catching_up" | "draining";

/** What the platform says. `event` numbers those that are not repeated. */
export type ServerEvent = { event?: number } & (
  | ({ type: "started" } & Greeting)
  | ({ type: "session_restored"; segments: (Segment & { event?: number })[]; gaps?: Gap[] } & Greeting)
  | ({ type: "session_not_found" } & Fault)
  | { type: "ack"; offset: number; stored_offset: number }
  | ({ type: "partial" } & PartialText)
  | ({ type: "segment" | "revised" } & Segment)
  | ({ type: "gap" } & Gap)
  | { type: "status"; state: State; reason?: string; lag_s: number }
  | ({ type: "error" } & Fault)
  | ({ type: "finished" } & Finished)
  | { type: "pong"; t?: number | null }
);

export interface StartFields {
  title?: string;
  meeting_id?: string;
  language?: string;
  speaker?: string;
}

/** Return a binary frame: the byte offset of the first audio byte in the session's stream, then the audio. */
export function frame(offset: number, audio: Uint8Array): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(8 + audio.length);
  new DataView(whole.buffer).setBigUint64(0, BigInt(offset));
  whole.set(audio, 8);
  return whole;
}

/** Return a text frame as an event; null for what is none. */
export function parsed(text: unknown): ServerEvent | null {
  if (typeof text !== "string") return null;
  try {
    const event: unknown = JSON.parse(text);
    const named = typeof event === "object" && event !== null && "type" in event && typeof event.type === "string";
    return named ? (event as ServerEvent) : null;
  } catch {
    return null;
  }
}
