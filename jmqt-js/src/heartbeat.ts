/**
 * Keeps a session alive, and notices when the far end is not (§7.e, §7.f).
 *
 * The server ends a session that was silent for `ts` seconds. So something is sent every quarter of
 * that; and since each heartbeat is answered, a server that says nothing for three quarters is gone.
 * Where that takes too long, after a sleep for example, `probe` asks and waits for a few seconds.
 */
import { every } from './ticker.js';

export interface HeartbeatEvents {
  beat(): void;
  /** Nothing was received for this many milliseconds. */
  silent(milliseconds: number): void;
}

/** How often the clock is read, at least: a jump of it tells that the machine, or the page, was asleep. */
const TICK_MS = 5_000;

/** How long a probe waits for its answer, at most. */
const PROBE_MS = 5_000;

export class Heartbeat {
  readonly #events: HeartbeatEvents;
  readonly #interval: number;
  readonly #tickEvery: number;
  readonly #now: () => number;
  readonly #stopTicking: () => void;
  #heard: number;
  #beaten: number;
  #ticked: number;
  #tickedByWall = Date.now();
  #probe: ReturnType<typeof setTimeout> | undefined;

  constructor(timeoutSeconds: number, events: HeartbeatEvents, now: () => number = () => performance.now(), workers = false) {
    this.#events = events;
    this.#interval = Math.max((timeoutSeconds * 1000) / 4, 100);
    this.#tickEvery = Math.min(this.#interval, TICK_MS);
    this.#now = now;
    this.#heard = this.#beaten = this.#ticked = now();
    this.#stopTicking = every(this.#tickEvery, () => this.#tick(), workers);
  }

  /** Something has arrived. */
  heard(): void {
    this.#heard = this.#now();
    // Timers of a page in the background may be late; what arrives is not.
    if (this.#heard - this.#beaten > this.#interval * 1.2) this.#beat();
  }

  /** A heartbeat was answered. */
  answered(): void {
    clearTimeout(this.#probe);
    this.#probe = undefined;
  }

  /** Asks the far end for a sign of life, and waits a few seconds for it. */
  probe(): void {
    if (this.#probe !== undefined) return;
    this.#beat();
    this.#awaitAnswer(this.#now());
  }

  stop(): void {
    this.#stopTicking();
    clearTimeout(this.#probe);
    this.#probe = undefined;
  }

  #awaitAnswer(asked: number): void {
    const limit = Math.min(PROBE_MS, this.#interval * 2);
    this.#probe = setTimeout(() => {
      this.#probe = undefined;
      // What was on its way before the sleep arrives at once. What arrives later comes from a living server, whose
      // answer stands behind it.
      if (this.#heard > asked + limit / 2) this.#awaitAnswer(this.#now());
      else this.#silent(this.#now() - this.#heard);
    }, limit);
  }

  #tick(): void {
    const now = this.#now();
    const wall = Date.now();
    // The monotonic clock of some systems stops while they sleep.
    const asleep = Math.max(now - this.#ticked, wall - this.#tickedByWall) > this.#tickEvery + this.#interval / 2;
    this.#ticked = now;
    this.#tickedByWall = wall;
    if (asleep) {
      // The clock says nothing about the server: it gets the time for an answer.
      this.#heard = Math.max(this.#heard, now - this.#interval);
      this.probe();
      return;
    }
    const silence = now - this.#heard;
    if (silence > this.#interval * 2.9) this.#silent(silence);
    else if (now - this.#beaten >= this.#interval * 0.95) this.#beat();
  }

  #silent(milliseconds: number): void {
    this.stop();
    this.#events.silent(milliseconds);
  }

  #beat(): void {
    this.#beaten = this.#now();
    this.#events.beat();
  }
}
