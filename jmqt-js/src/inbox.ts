/**
 * Packets that have arrived and were not handled yet.
 *
 * They are handled in slices of a few milliseconds, with the event loop in between, so that a burst
 * does not hold up a page's frames or a program's other connections. Scheduling is once per slice, not
 * per packet. Bounded by the callbacks `full` and `emptied`, which hold back the sender where that is
 * possible, and by `overflow`, which decides about each packet beyond the limit.
 */

import { Fifo } from './fifo.js';

/** How long packets are handled before others get a turn. */
const SLICE_MS = 8;

/** More packets than this waiting mean: stop reading. */
const HIGH_WATER = 4_096;

/** More packets than this waiting mean: the sender could not be held back. */
export const INBOX_LIMIT = 65_536;

export interface InboxEvents {
  /** Handles one packet. `true`: let those who wait for it run before the next. */
  handle(text: string): boolean;
  full(): void;
  emptied(): void;
  /** The limit is reached: whether this packet may be dropped. */
  mayDrop(text: string): boolean;
}

export class Inbox {
  readonly #events: InboxEvents;
  readonly #waiting = new Fifo<string>();
  #scheduled = false;
  #full = false;
  #atEnd: (() => void) | undefined;

  constructor(events: InboxEvents) {
    this.#events = events;
  }

  add(text: string): void {
    if (this.#waiting.length >= INBOX_LIMIT && this.#events.mayDrop(text)) return;
    this.#waiting.push(text);
    if (!this.#scheduled) {
      this.#scheduled = true;
      nextTurn(this.#slice);
    }
    if (this.#waiting.length > HIGH_WATER && !this.#full) {
      this.#full = true;
      this.#events.full();
    }
  }

  /** Nothing more will arrive: `atEnd` follows what is waiting. */
  end(atEnd: () => void): void {
    if (this.#scheduled) this.#atEnd = atEnd;
    else atEnd();
  }

  /** Drops what is waiting. */
  close(): void {
    this.#waiting.clear();
    this.#atEnd = undefined;
  }

  readonly #slice = (): void => {
    const end = performance.now() + SLICE_MS;
    for (let text = this.#waiting.shift(); text !== undefined; text = this.#waiting.shift()) {
      if (this.#events.handle(text) || performance.now() > end) {
        nextTurn(this.#slice);
        return;
      }
    }
    this.#scheduled = false;
    if (this.#full) {
      this.#full = false;
      this.#events.emptied();
    }
    this.#atEnd?.();
  };
}

/** Runs `task` in a turn of its own: timers, input and painting come in between. */
const nextTurn: (task: () => void) => void = (() => {
  if (typeof setImmediate === 'function') return (task) => void setImmediate(task);
  // Unlike setTimeout, a message is not delayed by 4 ms, nor by a second in a hidden tab.
  const tasks: (() => void)[] = [];
  const channel = new MessageChannel();
  channel.port1.onmessage = () => tasks.shift()?.();
  return (task) => {
    tasks.push(task);
    channel.port2.postMessage(null);
  };
})();
