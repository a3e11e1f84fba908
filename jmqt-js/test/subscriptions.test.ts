/** Subscriptions: several to one channel, without waiting, given up, refused when they are made again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { Message, SubscriptionStateEvent } from '../dist/index.js';
import { Collected, enter, next, scriptedSession, skip, startServer } from './support.js';
import type { FarEnd } from './support.js';

/** Answers the next packets with these statuses. */
async function answer(end: FarEnd, ...types: ('sub' | 'unsub')[]): Promise<void> {
  for (const type of types) {
    const { cn } = await end.expect(type);
    end.send(`{"${type}Ack":{"st":1,"cn":${JSON.stringify(cn)}}}`);
  }
}

test('of sub, unsub and sub without waiting the last call wins', { skip }, async (t) => {
  const server = await startServer(t);
  const [alice, bob] = [await enter(t, server.ws, 'alice'), await enter(t, server.ws, 'bob')];
  const seen: string[] = [];
  let enough = (): void => {};
  const two = new Promise<void>((resolve) => (enough = resolve));
  // As React does in StrictMode: the effect, its end, and the effect again.
  const first = bob.sub('news', { onPush: ({ data }) => seen.push(`first ${String(data)}`) });
  const end = bob.unsub('news');
  const second = bob.sub('news', { onPush: ({ data }) => seen.push(`second ${String(data)}`) === 2 && enough() });
  await Promise.all([first, end, second]);
  await alice.pub('news', 1, { qos: 1 });
  await alice.pub('news', 2, { qos: 1 });
  await two;
  assert.deepEqual(seen, ['second 1', 'second 2']);
  assert.deepEqual([...bob.subscriptions], [['news', false]]);
  assert.deepEqual([(await first).state, (await second).state], ['unsubscribed', 'subscribed']);
  // QoS 1 is acknowledged: other channels go on.
  const other = new Collected(bob, 'other');
  await bob.sub('other');
  for (let n = 0; n < 200; n++) await alice.pub('news', n, { qos: 1 });
  await alice.pub('other', 'here', { qos: 1 });
  await other.count(1);
});

test('two subscriptions to one channel have listeners and ends of their own, and are one for the server', async (t) => {
  const { client, end } = await scriptedSession(t);
  const seen: string[] = [];
  const one = client.subscribe<number>('c', { onPush: ({ data }: Message<number>) => seen.push(`one ${data.toFixed(0)}`) });
  const two = client.subscribe<number>('c');
  two.on('push', ({ data }) => seen.push(`two ${data.toFixed(0)}`));
  const states: SubscriptionStateEvent[] = [];
  one.on('state', (event) => states.push(event));
  assert.deepEqual([one.state, two.state], ['subscribing', 'subscribing']);
  await answer(end, 'sub', 'sub');
  await Promise.all([one.ready(), two.ready()]);
  const readOfOne = one[Symbol.asyncIterator]();
  const push = (n: number): string => `{"push":{"cn":"c","dt":${n},"cl":"x","q":1,"id":"i${n}"}}`;
  end.send(push(1));
  const { value } = await readOfOne.next();
  assert.deepEqual([value?.data, value?.id], [1, 'i1']);
  await one.unsub(); // no packet: the next is the acknowledgement
  assert.deepEqual(await readOfOne.next(), { done: true, value: undefined });
  assert.deepEqual(await end.expect('pushAck'), { id: 'i1' });
  end.send(push(2));
  assert.deepEqual(await end.expect('pushAck'), { id: 'i2' });
  assert.deepEqual(seen, ['one 1', 'two 1', 'two 2']);
  assert.deepEqual(states, [
    { state: 'subscribed', error: undefined },
    { state: 'unsubscribed', error: undefined },
  ]);
  const over = two.unsub();
  await answer(end, 'unsub');
  await over;
  assert.equal(two.state, 'unsubscribed');
  assert.deepEqual([...client.subscriptions], []);
});

test('an unsub that the server refuses leaves the subscription as it was', async (t) => {
  const { client, end } = await scriptedSession(t);
  const seen: unknown[] = [];
  const subscription = client.subscribe('c', { onPush: ({ data }) => seen.push(data) });
  await answer(end, 'sub');
  await subscription.ready();
  const over = subscription.unsub();
  await end.expect('unsub');
  end.send('{"push":{"cn":"c","dt":1,"cl":"x","q":1,"id":"i1"}}', '{"unsubAck":{"st":7,"cn":"c"}}');
  await assert.rejects(over, { name: 'RefusedError', status: 7 });
  assert.deepEqual(await end.expect('pushAck'), { id: 'i1' });
  assert.deepEqual([seen, subscription.state], [[1], 'subscribed']);
});

test('a sub that was given up is taken back when the server confirms it late', async (t) => {
  const { client, end } = await scriptedSession(t);
  const controller = new AbortController();
  const given = client.sub('c', { signal: controller.signal });
  controller.abort();
  await assert.rejects(given, { name: 'AbortError' });
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"c"}}', '{"push":{"cn":"c","dt":1,"cl":"x","q":1,"id":"i1"}}');
  assert.deepEqual(await end.expect('unsub'), { cn: 'c' });
  end.send('{"unsubAck":{"st":1,"cn":"c"}}');

  // Not if somebody else wants the channel by then, and not a persistent one, which may have been there before.
  await assert.rejects(client.sub('d', { timeout: 10 }), { name: 'TimeoutError' });
  await end.expect('sub');
  const wanted = client.sub('d');
  end.send('{"subAck":{"st":1,"cn":"d"}}');
  await answer(end, 'sub');
  await wanted;
  await assert.rejects(client.sub('e', { timeout: 10, persistent: true }), { name: 'TimeoutError' });
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"e"}}');
  void client.pub('x', 1);
  await end.expect('pub');
  assert.deepEqual([...client.subscriptions], [['d', false]]);
});

test('a subscription that is refused for now is made again after a while, one that is not allowed is not', async (t) => {
  const { server, client, end } = await scriptedSession(t, { reconnect: { initialDelay: 10, maxDelay: 50, random: () => 0 } });
  const kept = client.subscribe('kept');
  const lost = client.subscribe('lost');
  await answer(end, 'sub', 'sub');
  await Promise.all([kept.ready(), lost.ready()]);
  const errors: unknown[] = [];
  client.on('error', (error) => errors.push(error));
  const back = next(client, 'connected');
  end.socket.destroy();
  const again = await server.accept();
  await again.acceptConn();
  await again.expect('sub');
  await again.expect('sub');
  again.send('{"subAck":{"st":5,"cn":"kept"}}', '{"subAck":{"st":7,"cn":"lost"}}');
  await back;
  assert.deepEqual([kept.state, (kept.error as { status?: number }).status], ['subscribing', 5]);
  assert.deepEqual([lost.state, (lost.error as { status?: number }).status], ['unsubscribed', 7]);
  assert.equal(errors.length, 1);
  const made = kept.ready();
  assert.deepEqual(await again.expect('sub'), { cn: 'kept' });
  again.send('{"subAck":{"st":5,"cn":"kept"}}');
  await answer(again, 'sub');
  await made;
  assert.deepEqual([kept.state, kept.error], ['subscribed', undefined]);
});

test('request and messages have the type that the application says', async (t) => {
  const { client, end } = await scriptedSession(t);
  const asked = client.request<{ n: number }>('$n');
  const { id } = await end.expect('pub');
  end.send(`{"pubAck":{"st":1,"id":"${String(id)}","dt":{"n":7}}}`);
  const { n } = await asked;
  assert.equal(n.toFixed(1), '7.0');
  const read = client.messages<string>('c').next();
  end.send('{"push":{"cn":"c","dt":"text","cl":"x"}}');
  assert.equal((await read).value?.data.toUpperCase(), 'TEXT');
});
