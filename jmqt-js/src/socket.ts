/**
 * Packets, each ended by a NUL, over TCP or TLS (§3). For Node alone: bundles for browsers contain
 * `socket-browser` instead.
 */
import * as net from 'node:net';
import * as tls from 'node:tls';

import { ConnectionLostError, NetworkError, WrongServerError } from './errors.js';
import type { JmqtError } from './errors.js';
import { HIGH_WATER_BYTES } from './transport.js';
import type { Transport, TransportEvents, TransportOptions } from './transport.js';

const NUL = 0;
const TLS_ALERT = 0x15;
/** The first bytes of CONNACK and DISCONNECT of MQTT. */
const MQTT_CONNACK = 0x20;
const MQTT_DISCONNECT = 0xe0;

export function openSocket(url: URL, options: TransportOptions, events: TransportEvents): Transport {
  return new SocketTransport(url, options, events);
}

class SocketTransport implements Transport {
  readonly #socket: net.Socket;
  readonly #where: string;
  readonly #secure: boolean;
  readonly #maxBytes: number;
  #events: TransportEvents | undefined;
  #opened = false;
  #received = false;
  /** The beginning of a packet that is not complete. */
  #pieces: Buffer[] = [];
  #pieceBytes = 0;
  /** Packets of this turn of the event loop: they go to the kernel together. */
  #outgoing = '';

  constructor(url: URL, options: TransportOptions, events: TransportEvents) {
    this.#secure = url.protocol === 'jmqts:';
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const port = Number(url.port) || (this.#secure ? 8011 : 8010);
    this.#where = `${host}:${port}`;
    this.#maxBytes = options.maxIncomingBytes;
    this.#events = events;
    this.#socket = this.#secure
      ? tls.connect({ ...(net.isIP(host) ? {} : { servername: host }), ...options.tls, host, port })
      : net.connect({ host, port });
    this.#socket.setNoDelay(true);
    this.#socket.on(this.#secure ? 'secureConnect' : 'connect', () => {
      this.#opened = true;
      this.#events?.opened();
    });
    this.#socket.on('data', (chunk: Buffer) => this.#data(chunk));
    this.#socket.on('drain', () => this.#events?.writable());
    this.#socket.on('error', (error: NodeJS.ErrnoException) => this.#closed(this.#explain(error)));
    this.#socket.on('close', () => this.#closed(this.#explain(undefined)));
  }

  send(text: string): void {
    if (!this.#events) return;
    if (this.#outgoing === '') queueMicrotask(() => this.#flush());
    this.#outgoing += text;
    this.#outgoing += '\0';
    if (this.#outgoing.length > HIGH_WATER_BYTES) this.#flush();
  }

  hasRoom(): boolean {
    return this.#socket.writableLength <= HIGH_WATER_BYTES;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): void {
    this.#flush();
    this.#socket.end();
  }

  destroy(): void {
    this.#events = undefined;
    this.#socket.destroy();
  }

  #flush(): void {
    if (this.#outgoing === '') return;
    const text = this.#outgoing;
    this.#outgoing = '';
    if (this.#socket.writable) this.#socket.write(text);
  }

  #data(chunk: Buffer): void {
    if (!this.#received && !this.#looksLikePacket(chunk)) return;
    let start = 0;
    for (let end = chunk.indexOf(NUL); end >= 0; end = chunk.indexOf(NUL, start)) {
      const text = this.#complete(chunk, start, end);
      start = end + 1;
      this.#events?.received(text);
    }
    if (start === chunk.length) return;
    this.#pieces.push(start === 0 ? chunk : Buffer.from(chunk.subarray(start)));
    this.#pieceBytes += chunk.length - start;
    if (this.#pieceBytes > this.#maxBytes) {
      const problem = `${this.#where} sent a packet of more than ${this.#maxBytes} bytes`;
      this.#closed(new NetworkError(`${problem}: raise maxPacketBytes if the server sends packets of this size`));
    }
  }

  #complete(chunk: Buffer, start: number, end: number): string {
    if (this.#pieceBytes === 0) return chunk.toString('utf8', start, end);
    this.#pieces.push(chunk.subarray(start, end));
    const text = Buffer.concat(this.#pieces).toString('utf8');
    this.#pieces = [];
    this.#pieceBytes = 0;
    return text;
  }

  /** The first byte tells other servers from ours. */
  #looksLikePacket(chunk: Buffer): boolean {
    this.#received = true;
    const first = String.fromCharCode(chunk[0] ?? 0);
    if (isMqtt(chunk)) {
      this.#closed(
        new WrongServerError(
          `${this.#where} answers with MQTT: that is the port of an MQTT server (usually 1883, with TLS 8883); the ` +
            'TCP port of a JMQT server is usually 8010, with TLS 8011',
        ),
      );
      return false;
    }
    if (first === '{' || first.trim() === '') return true;
    if (chunk[0] === TLS_ALERT) {
      this.#closed(
        new WrongServerError(`${this.#where} answers with TLS to plain TCP: use jmqts://, or the port without TLS`),
      );
    } else if (chunk.toString('latin1', 0, 5) === 'HTTP/') {
      this.#closed(
        new WrongServerError(
          `${this.#where} speaks HTTP: if that is the WebSocket port (usually 8012), use ws:// instead of jmqt://, ` +
            'or the TCP port (usually 8010)',
        ),
      );
    } else {
      const start = JSON.stringify(chunk.toString('latin1', 0, 16));
      this.#closed(new WrongServerError(`${this.#where} is not a JMQT server: its data begins with ${start}`));
    }
    return false;
  }

  #explain(error: NodeJS.ErrnoException | undefined): JmqtError {
    const options = error ? { cause: error } : undefined;
    const said = error ? `: ${error.message || error.code}` : ''; // of several addresses only the code tells
    if (this.#received) return new ConnectionLostError(`the connection to ${this.#where} was closed${said}`, options);
    if (this.#opened) {
      const check = 'check that this is the TCP port (usually 8010, with TLS 8011; 8012 and 8013 are WebSocket)';
      return new ConnectionLostError(
        `${this.#where} closed the connection before it said anything${said}; if it always does, ${check}, and that ` +
          'jmqt:// is used without TLS, jmqts:// with it',
        options,
      );
    }
    if (this.#secure && error && !['connect', 'getaddrinfo'].includes(error.syscall ?? '') && !('errors' in error)) {
      return new WrongServerError(
        `no TLS connection to ${this.#where}${said}; check that this is the TLS port (usually 8011) and that its ` +
          'certificate is trusted (option `tls`: { ca })',
        options,
      );
    }
    return new NetworkError(`cannot connect to ${this.#where}${said}`, options);
  }

  /** Says so once, and drops what is left of the socket. */
  #closed(error: JmqtError): void {
    const events = this.#events;
    this.destroy();
    events?.closed(error);
  }
}

/** A server of MQTT refuses what it does not understand. The first byte of a CONNACK is a space; no white space follows it. */
function isMqtt(chunk: Buffer): boolean {
  const length = chunk[1];
  if (chunk[0] === MQTT_CONNACK) return length !== undefined && length >= 2 && length < 0x20 && !(length >= 9 && length <= 13);
  return chunk[0] === MQTT_DISCONNECT;
}
