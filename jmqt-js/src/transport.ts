/**
 * Packet texts over a connection: what every kind of connection promises.
 *
 * Not here: which kind is for which URL (`open`), what is in a packet (`packet`), and what a session is (`session`).
 */
import type { JmqtError } from './errors.js';

/** What a transport tells its owner. After `closed` nothing more is said. */
export interface TransportEvents {
  /** The far end can be spoken to. */
  opened(): void;
  /** One packet has arrived. */
  received(text: string): void;
  /** How many QoS 0 pushes were dropped because they arrived faster than they were read. */
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

/** What is needed of a WebSocket: that of browsers, of Node 22, and of the package `ws`. */
export interface WebSocketLike {
  readonly bufferedAmount: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(text: string): void;
  close(): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

export interface TransportOptions {
  url: string;
  WebSocket?: WebSocketConstructor | undefined;
  /** Open a page's WebSocket in a worker. */
  worker?: boolean | undefined;
  tls?: Record<string, unknown> | undefined;
  maxIncomingBytes: number;
}
