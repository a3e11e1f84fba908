/** What is kept of the messages, and what is shown. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Feed, filterFor } from '../feed.js';

const message = (text, channel = 'news', from = 'bob') => ({ channel, from, text });
const shown = (feed) => Array.from({ length: feed.shown.length }, (_, index) => feed.shown.at(index).text);

function settle(feed) {
  let gone = 0;
  for (let more = true; more; ) {
    const step = feed.advance();
    gone += step.gone;
    more = step.more;
  }
  return gone;
}

test('the oldest go, by number and by size', () => {
  const feed = new Feed({ limit: 3, characters: 10 });
  for (const text of ['1', '2', '3', '4']) feed.add(message(text));
  assert.equal(settle(feed), 0);
  assert.deepEqual(shown(feed), ['2', '3', '4']);
  feed.add(message('123456789'));
  assert.equal(settle(feed), 2);
  assert.deepEqual(shown(feed), ['4', '123456789']);
  feed.add(message('x'.repeat(100)));
  settle(feed);
  assert.equal(feed.shown.length, 1, 'one is always kept');
  assert.equal(feed.total, 6);
});

test('paused, it shows what there was, whatever comes, and filters that', () => {
  const feed = new Feed({ limit: 3 });
  for (const text of ['a1', 'a2', 'b3']) feed.add(message(text));
  settle(feed);
  feed.pause();
  for (const text of ['a4', 'a5', 'b6', 'a7']) feed.add(message(text));
  assert.equal(settle(feed), 0);
  assert.deepEqual([shown(feed), feed.missed], [['a1', 'a2', 'b3'], 4]);
  feed.filter = filterFor('', 'A');
  settle(feed);
  assert.deepEqual(shown(feed), ['a1', 'a2']);
  feed.resume();
  settle(feed);
  assert.deepEqual(shown(feed), ['a5', 'a7']);
});

test('a filter takes text as it is, whatever its case, and names of channels', () => {
  const found = filterFor('NEWS', 'a.b(');
  assert.ok(found(message('xA.B(', 'news/berlin')));
  assert.ok(!found(message('a1b(', 'news')));
  assert.ok(!found(message('a.b(', 'weather')));
  assert.equal(filterFor(' ', ' '), undefined);
});

test('of a hundred thousand messages the last ten thousand are kept', () => {
  const feed = new Feed({ limit: 10_000 });
  for (let index = 0; index < 100_000; index++) feed.add(message(String(index)));
  settle(feed);
  assert.deepEqual([feed.shown.length, feed.shown.at(0).text], [10_000, '90000']);
  feed.clear();
  settle(feed);
  assert.deepEqual([feed.shown.length, feed.kept], [0, 0]);
});
