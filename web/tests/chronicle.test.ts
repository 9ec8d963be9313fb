import assert from "node:assert/strict";
import { test } from "node:test";
import { Chronicle } from "../src/live/chronicle.ts";

const texts = (chronicle: Chronicle) => chronicle.happenings.map(({ text }) => text);

test("drafts that heal one after another are one line that counts", () => {
  const chronicle = new Chronicle();
  chronicle.healed();
  chronicle.healed();
  chronicle.add("Connected again");
  chronicle.healed();
  assert.deepEqual(texts(chronicle), ["2 drafts healed", "Connected again", "1 draft healed"]);
});

test("a state is told when it changes, and that all is well only after it was not", () => {
  const chronicle = new Chronicle();
  for (const state of ["ok", "degraded", "degraded", "ok"] as const) chronicle.state(state);
  assert.deepEqual(texts(chronicle), ["Drafts are written now and heal later", "The speech service writes again"]);
});

test("a gap is told with its place, its length and the reason, once", () => {
  const chronicle = new Chronicle();
  chronicle.gap({ start: 62, end: 64.5, reason: "client_missing" });
  chronicle.gap({ start: 62, end: 64.5, reason: "client_missing" });
  assert.equal(chronicle.happenings.length, 1);
  assert.match(texts(chronicle)[0]!, /^At 1:02: 2\.5 s missing/);
});

test("the oldest lines go when there are too many", () => {
  const chronicle = new Chronicle();
  for (let at = 0; at < 300; at += 1) chronicle.add(`${at}`);
  assert.equal(chronicle.happenings.length, 200);
  assert.equal(texts(chronicle).at(-1), "299");
});
