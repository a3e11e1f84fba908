/**
 * What was pushed to this client: who takes it, and when it is acknowledged.
 *
 * A QoS 1 push is acknowledged once everybody it was handed to has taken it: a listener by returning
 * (or by its promise), a reader of `messages()` by asking for the next one. What nobody is there to
 * take waits for the first who comes. A push that comes again is known by its id and handed over once.
 *
 * Outlives connections. Not here: sockets, packets other than pushes.
 */
import { Fifo } from './fifo.js';
import { isFilterKey, matches, nameOf } from './filter.js';
import { Message } from './message.js';
import type { ServerPacket } from './packet.js';

/** How many ids of a channel are remembered: more than any window. */
export const REMEMBERED_IDS = 4_096;

/** How many channels are remembered that nobody takes messages from any more, at most, before the oldest are forgotten. */
export const IDLE_CHANNELS = 4_096;

export type PushListener<T = unknown> = (message: Message<T>) => unknown;
export type Push = Extract<ServerPacket, { type: 'push' }>;

export interface DeliveryOptions {
  /** By hand: only `message.ack()` acknowledges. */
  manual: boolean;
  /** QoS 0 messages that may wait in one iterator, or for the first one who takes them. */
  limit: number;
  /** QoS 1 pushes the server sends without an acknowledgement. */
  window: number;
  acknowledge(id: string): void;
  /** A listener failed, or the window is full of what nobody takes. */
  report(error: unknown): void;
  /** A QoS 0 message was dropped. */
  dropped(): void;
}

/** The channels that were pushed to, or are waited for. */
export class Deliveries {
  readonly #options: DeliveryOptions;
  readonly #listeners: PushListener[] = [];
  readonly #channels = new Map<string, Channel>();
  /** By their keys: what is waited for of all channels that a filter matches. */
  readonly #filters = new Map<string, FilterTakers>();
  /** QoS 1 messages that nobody was there to take. */
  #unclaimed = 0;
  #tidyAt = IDLE_CHANNELS;

  constructor(options: DeliveryOptions) {
    this.#options = options;
  }

  push(push: Push, packet: string): void {
    if (push.qos === 1) this.#pushQos1(push, packet);
    else this.#pushQos0(push, packet);
  }

  listen(listener: PushListener): void {
    this.#listeners.push(listener);
    queueMicrotask(() => {
      for (const channel of this.#channels.values()) this.#offerUnclaimed(channel);
      for (const filter of this.#filters.values()) this.#offerUnclaimed(filter);
    });
  }

  unlisten(listener: PushListener): void {
    const index = this.#listeners.indexOf(listener);
    if (index >= 0) this.#listeners.splice(index, 1);
  }

  /** Hands over this channel alone. */
  listenTo(name: string, listener: PushListener): () => void {
    const channel = this.#expect(name);
    channel.listeners.push(listener);
    queueMicrotask(() => this.#offerUnclaimed(channel));
    return () => {
      const index = channel.listeners.indexOf(listener);
      if (index >= 0) channel.listeners.splice(index, 1);
      this.#tidy(name);
    };
  }

  /** Somebody has subscribed: messages of this channel wait for somebody who takes them, until what is returned is called. */
  want(name: string): () => void {
    this.#expect(name).wanted++;
    return () => {
      const channel = this.#find(name);
      if (!channel || channel.wanted === 0) return;
      if (--channel.wanted === 0 && channel.streams.size === 0) channel.expected = false;
      this.#tidy(name);
    };
  }

  #expect(name: string): Channel {
    const channel = this.#channel(name);
    channel.expected = true;
    return channel;
  }

  #find(name: string): Channel | undefined {
    return isFilterKey(name) ? this.#filters.get(name) : this.#channels.get(name);
  }

  #channel(name: string): Channel {
    let channel = this.#find(name);
    if (!channel && isFilterKey(name)) {
      const filter = new FilterTakers(this.#options, nameOf(name));
      this.#filters.set(name, filter);
      return filter;
    }
    if (!channel) {
      if (this.#channels.size >= this.#tidyAt) this.#tidyAll();
      this.#channels.set(name, (channel = new Channel(this.#options)));
    }
    return channel;
  }

  /** Forgets a channel of which there is nothing to remember. */
  #tidy(name: string): void {
    const channel = this.#find(name);
    if (channel?.idle && channel.seen.size === 0) (isFilterKey(name) ? this.#filters : this.#channels).delete(name);
  }

  /** Forgets the oldest idle channels, and with them which messages have come. Half of the room is then free again. */
  #tidyAll(): void {
    for (const [name, channel] of this.#channels) {
      if (this.#channels.size <= IDLE_CHANNELS / 2) break;
      if (channel.idle) this.#channels.delete(name);
    }
    this.#tidyAt = this.#channels.size + IDLE_CHANNELS / 2;
  }

  messages(name: string): MessageStream {
    const channel = this.#expect(name);
    const stream = new MessageStream(this.#options, (given) => {
      channel.streams.delete(stream);
      for (const handed of given) this.#giveBack(channel, handed);
    });
    channel.streams.add(stream);
    this.#offerUnclaimed(channel);
    return stream;
  }

  /** The subscription is over: readers get what has arrived, and then the end, or this error. */
  end(name: string, error?: Error): void {
    const channel = this.#find(name);
    if (!channel) return;
    (isFilterKey(name) ? this.#filters : this.#channels).delete(name);
    channel.over = true;
    channel.listeners.length = 0;
    this.#stop(channel, error);
  }

  /** The client has stopped. It may start again: what was taken by then is remembered, and who listens. */
  endAll(error?: Error): void {
    for (const [name, channel] of [...this.#channels, ...this.#filters]) {
      this.#stop(channel, error);
      if (channel.wanted > 0) channel.expected = true;
      this.#tidy(name);
    }
  }

  /** Another client begins: the server may use the same ids for it. */
  forgetIds(): void {
    for (const channel of this.#channels.values()) {
      channel.seen = new SeenIds(REMEMBERED_IDS);
      channel.held.clear();
    }
  }

  #stop(channel: Channel, error: Error | undefined): void {
    channel.expected = false;
    for (const handed of channel.unclaimed.clear()) {
      this.#unclaimed--;
      handed.forget();
    }
    for (const stream of channel.streams) stream.end(error);
    channel.streams.clear();
  }

  #pushQos0(push: Push, packet: string): void {
    const channel = this.#channels.get(push.channel);
    const filters = this.#matching(push.channel);
    if (!channel?.expected && this.#listeners.length === 0 && filters.length === 0) {
      this.#options.dropped();
      return;
    }
    const { client, data, literal, retained } = push;
    const message = new Message(push.channel, data, client, 0, retained, '', packet, undefined, literal);
    this.#distribute(channel ? [channel, ...filters] : filters, message, undefined);
  }

  #pushQos1(push: Push, packet: string): void {
    const { id } = push;
    const channel = this.#channel(push.channel);
    if (channel.seen.has(id)) {
      // Sent again, because it was not acknowledged on the connection before. If it was taken, the
      // acknowledgement got lost; otherwise it will be acknowledged when it has been taken.
      if (!channel.held.has(id)) this.#options.acknowledge(id);
      return;
    }
    channel.seen.add(id);
    const handed = new Handed(channel, id, this.#options);
    channel.held.add(id);
    const acknowledge = (): void => handed.acknowledge();
    const { client, data, literal, retained } = push;
    const message = new Message(push.channel, data, client, 1, retained, id, packet, acknowledge, literal);
    handed.message = message;
    const waits = this.#distribute([channel, ...this.#matching(push.channel)], message, handed);
    if (waits && ++this.#unclaimed === this.#options.window) {
      this.#options.report(
        new Error(
          `${this.#unclaimed} QoS 1 messages wait for a listener or an iterator, as many as the server sends ` +
            `without an acknowledgement: no more will come. The last one is on channel ${JSON.stringify(push.channel)}`,
        ),
      );
    }
  }

  /** The filters with takers that a channel matches. */
  #matching(name: string): FilterTakers[] {
    if (this.#filters.size === 0) return NO_FILTERS;
    const levels = name.split('/');
    return [...this.#filters.values()].filter((filter) => filter.expected && matches(filter.levels, levels));
  }

  /**
   * Hands over a message of one channel and of the filters that match it. Where nobody takes it, or others wait that came
   * before, it waits: then the answer is `true`.
   */
  #distribute(channels: Channel[], message: Message, handed: Handed | undefined): boolean {
    const [only] = channels;
    if (only && channels.length === 1) {
      if (only.unclaimed.length === 0 && this.#hasTaker(only)) {
        this.#handOver(channels, message, handed);
        return false;
      }
      only.unclaimed.push(message, handed);
      return true;
    }
    for (const channel of channels) if (channel.unclaimed.length > 0) this.#offerUnclaimed(channel);
    const takers = channels.filter((channel) => this.#hasTaker(channel));
    if (takers.length > 0 || this.#listeners.length > 0) {
      this.#handOver(takers, message, handed);
      return false;
    }
    // It waits for the first taker of the channel, if somebody wants that, or else of a filter.
    const waits = channels.find(({ expected }) => expected) ?? only;
    waits?.unclaimed.push(message, handed);
    return waits !== undefined;
  }

  #hasTaker(channel: Channel): boolean {
    return this.#listeners.length > 0 || channel.listeners.length > 0 || channel.streams.size > 0;
  }

  #handOver(channels: Channel[], message: Message, handed: Handed | undefined): void {
    let streams = 0;
    for (const channel of channels) {
      for (const stream of channel.streams) stream.offer(message, handed);
      streams += channel.streams.size;
    }
    // A listener may add and remove listeners: this message is for the current ones.
    const [first] = channels;
    const own = first && channels.length === 1 ? first.listeners : channels.flatMap((channel) => channel.listeners);
    const only = own.length === 0 && this.#listeners.length === 1 ? this.#listeners[0] : undefined;
    const listeners = only ? undefined : [...this.#listeners, ...own];
    handed?.expectTakers(streams + (listeners?.length ?? 1));
    if (only) this.#call(only, message, handed);
    else for (const listener of listeners ?? []) this.#call(listener, message, handed);
  }

  #call(listener: PushListener, message: Message, handed: Handed | undefined): void {
    const failed = (error: unknown): void => {
      handed?.failed();
      this.#options.report(error);
    };
    try {
      const result = listener(message);
      if (isThenable(result)) result.then(() => handed?.taken(), failed);
      else handed?.taken();
    } catch (error) {
      failed(error);
    }
  }

  #offerUnclaimed(channel: Channel): void {
    if (!this.#hasTaker(channel)) return;
    for (let next = channel.unclaimed.shift(); next; next = channel.unclaimed.shift()) {
      if (next.handed) this.#unclaimed--;
      if (!next.handed?.done) this.#handOver([channel], next.message, next.handed);
    }
  }

  /** A reader has left without taking this message. */
  #giveBack(channel: Channel, handed: Handed): void {
    if (!handed.leftByLast() || !handed.message) return;
    if (channel.over) return;
    channel.unclaimed.push(handed.message, handed);
    this.#unclaimed++;
    this.#offerUnclaimed(channel);
  }
}

interface Waiting {
  at: number;
  message: Message;
  handed: Handed | undefined;
}

/** Messages that wait for a taker, in their order; of QoS 0 the oldest go where there are too many. */
class Backlog {
  readonly #limit: number;
  readonly #dropped: () => void;
  readonly #qos0 = new Fifo<Waiting>();
  readonly #qos1 = new Fifo<Waiting>();
  #arrived = 0;

  constructor(limit: number, dropped: () => void) {
    this.#limit = limit;
    this.#dropped = dropped;
  }

  get length(): number {
    return this.#qos0.length + this.#qos1.length;
  }

  push(message: Message, handed: Handed | undefined): void {
    const waiting = { at: this.#arrived++, message, handed };
    if (handed) {
      this.#qos1.push(waiting); // no more than the window
      return;
    }
    this.#qos0.push(waiting);
    if (this.#qos0.length > this.#limit) {
      this.#qos0.shift();
      this.#dropped();
    }
  }

  shift(): Waiting | undefined {
    const [zero, one] = [this.#qos0.at(0), this.#qos1.at(0)];
    return one && (!zero || one.at < zero.at) ? this.#qos1.shift() : this.#qos0.shift();
  }

  /** Drops what is waiting, and returns what of it has to be acknowledged one day. */
  clear(): Handed[] {
    this.#qos0.clear();
    return this.#qos1.clear().flatMap(({ handed }) => handed ?? []);
  }
}

/** One channel, as far as it is pushed to. */
class Channel {
  constructor(options: DeliveryOptions) {
    this.unclaimed = new Backlog(options.limit, options.dropped);
  }

  /** Unsubscribed from: what is given back is of no use any more. */
  over = false;
  /** The application subscribed to it, or reads it: what comes before its takers is kept for them. */
  expected = false;
  /** Subscriptions of the application. */
  wanted = 0;
  readonly listeners: PushListener[] = [];
  readonly streams = new Set<MessageStream>();
  readonly unclaimed: Backlog;
  seen = new SeenIds(REMEMBERED_IDS);
  /** Ids that were not acknowledged yet. */
  readonly held = new Set<string>();

  /** Nobody takes from it, and nothing waits. */
  get idle(): boolean {
    const { wanted, listeners, streams, unclaimed, held } = this;
    return wanted === 0 && listeners.length === 0 && streams.size === 0 && unclaimed.length === 0 && held.size === 0;
  }
}

const NO_FILTERS: FilterTakers[] = [];

/** Who takes the messages of all channels that a filter matches. */
class FilterTakers extends Channel {
  readonly levels: readonly string[];

  constructor(options: DeliveryOptions, filter: string) {
    super(options);
    this.levels = filter.split('/');
  }
}

/** The last ids of a channel. Adding and asking take the same time however many there are. */
export class SeenIds {
  readonly #places = new Map<string, number>();
  readonly #ring: string[] = [];
  readonly #size: number;
  #next = 0;

  constructor(size: number) {
    this.#size = size;
  }

  get size(): number {
    return this.#places.size;
  }

  has(id: string): boolean {
    return this.#places.has(id);
  }

  add(id: string): void {
    const oldest = this.#ring[this.#next];
    if (oldest !== undefined && this.#places.get(oldest) === this.#next) this.#places.delete(oldest);
    this.#ring[this.#next] = id;
    this.#places.set(id, this.#next);
    this.#next = (this.#next + 1) % this.#size;
  }

  delete(id: string): void {
    this.#places.delete(id);
  }
}

/** A QoS 1 message on its way through the application. */
class Handed {
  message: Message | undefined;
  done = false;
  readonly #channel: Channel;
  readonly #id: string;
  readonly #options: DeliveryOptions;
  #takers = 0;
  #taken = false;
  #failed = false;

  constructor(channel: Channel, id: string, options: DeliveryOptions) {
    this.#channel = channel;
    this.#id = id;
    this.#options = options;
  }

  expectTakers(count: number): void {
    this.#takers = count;
  }

  taken(): void {
    this.#taken = true;
    this.#left();
  }

  failed(): void {
    this.#failed = true;
    this.#left();
  }

  /** A taker has left. Whether it was the last, and nobody has taken the message. */
  leftByLast(): boolean {
    if (this.#takers === 1 && !this.#taken && !this.#failed && !this.done) {
      this.#takers = 0;
      return true;
    }
    this.#left();
    return false;
  }

  acknowledge(): void {
    if (this.done) return;
    this.done = true;
    this.#channel.held.delete(this.#id);
    this.#options.acknowledge(this.#id);
  }

  /** Nobody took it: when it comes again, it is handed over again. */
  forget(): void {
    this.done = true;
    this.#channel.held.delete(this.#id);
    this.#channel.seen.delete(this.#id);
  }

  #left(): void {
    if (--this.#takers > 0 || this.done) return;
    if (this.#failed) this.forget();
    else if (!this.#options.manual) this.acknowledge();
  }
}

/**
 * The messages of one channel, for `for await`.
 *
 * Asking for the next message acknowledges the one before. Unread, QoS 1 messages stay
 * unacknowledged, so that the server holds back the rest; of QoS 0 the oldest are dropped above a limit.
 * Leaving the loop does not acknowledge the message it was left with: call its `ack()` for that.
 */
export class MessageStream<T = unknown> implements AsyncIterableIterator<Message<T>> {
  readonly #leave: (given: Handed[]) => void;
  readonly #backlog: Backlog;
  readonly #readers = new Fifo<Reader<T>>();
  #given: Handed[] = [];
  #dropped = 0;
  #ended = false;
  #error: Error | undefined;

  /** @internal */
  constructor(options: DeliveryOptions, leave: (given: Handed[]) => void) {
    this.#leave = leave;
    this.#backlog = new Backlog(options.limit, () => {
      this.#dropped++;
      options.dropped();
    });
  }

  /** QoS 0 messages that were dropped here because nobody read them. */
  get dropped(): number {
    return this.#dropped;
  }

  /** @internal */
  offer(message: Message<T>, handed: Handed | undefined): void {
    const reader = this.#readers.shift();
    if (reader) {
      if (handed) this.#given.push(handed);
      reader.resolve({ done: false, value: message });
      return;
    }
    this.#backlog.push(message, handed);
  }

  next(): Promise<IteratorResult<Message<T>, undefined>> {
    const before = this.#given;
    this.#given = [];
    for (const handed of before) handed.taken();
    const next = this.#backlog.shift();
    if (next) {
      if (next.handed) this.#given.push(next.handed);
      return Promise.resolve({ done: false, value: next.message as Message<T> });
    }
    if (this.#ended) return this.#error ? Promise.reject(this.#error) : Promise.resolve(DONE);
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }

  /** The reader has left: what it did not take waits for the next one. */
  return(): Promise<IteratorResult<Message<T>, undefined>> {
    this.end();
    const left = [...this.#given, ...this.#backlog.clear()];
    this.#given = [];
    this.#leave(left);
    return Promise.resolve(DONE);
  }

  /** @internal */
  end(error?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    for (const reader of this.#readers.clear()) {
      if (error) reader.reject(error);
      else reader.resolve(DONE);
    }
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

interface Reader<T> {
  resolve(result: IteratorResult<Message<T>, undefined>): void;
  reject(error: Error): void;
}

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';
}
