/**
 * What this client is subscribed to, by its own wish, and what of that the server has yet to confirm.
 *
 * Outlives connections: a call that had no answer when one ended is made again on the next, and so is
 * every subscription (`sub` on what is subscribed changes nothing, protocol.md 2.20).
 */
import { JmqtError, RefusedError, UsageError } from './errors.js';

export interface SubscriptionCall {
  readonly kind: 'sub' | 'unsub';
  readonly channel: string;
  readonly persistent: boolean;
  resolve(): void;
  reject(error: unknown): void;
}

/** What carries the calls: a session. */
export interface SubscriptionWire {
  sub(channel: string, persistent: boolean): Promise<void>;
  unsub(channel: string): Promise<void>;
}

export class Subscriptions {
  readonly #active = new Map<string, { persistent: boolean }>();
  /** Without an answer, in the order they were made in. */
  readonly #calls = new Set<SubscriptionCall>();
  readonly #ended: (channel: string, error?: Error) => void;
  #wire: SubscriptionWire | undefined;

  /** `ended` hears of each subscription that is over, with the reason if nobody asked for it. */
  constructor(ended: (channel: string, error?: Error) => void) {
    this.#ended = ended;
  }

  /** Channels and whether the subscription is persistent. */
  get active(): Map<string, boolean> {
    return new Map([...this.#active].map(([channel, { persistent }]) => [channel, persistent]));
  }

  /** @throws UsageError if it contradicts the subscription there is. */
  check(channel: string, persistent: boolean): void {
    const active = this.#active.get(channel);
    if (!active || active.persistent === persistent || this.#unsubscribing(channel)) return;
    const [is, not] = active.persistent ? ['persistent', 'temporary'] : ['temporary', 'persistent'];
    throw new UsageError(
      `the subscription to ${JSON.stringify(channel)} is ${is}: to make it ${not}, unsubscribe first (§9.c)`,
    );
  }

  /** Makes the call now, or when there is a session. What is returned gives it up. */
  add(call: SubscriptionCall): () => void {
    this.#calls.add(call);
    if (this.#wire) void this.#make(call, this.#wire);
    return () => void this.#calls.delete(call);
  }

  /** There is a session: makes everything again. Done when all of it is answered. */
  async attach(wire: SubscriptionWire): Promise<void> {
    this.#wire = wire;
    const again = [...this.#active]
      .filter(([channel]) => !this.#unsubscribing(channel))
      .map(([channel, { persistent }]) => this.#again(channel, persistent, wire));
    const calls = [...this.#calls].map((call) => this.#make(call, wire));
    await Promise.all([...again, ...calls]);
  }

  detach(): void {
    this.#wire = undefined;
  }

  /** Ends everything, with this error. */
  close(error: Error): void {
    this.#wire = undefined;
    for (const call of this.#calls) call.reject(error);
    this.#calls.clear();
    this.#active.clear();
  }

  #unsubscribing(channel: string): boolean {
    return [...this.#calls].some((call) => call.kind === 'unsub' && call.channel === channel);
  }

  async #again(channel: string, persistent: boolean, wire: SubscriptionWire): Promise<void> {
    try {
      await wire.sub(channel, persistent);
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error; // the session has ended: once more on the next
      this.#active.delete(channel);
      this.#ended(channel, error);
    }
  }

  async #make(call: SubscriptionCall, wire: SubscriptionWire): Promise<void> {
    const { kind, channel, persistent } = call;
    try {
      await (kind === 'sub' ? wire.sub(channel, persistent) : wire.unsub(channel));
    } catch (error) {
      if (!(error instanceof RefusedError)) return; // the session has ended: once more on the next
      if (this.#calls.delete(call)) call.reject(error);
      return;
    }
    if (!this.#calls.delete(call)) return; // given up meanwhile
    if (kind === 'sub') {
      this.#active.set(channel, { persistent });
    } else {
      this.#active.delete(channel);
      this.#ended(channel);
    }
    call.resolve();
  }
}

/** Whether an error says that trying again is of no use. */
export function isFinal(error: unknown): boolean {
  if (error instanceof RefusedError) return [6, 7, 10, 11].includes(error.status);
  return !(error instanceof JmqtError) || error.code === 'USAGE';
}
