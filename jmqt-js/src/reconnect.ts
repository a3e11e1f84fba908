/** When to try again: exponential, with full jitter, so that clients of a restarted server spread out. */

export interface ReconnectOptions {
  /** Upper bound of the first delay in milliseconds. Default 500. */
  initialDelay?: number;
  /** What the bound is multiplied with from one attempt to the next. Default 2. */
  factor?: number;
  /** The bound grows no further than this, in milliseconds. Default 30,000. */
  maxDelay?: number;
  /** Attempts in a row before giving up. Default: without limit. */
  maxAttempts?: number;
  /** A session must last this many milliseconds for the delays to start again. Default 10,000. */
  stableAfter?: number;
  /** A number from 0 to 1, below 1. Default `Math.random`. */
  random?: () => number;
}

export class Backoff {
  readonly #options: Required<ReconnectOptions>;
  #attempt = 0;

  constructor(options: ReconnectOptions) {
    this.#options = {
      initialDelay: options.initialDelay ?? 500,
      factor: options.factor ?? 2,
      maxDelay: options.maxDelay ?? 30_000,
      maxAttempts: options.maxAttempts ?? Infinity,
      stableAfter: options.stableAfter ?? 10_000,
      random: options.random ?? Math.random,
    };
  }

  /** Attempts since the last stable session. */
  get attempt(): number {
    return this.#attempt;
  }

  /** Milliseconds to wait before the next attempt; `undefined` when there shall be none. */
  next(): number | undefined {
    const { initialDelay, factor, maxDelay, maxAttempts, random } = this.#options;
    if (this.#attempt >= maxAttempts) return undefined;
    const bound = Math.min(maxDelay, initialDelay * factor ** this.#attempt);
    this.#attempt++;
    return Math.floor(random() * bound);
  }

  /** The application has asked for a connection: the delays start again. */
  reset(): void {
    this.#attempt = 0;
  }

  /**
   * A session has ended after `milliseconds`. One that ended at once does not count: a server that ends every session
   * at once must not be asked for the next without a pause.
   */
  sessionLasted(milliseconds: number): void {
    if (milliseconds >= this.#options.stableAfter) this.#attempt = 0;
  }
}
