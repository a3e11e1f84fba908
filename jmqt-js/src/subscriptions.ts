/**
 * What this client is subscribed to, by its own wish, and what of that the server has yet to confirm.
 *
 * Outlives connections: a call that had no answer when one ended is made again on the next, and so is
 * every subscription (`sub` on what is subscribed changes nothing, protocol.md 2.20). The application may subscribe to one
 * channel several times: the calls are made in their order, so that the last one decides, and the server hears of the
 * end when the last subscription ends.
 *
 * A channel here is its name, or the key of a filter.
 */
import { ClosedError, JmqtError, RefusedError, UnsupportedError, UsageError } from './errors.js';
import { isFilterKey, nameOf } from './filter.js';
import { Backoff } from './reconnect.js';
import type { ChannelSubscription } from './subscription.js';

export interface SubscriptionCall {
  readonly kind: 'sub' | 'unsub';
  readonly channel: string;
  readonly persistent: boolean;
  /** What it begins, or what it ends. */
  readonly subscriptions: ChannelSubscription[];
  resolve(): void;
  reject(error: unknown): void;
}

/** What carries the calls: a session. */
export interface SubscriptionWire {
  sub(channel: string, persistent: boolean): Promise<void>;
  unsub(channel: string): Promise<void>;
}

export interface SubscriptionsEvents {
  /** Nothing is subscribed to in this channel any more, for this reason if nobody asked for it. */
  ended(channel: string, error?: Error): void;
  /** What no call can tell. */
  report(error: Error): void;
}

export class Subscriptions {
  /** By channel, in the order they were made in. Those whose end was asked for are not among them. */
  readonly #active = new Map<string, Set<ChannelSubscription>>();
  /** Without an answer, in the order they were made in. */
  readonly #calls = new Set<SubscriptionCall>();
  readonly #events: SubscriptionsEvents;
  readonly #random: (() => number) | undefined;
  #wire: SubscriptionWire | undefined;
  #retries = new Set<ReturnType<typeof setTimeout>>();

  constructor(events: SubscriptionsEvents, random?: () => number) {
    this.#events = events;
    this.#random = random;
  }

  /** Channels and whether the subscription is persistent. */
  get active(): Map<string, boolean> {
    const active = new Map<string, boolean>();
    for (const [channel, subscriptions] of this.#active) {
      if (isFilterKey(channel)) continue;
      const one = [...subscriptions].find(({ confirmed }) => confirmed);
      if (one) active.set(channel, one.persistent);
    }
    return active;
  }

  /** @throws UsageError if it contradicts the subscription there is. */
  check(channel: string, persistent: boolean): void {
    const [active] = this.#active.get(channel) ?? [];
    if (!active || active.persistent === persistent) return;
    const [is, not] = active.persistent ? ['persistent', 'temporary'] : ['temporary', 'persistent'];
    throw new UsageError(
      `the subscription to ${JSON.stringify(nameOf(channel))} is ${is}: to make it ${not}, unsubscribe first (§9.c)`,
    );
  }

  /** The subscriptions to a channel whose end nobody has asked for. */
  of(channel: string): ChannelSubscription[] {
    return [...(this.#active.get(channel) ?? [])];
  }

  /** Ends one of several, of which the server need not hear. */
  leave(subscription: ChannelSubscription): void {
    this.#remove(subscription);
    subscription.end(undefined, true);
  }

  /** Makes the call now, or when there is a session. What is returned gives it up. */
  add(call: SubscriptionCall): (error: Error) => void {
    this.#calls.add(call);
    if (call.kind === 'sub') {
      for (const subscription of call.subscriptions) this.#insert(subscription);
    } else {
      for (const subscription of call.subscriptions) {
        this.#remove(subscription);
        subscription.mute();
      }
    }
    if (this.#wire) void this.#make(call, this.#wire);
    return (error) => {
      this.#calls.delete(call);
      if (call.kind === 'sub') this.#end(call.subscriptions, error, false);
    };
  }

  /** There is a session: makes everything again. Done when all of it is answered. */
  async attach(wire: SubscriptionWire): Promise<void> {
    this.#wire = wire;
    const called = new Set([...this.#calls].map(({ channel }) => channel));
    const again = [...this.#active.keys()]
      .filter((channel) => !called.has(channel))
      .map((channel) => this.#again(channel, wire, undefined));
    const calls = [...this.#calls].map((call) => this.#make(call, wire));
    await Promise.all([...again, ...calls]);
  }

  detach(): void {
    this.#wire = undefined;
    for (const timer of this.#retries) clearTimeout(timer);
    this.#retries.clear();
    for (const subscriptions of this.#active.values()) for (const one of subscriptions) one.lost();
  }

  /** No session will come by itself: calls fail. What was confirmed is made again if the application connects again. */
  suspend(error: Error): void {
    this.detach();
    for (const call of this.#calls) {
      // A subscription that was asked to end need not be made again.
      this.#end(call.subscriptions, error, false);
      call.reject(error);
    }
    this.#calls.clear();
  }

  /** Ends everything, with this error. */
  close(error: Error): void {
    this.suspend(error);
    const told = error instanceof ClosedError ? undefined : error;
    const all = [...this.#active.values()].flatMap((subscriptions) => [...subscriptions]);
    this.#active.clear();
    for (const subscription of all) subscription.end(told, false);
  }

  #insert(subscription: ChannelSubscription): void {
    const { key } = subscription;
    const subscriptions = this.#active.get(key);
    if (subscriptions) subscriptions.add(subscription);
    else this.#active.set(key, new Set([subscription]));
  }

  #remove(subscription: ChannelSubscription): void {
    const subscriptions = this.#active.get(subscription.key);
    subscriptions?.delete(subscription);
    if (subscriptions?.size === 0) this.#active.delete(subscription.key);
  }

  /** Ends these; `over`: the server has ended its subscription, and so the channel ends if there are no others. */
  #end(subscriptions: ChannelSubscription[], error: Error | undefined, over: boolean): void {
    for (const subscription of subscriptions) this.#remove(subscription);
    const [channel] = subscriptions.map((subscription) => subscription.key);
    const others = channel !== undefined && this.#active.has(channel);
    for (const subscription of subscriptions) subscription.end(error, others);
    if (over && channel !== undefined && !others) this.#events.ended(channel, error);
  }

  /** Whether a call about this channel waits for its answer. */
  #called(channel: string): boolean {
    return [...this.#calls].some((call) => call.channel === channel);
  }

  /** Makes what was confirmed on an earlier session. Refused for now, it is tried again after a while. */
  async #again(channel: string, wire: SubscriptionWire, backoff: Backoff | undefined): Promise<void> {
    const [first] = this.of(channel);
    if (!first) return;
    try {
      await wire.sub(channel, first.persistent);
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error; // the session has ended: once more on the next
      if (error instanceof UnsupportedError) this.#leaveNamesake(channel, wire);
      if (this.#wire !== wire || this.#called(channel)) return;
      const left = this.of(channel);
      if (isFinal(error)) {
        this.#end(left, error, true);
        this.#events.report(error);
        return;
      }
      for (const subscription of left) subscription.lost(error);
      this.#retry(channel, wire, backoff ?? new Backoff(this.#random ? { random: this.#random } : {}));
      return;
    }
    for (const subscription of this.of(channel)) subscription.subscribed();
  }

  #retry(channel: string, wire: SubscriptionWire, backoff: Backoff): void {
    const timer = setTimeout(() => {
      this.#retries.delete(timer);
      if (this.#wire !== wire || this.#called(channel)) return;
      this.#again(channel, wire, backoff).catch(() => {}); // the session has ended
    }, backoff.next() ?? 0);
    this.#retries.add(timer);
  }

  async #make(call: SubscriptionCall, wire: SubscriptionWire): Promise<void> {
    const { kind, channel, persistent, subscriptions } = call;
    try {
      await (kind === 'sub' ? wire.sub(channel, persistent) : wire.unsub(channel));
    } catch (error) {
      if (!(error instanceof RefusedError)) return; // the session has ended: once more on the next
      if (kind === 'sub' && error instanceof UnsupportedError) this.#leaveNamesake(channel, wire);
      if (!this.#calls.delete(call) && kind === 'sub') return;
      if (kind === 'sub') {
        this.#end(subscriptions, error, false);
        // Others to the channel, made on an earlier session, still are to be made again.
        const lost = this.of(channel).some(({ confirmed, state }) => confirmed && state === 'subscribing');
        if (lost && this.#wire === wire && !this.#called(channel)) this.#again(channel, wire, undefined).catch(() => {});
      } else {
        // It is still there for the server, and so it is here.
        for (const subscription of subscriptions) {
          if (subscription.state === 'unsubscribed') continue;
          this.#insert(subscription);
          subscription.unmute();
        }
      }
      call.reject(error);
      return;
    }
    const wanted = this.#calls.delete(call);
    if (kind === 'unsub') {
      this.#end(subscriptions, undefined, true);
      if (subscriptions.length === 0 && !this.#active.has(channel)) this.#events.ended(channel);
    } else if (wanted) {
      for (const subscription of subscriptions) subscription.subscribed();
      for (const subscription of this.of(channel)) subscription.subscribed();
    } else if (!persistent) {
      this.#takeBack(channel, wire);
    }
    call.resolve();
  }

  /** The server has subscribed this client to the channel that has the name of a filter (protocol.md 2.25). */
  #leaveNamesake(filter: string, wire: SubscriptionWire): void {
    const name = nameOf(filter);
    if (this.#wire !== wire || this.#active.has(name) || this.#called(name)) return;
    wire.unsub(name).catch(() => {}); // the session has ended
  }

  /**
   * The server has made a subscription that was given up meanwhile. Its messages would wait for nobody. A persistent
   * one is left: it may have been there before, with messages that are kept for it.
   */
  #takeBack(channel: string, wire: SubscriptionWire): void {
    if (this.#wire !== wire || this.#active.has(channel) || this.#called(channel)) return;
    wire.unsub(channel).then(
      () => {
        if (!this.#active.has(channel)) this.#events.ended(channel);
      },
      () => {}, // refused, or the session has ended
    );
  }
}

/** Whether an error says that trying again is of no use. */
export function isFinal(error: unknown): boolean {
  if (error instanceof UnsupportedError) return true;
  if (error instanceof RefusedError) return [6, 7, 10, 11].includes(error.status);
  if (!(error instanceof JmqtError)) return true;
  if ('reason' in error && (error.reason as { mayReconnect: boolean } | undefined)?.mayReconnect === false) return true;
  return error.code === 'USAGE' || error.code === 'UNAUTHORIZED';
}
