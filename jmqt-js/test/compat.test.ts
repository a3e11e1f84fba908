/** The drop-in, called the way pages call the first client: with callbacks, from a classic script. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, test } from 'node:test';
import type { TestContext } from 'node:test';
import * as vm from 'node:vm';

import { WebSocket } from 'ws';

import type { JMQTClient } from '../dist/compat.js';
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

/** A page that has loaded the script: its globals are all it has. */
function page(globals: Record<string, unknown> = {}): PageWindow {
  const source = readFileSync(new URL('../browser/jmqt-compat.js', import.meta.url), 'utf8');
  const window = vm.createContext({
    WebSocket, URL, TextEncoder, MessageChannel: PageChannel, performance, queueMicrotask, setTimeout, clearTimeout, setInterval,
    clearInterval, console, ...globals,
  });
  vm.runInContext(source, window);
  return window as unknown as PageWindow;
}

/** What a callback is called with. */
function called<A extends unknown[]>(call: (callback: (...args: A) => void) => void): Promise<A> {
  return new Promise((resolve) => call((...args) => resolve(args)));
}

async function enter(t: TestContext, port: number, name: string): Promise<JMQTClient> {
  const { JMQTClient } = page();
  const client = new JMQTClient('127.0.0.1', port, false);
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
  assert.deepEqual(await called((cb) => bob.pub('news', 1, 0, 0, cb)), [9, '', null]);
});

test('failures come as statuses, and a lost connection as the event', { skip }, async (t) => {
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

test('a page may have a JMQT of its own', () => {
  const JMQT = { statusCodes: { mine: 1 } };
  assert.equal(page({ JMQT }).JMQT, JMQT);
});
