import assert from "node:assert/strict";
import { test } from "node:test";
import { RefusedLogin } from "../src/live/socket.ts";
import { Scene } from "./world.ts";

const RESTORED = { type: "session_restored", event: 1, segments: [], resume_token: "r2" };

test("start comes first, audio after the greeting, with offsets", async () => {
  const scene = new Scene();
  scene.live.open();
  scene.speak(3200);
  await scene.greet();
  scene.speak(3200);
  assert.deepEqual(scene.socket.said[0], { type: "start", token: "token", title: "T" });
  assert.deepEqual(scene.socket.audio, [[0, 3200], [3200, 3200]]);
  assert.equal(scene.live.phase, "live");
});

test("what is not acknowledged is sent again from where the platform asks, on the next connection", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  for (let at = 0; at < 4; at += 1) scene.speak(3200);
  scene.socket.tell({ type: "ack", offset: 6400, stored_offset: 0 });
  scene.drop(1012);
  assert.equal(scene.live.phase, "waiting");
  scene.speak(3200);
  await scene.pass(0);
  await scene.greet({ ...RESTORED, offset: 8000 });
  assert.deepEqual(scene.socket.said[0], {
    type: "start", token: "token", resume: { session_id: "s", resume_token: "r1", last_event: 1 },
  }); // prettier-ignore
  assert.deepEqual(scene.socket.audio, [[8000, 1600], [9600, 3200], [12800, 3200]]);
  assert.equal(scene.live.resume?.resume_token, "r2");
  assert.equal(scene.live.reconnects, 1);
});

test("the first try is at once, the next ones with growing jitter, and after ten it gives up and says so", async () => {
  const scene = new Scene();
  scene.live.open();
  const waits: number[] = [];
  for (let failure = 0; failure < 10; failure += 1) {
    await scene.settle();
    scene.drop(1006);
    waits.push(scene.live.nextTryAt - scene.time);
    if (scene.live.phase === "waiting") await scene.pass(waits.at(-1)!);
  }
  assert.deepEqual(waits.slice(0, 8), [0, 0.25, 0.5, 1, 2, 4, 8, 10]);
  assert.equal(scene.live.phase, "gave_up");
  assert.equal(scene.sockets.length, 10);
  scene.live.retry();
  await scene.greet();
  assert.equal(scene.live.phase, "live");
});

test("three connections that live under five seconds each are enough", async () => {
  const scene = new Scene();
  scene.live.open();
  for (let life = 0; life < 3; life += 1) {
    await scene.greet(life ? { ...RESTORED, offset: 0 } : {});
    await scene.pass(1);
    scene.drop(1011);
    if (life < 2) await scene.pass(1);
  }
  assert.equal(scene.live.phase, "gave_up");
});

test("the platform's own wait wins", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  scene.socket.tell({ type: "error", error: "service_unavailable", fatal: true, retryable: true, retry_after: 7 });
  scene.drop(1013);
  assert.equal(scene.live.nextTryAt - scene.time, 7);
});

test("who was taken over does not come back", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  scene.socket.tell({ type: "error", error: "conflict", fatal: true, retryable: false });
  scene.drop(4409);
  await scene.pass(60);
  assert.equal(scene.live.phase, "taken_over");
  assert.equal(scene.sockets.length, 1);
});

test("a refused token is renewed once; a second refusal is the end", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.settle();
  scene.drop(4401);
  await scene.pass(0);
  assert.deepEqual(scene.renewals, [false, true]);
  scene.drop(4401);
  assert.equal(scene.live.phase, "refused");
});

test("a login that ended in the midst is renewed and the session resumed", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  for (let minute = 0; minute < 225; minute += 1) {
    await scene.pass(4);
    scene.socket.tell({ type: "pong" });
  }
  assert.equal(scene.sockets.length, 1);
  scene.drop(4401);
  await scene.pass(0);
  await scene.greet({ ...RESTORED, offset: 0 });
  assert.equal(scene.live.phase, "live");
});

test("without a login there is no trying", async () => {
  const scene = new Scene();
  scene.refuse = new RefusedLogin("signed out");
  scene.live.open();
  await scene.settle();
  assert.equal(scene.live.phase, "refused");
});

test("an auth path that is down is no refusal", async () => {
  const scene = new Scene();
  scene.refuse = new TypeError("fetch failed");
  scene.live.open();
  await scene.settle();
  assert.equal(scene.live.phase, "waiting");
  scene.refuse = null;
  await scene.pass(1);
  await scene.greet();
  assert.equal(scene.live.phase, "live");
});

test("a session that the platform no longer knows is lost", async () => {
  const scene = new Scene({ resume: { session_id: "s", meeting_id: "m", resume_token: "r" } });
  scene.live.open();
  await scene.settle();
  scene.socket.onopen?.();
  scene.socket.tell({ type: "session_not_found", error: "Session expired", fatal: true });
  scene.drop(4404);
  assert.equal(scene.live.phase, "lost");
});

test("on hold nothing is sent, afterwards the backlog goes at eight times real time", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  scene.socket.tell({ type: "status", state: "hold", reason: "broker", lag_s: 0 });
  for (let at = 0; at < 200; at += 1) scene.speak(3200);
  assert.equal(scene.socket.audio.length, 0);
  scene.socket.tell({ type: "status", state: "ok", lag_s: 0 });
  const atOnce = scene.socket.audio.length;
  assert.ok(atOnce >= 79 && atOnce <= 81, String(atOnce));
  scene.socket.tell({ type: "ack", offset: 80 * 3200, stored_offset: 0 });
  await scene.pass(1);
  assert.ok(Math.abs(scene.socket.audio.length - 160) <= 10, String(scene.socket.audio.length));
});

test("no more than the window is under way", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet({ window_bytes: 10_000 });
  for (let at = 0; at < 10; at += 1) scene.speak(3200);
  assert.equal(scene.socket.audio.length, 3);
  scene.socket.tell({ type: "ack", offset: 6400, stored_offset: 0 });
  assert.equal(scene.socket.audio.length, 5);
});

test("a hole is filled once, however often it is told", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  for (let at = 0; at < 3; at += 1) scene.speak(3200);
  const hole = { type: "error", error: "offset_gap", expected: 3200, fatal: false };
  scene.socket.tell(hole);
  scene.socket.tell(hole);
  assert.deepEqual(scene.socket.audio.map(([offset]) => offset), [0, 3200, 6400, 3200, 6400]);
});

test("a connection that fell silent is given up, one that answers is not", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  await scene.pass(5.5);
  assert.equal(scene.socket.said.at(-1)?.type, "ping");
  scene.socket.tell({ type: "pong", t: 1 });
  await scene.pass(4);
  assert.equal(scene.sockets.length, 1);
  await scene.pass(8);
  assert.equal(scene.sockets.length, 2);
  assert.ok(scene.sockets[0]!.isClosed);
});

test("pause is told behind the audio before it, and again on the next connection", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  scene.speak(3200);
  scene.live.say({ type: "pause" });
  assert.equal(scene.socket.said.at(-1)?.type, "pause");
  scene.drop(1012);
  await scene.pass(0);
  await scene.greet({ ...RESTORED, offset: 3200 });
  assert.equal(scene.socket.said.at(-1)?.type, "pause");
  scene.live.say({ type: "unpause" });
  assert.equal(scene.socket.said.at(-1)?.type, "unpause");
});

test("finish waits for all audio, and is said again after a reconnect", async () => {
  const scene = new Scene();
  scene.live.open();
  scene.speak(3200);
  scene.live.finish();
  await scene.greet();
  assert.deepEqual(scene.socket.said.at(-1), { type: "finish", offset: 3200 });
  scene.drop(1011);
  await scene.pass(0);
  await scene.greet({ ...RESTORED, offset: 0 });
  assert.deepEqual(scene.socket.audio, [[0, 3200]]);
  assert.deepEqual(scene.socket.said.at(-1), { type: "finish", offset: 3200 });
  scene.socket.tell({ type: "finished", event: 9, meeting_id: "m", segments: 0, coverage: 1 });
  assert.equal(scene.live.phase, "finished");
  assert.equal(scene.heard.at(-1)?.type, "finished");
});

test("what a page before us kept is read back and sent; what it did not keep is told as a gap", async () => {
  const kept = new Uint8Array(6400).fill(7);
  const spool = { has: () => true, read: (start: number, end: number) => Promise.resolve(kept.slice(start, end)) };
  const scene = new Scene({ resume: { session_id: "s", meeting_id: "m", resume_token: "r" }, spool });
  scene.buffer.restore(0, 9600, [{ start: 0, end: 6400 }]);
  scene.live.open();
  await scene.greet({ ...RESTORED, offset: 3200 });
  await scene.settle();
  assert.deepEqual(scene.socket.audio, [[3200, 3200]]);
  assert.deepEqual(scene.socket.said.at(-1), { type: "gap", from: 6400, to: 9600 });
});

test("a platform that has more than the page before us kept goes on from there", async () => {
  const scene = new Scene({ resume: { session_id: "s", meeting_id: "m", resume_token: "r" } });
  scene.buffer.restore(3200, 6400, []);
  scene.live.open();
  await scene.greet({ ...RESTORED, offset: 8000 });
  scene.speak(3200);
  assert.deepEqual(scene.socket.audio, [[8000, 3200]]);
});

test("a platform that acknowledges what was never sent is not believed", async () => {
  const scene = new Scene();
  scene.live.open();
  await scene.greet();
  scene.socket.tell({ type: "ack", offset: 1, stored_offset: 0 });
  assert.equal(scene.live.phase, "refused");
});
