/** What went wrong, in words: the status codes of JMQT 1.0, section 8, and what to do about them. */
import { JmqtError, RefusedError, describeReason, describeStatus } from './jmqt.js';

const MEANINGS = new Map([
  [0, 'the server could not do it'],
  [3, 'the server could not read the request'],
  [5, 'the server has a problem of its own; try again later'],
  [6, 'the server does not take this token; connect again'],
  [7, 'the server does not allow it'],
  [8, 'that client is not connected'],
  [9, 'there is no connection'],
  [10, 'something in the request is not as the server expects it'],
  [11, 'that is not a channel for this'],
]);

/** Why the server ended a connection (protocol.md 2.22), as the end of a sentence. */
const ENDINGS = new Map([
  ['SHUTDOWN', 'the server is stopping'],
  ['DRAIN', 'the server hands its connections over to other servers'],
  ['IDLE', 'the server heard nothing from this page for too long'],
  ['SLOW', 'this page took too little of what was sent to it'],
  ['NO_ACKNOWLEDGEMENTS', 'this page did not acknowledge its messages'],
  ['SERVER_ERROR', 'the server, its database or its application failed'],
  ['TRY_LATER', 'the server has reached a limit'],
  ['TOKEN_EXPIRED', 'the token has expired'],
  ['BY_APPLICATION', 'the application ended it'],
  ['TAKEOVER', 'another page or program connected with this name, and took over'],
  ['BAD_PACKETS', 'the server could not read what this page sent'],
  ['PACKET_TOO_LARGE', 'a packet was larger than the server allows'],
  ['KICKED', 'the application ended it, and does not want this client back by itself'],
  ['TOO_MANY_REFUSALS', 'too many tries to connect were refused'],
]);

/** Close codes of RFC 6455, section 7.4.1, with which older servers and proxies end a connection. */
const CLOSE_CODES = new Map([
  ['1000', 'the server closed it as agreed'],
  ['1001', 'the server is stopping'],
  ['1002', 'the server or a proxy could not read what this page sent'],
  ['1003', 'the server does not take this kind of message'],
  ['1005', 'the server closed it and did not say why'],
  ['1006', 'it broke off: the server, a proxy or the network has failed'],
  ['1007', 'the server could not read what this page sent'],
  ['1008', 'the server does not accept what this page did'],
  ['1009', 'a packet was larger than the server allows'],
  ['1011', 'the server has failed'],
  ['1012', 'the server is restarting'],
  ['1013', 'the server has too much to do; try again later'],
  ['1014', 'a proxy got no usable answer from the server'],
  ['1015', 'TLS failed'],
]);

/** `the server is stopping (close code 1001)`; `undefined` if the error is not of that kind. */
function closing(error) {
  if (error.code !== 'CONNECTION_LOST') return undefined;
  const [, code, said = ''] = /was closed with code (\d+)(?:, (.*))?$/s.exec(error.message) ?? [];
  if (code === undefined) return undefined;
  return `${CLOSE_CODES.get(code) ?? 'it was closed'} (close code ${code}${said === '' ? '' : `: ${said}`})`;
}

/** `The connection of alice ended: another page … took over. (4500 TAKEOVER: …)` */
export function ending(name, reason) {
  const words = ENDINGS.get(reason.name) ?? 'the server ended it';
  return `The connection of ${name} ended: ${words} (${describeReason(reason)}).`;
}

/** `the server does not allow it (status 7 NOT_ALLOWED)` */
export function meaning(status) {
  const words = MEANINGS.get(status) ?? 'the server said no';
  return `${words} (status ${describeStatus(status)})`;
}

/** What an error of jmqt-js means for who uses this page. `what` begins the sentence: “Subscribing to news”. */
export function explain(what, error) {
  if (error instanceof RefusedError) {
    const said = typeof error.reply === 'string' && error.reply !== '' ? ` The server says: ${error.reply}.` : '';
    return `${what} was refused: ${meaning(error.status)}.${said}`;
  }
  if (error instanceof JmqtError && closing(error) !== undefined) return `${what} ended: ${closing(error)}.`;
  if (error instanceof JmqtError && error.code === 'USAGE') return `${what} is not possible: ${error.message}.`;
  if (error instanceof JmqtError) return `${what} failed: ${error.message} (status ${describeStatus(error.status)}).`;
  return `${what} failed: ${error instanceof Error ? error.message : String(error)}.`;
}
