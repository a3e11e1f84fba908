/** The WebSocket in a worker: the same conversation, back pressure, and what happens without workers. */
import assert from 'node:assert/strict';
import { resolveObjectURL } from 'node:buffer';
import { after, beforeEach, test } from 'node:test';
import * as vm from 'node:vm';

import { WebSocket } from 'ws';
import type { WebSocketServer as Server } from 'ws';
import { WebSocketServer } from 'ws';

import { Client } from '../dist/index.js';
import { openTransport } from '../dist/open.js';
import { WORKER_LIMIT } from '../dist/worker.js';
import { Collected, skip, startServer } from './support.js';

/** How a worker behaves here, as Node has none of the kind pages have. */
let kind: 'good' | 'refused' | 'throws' = 'good';
let made = 0;
/** Batches on their way from the workers to the page. */
const batches: number[] = [];
/** Is told of every message that a worker has heard, how many it was by then. */
let heard: (count: number) => void = () => {};

/** A program with a scope of its own, which gets and gives copies of messages, later. */
class FakeWorker {
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((event: { message: string }) => void) | null = null;
  #scope: Record<string, unknown> | undefined;
  #socket: WebSocket | undefined;
  #orders: unknown[] = [];
  #over = false;

  constructor(url: string) {
    made++;
    if (kind === 'throws') throw new Error('workers are not allowed here');
    void this.#run(url);
  }

  async #run(url: string): Promise<void> {
    const source = await resolveObjectURL(url)?.text();
    if (kind === 'refused' || source === undefined) {
      this.onerror?.({ message: 'refused by a policy' });
      return;
    }
    const worker = this;
    class Socket extends WebSocket {
      constructor(address: string) {
        super(address);
        worker.#socket = this;
        this.on('error', () => {}); // `close` follows, as in a page
        let count = 0;
        this.on('message', () => setImmediate(() => heard(count)));
        this.on('message', () => count++);
      }
    }
    this.#scope = {
      WebSocket: Socket,
      setInterval,
      clearInterval,
      postMessage: (report: { texts?: string[] }) => {
        const data = structuredClone(report);
        if (report.texts) batches.push(report.texts.length);
        setImmediate(() => {
          if (!this.#over) this.onmessage?.({ data });
        });
      },
    };
    vm.runInNewContext(source, this.#scope);
    for (const order of this.#orders) this.#deliver(order);
  }

  #deliver(data: unknown): void {
    (this.#scope?.['onmessage'] as (event: { data: unknown }) => void)({ data });
  }

  postMessage(order: unknown): void {
    const data = structuredClone(order);
    if (this.#scope) setImmediate(() => this.#over || this.#deliver(data));
    else this.#orders.push(data);
  }

  terminate(): void {
    this.#over = true;
    this.#socket?.terminate();
  }
}

const scope = globalThis as { Worker?: unknown; WebSocket?: unknown };
const before = { Worker: scope.Worker, WebSocket: scope.WebSocket };
scope.Worker = FakeWorker;
scope.WebSocket = WebSocket;
after(() => Object.assign(scope, before));
beforeEach(() => {
  kind = 'good';
  made = 0;
  batches.length = 0;
});

for (const [how, name] of [
  ['good', 'in a worker'],
  ['refused', 'in the page, where a policy refuses workers'],
  ['throws', 'in the page, where workers cannot be made'],
] as const) {
  test(`a conversation ${name}`, { skip }, async (t) => {
    kind = how;
    const server = await startServer(t);
    const client = new Client({ url: server.ws, worker: true, reconnect: { initialDelay: 10 } });
    const other = new Client({ url: server.tcp });
    t.after(() => Promise.all([client.disconnect(), other.disconnect()]));
    for (const [who, each] of [['page', client], ['other', other]] as const) {
      await each.auth({ client_name: who });
      await each.conn();
    }
    // One connection for the token, one for the session, or one for both.
    assert.ok(made >= 1);
    const got = new Collected(client, 'news');
    await client.sub('news', { persistent: true });
    for (let n = 0; n < 500; n++) void other.pub('news', { n }, { qos: n % 2 === 0 ? 0 : 1 });
    await got.count(500);
    for (const qos of [0, 1]) {
      const numbers = got.messages.filter((message) => message.qos === qos).map(({ data }) => (data as { n: number }).n);
      assert.deepEqual(numbers, Array.from({ length: 250 }, (_, index) => index * 2 + qos));
    }
    await client.pub('answers', 'é'.repeat(2_000_000), { qos: 1 });
    assert.deepEqual(await client.request('$mySubscriptions'), {
      channels: { '#page': 'persistent', news: 'persistent', update: 'persistent' },
    });

    const connected = new Promise((resolve) => client.on('connected', resolve));
    await server.kill();
    await server.start();
    await connected;
    // The other one has reconnected or will: what it says is kept for it.
    await other.pub('news', 'after', { qos: 1 });
    await got.count(501);
    assert.equal(got.messages.at(-1)?.data, 'after');
  });
}

/** Connected to a server that says what the test says. */
async function scripted(t: { after(task: () => void): void }): Promise<{
  say(text: string): void;
  received: string[];
  dropped(): number;
  transport: ReturnType<typeof openTransport>;
  until(holds: () => boolean): Promise<void>;
  closed: Promise<string>;
}> {
  const server: Server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.after(() => server.close());
  await new Promise((resolve) => server.once('listening', resolve));
  const address = server.address() as { port: number };
  const peer = new Promise<WebSocket>((resolve) => server.once('connection', (socket) => resolve(socket)));
  const received: string[] = [];
  let dropped = 0;
  let look = (): void => {};
  let tell: (message: string) => void;
  const closed = new Promise<string>((resolve) => (tell = resolve));
  let open: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  const transport = openTransport(
    { url: `ws://127.0.0.1:${address.port}`, worker: true, maxIncomingBytes: 1 << 20 },
    {
      opened: () => open(),
      received: (text) => {
        received.push(text);
        look();
      },
      dropped: (count) => void (dropped += count),
      writable: () => {},
      closed: (error) => tell(error.message),
    },
  );
  t.after(() => transport.destroy());
  await opened;
  const socket = await peer;
  return {
    say: (text) => socket.send(text),
    received,
    dropped: () => dropped,
    transport,
    until: (holds) =>
      new Promise((resolve) => {
        look = () => {
          if (holds()) resolve();
        };
        look();
      }),
    closed,
  };
}

test('a busy page gets the waiting messages in one batch, in order', async (t) => {
  const { say, received, transport, until } = await scripted(t);
  transport.pause();
  for (let n = 0; n < 1_000; n++) say(`${n}`);
  await until(() => received.length > 0); // the first batch was on its way
  const first = received.length;
  assert.ok(first < 1_000);
  say('last');
  transport.resume();
  await until(() => received.includes('last'));
  assert.deepEqual(received, [...Array.from({ length: 1_000 }, (_, n) => `${n}`), 'last']);
  assert.ok(batches.length < 500, `${batches.length} batches`);
});

test('only QoS 0 pushes beyond a limit are dropped, and they are counted', async (t) => {
  const { say, received, dropped, transport, until } = await scripted(t);
  transport.pause();
  say('first');
  await until(() => received.length === 1);
  const push = '{"push":{"cn":"a","dt":1,"cl":""}}';
  for (let n = 0; n < WORKER_LIMIT + 100; n++) say(push);
  say('{"push":{"cn":"a","dt":1,"cl":"","q":1,"id":"x"}}');
  say('{"pubAck":{"st":1,"id":"last"}}');
  await new Promise<void>((resolve) => {
    heard = (count) => {
      if (count === WORKER_LIMIT + 103) resolve();
    };
  });
  transport.resume();
  await until(() => received.at(-1)?.includes('last') === true);
  const kept = received.filter((text) => text === push).length;
  assert.deepEqual([kept, dropped()], [WORKER_LIMIT, 100]);
  assert.ok(received.some((text) => text.includes('"id":"x"')));
});

test('the end of a connection comes after everything that was received before it', async (t) => {
  const { say, received, transport, closed } = await scripted(t);
  transport.pause();
  say('1');
  say('2');
  transport.end();
  assert.match(await closed, /was closed with code 1005/);
  assert.deepEqual(received, ['1', '2']);
});
