/**
 * A tab of a real Chromium that another tab hides, so that its timers run once a minute. Playwright keeps the pages that it
 * drives visible and their timers running, so this one is driven by nobody: it tells what happens to it over HTTP.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { mkdtempSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';

import { Client } from '../../../jmqt-js/dist/index.js';
import { Server, chromiumPath, endWithThisProcess } from './support.mjs';

const script = (url) => `
  import { Client } from '/jmqt.js';
  const tell = (path, what = {}) => fetch(path, { method: 'POST', body: JSON.stringify(what) });
  const ticks = [], lost = [];
  setInterval(() => ticks.push(performance.now()), 1_000);
  for (const worker of [false, true]) {
    const client = new Client({ url: ${JSON.stringify(url)}, worker });
    client.on('disconnect', ({ error }) => lost.push(error.message));
    if (worker) client.on('push', ({ channel }) => {
      if (channel !== '#true') return;
      const times = [...ticks, performance.now()];
      const pauses = times.slice(1).map((time, index) => time - times[index]);
      tell('/report', { hidden: document.hidden, longestPause: Math.max(...pauses), lost });
    });
    await client.auth({ client_name: String(worker) });
    await client.conn();
  }
  document.addEventListener('visibilitychange', () => tell('/hidden'));
  tell('/ready');
`;

test('a hidden tab keeps its sessions, with a worker and without', async (t) => {
  const server = await Server.start(t, ['TIMEOUT_SECONDS = 5']);
  const events = new EventEmitter();
  const jmqt = readFileSync(new URL('../../../jmqt-js/browser/jmqt.js', import.meta.url));
  const host = http.createServer(async (request, response) => {
    if (request.method === 'POST') {
      events.emit(request.url, JSON.parse(Buffer.concat(await request.toArray())));
      response.end();
    } else if (request.url === '/jmqt.js') {
      response.setHeader('content-type', 'text/javascript').end(jmqt);
    } else {
      const page = `<script type="module">${script(`ws://127.0.0.1:${server.ports.ws}`)}</script>`;
      response.setHeader('content-type', 'text/html').end(`<!doctype html>${request.url === '/other' ? '' : page}`);
    }
  });
  const told = (path) => once(events, path, { signal: AbortSignal.timeout(60_000) }).then(([what]) => what);
  host.listen(0, '127.0.0.1');
  await once(host, 'listening');
  const address = `http://127.0.0.1:${host.address().port}`;
  const profile = mkdtempSync(join(tmpdir(), 'jmqt-web-profile-'));
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run'];
  // Otherwise it takes five minutes until the timers of a hidden tab run once a minute.
  const soon = '--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/1';
  const ready = told('/ready');
  const words = [...flags, soon, '--remote-debugging-port=0', `--user-data-dir=${profile}`, address];
  const chromium = spawn(chromiumPath, words, { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  const ended = once(chromium, 'exit');
  const kill = () => process.kill(-chromium.pid, 'SIGKILL'); // with the processes it has started
  endWithThisProcess(chromium, kill);
  t.after(async () => {
    kill();
    await ended;
    host.closeAllConnections();
    host.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 20 });
  });
  let devtools;
  for await (const line of createInterface({ input: chromium.stderr })) {
    devtools = /^DevTools listening on ws:\/\/([^/]+)/.exec(line)?.[1];
    if (devtools) break;
  }
  chromium.stderr.resume();
  await ready;

  const hidden = told('/hidden');
  const opened = await fetch(`http://${devtools}/json/new?${address}/other`, { method: 'PUT' });
  assert.ok(opened.ok);
  await hidden;
  // Those who say nothing at all have to go, one after the other.
  for (let silent = 0; silent < 4; silent++) {
    const socket = net.connect(server.ports.tcp, '127.0.0.1').resume();
    t.after(() => socket.destroy());
    await once(socket, 'close');
  }
  const bob = new Client({ url: server.tcp });
  t.after(() => bob.disconnect({ timeout: 0 }));
  await bob.auth({ client_name: 'bob' });
  await bob.conn();
  const { clients } = await bob.request('$online');
  assert.deepEqual(clients, ['bob', 'false', 'true']);
  const report = told('/report');
  await bob.p2p('true', 'how was it?', { qos: 1 });
  const { longestPause, lost, hidden: still } = await report;
  assert.deepEqual([still, lost], [true, []]);
  assert.ok(longestPause > 5_000, `the timers were held back: ${longestPause} ms`);
  t.diagnostic(`timers stood still for ${Math.round(longestPause)} ms`);
});
