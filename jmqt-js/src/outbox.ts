/**
 * What was published and is not done with: waiting to be sent, or sent and not yet acknowledged.
 *
 * Publishes are sent in the order of the calls. After a reconnect those without an acknowledgement come
 * first, in their order and with their ids (§9.a), which are decimal and rise (protocol.md 2.23); a control request that was under way is not sent
 * again, because nobody knows whether it was carried out.
 *
 * A QoS 0 publish that is to be checked has an id, which a server answers only if it refuses the publish (protocol.md 2.5). That
 * it did not, the answer to a heartbeat sent behind it tells: packets are handled in order (protocol.md 2.10). The next
 * heartbeat is sent when the last one was answered, so there is one per round trip.
 */
import { ConnectionLostError, QueueFullError, RefusedError, Status } from './errors.js';
import { Fifo } from './fifo.js';
import { encodePub } from './packet.js';
import type { Qos } from './packet.js';

/** Publishes that may be without an acknowledgement: no more are remembered by the server (protocol.md 2.23). */
export const MAX_IN_FLIGHT = 10_000;

/** A publisher's id (protocol.md 2.23): 128 random bits. */
export function publisherId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** What happens to a publish for which the queue has no room. */
export type QueueFull = 'wait' | 'drop-oldest' | 'error';

export interface OutboxOptions {
  /** Publishes that may wait while there is no session. */
  limit: number;
  full: QueueFull;
  /** QoS 1 publishes and control requests that may be without an answer at a time. */
  inFlight: number;
  /** A QoS 0 message was dropped from the full queue. */
  dropped(): void;
}

/** What can be written to. */
export interface Wire {
  send(text: string): void;
  hasRoom(): boolean;
  /** Sends a heartbeat. Returns its number on this connection. */
  beat(): number;
}

export interface Publish {
  /** `pub`, or `request` on a control channel. */
  kind: 'pub' | 'request';
  channel: string;
  json: string | undefined;
  /** `jt` of it (protocol.md 2.26). */
  literal: boolean;
  qos: Qos;
  retain: boolean;
  /** With QoS 0: it is done when the server has handled it. */
  checked?: boolean;
  /** Gets the `pubAck`, if there is one for this publish. */
  resolve(answer?: Answer): void;
  reject(error: Error): void;
}

export interface Answer {
  id: string;
  data: unknown;
  /** The packet as it came. */
  packet: string;
}

/** What ids of checked publishes begin with, so that none is that of another publish, which are numbers. */
const CHECKED = 'q';

interface Entry extends Publish {
  /** Only what is answered, if only by a refusal, has one. */
  id: string | undefined;
  /** The number of this checked QoS 0 publish; `undefined` if it is not checked. */
  checkedNumber: number | undefined;
  /** Has its place in the queue, or did not need one. */
  admitted: boolean;
}

export class Outbox {
  readonly #options: OutboxOptions;
  readonly #waiting = new Fifo<Entry>();
  readonly #inFlight = new Map<string, Entry>();
  #wire: Wire | undefined;
  #lastId = 0;
  #lastChecked = 0;
  #lastSentChecked = 0;
  /** The heartbeat that is under way behind checked publishes, and the number of the last of these. */
  #check: { beat: number; last: number } | undefined;

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  /** Publishes that wait to be sent. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Publishes that were sent and have no answer. */
  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Sends it now or later. `cancel` takes it out again, as far as that is possible. */
  add(publish: Publish): { id: string; cancel(): void } {
    const answered = publish.qos === 1 || publish.kind === 'request';
    const checkedNumber = publish.checked && !answered ? ++this.#lastChecked : undefined;
    const checkedId = checkedNumber === undefined ? undefined : `${CHECKED}${checkedNumber}`;
    const id = answered ? String(++this.#lastId) : checkedId;
    const entry: Entry = { ...publish, id, checkedNumber, admitted: false };
    if (this.#wire && this.#waiting.length === 0 && this.#maySend(entry)) this.#send(entry);
    else this.#queue(entry);
    return { id: id ?? '', cancel: () => this.#forget(entry) };
  }

  /** There is a session, and its subscriptions are made: sends what has no answer, then what waits. */
  attach(wire: Wire): void {
    this.#wire = wire;
    for (const entry of this.#inFlight.values()) wire.send(encode(entry));
    this.flush();
  }

  /** The session is over. */
  detach(why: string): void {
    this.#wire = undefined;
    this.#check = undefined;
    for (const [id, entry] of this.#inFlight) {
      if (entry.kind !== 'request' && entry.checkedNumber === undefined) continue;
      this.#inFlight.delete(id);
      const [kind, done] = entry.kind === 'request' ? ['request', 'it was carried out'] : ['QoS 0 publish', 'it arrived'];
      const what = `the ${kind} on channel ${JSON.stringify(entry.channel)} was under way when the connection ended`;
      entry.reject(new ConnectionLostError(`${what} (${why}): it is unknown whether ${done}`));
    }
  }

  /** Sends what there is room for. */
  flush(): void {
    for (let entry = this.#waiting.at(0); entry && this.#maySend(entry); entry = this.#waiting.at(0)) {
      this.#waiting.shift();
      this.#admitNext();
      this.#send(entry);
    }
  }

  /** A `pubAck` has arrived (§7.l). */
  answered(id: string | undefined, status: number, data: unknown, packet: string): void {
    const entry = id === undefined ? undefined : this.#inFlight.get(id);
    if (!entry || id === undefined) return; // of a call that was given up
    this.#inFlight.delete(id);
    if (status === Status.OK) entry.resolve({ id, data, packet });
    else entry.reject(new RefusedError(entry.kind, status, entry.channel, data));
    this.flush();
  }

  /** The server has handled everything that was sent before this heartbeat. */
  beatAnswered(beat: number): void {
    const check = this.#check;
    if (!check || beat < check.beat) return;
    this.#check = undefined;
    let isLater = false;
    for (const [id, entry] of this.#inFlight) {
      if (entry.checkedNumber === undefined) continue;
      if (entry.checkedNumber > check.last) {
        isLater = true;
        continue;
      }
      this.#inFlight.delete(id);
      entry.resolve({ id, data: undefined, packet: '' });
    }
    if (isLater) this.#sendCheck();
    this.flush();
  }

  /** Nothing more will be sent: a heartbeat goes behind the last checked publish. */
  checkLast(): void {
    if (this.#wire && this.#check && this.#check.last < this.#lastSentChecked) {
      this.#check = { beat: this.#wire.beat(), last: this.#lastSentChecked };
    }
  }

  #sendCheck(): void {
    if (this.#wire && !this.#check) this.#check = { beat: this.#wire.beat(), last: this.#lastSentChecked };
  }

  /** Ends everything with this error. */
  close(error: Error): void {
    this.#wire = undefined;
    this.#check = undefined;
    const left = [...this.#inFlight.values(), ...this.#waiting.clear()];
    this.#inFlight.clear();
    for (const entry of left) entry.reject(error);
  }

  #maySend(entry: Entry): boolean {
    if (!this.#wire?.hasRoom()) return false;
    return entry.id === undefined || this.#inFlight.size < this.#options.inFlight;
  }

  #send(entry: Entry): void {
    if (entry.id !== undefined) this.#inFlight.set(entry.id, entry);
    this.#wire?.send(encode(entry));
    if (entry.checkedNumber !== undefined) {
      this.#lastSentChecked = entry.checkedNumber;
      this.#sendCheck();
    }
    this.#admit(entry);
  }

  #queue(entry: Entry): void {
    const { limit, full, dropped } = this.#options;
    if (this.#waiting.length >= limit && full !== 'wait') {
      const problem = `${limit} publishes wait to be sent already`;
      const loser = full === 'error' ? entry : this.#waiting.shift();
      if (loser?.admitted && loser.id === undefined) dropped(); // its caller was told that it is on its way
      else loser?.reject(new QueueFullError(`${loser.kind} on channel ${JSON.stringify(loser.channel)}: ${problem}`));
      if (loser === entry) return;
    }
    this.#waiting.push(entry);
    if (this.#waiting.length <= limit) this.#admit(entry);
  }

  /** Somebody has left the queue: the first who stood outside has a place now. */
  #admitNext(): void {
    const entry = this.#waiting.at(this.#options.limit - 1);
    if (entry) this.#admit(entry);
  }

  /** A QoS 0 publish is done for its caller as soon as it has its place. */
  #admit(entry: Entry): void {
    if (entry.admitted) return;
    entry.admitted = true;
    if (entry.id === undefined) entry.resolve();
  }

  #forget(entry: Entry): void {
    if (entry.id !== undefined) this.#inFlight.delete(entry.id);
    if (this.#waiting.remove(entry)) this.#admitNext();
    this.flush();
  }
}

function encode(entry: Entry): string {
  return encodePub(entry.channel, entry.json, entry.qos, entry.retain, entry.id, entry.literal);
}
