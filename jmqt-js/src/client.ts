/**
 * The client: what an application calls, and the life of its connections.
 *
 * One `Session` after the other carries what is kept here from each to the next: subscriptions,
 * publishes without an acknowledgement (`Outbox`), messages on their way (`Deliveries`).
 */
import { Deliveries } from './delivery.js';
import type { MessageStream, PushListener } from './delivery.js';
import { ClosedError, JmqtError, NetworkError, RefusedError, Status, UsageError } from './errors.js';
import { Events } from './events.js';
import { limited } from './limit.js';
import type { CallOptions } from './limit.js';
import type { Message } from './message.js';
import { Outbox } from './outbox.js';
import type { Answer, QueueFull } from './outbox.js';
import { RawJson, channelName, encodeData, exceeds, rawData } from './packet.js';
import type { Qos } from './packet.js';
import { Backoff } from './reconnect.js';
import type { ReconnectOptions } from './reconnect.js';
import { Session } from './session.js';
import type { Credentials } from './session.js';
import { Subscriptions, isFinal } from './subscriptions.js';
import { parseUrl } from './transport.js';
import type { WebSocketConstructor } from './websocket.js';

export interface ClientOptions {
  /** `ws://host:8012`, `wss://host:8013`; in Node also `jmqt://host:8010`, `jmqts://host:8011`. */
  url: string;
  /** A token and client id from an earlier `auth`, or from elsewhere. */
  token?: string;
  clientId?: string;
  /**
   * Gets a new token when the server does not take the one there is (6 INVALID_TOKEN), at `conn` and
   * after a reconnect. Without it, the data of the last `auth` is used once more.
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
   * What happens to a publish beyond that. `wait` (default): the promise of `pub` waits for room, and whoever
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
   * In a page: open the WebSocket in a worker, so that many messages a second do not hold up frames. Needs
   * `worker-src blob:` where the page has a `Content-Security-Policy`; without it the page opens the
   * WebSocket itself. Default false.
   */
  worker?: boolean;
  /** The constructor to use instead of the platform's `WebSocket`. */
  WebSocket?: WebSocketConstructor;
  /** For `jmqts://`: options of Node's `tls.connect`, such as `ca`. */
  tls?: Record<string, unknown>;
}

export interface RefreshContext {
  clientId: string;
  /** Asks the server for a token, like `client.auth`. */
  authenticate(data: unknown): Promise<Credentials>;
}

export interface SubOptions extends CallOptions {
  /** Outlives the session: QoS 1 messages are kept while this client is away (§9.c). Default false. */
  persistent?: boolean;
  /** Is called with each message of this channel, like a `push` listener. */
  onPush?: PushListener;
}

export interface PubOptions extends CallOptions {
  qos?: Qos;
  /** Keep it as the channel's retained message (§9.b). */
  retain?: boolean;
}

/** A session is open, its subscriptions made. */
export interface ConnectedEvent {
  clientId: string;
  /** `ts` of the `connAck`. */
  timeoutSeconds: number;
  /** It replaces one that was lost. */
  resumed: boolean;
}

/** A session has ended, or, after such an event, the attempts to replace it. */
export interface DisconnectEvent {
  /** `ClosedError` after `disconnect()`. */
  error: JmqtError;
  willReconnect: boolean;
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

/** A subscription, and its messages for `for await`. */
export interface Subscription extends AsyncIterable<Message> {
  readonly channel: string;
  readonly persistent: boolean;
  unsub(options?: CallOptions): Promise<void>;
  [Symbol.asyncIterator](): MessageStream;
}

const LEAVE_MS = 5_000;

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

  #state: ClientState = 'idle';
  #session: Session | undefined;
  #credentials: Partial<Credentials>;
  /** Whose session there was last. */
  #lastClient: string | undefined;
  /** Of the last successful `auth`, for a new token. */
  #authData: { data: unknown } | undefined;
  #connectedAt = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;
  /** Rises with each attempt and with its end, so that what still waits for an old one does no harm. */
  #epoch = 0;

  /** @throws UsageError if an option makes no sense. Connects to nothing yet. */
  constructor(options: ClientOptions) {
    parseUrl(options.url);
    this.#options = options;
    this.#timeout = options.timeout ?? 30_000;
    this.#maxPacketBytes = options.maxPacketBytes ?? 4 << 20;
    this.#window = wholeNumber('window', options.window ?? 128, 1, 4_096);
    this.#credentials = {
      ...(options.token === undefined ? {} : { token: options.token }),
      ...(options.clientId === undefined ? {} : { clientId: options.clientId }),
    };
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
      inFlight: wholeNumber('publishWindow', options.publishWindow ?? 1_000, 1, 1e9),
      dropped: () => void this.counters.droppedPublishes++,
    });
    this.#subscriptions = new Subscriptions((channel, error) => {
      this.#deliveries.end(channel, error);
      if (error) this.#report(error);
    });
    this.#backoff = options.reconnect === false ? undefined : new Backoff(options.reconnect ?? {});
  }

  get state(): ClientState {
    return this.#state;
  }

  /** Known after `auth`, or as it was given. */
  get clientId(): string | undefined {
    return this.#credentials.clientId;
  }

  /** The channels this client has subscribed to, and whether persistently. */
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
        throw new UsageError(`auth is not possible while the client is ${this.#state}: call disconnect first`);
      }
      const credentials = await this.#authenticate(data);
      this.#credentials = credentials;
      return credentials;
    });
  }

  /**
   * Opens the session (§7.c). Done when the server has accepted it and the subscriptions are made.
   *
   * @throws RefusedError; NetworkError and its kin; UsageError without a token and client id.
   */
  async conn(credentials: Partial<Credentials> = {}, options: CallOptions = {}): Promise<ConnectedEvent> {
    if (this.#state !== 'idle') {
      throw new UsageError(`conn is not possible while the client is ${this.#state}: call disconnect first`);
    }
    const { token, clientId } = { ...this.#credentials, ...credentials };
    if (token === undefined || clientId === undefined) {
      throw new UsageError('conn needs a token and a client id: call auth first, or pass both');
    }
    if (this.#credentials.clientId !== clientId) this.#authData = undefined; // it was another client's
    this.#credentials = { token, clientId };
    if (this.#lastClient !== undefined && this.#lastClient !== clientId) this.#deliveries.forgetIds();
    this.#lastClient = clientId;
    this.#state = 'connecting';
    const epoch = ++this.#epoch;
    try {
      return await this.#limited('conn', options, () => this.#open(false, epoch));
    } catch (error) {
      if (epoch === this.#epoch) {
        this.#epoch++;
        this.#state = 'idle';
        this.#detach(error as Error);
        if (!(error instanceof RefusedError)) this.#drop(error as Error);
      }
      throw error;
    }
  }

  /**
   * Subscribes (§7.g). Also without a session: then it is done when there is one. It is made again after
   * each reconnect.
   *
   * @throws RefusedError; UsageError for a name that is none; TimeoutError; AbortedError.
   */
  async sub(channel: string, options: SubOptions = {}): Promise<Subscription> {
    const name = channelName(channel);
    const persistent = options.persistent ?? false;
    this.#subscriptions.check(name, persistent);
    const stop = options.onPush ? this.#deliveries.listenTo(name, options.onPush) : undefined;
    if (!stop) this.#deliveries.expect(name);
    try {
      await this.#subscription('sub', name, persistent, options);
    } catch (error) {
      stop?.();
      throw error;
    }
    return {
      channel: name,
      persistent,
      unsub: (unsubOptions) => this.unsub(name, unsubOptions),
      [Symbol.asyncIterator]: () => this.messages(name),
    };
  }

  /** Ends a subscription (§7.i), and the iterators over its messages once they are empty. */
  async unsub(channel: string, options: CallOptions = {}): Promise<void> {
    const name = channelName(channel);
    await this.#subscription('unsub', name, false, options);
  }

  /**
   * The messages of one channel, subscribed to by this client or by the server: the presence channel, the
   * client's own `#` channel. Begins with those that nobody has taken yet.
   */
  messages(channel: string): MessageStream {
    return this.#deliveries.messages(channelName(channel));
  }

  /**
   * Publishes (§7.k). With QoS 1 done when the server has stored it; with QoS 0 when it was sent, or has
   * its place in the queue. Also without a session. QoS 1 is sent again after a reconnect until it is
   * acknowledged, so it may arrive twice.
   *
   * @throws RefusedError (QoS 1 only); QueueFullError; ClosedError; UsageError; TimeoutError; AbortedError.
   */
  pub(channel: string, data: unknown, options: PubOptions = {}): Promise<void> {
    const qos = options.qos ?? 0;
    if (qos !== 0 && qos !== 1) return Promise.reject(new UsageError(`qos must be 0 or 1, not ${String(qos)}`));
    return this.#publish('pub', channel, data, qos, options.retain ?? false, options, 0).then(nothing);
  }

  /** Publishes to one client (§9.d). @throws RefusedError with status 8 (QoS 1) if it is away. */
  p2p(clientId: string, data: unknown, options: Omit<PubOptions, 'retain'> = {}): Promise<void> {
    return this.pub(`#${clientId}`, data, options);
  }

  /**
   * Asks the server application something on a control channel (§9.d). The answer is its reply data.
   *
   * @throws RefusedError with the reply data in `reply`; ConnectionLostError if the connection ended in between.
   */
  request(channel: string, data?: unknown, options?: CallOptions & { raw?: false }): Promise<unknown>;
  /** The same, with the reply as the text it was sent as. */
  request(channel: string, data: unknown, options: CallOptions & { raw: true }): Promise<RawJson>;
  async request(channel: string, data?: unknown, options: CallOptions & { raw?: boolean } = {}): Promise<unknown> {
    if (!channelName(channel).startsWith('$')) {
      throw new UsageError(`${JSON.stringify(channel)} is not a control channel: those begin with $`, Status.INVALID_CHANNEL);
    }
    const answer = await this.#publish('request', channel, data, 0, false, options, this.#timeout);
    return options.raw ? new RawJson(rawData(answer?.packet ?? '') ?? 'null') : answer?.data;
  }

  /** @internal For the drop-in: the packet id at once, and what was answered with it. */
  publishForAnswer(
    channel: string,
    data: unknown,
    qos: Qos,
    retain: boolean,
  ): { id: string; answer: Promise<Answer | undefined> } {
    const kind = String(channel).trimStart().startsWith('$') ? 'request' : 'pub';
    let id = '';
    const answer = this.#publish(kind, channel, data, qos, retain, {}, 0, (given) => (id = given));
    return { id, answer };
  }

  /** Tries at once instead of waiting for the time that `reconnecting` told. Otherwise without effect. */
  reconnectNow(): void {
    if (this.#state !== 'reconnecting' || this.#retry === undefined) return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    void this.#reconnect();
  }

  /**
   * Leaves (§9.f): says so (unless `silent`), waits for acknowledgements of what was published (`timeout`
   * milliseconds, 5,000 by default), and closes. What is unfinished then fails with ClosedError, and
   * iterators end. `conn` may be called again afterwards.
   */
  async disconnect(options: { timeout?: number; silent?: boolean } = {}): Promise<void> {
    if (this.#state === 'idle' || this.#state === 'closing') {
      if (this.#state === 'idle') await this.#finish(new ClosedError('the client was disconnected'));
      return;
    }
    const session = this.#session;
    const wasConnected = this.#state === 'connected';
    this.#state = 'closing';
    clearTimeout(this.#retry);
    this.#retry = undefined;
    if (session?.alive && wasConnected) {
      if (!options.silent) session.leave();
      if (this.#outbox.inFlight > 0 && options.timeout !== 0) await this.#goodbye(session, options.timeout ?? LEAVE_MS);
    }
    const closed = this.#finish(new ClosedError('the client was disconnected'), wasConnected);
    if (wasConnected) {
      this.#events.emit('disconnect', {
        error: new ClosedError('the client was disconnected'),
        willReconnect: false,
      });
    }
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

  /** Everything ends with this error; the client can be used anew. Done when the connection is closed. */
  #finish(error: JmqtError, politely = false): Promise<void> {
    this.#state = 'idle';
    clearTimeout(this.#retry);
    this.#retry = undefined;
    const session = this.#session;
    this.#session = undefined;
    this.#epoch++;
    const closed = politely ? session?.close() : session?.destroy(error);
    this.#detach(error);
    this.#outbox.close(error);
    this.#subscriptions.close(error);
    this.#deliveries.endAll(error instanceof ClosedError ? undefined : error);
    return Promise.resolve(closed);
  }

  async #open(resumed: boolean, epoch: number): Promise<ConnectedEvent> {
    const { session, timeoutSeconds } = await this.#openSession(epoch);
    await this.#subscriptions.attach(session);
    this.#stillWanted(epoch);
    if (!session.alive) throw new NetworkError('the connection ended while its subscriptions were made');
    this.#state = 'connected';
    this.#connectedAt = performance.now();
    this.#outbox.attach(session);
    const event = { clientId: this.#credentials.clientId ?? '', timeoutSeconds, resumed };
    this.#events.emit('connected', event);
    return event;
  }

  /** `conn`, and once more with a new token if the server does not take this one. */
  async #openSession(epoch: number): Promise<{ session: Session; timeoutSeconds: number }> {
    for (let refreshed = false; ; refreshed = true) {
      this.#stillWanted(epoch);
      const session = await this.#connection();
      this.#stillWanted(epoch);
      try {
        const timeoutSeconds = await session.conn(this.#credentials as Credentials, this.#window);
        return { session, timeoutSeconds };
      } catch (error) {
        const expired = error instanceof RefusedError && error.status === Status.INVALID_TOKEN;
        if (!expired || refreshed || !(await this.#refresh())) throw error;
      }
    }
  }

  /** Who waits for a connection that was given up meanwhile must not open the next. */
  #stillWanted(epoch: number): void {
    if (epoch !== this.#epoch) throw new ClosedError('the connection was given up');
  }

  /** Whether there is a new token. */
  async #refresh(): Promise<boolean> {
    const { refreshToken } = this.#options;
    if (refreshToken) {
      const clientId = this.#credentials.clientId ?? '';
      const authenticate = (data: unknown): Promise<Credentials> => this.#authenticate(data);
      this.#credentials = await refreshToken({ clientId, authenticate });
      return true;
    }
    if (!this.#authData) return false;
    this.#credentials = await this.#authenticate(this.#authData.data);
    return true;
  }

  async #authenticate(data: unknown): Promise<Credentials> {
    const session = await this.#connection();
    const credentials = await session.auth(data);
    this.#authData = { data };
    return credentials;
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
    this.#backoff?.sessionLasted(performance.now() - this.#connectedAt);
    const delay = this.#backoff?.next();
    this.#state = delay === undefined ? 'idle' : 'reconnecting';
    if (delay === undefined) void this.#finish(error);
    this.#events.emit('disconnect', { error, willReconnect: delay !== undefined });
    // A listener may have called disconnect.
    if (delay !== undefined && this.#state === 'reconnecting') this.#schedule(delay, error);
  }

  #schedule(delay: number, error: JmqtError): void {
    this.#state = 'reconnecting';
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      void this.#reconnect();
    }, delay);
    this.#events.emit('reconnecting', { attempt: this.#backoff?.attempt ?? 0, delay, error });
  }

  async #reconnect(): Promise<void> {
    const epoch = ++this.#epoch;
    try {
      await this.#limited('reconnecting', { timeout: this.#timeout || 30_000 }, () => this.#open(true, epoch));
    } catch (error) {
      if (epoch !== this.#epoch || this.#state !== 'reconnecting') return;
      this.#epoch++;
      this.#detach(error as Error);
      this.#drop(error as Error);
      const failure = error instanceof JmqtError ? error : new NetworkError('reconnecting failed', { cause: error });
      const delay = isFinal(error) ? undefined : this.#backoff?.next();
      if (delay !== undefined) {
        this.#schedule(delay, failure);
        return;
      }
      void this.#finish(failure);
      this.#events.emit('disconnect', { error: failure, willReconnect: false });
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

  #subscription(kind: 'sub' | 'unsub', channel: string, persistent: boolean, options: CallOptions): Promise<void> {
    let cancel: (() => void) | undefined;
    return limited<void>(
      `${kind} on channel ${JSON.stringify(channel)}`,
      options,
      this.#timeout,
      (resolve, reject) => {
        cancel = this.#subscriptions.add({ kind, channel, persistent, resolve, reject });
      },
      () => cancel?.(),
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
    identified?: (id: string) => void,
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
    let cancel: (() => void) | undefined;
    return limited<Answer | undefined>(
      `${kind} on channel ${JSON.stringify(name)}`,
      options,
      timeout,
      (resolve, reject) => {
        const added = this.#outbox.add({ kind, channel: name, json, qos, retain, resolve, reject });
        cancel = added.cancel;
        identified?.(added.id);
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

function nothing(): void {}

function wholeNumber(name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new UsageError(`the option ${name} must be a whole number from ${least} to ${most}, not ${String(value)}`);
}
