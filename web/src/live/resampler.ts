/** Any rate to another, for browsers that refuse an audio context of 16 kHz: a windowed sinc, one table per phase. */

const ZERO_CROSSINGS = 16;
/** Of the lower Nyquist frequency: what lies above is damped instead of folded back. */
const PASSBAND = 0.92;

export class Resampler {
  readonly #up: number;
  readonly #down: number;
  readonly #half: number;
  readonly #phases: Float32Array[];
  #held: Float32Array;
  /** Of the next sample out, in units of 1/up of a sample in, from the first one held. */
  #position: number;

  constructor(fromHz: number, toHz: number) {
    const common = gcd(fromHz, toHz);
    this.#up = toHz / common;
    this.#down = fromHz / common;
    const cutoff = PASSBAND * Math.min(1, toHz / fromHz);
    this.#half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.#phases = Array.from({ length: this.#up }, (_, phase) => kernel(phase / this.#up, cutoff, this.#half));
    // Silence before the first sample, so that the filter has something to reach back to.
    this.#held = new Float32Array(this.#half);
    this.#position = this.#half * this.#up;
  }

  /** Take samples, give those of the other rate that can be told by now. */
  push(samples: Float32Array): Float32Array {
    const all = new Float32Array(this.#held.length + samples.length);
    all.set(this.#held);
    all.set(samples, this.#held.length);
    const out: number[] = [];
    while (Math.floor(this.#position / this.#up) + this.#half < all.length) {
      const centre = Math.floor(this.#position / this.#up);
      const taps = this.#phases[this.#position % this.#up]!;
      let sum = 0;
      for (let tap = 0; tap < taps.length; tap += 1) sum += taps[tap]! * all[centre - this.#half + 1 + tap]!;
      out.push(sum);
      this.#position += this.#down;
    }
    const done = Math.max(0, Math.floor(this.#position / this.#up) - this.#half);
    this.#held = all.slice(done);
    this.#position -= done * this.#up;
    return Float32Array.from(out);
  }
}

/** The taps for a sample that lies `fraction` of a sample behind the centre; their sum is 1. */
function kernel(fraction: number, cutoff: number, half: number): Float32Array {
  const taps = Float32Array.from({ length: 2 * half }, (_, tap) => {
    const distance = tap - half + 1 - fraction;
    const x = Math.PI * cutoff * distance;
    const window = 0.5 + 0.5 * Math.cos((Math.PI * distance) / half);
    return Math.abs(distance) >= half ? 0 : (x === 0 ? 1 : Math.sin(x) / x) * window;
  });
  const sum = taps.reduce((total, tap) => total + tap, 0);
  return taps.map((tap) => tap / sum);
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** Mix channels down to one. */
export function mono(channels: Float32Array[]): Float32Array {
  const first = channels[0];
  if (!first || channels.length === 1) return first ?? new Float32Array(0);
  return first.map((_, at) => channels.reduce((sum, channel) => sum + channel[at]!, 0) / channels.length);
}

/** Write samples in [-1, 1] as s16le. */
export function pcm(samples: Float32Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(2 * samples.length);
  const view = new DataView(bytes.buffer);
  samples.forEach((sample, at) => {
    const clipped = Math.max(-1, Math.min(1, sample));
    view.setInt16(2 * at, Math.round(clipped < 0 ? clipped * 0x8000 : clipped * 0x7fff), true);
  });
  return bytes;
}
