/**
 * Everything that can go wrong, as one family of errors.
 *
 * Each has a `status` (§8: what the server answered, or 9 where it did not come to an answer) and a
 * `code`, a word for programs. Messages say what failed, where, and what was expected; they never
 * contain tokens, authentication data or message data.
 */

import type { DisconnectReason } from './reason.js';

/** The status codes of §8. A server may send others: anything but `OK` is a failure. */
export const Status = {
  OK: 1,
  FAILED: 0,
  UNKNOWN: -1,
  MALFORMED_PACKET: 3,
  SERVER_ERROR: 5,
  INVALID_TOKEN: 6,
  NOT_ALLOWED: 7,
  CLIENT_OFFLINE: 8,
  NETWORK_ERROR: 9,
  INVALID_PACKET: 10,
  INVALID_CHANNEL: 11,
} as const;

/** What kind of failure a {@link JmqtError} is. */
export type ErrorCode =
  | 'REFUSED'
  | 'NETWORK'
  | 'CONNECTION_LOST'
  | 'WRONG_SERVER'
  | 'TIMEOUT'
  | 'ABORTED'
  | 'QUEUE_FULL'
  | 'UNAUTHORIZED'
  | 'CLOSED'
  | 'USAGE';

const STATUS_NAMES = new Map<number, string>(Object.entries(Status).map(([name, status]) => [status, name]));

/** `7 NOT_ALLOWED`, or the number alone where §8 has no name for it. */
export function describeStatus(status: number): string {
  const name = STATUS_NAMES.get(status);
  return name === undefined ? String(status) : `${status} ${name}`;
}

/** The root of the family. */
export class JmqtError extends Error {
  override readonly name: string = 'JmqtError';

  constructor(
    readonly code: ErrorCode,
    readonly status: number,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

/** The server answered, and not with 1. `status` is its answer. */
export class RefusedError extends JmqtError {
  override readonly name: string = 'RefusedError';

  constructor(
    /** What was refused: `auth`, `conn`, `sub`, `unsub`, `pub` or `request`. */
    readonly request: string,
    status: number,
    /** The channel, where the request had one. */
    readonly channel?: string,
    /** For a control request the reply data, for `auth` the server's words. */
    readonly reply?: unknown,
    because = '',
  ) {
    const where = channel === undefined ? '' : ` on channel ${JSON.stringify(channel)}`;
    const words = typeof reply === 'string' && request === 'auth' ? `: ${reply}` : '';
    super('REFUSED', status, `${request}${where} was refused with status ${describeStatus(status)}${words}${because}`);
  }
}

/** The server does not know filters, and took one for the name of a channel (protocol.md 2.25). `status` is 0. */
export class UnsupportedError extends RefusedError {
  override readonly name = 'UnsupportedError';

  constructor(request: string, filter: string) {
    super(request, Status.FAILED, filter, undefined, ': the server does not support filters with wildcards');
  }
}

/** There is no connection, or none could be made (status 9). */
export class NetworkError extends JmqtError {
  override readonly name: string = 'NetworkError';

  constructor(message: string, options?: { cause?: unknown }, code: ErrorCode = 'NETWORK') {
    super(code, Status.NETWORK_ERROR, message, options);
  }
}

/** A connection that was there has ended (status 9). */
export class ConnectionLostError extends NetworkError {
  override readonly name = 'ConnectionLostError';
  /** Why the server ended it, where the server said so (protocol.md 2.22). */
  readonly reason: DisconnectReason | undefined;

  constructor(message: string, options?: { cause?: unknown; reason?: DisconnectReason | undefined }) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause }, 'CONNECTION_LOST');
    this.reason = options?.reason;
  }
}

/**
 * There will be no token (status 6). `refreshToken` throws it when trying again is of no use, for example because the
 * user has logged out; any other error that it throws is a failure that may pass, and it is called again later.
 */
export class UnauthorizedError extends JmqtError {
  override readonly name = 'UnauthorizedError';

  constructor(message = 'the application has no token for this client', options?: { cause?: unknown }) {
    super('UNAUTHORIZED', Status.INVALID_TOKEN, message, options);
  }
}

/** The server at this address does not speak JMQT, or not over this transport (status 9). */
export class WrongServerError extends NetworkError {
  override readonly name = 'WrongServerError';

  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options, 'WRONG_SERVER');
  }
}

/** No answer in time (status 9). */
export class TimeoutError extends NetworkError {
  override readonly name = 'TimeoutError';

  constructor(message: string) {
    super(message, undefined, 'TIMEOUT');
  }
}

/** The caller's `AbortSignal` fired; its reason is the `cause`. */
export class AbortedError extends JmqtError {
  override readonly name = 'AbortError';

  constructor(message: string, reason: unknown) {
    super('ABORTED', Status.FAILED, message, { cause: reason });
  }
}

/** The offline queue had no room for a publish (status 9). */
export class QueueFullError extends JmqtError {
  override readonly name = 'QueueFullError';

  constructor(message: string) {
    super('QUEUE_FULL', Status.NETWORK_ERROR, message);
  }
}

/** The client was closed with `disconnect()`, or was never connected (status 9). */
export class ClosedError extends JmqtError {
  override readonly name = 'ClosedError';

  constructor(message: string) {
    super('CLOSED', Status.NETWORK_ERROR, message);
  }
}

/** A call that can never work: a mistake in the program. */
export class UsageError extends JmqtError {
  override readonly name = 'UsageError';

  constructor(message: string, status: number = Status.INVALID_PACKET) {
    super('USAGE', status, message);
  }
}
