/** The life of a client: why a session ended and what follows (protocol.md 2.22), attempts, tokens, waking up. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import * as v8 from 'node:v8';
import * as vm from 'node:vm';

import { WebSocketServer } from 'ws';

import { DisconnectCode, UnauthorizedError } from '../dist/index.js';
import type { Client, DisconnectEvent, StateEvent } from '../dist/index.js';
import { QUICK, enter, makeClient, next, script, scriptedSession, skip, startServer } from './support.js';
import type { FarEnd } from './support.js';

const TAKEOVER = '{"disconn":{"st":4500,"mg":"a newer connection took over"}}';

/** Subscribes at a far end that says yes. */
async function subscribed(client: Client, end: FarEnd, channel: string): Promise<void> {
  const subscribing = client.sub(channel);
  await end.expect('sub');
  end.send(`{"subAck":{"st":1,"cn":"${channel}"}}`);
  await subscribing;
}

test('after a takeover the client does not reconnect by itself, says why, and comes back when asked to (2.22)', async (t) => {
  const { server, client, end } = await scriptedSession(t);
  await subscribed(client, end, 'news');
  const ends: DisconnectEvent[] = [];
  const states: StateEvent[] = [];
  client.on('disconnect', (event) => ends.push(event));
  client.on('reconnecting', () => assert.fail('it reconnects'));
  client.on('state', (event) => states.push(event));
  const published = client.pub('c', 1, { qos: 1 });
  await end.expect('pub');
  const over = next(client, 'state');
  end.send(TAKEOVER);
  await over;
  await assert.rejects(published, { name: 'ConnectionLostError', status: 9, message: /4500 TAKEOVER: a newer connection took over/ });
  const reason = { code: 4500, name: 'TAKEOVER', text: 'a newer connection took over', mayReconnect: false, delay: 0 };
  assert.deepEqual(ends.map((event) => [event.willReconnect, event.reason]), [[false, reason]]);
  assert.deepEqual(states, [{ state: 'idle', previous: 'connected', reason }]);
  assert.deepEqual([client.state, client.disconnectReason], ['idle', reason]);

  const back = client.reconnect();
  const again = await server.accept();
  await again.acceptConn();
  assert.deepEqual(await again.expect('sub'), { cn: 'news' }); // what there was is there again
  again.send('{"subAck":{"st":1,"cn":"news"}}');
  assert.equal((await back).clientId, 'me');
  assert.equal(client.disconnectReason, undefined);
});

for (const transport of ['ws', 'tcp'] as const) {
  test(`two clients of one id do not end each other for ever over ${transport} (2.4, 2.22)`, { skip }, async (t) => {
    const server = await startServer(t);
    const first = await enter(t, server[transport], 'bob');
    const taken = next(first, 'disconnect');
    const second = await enter(t, server[transport], 'bob');
    let { willReconnect, reason } = await taken;
    assert.deepEqual([willReconnect, reason?.code, reason?.name], [false, 4500, 'TAKEOVER']);
    assert.notEqual(reason?.text, '');
    second.on('reconnecting', () => assert.fail('the second reconnects'));
    const over = next(second, 'disconnect');
    await first.reconnect();
    ({ willReconnect, reason } = await over);
    assert.deepEqual([willReconnect, reason?.code], [false, 4500]);
    await first.request('$mySubscriptions');
    assert.deepEqual([first.state, second.state], ['connected', 'idle']);
  });
}

test('the close code of a WebSocket says the same as the packet (2.22)', async (t) => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  t.after(() => server.close());
  await once(server, 'listening');
  const closes: [number, string][] = [[4001, 'this node drains'], [4500, 'taken over']];
  server.on('connection', (socket) => {
    socket.on('message', () => {
      socket.send('{"connAck":{"st":1,"ts":60}}');
      socket.close(...(closes.shift() as [number, string]));
    });
  });
  const client = makeClient(t, `ws://127.0.0.1:${(server.address() as AddressInfo).port}`, { token: 't', clientId: 'me' });
  const ends: DisconnectEvent[] = [];
  const over = new Promise<void>((resolve) => {
    client.on('disconnect', (event) => {
      ends.push(event);
      if (!event.willReconnect) resolve();
    });
  });
  client.connect();
  await over;
  assert.deepEqual(ends.map(({ willReconnect, reason }) => [willReconnect, reason?.code, reason?.name, reason?.text]), [
    [true, 4001, 'DRAIN', 'this node drains'],
    [false, 4500, 'TAKEOVER', 'taken over'],
  ]);
});

test('the range of a code decides, also where the client does not know it, and ts is the least delay (2.22)', async (t) => {
  for (const [packet, delay] of [
    ['{"disconn":{"st":4499,"mg":"","ts":30}}', 30_000],
    ['{"disconn":{"st":4000,"mg":"","ts":0}}', 0],
    ['{"disconn":{"st":4999,"mg":""}}', undefined],
    ['{"disconn":{"st":4503,"mg":"bye","ts":5}}', undefined],
  ] as const) {
    const { client, end } = await scriptedSession(t);
    const told = delay === undefined ? next(client, 'disconnect') : next(client, 'reconnecting');
    end.send(packet);
    const event = await told;
    if ('delay' in event) assert.ok(event.delay >= (delay ?? 0) && event.delay < (delay ?? 0) + QUICK.maxDelay, `${event.delay}`);
    else assert.equal(event.willReconnect, false);
    await client.disconnect();
  }
});

test('a session whose token has expired is followed by one with a new token (4007)', async (t) => {
  const tokens = ['new'];
  const { server, client, end } = await scriptedSession(t, {
    refreshToken: ({ clientId }) => ({ token: tokens.shift() ?? assert.fail('called again'), clientId }),
  });
  const back = next(client, 'connected');
  end.send(`{"disconn":{"st":${DisconnectCode.TOKEN_EXPIRED},"mg":"the token has expired"}}`);
  assert.equal((await (await server.accept()).acceptConn())['at'], 'new');
  await back;

  // Without a way to a new token there is no sense in trying.
  const without = await scriptedSession(t);
  const over = new Promise<void>((resolve) => without.client.on('disconnect', (event) => void (event.willReconnect || resolve())));
  without.end.send('{"disconn":{"st":4007,"mg":""}}');
  await over;
  assert.equal(without.client.disconnectReason?.code, 4007);
});

test('a failure of refreshToken is a failed attempt, an UnauthorizedError the end of them', async (t) => {
  const failures: (() => never)[] = [
    () => {
      throw new TypeError('fetch failed');
    },
    () => {
      throw new Error('503');
    },
  ];
  const { server, client, end } = await scriptedSession(t, {
    refreshToken: ({ clientId }) => failures.shift()?.() ?? { token: 'new', clientId },
  });
  const errors: string[] = [];
  client.on('reconnecting', ({ error }) => errors.push(error.message));
  const back = next(client, 'connected');
  end.send('{"disconn":{"st":4007,"mg":""}}');
  assert.equal((await (await server.accept()).acceptConn())['at'], 'new');
  await back;
  assert.deepEqual(errors.slice(1), ['refreshToken failed: fetch failed', 'refreshToken failed: 503']);

  const refused = await scriptedSession(t, {
    refreshToken: () => {
      throw new UnauthorizedError('logged out');
    },
  });
  const over = new Promise<DisconnectEvent>((resolve) => {
    refused.client.on('disconnect', (event) => void (event.willReconnect || resolve(event)));
  });
  refused.end.send('{"disconn":{"st":4007,"mg":""}}');
  assert.deepEqual([(await over).error.name, (await over).error.message], ['UnauthorizedError', 'logged out']);
  assert.equal(refused.client.state, 'idle');
});

test('a token is replaced ahead of its time', async (t) => {
  let refreshed: () => void = () => {};
  const asked = new Promise<void>((resolve) => (refreshed = resolve));
  const { server, client, end } = await scriptedSession(t, {
    expiresAt: Date.now() + 1_500,
    refreshToken: ({ clientId }) => {
      refreshed();
      return { token: 'new', clientId, expiresAt: Date.now() + 3_600_000 };
    },
  });
  await asked;
  assert.equal(client.state, 'connected');
  end.socket.destroy();
  assert.equal((await (await server.accept()).acceptConn())['at'], 'new');
});

test('connect retries from the first attempt, and ready waits for the session', async (t) => {
  const server = await script(t);
  const client = makeClient(t, server.url, { token: 't', clientId: 'me' });
  await assert.rejects(client.ready(), { name: 'ClosedError' });
  const states: string[] = [];
  client.on('state', ({ state }) => states.push(state));
  client.connect();
  client.connect(); // it is at it already
  const ready = client.ready();
  (await server.accept()).socket.destroy();
  const refusing = await server.accept();
  await refusing.expect('conn');
  refusing.send('{"connAck":{"st":5}}'); // as good as a lost connection: another node may be better
  const end = await server.accept();
  await end.acceptConn();
  assert.deepEqual(await ready, { clientId: 'me', timeoutSeconds: 60, publishesOnce: false, resumed: false });
  assert.deepEqual(await client.ready(), await ready);
  assert.deepEqual(states, ['connecting', 'reconnecting', 'connected']);

  const refused = makeClient(t, server.url, { token: 't', clientId: 'me' });
  refused.connect();
  const never = refused.ready();
  const last = await server.accept();
  await last.expect('conn');
  last.send('{"connAck":{"st":7}}');
  await assert.rejects(never, { name: 'RefusedError', status: 7 });
  await assert.rejects(makeClient(t, server.url).conn(), { name: 'UsageError', message: /needs a token and a client id/ });
});

test('connect gets a token by itself', async (t) => {
  const server = await script(t);
  const client = makeClient(t, server.url, { auth: { user: 'me' } });
  client.connect();
  const end = await server.accept();
  assert.deepEqual(await end.expect('auth'), { dt: { user: 'me' } });
  end.send('{"authAck":{"st":1,"at":"given","cl":"me"}}');
  assert.equal((await end.acceptConn())['at'], 'given');
  await client.ready();
});

test('conn right after disconnect waits for its end', async (t) => {
  const { server, client, end } = await scriptedSession(t);
  const published = assert.rejects(client.pub('c', 1, { qos: 1 }), { name: 'ClosedError' });
  await end.expect('pub');
  const left = client.disconnect({ timeout: 50 });
  assert.equal(client.state, 'closing');
  const again = client.conn();
  await published;
  await left;
  await (await server.accept()).acceptConn();
  await again;
  void client.disconnect({ timeout: 0 });
  client.connect();
  await (await server.accept()).acceptConn();
  await client.ready();
});

test('reconnectNow asks a dead connection for a sign of life, and replaces it within seconds', async (t) => {
  const { server, client, end } = await scriptedSession(t);
  // A living one answers, and stays.
  client.reconnectNow();
  await end.expect('hb');
  const heard = next(client, 'push');
  end.send('{"hbAck":{}}', '{"push":{"cn":"c","dt":1,"cl":"x"}}');
  await heard;
  const lost = next(client, 'disconnect');
  client.reconnectNow();
  await end.expect('hb');
  const { error } = await lost;
  assert.match(error.message, /no data from .* for [5-7]\.\d seconds/);
  await (await server.accept()).acceptConn();
});

test('a page that becomes visible, or whose network is back, reconnects without waiting for the delay', async (t) => {
  const page = Object.assign(new EventTarget(), { visibilityState: 'visible', hidden: false });
  const scope = new EventTarget();
  const listening: string[] = [];
  Object.assign(globalThis, {
    document: page,
    addEventListener: (name: string, listener: () => void) => {
      listening.push(name);
      scope.addEventListener(name, listener);
    },
    removeEventListener: (name: string, listener: () => void) => {
      listening.splice(listening.indexOf(name), 1);
      scope.removeEventListener(name, listener);
    },
  });
  t.after(() => {
    for (const name of ['document', 'addEventListener', 'removeEventListener']) delete (globalThis as Record<string, unknown>)[name];
  });
  const { server, client, end } = await scriptedSession(t, { reconnect: { initialDelay: 3_600_000, random: () => 0.9 } });
  let far = end;
  for (const wake of [
    () => scope.dispatchEvent(new Event('online')),
    () => page.dispatchEvent(new Event('visibilitychange')),
    () => scope.dispatchEvent(new Event('pageshow')),
  ]) {
    const waiting = next(client, 'reconnecting');
    far.socket.destroy();
    await waiting;
    const back = next(client, 'connected');
    wake();
    far = await server.accept();
    await far.acceptConn();
    await back;
    wake(); // connected: is it still?
    await far.expect('hb');
    far.send('{"hbAck":{}}');
  }
  // What the server has asked for is waited for.
  const waiting = next(client, 'reconnecting');
  far.send('{"disconn":{"st":4006,"mg":"","ts":60}}');
  await waiting;
  scope.dispatchEvent(new Event('online'));
  assert.equal(client.state, 'reconnecting');
  await client.disconnect();
  assert.deepEqual(listening, []);
});

test('a publish that is sent again keeps its id, and ids rise (2.23)', async (t) => {
  const server = await script(t);
  const client = makeClient(t, server.url, { token: 't', clientId: 'me' });
  const connected = client.conn();
  const end = await server.accept();
  const { pi } = await end.expect('conn');
  end.send('{"connAck":{"st":1,"ts":60,"pi":1}}');
  assert.equal((await connected).publishesOnce, true);
  const published = [1, 2, 3].map((n) => client.pub('c', n, { qos: 1 }));
  const sent = [await end.expect('pub'), await end.expect('pub'), await end.expect('pub')];
  assert.deepEqual(sent.map(({ id }) => id), ['1', '2', '3']);
  end.send('{"pubAck":{"st":1,"id":"2"}}');
  assert.deepEqual(await published[1], { id: '2' });
  assert.deepEqual(await client.pub('c', 0), { id: undefined });
  end.socket.destroy();
  const again = await server.accept();
  assert.equal((await again.expect('conn'))['pi'], pi);
  again.send('{"connAck":{"st":1,"ts":60,"pi":1}}');
  const late = client.pub('c', 4, { qos: 1 });
  const repeated = [await again.expect('pub'), await again.expect('pub'), await again.expect('pub')];
  assert.deepEqual(repeated.map(({ id, dt }) => [id, dt]), [['1', 1], ['3', 3], ['4', 4]]);
  again.send(...['1', '3', '4'].map((id) => `{"pubAck":{"st":1,"id":"${id}"}}`));
  await Promise.all([...published, late]);
  assert.throws(() => makeClient(t, server.url, { publishWindow: 10_001 }), { name: 'UsageError', message: /1 to 10000/ });
});

test('memory does not grow with the number of channels that were used', async (t) => {
  v8.setFlagsFromString('--expose-gc');
  const collect = vm.runInNewContext('gc') as () => void;
  const { client, end } = await scriptedSession(t);
  const answering = (async () => {
    for (;;) {
      const packet = end.packets.shift();
      if (packet === undefined) {
        if (end.socket.destroyed) return;
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      const [type, { cn }] = Object.entries(packet)[0] as [string, { cn: string }];
      if (type === 'sub') end.send(`{"subAck":{"st":${cn.startsWith('refused') ? 7 : 1},"cn":"${cn}"}}`);
      if (type === 'unsub') end.send(`{"unsubAck":{"st":1,"cn":"${cn}"}}`);
    }
  })();
  const use = async (from: number, count: number): Promise<void> => {
    for (let n = from; n < from + count; n += 50) {
      await Promise.all(
        Array.from({ length: 50 }, async (_, i) => {
          const subscription = await client.sub(`made${n + i}`, { onPush: () => {} });
          await subscription.unsub();
          await client.messages(`read${n + i}`).return();
          await assert.rejects(client.sub(`refused${n + i}`, { onPush: () => {} }));
        }),
      );
    }
    collect();
  };
  // The tables of a Map double and shrink again as names come and go, by a megabyte: the lower one of two levels tells.
  const levels: number[] = [];
  const round = 5_000; // as many names as are remembered
  for (let n = 0; n < 5; n += 1) {
    await use(n * round, round);
    levels.push(process.memoryUsage().heapUsed);
  }
  const grown = (Math.min(...levels.slice(-2)) - Math.min(...levels.slice(0, 2))) / (3 * round);
  assert.ok(grown < 100, `${grown.toFixed(0)} bytes for each name`);
  await client.disconnect();
  await answering;
});
