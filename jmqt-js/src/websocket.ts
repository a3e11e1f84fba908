/** One packet per text message over the platform's own WebSocket (§3). */
import { ConnectionLostError, NetworkError, UsageError, WrongServerError } from './errors.js';
import type { JmqtError } from './errors.js';
import { DisconnectCode, describeReason, disconnectReason } from './reason.js';
import type { DisconnectReason } from './reason.js';
import { HIGH_WATER_BYTES } from './transport.js';
import type { Transport, TransportEvents, WebSocketConstructor, WebSocketLike } from './transport.js';

/** A browser does not say when there is room again, so it is asked this often. */
const ROOM_POLL_MS = 10;

export class WebSocketTransport implements Transport {
  readonly #socket: WebSocketLike;
  readonly #url: string;
  #events: TransportEvents | undefined;
  #opened = false;
  #failure: string | undefined;
  #poll: ReturnType<typeof setInterval> | undefined;

  constructor(url: string, given: WebSocketConstructor | undefined, events: TransportEvents) {
    const constructor = given ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    if (!constructor) {
      throw new UsageError(
        'this platform has no WebSocket (Node has one from version 22 on): pass one in the option `WebSocket`, ' +
          'such as the package ws exports, or connect to the TCP port with a jmqt:// URL',
      );
    }
    this.#url = url;
    this.#events = events;
    try {
      this.#socket = new constructor(url);
    } catch (cause) {
      // A page from https:// that opens ws://, for one.
      throw new UsageError(`cannot open the WebSocket ${url} here: ${(cause as Error).message}`);
    }
    this.#socket.onopen = () => {
      this.#opened = true;
      this.#events?.opened();
    };
    this.#socket.onmessage = (event: { data: unknown }) => {
      if (typeof event.data === 'string') this.#events?.received(event.data);
    };
    this.#socket.onerror = (event: { message?: string }) => {
      this.#failure = event.message; // `ws` says something here, browsers do not
    };
    this.#socket.onclose = (event: { code?: number; reason?: string }) => this.#closed(event);
  }

  send(text: string): void {
    if (this.#events) this.#socket.send(text);
  }

  hasRoom(): boolean {
    if (this.#socket.bufferedAmount <= HIGH_WATER_BYTES) return true;
    this.#poll ??= setInterval(() => {
      if (this.#socket.bufferedAmount > HIGH_WATER_BYTES) return;
      this.#stopPolling();
      this.#events?.writable();
    }, ROOM_POLL_MS);
    return false;
  }

  // A WebSocket cannot be paused.
  pause(): void {}
  resume(): void {}

  end(): void {
    this.#socket.close();
  }

  destroy(): void {
    this.#events = undefined;
    this.#stopPolling();
    this.#socket.close();
    // The closing handshake with a dead peer can take minutes; `ws` can do without it.
    (this.#socket as { terminate?: () => void }).terminate?.();
  }

  #stopPolling(): void {
    clearInterval(this.#poll);
    this.#poll = undefined;
  }

  #closed(event: { code?: number; reason?: string }): void {
    const events = this.#events;
    this.#events = undefined;
    this.#stopPolling();
    if (!events) return;
    events.closed(closedError(this.#url, this.#opened, event.code, event.reason ?? '', this.#failure));
  }
}

/** Why a WebSocket has ended, or was never open. `failure` is what the platform says about it, if anything. */
export function closedError(
  url: string,
  opened: boolean,
  code: number | undefined,
  text: string,
  failure?: string,
): JmqtError {
  const said = failure ? ` (${failure})` : '';
  if (opened) {
    const reason = disconnectReason(code, text);
    if (reason) return endedByServer(url, reason);
    const ending = code === undefined ? '' : ` with code ${code}${text === '' ? '' : `, ${text}`}`;
    return new ConnectionLostError(`the connection to ${url} was closed${ending}${said}`);
  }
  // Refusals over HTTP and broken TLS look alike to a page: `ws` alone tells.
  const kind = /server response|upgrade|ssl|tls|wrong version|parse error|socket hang up/i.test(said)
    ? WrongServerError
    : NetworkError;
  return new kind(
    `no WebSocket could be opened to ${url}${said}: check that a JMQT server runs there, that the port is ` +
      'its WebSocket port (usually 8012, with TLS 8013; 8010 and 8011 are TCP), and that ws:// is used ' +
      'without TLS, wss:// with it',
  );
}

/**
 * The server has said why it ends the connection (protocol.md 2.22). If that is the first thing it says, it takes the
 * packets for bad ones, because they belong to another port.
 */
export function endedByServer(url: string, reason: DisconnectReason, isFirst = false): ConnectionLostError {
  const advice = isFirst && reason.code === DisconnectCode.BAD_PACKETS ? `; ${PORTS}` : '';
  const message = `the server ended the connection to ${url}: ${describeReason(reason)}${advice}`;
  return new ConnectionLostError(message, { reason });
}

const PORTS =
  'the URL may have the port of another protocol: jmqt:// is usually 8010, jmqts:// 8011, ws:// 8012, wss:// 8013';
