/**
 * Where the server's WebSocket is, as far as the page can know. Pure: no document.
 *
 * `at` is the page's own address (`location`), `config` what `/config.json` has told. The sample server serves
 * its page over plain HTTP and at `/`: with https, or below a path, the page comes through a proxy. Then the
 * ports of the server are behind it, and the WebSocket is looked for where the page is, which is a proxy that
 * passes on upgrades. `--websocket-url` tells any other address.
 */
export function serverAddress(at, { websocketPort = null, tlsWebsocketPort = null, websocketUrl = null }) {
  if (websocketUrl !== null) return websocketUrl;
  if (websocketPort === null && tlsWebsocketPort === null) return undefined;
  const folder = at.pathname.slice(0, at.pathname.lastIndexOf('/') + 1);
  if (folder !== '/') return `${at.protocol === 'https:' ? 'wss' : 'ws'}://${at.host}${folder}`;
  if (at.protocol === 'https:') {
    return tlsWebsocketPort === null ? `wss://${at.host}/` : `wss://${at.hostname}:${tlsWebsocketPort}`;
  }
  return websocketPort === null ? `wss://${at.hostname}:${tlsWebsocketPort}` : `ws://${at.hostname}:${websocketPort}`;
}
