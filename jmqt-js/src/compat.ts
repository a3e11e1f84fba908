/**
 * `JMQTClient`: the interface of the first JMQT client for pages.
 *
 * For pages written for it, which then need another file and no other change. Callbacks and events come in its order, and
 * from the WebSocket's own events, so never inside of the call that they belong to; the exceptions are its exceptions: a
 * call without a session gets its 9 NETWORK_ERROR at once, as does `conn` its OK where there is a session already. Console
 * lines and members are those that pages may know. It does not reconnect by itself.
 *
 * What is better: every callback comes that was asked for, also when the connection ends or several calls overlap; a
 * QoS 1 message is acknowledged after its callback has returned, and handed over once; a page may have several clients.
 */
import { SeenIds } from './delivery.js';
import { Status } from './errors.js';
import { disconnectReason } from './reason.js';
import type { DisconnectReason } from './reason.js';
import type { WebSocketConstructor, WebSocketLike } from './transport.js';

export type JMQTPushCallback = (channel: string, client: string, data: unknown, qos: 0 | 1, retainFlag: 0 | 1) => unknown;
/** `reason`, which the first client does not have, is there if the server said why (protocol.md 2.22). */
export type JMQTDisconnectCallback = (websocketAddress: string, reason?: DisconnectReason) => unknown;
export type JMQTAuthCallback = (status: number, token: string, clientId: string, message: string) => unknown;
export type JMQTChannelCallback = (status: number, channel: string) => unknown;
export type JMQTPubCallback = (status: number, packetId: string, data: unknown) => unknown;

type Fields = Record<string, unknown>;

/** A call that was sent, or will be when the WebSocket is open, and has no answer yet. */
interface Waiting {
  kind: 'auth' | 'conn' | 'sub' | 'unsub' | 'pub';
  /** The channel, or the packet id. */
  name: string;
  /** Gets the fields of the answer; `undefined` where there will be none. */
  answered(fields: Fields | undefined): void;
}

/** How many QoS 1 messages are remembered as handed over: more than any window. */
const REMEMBERED = 4_096;

/** Counted for the whole page, so that ids differ between its clients. */
let lastPacketId = 0;

const log = (text: string): void => console.log(text);

export class JMQTClient {
  readonly JMQT_VERSION = '1.0';
  /** `JMQT.statusCodes`, as pages know it. */
  readonly statusCodes = Status;
  readonly websockAddress: string;
  websocket: WebSocketLike | null = null;
  clientId: string | null = null;
  authToken: string | null = null;
  /** The server's `ts`, in milliseconds. */
  timeoutMiliSeconds = 0;
  /** Milliseconds from one heartbeat to the next. */
  hbGap = 0;
  /** When the last heartbeat was answered, and sent; 0 before the first. */
  lastHbAck = 0;
  lastHbSent = 0;
  /** The WebSocket is open. */
  opened = false;
  /** There is a session. */
  connected = false;

  #push: JMQTPushCallback | undefined;
  #disconnect: JMQTDisconnectCallback | undefined;
  /** In the order of the calls. */
  #waiting: Waiting[] = [];
  /** Packets for when the WebSocket is open. */
  #unsent: string[] = [];
  #stopBeating: (() => void) | undefined;
  /** QoS 1 pushes that came before there was a callback. */
  #unclaimed: Fields[] = [];
  #seen = new SeenIds(REMEMBERED);
  /** Handed over, and not acknowledged yet. */
  readonly #held = new Set<string>();
  #session: string | null = null;
  #reason: DisconnectReason | undefined;

  constructor(host: string, port: number | string, enableSsl = false) {
    this.websockAddress = `${enableSsl ? 'wss' : 'ws'}://${host}:${port}/`;
  }

  /** One callback per event: a second one replaces the first. Other events are ignored. */
  on(event: 'push', callback: JMQTPushCallback): void;
  on(event: 'disconnect', callback: JMQTDisconnectCallback): void;
  on(event: string, callback: JMQTPushCallback | JMQTDisconnectCallback): void {
    if (event === 'disconnect') this.#disconnect = callback as JMQTDisconnectCallback;
    if (event !== 'push') return;
    this.#push = callback as JMQTPushCallback;
    if (this.#unclaimed.length > 0) setTimeout(() => this.#claim(), 0);
  }

  /** `callback(1, token, clientId, '')`, `callback(status, '', '', message)`, or `callback(9)`. */
  auth(data: unknown, callback?: JMQTAuthCallback): void {
    const answered = (fields: Fields | undefined): void => {
      if (!fields) return void (callback as ((status: number) => unknown) | undefined)?.(Status.NETWORK_ERROR);
      log(`JMQT authAck, status ${String(fields['st'])}`);
      const good = fields['st'] === Status.OK;
      const text = (key: string, wanted: boolean): string => (wanted ? String(fields[key] ?? '') : '');
      callback?.(Number(fields['st']), text('at', good), text('cl', good), text('mg', !good));
    };
    this.#open('auth', () => JSON.stringify({ auth: { dt: data } }), answered);
  }

  /** `callback(status)`. */
  conn(clientId: string, token: string, callback?: (status: number) => unknown): void {
    if (this.connected) {
      log('JMQT already connected..');
      callback?.(Status.OK);
      return;
    }
    this.clientId = clientId;
    this.authToken = token;
    const answered = (fields: Fields | undefined): void => {
      if (fields) this.#opened(fields, clientId);
      callback?.(fields ? Number(fields['st']) : Status.NETWORK_ERROR);
    };
    this.#open('conn', () => JSON.stringify({ conn: { at: token, cl: clientId } }), answered);
  }

  /** `callback(status, channel)`. Any true value makes it persistent. */
  sub(channel: string, persistent: unknown, callback?: JMQTChannelCallback): void {
    const text = (): string => JSON.stringify({ sub: { cn: channel, pr: persistent ? 1 : 0 } });
    this.#ask('sub', channel, `JMQT sub "${channel}", persistent ${String(persistent)}..`, text, callback);
  }

  /** `callback(status, channel)`. */
  unsub(channel: string, callback?: JMQTChannelCallback): void {
    this.#ask('unsub', channel, `JMQT unsub "${channel}"..`, () => JSON.stringify({ unsub: { cn: channel } }), callback);
  }

  /**
   * `callback(status, packetId, data)`, with QoS 1 and on control channels, whose reply is `data` (else null); with QoS 0
   * only if there is no session, and then without `data`. Returns the packet id.
   */
  pub(channel: string, data: unknown, retain: unknown, qos: unknown, callback?: JMQTPubCallback): string {
    const id = String(++lastPacketId);
    const control = String(channel).startsWith('$');
    const answered = control || (qos as number) > 0;
    const text = (): string =>
      JSON.stringify({
        pub: {
          cn: channel,
          dt: data,
          ...(control ? { id } : answered ? { q: qos, id } : {}),
          ...(retain ? { rt: 1 } : {}),
        },
      });
    const refused = callback as ((status: number, packetId: string) => unknown) | undefined;
    try {
      this.#sessionNeeded();
      const packet = text();
      log(`JMQT pub "${channel}", packet id ${id}..`);
      this.websocket?.send(packet);
    } catch (error) {
      log(`Error in pub: ${String(error)}`);
      refused?.(Status.NETWORK_ERROR, id);
      return id;
    }
    if (answered) {
      this.#waiting.push({
        kind: 'pub',
        name: id,
        answered: (fields) => {
          if (!fields) return void refused?.(Status.NETWORK_ERROR, id);
          log(`JMQT pubAck for "${id}", status ${String(fields['st'])}`);
          callback?.(Number(fields['st']), id, fields['dt'] ?? null);
        },
      });
    }
    return id;
  }

  /** Acknowledges a QoS 1 push, which happens by itself when its callback has returned. */
  pushAck(packetId: string): void {
    try {
      log(`JMQT pushAck packet id ${packetId}..`);
      this.websocket?.send(JSON.stringify({ pushAck: { id: packetId } }));
    } catch (error) {
      log(`Error in pushAck: ${String(error)}`);
    }
  }

  /** Begins to send heartbeats, which happens by itself in a session. */
  heartbeat(): void {
    this.#stopBeating?.();
    let due = this.#scheduled();
    if (due === undefined) return;
    const period = Math.max(250, Math.min(1_000, this.hbGap / 4));
    const tick = (): void => {
      if (due === undefined || Date.now() < due) return;
      if (this.connected) {
        log('JMQT heartbeat..');
        this.lastHbSent = Date.now();
        this.websocket?.send('{"hb":{}}');
        due = this.#scheduled();
      } else {
        log('JMQT heartbeat skipped!');
        due = undefined;
      }
      if (due === undefined) this.#stopBeating?.();
    };
    const timer = setInterval(tick, period); // a hidden page's comes late; the server's pings are answered then
    this.#stopBeating = () => clearInterval(timer);
  }

  /** Closes the WebSocket; with `sendDisconn` the server is told that this is on purpose. The event follows. */
  disconnect(sendDisconn = false): void {
    if (!this.websocket) return;
    if (sendDisconn && this.opened) {
      log('Sending disconn..');
      this.websocket.send('{"disconn":{}}');
    }
    log(`Closing web socket ${this.websockAddress}`);
    this.websocket.close();
  }

  /** The same as `disconnect(true)`. */
  close(): void {
    this.disconnect(true);
  }

  /** When the next heartbeat is due; `undefined` if the server does not answer them. */
  #scheduled(): number | undefined {
    const now = Date.now();
    if (this.lastHbSent === 0) this.lastHbAck = now;
    const silence = this.lastHbSent === 0 ? 0 : Math.abs(this.lastHbSent - this.lastHbAck);
    log(`JMQT heartbeat scheduled, diff ${silence}`);
    if (silence <= this.timeoutMiliSeconds) return now + this.hbGap;
    log('JMQT hb ack timeout!!');
    this.disconnect();
    return undefined;
  }

  /** Sends what needs no session: now, or when the WebSocket is open. */
  #open(kind: 'auth' | 'conn', text: () => string, answered: Waiting['answered']): void {
    try {
      const packet = text();
      if (this.opened) {
        log(`JMQT ${kind}..`);
        this.websocket?.send(packet);
      } else {
        if (this.#unsent.length === 0) this.#openWebSocket();
        this.#unsent.push(packet);
      }
    } catch (error) {
      log(`Error in ${kind}: ${String(error)}`);
      answered(undefined);
      return;
    }
    this.#waiting.push({ kind, name: '', answered });
  }

  #ask(kind: 'sub' | 'unsub', channel: string, line: string, text: () => string, callback?: JMQTChannelCallback): void {
    try {
      this.#sessionNeeded();
      const packet = text();
      log(line);
      this.websocket?.send(packet);
    } catch (error) {
      log(`Error in ${kind}: ${String(error)}`);
      callback?.(Status.NETWORK_ERROR, channel);
      return;
    }
    this.#waiting.push({
      kind,
      name: String(channel).trim(),
      answered: (fields) => {
        if (!fields) return void callback?.(Status.NETWORK_ERROR, channel);
        const name = typeof fields['cn'] === 'string' ? fields['cn'] : channel;
        log(`JMQT ${kind}Ack for "${name}", status ${String(fields['st'])}`);
        callback?.(Number(fields['st']), name);
      },
    });
  }

  #sessionNeeded(): void {
    if (!this.connected) throw new Error('JMQT client not connected');
  }

  #openWebSocket(): void {
    log(`Opening web socket ${this.websockAddress}`);
    const { WebSocket } = globalThis as unknown as { WebSocket: WebSocketConstructor };
    const socket = new WebSocket(this.websockAddress);
    this.websocket = socket;
    this.#reason = undefined;
    socket.onopen = () => {
      log(`Web socket opened ${this.websockAddress}`);
      this.opened = true;
      for (const packet of this.#unsent.splice(0)) {
        log(packet.startsWith('{"auth"') ? 'JMQT auth..' : 'JMQT conn..');
        socket.send(packet);
      }
    };
    socket.onmessage = (event: { data: unknown }) => this.#received(event.data);
    socket.onerror = () => {}; // `onclose` follows
    socket.onclose = (event: { code?: number; reason?: string }) => this.#closed(event);
  }

  #closed({ code, reason }: { code?: number; reason?: string }): void {
    log(`Web socket closed ${this.websockAddress}`);
    this.connected = false;
    this.opened = false;
    this.#stopBeating?.();
    this.#unsent = [];
    this.#unclaimed = [];
    const told = this.#reason ?? disconnectReason(code, reason ?? '');
    // One that throws must not keep the others from being called.
    const calls = this.#waiting.splice(0).map(({ answered }) => (): void => answered(undefined));
    const event = this.#disconnect;
    if (event) calls.push(told ? () => event(this.websockAddress, told) : () => event(this.websockAddress));
    for (const call of calls) {
      try {
        call();
      } catch (error) {
        report(error);
      }
    }
  }

  #received(text: unknown): void {
    let packet: Record<string, Fields>;
    try {
      packet = JSON.parse(String(text)) as Record<string, Fields>;
    } catch {
      return log('JMQT packet that is not JSON');
    }
    const [type] = Object.keys(packet ?? {});
    const fields = type === undefined ? undefined : packet[type];
    if (type === undefined || typeof fields !== 'object' || fields === null) return;
    switch (type) {
      case 'authAck':
      case 'connAck':
        return this.#answer(type.slice(0, -3), undefined, fields);
      case 'subAck':
      case 'unsubAck':
        return this.#answer(type.slice(0, -3), fields['cn'], fields);
      case 'pubAck':
        return this.#answer('pub', fields['id'], fields);
      case 'hbAck':
        this.lastHbAck = Date.now();
        return log('JMQT hbAck');
      case 'push':
        return this.#pushed(fields);
      case 'disconn':
        this.#reason = disconnectReason(Number(fields['st']), String(fields['mg'] ?? ''), Number(fields['ts'] ?? 0));
        log(`JMQT disconn, status ${String(fields['st'])}: ${String(fields['mg'] ?? '')}`);
    }
  }

  /** Answers come in the order of the calls; a name in the answer tells which. */
  #answer(kind: string, name: unknown, fields: Fields): void {
    const named = name === undefined || name === null ? undefined : String(name);
    const index = this.#waiting.findIndex((call) => call.kind === kind && (named === undefined || call.name === named));
    const [call] = index < 0 ? [] : this.#waiting.splice(index, 1);
    if (call) return call.answered(fields);
    const what = kind === 'pub' ? 'packet' : 'channel';
    log(`JMQT ${kind}Ack for unknown ${what} "${named}", status ${String(fields['st'])}`);
  }

  #opened(fields: Fields, clientId: string): void {
    log(`JMQT connAck, status ${String(fields['st'])}`);
    if (fields['st'] !== Status.OK) return;
    const seconds = Number(fields['ts']);
    this.timeoutMiliSeconds = seconds * 1000;
    this.hbGap = Math.max(seconds - 2, seconds / 4) * 1000;
    this.lastHbAck = 0;
    this.lastHbSent = 0;
    this.connected = true;
    if (this.#session !== clientId) this.#seen = new SeenIds(REMEMBERED); // the server may use the same ids for another client
    this.#session = clientId;
    this.#held.clear();
    this.heartbeat();
  }

  #pushed(fields: Fields): void {
    const qos1 = Number(fields['q'] ?? 0) === 1 && !fields['rt'];
    if (!qos1) {
      this.#hand(fields);
      return;
    }
    const key = JSON.stringify([fields['cn'], fields['id']]);
    if (this.#seen.has(key)) {
      // It was taken, and the acknowledgement got lost; or it will be acknowledged when it has been taken.
      if (!this.#held.has(key)) this.pushAck(String(fields['id']));
      return;
    }
    this.#seen.add(key);
    this.#held.add(key);
    if (this.#push) this.#take(fields, key);
    else this.#unclaimed.push(fields); // no more than the window
  }

  #claim(): void {
    for (const fields of this.#unclaimed.splice(0)) this.#take(fields, JSON.stringify([fields['cn'], fields['id']]));
  }

  /** Hands it over, and acknowledges it if that works. */
  #take(fields: Fields, key: string): void {
    const socket = this.websocket;
    const taken = (): void => {
      this.#held.delete(key);
      if (this.websocket === socket && this.connected) this.pushAck(String(fields['id']));
    };
    const failed = (error: unknown): void => {
      this.#held.delete(key);
      this.#seen.delete(key); // it comes again
      report(error);
    };
    try {
      const result = this.#hand(fields);
      if (typeof (result as PromiseLike<unknown> | undefined)?.then === 'function') {
        (result as PromiseLike<unknown>).then(taken, failed);
      } else {
        taken();
      }
    } catch (error) {
      failed(error);
    }
  }

  #hand(fields: Fields): unknown {
    const { cn, cl, dt, q, rt } = fields as { cn: string; cl: string; dt: unknown; q?: 0 | 1; rt?: 0 | 1 };
    return this.#push?.(cn, cl, dt, q ?? 0, rt ?? 0);
  }
}

/** As an error that nobody caught. */
function report(error: unknown): void {
  const { reportError } = globalThis as { reportError?: (error: unknown) => void };
  if (reportError) reportError(error);
  else console.error(error);
}
