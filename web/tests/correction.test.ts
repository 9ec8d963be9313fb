import assert from "node:assert/strict";
import { test } from "node:test";
import { wanted } from "../src/api/correction.ts";
import { Transcript } from "../src/live/transcript.ts";
import { isDraft, type Segment } from "../src/live/wire.ts";

const segment: Segment = {
  id: "1", session_id: "s", index: 0, revision: 1, speaker: null, start: 0, end: 1, text: "One too", engine: "e",
  quality: "draft",
}; // prettier-ignore

test("what was not changed is not sent, and what was emptied is not either", () => {
  assert.equal(wanted(segment, "One too", "", true), null);
  assert.equal(wanted(segment, "", "", true), null);
  assert.deepEqual(wanted(segment, "One two", "", true), { text: "One two", everywhere: true });
  assert.deepEqual(wanted(segment, "One too", "Ada", false), { speaker: "Ada", everywhere: false });
});

test("a draft that a person has corrected is none, and its healing is no news", () => {
  const transcript = new Transcript();
  transcript.apply({ type: "segment", ...segment });
  const corrected: Segment = { ...segment, revision: 2, text: "One two", edited: ["text"] };
  const change = transcript.apply({ type: "revised", ...corrected });
  assert.ok(change?.type === "replace" && change.wasDraft);
  assert.equal(isDraft(corrected), false);
  assert.equal(transcript.drafts, 0);
  const healed = transcript.apply({ type: "revised", ...corrected, revision: 3, quality: "final" });
  assert.ok(healed?.type === "replace" && !healed.wasDraft);
  assert.equal(transcript.segment("1")?.text, "One two");
});
