/** The page of docs/tutorial.md, in two windows, with the program of the tutorial. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';

import { browse, endWithThisProcess, program, see } from './support.mjs';

const page = new URL('../../tutorial/page/index.html', import.meta.url);
const library = new URL('../../../jmqt-js/browser/jmqt.js', import.meta.url);

/** The chat; its terminal, and the port for pages. */
async function start(t) {
  const folder = mkdtempSync(join(tmpdir(), 'jmqt-tutorial-'));
  const env = { JMQT_SOCKET_PORT: '0', JMQT_WEBSOCKET_PORT: '0' };
  const child = spawn(program('tutorial', 'JMQT_TUTORIAL'), [], { cwd: folder, env, stdio: ['pipe', 'ignore', 'pipe'] });
  endWithThisProcess(child);
  t.after(async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    rmSync(folder, { recursive: true });
  });
  for await (const line of createInterface({ input: child.stderr })) {
    const listening = /Listening on ws .*:(\d+)$/.exec(line);
    if (listening) {
      child.stderr.resume();
      return { terminal: child.stdin, port: listening[1] };
    }
  }
  throw new Error('the chat did not start');
}

/** Serves the page with the real port. */
async function serve(t, port) {
  const text = readFileSync(page, 'utf8').replace('localhost:8012', `127.0.0.1:${port}`);
  const front = createServer((request, response) => {
    const isLibrary = request.url === '/jmqt.js';
    response.writeHead(200, { 'content-type': isLibrary ? 'text/javascript' : 'text/html' });
    response.end(isLibrary ? readFileSync(library) : text);
  });
  front.listen(0, '127.0.0.1');
  await once(front, 'listening');
  t.after(() => front.close());
  return `http://127.0.0.1:${front.address().port}/`;
}

async function enter(window, name, password, isNew) {
  await window.fill('#name', name);
  await window.fill('#password', password);
  await window.setChecked('#new', isNew);
  await window.click('#door button');
}

test('two people create accounts in the page of the tutorial, and talk', async (t) => {
  const { terminal, port } = await start(t);
  const url = await serve(t, port);
  const browser = await browse(t);
  const [alice, bob] = await Promise.all([browser.newPage(), browser.newPage()]);
  for (const window of [alice, bob]) await window.goto(url);
  await enter(alice, 'alice', 'correct horse', true);
  await see(alice, '#state', 'Hello alice');
  await enter(bob, 'alice', 'battery staple', true);
  await see(bob, '#state', 'the name alice is taken');
  await enter(bob, 'bob', 'battery staple', true);
  await see(bob, '#state', 'Hello bob');
  await bob.fill('#text', 'Good <b>morning</b>');
  await bob.press('#text', 'Enter');
  await see(alice, '#messages li', 'bob: Good <b>morning</b>');
  await see(bob, '#messages li', 'bob: Good <b>morning</b>');
  terminal.write('Lunch is ready\n');
  for (const window of [alice, bob]) await see(window, '#messages li', 'Lunch is ready');

  // What is sent to somebody who is away waits.
  await alice.close();
  await bob.fill('#text', 'Are you there?');
  await bob.press('#text', 'Enter');
  await see(bob, '#messages li', 'bob: Are you there?');
  const again = await browser.newPage();
  await again.goto(url);
  await enter(again, 'alice', 'wrong horse', false);
  await see(again, '#state', /refused|wrong|NOT_ALLOWED|failed/i);
  await enter(again, 'alice', 'correct horse', false);
  await see(again, '#messages li', 'bob: Are you there?');
});
