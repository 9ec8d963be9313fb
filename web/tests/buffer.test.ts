import assert from "node:assert/strict";
import { test } from "node:test";
import { AudioBuffer } from "../src/live/buffer.ts";

const frame = (start: number, bytes: number) => Uint8Array.from({ length: bytes }, (_, at) => (start + at) % 251);

test("beyond memory the spool keeps it, beyond the spool it is a gap", () => {
  const kept = new Set<number>();
  const spool = { has: (start: number) => kept.has(start), read: () => Promise.reject(new Error()) };
  const buffer = new AudioBuffer(1000, spool);
  for (let at = 0; at < 30; at += 1) {
    kept.add(at * 100);
    buffer.write(frame(at * 100, 100));
  }
  assert.ok(buffer.memoryBytes <= 1000, String(buffer.memoryBytes));
  assert.equal(buffer.droppedBytes, 0);
  kept.clear();
  const alone = new AudioBuffer(1000, spool);
  for (let at = 0; at < 30; at += 1) alone.write(frame(at * 100, 100));
  assert.equal(alone.memoryBytes, 2000);
  assert.equal(alone.droppedBytes, 1000);
  assert.equal(alone.written, 3000);
});

test("a platform that lost what it acknowledged is told of the gap", () => {
  const buffer = new AudioBuffer(1000);
  buffer.write(frame(0, 300));
  buffer.advance();
  buffer.acknowledge(300);
  buffer.rewind(100);
  assert.deepEqual(buffer.peek(), { start: 100, end: 300, audio: null, gap: true });
});

test("whatever happens, what is sent is the stream, each byte at its place", () => {
  // A linear congruential generator: the same run each time.
  let seed = 42;
  const draw = (below: number) => (seed = (seed * 1103515245 + 12345) % 2 ** 31) % below;
  const buffer = new AudioBuffer(1_000_000);
  let durable = 0;
  let reached = 0; // on any connection
  for (let step = 0; step < 20_000; step += 1) {
    switch (draw(5)) {
      case 0:
      case 1:
        buffer.write(frame(buffer.written, 1 + draw(50)));
        break;
      case 2:
      case 3: {
        const piece = buffer.peek();
        if (!piece) break;
        assert.equal(piece.start, buffer.sent);
        assert.deepEqual(piece.audio, frame(piece.start, piece.end - piece.start));
        buffer.advance();
        reached = Math.max(reached, buffer.sent);
        break;
      }
      case 4:
        if (draw(2)) {
          // What an earlier connection carried may arrive late.
          durable = buffer.acked + draw((draw(4) ? buffer.sent : reached) - buffer.acked + 1);
          buffer.acknowledge(durable);
        } else {
          buffer.rewind(buffer.acked + draw(buffer.sent - buffer.acked + 1));
        }
        break;
    }
    assert.ok(buffer.acked <= buffer.sent && buffer.sent <= buffer.written);
  }
  assert.equal(buffer.droppedBytes, 0);
  while (buffer.peek()) buffer.advance();
  buffer.acknowledge(buffer.written);
  assert.equal(buffer.memoryBytes, 0);
});
