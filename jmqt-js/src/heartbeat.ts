/**
 * Keeps a session alive, and notices when the far end is not (§7.e, §7.f).
 *
 * The server ends a session that was silent for `ts` seconds. So something is sent every quarter of
 * that; and since each heartbeat is answered, a server that says nothing for three quarters is gone.
 */
export interface HeartbeatEvents {
  beat(): void;
  /** Nothing was heard for so many milliseconds. */
  silent(milliseconds: number): void;
}

export class Heartbeat {
  readonly #events: HeartbeatEvents;
  readonly #interval: number;
  readonly #now: () => number;
  readonly #timer: ReturnType<typeof setInterval>;
  #heard: number;
  #beaten: number;
  #ticked: number;

  constructor(timeoutSeconds: number, events: HeartbeatEvents, now: () => number = () => performance.now()) {
    this.#events = events;
    this.#interval = Math.max((timeoutSeconds * 1000) / 4, 100);
    this.#now = now;
    this.#heard = this.#beaten = this.#ticked = now();
    this.#timer = setInterval(() => this.#tick(), this.#interval);
  }

  /** Something has arrived. */
  heard(): void {
    this.#heard = this.#now();
    // Timers of a page in the background may be late; what arrives is not.
    if (this.#heard - this.#beaten > this.#interval * 1.2) this.#beat();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const now = this.#now();
    // After a sleep the clock says nothing about the server: it gets the time for an answer.
    if (now - this.#ticked > this.#interval * 1.5) this.#heard = Math.max(this.#heard, now - this.#interval);
    this.#ticked = now;
    const silence = now - this.#heard;
    if (silence > this.#interval * 2.9) {
      this.stop();
      this.#events.silent(silence);
    } else {
      this.#beat();
    }
  }

  #beat(): void {
    this.#beaten = this.#now();
    this.#events.beat();
  }
}
