import assert from "node:assert/strict";
import { test } from "node:test";
import { Resampler, mono, pcm } from "../src/live/resampler.ts";
import { frame } from "../src/live/wire.ts";

/** Push a tone through in blocks of an audio worklet; give RMS and frequency of what comes out (by zero crossings). */
function heard(fromHz: number, toneHz: number): { rms: number; hz: number; samples: number } {
  const resampler = new Resampler(fromHz, 16_000);
  const out: number[] = [];
  const seconds = 1;
  for (let block = 0; block < (seconds * fromHz) / 128; block += 1) {
    const samples = Float32Array.from({ length: 128 }, (_, at) =>
      Math.sin((2 * Math.PI * toneHz * (128 * block + at)) / fromHz),
    );
    out.push(...resampler.push(samples));
  }
  const steady = out.slice(2000, -2000);
  let crossings = 0;
  for (let at = 1; at < steady.length; at += 1) if (steady[at - 1]! < 0 && steady[at]! >= 0) crossings += 1;
  const rms = Math.sqrt(steady.reduce((sum, one) => sum + one * one, 0) / steady.length);
  return { rms, hz: (crossings * 16_000) / steady.length, samples: out.length };
}

for (const fromHz of [44_100, 48_000, 8_000, 96_000]) {
  test(`a tone from ${fromHz} Hz keeps its pitch, level and length`, () => {
    const { rms, hz, samples } = heard(fromHz, 1000);
    assert.ok(Math.abs(hz - 1000) < 3, String(hz));
    assert.ok(Math.abs(rms - Math.SQRT1_2) < 0.01, String(rms));
    assert.ok(Math.abs(samples - 16_000) < 250, String(samples));
  });
}

test("what is above half the rate is damped, not folded back", () => {
  assert.ok(heard(48_000, 12_000).rms < 0.01);
  assert.ok(heard(44_100, 9_500).rms < 0.02);
});

test("channels are mixed down", () => {
  assert.deepEqual([...mono([Float32Array.of(1, 0), Float32Array.of(0, 1)])], [0.5, 0.5]);
  assert.equal(mono([]).length, 0);
});

test("samples are s16le and clipped", () => {
  assert.deepEqual([...pcm(Float32Array.of(0, 1, -1, 2, -2))], [0, 0, 255, 127, 0, 128, 255, 127, 0, 128]);
});

test("a frame is eight bytes of offset and the audio", () => {
  assert.deepEqual([...frame(258, Uint8Array.of(9))], [0, 0, 0, 0, 0, 0, 1, 2, 9]);
  assert.equal(new DataView(frame(2 ** 40, Uint8Array.of()).buffer).getBigUint64(0), 2n ** 40n);
});
