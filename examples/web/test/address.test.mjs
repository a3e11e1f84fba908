/** Which address of the WebSocket the page offers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { serverAddress } from '../address.js';

const offered = (page, config) => serverAddress(new URL(page), config);
const PLAIN = { websocketPort: 8012, tlsWebsocketPort: null, websocketUrl: null };
const TLS = { websocketPort: null, tlsWebsocketPort: 8013, websocketUrl: null };
const BOTH = { websocketPort: 8012, tlsWebsocketPort: 8013, websocketUrl: null };

test('a page straight from the server is offered its port, plain where there is a plain one', () => {
  assert.equal(offered('http://localhost:8000/', PLAIN), 'ws://localhost:8012');
  assert.equal(offered('http://localhost:8000/index.html?x=/y/', BOTH), 'ws://localhost:8012');
  assert.equal(offered('http://192.0.2.1:8000/', TLS), 'wss://192.0.2.1:8013');
  assert.equal(offered('http://[2001:db8::1]:8000/', PLAIN), 'ws://[2001:db8::1]:8012');
});

test('a page with https is never offered a plain WebSocket, which browsers would refuse', () => {
  assert.equal(offered('https://example.com/', BOTH), 'wss://example.com:8013');
  assert.equal(offered('https://example.com/', PLAIN), 'wss://example.com/');
  assert.equal(offered('https://example.com:8443/chat/', PLAIN), 'wss://example.com:8443/chat/');
});

test('a page below a path comes through a proxy, and so does the WebSocket', () => {
  assert.equal(offered('http://example.com/chat/', PLAIN), 'ws://example.com/chat/');
  assert.equal(offered('http://example.com/chat/index.html', BOTH), 'ws://example.com/chat/');
  assert.equal(offered('https://example.com/a/b/', BOTH), 'wss://example.com/a/b/');
});

test('an address that the server was given goes before all others', () => {
  for (const page of ['http://localhost:8000/', 'https://example.com/chat/']) {
    assert.equal(offered(page, { ...BOTH, websocketUrl: 'wss://push.example.com/jmqt' }), 'wss://push.example.com/jmqt');
  }
});

test('a server without a WebSocket has no address', () => {
  assert.equal(offered('https://example.com/chat/', { websocketPort: null, tlsWebsocketPort: null, websocketUrl: null }), undefined);
});
