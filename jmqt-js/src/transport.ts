/**
 * Packet texts over something with a far end: which kind is for which URL, and what all kinds promise.
 *
 * Not here: what is in a packet (`packet`), and what a session is (`session`).
 */
import { hasWorkers } from './blob-worker.js';
import { UsageError } from './errors.js';
import type { JmqtError } from './errors.js';
import { WebSocketTransport } from './websocket.js';
import type { WebSocketConstructor } from './websocket.js';
import { WorkerTransport } from './worker.js';

/** What a transport tells its owner. After `closed` nothing more is said. */
export interface TransportEvents {
  /** The far end can be spoken to. */
  opened(): void;
  /** One packet has arrived. */
  received(text: string): void;
  /** So many QoS 0 pushes were dropped, because they came faster than they were taken. */
  dropped(count: number): void;
  /** There was no room to write, and now there is. */
  writable(): void;
  /** The connection has ended, or was never made. */
  closed(error: JmqtError): void;
}

/** A connection, from being asked for to its end. */
export interface Transport {
  /** Queues one packet. Only after `opened`; afterwards without effect once it is closed. */
  send(text: string): void;
  /** Whether what is queued is little enough to queue more. When it is not, `writable` will follow. */
  hasRoom(): boolean;
  /** Stops reading, where the platform can. */
  pause(): void;
  resume(): void;
  /** Sends what is queued and then closes. `closed` follows. */
  end(): void;
  /** Drops everything at once. Nothing is said any more. */
  destroy(): void;
}

/** More bytes than this waiting to be sent mean: wait. */
export const HIGH_WATER_BYTES = 1 << 20;

export interface TransportOptions {
  url: string;
  WebSocket?: WebSocketConstructor | undefined;
  /** Open a page's WebSocket in a worker. */
  worker?: boolean | undefined;
  tls?: Record<string, unknown> | undefined;
  maxIncomingBytes: number;
}

/** Begins to connect. @throws UsageError if the URL is not one of ours. */
export function openTransport(options: TransportOptions, events: TransportEvents): Transport {
  const url = parseUrl(options.url);
  switch (url.protocol) {
    case 'ws:':
    case 'wss:':
      if (options.worker && !options.WebSocket && hasWorkers()) return new WorkerTransport(url.href, events);
      return new WebSocketTransport(url.href, options.WebSocket, events);
    default:
      return new LateTransport(import('./socket.js').then(({ openSocket }) => openSocket(url, options, events)), events);
  }
}

/** @throws UsageError if it is not one of the four kinds. */
export function parseUrl(text: string): URL {
  let url: URL | undefined;
  try {
    url = new URL(text);
  } catch {
    // said below
  }
  const known = ['ws:', 'wss:', 'jmqt:', 'jmqts:'];
  if (!url || !known.includes(url.protocol) || url.hostname === '') {
    throw new UsageError(
      `${JSON.stringify(text)} is not the URL of a JMQT server: expected ws://host:8012, wss://host:8013, ` +
        'or, in Node, jmqt://host:8010 or jmqts://host:8011',
    );
  }
  return url;
}

/** A transport whose code is still being loaded. Nothing is sent before `opened`, so there is little to do. */
class LateTransport implements Transport {
  #transport: Transport | undefined;
  #destroyed = false;

  constructor(loading: Promise<Transport>, events: TransportEvents) {
    loading.then(
      (transport) => {
        this.#transport = transport;
        if (this.#destroyed) transport.destroy();
      },
      (error: JmqtError) => {
        if (!this.#destroyed) events.closed(error);
      },
    );
  }

  send(text: string): void {
    this.#transport?.send(text);
  }

  hasRoom(): boolean {
    return this.#transport?.hasRoom() ?? false;
  }

  pause(): void {
    this.#transport?.pause();
  }

  resume(): void {
    this.#transport?.resume();
  }

  end(): void {
    if (this.#transport) this.#transport.end();
    else this.destroy();
  }

  destroy(): void {
    this.#destroyed = true;
    this.#transport?.destroy();
  }
}
