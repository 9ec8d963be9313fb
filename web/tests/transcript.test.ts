import assert from "node:assert/strict";
import { test } from "node:test";
import { Transcript } from "../src/live/transcript.ts";
import type { Segment } from "../src/live/wire.ts";

const said = (index: number, text: string, more: Partial<Segment> = {}) => ({
  type: "segment" as const, id: `${index}`, session_id: "s", index, revision: 1, speaker: null, start: index * 2,
  end: index * 2 + 1, text, engine: "e", quality: "final" as const, ...more,
}); // prettier-ignore
const partial = (index: number, text: string, session_id?: string) =>
  ({ type: "partial" as const, index, text, start: 0, end: 1, stable_chars: 0, ...(session_id ? { session_id } : {}) });
const words = (transcript: Transcript) => transcript.tails.map((tail) => tail.text);
const texts = (transcript: Transcript) =>
  transcript.rows.map((row) => (row.kind === "gap" ? `[${row.gap.reason}]` : row.segment.text));

test("segments are appended, repeats change nothing", () => {
  const transcript = new Transcript();
  assert.equal(transcript.apply(said(0, "one"))?.type, "add");
  assert.equal(transcript.apply(said(0, "one")), null);
  transcript.apply(said(1, "two"));
  assert.deepEqual(texts(transcript), ["one", "two"]);
});

test("a draft is replaced in its place, and an older revision never comes back", () => {
  const transcript = new Transcript();
  transcript.apply(said(0, "draft", { quality: "draft" }));
  transcript.apply(said(1, "two"));
  assert.equal(transcript.drafts, 1);
  const change = transcript.apply({ ...said(0, "healed"), type: "revised", revision: 2 });
  assert.ok(change?.type === "replace" && change.wasDraft);
  assert.equal(transcript.apply(said(0, "draft", { quality: "draft" })), null);
  assert.deepEqual(texts(transcript), ["healed", "two"]);
  assert.equal(transcript.drafts, 0);
});

test("a segment without text has no row until a revision gives it some, and loses it again", () => {
  const transcript = new Transcript();
  assert.equal(transcript.apply(said(0, "", { quality: "draft" })), null);
  transcript.apply(said(1, "two"));
  const change = transcript.apply(said(0, "late", { revision: 2 }));
  assert.ok(change?.type === "add" && change.before === "s/1");
  assert.deepEqual(texts(transcript), ["late", "two"]);
  assert.equal(transcript.apply(said(0, "", { revision: 3 }))?.type, "remove");
  assert.deepEqual(texts(transcript), ["two"]);
});

test("sessions and gaps lie in the order of time, each gap once", () => {
  const transcript = new Transcript();
  transcript.apply(said(0, "a"));
  transcript.apply(said(1, "c"));
  transcript.apply(said(0, "b", { session_id: "t", start: 1 }));
  const gap = { type: "gap" as const, start: 1.5, end: 2, reason: "client_missing" };
  transcript.apply(gap);
  assert.equal(transcript.apply(gap), null);
  assert.deepEqual(texts(transcript), ["a", "b", "[client_missing]", "c"]);
});

test("there is one tail for each session, and what is confirmed is no tail any more", () => {
  const transcript = new Transcript();
  transcript.apply(partial(0, "hel"));
  transcript.apply(partial(0, "hello"));
  assert.deepEqual(words(transcript), ["hello"]);
  transcript.apply(said(0, "Hello."));
  assert.deepEqual(words(transcript), []);
  transcript.apply(partial(0, "late"));
  assert.deepEqual(words(transcript), []);
  transcript.apply(partial(1, "x", "s"));
  transcript.apply(partial(0, "y", "t"));
  assert.deepEqual(words(transcript), ["x", "y"]);
  transcript.apply(said(1, "X."));
  assert.deepEqual(words(transcript), ["y"]);
});
