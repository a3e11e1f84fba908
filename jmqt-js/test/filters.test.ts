/** Filters with wildcards (protocol.md 2.25), and data as bytes (protocol.md 2.26). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { fromBytes, toBytes } from '../dist/bytes.js';
import { filterKey, matches, nameOf } from '../dist/filter.js';
import { RawJson, RefusedError, UnsupportedError, UsageError } from '../dist/index.js';
import type { Message } from '../dist/index.js';
import { scriptedSession } from './support.js';

test('filters match as in the table that all clients share', () => {
  const table = JSON.parse(readFileSync(new URL('../../jmqt-client/tests/filters.json', import.meta.url), 'utf8')) as {
    matching: [string, string, boolean][];
    invalid: string[];
  };
  assert.ok(table.matching.length > 0 && table.invalid.length > 0);
  for (const [filter, channel, isMatch] of table.matching) {
    const levels = nameOf(filterKey(filter)).split('/');
    assert.equal(matches(levels, channel.split('/')), isMatch, `${filter} and ${channel}`);
  }
  for (const filter of table.invalid) assert.throws(() => filterKey(filter), UsageError, filter);
  assert.equal(nameOf(filterKey(' a/+ ')), 'a/+');
  assert.throws(() => filterKey(`${'x'.repeat(511)}/+`), { status: 11 });
});

test('a filter has the messages of all its channels, and an end of its own', async (t) => {
  const { client, end } = await scriptedSession(t);
  const seen: string[] = [];
  const note = (who: string) => ({ channel, data }: Message): number => seen.push(`${who} ${channel} ${String(data)}`);
  const filter = client.subscribe('rooms/+', { filter: true, onPush: note('filter') });
  const channel = client.subscribe('rooms/+', { onPush: note('channel') });
  assert.deepEqual(await end.expect('sub'), { cn: 'rooms/+', wc: 1 });
  assert.deepEqual(await end.expect('sub'), { cn: 'rooms/+' });
  end.send('{"subAck":{"st":1,"cn":"rooms/+"}}');
  await channel.ready();
  assert.deepEqual([filter.state, filter.channel, filter.filter, channel.filter], ['subscribing', 'rooms/+', true, false]);
  end.send('{"subAck":{"st":1,"cn":"rooms/+","wc":1}}');
  await filter.ready();
  assert.deepEqual([...client.subscriptions], [['rooms/+', false]]);
  const read = filter[Symbol.asyncIterator]();
  end.send('{"push":{"cn":"rooms/1","dt":1,"cl":"x","q":1,"id":"a"}}');
  end.send('{"push":{"cn":"rooms/+","dt":2,"cl":"x","q":1,"id":"b"}}');
  end.send('{"push":{"cn":"other","dt":3,"cl":"x"}}');
  assert.equal((await read.next()).value?.channel, 'rooms/1');
  assert.equal((await read.next()).value?.channel, 'rooms/+');
  assert.deepEqual(await end.expect('pushAck'), { id: 'a' });
  const third = read.next();
  assert.deepEqual(await end.expect('pushAck'), { id: 'b' });
  assert.deepEqual(seen, ['filter rooms/1 1', 'channel rooms/+ 2', 'filter rooms/+ 2']);
  const ending = filter.unsub();
  assert.deepEqual(await end.expect('unsub'), { cn: 'rooms/+', wc: 1 });
  end.send('{"unsubAck":{"st":1,"cn":"rooms/+","wc":1}}');
  await ending;
  assert.deepEqual(await third, { done: true, value: undefined });
  assert.deepEqual([filter.state, channel.state], ['unsubscribed', 'subscribed']);
});

test('messages of a filter wait for the first listener', async (t) => {
  const { client, end } = await scriptedSession(t);
  const filter = client.subscribe('#', { filter: true });
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"#","wc":1}}');
  for (const n of [1, 2]) end.send(`{"push":{"cn":"c${n}","dt":${n},"cl":"x","q":${n - 1},"id":"i${n}"}}`);
  await filter.ready();
  const read = filter[Symbol.asyncIterator]();
  assert.deepEqual([(await read.next()).value?.data, (await read.next()).value?.data], [1, 2]);
});

test('a server without filters is reported, and the channel of that name left', async (t) => {
  const { client, end } = await scriptedSession(t);
  const refused = (error: unknown): boolean => error instanceof UnsupportedError && error instanceof RefusedError;
  const made = assert.rejects(client.sub('rooms/+', { filter: true }), refused);
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"rooms/+"}}');
  assert.deepEqual(await end.expect('unsub'), { cn: 'rooms/+' });
  await made;
  // A subscription of the application to that channel stays.
  const channel = client.sub('rooms/+');
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"rooms/+"}}');
  await channel;
  const again = assert.rejects(client.sub('rooms/+', { filter: true }), refused);
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"rooms/+"}}');
  await again;
  const other = client.sub('other');
  assert.deepEqual(await end.expect('sub'), { cn: 'other' });
  end.send('{"subAck":{"st":1,"cn":"other"}}');
  await other;
});

test('a filter is made again on a new connection, and a refusal there ends it', async (t) => {
  const { server, client, end } = await scriptedSession(t, { reconnect: { initialDelay: 1 } });
  client.on('error', () => {});
  const filter = client.subscribe('a/#', { filter: true });
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"a/#","wc":1}}');
  await filter.ready();
  end.socket.destroy();
  const again = await server.accept();
  await again.acceptConn();
  assert.deepEqual(await again.expect('sub'), { cn: 'a/#', wc: 1 });
  again.send('{"subAck":{"st":7,"cn":"a/#","wc":1}}');
  await assert.rejects(filter.ready(), { name: 'RefusedError', status: 7 });
});

test('data goes to bytes and back without loss (protocol.md 2.26)', () => {
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
  for (const [payload, json, literal] of [
    [bytes('ON'), '"ON"', false],
    [bytes('"ON"'), '"ON"', true],
    [bytes(''), '""', false],
    [bytes('1.50'), '1.50', false],
    [bytes('{"a": 1}'), '{"a": 1}', false],
    [Uint8Array.of(0xff, 0), '{"$b64":"/wA="}', false],
    [bytes('{"$b64":"/wA="}'), '{"$b64":"/wA="}', true],
    [bytes('{"$b64":"/x=="}'), '{"$b64":"/x=="}', false],
    [bytes('{"$b64":1}'), '{"$b64":1}', false],
    [bytes('"\\ud800"'), '"\\ud800"', false],
    [bytes('\ufeff1'), '"\ufeff1"', false],
    [bytes('['.repeat(129) + ']'.repeat(129)), JSON.stringify('['.repeat(129) + ']'.repeat(129)), false],
  ] as const) {
    assert.deepEqual(fromBytes(payload), { json, literal });
    assert.deepEqual(toBytes(JSON.parse(json), json, literal), payload, json);
  }
  const random = (below: number): number => Math.floor(Math.random() * below);
  for (let n = 0; n < 2_000; n++) {
    const payload = Uint8Array.from({ length: random(6) }, () => (n % 2 ? random(256) : ('"$b64{}: 1'.charCodeAt(random(10)) ?? 0)));
    const { json, literal } = fromBytes(payload);
    const back = new TextDecoder('latin1').decode(toBytes(JSON.parse(json), json, literal));
    const sent = new TextDecoder('latin1').decode(payload);
    assert.ok(back === sent || back === sent.trim(), JSON.stringify([sent, json, literal]));
  }
});

test('a message has bytes, and bytes are published', async (t) => {
  const { client, end } = await scriptedSession(t);
  const subscription = client.subscribe('c');
  await end.expect('sub');
  end.send('{"subAck":{"st":1,"cn":"c"}}');
  const read = subscription[Symbol.asyncIterator]();
  for (const dt of ['"ON"', '"ON","jt":1', '{"$b64":"/w=="}', '1.50']) end.send(`{"push":{"cn":"c","dt":${dt},"cl":"x"}}`);
  const seen: [number[], boolean][] = [];
  for (let n = 0; n < 4; n++) {
    const { value } = await read.next();
    seen.push([[...(value?.bytes() ?? [])], value?.literal ?? false]);
  }
  assert.deepEqual(seen, [[[79, 78], false], [[34, 79, 78, 34], true], [[255], false], [[49, 46, 53, 48], false]]);
  await client.pub('c', RawJson.ofBytes(Uint8Array.of(255)));
  assert.deepEqual(await end.expect('pub'), { cn: 'c', dt: { $b64: '/w==' } });
  await client.pub('c', RawJson.ofBytes(new TextEncoder().encode('"ON"')));
  assert.deepEqual(await end.expect('pub'), { cn: 'c', dt: 'ON', jt: 1 });
});
