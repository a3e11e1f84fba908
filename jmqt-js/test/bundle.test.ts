/** The checked-in files for pages are what the sources make, and need nothing else. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Collected, WebSocketOfWs, skip, startServer } from './support.js';

const root = new URL('../', import.meta.url);
const script = new URL('bundle.mjs', root).href;

test('the checked-in files for pages are what `npm run build` makes', async () => {
  const { bundles } = (await import(script)) as { bundles(): Promise<{ path: string; text: string }[]> };
  for (const { path, text } of await bundles()) {
    assert.ok(text === readFileSync(new URL(path, root), 'utf8'), `${path} is not current: npm run build`);
    if (!path.endsWith('.map')) assert.doesNotMatch(text, /\bnode:|\bfrom ["']|\bimport\s*\(|\brequire\s*\(/, path);
  }
});

test('no file names a machine or a registry', () => {
  for (const path of ['package-lock.json', 'package.json', 'browser/jmqt.js', 'browser/jmqt-compat.js', 'README.md']) {
    assert.doesNotMatch(readFileSync(new URL(path, root), 'utf8'), /"resolved"|\/home\/|\/tmp\/|\/root\//, path);
  }
});

test('the module for pages works as it is', { skip }, async (t) => {
  const bundle = new URL('browser/jmqt.js', root).href;
  const { Client } = (await import(bundle)) as typeof import('../dist/index.js');
  const server = await startServer(t);
  const client = new Client({ url: server.ws, WebSocket: WebSocketOfWs });
  t.after(() => client.disconnect());
  const got = new Collected(client, 'update');
  await client.auth({ client_name: 'page' });
  await client.conn();
  await got.count(1);
  assert.deepEqual(got.data, [{ online: 'page' }]);
  const socket = new Client({ url: server.tcp });
  await assert.rejects(socket.auth(1), { name: 'UsageError', message: /a page cannot open jmqt:/ });
});
