/** What bundles for browsers contain instead of `socket`: pages have WebSockets only. */
import { UsageError } from './errors.js';
import type { Transport } from './transport.js';

export function openSocket(url: URL): Transport {
  throw new UsageError(`a page cannot open ${url.href}: use ws:// or wss:// with the WebSocket port of the server`);
}
