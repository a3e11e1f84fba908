/**
 * One connection and the session on it, from opening it to its end (§5). Never used again afterwards.
 *
 * Matches answers with questions, keeps the session alive, hands on pushes and `pubAck`s. Not here:
 * reconnecting (`client`), what is published (`outbox`), who takes pushes (`delivery`).
 */
import { ConnectionLostError, RefusedError, Status, UnsupportedError, WrongServerError } from './errors.js';
import type { JmqtError } from './errors.js';
import { Fifo } from './fifo.js';
import { isFilterKey, nameOf } from './filter.js';
import { Heartbeat } from './heartbeat.js';
import { Inbox } from './inbox.js';
import { BadPacket, DISCONN, HEARTBEAT, decode, encodeAuth, encodeConn, encodePushAck, encodeSub, encodeUnsub } from './packet.js';
import type { ServerPacket } from './packet.js';
import { disconnectReason } from './reason.js';
import { openTransport } from './open.js';
import type { Transport, TransportOptions } from './transport.js';
import { endedByServer } from './websocket.js';

/** What the server gave, and what a `conn` needs. */
export interface Credentials {
  token: string;
  clientId: string;
  /**
   * When the token expires, in milliseconds as `Date.now()` counts them, where that is known. `refreshToken` is then called
   * ahead of it, and a token that has expired is not sent.
   */
  expiresAt?: number | undefined;
}

/** What the server said in its `connAck`. */
export interface Opened {
  timeoutSeconds: number;
  /** A publish that is sent again is not stored again (protocol.md 2.23). */
  publishesOnce: boolean;
}

export interface SessionEvents {
  push(push: Extract<ServerPacket, { type: 'push' }>, packet: string): void;
  pubAck(ack: Extract<ServerPacket, { type: 'pubAck' }>, packet: string): void;
  /** The server has handled everything that was sent before the heartbeat of this number. */
  beatAnswered(beat: number): void;
  writable(): void;
  /** A QoS 0 push was dropped because the application is too slow. */
  dropped(): void;
  ended(error: JmqtError): void;
}

/** How long the far end may take to close. */
const LINGER_MS = 2_000;

/** A question that waits for its answer. */
interface Question<T> {
  /** The name of a channel, or the key of a filter. */
  key?: string;
  resolve(answer: T): void;
  reject(error: Error): void;
}

export class Session {
  /** Fulfilled when the far end can be spoken to, rejected if that never happens. */
  readonly opened: Promise<void>;

  readonly #url: string;
  /** The page allows workers. */
  readonly #workers: boolean;
  readonly #events: SessionEvents;
  readonly #transport: Transport;
  readonly #inbox: Inbox;
  readonly #auths = new Fifo<Question<Credentials>>();
  readonly #conns = new Fifo<Question<Opened>>();
  readonly #subs = new Fifo<Question<void>>();
  readonly #unsubs = new Fifo<Question<void>>();
  #open: Question<void> | undefined;
  #heartbeat: Heartbeat | undefined;
  #beats = 0;
  #beatsAnswered = 0;
  #understood = false;
  #leaving = false;
  #closed: (() => void) | undefined;
  #error: JmqtError | undefined;

  constructor(options: TransportOptions, events: SessionEvents) {
    this.#url = options.url;
    this.#workers = options.worker ?? false;
    this.#events = events;
    this.#inbox = new Inbox({
      handle: (text) => this.#handle(text),
      full: () => this.#transport.pause(),
      emptied: () => this.#transport.resume(),
      mayDrop: (text) => this.#mayDrop(text),
    });
    this.opened = new Promise((resolve, reject) => {
      this.#open = { resolve, reject };
    });
    this.opened.catch(() => {}); // not everybody waits for it
    this.#transport = openTransport(options, {
      opened: () => this.#open?.resolve(),
      received: (text) => {
        this.#heartbeat?.heard();
        this.#inbox.add(text);
      },
      dropped: (count) => {
        for (let index = 0; index < count; index++) this.#events.dropped();
      },
      writable: () => this.#events.writable(),
      // What arrived before the end is handled before the end.
      closed: (error) => this.#inbox.end(() => this.#ended(error)),
    });
  }

  /** Whether anything was received that makes sense. */
  get understood(): boolean {
    return this.#understood;
  }

  get alive(): boolean {
    return this.#error === undefined;
  }

  /** Why it has ended. */
  get error(): JmqtError | undefined {
    return this.#error;
  }

  auth(data: unknown): Promise<Credentials> {
    return this.#ask(this.#auths, encodeAuth(data));
  }

  async conn(credentials: Credentials, window: number, publisher: string): Promise<Opened> {
    return this.#ask(this.#conns, encodeConn(credentials.token, credentials.clientId, window, publisher));
  }

  /** `key` is the name of a channel, or the key of a filter. */
  sub(key: string, persistent: boolean): Promise<void> {
    return this.#ask(this.#subs, encodeSub(key, persistent), key);
  }

  unsub(key: string): Promise<void> {
    return this.#ask(this.#unsubs, encodeUnsub(key), key);
  }

  send(text: string): void {
    if (!this.#error) this.#transport.send(text);
  }

  hasRoom(): boolean {
    return this.#transport.hasRoom();
  }

  /** Sends a heartbeat. Returns its number on this connection. */
  beat(): number {
    this.send(HEARTBEAT);
    return ++this.#beats;
  }

  acknowledge(id: string): void {
    this.send(encodePushAck(id));
  }

  /** Ends the session if the far end does not answer within a few seconds. Without effect before there is a session. */
  probe(): void {
    this.#heartbeat?.probe();
  }

  /** Says goodbye (§7.o). The server answers what it has, and closes. */
  leave(): void {
    this.#leaving = true;
    this.send(DISCONN);
  }

  /** Sends what is queued, and closes. Done when it is closed, or after a bounded wait for that. */
  close(): Promise<void> {
    this.#leaving = true;
    this.#heartbeat?.stop();
    if (this.#error) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.destroy(new ConnectionLostError(`${this.#url} did not close`)), LINGER_MS);
      this.#closed = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#transport.end();
    });
  }

  /** Ends at once, for this reason. */
  destroy(error: JmqtError): void {
    this.#transport.destroy();
    this.#inbox.close();
    this.#ended(error);
  }

  #ask<T>(line: Fifo<Question<T>>, text: string, key?: string): Promise<T> {
    if (this.#error) return Promise.reject(this.#error);
    this.#transport.send(text);
    return new Promise((resolve, reject) => {
      line.push({ ...(key === undefined ? {} : { key }), resolve, reject });
    });
  }

  /** `true` where the application shall run before the next packet. */
  #handle(text: string): boolean {
    if (this.#error) return false;
    let packet: ServerPacket;
    try {
      packet = decode(text);
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      // The first word decides who is there; later ones may be of a newer protocol, and are ignored.
      if (!this.#understood) {
        const start = JSON.stringify(text.slice(0, 40));
        const problem = `${this.#url} is not a JMQT server: ${error.message}, beginning with ${start}`;
        this.destroy(new WrongServerError(problem));
      }
      return false;
    }
    const isFirst = !this.#understood;
    this.#understood = true;
    switch (packet.type) {
      case 'push':
        if (!this.#leaving) this.#events.push(packet, text);
        return false;
      case 'pubAck':
        this.#events.pubAck(packet, text);
        return false;
      case 'hbAck':
        this.#heartbeat?.answered();
        this.#events.beatAnswered(++this.#beatsAnswered);
        return false;
      case 'subAck':
        answer(this.#subs, 'sub', packet);
        return true; // who has subscribed can get ready for the retained message, which is next
      case 'unsubAck':
        answer(this.#unsubs, 'unsub', packet);
        return true;
      case 'authAck': {
        const question = this.#auths.shift();
        if (packet.status === Status.OK) question?.resolve({ token: packet.token, clientId: packet.clientId });
        else question?.reject(new RefusedError('auth', packet.status, undefined, packet.message));
        return true;
      }
      case 'connAck': {
        const question = this.#conns.shift();
        if (packet.status !== Status.OK) {
          question?.reject(new RefusedError('conn', packet.status));
        } else {
          this.#keepAlive(packet.timeoutSeconds);
          question?.resolve({ timeoutSeconds: packet.timeoutSeconds, publishesOnce: packet.publishesOnce });
        }
        return true;
      }
      case 'disconn': {
        // Nothing follows it (protocol.md 2.22).
        const { code, text: words, seconds } = packet;
        const reason = disconnectReason(code, words, seconds);
        this.destroy(
          reason
            ? endedByServer(this.#url, reason, isFirst)
            : new ConnectionLostError(`the server ended the connection to ${this.#url} with code ${code}: ${words}`),
        );
        return true;
      }
    }
  }

  #keepAlive(timeoutSeconds: number): void {
    this.#heartbeat?.stop();
    const events = {
      beat: () => void this.beat(),
      silent: (milliseconds: number) => {
        const seconds = (milliseconds / 1000).toFixed(1);
        this.destroy(new ConnectionLostError(`no data from ${this.#url} for ${seconds} seconds`));
      },
    };
    this.#heartbeat = new Heartbeat(timeoutSeconds, events, undefined, this.#workers);
  }

  #mayDrop(text: string): boolean {
    try {
      const packet = decode(text);
      if (packet.type !== 'push' || packet.qos === 1) return false;
      this.#events.dropped();
    } catch {
      // not a packet: nobody misses it
    }
    return true;
  }

  #ended(error: JmqtError): void {
    if (this.#error) return;
    this.#error = error;
    this.#heartbeat?.stop();
    this.#open?.reject(error);
    for (const line of [this.#auths, this.#conns, this.#subs, this.#unsubs]) {
      for (const question of line.clear()) question.reject(error);
    }
    this.#events.ended(error);
    this.#closed?.();
  }
}

/** Answers come in the order of the questions; the channel or filter tells which, where an answer is missing. */
function answer(line: Fifo<Question<void>>, request: string, packet: Extract<ServerPacket, { type: 'subAck' | 'unsubAck' }>): void {
  const { status, channel, filter } = packet;
  const find = (key: string): Question<void> | undefined => {
    for (let i = 0; i < line.length; i++) if (line.at(i)?.key === key) return line.at(i);
    return undefined;
  };
  // An answer without `wc` to a filter is of a server that took it for a name (protocol.md 2.25).
  const question = channel === undefined ? line.at(0) : filter ? find(` ${channel}`) : (find(channel) ?? find(` ${channel}`));
  if (!question) return;
  line.remove(question);
  const { key } = question;
  if (key !== undefined && channel !== undefined && isFilterKey(key) && !filter) {
    question.reject(new UnsupportedError(request, nameOf(key)));
  } else if (status === Status.OK) question.resolve();
  else question.reject(new RefusedError(request, status, key === undefined ? undefined : nameOf(key)));
}
