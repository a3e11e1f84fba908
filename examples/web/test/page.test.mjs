/** The page in a real browser, with the real server behind it, and other clients beside it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { Client } from '../../../jmqt-js/dist/index.js';
import { PHONE, Server, between, browse, connect, open, proxy, publish, received, rustClient, see, subscribe } from './support.mjs';

let browser;
const closing = [];
before(async () => {
  browser = await browse({ after: (close) => closing.push(close) });
});
after(async () => {
  for (const close of closing) await close();
});

async function enter(t, server, name) {
  const client = new Client({ url: server.tcp });
  t.after(() => client.disconnect({ timeout: 0 }));
  await client.auth({ client_name: name });
  await client.conn();
  return client;
}

test('pages and another client talk: QoS 0, QoS 1, retained, to one client', async (t) => {
  const server = await Server.start(t);
  const [alice, bob] = [await open(t, browser, server), await open(t, browser, server)];
  await connect(alice, 'alice');
  await connect(bob, 'bob');
  const carol = await enter(t, server, 'carol');
  await subscribe(bob, 'news');
  await see(bob, '#subscriptions li', /newstemp/);
  const heard = await carol.sub('news', { persistent: true });

  await publish(alice, 'news', '{"n":0}');
  await see(alice, '#publish-result', 'Published to news: sent');
  await received(bob, 'news', 'alice', '{"n":0}').waitFor();
  await publish(alice, 'news', '[12345678901234567890.10]', { qos: 1 });
  await see(alice, '#publish-result', /Published to news: stored, in \d+ ms/);
  await received(bob, 'news', 'alice', '[12345678901234567890.10]').filter({ hasText: 'QoS 1' }).waitFor();
  await publish(alice, 'news', '"kept"', { qos: 1, retain: true });
  await received(bob, 'news', 'alice', '"kept"').waitFor();
  const messages = [];
  for await (const { json } of heard) if (messages.push(json) === 3) break;
  assert.deepEqual(messages, ['{"n":0}', '[12345678901234567890.10]', '"kept"']);

  await subscribe(alice, 'news'); // the retained message comes with the subscription
  await received(alice, 'news', 'alice', '"kept"').filter({ hasText: 'retained' }).waitFor();

  await publish(alice, '#bob', '"for you"', { qos: 1 });
  await received(bob, '#bob', 'alice', '"for you"').waitFor();
  await publish(alice, '#nobody', '"?"', { qos: 1 });
  await see(alice, '#publish-result', 'that client is not connected (status 8 CLIENT_OFFLINE)');

  await carol.pub('news', { of: 'carol' });
  for (const page of [alice, bob]) await received(page, 'news', 'carol', '{"of":"carol"}').waitFor();
});

test('two pages and the Rust client talk', async (t) => {
  const server = await Server.start(t);
  const [alice, bob] = [await open(t, browser, server), await open(t, browser, server)];
  await connect(alice, 'alice');
  await connect(bob, 'bob');
  await subscribe(bob, 'news');
  await see(bob, '#subscriptions li', /newstemp/);
  const carol = rustClient(t, server, 'carol', ['sub', '-p', '-H', '-n', '2', 'news']);
  await carol.says('Subscribed channel=news');
  for (const page of [alice, bob]) await see(page, '#online', 'carol');

  await publish(alice, 'news', '{"n":1.50}', { qos: 1 });
  await received(bob, 'news', 'alice', '{"n":1.50}').waitFor();
  await publish(bob, 'news', '"from bob"', { qos: 1 });
  await see(bob, '#publish-result', /Published to news: stored/);
  assert.equal(await carol.ended, 0);
  assert.equal(carol.printed(), 'news from "alice" (QOS 1, RETAIN 0): {"n":1.50}\nnews from "bob" (QOS 1, RETAIN 0): "from bob"\n');

  const dora = rustClient(t, server, 'dora', ['pub', '-q', '1', 'news', '{"of":"Rust"}']);
  assert.equal(await dora.ended, 0);
  await received(bob, 'news', 'dora', '{"of":"Rust"}').waitFor();
  const erna = rustClient(t, server, 'erna', ['p2p', 'alice', '-q', '1', '"for alice"']);
  assert.equal(await erna.ended, 0);
  await received(alice, '#alice', 'erna', '"for alice"').waitFor();
});

test('own subscriptions are listed, and end with the x', async (t) => {
  const server = await Server.start(t);
  const page = await open(t, browser, server);
  await connect(page, 'alice');
  await subscribe(page, 'temporary');
  await see(page, '#subscriptions li', /^temporarytemp$/);
  await subscribe(page, 'lasting', true);
  await see(page, '#subscriptions li', /^lastingpersistent$/);
  await see(page, '#subscriptions li', /^updatepersistent$/);
  await page.getByRole('button', { name: 'Unsubscribe from temporary' }).click();
  await page.locator('#subscriptions li', { hasText: 'temporary' }).waitFor({ state: 'detached' });
  await see(page, '#activity', 'Unsubscribed from temporary');
  // What the server alone decides has no x.
  for (const channel of ['#alice', 'update']) {
    await page.getByRole('button', { name: `Unsubscribe from ${channel}` }).waitFor({ state: 'detached' });
  }

  // The page's memory of them is the server's.
  await page.getByRole('button', { name: 'Disconnect' }).click();
  await see(page, '#state-text', 'Not connected');
  await page.reload();
  await page.locator('body[data-ready]').waitFor();
  assert.equal(await page.getByLabel('Client name').inputValue(), 'alice');
  await connect(page, 'alice');
  await see(page, '#subscriptions li', /^lastingpersistent$/);
});

test('refusals are explained in words', async (t) => {
  const server = await Server.start(t);
  const page = await open(t, browser, server);
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await see(page, '#connect-error', 'A client needs a name');
  await subscribe(page, 'news');
  await see(page, '#subscribe-error', 'Not connected');
  // Buttons that cannot do anything yet look so, and can still be asked why.
  const [faded, usable] = [page.locator('[aria-disabled="true"]'), page.locator('[aria-disabled="false"]')];
  assert.deepEqual(await faded.evaluateAll((all) => all.map(({ id, title }) => [id, title])), [['subscribe', 'Connect first'], ['publish', 'Connect first']]);
  for (const opacity of await faded.evaluateAll((all) => all.map((node) => getComputedStyle(node).opacity))) assert.ok(opacity < 0.6);
  await page.locator('#to').fill('news');
  await page.locator('#publish').click({ force: true });
  await see(page, '#publish-result', 'Not connected');
  await connect(page, 'alice');
  assert.equal(await usable.count(), 2);
  await subscribe(page, 'update');
  await see(page, '#subscribe-error', 'Subscribing to update was refused: the server does not allow it (status 7 NOT_ALLOWED)');
  await subscribe(page, '#bob');
  await see(page, '#subscribe-error', 'that is not a channel for this (status 11 INVALID_CHANNEL)');
  await publish(page, 'update', '{"online":"mallory"}', { qos: 1 });
  await see(page, '#publish-result', 'Publishing to update was refused');
  await publish(page, '$nothing', '{}');
  await see(page, '#publish-result', 'Asking $nothing was refused');
  await publish(page, '$mySubscriptions', '');
  await page.locator('.message[data-kind="reply"]:visible', { hasText: '"update":"persistent"' }).waitFor();
});

test('the error for an unreachable server says what to check', async (t) => {
  const server = await Server.start(t);
  const page = await open(t, browser, server);
  await page.locator('#server-details summary').click();
  await page.locator('#server').fill(`ws://127.0.0.1:${server.ports.http}`);
  await page.getByLabel('Client name').fill('alice');
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await see(page, '#connect-error', 'check that a JMQT server runs there');
  await see(page, '#state-text', 'Not connected');
  await page.locator('#server').fill('localhost');
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await see(page, '#connect-error', 'Connecting is not possible');
});

test('another server application: auth data of any kind, and what it does not offer', async (t) => {
  const server = await Server.start(t);
  const page = await open(t, browser, server, {}, (opened) =>
    between(opened, (near) => {
      const far = near.connectToServer();
      const asked = [];
      near.onMessage((packet) => {
        const { pub } = JSON.parse(packet);
        if (pub?.cn.startsWith('$')) asked.push(pub.id);
        far.send(packet);
      });
      far.onMessage((packet) => {
        const { pubAck, unsubAck, push } = JSON.parse(packet);
        if (push?.cn === 'update') return;
        if (asked.includes(pubAck?.id)) near.send(JSON.stringify({ pubAck: { st: 11, id: pubAck.id } }));
        else if (unsubAck) near.send(JSON.stringify({ unsubAck: { ...unsubAck, st: 7 } }));
        else near.send(packet);
      });
    }),
  );
  const auth = page.getByLabel('Auth data');
  await page.locator('#login-details summary').click();
  await auth.fill('{"user": "dora",\n pin: 7}');
  assert.ok(await page.getByLabel('Client name').isDisabled());
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await see(page, '#connect-error', 'The auth data is not JSON: line 2, column 2');
  await auth.fill('["dora", 7]');
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await see(page, '#connect-error', 'The server says: the auth data must have a client_name');
  await auth.fill('{"client_name": "dora", "pin": 12345678901234567890}');
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await see(page, '#state-text', 'Connected as dora');
  assert.ok(!(await page.evaluate(() => JSON.stringify(localStorage))).includes('1234567890'), 'it may be a secret');
  await see(page, '#no-online', 'This server does not tell who is online.');
  await see(page, '#activity', 'Asking who is online was refused');

  // The request for its subscriptions fails, so it shows those that it made itself.
  await subscribe(page, 'news');
  await see(page, '#subscriptions', 'news');
  await page.getByRole('button', { name: 'Unsubscribe from news' }).click();
  await see(page, '#subscribe-error', 'Unsubscribing from news was refused: the server does not allow it');
});

test('a page behind a proxy, with https and below a path, connects through it', async (t) => {
  const server = await Server.start(t);
  for (const secure of [false, true]) {
    const address = await proxy(t, server, '/chat/', secure);
    const page = await open(t, browser, { page: address }, { ignoreHTTPSErrors: true });
    await see(page, '#server-shown', address.replace(/^http/, 'ws'));
    await connect(page, `alice-${secure}`);
  }
});

test('data that is not JSON is refused, with the place', async (t) => {
  const server = await Server.start(t);
  const [page, bob] = [await open(t, browser, server), await enter(t, server, 'bob')];
  await connect(page, 'alice');
  const heard = await bob.sub('news');
  await publish(page, 'news', '{\n  "a": 1,\n  b: 2\n}');
  await see(page, '#payload-verdict', 'Line 3, column 3: names must be in double quotes');
  await see(page, '#publish-result', 'Not published');
  const selected = await page.locator('#payload').evaluate((area) => [document.activeElement === area, area.selectionStart, area.value[area.selectionStart]]);
  assert.deepEqual(selected, [true, 14, 'b']);
  await page.locator('#payload').fill('{"a":[1.10,{}]}');
  await see(page, '#payload-verdict', 'Valid JSON');
  await page.getByRole('button', { name: 'Format' }).click();
  assert.equal(await page.locator('#payload').inputValue(), '{\n  "a": [\n    1.10,\n    {}\n  ]\n}');
  await page.locator('#publish').click();
  for await (const { data } of heard) {
    assert.deepEqual(data, { a: [1.1, {}] }, 'what was not JSON was not published');
    break;
  }
});

test('data is text, whatever it looks like', async (t) => {
  const server = await Server.start(t);
  const [page, bob] = [await open(t, browser, server), await enter(t, server, '<img src=x onerror=alert(1)>')];
  await connect(page, 'alice');
  await subscribe(page, '<b>news</b>');
  await see(page, '#subscriptions', '<b>news</b>');
  await bob.pub('<b>news</b>', '<script>alert(1)</script>');
  await received(page, '<b>news</b>', '<img src=x onerror=alert(1)>', '"<script>alert(1)</script>"').click();
  await see(page, '#detail-data', '"<script>alert(1)</script>"');
  assert.equal(await page.locator('main :is(b b, img, script)').count(), 0);
});

test('a server that dies and comes back: countdown, subscriptions, stored messages', async (t) => {
  const server = await Server.start(t);
  const page = await open(t, browser, server);
  await connect(page, 'alice');
  await subscribe(page, 'temporary');
  await see(page, '#subscriptions', 'temporary');
  await subscribe(page, 'lasting', true);
  await see(page, '#subscriptions', 'lasting');
  await server.kill();
  await see(page, '#announce', 'Connection lost. Reconnecting.');
  await see(page, '#state-text', /Reconnecting in \d+ s, attempt \d/);
  await publish(page, 'news', '"waited"', { qos: 1 });
  await see(page, '#publish-result', 'Waiting for the connection');
  await subscribe(page, 'late');
  await see(page, '#subscribe-note', 'Subscribing to late: waiting for the connection…');
  await see(page, '#activity', 'Subscribing to late waits for the connection');
  await server.start();
  const bob = await enter(t, server, 'bob');
  const news = await bob.sub('news');
  // Delays are random; the user can reconnect without waiting.
  const now = page.getByRole('button', { name: 'Now' });
  const connected = see(page, '#state-text', 'Connected as alice');
  await Promise.race([connected, now.click().then(() => connected)]);
  await see(page, '#activity', 'Connected again as alice');
  await see(page, '#publish-result', 'Published to news: stored');
  for await (const { data } of news) {
    assert.equal(data, 'waited');
    break;
  }
  for (const row of [/^temporarytemp$/, /^lastingpersistent$/, /^latetemp$/]) await see(page, '#subscriptions li', row);
  assert.equal(await page.locator('#subscribe-note').textContent(), '');
  await bob.pub('temporary', 1);
  await bob.pub('lasting', 2);
  await received(page, 'temporary', 'bob', '1').waitFor();
  await received(page, 'lasting', 'bob', '2').waitFor();
});

test('a page whose session was taken over shows the reason and reconnects only on request', async (t) => {
  const server = await Server.start(t);
  const page = await open(t, browser, server);
  await connect(page, 'alice');
  await subscribe(page, 'news');
  await see(page, '#subscriptions', 'news');
  const other = await enter(t, server, 'alice');
  const ended = new Promise((resolve) => other.on('disconnect', ({ reason }) => resolve(reason?.name)));
  await see(page, '#state-text', 'Not connected');
  await see(page, '#connect-error', /The connection of alice ended: another page or program .* took over \(4500 TAKEOVER/);
  await other.request('$mySubscriptions'); // the page has not taken it back
  assert.equal(other.state, 'connected');
  await page.getByRole('button', { name: 'Connect here' }).click();
  await see(page, '#state-text', 'Connected as alice');
  assert.equal(await ended, 'TAKEOVER');
  await see(page, '#subscriptions', 'news'); // what the page had subscribed to is there again
  assert.equal(await page.locator('#connect-error').textContent(), '');
  await enter(t, server, 'alice');
  await page.getByRole('button', { name: 'Connect here' }).waitFor();
  await connect(page, 'carol'); // another name is another connection
});

test('close codes of older servers and of proxies are explained in words', async (t) => {
  const server = await Server.start(t);
  let close;
  const page = await open(t, browser, server, {}, (opened) =>
    between(opened, (near) => {
      near.connectToServer();
      close = (code, reason) => near.close({ code, reason });
    }),
  );
  await connect(page, 'alice');
  for (const [code, reason, words] of [
    [1001, '', 'The connection ended: the server is stopping (close code 1001).'],
    [1008, 'no', 'The connection ended: the server does not accept what this page did (close code 1008: no).'],
    [1013, '', 'The connection ended: the server has too much to do; try again later (close code 1013).'],
    [3999, '', 'The connection ended: it was closed (close code 3999).'],
  ]) {
    await close(code, reason);
    await see(page, '#activity', words);
    await see(page, '#state-text', 'Connected as alice'); // by itself
  }
});

test('online clients are listed, also those that connected earlier', async (t) => {
  const server = await Server.start(t);
  const [anna, page] = [await enter(t, server, 'anna'), await open(t, browser, server)];
  await see(page, '#no-online', 'Seen here once connected.');
  await connect(page, 'alice');
  await see(page, '#online li', 'aliceyou');
  await see(page, '#online li', /^anna$/);
  const bob = await enter(t, server, 'bob');
  await see(page, '#online li', 'bob');
  await see(page, '#online-count', '3');
  // Those who come and go at once are told in one message.
  const more = await Promise.all(['eve', 'fay'].map((name) => enter(t, server, name)));
  await see(page, '#online-count', '5');
  await Promise.all(more.map((client) => client.disconnect()));
  await see(page, '#online-count', '3');
  await page.locator('#online').getByRole('button', { name: 'bob' }).click();
  assert.equal(await page.locator('#to').inputValue(), '#bob');
  for (const [client, name] of [[bob, 'bob'], [anna, 'anna']]) {
    await client.disconnect();
    await page.locator('#online li', { hasText: name }).waitFor({ state: 'detached' });
  }
  await see(page, '#no-online', 'Nobody else is here.');
  await page.getByRole('button', { name: 'Disconnect' }).click();
  await page.locator('#online li').first().waitFor({ state: 'detached' });
});

test('a client that leaves before the answer to $online arrives is not listed', async (t) => {
  const server = await Server.start(t);
  const held = [];
  let answer;
  const page = await open(t, browser, server, {}, (opened) =>
    between(opened, (near) => {
      const far = near.connectToServer();
      far.onMessage((packet) => {
        if (String(packet).includes('"clients":')) held.push(packet);
        else near.send(packet);
      });
      answer = () => near.send(held[0]);
    }),
  );
  const bob = await enter(t, server, 'bob');
  // Once bob knows of carol, the page hears of her by the answer alone.
  const told = new Promise((resolve) => {
    bob.on('push', ({ data }) => JSON.stringify(data).includes('carol') && resolve());
  });
  await enter(t, server, 'carol');
  await told;
  await connect(page, 'alice');
  await enter(t, server, 'dora');
  await see(page, '#online', 'dora'); // so the answer is on its way, without her
  await bob.disconnect();
  await page.locator('.message[data-kind="in"]:visible', { hasText: '"offline":"bob"' }).waitFor();
  assert.match(String(held[0]), /"bob"/);
  answer();
  await see(page, '#online', 'carol');
  assert.deepEqual(await page.locator('#online li').allTextContents(), ['aliceyou', 'carol', 'dora']);
});

test('a hidden page, whose timers are held back, keeps its session by its workers', async (t) => {
  const server = await Server.start(t, ['TIMEOUT_SECONDS = 5']);
  const page = await open(t, browser, server, {}, (opened) =>
    opened.addInitScript(() => {
      // As in a hidden tab, only for longer. A headless browser holds nothing back by itself.
      Object.defineProperty(Document.prototype, 'hidden', { get: () => true });
      window.setInterval = () => 0;
      window.setTimeout = () => 0;
    }),
  );
  await connect(page, 'alice');
  assert.equal(page.workers().length, 2, 'the WebSocket and the clock');
  // Two who say nothing at all, one after the other, have to go.
  for (let silent = 0; silent < 2; silent++) {
    const socket = net.connect(server.ports.tcp, '127.0.0.1').resume();
    t.after(() => socket.destroy());
    await once(socket, 'close');
  }
  const bob = await enter(t, server, 'bob');
  await bob.p2p('alice', 'still there', { qos: 1 });
  await received(page, '#alice', 'bob', '"still there"').waitFor();
  assert.equal(await page.locator('#activity li').count(), 1, 'connected, and nothing since');
});

test('the list can be paused, filtered and navigated, and follows the end', async (t) => {
  const server = await Server.start(t);
  const [page, bob] = [await open(t, browser, server), await enter(t, server, 'bob')];
  // A listbox has options: an empty list is none, and lists without items are not there.
  assert.equal(await page.getByRole('listbox').count(), 0);
  assert.equal(await page.locator('ul:visible').count(), 0);
  await connect(page, 'alice');
  await page.getByRole('listbox', { name: 'Messages' }).getByRole('option').first().waitFor();
  for (const channel of ['news', 'weather']) {
    await subscribe(page, channel);
    await see(page, '#subscriptions', channel);
  }
  for (let n = 0; n < 200; n++) await bob.pub(n % 2 ? 'weather' : 'news', { n });
  await received(page, 'weather', 'bob', '{"n":199}').waitFor();
  assert.ok((await page.locator('.message').count()) < 60, 'as many rows as fit');

  await page.locator('#filter-channel').fill('weather');
  await see(page, '#message-count', /^100 of 20\d$/);
  await page.locator('#filter-text').fill('"N":1');
  await see(page, '#message-count', /^56 of 20\d$/);
  await page.locator('#filter-text').fill('no such text');
  await see(page, '#no-messages', 'No message is like that.');
  await page.locator('#filter-text').fill('');
  await page.locator('#filter-channel').fill('');
  await see(page, '#message-count', /^20\d$/);

  await page.locator('#list').focus();
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowDown');
  await see(page, '#detail-data', /"n": 0|"online"/);
  const row = page.locator('.message[aria-selected="true"][aria-posinset="2"]');
  await row.waitFor();
  assert.equal(await page.locator('#list').getAttribute('aria-activedescendant'), await row.getAttribute('id'));
  await bob.pub('news', 'behind the back');
  await see(page, '#latest', '1 new');
  await page.keyboard.press('Escape');
  assert.ok(await page.locator('#detail').isHidden());
  await page.locator('#latest').click();
  await received(page, 'news', 'bob', '"behind the back"').waitFor();

  await page.locator('#pause').click();
  await bob.pub('news', 'unseen');
  await see(page, '#pause-text', 'Go on (1 new)');
  assert.equal(await received(page, 'news', 'bob', '"unseen"').count(), 0);
  await page.locator('#pause').click();
  await received(page, 'news', 'bob', '"unseen"').waitFor();
  // The data has the most room.
  const widths = await page.evaluate(() => ['time', 'name', 'from', 'data'].map((cell) => document.querySelector(`.message:not([hidden]) .${cell}`).clientWidth));
  assert.ok(widths[3] >= 400 && widths.slice(0, 3).reduce((sum, width) => sum + width) < widths[3], `${widths}`);
  await page.locator('#clear').click();
  await see(page, '#no-messages', 'No messages yet');
  assert.equal(await page.getByRole('listbox').count(), 0);
});

test('a name typed while the server answers the one before stays in the field', async (t) => {
  const server = await Server.start(t);
  const page = await open(t, browser, server, {}, async (opened) => {
    await between(opened, (near) => {
      const far = near.connectToServer();
      let held = [];
      far.onMessage((packet) => {
        if (held && String(packet).includes('"subAck"')) held.push(packet);
        else near.send(packet);
      });
      opened.answer = () => {
        for (const packet of held) near.send(packet);
        held = undefined;
      };
    });
  });
  await connect(page, 'alice');
  await subscribe(page, 'first');
  await page.locator('#channel').fill('second');
  page.answer();
  await see(page, '#activity', 'Subscribed to first');
  await see(page, '#subscriptions', 'first');
  assert.equal(await page.locator('#channel').inputValue(), 'second');
  await page.keyboard.press('Enter');
  await see(page, '#subscriptions', 'second');
  assert.equal(await page.locator('#channel').inputValue(), '');
});

test('a key pressed right after the filter has changed goes through the new list', async (t) => {
  const server = await Server.start(t);
  const [page, bob] = [await open(t, browser, server), await enter(t, server, 'bob')];
  await connect(page, 'alice');
  for (const channel of ['news', 'weather']) {
    await subscribe(page, channel);
    await see(page, '#subscriptions', channel);
  }
  for (const channel of ['news', 'weather']) {
    await bob.pub(channel, { of: channel });
    await received(page, channel, 'bob', `{"of":"${channel}"}`).waitFor();
  }
  // All in one turn of the page: no frame is drawn in between.
  await page.evaluate(() => {
    const filter = document.getElementById('filter-channel');
    filter.value = 'weather';
    filter.dispatchEvent(new Event('input'));
    document.getElementById('list').dispatchEvent(new KeyboardEvent('keydown', { key: 'Home' }));
  });
  await see(page, '#detail-data', '"of": "weather"');
});

test('everything works without a mouse', async (t) => {
  const server = await Server.start(t);
  const [page, bob] = [await open(t, browser, server), await enter(t, server, 'bob')];
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key);
  };
  const focused = () => page.evaluate(() => document.activeElement.id);
  await page.locator('#name:focus').waitFor();
  await page.keyboard.type('alice');
  await press('Enter');
  await page.locator('#channel:focus').waitFor(); // where one goes on
  await page.keyboard.type('news');
  await press('Enter');
  await see(page, '#subscriptions', 'news');
  await press('Tab', 'Tab');
  assert.equal(await focused(), 'persistent');
  await press('Space');
  assert.ok(await page.locator('#persistent').isChecked());
  await press('n');
  assert.equal(await focused(), 'to');
  await page.keyboard.type('#bob');
  await press('Tab', 'Tab');
  assert.equal(await focused(), 'payload');
  await press('Control+a');
  await page.keyboard.type('"? / p s"'); // no shortcuts while typing
  const heard = bob.messages('#bob');
  await press('Control+Enter');
  assert.equal((await heard.next()).value.data, '? / p s');
  await bob.pub('news', 'answer');
  await received(page, 'news', 'bob', '"answer"').waitFor();
  await page.locator('#subscriptions').getByRole('button', { name: 'news', exact: true }).focus();
  await press('m', 'End');
  await see(page, '#detail-data', /./);
  await press('Escape');
  assert.equal(await focused(), 'list');
  await press('p');
  assert.equal(await page.locator('#pause').getAttribute('aria-pressed'), 'true');
  await press('p', '/');
  assert.equal(await focused(), 'filter-text');
  await page.locator('#list').focus();
  await press('?');
  await page.locator('#help[open]').waitFor();
  await press('Escape');
  await page.locator('#help:not([open])').waitFor({ state: 'attached' });

  // Whatever can be reached shows that it was, and has a name.
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll('button, input, textarea')]
      .filter((node) => node.checkVisibility())
      .filter((node) => !node.textContent.trim() && !node.ariaLabel && !(node.labels?.length > 0))
      .map((node) => node.outerHTML),
  );
  assert.deepEqual(nameless, []);
});

test('it fits a phone, without scrolling sideways', async (t) => {
  const server = await Server.start(t);
  const bob = await enter(t, server, 'bob');
  for (const width of [360, 390]) {
    const page = await open(t, browser, server, { viewport: { ...PHONE, width }, hasTouch: true });
    const wide = () => page.evaluate(() => [...document.querySelectorAll('body, body *')].filter((node) => node.checkVisibility() && !node.closest('.hidden, .message, pre') && node.getBoundingClientRect().right > innerWidth + 0.5).map((node) => node.id || node.className || node.tagName));
    const view = (name) => page.locator('.tabs').getByRole('button', { name }).tap();
    await connect(page, `a-long-name-for-a-phone-${width}`);
    await subscribe(page, 'a/channel/with/quite/a/long/name/as/they/are', true);
    await see(page, '#subscriptions', 'a/channel');
    await subscribe(page, 'update');
    await see(page, '#subscribe-error', 'refused');
    assert.deepEqual(await wide(), []);
    await view('Messages');
    await bob.pub('a/channel/with/quite/a/long/name/as/they/are', { text: 'long '.repeat(100) });
    await page.locator('.message:visible', { hasText: 'long long' }).first().tap();
    await page.locator('#detail').waitFor();
    assert.deepEqual(await wide(), []);
    await page.locator('#detail-reply').tap();
    assert.equal(await page.locator('#to').inputValue(), '#bob');
    await publish(page, '#bob', '1', { qos: 1 });
    await see(page, '#publish-result', 'stored');
    assert.deepEqual(await wide(), []);
    await view('Log');
    await see(page, '#activity', 'Published to #bob');
    assert.deepEqual(await wide(), []);
    await page.context().close();
  }
});

test('light and dark follow the system until one is chosen, which is remembered', async (t) => {
  const server = await Server.start(t);
  const page = await open(t, browser, server, { colorScheme: 'dark' });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.emulateMedia({ colorScheme: 'light' });
  const light = await ground();
  assert.notEqual(dark, light);
  await page.getByRole('radio', { name: 'Dark' }).check();
  assert.equal(await ground(), dark);
  await page.reload();
  await page.locator('body[data-ready]').waitFor();
  assert.equal(await ground(), dark);
  assert.ok(await page.getByRole('radio', { name: 'Dark' }).isChecked());
});

// JMQT_WEB_PICTURES=FOLDER keeps them there.
test('pictures, for people to look at', async (t) => {
  const server = await Server.start(t);
  const kept = process.env.JMQT_WEB_PICTURES;
  const folder = kept || mkdtempSync(join(tmpdir(), 'jmqt-web-pictures-'));
  if (kept) mkdirSync(kept, { recursive: true });
  else t.after(() => rmSync(folder, { recursive: true }));
  for (const colorScheme of ['light', 'dark']) {
    for (const [device, viewport] of [['desktop', undefined], ['phone', PHONE]]) {
      const page = await open(t, browser, server, { colorScheme, ...(viewport ? { viewport } : {}) });
      const picture = (name) => page.screenshot({ path: join(folder, `${device}-${colorScheme}-${name}.png`) });
      const view = async (name) => {
        if (viewport) await page.locator('.tabs').getByRole('button', { name }).click();
      };
      await picture('1-start');
      await page.locator('#login-details summary').click();
      await page.getByLabel('Auth data').fill('{"user": "alice", "password": "secret"}');
      await page.getByRole('button', { name: 'Connect', exact: true }).click();
      await see(page, '#connect-error', 'client_name');
      await picture('1-login');
      await page.getByLabel('Auth data').fill('');
      await page.locator('#login-details summary').click();
      // A name of its own: what an earlier page subscribed to persistently would be there from the start.
      await connect(page, `alice-${device}-${colorScheme}`);
      const bob = await enter(t, server, 'bob');
      await subscribe(page, 'sensors/kitchen', true);
      await see(page, '#subscriptions', 'kitchen');
      await subscribe(page, 'news');
      await see(page, '#subscriptions', 'news');
      await see(page, '#online', 'bob');
      await picture('2-channels');
      for (let n = 1; n <= 30; n++) {
        if (n % 5 === 0) await bob.pub('news', { headline: `Headline ${n}`, tags: ['a', 'b'] }, { qos: 1 });
        else await bob.pub('sensors/kitchen', { celsius: 20 + n / 10, humidity: 40 + n });
      }
      await view('Publish');
      await publish(page, 'news', '{\n  "headline": "Hello from a page",\n  "n": 1\n}', { qos: 1, retain: true });
      await see(page, '#publish-result', 'stored');
      if (viewport) await picture('3-publish');
      await view('Messages');
      await page.locator('.message:visible', { hasText: 'Headline 30' }).waitFor();
      await picture('4-messages');
      await page.locator('.message:visible', { hasText: 'Headline 30' }).click();
      await picture('5-message');
      await bob.disconnect();
      await page.context().close();
    }
  }
  if (kept) t.diagnostic(`pictures are in ${kept}`);
});
