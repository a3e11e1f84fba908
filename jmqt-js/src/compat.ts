/**
 * `JMQTClient`: the interface of the first JMQT client for pages, over this one.
 *
 * For pages written for it, which then need another file and no other change. What they rely on holds
 * here too: one callback per event, no reconnecting by itself, and 9 NETWORK_ERROR where there is no
 * connection. What is better: every callback comes that was asked for, also when the connection ends.
 */
import { Client } from './client.js';
import type { ClientOptions } from './client.js';
import { ConnectionLostError, JmqtError, Status } from './errors.js';
import type { Answer } from './outbox.js';

export type JMQTPushCallback = (channel: string, client: string, data: unknown, qos: 0 | 1, retainFlag: 0 | 1) => unknown;
export type JMQTDisconnectCallback = (websocketAddress: string) => unknown;

export class JMQTClient {
  /** `JMQT.statusCodes`, as pages know it. */
  readonly statusCodes = Status;
  readonly websockAddress: string;
  clientId: string | null = null;
  authToken: string | null = null;
  readonly #client: Client;
  #push: JMQTPushCallback | undefined;
  #disconnect: JMQTDisconnectCallback | undefined;

  /** `options` go to the `Client` underneath; `{ reconnect: {} }` makes it reconnect by itself. */
  constructor(host: string, port: number | string, enableSsl = false, options: Partial<ClientOptions> = {}) {
    this.websockAddress = `${enableSsl ? 'wss' : 'ws'}://${host}:${port}/`;
    this.#client = new Client({ reconnect: false, ...options, url: this.websockAddress });
    this.#client.on('disconnect', ({ willReconnect }) => {
      if (!willReconnect) this.#disconnect?.(this.websockAddress);
    });
  }

  get connected(): boolean {
    return this.#client.state === 'connected';
  }

  /** One callback per event: a second one replaces the first. Other events are ignored. */
  on(event: 'push', callback: JMQTPushCallback): void;
  on(event: 'disconnect', callback: JMQTDisconnectCallback): void;
  on(event: string, callback: JMQTPushCallback | JMQTDisconnectCallback): void {
    if (event === 'disconnect') this.#disconnect = callback as JMQTDisconnectCallback;
    if (event !== 'push') return;
    if (!this.#push) {
      this.#client.on('push', ({ channel, client, data, qos, retained }) =>
        this.#push?.(channel, client, data, qos, retained ? 1 : 0),
      );
    }
    this.#push = callback as JMQTPushCallback;
  }

  /** `callback(1, token, clientId, '')`, or `callback(status, '', '', message)`. */
  auth(data: unknown, callback?: (status: number, token: string, clientId: string, message: string) => unknown): void {
    this.#client.auth(data).then(
      ({ token, clientId }) => callback?.(Status.OK, token, clientId, ''),
      (error: unknown) => {
        const reply = error instanceof JmqtError && 'reply' in error ? error.reply : undefined;
        callback?.(statusOf(error), '', '', typeof reply === 'string' ? reply : messageOf(error));
        this.#failed(error);
      },
    );
  }

  /** `callback(status)`. */
  conn(clientId: string, token: string, callback?: (status: number) => unknown): void {
    this.clientId = clientId;
    this.authToken = token;
    if (this.connected) {
      callback?.(Status.OK);
      return;
    }
    this.#client.conn({ clientId, token }).then(
      () => callback?.(Status.OK),
      (error: unknown) => {
        callback?.(statusOf(error));
        this.#failed(error);
      },
    );
  }

  /** `callback(status, channel)`. */
  sub(channel: string, persistent: unknown, callback?: (status: number, channel: string) => unknown): void {
    const persistentFlag = persistent === true || persistent === 1 || persistent === '1';
    this.#withSession(() => this.#client.sub(channel, { persistent: persistentFlag })).then(
      (subscription) => callback?.(Status.OK, subscription.channel),
      (error: unknown) => callback?.(statusOf(error), channel),
    );
  }

  /** `callback(status, channel)`. */
  unsub(channel: string, callback?: (status: number, channel: string) => unknown): void {
    this.#withSession(() => this.#client.unsub(channel)).then(
      () => callback?.(Status.OK, channel),
      (error: unknown) => callback?.(statusOf(error), channel),
    );
  }

  /**
   * `callback(status, packetId, data)`, with QoS 1 and on control channels, whose reply is `data` (else null);
   * with QoS 0 only if there is no session. Returns the packet id, which is empty with QoS 0.
   */
  pub(
    channel: string,
    data: unknown,
    retain: unknown,
    qos: unknown,
    callback?: (status: number, packetId: string, data: unknown) => unknown,
  ): string {
    const atLeastOnce = Number(qos) === 1 ? 1 : 0;
    let id = '';
    const published = this.#withSession(() => {
      const started = this.#client.publishForAnswer(channel, data, atLeastOnce, Boolean(Number(retain)));
      id = started.id;
      return started.answer;
    });
    published.then(
      (answer: Answer | undefined) => {
        if (answer) callback?.(Status.OK, answer.id, answer.data ?? null);
      },
      (error: unknown) => {
        const reply = error instanceof JmqtError && 'reply' in error ? error.reply : undefined;
        callback?.(statusOf(error), id, reply ?? null);
      },
    );
    return id;
  }

  /** Closes the connection; with `sendDisconn` the server is told that this is on purpose. */
  disconnect(sendDisconn = false): void {
    void this.#client.disconnect({ timeout: 0, silent: !sendDisconn });
  }

  /** The same as `disconnect(true)`. */
  close(): void {
    this.disconnect(true);
  }

  #withSession<T>(call: () => Promise<T>): Promise<T> {
    return this.connected ? call() : Promise.reject(new ConnectionLostError('there is no session: call conn first'));
  }

  /** Where no connection could be made, pages expect the event as well. */
  #failed(error: unknown): void {
    if (statusOf(error) === Status.NETWORK_ERROR) this.#disconnect?.(this.websockAddress);
  }
}

function statusOf(error: unknown): number {
  return error instanceof JmqtError ? error.status : Status.NETWORK_ERROR;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
