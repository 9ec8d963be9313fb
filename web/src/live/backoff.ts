/** When to connect again: at once, then later and later, with full jitter, and not for ever. */

const FIRST_S = 0.25;
const LONGEST_S = 10;
const FAILURES_MAX = 10;
const SHORT_LIFE_S = 5;
const SHORT_LIVES_MAX = 3;
const HEALTHY_AFTER_S = 10;

/**
 * The reconnect rules of the live protocol, as a state machine that only counts.
 *
 * Full jitter: a uniform draw between 0 and the exponential bound
 * (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 */
export class Backoff {
  #failures = 0;
  #shortLives = 0;
  #connectedAt: number | null = null;

  /** `now` gives seconds, `draw` a number in [0, 1). */
  constructor(
    private readonly now: () => number,
    private readonly draw: () => number = Math.random,
  ) {}

  /** Note that a connection was accepted by the platform. */
  connected(): void {
    this.#connectedAt = this.now();
  }

  /** Forget all failures: a person asks for another try, or the network is back. */
  reset(): void {
    this.#failures = this.#shortLives = 0;
  }

  /** Note that a connection, or an attempt, failed. Give the wait in seconds, null for: give up. */
  lost(retryAfterS?: number): number | null {
    const livedS = this.#connectedAt === null ? null : this.now() - this.#connectedAt;
    if (livedS !== null && livedS >= HEALTHY_AFTER_S) this.reset();
    else if (livedS !== null && livedS < SHORT_LIFE_S) this.#shortLives += 1;
    this.#connectedAt = null;
    this.#failures += 1;
    if (this.#failures >= FAILURES_MAX || this.#shortLives >= SHORT_LIVES_MAX) return null;
    // A platform that asks for no wait at all gets the usual jitter: a thousand clients may have heard it.
    if (retryAfterS) return retryAfterS;
    if (this.#failures === 1) return 0;
    return this.draw() * Math.min(LONGEST_S, FIRST_S * 2 ** (this.#failures - 2));
  }
}
