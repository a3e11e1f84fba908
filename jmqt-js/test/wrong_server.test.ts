/** Connecting to what is no JMQT server, or not in this way: the error says what to check. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import * as net from 'node:net';
import { test } from 'node:test';
import type { TestContext } from 'node:test';

import { Client } from '../dist/index.js';
import { WebSocketOfWs, makeClient, skip, startServer } from './support.js';

async function listening(t: TestContext, server: net.Server): Promise<number> {
  t.after(() => server.close());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as net.AddressInfo).port;
}

/** Says this to whoever connects, and hangs up. */
function saying(bytes: string): net.Server {
  return net.createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', () => {});
    socket.end(Buffer.from(bytes, 'latin1'));
  });
}

const auth = (t: TestContext, url: string, options = {}): Promise<unknown> =>
  makeClient(t, url, { timeout: 10_000, ...options }).auth({ client_name: 'bob' });

test('an HTTP server that does not upgrade is recognised', async (t) => {
  const port = await listening(t, createServer((_, response) => response.end('hello')));
  await assert.rejects(auth(t, `ws://127.0.0.1:${port}`), {
    name: 'WrongServerError',
    code: 'WRONG_SERVER',
    status: 9,
    message: /200.*check that a JMQT server runs there.*WebSocket port \(usually 8012/,
  });
  await assert.rejects(auth(t, `jmqt://127.0.0.1:${port}`), {
    name: 'WrongServerError',
    message: /speaks HTTP.*use ws:\/\//,
  });
});

test('a TLS port that is used without TLS is recognised', async (t) => {
  const port = await listening(t, saying('\x15\x03\x03\x00\x02\x02\x46'));
  await assert.rejects(auth(t, `jmqt://127.0.0.1:${port}`), { name: 'WrongServerError', message: /use jmqts:\/\// });
  await assert.rejects(auth(t, `ws://127.0.0.1:${port}`), { name: 'WrongServerError', message: /wss:\/\/ with it/ });
});

test('a port without TLS that is used with TLS is recognised', async (t) => {
  const port = await listening(t, saying('{"hbAck":{}}\0'));
  await assert.rejects(auth(t, `jmqts://127.0.0.1:${port}`), {
    name: 'WrongServerError',
    message: /check that this is the TLS port \(usually 8011\)/,
  });
  await assert.rejects(auth(t, `wss://127.0.0.1:${port}`), { name: 'WrongServerError', message: /ws:\/\/ is used without TLS/ });
});

test('a server of another protocol is recognised', async (t) => {
  const port = await listening(t, saying('220 mail ready\r\n'));
  await assert.rejects(auth(t, `jmqt://127.0.0.1:${port}`), {
    name: 'WrongServerError',
    message: /not a JMQT server: its data begins with "220 mail ready/,
  });
  const json = await listening(t, saying('{"hello":{}}\0'));
  await assert.rejects(auth(t, `jmqt://127.0.0.1:${json}`), { name: 'WrongServerError', message: /unexpected packet type "hello"/ });
});

test('a server of MQTT is recognised', async (t) => {
  for (const answer of ['\x20\x02\x00\x01', '\x20\x03\x00\x84\x00', '\xe0\x01\x81']) {
    const port = await listening(t, saying(answer));
    await assert.rejects(auth(t, `jmqt://127.0.0.1:${port}`), {
      name: 'WrongServerError',
      message: /answers with MQTT: .*1883.*usually 8010/,
    });
  }
});

test('the error names the usual ports if that of MQTT is used', { skip }, async (t) => {
  const server = await startServer(t, { mqtt: true });
  await assert.rejects(auth(t, `jmqt://127.0.0.1:${server.mqttPort}`), {
    status: 9,
    message: /4501 BAD_PACKETS: this port is for MQTT.*; the URL may have the port of another protocol: jmqt:\/\/ is usually 8010/,
  });
});

test('the error names the right port if TCP and WebSocket ports are exchanged', { skip }, async (t) => {
  const server = await startServer(t);
  await assert.rejects(auth(t, `jmqt://127.0.0.1:${server.wsPort}`), {
    status: 9,
    message: /4501 BAD_PACKETS: this port is for WebSockets/,
  });
  // The TCP port answers HTTP with 400.
  await assert.rejects(auth(t, `ws://127.0.0.1:${server.tcpPort}`), {
    name: 'WrongServerError',
    message: /\(Unexpected server response: 400\): .*8012/,
  });
});

test('a port without a listener is a network error', async (t) => {
  const port = await listening(t, net.createServer());
  const gone = net.createServer();
  gone.listen(0, '127.0.0.1');
  await once(gone, 'listening');
  const free = (gone.address() as net.AddressInfo).port;
  gone.close();
  await once(gone, 'close');
  assert.notEqual(port, free);
  await assert.rejects(auth(t, `jmqt://127.0.0.1:${free}`), { name: 'NetworkError', message: /ECONNREFUSED/ });
  await assert.rejects(auth(t, `ws://127.0.0.1:${free}`), { name: 'NetworkError', message: /ECONNREFUSED/ });
});

test('a platform without WebSocket is a usage error that names the option', { skip: 'WebSocket' in globalThis && 'this Node has one' }, async () => {
  const client = new Client({ url: 'ws://127.0.0.1:1' });
  await assert.rejects(client.auth(1), { name: 'UsageError', message: /pass one in the option `WebSocket`.*jmqt:\/\// });
  assert.ok(WebSocketOfWs);
});
