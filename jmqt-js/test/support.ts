/**
 * What tests share: the sample server as a process, a TCP proxy that breaks connections, a server that
 * says exactly what it is told to, and waiting for events.
 *
 * Nothing sleeps to let something happen. Whatever a test starts ends with it.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import * as net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

import { WebSocket } from 'ws';

import { Client } from '../dist/index.js';
import type { ClientEvents, ClientOptions, Message, WebSocketConstructor } from '../dist/index.js';

// A file that takes too long is ended by SIGTERM: no `t.after` runs then, but what waits for `exit`.
process.once('SIGTERM', () => process.exit(143));

export const WebSocketOfWs = WebSocket as unknown as WebSocketConstructor;

/** The program, or the reason to leave out the tests that need it. */
export const sampleServer = findSampleServer();
export const skip = sampleServer ? false : 'no sample server: build it, or name it in JMQT_SAMPLE_SERVER';

function findSampleServer(): string | undefined {
  const root = fileURLToPath(new URL('../../', import.meta.url));
  const named = process.env['JMQT_SAMPLE_SERVER'];
  const places = named ? [named] : ['debug', 'release'].map((kind) => join(root, 'target', kind, 'sample_server'));
  const found = places.find((place) => existsSync(place));
  assert.ok(found ?? !named, `JMQT_SAMPLE_SERVER names ${named}, which is not there`);
  return found;
}

export interface ServerSettings {
  timeoutSeconds?: number;
  /** PEM files: the server listens with TLS as well. */
  tls?: { cert: string; key: string };
  /** The server listens for MQTT as well. */
  mqtt?: boolean;
  environment?: Record<string, string>;
}

/** The sample server, with a store of its own. It can be killed and started again on the same ports. */
export class SampleServer {
  readonly #folder = mkdtempSync(join(tmpdir(), 'jmqt-js-'));
  readonly #settings: ServerSettings;
  #child: ChildProcess | undefined;
  /** By the names in the log: tcp, ws, tls, wss, mqtt. 0 at first, then what the system gave. */
  readonly #ports = new Map<string, number>();
  readonly #vanish = (): void => {
    this.#child?.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10 });
  };

  constructor(settings: ServerSettings) {
    this.#settings = settings;
    process.once('exit', this.#vanish);
  }

  get tcp(): string {
    return `jmqt://127.0.0.1:${this.tcpPort}`;
  }

  get ws(): string {
    return `ws://127.0.0.1:${this.wsPort}`;
  }

  get tcpPort(): number {
    return this.#ports.get('tcp') ?? 0;
  }

  get wsPort(): number {
    return this.#ports.get('ws') ?? 0;
  }

  get tlsPort(): number {
    return this.#ports.get('tls') ?? 0;
  }

  get wssPort(): number {
    return this.#ports.get('wss') ?? 0;
  }

  get mqttPort(): number {
    return this.#ports.get('mqtt') ?? 0;
  }

  async start(environment: Record<string, string> = {}): Promise<void> {
    const config = join(this.#folder, 'server.conf');
    const lines = [
      'BIND_ADDRESS = "127.0.0.1"',
      `SOCKET_PORT = ${this.tcpPort}`,
      `WEBSOCKET_PORT = ${this.wsPort}`,
      `SQLITE_PATH = ${JSON.stringify(join(this.#folder, 'jmqt.db'))}`,
      `TIMEOUT_SECONDS = ${this.#settings.timeoutSeconds ?? 60}`,
    ];
    const { mqtt, tls } = this.#settings;
    if (mqtt) lines.push(`MQTT_PORT = ${this.mqttPort}`);
    if (tls) {
      lines.push('ENABLE_SSL = true', `SSL_CERT_PATH = ${JSON.stringify(tls.cert)}`, `SSL_KEY_PATH = ${JSON.stringify(tls.key)}`);
      lines.push(`SSL_SOCKET_PORT = ${this.tlsPort}`, `SSL_WEBSOCKET_PORT = ${this.wssPort}`);
    }
    const expected = ['tcp', 'ws', ...(tls ? ['tls', 'wss'] : []), ...(mqtt ? ['mqtt'] : [])];
    const listens = new Set<string>();
    writeFileSync(config, lines.join('\n') + '\n');
    const child = spawn(sampleServer as string, ['--config', config], {
      cwd: this.#folder,
      env: { ...this.#settings.environment, ...environment },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#child = child;
    const log: string[] = [];
    for await (const line of createInterface({ input: child.stderr as NodeJS.ReadableStream })) {
      log.push(line);
      const [, kind, port] = /Listening on (\w+) 127\.0\.0\.1:(\d+)/.exec(line) ?? [];
      if (kind === undefined) continue;
      this.#ports.set(kind, Number(port));
      listens.add(kind);
      if (expected.every((name) => listens.has(name))) {
        child.stderr?.resume();
        return;
      }
    }
    throw new Error(`the sample server did not start:\n${log.join('\n')}`);
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  }

  async remove(): Promise<void> {
    await this.kill();
    process.off('exit', this.#vanish);
    rmSync(this.#folder, { recursive: true });
  }
}

export async function startServer(t: TestContext, settings: ServerSettings = {}): Promise<SampleServer> {
  const server = new SampleServer(settings);
  t.after(() => server.remove());
  await server.start();
  return server;
}

/** Short delays, so that tests do not wait for what they are not about. */
export const QUICK = { initialDelay: 10, maxDelay: 50 };

export function makeClient(t: TestContext, url: string, options: Partial<ClientOptions> = {}): Client {
  const client = new Client({ WebSocket: WebSocketOfWs, reconnect: QUICK, timeout: 20_000, ...options, url });
  t.after(() => client.disconnect({ timeout: 0 }));
  return client;
}

/** A client with a session. */
export async function enter(
  t: TestContext,
  url: string,
  name: string,
  options: Partial<ClientOptions> = {},
): Promise<Client> {
  const client = makeClient(t, url, options);
  await client.auth({ client_name: name });
  await client.conn();
  return client;
}

/** The next event of this name. */
export function next<K extends keyof ClientEvents>(client: Client, name: K): Promise<ClientEvents[K]> {
  return new Promise((resolve) => {
    const off = client.on(name, (event) => {
      off();
      resolve(event);
    });
  });
}

/** What was pushed on these channels, as it comes. */
export class Collected {
  readonly messages: Message[] = [];
  #waiting: (() => void)[] = [];

  constructor(client: Client, ...channels: string[]) {
    client.on('push', (message) => {
      if (channels.length > 0 && !channels.includes(message.channel)) return;
      this.messages.push(message);
      for (const check of this.#waiting) check();
    });
  }

  get data(): unknown[] {
    return this.messages.map(({ data }) => data);
  }

  /** Waits until `enough` holds. */
  until(enough: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const check = (): void => {
        if (!enough()) return;
        this.#waiting = this.#waiting.filter((other) => other !== check);
        resolve();
      };
      this.#waiting.push(check);
      check();
    });
  }

  count(count: number): Promise<void> {
    return this.until(() => this.messages.length >= count);
  }
}

/** Reproducible numbers from 0 to 1. */
export function randomNumbers(seed: number): () => number {
  return () => {
    seed = (seed * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return seed / 2 ** 32;
  };
}

/** A proxy that cuts each connection after some bytes, stalls, or forwards faithfully. */
export class Proxy {
  readonly #server: net.Server;
  readonly #pairs = new Set<[net.Socket, net.Socket]>();
  /** Bytes that the next connection carries, both ways together, before it is cut. */
  budget: () => number = () => Infinity;
  connections = 0;
  #stalled = false;

  constructor(targetPort: () => number) {
    this.#server = net.createServer((near) => {
      this.connections++;
      const far = net.connect(targetPort(), '127.0.0.1');
      const pair: [net.Socket, net.Socket] = [near, far];
      this.#pairs.add(pair);
      let left = this.budget();
      const carry = (from: net.Socket, to: net.Socket): void => {
        from.setNoDelay(true);
        from.on('data', (chunk: Buffer) => {
          if (this.#stalled) return;
          const part = chunk.subarray(0, Math.max(0, Math.min(left, chunk.length)));
          left -= chunk.length;
          to.write(part);
          // The part that is within the budget still gets there.
          if (left <= 0) to.end(() => this.#cut(pair));
        });
        const ended = (): void => {
          if (!this.#stalled) this.#cut(pair);
        };
        from.on('error', ended);
        from.on('close', ended);
      };
      carry(near, far);
      carry(far, near);
    });
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  async listen(): Promise<void> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  cutAll(): void {
    for (const pair of [...this.#pairs]) this.#cut(pair);
  }

  /** From now on nothing passes, and nobody is told. */
  stall(): void {
    this.#stalled = true;
  }

  resume(): void {
    this.#stalled = false;
    for (const pair of [...this.#pairs]) if (pair.some((socket) => socket.destroyed)) this.#cut(pair);
  }

  close(): void {
    this.#server.close();
    this.cutAll();
  }

  #cut(pair: [net.Socket, net.Socket]): void {
    this.#pairs.delete(pair);
    for (const socket of pair) socket.destroy();
  }
}

export async function startProxy(t: TestContext, targetPort: () => number): Promise<Proxy> {
  const proxy = new Proxy(targetPort);
  t.after(() => proxy.close());
  await proxy.listen();
  return proxy;
}

type Packet = Record<string, Record<string, unknown>>;

/** One connection as a scripted server sees it. */
export class FarEnd {
  readonly socket: net.Socket;
  readonly packets: Packet[] = [];
  #text = '';
  #waiting: (() => void)[] = [];

  constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      const parts = (this.#text + chunk.toString()).split('\0');
      this.#text = parts.pop() as string;
      for (const part of parts) this.packets.push(JSON.parse(part) as Packet);
      for (const wake of this.#waiting.splice(0)) wake();
    });
    socket.on('close', () => {
      for (const wake of this.#waiting.splice(0)) wake();
    });
  }

  send(...packets: string[]): void {
    this.socket.write(packets.map((packet) => packet + '\0').join(''));
  }

  /** The next packet, which must be of this type; heartbeats are left out. */
  async expect(type: string): Promise<Record<string, unknown>> {
    for (;;) {
      const packet = this.packets.shift();
      if (packet && 'hb' in packet && type !== 'hb') continue;
      if (packet) {
        assert.deepEqual(Object.keys(packet), [type], JSON.stringify(packet));
        return packet[type] as Record<string, unknown>;
      }
      assert.ok(!this.socket.destroyed, `the connection has ended while ${type} was expected`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  async acceptConn(timeoutSeconds = 60): Promise<Record<string, unknown>> {
    const conn = await this.expect('conn');
    this.send(`{"connAck":{"st":1,"ts":${timeoutSeconds}}}`);
    return conn;
  }
}

/** A server of which the test plays the part. */
export class ScriptedServer {
  readonly #server: net.Server;
  readonly #arrived: FarEnd[] = [];
  readonly #sockets = new Set<net.Socket>();
  #waiting: ((end: FarEnd) => void)[] = [];

  constructor() {
    this.#server = net.createServer((socket) => {
      this.#sockets.add(socket);
      const end = new FarEnd(socket);
      const waiting = this.#waiting.shift();
      if (waiting) waiting(end);
      else this.#arrived.push(end);
    });
  }

  get url(): string {
    return `jmqt://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  async listen(): Promise<void> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** The next connection. */
  accept(): Promise<FarEnd> {
    const arrived = this.#arrived.shift();
    return arrived ? Promise.resolve(arrived) : new Promise((resolve) => this.#waiting.push(resolve));
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

export async function script(t: TestContext): Promise<ScriptedServer> {
  const server = new ScriptedServer();
  t.after(() => server.close());
  await server.listen();
  return server;
}

/** A client and the far end of its session. */
export async function scriptedSession(
  t: TestContext,
  options: Partial<ClientOptions> = {},
): Promise<{ server: ScriptedServer; client: Client; end: FarEnd }> {
  const server = await script(t);
  const client = makeClient(t, server.url, { token: 't', clientId: 'me', ...options });
  const connected = client.conn();
  const end = await server.accept();
  await end.acceptConn();
  await connected;
  return { server, client, end };
}
