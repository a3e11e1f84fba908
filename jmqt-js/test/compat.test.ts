/** The drop-in, called the way pages call the first client: with callbacks, from a classic script. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, test } from 'node:test';
import type { TestContext } from 'node:test';
import * as vm from 'node:vm';

import { WebSocket } from 'ws';

import type { JMQTClient } from '../dist/compat.js';
import type { DisconnectReason } from '../dist/index.js';
import { skip, startProxy, startServer } from './support.js';

interface PageWindow {
  JMQTClient: typeof JMQTClient;
  JMQT: { statusCodes: Record<string, number> };
}

/** Without an end, one would keep this process alive; a page never ends. */
const channels: MessageChannel[] = [];
after(() => {
  for (const { port1 } of channels) port1.close();
});
class PageChannel extends MessageChannel {
  constructor() {
    super();
    channels.push(this);
  }
}

/** Where the script of the page is: another one can be compared with it. */
const script = process.env['JMQT_COMPAT_SCRIPT'] ?? new URL('../browser/jmqt-compat.js', import.meta.url);

/** That of pages says nothing where nobody listens to its errors. */
class PageWebSocket extends WebSocket {
  constructor(url: string) {
    super(url);
    this.on('error', () => {});
  }
}

/** A page that has loaded the script: its globals are all it has. */
function page(globals: Record<string, unknown> = {}): PageWindow {
  const source = readFileSync(script, 'utf8');
  const window = vm.createContext({
    WebSocket: PageWebSocket, URL, TextEncoder, MessageChannel: PageChannel, performance, queueMicrotask, setTimeout, clearTimeout, setInterval,
    clearInterval, console, window: {}, ...globals,
  });
  vm.runInContext(source, window);
  return vm.runInContext('({ JMQTClient, JMQT })', window) as PageWindow;
}

/** What a callback is called with. */
function called<A extends unknown[]>(call: (callback: (...args: A) => void) => void): Promise<A> {
  return new Promise((resolve) => call((...args) => resolve(args)));
}

async function enter(t: TestContext, port: number, name: string): Promise<JMQTClient> {
  const { JMQTClient } = page();
  const client = new JMQTClient('127.0.0.1', port, false);
  client.on('push', () => {});
  t.after(() => client.disconnect());
  const [status, token, clientId] = await called<[number, string, string, string]>((cb) => client.auth({ client_name: name }, cb));
  assert.deepEqual([status, clientId], [1, name]);
  assert.deepEqual(await called((cb) => client.conn(clientId, token, cb)), [1]);
  return client;
}

test('a page written for the first client works unchanged', { skip }, async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(t, server.wsPort, 'alice'), await enter(t, server.wsPort, 'bob')];
  assert.ok(bob.connected);
  assert.deepEqual(await called((cb) => bob.conn('bob', 'whatever', cb)), [1], 'it is connected already');
  assert.deepEqual(await called((cb) => bob.sub('news', 0, cb)), [1, 'news']);
  assert.deepEqual(await called((cb) => bob.sub('update', 1, cb)), [7, 'update']);

  const pushes: unknown[][] = [];
  let enough = (): void => {};
  const four = new Promise<void>((resolve) => (enough = resolve));
  bob.on('push', () => assert.fail('replaced'));
  bob.on('push', (...args) => {
    if (args[0] !== 'update' && pushes.push(args) === 4) enough();
  });
  let id = '';
  const answer = await called<[number, string, unknown]>((cb) => (id = alice.pub('news', { n: 1 }, 0, 1, cb)));
  assert.deepEqual(answer, [1, id, null]);
  alice.pub('news', 'zero', 0, 0, () => assert.fail('QoS 0 is not answered'));
  await called((cb) => alice.pub('weather', 'rain', 1, 1, cb));
  assert.deepEqual(await called((cb) => bob.sub('weather', false, cb)), [1, 'weather']);
  await called((cb) => alice.pub('#bob', [1], 0, 1, cb));
  await four;
  assert.deepEqual(JSON.parse(JSON.stringify(pushes)), [
    ['news', 'alice', { n: 1 }, 1, 0],
    ['news', 'alice', 'zero', 0, 0],
    ['weather', 'alice', 'rain', 0, 1],
    ['#bob', 'alice', [1], 1, 0],
  ]);
  const [status, , reply] = await called<[number, string, unknown]>((cb) => bob.pub('$mySubscriptions', {}, 0, 0, cb));
  assert.deepEqual([status, Object.keys((reply as { channels: object }).channels)], [1, ['#bob', 'news', 'update', 'weather']]);
  assert.deepEqual((await called((cb) => alice.pub('update', 1, 0, 1, cb))).slice(0, 1), [7]);
  assert.deepEqual(await called((cb) => bob.unsub('news', cb)), [1, 'news']);

  const address = `ws://127.0.0.1:${server.wsPort}/`;
  assert.deepEqual(await called((cb) => { bob.on('disconnect', cb); bob.disconnect(true); }), [address]);
  assert.ok(!bob.connected);
  assert.deepEqual(await called((cb) => bob.sub('news', 0, cb)), [9, 'news']);
  assert.deepEqual(await called((cb) => bob.unsub('news', cb)), [9, 'news']);
  assert.match(String((await called<unknown[]>((cb) => bob.pub('news', 1, 0, 0, cb)))[1]), /^[0-9]+$/);
});

test('calls of the first client report failures as statuses, and a lost connection as an event', { skip }, async (t) => {
  const server = await startServer(t);
  const proxy = await startProxy(t, () => server.wsPort);
  const { JMQTClient, JMQT } = page();
  assert.equal(JMQT.statusCodes['NETWORK_ERROR'], 9);
  const client = new JMQTClient('127.0.0.1', String(proxy.port));
  const [status, token, clientId, message] = await called<[number, string, string, string]>((cb) => client.auth({}, cb));
  assert.deepEqual([status, token, clientId], [10, '', '']);
  assert.match(message, /client_name/);
  assert.deepEqual(await called((cb) => client.conn('bob', 'stale', cb)), [6]);
  const [, good] = await called<[number, string, string, string]>((cb) => client.auth({ client_name: 'bob' }, cb));
  assert.deepEqual(await called((cb) => client.conn('bob', good, cb)), [1]);
  const address = `ws://127.0.0.1:${proxy.port}/`;
  assert.deepEqual(await called((cb) => { client.on('disconnect', cb); proxy.cutAll(); }), [address]);
  assert.deepEqual(await called((cb) => client.conn('bob', good, cb)), [1], 'the page connects again by itself');
  const gone = called((cb) => client.on('disconnect', cb));
  client.close();
  await gone;
  proxy.close();
  const said = await called<[number, string, string, string]>((cb) => client.auth({ client_name: 'bob' }, cb));
  assert.equal(said[0], 9);
});

test('a page may define its own JMQT variable', () => {
  const JMQT = { statusCodes: { mine: 1 } };
  assert.equal(page({ JMQT }).JMQT, JMQT);
});

test('callbacks, events and console lines come after the call, in the order of the first client', { skip }, async (t) => {
  const server = await startServer(t);
  const alice = await enter(t, server.wsPort, 'alice');
  const seen: string[] = [];
  let changed = (): void => {};
  const note = (line: string): void => {
    // The first client acknowledges before the callback; presence comes when it comes.
    if (line.startsWith('JMQT pushAck')) return;
    seen.push(line.replaceAll(String(server.wsPort), 'PORT'));
    changed();
  };
  /** Waits for this line as the last one, for 20 seconds: what is there instead is said by the comparison. */
  const until = (line: string): Promise<void> =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, 20_000);
      changed = () => {
        if (seen.at(-1) !== line) return;
        clearTimeout(timer);
        resolve();
      };
      changed();
    });
  const { JMQTClient } = page({ console: { log: note } });
  const bob = new JMQTClient('127.0.0.1', server.wsPort);
  t.after(() => bob.disconnect());
  let token = '';
  const words = (args: unknown[]): string => args.map((arg) => JSON.stringify(arg)).join(' ').replace(token || /^$/, 'TOKEN');
  bob.on('push', (...args) => {
    if (args[0] !== 'update') note(`push: ${words(args)}`);
  });
  bob.on('disconnect', (address) => note(`disconnect: ${address}`));
  const answer = (name: string) => (...args: unknown[]) => {
    if (name === 'auth' && args[0] === 1) token = args[1] as string;
    if (name === 'auth' && args[0] === 10) args[3] = 'MESSAGE';
    note(`${name}: ${words(args)}`);
  };
  /** Makes the call, and waits until this line is the last. */
  const step = async (call: () => unknown, last: string): Promise<void> => {
    seen.length = 0;
    call();
    note('returned');
    await until(last);
  };
  /** What was seen from the call on. */
  const table: [name: string, call: () => unknown, lines: string[]][] = [
    ['sub without a connection', () => bob.sub('a', 0, answer('sub')), ['Error in sub: Error: JMQT client not connected', 'sub: 9 "a"', 'returned']],
    ['unsub without a connection', () => bob.unsub('a', answer('unsub')), ['Error in unsub: Error: JMQT client not connected', 'unsub: 9 "a"', 'returned']],
    ['pub without a connection', () => bob.pub('a', 1, 0, 0, answer('pub')), ['Error in pub: Error: JMQT client not connected', 'pub: 9 "1"', 'returned']],
    ['QoS 1 without a connection', () => bob.pub('a', 1, 0, 1, answer('pub')), ['Error in pub: Error: JMQT client not connected', 'pub: 9 "2"', 'returned']],
    ['disconnect without a connection', () => bob.disconnect(true), ['returned']],
    ['auth refused', () => bob.auth({}, answer('auth')), [
      'Opening web socket ws://127.0.0.1:PORT/', 'returned', 'Web socket opened ws://127.0.0.1:PORT/', 'JMQT auth..',
      'JMQT authAck, status 10', 'auth: 10 "" "" "MESSAGE"',
    ]],
    ['auth', () => bob.auth({ client_name: 'bob' }, answer('auth')), [
      'JMQT auth..', 'returned', 'JMQT authAck, status 1', 'auth: 1 "TOKEN" "bob" ""',
    ]],
    ['sub before conn', () => bob.sub('a', 0, answer('sub')), ['Error in sub: Error: JMQT client not connected', 'sub: 9 "a"', 'returned']],
    ['conn with a wrong token after a good auth', () => bob.conn('bob', 'wrong', answer('conn')), [
      'JMQT conn..', 'returned', 'JMQT connAck, status 6', 'conn: 6',
    ]],
    ['conn', () => bob.conn('bob', token, answer('conn')), [
      'JMQT conn..', 'returned', 'JMQT connAck, status 1', 'JMQT heartbeat scheduled, diff 0', 'conn: 1',
    ]],
    ['conn with a session', () => bob.conn('bob', 'whatever', answer('conn')), ['JMQT already connected..', 'conn: 1', 'returned']],
    ['sub', () => bob.sub('news', 0, answer('sub')), [
      'JMQT sub "news", persistent 0..', 'returned', 'JMQT subAck for "news", status 1', 'sub: 1 "news"',
    ]],
    ['sub again with another flag', () => bob.sub('news', 1, answer('sub')), [
      'JMQT sub "news", persistent 1..', 'returned', 'JMQT subAck for "news", status 1', 'sub: 1 "news"',
    ]],
    ...(['2', '"true"', '"0"'] as const).map((flag, index): [string, () => unknown, string[]] => [
      `sub with the flag ${flag}`, () => bob.sub(`kept${index}`, JSON.parse(flag), answer('sub')), [
        `JMQT sub "kept${index}", persistent ${String(JSON.parse(flag))}..`, 'returned',
        `JMQT subAck for "kept${index}", status 1`, `sub: 1 "kept${index}"`,
      ],
    ]),
    ['sub refused', () => bob.sub('update', 0, answer('sub')), [
      'JMQT sub "update", persistent 0..', 'returned', 'JMQT subAck for "update", status 7', 'sub: 7 "update"',
    ]],
    ['pub with QoS 0', () => bob.pub('weather', 1, 0, 0, answer('pub')), ['JMQT pub "weather", packet id 3..', 'returned']],
    ['pub with QoS 1', () => bob.pub('weather', 'kept', 1, 1, answer('pub')), [
      'JMQT pub "weather", packet id 4..', 'returned', 'JMQT pubAck for "4", status 1', 'pub: 1 "4" null',
    ]],
    ['pub refused', () => bob.pub('update', 1, 0, 1, answer('pub')), [
      'JMQT pub "update", packet id 5..', 'returned', 'JMQT pubAck for "5", status 7', 'pub: 7 "5" null',
    ]],
    ['a control channel', () => bob.pub('$mySubscriptions', {}, 0, 0, answer('pub')), [
      'JMQT pub "$mySubscriptions", packet id 6..', 'returned', 'JMQT pubAck for "6", status 1',
      'pub: 1 "6" {"channels":{"#bob":"persistent","kept0":"persistent","kept1":"persistent","kept2":"persistent","news":"temp","update":"persistent"}}',
    ]],
    ['a push with QoS 0', () => alice.pub('news', [0], 0, 0), ['returned', 'push: "news" "alice" [0] 0 0']],
    ['a push with QoS 1', () => alice.pub('news', [1], 0, 1, () => {}), ['returned', 'push: "news" "alice" [1] 1 0']],
    ['a retained push', () => bob.sub('weather', 0, answer('sub')), [
      'JMQT sub "weather", persistent 0..', 'returned', 'JMQT subAck for "weather", status 1', 'sub: 1 "weather"',
      'push: "weather" "bob" "kept" 0 1',
    ]],
    ['unsub', () => bob.unsub('news', answer('unsub')), [
      'JMQT unsub "news"..', 'returned', 'JMQT unsubAck for "news", status 1', 'unsub: 1 "news"',
    ]],
    ['disconnect', () => bob.disconnect(), [
      'Closing web socket ws://127.0.0.1:PORT/', 'returned', 'Web socket closed ws://127.0.0.1:PORT/', 'disconnect: ws://127.0.0.1:PORT/',
    ]],
    ['sub after that', () => bob.sub('a', 0, answer('sub')), ['Error in sub: Error: JMQT client not connected', 'sub: 9 "a"', 'returned']],
    ['conn that opens the connection', () => bob.conn('bob', token, answer('conn')), [
      'Opening web socket ws://127.0.0.1:PORT/', 'returned', 'Web socket opened ws://127.0.0.1:PORT/', 'JMQT conn..',
      'JMQT connAck, status 1', 'JMQT heartbeat scheduled, diff 0', 'conn: 1',
    ]],
    ['disconnect, telling the server', () => bob.disconnect(true), [
      'Sending disconn..', 'Closing web socket ws://127.0.0.1:PORT/', 'returned',
      'Web socket closed ws://127.0.0.1:PORT/', 'disconnect: ws://127.0.0.1:PORT/',
    ]],
    ['auth that opens the connection', () => bob.auth({ client_name: 'bob' }, answer('auth')), [
      'Opening web socket ws://127.0.0.1:PORT/', 'returned', 'Web socket opened ws://127.0.0.1:PORT/', 'JMQT auth..',
      'JMQT authAck, status 1', 'auth: 1 "TOKEN" "bob" ""',
    ]],
    ['the end of a connection that was only authenticated', () => server.kill(), [
      'returned', 'Web socket closed ws://127.0.0.1:PORT/', 'disconnect: ws://127.0.0.1:PORT/',
    ]],
    ['auth without a server', () => bob.auth({ client_name: 'bob' }, answer('auth')), [
      'Opening web socket ws://127.0.0.1:PORT/', 'returned', 'Web socket closed ws://127.0.0.1:PORT/', 'auth: 9',
      'disconnect: ws://127.0.0.1:PORT/',
    ]],
  ];
  for (const [name, call, lines] of table) {
    await step(call, lines.at(-1) as string);
    assert.deepEqual(seen, lines, name);
  }
});

test('the compatible client has the public members of the first client', { skip }, async (t) => {
  const server = await startServer(t, { timeoutSeconds: 5 });
  const { JMQTClient } = page({ console: { log: () => {} } });
  const client = new JMQTClient('127.0.0.1', server.wsPort);
  client.on('push', () => {});
  t.after(() => client.disconnect());
  const { JMQT_VERSION, websocket, timeoutMiliSeconds, hbGap, opened, connected, lastHbAck, lastHbSent } = client;
  assert.deepEqual(
    { JMQT_VERSION, websocket, timeoutMiliSeconds, hbGap, opened, connected, lastHbAck, lastHbSent },
    { JMQT_VERSION: '1.0', websocket: null, timeoutMiliSeconds: 0, hbGap: 0, opened: false, connected: false, lastHbAck: 0, lastHbSent: 0 },
  );
  const [, token] = await called<[number, string, string, string]>((cb) => client.auth({ client_name: 'bob' }, cb));
  assert.deepEqual([client.opened, client.connected], [true, false]);
  const begun = Date.now();
  await called((cb) => client.conn('bob', token, cb));
  assert.deepEqual([client.connected, client.timeoutMiliSeconds, client.hbGap, client.lastHbSent], [true, 5_000, 3_000, 0]);
  assert.equal(client.clientId, 'bob');
  assert.equal(client.authToken, token);
  assert.ok(client.lastHbAck >= begun);
  assert.ok(client.websocket instanceof WebSocket);
  const sent = new Promise<string>((resolve) => {
    const socket = client.websocket as unknown as WebSocket;
    const send = socket.send.bind(socket);
    socket.send = (text: unknown) => (resolve(String(text)), send(String(text)));
  });
  assert.equal(await sent, '{"hb":{}}');
  assert.ok(client.lastHbSent >= begun + 3_000);
  client.pushAck('not one of ours'); // counted and ignored by the server
  client.heartbeat();
  assert.ok(client.connected);
});

test('a takeover comes with its reason, and the older page does not come back by itself', { skip }, async (t) => {
  const server = await startServer(t);
  const first = await enter(t, server.wsPort, 'bob');
  const lost = called<[string, DisconnectReason?]>((cb) => first.on('disconnect', cb));
  const second = await enter(t, server.wsPort, 'bob');
  const [, reason] = await lost;
  assert.deepEqual([reason?.code, reason?.name, reason?.mayReconnect], [4500, 'TAKEOVER', false]);
  assert.ok(second.connected);
  assert.ok(!first.connected);
});
