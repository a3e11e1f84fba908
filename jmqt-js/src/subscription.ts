/** One subscription of the application: its state, its own listeners and readers, and its own end. */
import type { MessageStream, PushListener } from './delivery.js';
import { ClosedError } from './errors.js';
import { Events } from './events.js';
import { isFilterKey, nameOf } from './filter.js';
import { limited } from './limit.js';
import type { CallOptions } from './limit.js';
import type { Message } from './message.js';

/**
 * `subscribing`: the server has yet to confirm it, for the first time or after a reconnect. `subscribed`: it has.
 * `unsubscribed`: it is over.
 */
export type SubscriptionState = 'subscribing' | 'subscribed' | 'unsubscribed';

export interface SubscriptionStateEvent {
  state: SubscriptionState;
  /** Why it is not in force, if nobody asked for that: refused by the server, for example. */
  error: Error | undefined;
}

interface SubscriptionEvents {
  state: SubscriptionStateEvent;
}

/**
 * A subscription, and its messages for `for await`. Several to one channel are one for the server, and each has
 * listeners, readers and an end of its own; the server hears of the last one's end.
 */
export interface Subscription<T = unknown> extends AsyncIterable<Message<T>> {
  /** The channel, or the filter. */
  readonly channel: string;
  /** `channel` is a filter: the messages are of all channels that it matches (protocol.md 2.25). */
  readonly filter: boolean;
  readonly persistent: boolean;
  readonly state: SubscriptionState;
  /** The server's last refusal, or why it has ended. `undefined` while it is in force. */
  readonly error: Error | undefined;
  /** Listens to its messages, or to its state; the function that is returned ends that. */
  on(name: 'push', listener: (message: Message<T>) => unknown): () => void;
  on(name: 'state', listener: (event: SubscriptionStateEvent) => unknown): () => void;
  /** Done when the server has confirmed it. @throws what ended it; TimeoutError; AbortedError. */
  ready(options?: CallOptions): Promise<void>;
  /** Ends this one. Done at once if there is another to the same channel, else when the server has confirmed. */
  unsub(options?: CallOptions): Promise<void>;
  [Symbol.asyncIterator](): MessageStream<T>;
}

/** What a subscription needs of its client. */
export interface SubscriptionOwner {
  /** Both take the name of a channel, or the key of a filter. */
  listen(key: string, listener: PushListener): () => void;
  messages(key: string): MessageStream;
  unsub(subscription: ChannelSubscription, options: CallOptions): Promise<void>;
  report(error: unknown): void;
}

/** @internal What the client has of a {@link Subscription}. */
export class ChannelSubscription implements Subscription {
  /** Gives up its place among those who want the channel. */
  release: () => void = () => {};
  /** The server has confirmed it at least once. */
  confirmed = false;
  readonly channel: string;
  readonly filter: boolean;
  readonly persistent: boolean;
  readonly #owner: SubscriptionOwner;
  readonly #events: Events<SubscriptionEvents>;
  readonly #listeners = new Map<PushListener, (() => void) | undefined>();
  readonly #streams = new Set<MessageStream>();
  #state: SubscriptionState = 'subscribing';
  #error: Error | undefined;
  #muted = false;
  #waiters: { resolve(): void; reject(error: unknown): void }[] = [];

  /** `key` is the name of the channel, or the key of the filter. */
  constructor(
    owner: SubscriptionOwner,
    readonly key: string,
    persistent: boolean,
  ) {
    this.#owner = owner;
    this.channel = nameOf(key);
    this.filter = isFilterKey(key);
    this.persistent = persistent;
    this.#events = new Events<SubscriptionEvents>((error) => owner.report(error));
  }

  get state(): SubscriptionState {
    return this.#state;
  }

  get error(): Error | undefined {
    return this.#error;
  }

  on(name: 'push', listener: PushListener): () => void;
  on(name: 'state', listener: (event: SubscriptionStateEvent) => unknown): () => void;
  on(name: 'push' | 'state', listener: PushListener | ((event: SubscriptionStateEvent) => unknown)): () => void {
    if (name === 'state') {
      const stateListener = listener as (event: SubscriptionStateEvent) => unknown;
      this.#events.on('state', stateListener);
      return () => this.#events.off('state', stateListener);
    }
    const own: PushListener = (message) => (listener as PushListener)(message); // the same function may be given twice
    if (this.#state !== 'unsubscribed') {
      this.#listeners.set(own, this.#muted ? undefined : this.#owner.listen(this.key, own));
    }
    return () => {
      this.#listeners.get(own)?.();
      this.#listeners.delete(own);
    };
  }

  ready(options: CallOptions = {}): Promise<void> {
    if (this.#state === 'subscribed') return Promise.resolve();
    if (this.#state === 'unsubscribed') return Promise.reject(this.#error ?? this.#over());
    let waiter: { resolve(): void; reject(error: unknown): void } | undefined;
    return limited<void>(
      `subscribing to ${JSON.stringify(this.channel)}`,
      options,
      0,
      (resolve, reject) => this.#waiters.push((waiter = { resolve, reject })),
      () => (this.#waiters = this.#waiters.filter((other) => other !== waiter)),
    );
  }

  unsub(options: CallOptions = {}): Promise<void> {
    return this.#state === 'unsubscribed' ? Promise.resolve() : this.#owner.unsub(this, options);
  }

  [Symbol.asyncIterator](): MessageStream {
    const stream = this.#owner.messages(this.key);
    if (this.#state === 'unsubscribed') stream.end(this.#error);
    else this.#streams.add(stream);
    return stream;
  }

  /** The application has asked for its end: its listeners hear no more. */
  mute(): void {
    this.#muted = true;
    for (const [listener, stop] of this.#listeners) {
      stop?.();
      this.#listeners.set(listener, undefined);
    }
  }

  /** The server has refused to end it. */
  unmute(): void {
    if (!this.#muted || this.#state === 'unsubscribed') return;
    this.#muted = false;
    for (const listener of this.#listeners.keys()) {
      this.#listeners.set(listener, this.#owner.listen(this.key, listener));
    }
  }

  subscribed(): void {
    if (this.#state === 'unsubscribed') return;
    this.confirmed = true;
    this.#enter('subscribed', undefined);
    for (const { resolve } of this.#waiters.splice(0)) resolve();
  }

  /** The session has ended, or the server has refused to make it again for now. */
  lost(error?: Error): void {
    if (this.#state !== 'unsubscribed') this.#enter('subscribing', error);
  }

  /** It is over. With others to its channel, what its readers have not taken goes back to those. */
  end(error: Error | undefined, others: boolean): void {
    if (this.#state === 'unsubscribed') return;
    this.mute();
    this.#listeners.clear();
    if (others) for (const stream of this.#streams) void stream.return();
    this.#streams.clear();
    this.release();
    for (const { reject } of this.#waiters.splice(0)) reject(error ?? this.#over());
    this.#enter('unsubscribed', error);
  }

  #over(): Error {
    return new ClosedError(`the subscription to ${JSON.stringify(this.channel)} has ended`);
  }

  #enter(state: SubscriptionState, error: Error | undefined): void {
    if (this.#state === state && this.#error === error) return;
    this.#state = state;
    this.#error = error;
    this.#events.emit('state', { state, error });
  }
}
