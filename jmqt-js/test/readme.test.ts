/** The examples of this README.md and of the repository's do what is said there. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { skip, startServer } from './support.js';

const root = new URL('../', import.meta.url);
const readme = readFileSync(new URL('README.md', root), 'utf8');
const readmeOfRepository = readFileSync(new URL('../README.md', root), 'utf8');

function examples(document: string, language: string): (string | undefined)[] {
  return [...document.matchAll(new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, 'gs'))].map((found) => found[1]);
}

/** Example number `index` in this language, with the server's real ports. */
function example(document: string, language: string, index: number, ports: Record<number, number>): string {
  const found = examples(document, language)[index];
  assert.ok(found, `no example ${index} in ${language}`);
  return found.replaceAll('localhost', '127.0.0.1').replace(/\b801[02]\b/g, (port) => String(ports[Number(port)]));
}

/** Runs it as a module, until it has printed `last` or ended. */
async function run(source: string, last?: string): Promise<string> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      if (last !== undefined && output.includes(last)) child.kill();
    });
  }
  await once(child, 'close');
  return output;
}

const PAGE_WEBSOCKET = `import { WebSocket } from 'ws'; globalThis.WebSocket ??= WebSocket;\n`;

test('the example for Node in jmqt-js/README.md runs', { skip }, async (t) => {
  const server = await startServer(t);
  const output = await run(example(readme, 'js', 0, { 8010: server.tcpPort }));
  assert.match(output, /^alice first\nalice second\n\{\s+channels: \{.*news: 'temp'/s);
});

test('the example for pages in jmqt-js/README.md runs', { skip }, async (t) => {
  const server = await startServer(t);
  const page = example(readme, 'html', 0, { 8012: server.wsPort });
  const source = page.replace(/<.*?script.*?>/g, '').replace('./jmqt.js', './browser/jmqt.js');
  const output = await run(PAGE_WEBSOCKET + source, 'update');
  assert.match(output, /connected/);
});

test('the example for the first client in jmqt-js/README.md runs', { skip }, async (t) => {
  const server = await startServer(t);
  const page = example(readme, 'html', 1, { 8012: server.wsPort });
  const source = page.replace(/<.*?script.*?>/g, '');
  const output = await run(`${PAGE_WEBSOCKET} await import('./browser/jmqt-compat.js');\n${source}`, 'published 1');
  assert.match(output, /subscribed 1 news\n.*published 1/s);
});

test('the example for pages in the README of the repository runs', { skip }, async (t) => {
  const server = await startServer(t);
  const page = example(readmeOfRepository, 'html', 0, { 8012: server.wsPort });
  const source = page.replace(/<.*?script.*?>/g, '').replace('./jmqt.js', './browser/jmqt.js');
  assert.match(await run(PAGE_WEBSOCKET + source, 'published'), /^published$/m);
});

test('every JavaScript example of the READMEs is run by a test', () => {
  const count = (document: string): number[] => ['js', 'html', 'ts'].map((language) => examples(document, language).length);
  assert.deepEqual([count(readme), count(readmeOfRepository)], [[1, 2, 0], [0, 1, 0]]);
});
