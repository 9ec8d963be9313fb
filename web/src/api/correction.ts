/** What a person wants to be another in a segment. */

import type { Segment } from "../live/wire.ts";

/** What a person wants of a segment. Fields that stay are not there; null: as it was heard. */
export interface Correction {
  text?: string | null;
  speaker?: string | null;
  /** The speaker's name counts for all that this speaker said, and is yet to say. */
  everywhere: boolean;
}

/** What of the fields is another than it was; null if nothing is. */
export function wanted(segment: Segment, text: string, speaker: string, everywhere: boolean): Correction | null {
  const correction: Correction = { everywhere };
  if (text && text !== segment.text) correction.text = text;
  if (speaker && speaker !== (segment.speaker ?? "")) correction.speaker = speaker;
  return "text" in correction || "speaker" in correction ? correction : null;
}
