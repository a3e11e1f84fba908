/** TCP and WebSocket inside TLS (§3), with a certificate made for the occasion. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { WebSocket } from 'ws';

import type { WebSocketConstructor } from '../dist/index.js';
import { Collected, enter, makeClient, skip, startServer } from './support.js';

const openssl = spawnSync('openssl', ['version']).status === 0;

test('jmqts and wss speak to the TLS ports, if the certificate is trusted', { skip: skip || (!openssl && 'no openssl') }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'jmqt-js-tls-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  execFileSync(
    'openssl',
    ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-keyout', key,
      '-out', cert, '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'],
    { stdio: 'ignore' },
  );
  const server = await startServer(t, { tls: { cert, key } });
  const ca = readFileSync(cert);
  const Trusting = class extends WebSocket {
    constructor(url: string) {
      super(url, { ca });
    }
  } as unknown as WebSocketConstructor;
  const alice = await enter(t, `jmqts://127.0.0.1:${server.tlsPort}`, 'alice', { tls: { ca } });
  const bob = await enter(t, `wss://localhost:${server.wssPort}`, 'bob', { WebSocket: Trusting });
  const got = new Collected(bob, 'news');
  await bob.sub('news');
  await alice.pub('news', 'secret', { qos: 1 });
  await got.count(1);
  assert.equal(got.data[0], 'secret');

  const doubting = makeClient(t, `jmqts://127.0.0.1:${server.tlsPort}`);
  await assert.rejects(doubting.auth({}), { name: 'WrongServerError', message: /self-signed.*option `tls`: \{ ca \}/ });
  const plain = makeClient(t, `jmqt://127.0.0.1:${server.tlsPort}`);
  await assert.rejects(plain.auth({}), { status: 9, message: /4501 BAD_PACKETS: this port is for TLS/ });
});
