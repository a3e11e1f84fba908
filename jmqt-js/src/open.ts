/** Opens the kind of connection that a URL asks for. */
import { hasWorkers } from './blob-worker.js';
import { UsageError } from './errors.js';
import type { JmqtError } from './errors.js';
import type { Transport, TransportEvents, TransportOptions } from './transport.js';
import { WebSocketTransport } from './websocket.js';
import { WorkerTransport } from './worker.js';

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

/** A transport while its code is being loaded. Nothing is sent before `opened`, so there is little to do. */
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
