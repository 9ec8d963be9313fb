import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser } from "../src/api/events.ts";
import { clock, describe, gapWords, type Standing } from "../src/live/words.ts";

const LIVE: Standing = {
  phase: "live", state: "ok", reason: "", fault: null, fresh: true, paused: false, waitingBytes: 3200, droppedBytes: 0,
  nextTryInS: 0, online: true, silent: "",
}; // prettier-ignore

test("live is said only of a connection that was heard a moment ago", () => {
  assert.equal(describe(LIVE).title, "Live");
  for (const stale of [{ fresh: false }, { phase: "waiting" as const }, { phase: "connecting" as const }, { state: "hold" as const }]) {
    assert.doesNotMatch(describe({ ...LIVE, ...stale }).title, /live/i);
  }
});

test("audio that waits is counted in seconds, and that it is safe is said", () => {
  const waiting = { ...LIVE, phase: "waiting" as const, waitingBytes: 12 * 32_000 };
  assert.match(describe(waiting).detail, /^12 s of audio waiting, nothing lost\./);
  assert.match(describe({ ...waiting, online: false }).title, /offline/);
  assert.match(describe({ ...waiting, droppedBytes: 64_000 }).detail, /2\.0 s had to be dropped/);
});

test("giving up is said, with what is kept", () => {
  const { title, detail } = describe({ ...LIVE, phase: "gave_up", waitingBytes: 320_000 });
  assert.match(title, /given up/);
  assert.match(detail, /10 s of audio waiting/);
});

test("drafts, pauses and silence have their words", () => {
  assert.equal(describe({ ...LIVE, state: "degraded", reason: "embedded_engine" }).title, "Live, with drafts");
  assert.equal(describe({ ...LIVE, paused: true }).title, "Paused");
  assert.equal(describe({ ...LIVE, silent: "No microphone." }).detail, "No microphone.");
});

test("times and gaps", () => {
  assert.deepEqual([clock(7.9), clock(187), clock(3729)], ["0:07", "3:07", "1:02:09"]);
  assert.match(gapWords(3, 5.5, "client_missing"), /^2\.5 s missing/);
});

test("server-sent events come in pieces, cut anywhere", () => {
  const text = ": ping\n\nretry: 1000\n\nid: 7\nevent: segment\ndata: {\"a\":1}\n\ndata: x\r\ndata: y\r\n\r\n";
  const whole = new EventParser().feed(text);
  assert.deepEqual(whole, [{ id: "7", data: '{"a":1}' }, { id: "", data: "x\ny" }]);
  const parser = new EventParser();
  const lines = text.replaceAll("\r\n", "\n");
  assert.deepEqual([...lines].flatMap((one) => parser.feed(one)), whole);
});
