/** Who takes what was pushed, and when it is acknowledged. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Deliveries, REMEMBERED_IDS, SeenIds } from '../dist/delivery.js';
import type { DeliveryOptions, Push } from '../dist/delivery.js';
import type { Message } from '../dist/index.js';
import { Collected, enter, scriptedSession, skip, startServer } from './support.js';

interface Setup {
  deliveries: Deliveries;
  acknowledged: string[];
  errors: unknown[];
  dropped: () => number;
  push: (data: number, qos?: 0 | 1) => void;
}

function setUp(options: Partial<DeliveryOptions> = {}): Setup {
  const acknowledged: string[] = [];
  const errors: unknown[] = [];
  let dropped = 0;
  const deliveries = new Deliveries({
    manual: false,
    limit: 3,
    window: 4,
    acknowledge: (id) => acknowledged.push(id),
    report: (error) => errors.push(error),
    dropped: () => dropped++,
    ...options,
  });
  const push = (data: number, qos: 0 | 1 = 1): void => {
    const fields: Push = { type: 'push', channel: 'c', data, literal: false, client: 'x', qos, id: qos ? `i${data}` : '', retained: false };
    deliveries.push(fields, '');
  };
  return { deliveries, acknowledged, errors, dropped: () => dropped, push };
}

test('a message is acknowledged when its listener returns', () => {
  const { deliveries, acknowledged, push } = setUp();
  const handed: unknown[] = [];
  deliveries.listen(({ data }) => handed.push([data, [...acknowledged]]));
  push(1);
  push(2, 0);
  push(1); // the acknowledgement got lost
  assert.deepEqual(handed, [[1, []], [2, ['i1']]]);
  assert.deepEqual(acknowledged, ['i1', 'i1']);
});

test('a message is acknowledged when its iterator is asked for the next one', async () => {
  const { deliveries, acknowledged, push } = setUp();
  const messages = deliveries.messages('c');
  push(1);
  push(2);
  assert.equal((await messages.next()).value?.data, 1);
  assert.deepEqual(acknowledged, []);
  assert.equal((await messages.next()).value?.data, 2);
  assert.deepEqual(acknowledged, ['i1']);
  const third = messages.next();
  assert.deepEqual(acknowledged, ['i1', 'i2']);
  push(3);
  assert.equal((await third).value?.data, 3);
  assert.deepEqual(acknowledged, ['i1', 'i2']);
});

test('a message with several readers is acknowledged when the last one has taken it', async () => {
  const { deliveries, acknowledged, push } = setUp();
  const [one, two] = [deliveries.messages('c'), deliveries.messages('c')];
  deliveries.listen(() => {});
  push(1);
  await one.next();
  void one.next();
  assert.deepEqual(acknowledged, []);
  await two.next();
  await two.return();
  assert.deepEqual(acknowledged, ['i1'], 'two has left, and the others have taken it');
});

test('an iterator that is not read keeps QoS 1 messages and drops the oldest QoS 0 messages', async () => {
  const { deliveries, acknowledged, dropped, push } = setUp();
  const messages = deliveries.messages('c');
  push(1);
  for (let n = 2; n <= 9; n++) push(n, 0);
  push(10);
  assert.deepEqual([acknowledged, dropped(), messages.dropped], [[], 5, 5]);
  const read: unknown[] = [];
  for (let n = 0; n < 5; n++) read.push((await messages.next()).value?.data);
  assert.deepEqual(read, [1, 7, 8, 9, 10]);
});

test('messages that an iterator left unread go to the next iterator, in order', async () => {
  const { deliveries, acknowledged, push } = setUp();
  const first = deliveries.messages('c');
  push(1);
  push(2);
  push(3);
  for await (const message of first) {
    if (message.data === 2) break; // asking for it took 1
  }
  assert.deepEqual(acknowledged, ['i1']);
  const second = deliveries.messages('c');
  const read = [(await second.next()).value?.data, (await second.next()).value?.data];
  assert.deepEqual(read, [2, 3]);
});

test('ack() acknowledges a message at once, also inside a loop', async () => {
  const { deliveries, acknowledged, push } = setUp();
  push(1);
  for await (const message of deliveries.messages('c')) {
    message.ack();
    message.ack();
    break;
  }
  assert.deepEqual(acknowledged, ['i1']);
});

test('with manual acknowledgement only ack() acknowledges', async () => {
  const { deliveries, acknowledged, push } = setUp({ manual: true });
  const kept: Message[] = [];
  deliveries.listen((message) => kept.push(message));
  const messages = deliveries.messages('c');
  push(1);
  push(1);
  await messages.next();
  void messages.next();
  assert.deepEqual([acknowledged, kept.length], [[], 1]);
  kept[0]?.ack();
  assert.deepEqual(acknowledged, ['i1']);
});

test('QoS 1 messages without a listener wait for one, and a full window of them is reported', async () => {
  const { deliveries, acknowledged, errors, dropped, push } = setUp();
  push(0, 0); // nobody has shown any interest in this channel
  assert.equal(dropped(), 1);
  for (let n = 1; n <= 4; n++) push(n);
  assert.match(String(errors[0]), /4 QoS 1 messages wait for a listener/);
  const handed: unknown[] = [];
  deliveries.listen(({ data }) => handed.push(data));
  push(5); // not before those that wait
  assert.deepEqual(handed, []);
  await Promise.resolve();
  assert.deepEqual(handed, [1, 2, 3, 4, 5]);
  assert.equal(acknowledged.length, 5);
});

test('messages that come before the listener of their subscription go to it, once and in order', async () => {
  const { deliveries, acknowledged, push } = setUp();
  for (let n = 1; n <= 3; n++) push(n); // right after the connAck
  deliveries.want('c'); // as subscribe() does
  const handed: unknown[] = [];
  deliveries.listenTo('c', ({ data }) => handed.push(data));
  push(4);
  await Promise.resolve();
  push(5);
  assert.deepEqual(handed, [1, 2, 3, 4, 5]);
  assert.deepEqual(acknowledged, ['i1', 'i2', 'i3', 'i4', 'i5']);
});

test('a listener that throws does not disturb the others, and the message comes again', () => {
  const { deliveries, acknowledged, errors, push } = setUp();
  const handed: unknown[] = [];
  deliveries.listen(() => {
    throw new Error('no');
  });
  deliveries.listen(({ data }) => handed.push(data));
  push(1);
  push(2, 0);
  push(1);
  assert.deepEqual([handed, acknowledged, errors.length], [[1, 2, 1], [], 3]);
});

test('listeners may be removed while a message is delivered', () => {
  const { deliveries, acknowledged, push } = setUp();
  const other = (): void => {};
  deliveries.listen(() => deliveries.unlisten(other));
  deliveries.listen(other);
  const stop = deliveries.listenTo('c', () => stop());
  push(1);
  push(2);
  assert.deepEqual(acknowledged, ['i1', 'i2']);
});

test('after a stop, acknowledged messages are not delivered again, and the others are', () => {
  const { deliveries, acknowledged, push } = setUp();
  const stop = deliveries.listenTo('c', () => {});
  push(1);
  stop();
  push(2);
  deliveries.endAll();
  const handed: unknown[] = [];
  deliveries.listen(({ data }) => handed.push(data));
  push(1);
  push(2);
  assert.deepEqual([handed, acknowledged], [[2], ['i1', 'i1', 'i2']]);
});

test('the last 4,096 ids of a channel are remembered', () => {
  const seen = new SeenIds(REMEMBERED_IDS);
  for (let n = 0; n < 4_096; n++) seen.add(`${n}`);
  assert.ok(seen.has('0') && seen.has('4095'));
  seen.add('4096');
  assert.ok(!seen.has('0') && seen.has('1') && seen.has('4096'));
  seen.delete('1');
  seen.add('1'); // at a new place, which the old one must not take away
  assert.ok(seen.has('1'));
  for (let n = 5_000; n < 5_010; n++) seen.add(`${n}`);
  assert.ok(seen.has('1'));
});

test('an iterator that is not read holds back the real server, and loses nothing (protocol.md 2.14)', { skip }, async (t) => {
  const server = await startServer(t);
  const alice = await enter(t, server.ws, 'alice');
  const bob = await enter(t, server.tcp, 'bob', { window: 8 });
  const messages = (await bob.sub('c', { persistent: true }))[Symbol.asyncIterator]();
  const seen = new Collected(alice, 'd');
  await alice.sub('d');
  await Promise.all(Array.from({ length: 100 }, (_, n) => alice.pub('c', n, { qos: 1 })));
  // Everything the server had to send before this answer has arrived; it is not more than the window.
  await bob.request('$mySubscriptions');
  await bob.disconnect();
  await bob.conn();
  const again = bob.messages('c');
  let buffered = 0;
  for (; !(await messages.next()).done; buffered++);
  assert.equal(buffered, 8);
  const read: unknown[] = [];
  for (let n = 0; n < 92; n++) read.push((await again.next()).value?.data);
  assert.deepEqual(read, Array.from({ length: 92 }, (_, n) => n + 8));
  assert.equal(seen.messages.length, 0);
});

test('a burst of messages leaves the event loop time between slices', async (t) => {
  const { client, end } = await scriptedSession(t);
  const total = 100_000;
  let [count, before, most] = [0, 0, 0];
  const turn = (): void => {
    most = Math.max(most, count - before);
    before = count;
  };
  const timer = setInterval(turn, 1);
  t.after(() => clearInterval(timer));
  const all = new Promise<void>((resolve) => {
    client.on('push', () => {
      if (++count === total) resolve();
    });
  });
  const push = '{"push":{"cn":"c","dt":{"text":"some words to read","n":12345},"cl":"x"}}\0';
  end.socket.write(push.repeat(total));
  await all;
  turn();
  t.diagnostic(`at most ${most} pushes in a turn`);
  assert.ok(most < total / 4, `${most} of ${total} in a turn`);
  assert.equal(client.counters.droppedPushes, 0);
});
