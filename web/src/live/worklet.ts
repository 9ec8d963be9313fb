/** Runs on the audio thread: mixes down, resamples to 16 kHz where need be, hands out 100 ms of s16le at a time. */

import { Resampler, mono, pcm } from "./resampler.ts";
import { SAMPLE_RATE_HZ } from "./wire.ts";

declare const sampleRate: number;
declare function registerProcessor(name: string, processor: new () => AudioWorkletProcessor): void;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}

const FRAME_SAMPLES = SAMPLE_RATE_HZ / 10;

class Capture extends AudioWorkletProcessor {
  #resampler = sampleRate === SAMPLE_RATE_HZ ? null : new Resampler(sampleRate, SAMPLE_RATE_HZ);
  #frame = new Float32Array(FRAME_SAMPLES);
  #filled = 0;

  constructor() {
    super();
    this.port.onmessage = () => {
      // The end: what is left of a frame, then word that this was all.
      if (this.#filled) this.#post();
      this.port.postMessage({ end: true });
    };
  }

  process(inputs: Float32Array[][]): boolean {
    const samples = mono(inputs[0] ?? []);
    this.#take(this.#resampler && samples.length ? this.#resampler.push(samples) : samples);
    return true;
  }

  #take(samples: Float32Array): void {
    let from = 0;
    while (from < samples.length) {
      const part = samples.subarray(from, from + FRAME_SAMPLES - this.#filled);
      this.#frame.set(part, this.#filled);
      this.#filled += part.length;
      from += part.length;
      if (this.#filled === FRAME_SAMPLES) this.#post();
    }
  }

  #post(): void {
    const samples = this.#frame.subarray(0, this.#filled);
    const level = Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
    const audio = pcm(samples);
    this.port.postMessage({ audio, level }, [audio.buffer]);
    this.#filled = 0;
  }
}

registerProcessor("capture", Capture);
