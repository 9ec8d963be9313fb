import type { Meeting } from "../api/calls.ts";

/** What each status is called, in the order in which they can be chosen. */
export const STATUS_WORDS: Record<Meeting["status"], string> = {
  live: "Live",
  processing: "Being transcribed",
  completed: "Complete",
  failed: "Failed",
  created: "Empty",
};

/** How a meeting stands, in words that say how whole its transcript is. */
export function statusWords(one: Meeting): { words: string; tone: "good" | "busy" | "warn" | "bad" | "idle" } {
  const words = STATUS_WORDS[one.status];
  switch (one.status) {
    case "live":
      return { words, tone: "good" };
    case "processing":
      return { words, tone: "busy" };
    case "failed":
      return { words, tone: "bad" };
    case "created":
      return { words, tone: "idle" };
    case "completed":
      break;
  }
  if (one.healing_segments) return { words: `${one.healing_segments} drafts heal`, tone: "busy" };
  if (one.gap_seconds) return { words: `${one.gap_seconds.toFixed(0)} s missing`, tone: "warn" };
  if (one.coverage !== null && one.coverage < 0.995) {
    return { words: `${Math.floor(one.coverage * 100)} % covered`, tone: "warn" };
  }
  if (one.draft_segments) return { words: "Complete, as a draft", tone: "idle" };
  return { words, tone: "good" };
}
