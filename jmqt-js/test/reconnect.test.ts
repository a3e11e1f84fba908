/** Connections that break, and what outlives them (§9.a, §9.c). */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ConnectionLostError, RefusedError } from '../dist/index.js';
import type { DisconnectEvent, ReconnectingEvent } from '../dist/index.js';
import {
  Collected,
  QUICK,
  enter,
  makeClient,
  next,
  randomNumbers,
  script,
  scriptedSession,
  skip,
  startProxy,
  startServer,
} from './support.js';

test('after kill -9 and a restart subscriptions are made again and nothing is lost', { skip }, async (t) => {
  const server = await startServer(t);
  const alice = await enter(t, server.ws, 'alice');
  const bob = await enter(t, server.tcp, 'bob');
  const got = new Collected(bob, 'temporary', 'kept');
  await bob.sub('temporary');
  await bob.sub('kept', { persistent: true });
  const lost = [next(alice, 'disconnect'), next(bob, 'disconnect')];
  const back = [next(alice, 'connected'), next(bob, 'connected')];
  await server.kill();
  assert.deepEqual((await Promise.all(lost)).map(({ willReconnect }) => willReconnect), [true, true]);
  // Published while nobody is there: they wait, and keep their order.
  const published = [1, 2, 3].map((n) => alice.pub('kept', n, { qos: 1 }));
  const late = alice.request('$mySubscriptions');
  await server.start();
  assert.deepEqual((await Promise.all(back)).map(({ resumed }) => resumed), [true, true]);
  await Promise.all(published);
  await late;
  await alice.pub('temporary', 'here', { qos: 1 });
  await got.count(4);
  assert.deepEqual(got.data, [1, 2, 3, 'here']);
  assert.deepEqual([...bob.subscriptions], [
    ['temporary', false],
    ['kept', true],
  ]);
});

test('a token that expired meanwhile is replaced with the data of the last auth', { skip }, async (t) => {
  const secret = (letter: string): Record<string, string> => ({ JMQT_TOKEN_SECRET: letter.repeat(32) });
  const server = await startServer(t, { environment: secret('a') });
  const bob = await enter(t, server.ws, 'bob');
  const back = next(bob, 'connected');
  await server.kill();
  await server.start(secret('b'));
  await back;
});

test('a token that cannot be replaced ends the attempts, and everything that waits', async (t) => {
  const { server, client, end } = await scriptedSession(t);
  const events: DisconnectEvent[] = [];
  client.on('disconnect', (event) => events.push(event));
  const published = client.pub('a', 1, { qos: 1 });
  const reading = client.messages('a').next();
  await end.expect('pub');
  end.socket.destroy();
  const again = await server.accept();
  await again.expect('conn');
  again.send('{"connAck":{"st":6}}');
  const refused = { name: 'RefusedError', status: 6 };
  await Promise.all([assert.rejects(published, refused), assert.rejects(reading, refused)]);
  assert.deepEqual(events.map(({ willReconnect }) => willReconnect), [true, false]);
  assert.ok(events[1]?.error instanceof RefusedError);
  assert.equal(client.state, 'idle');
});

test('first the subscriptions, acknowledged; then old publishes with their ids; then new ones', async (t) => {
  const { server, client, end } = await scriptedSession(t);
  const subscribing = client.sub('s', { persistent: true });
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"s"}}');
  await subscribing;
  const published = [1, 2, 3].map((n) => client.pub('p', n, { qos: 1 }));
  const asked = assert.rejects(client.request('$q', { x: 1 }), (error: ConnectionLostError) => {
    assert.ok(error instanceof ConnectionLostError);
    assert.match(error.message, /under way.*unknown whether it was carried out/);
    return true;
  });
  const ids: unknown[] = [];
  for (let n = 0; n < 3; n++) ids.push((await end.expect('pub'))['id']);
  await end.expect('pub');
  end.send(`{"pubAck":{"st":1,"id":"${ids[0]}"}}`);
  await published[0];
  end.socket.destroy();
  await asked;
  published.push(client.pub('p', 4, { qos: 1 }));

  const again = await server.accept();
  const { pi, ...rest } = await again.acceptConn();
  assert.deepEqual(rest, { at: 't', cl: 'me', wn: 128 });
  assert.match(String(pi), /^[0-9a-f]{32}$/); // protocol.md 2.23
  assert.deepEqual(await again.expect('sub'), { cn: 's', pr: 1 });
  again.send('{"hbAck":{}}'); // whatever comes: nothing is published before the subAck
  again.socket.write('{"push":{"cn":"s","dt":0,"cl":""}}\0');
  assert.deepEqual(again.packets, []);
  again.send('{"subAck":{"st":1,"cn":"s"}}');
  const texts = [];
  for (let n = 0; n < 3; n++) texts.push(await again.expect('pub'));
  assert.deepEqual(
    texts.map(({ dt }) => dt),
    [2, 3, 4],
  );
  assert.deepEqual(texts.slice(0, 2).map(({ id }) => id), ids.slice(1));
  for (const { id } of texts) again.send(`{"pubAck":{"st":1,"id":"${id}"}}`);
  await Promise.all(published);
});

test('a subscription that is refused when it is made again ends with that error', async (t) => {
  const { server, client, end } = await scriptedSession(t);
  const subscribing = client.sub('s');
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"s"}}');
  const reading = (await subscribing)[Symbol.asyncIterator]().next();
  const reported = next(client, 'error');
  end.socket.destroy();
  const again = await server.accept();
  await again.acceptConn();
  await again.expect('sub');
  again.send('{"subAck":{"st":7,"cn":"s"}}');
  await assert.rejects(reading, { name: 'RefusedError', status: 7, channel: 's' });
  assert.equal((await reported as RefusedError).status, 7);
  assert.deepEqual([...client.subscriptions], []);
});

test('a push that comes again is handed over once, and acknowledged when it was taken', async (t) => {
  const { server, client, end } = await scriptedSession(t);
  const taking: ((value?: unknown) => void)[] = [];
  const handed: unknown[] = [];
  client.on('push', ({ data }) => {
    handed.push(data);
    return new Promise((resolve) => taking.push(resolve));
  });
  const arrived = new Collected(client);
  const push = (n: number): string => `{"push":{"cn":"c","dt":${n},"cl":"x","q":1,"id":"i${n}"}}`;
  end.send(push(1), push(2));
  await arrived.count(2);
  taking[0]?.();
  assert.deepEqual(await end.expect('pushAck'), { id: 'i1' });
  const back = next(client, 'connected');
  end.socket.destroy();
  const again = await server.accept();
  await again.acceptConn();
  await back;
  again.send(push(1), push(2), push(3)); // as if the first acknowledgement had been lost
  await arrived.count(3);
  assert.deepEqual(handed, [1, 2, 3]);
  assert.deepEqual(await again.expect('pushAck'), { id: 'i1' });
  taking[2]?.();
  taking[1]?.();
  assert.deepEqual(await again.expect('pushAck'), { id: 'i3' });
  assert.deepEqual(await again.expect('pushAck'), { id: 'i2' });
});

test('what a listener failed to take is handed over again when it comes again', async (t) => {
  const { server, client, end } = await scriptedSession(t);
  const errors: unknown[] = [];
  client.on('error', (error) => errors.push(error));
  let failures = 0;
  const handed: unknown[] = [];
  client.on('push', async ({ data }) => {
    handed.push(data);
    if (data === 1 && failures++ === 0) throw new Error('not today');
  });
  const push = (n: number): string => `{"push":{"cn":"c","dt":${n},"cl":"x","q":1,"id":"i${n}"}}`;
  end.send(push(1), push(2));
  assert.deepEqual(await end.expect('pushAck'), { id: 'i2' });
  end.socket.destroy();
  const again = await server.accept();
  await again.acceptConn();
  again.send(push(1));
  assert.deepEqual(await again.expect('pushAck'), { id: 'i1' });
  assert.deepEqual(handed, [1, 2, 1]);
  assert.deepEqual(errors.map((error) => (error as Error).message), ['not today']);
});

for (const transport of ['ws', 'tcp'] as const) {
  test(`3,000 QoS 1 messages arrive once and in order over ${transport} connections cut at any byte`, { skip }, async (t) => {
    const server = await startServer(t);
    const proxy = await startProxy(t, () => (transport === 'ws' ? server.wsPort : server.tcpPort));
    const random = randomNumbers(7);
    proxy.budget = () => Math.floor(random() * 20_000);
    const url = `${transport === 'ws' ? 'ws' : 'jmqt'}://127.0.0.1:${proxy.port}`;
    const alice = await enter(t, server.tcp, 'alice');
    const { token, clientId } = await makeClient(t, server.ws).auth({ client_name: 'bob' });
    const bob = makeClient(t, url, { token, clientId, reconnect: { ...QUICK, maxAttempts: 1_000 } });
    const got = new Collected(bob, 'c');
    const subscribed = bob.sub('c', { persistent: true });
    await connect(bob);
    await subscribed;
    const total = 3_000;
    for (let n = 0; n < total; n += 100) {
      await Promise.all(Array.from({ length: 100 }, (_, i) => alice.pub('c', n + i, { qos: 1 })));
    }
    await got.count(total);
    assert.deepEqual(got.data, Array.from({ length: total }, (_, i) => i));
    assert.ok(proxy.connections > 20, `${proxy.connections} connections`);
    t.diagnostic(`${proxy.connections} connections`);
  });

  test(`3,000 QoS 1 publishes over ${transport} connections cut at any byte are all stored, in order`, { skip }, async (t) => {
    const server = await startServer(t);
    const proxy = await startProxy(t, () => (transport === 'ws' ? server.wsPort : server.tcpPort));
    const random = randomNumbers(11);
    proxy.budget = () => Math.floor(random() * 20_000);
    const url = `${transport === 'ws' ? 'ws' : 'jmqt'}://127.0.0.1:${proxy.port}`;
    const bob = await enter(t, server.tcp, 'bob');
    const got = new Collected(bob, 'c');
    await bob.sub('c', { persistent: true });
    const { token, clientId } = await makeClient(t, server.ws).auth({ client_name: 'alice' });
    const alice = makeClient(t, url, { token, clientId, publishWindow: 50, reconnect: { ...QUICK, maxAttempts: 1_000 } });
    await connect(alice);
    const total = 3_000;
    await Promise.all(Array.from({ length: total }, (_, n) => alice.pub('c', n, { qos: 1 })));
    const seen = (): Set<unknown> => new Set(got.data);
    await got.until(() => got.messages.length >= total && seen().size === total);
    // A publish whose acknowledgement was lost is a message of its own (protocol.md 2.19).
    assert.deepEqual([...seen()], Array.from({ length: total }, (_, i) => i));
    assert.ok(proxy.connections > 20, `${proxy.connections} connections`);
    t.diagnostic(`${proxy.connections} connections, ${got.messages.length - total} sent twice`);
  });
}

/** The first `conn` is the application's to repeat. */
async function connect(client: ReturnType<typeof makeClient>): Promise<void> {
  for (let attempt = 0; attempt < 50; attempt++) {
    try {
      await client.conn();
      return;
    } catch (error) {
      assert.equal((error as ConnectionLostError).status, 9);
    }
  }
  assert.fail('no connection in 50 attempts');
}

test('a server that falls silent is noticed within ts (§7.e)', async (t) => {
  const server = await script(t);
  const client = makeClient(t, server.url, { token: 't', clientId: 'me' });
  const connected = client.conn();
  const end = await server.accept();
  await end.acceptConn(1);
  await connected;
  await end.expect('hb');
  const { error } = await next(client, 'disconnect');
  // Three quarters of ts. A timer that is later than half a quarter is forgiven: a longer silence is never said.
  assert.match(error.message, /no data from .* for (0\.[789]|1\.[01]) seconds/);
});

test('a stalled connection to the real server is noticed within ts, and replaced', { skip }, async (t) => {
  const server = await startServer(t, { timeoutSeconds: 5 });
  const proxy = await startProxy(t, () => server.wsPort);
  const bob = await enter(t, `ws://127.0.0.1:${proxy.port}`, 'bob');
  const lost = next(bob, 'disconnect');
  const back = next(bob, 'connected');
  proxy.stall();
  const { error } = await lost;
  assert.match(error.message, /no data from .* for (3\.[6-9]|4\.\d|5\.[0-5]) seconds/);
  proxy.resume();
  await back;
});

test('a session that is only listening stays open', { skip }, async (t) => {
  const server = await startServer(t, { timeoutSeconds: 5 });
  const [alice, bob] = [await enter(t, server.ws, 'alice'), await enter(t, server.tcp, 'bob')];
  let lost = 0;
  for (const client of [alice, bob]) client.on('disconnect', () => lost++);
  await new Promise((resolve) => setTimeout(resolve, 6_500)); // longer than the server waits for a silent client
  await Promise.all([alice.request('$mySubscriptions'), bob.request('$mySubscriptions')]);
  assert.equal(lost, 0);
});

test('reconnecting tells attempt and delay, and reconnectNow does not wait', async (t) => {
  const { server, client, end } = await scriptedSession(t, {
    reconnect: { initialDelay: 3_600_000, maxDelay: 3_600_000, random: () => 0.5 },
  });
  const events: ReconnectingEvent[] = [];
  client.on('reconnecting', (event) => events.push(event));
  const reconnecting = next(client, 'reconnecting');
  end.socket.destroy();
  await reconnecting;
  assert.equal(client.state, 'reconnecting');
  client.reconnectNow();
  const refused = await server.accept();
  await refused.expect('conn');
  const once = next(client, 'reconnecting');
  refused.send('{"connAck":{"st":5}}'); // may work later
  await once;
  client.reconnectNow();
  const back = next(client, 'connected');
  await (await server.accept()).acceptConn();
  await back;
  assert.deepEqual(events.map(({ attempt, delay }) => [attempt, delay]), [
    [1, 1_800_000],
    [2, 1_800_000],
  ]);
});

test('the number of attempts can be limited, and disconnect ends them', async (t) => {
  const limited = await scriptedSession(t, { reconnect: { ...QUICK, maxAttempts: 2 } });
  const ends: DisconnectEvent[] = [];
  limited.client.on('disconnect', (event) => ends.push(event));
  limited.server.close();
  const published = limited.client.pub('c', 1, { qos: 1 });
  await assert.rejects(published, { status: 9 });
  assert.deepEqual(ends.map(({ willReconnect }) => willReconnect), [true, false]);

  const left = await scriptedSession(t, { reconnect: { initialDelay: 3_600_000 } });
  const waiting = left.client.pub('c', 1, { qos: 1 });
  const reconnecting = next(left.client, 'reconnecting');
  left.end.socket.destroy();
  await reconnecting;
  await Promise.all([left.client.disconnect(), assert.rejects(waiting, { name: 'ClosedError', code: 'CLOSED' })]);
  assert.equal(left.client.state, 'idle');
});

test('disconnect while a connection is being opened ends that too', async (t) => {
  const server = await script(t);
  const client = makeClient(t, server.url, { token: 't', clientId: 'me' });
  const opening = assert.rejects(client.conn(), { name: 'ClosedError' });
  const end = await server.accept();
  await end.expect('conn');
  await client.disconnect();
  await opening;
  assert.equal(client.state, 'idle');
});

test('a conn that is not answered fails in time, and can be made again', async (t) => {
  const server = await script(t);
  const client = makeClient(t, server.url, { token: 't', clientId: 'me' });
  await assert.rejects(client.conn({}, { timeout: 50 }), { name: 'TimeoutError', message: /check that this is the port/ });
  await server.accept();
  const opening = client.conn();
  await (await server.accept()).acceptConn();
  await opening;
});
