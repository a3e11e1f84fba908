/**
 * The client: what an application calls, and the life of its connections.
 *
 * One `Session` after the other carries what is kept here from each to the next: subscriptions,
 * publishes without an acknowledgement (`Outbox`), messages on their way (`Deliveries`).
 */
import { Deliveries } from './delivery.js';
import type { MessageStream, PushListener } from './delivery.js';
import { ClosedError, ConnectionLostError, JmqtError, NetworkError, RefusedError, Status, UsageError } from './errors.js';
import { Events } from './events.js';
import { filterKey, isFilterKey, nameOf } from './filter.js';
import { limited } from './limit.js';
import type { CallOptions } from './limit.js';
import type { Message } from './message.js';
import { MAX_IN_FLIGHT, Outbox, publisherId } from './outbox.js';
import type { Answer, QueueFull } from './outbox.js';
import { RawJson, channelName, encodeData, rawData } from './packet.js';
import type { Qos } from './packet.js';
import { DisconnectCode } from './reason.js';
import type { DisconnectReason } from './reason.js';
import { Backoff } from './reconnect.js';
import type { ReconnectOptions } from './reconnect.js';
import { Session } from './session.js';
import type { Credentials, Opened } from './session.js';
import { ChannelSubscription } from './subscription.js';
import type { Subscription } from './subscription.js';
import { Subscriptions, isFinal } from './subscriptions.js';
import { exceeds } from './text.js';
import { Tokens } from './tokens.js';
import type { RefreshContext } from './tokens.js';
import { parseUrl } from './open.js';
import { onWake } from './wake.js';
import type { WebSocketConstructor } from './transport.js';

export interface ClientOptions {
  /** `ws://host:8012`, `wss://host:8013`; in Node also `jmqt://host:8010`, `jmqts://host:8011`. */
  url: string;
  /** A token and client id from an earlier `auth`, or from elsewhere. */
  token?: string;
  clientId?: string;
  /** When that token expires, in milliseconds as `Date.now()` counts them, where that is known. */
  expiresAt?: number;
  /** The data of the `auth` that asks the server for a token, if there is no token. */
  auth?: unknown;
  /**
   * Gets a new token: when there is none, ahead of `expiresAt`, when the session ended because the token has expired, and
   * when the server does not take the one there is (6 INVALID_TOKEN). A failure is a failed attempt, and another one
   * follows; an `UnauthorizedError` ends the attempts. Without it, the data of the last `auth` is used once more.
   */
  refreshToken?: (context: RefreshContext) => Credentials | Promise<Credentials>;
  /** How to reconnect; `false`: not at all. */
  reconnect?: ReconnectOptions | false;
  /** `auto`: a QoS 1 message is acknowledged once it was taken. `manual`: by its `ack()` alone. */
  ack?: 'auto' | 'manual';
  /** QoS 1 pushes that may be unacknowledged at a time (protocol.md 2.9). Default 128, at most 4,096. */
  window?: number;
  /** QoS 0 messages that wait for a slow iterator, before the oldest are dropped. Default 1,000. */
  iteratorLimit?: number;
  /** Publishes that wait while there is no session. Default 1,000. */
  queueLimit?: number;
  /**
   * What happens to a publish beyond that. `wait` (default): the promise of `pub` waits for room, and code that
   * awaits it with it. `drop-oldest`: the oldest one waiting fails. `error`: the new one fails.
   */
  queueFull?: QueueFull;
  /** QoS 1 publishes and control requests under way at a time. Default 1,000. */
  publishWindow?: number;
  /** Milliseconds for `auth`, `conn`, `sub`, `unsub` and `request`, where the call does not say. Default 30,000. */
  timeout?: number;
  /** A larger publish is refused here, because the server would close the connection. Default 4 MiB. */
  maxPacketBytes?: number;
  /**
   * In a page: open the WebSocket in a worker, so that many messages a second do not hold up frames, and heartbeats go on
   * while the page is hidden. Needs `worker-src blob:` where the page has a `Content-Security-Policy`, and
   * `trusted-types jmqt-js` where that requires trusted types; without it the page opens the WebSocket itself. Default false.
   */
  worker?: boolean;
  /** The constructor to use instead of the platform's `WebSocket`. */
  WebSocket?: WebSocketConstructor;
  /** For `jmqts://`: options of Node's `tls.connect`, such as `ca`. */
  tls?: Record<string, unknown>;
}

export interface SubOptions<T = unknown> extends CallOptions {
  /** Outlives the session: QoS 1 messages are kept while this client is away (§9.c). Default false. */
  persistent?: boolean;
  /**
   * The channel is a filter (protocol.md 2.25): the level `+` stands for one level, the last level `#` for any number of levels.
   * `rooms/+/temperature` is all channels that it matches. Each message has its own channel. The server's application has to
   * allow it. Default false: `rooms/+/temperature` is the channel of that name.
   */
  filter?: boolean;
  /** Is called with each message of this channel, like a `push` listener. */
  onPush?: PushListener<T>;
}

export interface UnsubOptions extends CallOptions {
  /** The channel is a filter. Default false. */
  filter?: boolean;
}

export interface PubOptions extends CallOptions {
  qos?: Qos;
  /** Keep it as the channel's retained message (§9.b). */
  retain?: boolean;
  /**
   * With QoS 0: done when the server has handled the message, with a `RefusedError` if it refused it (protocol.md 2.5), or with a
   * `ConnectionLostError` if the connection ended first: it is still QoS 0, and not sent again. Costs a heartbeat per round
   * trip, however many messages flow. Without effect with QoS 1. Default false.
   */
  checked?: boolean;
}

/** A publish that is done. */
export interface Published {
  /** The packet id it was sent with; `undefined` with QoS 0, which has none unless it is `checked`. */
  id: string | undefined;
}

/** A session is open, its subscriptions made. */
export interface ConnectedEvent {
  clientId: string;
  /** `ts` of the `connAck`. */
  timeoutSeconds: number;
  /** It replaces one that was lost. */
  resumed: boolean;
  /** A QoS 1 publish that is sent again on this session is not stored again (protocol.md 2.23). */
  publishesOnce: boolean;
}

/** A session has ended, or, after such an event, the attempts to replace it. */
export interface DisconnectEvent {
  /** `ClosedError` after `disconnect()`. */
  error: JmqtError;
  willReconnect: boolean;
  /** Why the server ended it, where it said so (protocol.md 2.22). */
  reason: DisconnectReason | undefined;
}

/** The client has another state than before. */
export interface StateEvent {
  state: ClientState;
  previous: ClientState;
  /** Why the last session has ended, where the server said so. `undefined` while there is one. */
  reason: DisconnectReason | undefined;
}

/** Another attempt follows. */
export interface ReconnectingEvent {
  /** Counted from 1. */
  attempt: number;
  /** Milliseconds until it begins. */
  delay: number;
  /** Why it is necessary. */
  error: JmqtError;
}

export interface ClientEvents {
  push: Message;
  connected: ConnectedEvent;
  disconnect: DisconnectEvent;
  reconnecting: ReconnectingEvent;
  /** After the other events of the same change. */
  state: StateEvent;
  /** What went wrong outside of a call: a listener threw, a subscription was not renewed. */
  error: unknown;
}

/** What there was no other way to tell. */
export interface Counters {
  /** QoS 0 pushes dropped because nobody took them, or not fast enough. */
  droppedPushes: number;
  /** QoS 0 publishes dropped from the full queue. */
  droppedPublishes: number;
}

export type ClientState = 'idle' | 'connecting' | 'connected' | 'reconnecting' | 'closing';

const LEAVE_MS = 5_000;

/** How long opening a session may take when the client does it by itself and `timeout` is 0. */
const OPEN_MS = 30_000;

export class Client {
  /** Counted since the client was made. */
  readonly counters: Counters = { droppedPushes: 0, droppedPublishes: 0 };

  readonly #options: ClientOptions;
  readonly #timeout: number;
  readonly #maxPacketBytes: number;
  readonly #window: number;
  readonly #events = new Events<ClientEvents>((error) => this.#report(error));
  readonly #deliveries: Deliveries;
  readonly #outbox: Outbox;
  readonly #subscriptions: Subscriptions;
  readonly #backoff: Backoff | undefined;
  readonly #tokens: Tokens;
  /** Chosen at random for this client (protocol.md 2.23). */
  readonly #publisher = publisherId();

  #state: ClientState = 'idle';
  /** The state that listeners were told of. */
  #toldState: ClientState = 'idle';
  #reason: DisconnectReason | undefined;
  #session: Session | undefined;
  /** The client of the last session. */
  #lastClient: string | undefined;
  #connected: ConnectedEvent | undefined;
  #connectedAt = 0;
  #waiters = new Set<{ resolve(event: ConnectedEvent): void; reject(error: unknown): void }>();
  #closing: Promise<void> = Promise.resolve();
  #stopListening: (() => void) | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  /** The server has asked not to be connected to before this time. */
  #notBefore = 0;
  /** Rises with each attempt and with its end, so that what still waits for an old one does no harm. */
  #epoch = 0;

  /** @throws UsageError if an option makes no sense. Connects to nothing yet. */
  constructor(options: ClientOptions) {
    parseUrl(options.url);
    this.#options = options;
    this.#timeout = options.timeout ?? 30_000;
    this.#maxPacketBytes = options.maxPacketBytes ?? 4 << 20;
    this.#window = wholeNumber('window', options.window ?? 128, 1, 4_096);
    this.#tokens = new Tokens({
      given: { token: options.token, clientId: options.clientId, expiresAt: options.expiresAt },
      authData: 'auth' in options ? { data: options.auth } : undefined,
      refreshToken: options.refreshToken,
      authenticate: async (data) => (await this.#connection()).auth(data),
    });
    this.#deliveries = new Deliveries({
      manual: options.ack === 'manual',
      limit: wholeNumber('iteratorLimit', options.iteratorLimit ?? 1_000, 1, 1e9),
      window: this.#window,
      acknowledge: (id) => this.#session?.acknowledge(id),
      report: (error) => this.#report(error),
      dropped: () => void this.counters.droppedPushes++,
    });
    this.#outbox = new Outbox({
      limit: wholeNumber('queueLimit', options.queueLimit ?? 1_000, 1, 1e9),
      full: options.queueFull ?? 'wait',
      inFlight: wholeNumber('publishWindow', options.publishWindow ?? 1_000, 1, MAX_IN_FLIGHT),
      dropped: () => void this.counters.droppedPublishes++,
    });
    const random = options.reconnect === false ? undefined : options.reconnect?.random;
    this.#subscriptions = new Subscriptions(
      {
        ended: (channel, error) => this.#deliveries.end(channel, error),
        report: (error) => this.#report(error),
      },
      random,
    );
    this.#backoff = options.reconnect === false ? undefined : new Backoff(options.reconnect ?? {});
  }

  get state(): ClientState {
    return this.#state;
  }

  /** Why the last session has ended, where the server said so (protocol.md 2.22). `undefined` while there is one. */
  get disconnectReason(): DisconnectReason | undefined {
    return this.#reason;
  }

  /** Known after `auth`, or as it was given. */
  get clientId(): string | undefined {
    return this.#tokens.clientId;
  }

  /** The channels this client has subscribed to, and whether persistently; not the filters. */
  get subscriptions(): Map<string, boolean> {
    return this.#subscriptions.active;
  }

  /** Publishes that wait for a session, and those that wait for their acknowledgement. */
  get pending(): { waiting: number; inFlight: number } {
    return { waiting: this.#outbox.waiting, inFlight: this.#outbox.inFlight };
  }

  /** Listens; the function that is returned ends that. */
  on<K extends keyof ClientEvents>(name: K, listener: (event: ClientEvents[K]) => unknown): () => void {
    if (name === 'push') this.#deliveries.listen(listener as PushListener);
    else this.#events.on(name, listener);
    return () => this.off(name, listener);
  }

  off<K extends keyof ClientEvents>(name: K, listener: (event: ClientEvents[K]) => unknown): void {
    if (name === 'push') this.#deliveries.unlisten(listener as PushListener);
    else this.#events.off(name, listener);
  }

  /**
   * Asks for a token (§7.a) and keeps it for `conn`.
   *
   * @throws RefusedError with the server's words in `reply`; NetworkError; TimeoutError; AbortedError.
   */
  auth(data: unknown, options: CallOptions = {}): Promise<Credentials> {
    return this.#limited('auth', options, async () => {
      if (this.#state === 'reconnecting' || this.#state === 'closing') {
        throw new UsageError(`cannot call auth while the client is ${this.#state}; call disconnect first`);
      }
      return this.#tokens.authenticate(data);
    });
  }

  /**
   * Opens the session (§7.c). Done when the server has accepted it and the subscriptions are made. One attempt: what
   * follows a session that was lost is up to the option `reconnect`. `connect` goes on trying from the first attempt.
   *
   * @throws RefusedError; NetworkError and its kin; UsageError without a token and client id.
   */
  async conn(credentials: Partial<Credentials> = {}, options: CallOptions = {}): Promise<ConnectedEvent> {
    if (this.#state === 'closing') await this.#closing;
    if (this.#state !== 'idle') {
      throw new UsageError(`cannot call conn while the client is ${this.#state}; call disconnect first`);
    }
    this.#begin(credentials);
    const epoch = ++this.#epoch;
    try {
      return await this.#limited('conn', options, () => this.#open(false, epoch));
    } catch (error) {
      if (epoch === this.#epoch) {
        this.#epoch++;
        this.#state = 'idle';
        this.#detach(error as Error);
        if (!(error instanceof RefusedError)) this.#drop(error as Error);
        this.#rest(error as Error);
        this.#tellState();
      }
      throw error;
    }
  }

  /**
   * Connects, and goes on trying until there is a session, the server says that trying again is of no use, or `disconnect`
   * is called. `ready` waits for the session; `connected`, `reconnecting` and `disconnect` tell of the attempts. Without
   * effect while the client is at it. Without a token, `refreshToken` or the option `auth` get one.
   *
   * @throws UsageError if there is neither a token nor a way to get one.
   */
  connect(credentials: Partial<Credentials> = {}): void {
    if (this.#state === 'closing') {
      void this.#closing.then(() => this.connect(credentials));
      return;
    }
    if (this.#state !== 'idle') return;
    this.#begin(credentials);
    this.#backoff?.reset();
    void this.#attempt(false);
  }

  /**
   * The session, as soon as there is one.
   *
   * @throws what ended the attempts; ClosedError if nothing leads to a session; TimeoutError; AbortedError.
   */
  ready(options: CallOptions = {}): Promise<ConnectedEvent> {
    if (this.#state === 'connected' && this.#connected) return Promise.resolve(this.#connected);
    if (this.#state === 'closing') return this.#closing.then(() => this.ready(options));
    if (this.#state === 'idle') return Promise.reject(new ClosedError('the client is not connecting; call connect first'));
    let waiter: { resolve(event: ConnectedEvent): void; reject(error: unknown): void } | undefined;
    return limited<ConnectedEvent>(
      'connecting',
      options,
      0,
      (resolve, reject) => this.#waiters.add((waiter = { resolve, reject })),
      () => waiter && this.#waiters.delete(waiter),
    );
  }

  /**
   * Connects again after the attempts have ended, for example because another connection of the same client took over
   * (`disconnectReason`): with the same client id, and the subscriptions there were. While an attempt is waited for, it
   * begins at once.
   */
  reconnect(options: CallOptions = {}): Promise<ConnectedEvent> {
    if (this.#state === 'idle') this.connect();
    else this.reconnectNow();
    return this.ready(options);
  }

  /**
   * Subscribes (§7.g). Also without a session: then it is done when there is one. It is made again after
   * each reconnect.
   *
   * @throws RefusedError; UnsupportedError if the server does not know filters; UsageError for an invalid name;
   * TimeoutError; AbortedError.
   */
  async sub<T = unknown>(channel: string, options: SubOptions<T> = {}): Promise<Subscription<T>> {
    const { subscription, made } = this.#subscribe<T>(channel, options);
    await made;
    return subscription;
  }

  /**
   * The same, with the subscription at once: its `ready()` waits for the server, its `state` events tell what becomes of
   * it, and its `unsub()` ends it, however far it has come.
   *
   * @throws UsageError for an invalid name.
   */
  subscribe<T = unknown>(channel: string, options: SubOptions<T> = {}): Subscription<T> {
    const { subscription, made } = this.#subscribe<T>(channel, options);
    made.catch(() => {}); // the subscription tells
    return subscription;
  }

  #subscribe<T>(channel: string, options: SubOptions<T>): { subscription: Subscription<T>; made: Promise<void> } {
    const name = options.filter ? filterKey(channel) : channelName(channel);
    const persistent = options.persistent ?? false;
    this.#subscriptions.check(name, persistent);
    const subscription = new ChannelSubscription(
      {
        listen: (from, listener) => this.#deliveries.listenTo(from, listener),
        messages: (from) => this.#deliveries.messages(from),
        unsub: (one, unsubOptions) => this.#unsubscribe(one, unsubOptions),
        report: (error) => this.#report(error),
      },
      name,
      persistent,
    );
    subscription.release = this.#deliveries.want(name);
    if (options.onPush) subscription.on('push', options.onPush as PushListener);
    const made = this.#subscription('sub', name, persistent, [subscription], options);
    made.catch((error: unknown) => subscription.end(error as Error, false)); // one that was aborted before it began
    return { subscription: subscription as unknown as Subscription<T>, made };
  }

  /**
   * Ends all subscriptions of this client to a channel (§7.i), and the iterators over its messages once they are empty.
   * To end one of several subscriptions, call its own `unsub`.
   */
  async unsub(channel: string, options: UnsubOptions = {}): Promise<void> {
    const name = options.filter ? filterKey(channel) : channelName(channel);
    await this.#subscription('unsub', name, false, this.#subscriptions.of(name), options);
  }

  async #unsubscribe(subscription: ChannelSubscription, options: CallOptions): Promise<void> {
    const all = this.#subscriptions.of(subscription.key);
    if (!all.includes(subscription)) return; // its end is under way
    if (all.length > 1) this.#subscriptions.leave(subscription);
    else await this.#subscription('unsub', subscription.key, false, all, options);
  }

  /**
   * The messages of one channel, subscribed to by this client or by the server: the presence channel, the
   * client's own `#` channel. Begins with those that nobody has taken yet.
   */
  messages<T = unknown>(channel: string): MessageStream<T> {
    return this.#deliveries.messages(channelName(channel)) as unknown as MessageStream<T>;
  }

  /**
   * Publishes (§7.k). With QoS 1 done when the server has stored it; with QoS 0 when it was sent, or has
   * its place in the queue. Also without a session. QoS 1 is sent again after a reconnect until it is
   * acknowledged: a server that follows protocol.md 2.23 stores it once, with another it may arrive twice.
   *
   * @throws RefusedError (QoS 1, or `checked`); ConnectionLostError (QoS 0 that is `checked`); QueueFullError; ClosedError; UsageError; TimeoutError; AbortedError.
   */
  pub(channel: string, data: unknown, options: PubOptions = {}): Promise<Published> {
    const qos = options.qos ?? 0;
    if (qos !== 0 && qos !== 1) return Promise.reject(new UsageError(`qos must be 0 or 1, not ${String(qos)}`));
    return this.#publish('pub', channel, data, qos, options.retain ?? false, options, 0, options.checked).then((answer) => ({ id: answer?.id }));
  }

  /** Publishes to one client (§9.d). @throws RefusedError with status 8 (QoS 1, or `checked`) if it is away. */
  p2p(clientId: string, data: unknown, options: Omit<PubOptions, 'retain'> = {}): Promise<Published> {
    return this.pub(`#${clientId}`, data, options);
  }

  /**
   * Asks the server application something on a control channel (§9.d). The answer is its reply data.
   *
   * @throws RefusedError with the reply data in `reply`; ConnectionLostError if the connection ended in between.
   */
  request<T = unknown>(channel: string, data?: unknown, options?: CallOptions & { raw?: false }): Promise<T>;
  /** The same, with the reply as the text it was sent as. */
  request(channel: string, data: unknown, options: CallOptions & { raw: true }): Promise<RawJson>;
  async request(channel: string, data?: unknown, options: CallOptions & { raw?: boolean } = {}): Promise<unknown> {
    if (!channelName(channel).startsWith('$')) {
      throw new UsageError(`${JSON.stringify(channel)} is not a control channel: those begin with $`, Status.INVALID_CHANNEL);
    }
    const answer = await this.#publish('request', channel, data, 0, false, options, this.#timeout);
    return options.raw ? new RawJson(rawData(answer?.packet ?? '') ?? 'null') : answer?.data;
  }

  /**
   * Tries at once instead of waiting for the time that `reconnecting` told. With a session, asks the server for a sign of
   * life: a connection that has died unnoticed ends within seconds, and is replaced. In a page this happens by itself when
   * the page can be seen again or the network is back.
   */
  reconnectNow(): void {
    if (this.#state === 'connected') this.#session?.probe();
    if (this.#state !== 'reconnecting' || this.#retry === undefined) return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    void this.#attempt(true);
  }

  /**
   * Leaves (§9.f): says so (unless `silent`), waits for acknowledgements of what was published (`timeout`
   * milliseconds, 5,000 by default), and closes. What is unfinished then fails with ClosedError, and
   * iterators end. `conn` may be called again afterwards.
   */
  async disconnect(options: { timeout?: number; silent?: boolean } = {}): Promise<void> {
    if (this.#state === 'closing') return this.#closing;
    if (this.#state === 'idle') {
      await this.#finish(new ClosedError('the client was disconnected'));
      return;
    }
    this.#closing = this.#leave(options);
    await this.#closing;
  }

  async #leave(options: { timeout?: number; silent?: boolean }): Promise<void> {
    const session = this.#session;
    const wasConnected = this.#state === 'connected';
    this.#state = 'closing';
    clearTimeout(this.#retry);
    this.#retry = undefined;
    if (session?.alive && wasConnected) {
      this.#outbox.checkLast();
      if (!options.silent) session.leave();
      if (this.#outbox.inFlight > 0 && options.timeout !== 0) {
        this.#tellState();
        await this.#goodbye(session, options.timeout ?? LEAVE_MS);
      }
    }
    const error = new ClosedError('the client was disconnected');
    const closed = this.#finish(error, wasConnected);
    if (wasConnected) this.#events.emit('disconnect', { error, willReconnect: false, reason: undefined });
    this.#tellState();
    await closed;
  }

  /** Called when the session that is leaving has ended, or nothing is outstanding any more. */
  #farewell: (() => void) | undefined;

  #goodbye(session: Session, milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#farewell = undefined;
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.#farewell = () => {
        if (!session.alive || this.#outbox.inFlight === 0) done();
      };
    });
  }

  /** Everything ends with this error; the client can be used again. Done when the connection is closed. */
  #finish(error: JmqtError, politely = false): Promise<void> {
    const session = this.#stop();
    const closed = politely ? session?.close() : session?.destroy(error);
    this.#detach(error);
    this.#outbox.close(error);
    this.#subscriptions.close(error);
    this.#deliveries.endAll(error instanceof ClosedError ? undefined : error);
    this.#rest(error);
    return Promise.resolve(closed);
  }

  /** No attempt follows. What waits fails; subscriptions are kept for when the application connects again. */
  #giveUp(error: JmqtError): void {
    this.#stop()?.destroy(error);
    this.#detach(error);
    this.#outbox.close(error);
    this.#subscriptions.suspend(error);
    this.#deliveries.endAll(error);
    this.#rest(error);
    this.#events.emit('disconnect', { error, willReconnect: false, reason: reasonOf(error) });
    this.#tellState();
  }

  /** Idle from now on: what still waits for an attempt does no harm. Returns the session there was. */
  #stop(): Session | undefined {
    this.#state = 'idle';
    clearTimeout(this.#retry);
    this.#retry = undefined;
    const session = this.#session;
    this.#session = undefined;
    this.#epoch++;
    return session;
  }

  /** The client is at it. @throws UsageError if there is neither a token nor a way to get one. */
  #begin(credentials: Partial<Credentials>): void {
    this.#tokens.use(credentials);
    this.#state = 'connecting';
    this.#reason = undefined;
    this.#stopListening ??= onWake({
      awake: () => this.#awake(),
      offline: () => {
        if (this.#state === 'connected') this.#session?.probe();
      },
    });
    this.#tellState();
  }

  /** The opposite: nothing happens by itself any more. */
  #rest(error: Error): void {
    this.#tokens.rest();
    this.#stopListening?.();
    this.#stopListening = undefined;
    this.#connected = undefined;
    for (const waiter of [...this.#waiters]) waiter.reject(error);
    this.#waiters.clear();
  }

  #awake(): void {
    if (this.#state === 'connected' || performance.now() >= this.#notBefore) this.reconnectNow();
  }

  #tellState(): void {
    const [state, previous] = [this.#state, this.#toldState];
    if (state === previous) return;
    this.#toldState = state;
    this.#events.emit('state', { state, previous, reason: this.#reason });
  }

  async #open(resumed: boolean, epoch: number): Promise<ConnectedEvent> {
    const { session, opened } = await this.#openSession(epoch);
    await this.#subscriptions.attach(session);
    this.#stillWanted(epoch);
    if (!session.alive) throw session.error ?? new NetworkError('the connection ended while its subscriptions were made');
    this.#state = 'connected';
    this.#reason = undefined;
    this.#connectedAt = performance.now();
    this.#tokens.refreshAhead((error) => this.#report(error));
    this.#outbox.attach(session);
    const event = { clientId: this.clientId ?? '', ...opened, resumed };
    this.#connected = event;
    for (const waiter of [...this.#waiters]) waiter.resolve(event);
    this.#waiters.clear();
    this.#events.emit('connected', event);
    this.#tellState();
    return event;
  }

  /** `conn`, and once more with a new token if the server does not take this one. */
  async #openSession(epoch: number): Promise<{ session: Session; opened: Opened }> {
    for (let refreshed = false; ; refreshed = true) {
      this.#stillWanted(epoch);
      const credentials = await this.#tokens.current();
      this.#stillWanted(epoch);
      const session = await this.#connection();
      this.#stillWanted(epoch);
      // The server may use the same ids for another client.
      if (this.#lastClient !== undefined && this.#lastClient !== credentials.clientId) this.#deliveries.forgetIds();
      this.#lastClient = credentials.clientId;
      try {
        return { session, opened: await session.conn(credentials, this.#window, this.#publisher) };
      } catch (error) {
        const expired = error instanceof RefusedError && error.status === Status.INVALID_TOKEN;
        if (!expired || refreshed || !this.#tokens.expire(credentials)) throw error;
      }
    }
  }

  /** Who waits for a connection that was given up meanwhile must not open the next. */
  #stillWanted(epoch: number): void {
    if (epoch !== this.#epoch) throw new ClosedError('the connection attempt was cancelled');
  }

  /** The connection there is, else a new one, once it can be spoken to. */
  async #connection(): Promise<Session> {
    if (!this.#session?.alive) {
      const session: Session = new Session(
        {
          url: this.#options.url,
          WebSocket: this.#options.WebSocket,
          worker: this.#options.worker,
          tls: this.#options.tls,
          maxIncomingBytes: this.#maxPacketBytes * 4,
        },
        {
          push: (push, packet) => this.#deliveries.push(push, packet),
          pubAck: (ack, packet) => {
            this.#outbox.answered(ack.id, ack.status, ack.data, packet);
            this.#farewell?.();
          },
          beatAnswered: (beat) => {
            this.#outbox.beatAnswered(beat);
            this.#farewell?.();
          },
          writable: () => this.#outbox.flush(),
          dropped: () => void this.counters.droppedPushes++,
          ended: (error) => this.#ended(session, error),
        },
      );
      this.#session = session;
    }
    const session = this.#session;
    await session.opened;
    return session;
  }

  /** A connection is gone. What happens to one that was not ready yet is up to who opened it. */
  #ended(session: Session, error: JmqtError): void {
    if (session !== this.#session) return;
    this.#session = undefined;
    this.#detach(error);
    this.#farewell?.();
    if (this.#state !== 'connected') return;
    this.#connected = undefined;
    this.#backoff?.sessionLasted(performance.now() - this.#connectedAt);
    const delay = this.#nextDelay(error);
    if (delay === undefined) {
      this.#giveUp(error);
      return;
    }
    this.#state = 'reconnecting';
    this.#events.emit('disconnect', { error, willReconnect: true, reason: reasonOf(error) });
    // A listener may have called disconnect.
    if (this.#state === 'reconnecting') this.#schedule(delay, error);
  }

  /** Milliseconds until the next attempt; `undefined` if there shall be none. */
  #nextDelay(error: unknown): number | undefined {
    const reason = reasonOf(error);
    if (reason) this.#reason = reason;
    if (reason?.code === DisconnectCode.TOKEN_EXPIRED) this.#tokens.expire(undefined);
    if (isFinal(error)) return undefined;
    const delay = this.#backoff?.next();
    // Clients that were all asked to wait for the same time spread out after it.
    return delay === undefined ? undefined : delay + (reason?.delay ?? 0);
  }

  #schedule(delay: number, error: JmqtError): void {
    this.#state = 'reconnecting';
    this.#notBefore = performance.now() + (reasonOf(error)?.delay ?? 0);
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      void this.#attempt(true);
    }, delay);
    this.#events.emit('reconnecting', { attempt: this.#backoff?.attempt ?? 0, delay, error });
    this.#tellState();
  }

  async #attempt(again: boolean): Promise<void> {
    const epoch = ++this.#epoch;
    const resumed = this.#connectedAt > 0 && again;
    try {
      await this.#limited('connecting', { timeout: this.#timeout || OPEN_MS }, () => this.#open(resumed, epoch));
    } catch (error) {
      if (epoch !== this.#epoch || (this.#state !== 'reconnecting' && this.#state !== 'connecting')) return;
      this.#epoch++;
      this.#detach(error as Error);
      this.#drop(error as Error);
      const failure = error instanceof JmqtError ? error : new NetworkError('connecting failed', { cause: error });
      const delay = this.#nextDelay(error);
      if (delay === undefined) this.#giveUp(failure);
      else this.#schedule(delay, failure);
    }
  }

  /** Nothing can be sent any more. */
  #detach(error: Error): void {
    this.#subscriptions.detach();
    this.#outbox.detach(error.message);
  }

  /** The connection is of no use any more. */
  #drop(error: Error): void {
    const session = this.#session;
    this.#session = undefined;
    session?.destroy(error instanceof JmqtError ? error : new NetworkError(error.message));
  }

  #subscription(
    kind: 'sub' | 'unsub',
    channel: string,
    persistent: boolean,
    subscriptions: ChannelSubscription[],
    options: CallOptions,
  ): Promise<void> {
    let cancel: ((error: Error) => void) | undefined;
    return limited<void>(
      `${kind} on ${isFilterKey(channel) ? 'filter' : 'channel'} ${JSON.stringify(nameOf(channel))}`,
      options,
      this.#timeout,
      (resolve, reject) => {
        cancel = this.#subscriptions.add({ kind, channel, persistent, subscriptions, resolve, reject });
      },
      (error) => cancel?.(error),
    );
  }

  #publish(
    kind: 'pub' | 'request',
    channel: string,
    data: unknown,
    qos: Qos,
    retain: boolean,
    options: CallOptions,
    timeout: number,
    checked = false,
  ): Promise<Answer | undefined> {
    let name: string;
    let json: string | undefined;
    try {
      name = channelName(channel);
      json = kind === 'request' && data === undefined ? undefined : encodeData(data, `${kind} on ${JSON.stringify(name)}`);
      if (json !== undefined && exceeds(json, this.#maxPacketBytes - 2_048)) {
        throw new UsageError(
          `the data of ${kind} on ${JSON.stringify(name)} is too large: a packet may have ${this.#maxPacketBytes} bytes ` +
            '(maxPacketBytes)',
        );
      }
      if (kind === 'pub' && name.startsWith('$')) {
        throw new UsageError(`${JSON.stringify(name)} is a control channel: use request`, Status.INVALID_CHANNEL);
      }
    } catch (error) {
      return Promise.reject(error as Error);
    }
    const literal = data instanceof RawJson && data.literal;
    let cancel: (() => void) | undefined;
    return limited<Answer | undefined>(
      `${kind} on channel ${JSON.stringify(name)}`,
      options,
      timeout,
      (resolve, reject) => {
        cancel = this.#outbox.add({ kind, channel: name, json, literal, qos, retain, checked, resolve, reject }).cancel;
      },
      () => cancel?.(),
    );
  }

  /** Runs what opens or uses a connection; when a limit is reached first, the connection goes. */
  #limited<T>(what: string, options: CallOptions, run: () => Promise<T>): Promise<T> {
    return limited<T>(
      what,
      options,
      this.#timeout,
      (resolve, reject) => void run().then(resolve, reject),
      (error) => {
        if (this.#state !== 'connected') this.#drop(error);
      },
      () =>
        this.#session?.understood
          ? ''
          : `, and nothing else came from ${this.#options.url}: check that this is the port of a JMQT server for this kind ` +
            'of URL (jmqt:// 8010, jmqts:// 8011, ws:// 8012, wss:// 8013)',
    );
  }

  #report(error: unknown): void {
    if (this.#events.has('error')) this.#events.emit('error', error);
    else console.error(error);
  }
}

/** Why the server ended the connection, where the error says so. */
function reasonOf(error: unknown): DisconnectReason | undefined {
  return error instanceof ConnectionLostError ? error.reason : undefined;
}

function wholeNumber(name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new UsageError(`the option ${name} must be a whole number from ${least} to ${most}, not ${String(value)}`);
}
