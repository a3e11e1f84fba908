/** The pure parts: packets, names, delays, the line of publishes, the heartbeat. */
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';

import { RefusedError, describeStatus } from '../dist/errors.js';
import { Fifo } from '../dist/fifo.js';
import { Heartbeat } from '../dist/heartbeat.js';
import { INBOX_LIMIT, Inbox } from '../dist/inbox.js';
import { Outbox } from '../dist/outbox.js';
import type { OutboxOptions } from '../dist/outbox.js';
import {
  BadPacket,
  RawJson,
  channelName,
  decode,
  encodeAuth,
  encodeConn,
  encodeData,
  encodePub,
  encodePushAck,
  encodeSub,
  encodeUnsub,
  rawData,
} from '../dist/packet.js';
import { Backoff } from '../dist/reconnect.js';
import { exceeds } from '../dist/text.js';
import { every } from '../dist/ticker.js';

test('packets are sent strictly as in §7 (protocol.md 2.6)', () => {
  assert.equal(encodeAuth({ user: 'x' }), '{"auth":{"dt":{"user":"x"}}}');
  assert.equal(encodeConn('t', 'c', 128, 'p'), '{"conn":{"at":"t","cl":"c","wn":128,"pi":"p"}}');
  assert.equal(encodeSub('news', false), '{"sub":{"cn":"news"}}');
  assert.equal(encodeSub('news', true), '{"sub":{"cn":"news","pr":1}}');
  assert.equal(encodeUnsub('a"b'), '{"unsub":{"cn":"a\\"b"}}');
  assert.equal(encodePub('news', '1', 0, false), '{"pub":{"cn":"news","dt":1}}');
  assert.equal(encodePub('news', '1', 1, true, '7'), '{"pub":{"cn":"news","dt":1,"q":1,"id":"7","rt":1}}');
  assert.equal(encodePub('lamp', '"ON"', 0, false, undefined, true), '{"pub":{"cn":"lamp","dt":"ON","jt":1}}');
  assert.equal(encodeSub(' a/+', false), '{"sub":{"cn":"a/+","wc":1}}');
  assert.equal(encodeUnsub(' a/+'), '{"unsub":{"cn":"a/+","wc":1}}');
  assert.equal(encodePub('$time', undefined, 0, false, '7'), '{"pub":{"cn":"$time","id":"7"}}');
  assert.equal(encodePushAck('5'), '{"pushAck":{"id":"5"}}');
  assert.equal(encodeData(new RawJson('1.50'), 'x'), '1.50');
});

test('packets are read leniently (protocol.md 2.6)', () => {
  assert.deepEqual(decode('{"push":{"cn":"a","dt":null,"cl":"b"}}'), {
    type: 'push', channel: 'a', data: null, literal: false, client: 'b', qos: 0, id: '', retained: false,
  });
  for (const one of ['1', 'true', '"1"']) {
    const push = decode(` {"push":{"new":[],"cn":"a","dt":{},"q":${one},"id":5,"rt":${one}}}\n`);
    assert.deepEqual(push, { type: 'push', channel: 'a', data: {}, literal: false, client: '', qos: 1, id: '5', retained: true });
  }
  assert.deepEqual(decode('{"pubAck":{"st":1,"id":7,"dt":[1]}}'), { type: 'pubAck', status: 1, id: '7', data: [1] });
  assert.deepEqual(decode('{"subAck":{"st":11,"cn":null}}'), { type: 'subAck', status: 11, channel: undefined, filter: false });
  assert.deepEqual(decode('{"connAck":{"st":-1}}'), { type: 'connAck', status: -1, timeoutSeconds: 0, publishesOnce: false });
  assert.deepEqual(decode('{"authAck":{"st":3}}'), { type: 'authAck', status: 3, token: '', clientId: '', message: '' });
});

test('text that is not a packet of a server is refused', () => {
  for (const text of [
    '', 'x', 'null', '[]', '7', '{}', '{"hbAck":{},"push":{}}', '{"hbAck":1}', '{"conn":{}}', '{"toString":{}}',
    '{"push":{"cn":"a","dt":1,"q":1}}', '{"push":{"cn":"a","cl":"b"}}', '{"push":{"dt":1}}', '{"push":{"cn":1,"dt":1}}',
    '{"push":{"cn":"a","dt":1,"q":2}}', '{"pubAck":{"id":"1"}}', '{"connAck":{"st":1}}', '{"authAck":{"st":1,"cl":"c"}}',
    '{"subAck":{"st":"1","cn":"a"}}', '{"subAck":{"st":1,"cn":["a"]}}',
  ]) {
    assert.throws(() => decode(text), BadPacket, text);
  }
});

test('dt is found byte for byte, wherever it stands (protocol.md 2.7)', () => {
  for (const dt of ['1.50', '-0', 'true', '"a\\"}{,\\\\"', '{"dt": {"dt":[1, "]"]}}', '[ ]', '""', '1E400', 'null']) {
    for (const packet of [
      `{"push":{"cn":"a","dt":${dt},"cl":"b"}}`,
      ` { "push" : { "dt" : ${dt} , "cn" : "\\"dt\\":5" } } `,
      `{"push":{"cn":"a","\\u0064t":${dt}}}`,
      `{"push":{"dt":0,"x":{"dt":1},"dt":${dt}}}`,
    ]) {
      assert.equal(rawData(packet), dt, packet);
      JSON.parse(packet);
    }
  }
  assert.equal(rawData('{"pubAck":{"st":1}}'), undefined);
});

test('channel names are trimmed and checked as servers do (protocol.md 2.8)', () => {
  assert.equal(channelName(' \t\u00a0\u3000a b\u0085\n'), 'a b');
  assert.equal(channelName('\ufeffa'), '\ufeffa', 'no white space in Unicode');
  assert.equal(channelName('x'.repeat(512)).length, 512);
  for (const bad of ['', ' ', '$', '# ', 'x'.repeat(513), 'é'.repeat(257), 5 as unknown as string]) {
    assert.throws(() => channelName(bad), { name: 'UsageError', status: 11 });
  }
  assert.equal(exceeds('é'.repeat(10), 20), false);
  assert.equal(exceeds('é'.repeat(10), 19), true);
});

test('a status has its name, also one that is not known', () => {
  assert.equal(describeStatus(7), '7 NOT_ALLOWED');
  assert.equal(describeStatus(42), '42');
  assert.equal(new RefusedError('sub', 42, 'a').message, 'sub on channel "a" was refused with status 42');
});

test('delays grow to their limit, with full jitter, and start over after a stable session', () => {
  let random = 0.999_999;
  const backoff = new Backoff({ initialDelay: 100, maxDelay: 1_000, random: () => random });
  assert.deepEqual(Array.from({ length: 6 }, () => backoff.next()), [99, 199, 399, 799, 999, 999]);
  random = 0;
  assert.equal(backoff.next(), 0);
  backoff.sessionLasted(9_999);
  assert.equal(backoff.attempt, 7);
  backoff.sessionLasted(10_000);
  random = 0.5;
  assert.equal(backoff.next(), 50);
  const limited = new Backoff({ maxAttempts: 1 });
  assert.notEqual(limited.next(), undefined);
  assert.equal(limited.next(), undefined);
  const endless = new Backoff({ initialDelay: 1 });
  for (let n = 0; n < 5_000; n++) assert.ok((endless.next() as number) < 30_000);
});

test('a queue keeps its order over many rounds of push and shift', () => {
  const line = new Fifo<number>();
  let [put, got] = [0, 0];
  for (let round = 0; round < 5_000; round++) {
    for (let n = 0; n <= round % 3; n++) line.push(put++);
    if (round % 2) assert.equal(line.shift(), got++);
    assert.equal(line.at(0), line.length ? got : undefined);
  }
  assert.ok(line.remove(got + 1) && !line.remove(-1));
  assert.deepEqual(line.clear().slice(0, 3), [got, got + 2, got + 3]);
  assert.equal(line.shift(), undefined);
});

interface Sent {
  outbox: Outbox;
  sent: string[];
  wire: { send(text: string): void; hasRoom(): boolean; beat(): number; room: boolean; beats: number };
  pub: (data: number, qos?: 0 | 1, checked?: boolean) => { outcome: () => string; cancel(): void; id: string };
  dropped: () => number;
}

function outbox(options: Partial<OutboxOptions> = {}): Sent {
  const sent: string[] = [];
  let dropped = 0;
  const box = new Outbox({ limit: 2, full: 'error', inFlight: 2, dropped: () => dropped++, ...options });
  const wire = { send: (text: string) => void sent.push(text), hasRoom: () => wire.room, room: true, beat: () => ++wire.beats, beats: 0 };
  const pub: Sent['pub'] = (data, qos = 1, checked = false) => {
    let outcome = 'waits';
    const { id, cancel } = box.add({
      kind: 'pub', channel: 'c', json: String(data), literal: false, qos, retain: false, checked,
      resolve: () => (outcome = 'done'),
      reject: (error) => (outcome = error.name),
    });
    return { outcome: () => outcome, cancel, id };
  };
  return { outbox: box, sent: sent, wire, pub, dropped: () => dropped };
}

const data = (texts: string[]): unknown[] => texts.map((text) => (JSON.parse(text) as { pub: { dt: unknown } }).pub.dt);

test('with `error` a full queue refuses the new publish', () => {
  const { outbox: box, sent, wire, pub } = outbox();
  const pubs = [pub(1), pub(2, 0), pub(3), pub(4, 0)];
  assert.deepEqual(pubs.map((p) => p.outcome()), ['waits', 'done', 'QueueFullError', 'QueueFullError']);
  box.attach(wire);
  assert.deepEqual(data(sent), [1, 2]);
});

test('with `drop-oldest` a full queue drops the oldest publish', () => {
  const { outbox: box, sent, wire, pub, dropped } = outbox({ full: 'drop-oldest' });
  const pubs = [pub(1), pub(2, 0), pub(3), pub(4)];
  assert.deepEqual(pubs.map((p) => p.outcome()), ['QueueFullError', 'done', 'waits', 'waits']);
  assert.equal(dropped(), 1, 'the QoS 0 publish, whose caller had been told that it is on its way');
  box.attach(wire);
  assert.deepEqual(data(sent), [3, 4]);
});

test('with `wait` callers wait for room in a full queue', () => {
  const { outbox: box, sent, wire, pub } = outbox({ full: 'wait' });
  const pubs = [pub(1, 0), pub(2, 0), pub(3, 0), pub(4, 0)];
  assert.deepEqual(pubs.map((p) => p.outcome()), ['done', 'done', 'waits', 'waits']);
  pubs[0]?.cancel();
  assert.deepEqual(pubs.map((p) => p.outcome()), ['done', 'done', 'done', 'waits']);
  box.attach(wire);
  assert.deepEqual(data(sent), [2, 3, 4]);
  assert.equal(pubs[3]?.outcome(), 'done');
});

test('at most a window of publishes is unanswered, and unanswered ones are sent again first', () => {
  const { outbox: box, sent, wire, pub } = outbox({ limit: 10 });
  box.attach(wire);
  const pubs = [pub(1), pub(2), pub(3), pub(4, 0)];
  assert.deepEqual(data(sent.splice(0)), [1, 2]);
  box.answered(pubs[1]?.id, 1, undefined, '');
  assert.deepEqual(data(sent.splice(0)), [3, 4]);
  assert.deepEqual(pubs.map((p) => p.outcome()), ['waits', 'done', 'waits', 'done']);
  box.detach('why');
  pub(5);
  wire.room = false;
  box.attach(wire);
  assert.deepEqual(data(sent.splice(0)), [1, 3]);
  box.answered(pubs[0]?.id, 7, undefined, '');
  assert.deepEqual(sent, [], 'the wire has no room');
  wire.room = true;
  box.flush();
  assert.deepEqual(data(sent), [5]);
  box.answered('unknown', 1, undefined, '');
  box.answered(undefined, 10, undefined, '');
  box.close(new Error('end'));
  assert.deepEqual(pubs.map((p) => p.outcome()), ['RefusedError', 'done', 'Error', 'done']);
});

test('checked QoS 0 publishes share heartbeats, are refused by their id, and go with their connection (protocol.md 2.5)', () => {
  const { outbox: box, sent, wire, pub } = outbox({ limit: 10, inFlight: 10 });
  box.attach(wire);
  const pubs = [pub(1, 0, true), pub(2, 0, true), pub(3, 0), pub(4, 0, true), pub(5, 1, true)];
  assert.equal(sent[0], '{"pub":{"cn":"c","dt":1,"id":"q1"}}');
  assert.equal(sent[4], '{"pub":{"cn":"c","dt":5,"q":1,"id":"1"}}');
  assert.equal(wire.beats, 1, 'behind the first; the others wait for its answer');
  box.answered('q2', 7, undefined, '');
  box.beatAnswered(1);
  assert.deepEqual(pubs.map((p) => p.outcome()), ['done', 'RefusedError', 'done', 'waits', 'waits']);
  assert.equal(wire.beats, 2);
  box.beatAnswered(2);
  assert.equal(pubs[3]?.outcome(), 'done');
  pubs.push(pub(6, 0, true));
  box.detach('why');
  pubs.push(pub(7, 0, true)); // waits for the next connection
  assert.deepEqual(pubs.slice(4).map((p) => p.outcome()), ['waits', 'ConnectionLostError', 'waits']);
  sent.length = wire.beats = 0;
  box.attach(wire);
  assert.deepEqual(data(sent), [5, 7]);
  pubs.push(pub(8, 0, true));
  assert.equal(wire.beats, 1);
  box.checkLast(); // the client leaves
  box.beatAnswered(1);
  box.beatAnswered(2);
  assert.deepEqual(pubs.slice(6).map((p) => p.outcome()), ['done', 'done']);
  assert.equal(wire.beats, 2);
});

test('heartbeats are a quarter of ts apart, and silence is noticed within ts', () => {
  mock.timers.enable({ apis: ['setInterval'] });
  try {
    let now = 0;
    let beats = 0;
    const silent: number[] = [];
    const events = { beat: () => void beats++, silent: (ms: number) => void silent.push(ms) };
    const heartbeat = new Heartbeat(60, events, () => now);
    const pass = (ms: number): void => {
      for (const end = now + ms; now < end; ) {
        now += 500;
        mock.timers.tick(500);
      }
    };
    pass(45_000);
    assert.equal(beats, 2);
    assert.equal(silent[0], 45_000);
    heartbeat.stop();

    const heard = new Heartbeat(60, events, () => now);
    [beats, silent.length] = [0, 0];
    for (let n = 0; n < 100; n++) {
      pass(10_000);
      heard.heard();
    }
    assert.deepEqual([beats, silent.length], [66, 0]);
    pass(59_500);
    assert.ok(silent.length >= 1);
    assert.ok((silent[0] as number) < 60_000);
    heard.stop();

    // Asleep for an hour: the timer is late, and that says nothing about the server.
    const asleep = new Heartbeat(60, events, () => now);
    silent.length = 0;
    now += 3_600_000;
    mock.timers.tick(15_000);
    assert.equal(silent.length, 0);
    pass(45_000);
    assert.ok(silent.length >= 1);
    asleep.stop();
  } finally {
    mock.timers.reset();
  }
});

test('the inbox drops only what may be dropped, and only beyond its limit', async () => {
  const handled: string[] = [];
  let [full, emptied] = [0, 0];
  let end: () => void = () => {};
  const done = new Promise<void>((resolve) => (end = resolve));
  const inbox = new Inbox({
    handle: (text) => handled.push(text) === 3,
    full: () => void full++,
    emptied: () => void emptied++,
    mayDrop: (text) => text === 'drop',
  });
  for (let n = 0; n < INBOX_LIMIT; n++) inbox.add('keep');
  inbox.add('drop');
  inbox.add('keep too');
  inbox.end(end);
  assert.equal(handled.length, 0, 'in a turn of its own');
  await done;
  assert.deepEqual([handled.length, handled.at(-1), full, emptied], [INBOX_LIMIT + 1, 'keep too', 1, 1]);
});

test('a hidden page takes its timer from a worker, if the application allows one', (t) => {
  const page = Object.assign(new EventTarget(), { hidden: true });
  const workers: { onmessage?: () => void; ended: boolean }[] = [];
  class PageWorker {
    onmessage?: () => void;
    ended = false;
    constructor() {
      workers.push(this);
    }
    terminate(): void {
      this.ended = true;
    }
  }
  const globals = globalThis as Record<string, unknown>;
  const before = globals['Worker'];
  Object.assign(globals, { document: page, Worker: PageWorker });
  t.after(() => {
    delete globals['document'];
    if (before === undefined) delete globals['Worker'];
    else globals['Worker'] = before;
  });
  let ticks = 0;
  const show = (hidden: boolean): void => {
    page.hidden = hidden;
    page.dispatchEvent(new Event('visibilitychange'));
  };
  every(3_600_000, () => assert.fail('too early'), false)();
  assert.equal(workers.length, 0, 'not allowed');
  const stop = every(3_600_000, () => ticks++, true);
  workers[0]?.onmessage?.();
  workers[0]?.onmessage?.();
  assert.equal(ticks, 2);
  show(false);
  assert.deepEqual(workers.map(({ ended }) => ended), [true]);
  show(true);
  assert.deepEqual(workers.map(({ ended }) => ended), [true, false]);
  stop();
  show(false);
  show(true);
  assert.deepEqual(workers.map(({ ended }) => ended), [true, true]);
});
