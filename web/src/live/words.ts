/** The state of a live meeting in plain words. Never "live" on stale data. */

import { BYTES_PER_SECOND, type Fault, type State } from "./wire.ts";
import type { Phase } from "./socket.ts";

export interface Standing {
  phase: Phase;
  state: State;
  reason: string;
  fault: Fault | null;
  /** Connected, and heard a moment ago. */
  fresh: boolean;
  paused: boolean;
  /** Bytes that are not acknowledged. */
  waitingBytes: number;
  droppedBytes: number;
  /** Until the next try. */
  nextTryInS: number;
  online: boolean;
  /** Why nothing is heard from the microphone; empty while it is. */
  silent: string;
}

export interface Words {
  tone: "good" | "busy" | "warn" | "bad" | "idle";
  /** A few words. */
  title: string;
  /** A sentence, or nothing. */
  detail: string;
}

/** What is under way is always a little: a network with 400 ms there and back is not worth a word. */
const WORTH_TELLING_S = 2;

export function describe(now: Standing): Words {
  const kept = waiting(now);
  switch (now.phase) {
    case "finished":
      return { tone: "idle", title: "Finished", detail: "" };
    case "taken_over":
      return { tone: "idle", title: "Goes on in another tab", detail: "This page has stopped listening." };
    case "lost":
      return {
        tone: "bad",
        title: "The meeting is closed",
        detail: "The server does not keep it open any more. What was said is in the library.",
      };
    case "refused":
      return { tone: "bad", title: "The server refused", detail: now.fault?.message ?? "" };
    case "gave_up":
      return {
        tone: "bad",
        title: "No connection: trying was given up",
        detail: `${now.fault?.message ?? ""} ${kept || "Recording goes on; this browser keeps it."}`.trim(),
      };
    case "left":
      return { tone: "idle", title: "Left", detail: "" };
    case "connecting":
      return { tone: "busy", title: "Connecting…", detail: kept };
    case "waiting":
      return {
        tone: "warn",
        title: now.online ? "Reconnecting…" : "You are offline",
        detail: `${kept || "Recording goes on; this browser keeps it."}${inSeconds(now.nextTryInS)}`,
      };
    case "finishing":
      return {
        tone: now.fresh ? "busy" : "warn",
        title: "Finishing",
        detail: now.waitingBytes ? kept : "The last words are being written down.",
      };
    case "live":
      return live(now, kept);
  }
}

function live(now: Standing, kept: string): Words {
  if (!now.fresh) return { tone: "warn", title: "The server has not answered for a while", detail: kept };
  if (now.state === "draining") return { tone: "busy", title: "Moving to another server", detail: kept };
  if (now.state === "hold") return { tone: "warn", title: "The server asks to wait", detail: kept };
  if (now.paused) return { tone: "idle", title: "Paused", detail: "Nothing is recorded." };
  if (now.silent) return { tone: "warn", title: "No sound", detail: now.silent };
  if (now.state === "degraded") {
    return { tone: "good", title: "Live, with drafts", detail: kept || degraded(now.reason) };
  }
  if (now.state === "catching_up" || kept) return { tone: "busy", title: "Catching up", detail: kept };
  return { tone: "good", title: "Live", detail: "" };
}

function degraded(reason: string): string {
  return reason === "embedded_engine"
    ? "The embedded engine writes; better words follow when the speech service is there."
    : "Drafts are written now and heal later.";
}

/** How much audio waits, and that it is safe; empty if it is next to nothing. */
function waiting(now: Standing): string {
  const seconds = now.waitingBytes / BYTES_PER_SECOND;
  const dropped = now.droppedBytes / BYTES_PER_SECOND;
  const lost = dropped ? `${dropped.toFixed(1)} s had to be dropped and are marked as a gap.` : "nothing lost.";
  if (seconds < WORTH_TELLING_S) return dropped ? lost : "";
  return `${Math.round(seconds)} s of audio waiting, ${lost}`;
}

function inSeconds(seconds: number): string {
  return seconds >= 1 ? ` Next try in ${Math.ceil(seconds)} s.` : "";
}

const GAPS: Record<string, string> = {
  client_missing: "was not recorded: this device could not keep it",
  undecodable: "could not be decoded",
};

/** What is told of a gap, with its length. */
export function gapWords(start: number, end: number, reason: string): string {
  return `${(end - start).toFixed(1)} s missing: ${GAPS[reason] ?? reason}`;
}

/** `3:07`, `1:02:09`. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value: number) => String(value).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
