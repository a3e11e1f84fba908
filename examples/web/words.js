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
  if (error instanceof JmqtError && error.code === 'USAGE') return `${what} is not possible: ${error.message}.`;
  if (error instanceof JmqtError) return `${what} failed: ${error.message} (status ${describeStatus(error.status)}).`;
  return `${what} failed: ${error instanceof Error ? error.message : String(error)}.`;
}
