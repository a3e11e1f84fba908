/** Two clients and the sample server, over each transport (§7, §9). */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { AbortedError, Client, ClosedError, RawJson, RefusedError, Status, TimeoutError, UsageError } from '../dist/index.js';
import { Collected, enter, makeClient, next, skip, startServer } from './support.js';
import type { SampleServer } from './support.js';

const TRANSPORTS: [string, (server: SampleServer) => string][] = [
  ['WebSocket', (server) => server.ws],
  ['TCP', (server) => server.tcp],
];

for (const [name, url] of TRANSPORTS) {
  test(`publish and subscribe with both QoS over ${name} (§9.a)`, { skip }, async (t) => {
    const server = await startServer(t);
    const [alice, bob] = [await enter(t, url(server), 'alice'), await enter(t, url(server), 'bob')];
    assert.equal(alice.clientId, 'alice');
    assert.equal(alice.state, 'connected');
    const got = new Collected(bob, 'news');
    const subscription = await bob.sub('  news ');
    assert.equal(subscription.channel, 'news');
    await alice.pub('news', { n: 1 });
    await alice.pub('news', [2, 'zwei', null], { qos: 1 });
    await alice.pub('news', 'ö\u0000\n"', { qos: 1 });
    await got.count(3);
    assert.deepEqual(got.data, [{ n: 1 }, [2, 'zwei', null], 'ö\u0000\n"']);
    assert.deepEqual(got.messages.map(({ qos, client, retained }) => [qos, client, retained]), [
      [0, 'alice', false],
      [1, 'alice', false],
      [1, 'alice', false],
    ]);
    await subscription.unsub();
    assert.deepEqual(await bob.request('$mySubscriptions'), {
      channels: { '#bob': 'persistent', update: 'persistent' },
    });
  });

  test(`a large message over ${name} arrives whole`, { skip }, async (t) => {
    const server = await startServer(t);
    const [alice, bob] = [await enter(t, url(server), 'alice'), await enter(t, url(server), 'bob')];
    const got = new Collected(bob, 'big');
    await bob.sub('big');
    const data = 'é'.repeat(1_500_000);
    await alice.pub('big', data, { qos: 1 });
    await got.count(1);
    assert.equal(got.messages[0]?.data, data);
  });
}

test('a retained message comes with the subscription and is known as such (§9.b)', { skip }, async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(t, server.ws, 'alice'), await enter(t, server.ws, 'bob')];
  await alice.pub('weather', 'rain', { qos: 1, retain: true });
  // The iterator begins after the acknowledgement, and still gets what followed it at once.
  for await (const message of await bob.sub('weather')) {
    assert.deepEqual([message.data, message.retained, message.qos], ['rain', true, 0]);
    break;
  }
});

test('P2P reaches one client, and status 8 says that it is away (§9.d)', { skip }, async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(t, server.ws, 'alice'), await enter(t, server.tcp, 'bob')];
  const mine = bob.messages('#bob');
  await alice.p2p('bob', 'zero');
  assert.equal((await mine.next()).value?.data, 'zero');
  await alice.p2p('bob', 'one', { qos: 1 });
  assert.equal((await mine.next()).value?.data, 'one');
  await assert.rejects(alice.p2p('nobody', 1, { qos: 1 }), { name: 'RefusedError', status: Status.CLIENT_OFFLINE });
});

test('what the server does not allow fails with its status', { skip }, async (t) => {
  const server = await startServer(t);
  const alice = await enter(t, server.ws, 'alice');
  const notAllowed = { name: 'RefusedError', code: 'REFUSED', status: 7, channel: 'update', message: /7 NOT_ALLOWED/ };
  await assert.rejects(alice.sub('update'), notAllowed);
  await assert.rejects(alice.unsub('update'), notAllowed);
  await assert.rejects(alice.pub('update', 1, { qos: 1 }), notAllowed);
  await assert.rejects(alice.pub('update', 1, { checked: true }), notAllowed);
  assert.deepEqual(await alice.pub('news', 1, { checked: true }), { id: 'q2' });
  await assert.rejects(alice.p2p('nobody', 1, { checked: true }), { name: 'RefusedError', status: Status.CLIENT_OFFLINE });
  await assert.rejects(alice.request('$nothing'), { name: 'RefusedError', status: 11, request: 'request' });
  assert.deepEqual([...alice.subscriptions], []);
});

test('a refused auth has the words of the server', { skip }, async (t) => {
  const server = await startServer(t);
  const client = makeClient(t, server.ws);
  await assert.rejects(client.auth({ name: 'bob' }), (error: RefusedError) => {
    assert.equal(error.status, 10);
    assert.match(error.message, /client_name/);
    assert.equal(typeof error.reply, 'string');
    return true;
  });
  await client.auth({ client_name: 'bob' }); // on the same connection
  await client.conn();
});

test('a token that is not taken fails with 6, or is replaced (§10)', { skip }, async (t) => {
  const server = await startServer(t);
  const refused = makeClient(t, server.ws, { token: 'stale', clientId: 'bob' });
  await assert.rejects(refused.conn(), { name: 'RefusedError', status: Status.INVALID_TOKEN });
  assert.equal(refused.state, 'idle');
  await assert.rejects(makeClient(t, server.ws).conn(), UsageError);

  const asked: string[] = [];
  const refreshed = makeClient(t, server.ws, {
    token: 'stale',
    clientId: 'bob',
    refreshToken: ({ clientId, authenticate }) => {
      asked.push(clientId);
      return authenticate({ client_name: clientId });
    },
  });
  await refreshed.conn();
  assert.deepEqual(asked, ['bob']);
});

test('a newer connection of the same client wins (protocol.md 2.4)', { skip }, async (t) => {
  const server = await startServer(t);
  const first = await enter(t, server.ws, 'bob', { reconnect: false });
  const lost = next(first, 'disconnect');
  await enter(t, server.tcp, 'bob');
  const { error, willReconnect } = await lost;
  assert.deepEqual([error.code, error.status, willReconnect], ['CONNECTION_LOST', 9, false]);
  assert.equal(first.state, 'idle');
});

test('numbers keep every digit as text (protocol.md 2.7)', { skip }, async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(t, server.ws, 'alice'), await enter(t, server.tcp, 'bob')];
  const got = new Collected(bob, 'numbers');
  await bob.sub('numbers');
  const text = '{ "n": 12345678901234567890.50, "dt": "\\u00e9" }';
  await alice.pub('numbers', new RawJson(text), { qos: 1 });
  await got.count(1);
  assert.equal(got.messages[0]?.json, text);
  const reply = await alice.request('$mySubscriptions', undefined, { raw: true });
  assert.ok(reply instanceof RawJson && reply.text.startsWith('{"channels":'), reply.text);
});

test('disconnect says goodbye, waits for acknowledgements, and leaves the client usable', { skip }, async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(t, server.ws, 'alice'), await enter(t, server.ws, 'bob')];
  const presence = new Collected(alice, 'update');
  const published = [1, 2, 3].map((n) => bob.pub('log', n, n === 3 ? { qos: 1 } : { checked: true }));
  const gone = next(bob, 'disconnect');
  await bob.disconnect();
  await Promise.all(published);
  const { error, willReconnect } = await gone;
  assert.ok(error instanceof ClosedError && !willReconnect);
  await presence.until(() => presence.data.some((data) => (data as { offline?: string }).offline === 'bob'));
  await bob.conn();
  await bob.pub('log', 4, { qos: 1 });
});

test('a client object that changes its client id forgets the message ids of the first one', { skip }, async (t) => {
  const server = await startServer(t);
  const alice = await enter(t, server.ws, 'alice');
  const other = await enter(t, server.ws, 'carol');
  await other.sub('news', { persistent: true });
  const both = await enter(t, server.tcp, 'bob');
  const got = new Collected(both, 'news');
  await both.sub('news', { persistent: true });
  await other.disconnect();
  await alice.pub('news', 1, { qos: 1 });
  await got.count(1);
  await both.disconnect();
  await both.auth({ client_name: 'carol' });
  await both.conn();
  await got.count(2);
  assert.deepEqual(got.data, [1, 1]);
});

test('an iterator ends when its channel is unsubscribed or the client disconnects', { skip }, async (t) => {
  const server = await startServer(t);
  const bob = await enter(t, server.ws, 'bob');
  const news = await bob.sub('news');
  const reading = news[Symbol.asyncIterator]().next();
  await news.unsub();
  assert.deepEqual(await reading, { done: true, value: undefined });
  const update = bob.messages('#bob').next();
  await bob.disconnect();
  assert.deepEqual(await update, { done: true, value: undefined });
});

test('calls can be aborted and have a time limit', { skip }, async (t) => {
  const server = await startServer(t);
  const bob = await enter(t, server.ws, 'bob');
  const aborted = AbortSignal.abort(new Error('enough'));
  await assert.rejects(bob.sub('news', { signal: aborted }), AbortedError);
  await assert.rejects(bob.request('$mySubscriptions', null, { signal: aborted }), { name: 'AbortError', code: 'ABORTED' });
  await server.kill();
  const controller = new AbortController();
  const waiting = bob.sub('news', { signal: controller.signal });
  controller.abort();
  await assert.rejects(waiting, AbortedError);
  await assert.rejects(bob.sub('news', { timeout: 10 }), { name: 'TimeoutError', code: 'TIMEOUT', status: 9 });
});

test('a wrong call fails with another error than a refused one', async (t) => {
  assert.throws(() => new Client({ url: 'http://127.0.0.1' }), /expected ws:\/\/host:8012/);
  assert.throws(() => new Client({ url: 'ws://h', window: 0 }), /window must be a whole number from 1 to 4096, not 0/);
  const client = makeClient(t, 'jmqt://127.0.0.1:1');
  await assert.rejects(client.pub('', 1), { name: 'UsageError', status: 11 });
  await assert.rejects(client.pub('$x', 1), /use request/);
  await assert.rejects(client.pub('x', undefined), /use null for no data/);
  await assert.rejects(client.pub('x', 1n), /cannot write .* as JSON/);
  await assert.rejects(client.pub('x', 1, { qos: 2 as 1 }), /qos must be 0 or 1, not 2/);
  await assert.rejects(client.pub('x', 'y'.repeat(5 << 20)), /too large/);
  await assert.rejects(client.request('x'), /begin with \$/);
  await assert.rejects(client.sub('x', { timeout: 20 }), TimeoutError);
  assert.throws(() => new RawJson('{'), UsageError);
});
