/** Why a server ended a connection, and what a client does about it (protocol.md 2.22). */

/** The codes of protocol.md 2.22. A server may send others: the range decides. */
export const DisconnectCode = {
  SHUTDOWN: 4000,
  DRAIN: 4001,
  IDLE: 4002,
  SLOW: 4003,
  NO_ACKNOWLEDGEMENTS: 4004,
  SERVER_ERROR: 4005,
  TRY_LATER: 4006,
  TOKEN_EXPIRED: 4007,
  BY_APPLICATION: 4008,
  TAKEOVER: 4500,
  BAD_PACKETS: 4501,
  PACKET_TOO_LARGE: 4502,
  KICKED: 4503,
  TOO_MANY_REFUSALS: 4504,
} as const;

/** What the server said when it ended a connection. */
export interface DisconnectReason {
  /** 4000 to 4499: the client reconnects by itself. 4500 to 4999: it does not. */
  readonly code: number;
  /** `TAKEOVER`, for example; empty for a code that this client does not know. */
  readonly name: string;
  /** The server's words. */
  readonly text: string;
  /** Whether the client may reconnect by itself. */
  readonly mayReconnect: boolean;
  /** Milliseconds that the server asks the client to wait before it reconnects; 0 if it does not say. */
  readonly delay: number;
}

const NAMES = new Map<number, string>(Object.entries(DisconnectCode).map(([name, code]) => [code, name]));

/** The reason that goes with a code of a `disconn`, or with a close code; `undefined` for a code out of the range. */
export function disconnectReason(code: number | undefined, text: string, seconds = 0): DisconnectReason | undefined {
  if (code === undefined || code < 4000 || code > 4999) return undefined;
  return { code, name: NAMES.get(code) ?? '', text, mayReconnect: code < 4500, delay: Math.max(0, seconds) * 1000 };
}

/** `4500 TAKEOVER: a newer connection of the same client took over` */
export function describeReason({ code, name, text }: DisconnectReason): string {
  return `${code}${name === '' ? '' : ` ${name}`}${text === '' ? '' : `: ${text}`}`;
}
