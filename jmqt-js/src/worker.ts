/**
 * A page's WebSocket in a worker, which passes messages on in batches.
 *
 * A browser spends several times as long on the event of one WebSocket message as this client on what is in
 * it, and the page's frames wait for all of them. Here they are events of another thread. The worker is
 * made from a Blob, so there is no second file; where a page's `Content-Security-Policy` does not allow
 * that (`worker-src blob:`), the WebSocket is opened in the page after all.
 */
import { startWorker } from './blob-worker.js';
import { ConnectionLostError, UsageError } from './errors.js';
import { HIGH_WATER_BYTES } from './transport.js';
import type { Transport, TransportEvents } from './transport.js';
import { WebSocketTransport, closedError } from './websocket.js';

/** What the page says to the worker. */
type Order =
  | { open: string; highWater: number; limit: number }
  /** Packets to send. */
  | { send: string[] }
  /** The last batch was taken. */
  | { more: true }
  | { close: true };

/** What the worker says to the page. */
type Report =
  | { ready: true }
  | { opened: true }
  | { texts: string[]; dropped: number }
  /** How many of the given packets have been sent, approximately. */
  | { sent: number }
  | { closed: { code: number; reason: string } }
  | { impossible: string };

/** More packets than this waiting in the worker: QoS 0 pushes beyond are dropped. */
export const WORKER_LIMIT = 65_536;

export class WorkerTransport implements Transport {
  readonly #url: string;
  #events: TransportEvents | undefined;
  #worker: Worker | undefined;
  /** Instead of a worker that could not be made. */
  #direct: Transport | undefined;
  #ready = false;
  #opened = false;
  #paused = false;
  /** A batch was received, and the next one has not been asked for. */
  #owed = false;
  #outgoing: string[] = [];
  /** Characters given to the worker and not known to have left. */
  #unsent = 0;
  #unsentLengths: number[] = [];
  #wanted = false;

  constructor(url: string, events: TransportEvents) {
    this.#url = url;
    this.#events = events;
    try {
      const { worker, release } = startWorker(`(${inWorker.toString()})()`);
      this.#worker = worker;
      this.#worker.onmessage = ({ data }: MessageEvent<Report>) => this.#heard(data, release);
      this.#worker.onerror = (event) => {
        event.preventDefault?.();
        release();
        if (this.#ready) this.#failed(event.message);
        else this.#fallBack();
      };
      this.#order({ open: url, highWater: HIGH_WATER_BYTES, limit: WORKER_LIMIT });
    } catch {
      this.#fallBack();
    }
  }

  send(text: string): void {
    if (this.#direct) return this.#direct.send(text);
    if (!this.#events) return;
    if (this.#outgoing.length === 0) queueMicrotask(() => this.#flush());
    this.#outgoing.push(text);
    this.#unsent += text.length;
  }

  hasRoom(): boolean {
    if (this.#direct) return this.#direct.hasRoom();
    this.#wanted = this.#unsent > HIGH_WATER_BYTES;
    return !this.#wanted;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#askForMore();
  }

  end(): void {
    if (this.#direct) return this.#direct.end();
    this.#flush();
    this.#order({ close: true });
  }

  destroy(): void {
    this.#events = undefined;
    this.#direct?.destroy();
    this.#worker?.terminate();
    this.#worker = undefined;
  }

  #order(order: Order): void {
    this.#worker?.postMessage(order);
  }

  #flush(): void {
    if (this.#outgoing.length === 0) return;
    this.#unsentLengths.push(this.#outgoing.reduce((sum, text) => sum + text.length, 0));
    this.#order({ send: this.#outgoing });
    this.#outgoing = [];
  }

  #heard(report: Report, release: () => void): void {
    const events = this.#events;
    if (!events) return;
    if ('ready' in report) {
      this.#ready = true;
      release();
    } else if ('opened' in report) {
      this.#opened = true;
      events.opened();
    } else if ('texts' in report) {
      this.#owed = true;
      if (report.dropped > 0) events.dropped(report.dropped);
      for (const text of report.texts) events.received(text);
      if (!this.#paused) this.#askForMore();
    } else if ('sent' in report) {
      for (let batches = report.sent; batches > 0; batches--) this.#unsent -= this.#unsentLengths.shift() ?? 0;
      if (this.#wanted && this.#unsent <= HIGH_WATER_BYTES) {
        this.#wanted = false;
        events.writable();
      }
    } else if ('closed' in report) {
      this.destroy();
      events.closed(closedError(this.#url, this.#opened, report.closed.code, report.closed.reason));
    } else {
      this.destroy();
      events.closed(new UsageError(`cannot open the WebSocket ${this.#url} here: ${report.impossible}`));
    }
  }

  #askForMore(): void {
    if (!this.#owed) return;
    this.#owed = false;
    this.#order({ more: true });
  }

  #failed(message: string): void {
    const events = this.#events;
    this.destroy();
    events?.closed(new ConnectionLostError(`the worker with the connection to ${this.#url} failed: ${message}`));
  }

  /** Nothing has been sent yet: that waits for `opened`. */
  #fallBack(): void {
    this.#worker?.terminate();
    this.#worker = undefined;
    if (!this.#events || this.#direct) return;
    this.#direct = new WebSocketTransport(this.#url, undefined, this.#events);
  }
}

/** The worker. It becomes the text of a program of its own, so it uses nothing from outside of it. */
function inWorker(): void {
  const ROOM_POLL_MS = 10;
  const scope = globalThis as unknown as {
    onmessage: ((event: { data: Order }) => void) | null;
    postMessage(report: Report): void;
  };
  let socket: WebSocket | undefined;
  let highWater = 0;
  let limit = 0;
  let batch: string[] = [];
  let dropped = 0;
  let mayPost = true;
  let unreported = 0;
  let polling: ReturnType<typeof setInterval> | undefined;

  const post = (): void => {
    if (!mayPost || batch.length === 0) return;
    mayPost = false;
    scope.postMessage({ texts: batch, dropped });
    batch = [];
    dropped = 0;
  };
  /** A QoS 0 push, which nobody is promised. */
  const mayDrop = (text: string): boolean => {
    try {
      const { push } = JSON.parse(text) as { push?: { q?: unknown } };
      return push !== undefined && (push.q === undefined || Number(push.q) === 0);
    } catch {
      return true;
    }
  };
  const tellOfRoom = (): void => {
    if (unreported === 0 || !socket || socket.bufferedAmount > highWater) return;
    scope.postMessage({ sent: unreported });
    unreported = 0;
    clearInterval(polling);
    polling = undefined;
  };
  scope.onmessage = ({ data: order }) => {
    if ('open' in order) {
      ({ highWater, limit } = order);
      try {
        socket = new WebSocket(order.open);
      } catch (error) {
        scope.postMessage({ impossible: (error as Error).message });
        return;
      }
      socket.onopen = () => scope.postMessage({ opened: true });
      socket.onmessage = ({ data }: { data: unknown }) => {
        if (typeof data !== 'string') return;
        if (batch.length >= limit && mayDrop(data)) {
          dropped++;
          return;
        }
        batch.push(data);
        post();
      };
      socket.onclose = ({ code, reason }) => {
        clearInterval(polling);
        mayPost = true; // the end does not wait
        post();
        scope.postMessage({ closed: { code, reason } });
      };
    } else if ('send' in order) {
      for (const text of order.send) socket?.send(text);
      unreported++;
      tellOfRoom();
      if (unreported > 0) polling ??= setInterval(tellOfRoom, ROOM_POLL_MS);
    } else if ('more' in order) {
      mayPost = true;
      post();
    } else {
      socket?.close();
    }
  };
  scope.postMessage({ ready: true });
}
