/**
 * The packets of §7 as text, both ways. Pure: no clock, no sockets.
 *
 * Strict out: exactly the fields of §7, flags and QoS only where they are 1 (protocol.md 2.6).
 * Lenient in: flags as 0/1, booleans or text, ids as numbers, unknown members ignored.
 */
import { fromBytes } from './bytes.js';
import { Status, UsageError } from './errors.js';
import { isFilterKey, nameOf } from './filter.js';
import { byteLength, trimmed } from './text.js';

/** JSON text that is sent exactly as it is, for numbers that JavaScript cannot hold (protocol.md 2.7). */
export class RawJson {
  /** For MQTT clients the payload is literally this text: a string is sent with its quotes (`jt`, protocol.md 2.26). */
  readonly literal: boolean;

  /** @throws UsageError if `text` is not JSON. */
  constructor(
    readonly text: string,
    options: { literal?: boolean } = {},
  ) {
    this.literal = options.literal ?? false;
    try {
      JSON.parse(text);
    } catch (cause) {
      throw new UsageError(`RawJson needs JSON text: ${(cause as Error).message}`);
    }
  }

  /**
   * Bytes as data: text becomes a JSON string, or, if it is the text of a JSON value, that value; other bytes become
   * `{"$b64":"…"}`. MQTT clients receive exactly these bytes, but for white space around JSON, and `bytes()` of a
   * message has them again (protocol.md 2.26).
   */
  static ofBytes(bytes: Uint8Array): RawJson {
    const { json, literal } = fromBytes(bytes);
    return new RawJson(json, { literal });
  }

  toString(): string {
    return this.text;
  }
}

/** `data` as the text of a `dt` member. */
export function encodeData(data: unknown, what: string): string {
  if (data instanceof RawJson) return data.text;
  let text: string | undefined;
  try {
    text = JSON.stringify(data);
  } catch (cause) {
    throw new UsageError(`cannot write the data of ${what} as JSON: ${(cause as Error).message}`);
  }
  if (text === undefined) {
    throw new UsageError(`${what} needs data that can be written as JSON, not ${typeof data}; use null for no data`);
  }
  return text;
}

export function encodeAuth(data: unknown): string {
  return `{"auth":{"dt":${encodeData(data, 'auth')}}}`;
}

/** `publisher` is the random id of protocol.md 2.23. */
export function encodeConn(token: string, clientId: string, window: number, publisher: string): string {
  return JSON.stringify({ conn: { at: token, cl: clientId, wn: window, pi: publisher } });
}

/** `key` is the name of a channel, or the key of a filter. */
export function encodeSub(key: string, persistent: boolean): string {
  return JSON.stringify({ sub: { cn: nameOf(key), ...(persistent ? { pr: 1 } : {}), ...(isFilterKey(key) ? { wc: 1 } : {}) } });
}

export function encodeUnsub(key: string): string {
  return JSON.stringify({ unsub: { cn: nameOf(key), ...(isFilterKey(key) ? { wc: 1 } : {}) } });
}

/** `id` decides whether there is one: QoS 1 and control channels need it. `json` is the text of `dt`, and `literal` its `jt`. */
export function encodePub(
  channel: string,
  json: string | undefined,
  qos: Qos,
  retain: boolean,
  id?: string,
  literal = false,
): string {
  const data = json === undefined ? '' : `,"dt":${json}${literal ? ',"jt":1' : ''}`;
  const rest = (qos === 1 ? ',"q":1' : '') + (id === undefined ? '' : `,"id":${JSON.stringify(id)}`);
  return `{"pub":{"cn":${JSON.stringify(channel)}${data}${rest}${retain ? ',"rt":1' : ''}}}`;
}

export function encodePushAck(id: string): string {
  return `{"pushAck":{"id":${JSON.stringify(id)}}}`;
}

export const HEARTBEAT = '{"hb":{}}';
export const DISCONN = '{"disconn":{}}';

/** Quality of service (§9.a): 0 is delivered to who is there now, 1 is stored and acknowledged. */
export type Qos = 0 | 1;

/** What a server sends. */
export type ServerPacket =
  | { type: 'authAck'; status: number; token: string; clientId: string; message: string }
  | { type: 'connAck'; status: number; timeoutSeconds: number; publishesOnce: boolean }
  | { type: 'disconn'; code: number; text: string; seconds: number }
  | { type: 'hbAck' }
  | { type: 'subAck' | 'unsubAck'; status: number; channel: string | undefined; filter: boolean }
  | { type: 'pubAck'; status: number; id: string | undefined; data: unknown }
  | { type: 'push'; channel: string; data: unknown; literal: boolean; client: string; qos: Qos; id: string; retained: boolean };

/** Why a text is not a packet of a server. */
export class BadPacket extends Error {}

/** @throws BadPacket if `text` is not a packet that a server sends. */
export function decode(text: string): ServerPacket {
  let packet: unknown;
  try {
    packet = JSON.parse(text);
  } catch {
    throw new BadPacket('not JSON');
  }
  if (!isObject(packet)) throw new BadPacket('not a JSON object');
  const types = Object.keys(packet);
  const type = types[0];
  if (type === undefined || types.length !== 1) throw new BadPacket(`${types.length} members instead of one`);
  const fields = packet[type];
  if (!isObject(fields)) throw new BadPacket(`the value of ${JSON.stringify(type)} is not an object`);
  switch (type) {
    case 'push':
      return decodePush(fields);
    case 'pubAck':
      return { type, status: integer(fields, 'st'), id: optionalId(fields), data: fields['dt'] };
    case 'subAck':
    case 'unsubAck':
      return { type, status: integer(fields, 'st'), channel: optionalText(fields, 'cn'), filter: flag(fields, 'wc') };
    case 'hbAck':
      return { type };
    case 'connAck': {
      const status = integer(fields, 'st');
      const timeoutSeconds = status === Status.OK ? integer(fields, 'ts') : 0;
      return { type, status, timeoutSeconds, publishesOnce: Number(fields['pi']) === 1 };
    }
    case 'disconn': {
      const seconds = fields['ts'];
      return {
        type,
        code: integer(fields, 'st'),
        text: optionalText(fields, 'mg') ?? '',
        seconds: typeof seconds === 'number' ? seconds : 0,
      };
    }
    case 'authAck': {
      const status = integer(fields, 'st');
      if (status !== Status.OK) {
        return { type, status, token: '', clientId: '', message: optionalText(fields, 'mg') ?? '' };
      }
      return { type, status, token: requiredText(fields, 'at'), clientId: requiredText(fields, 'cl'), message: '' };
    }
    default:
      throw new BadPacket(`unexpected packet type ${JSON.stringify(type)}`);
  }
}

function decodePush(fields: Fields): ServerPacket {
  const qos = flag(fields, 'q') ? 1 : 0;
  const id = optionalId(fields);
  if (qos === 1 && id === undefined) throw new BadPacket('a QoS 1 push without id');
  if (fields['dt'] === undefined) throw new BadPacket('a push without dt');
  return {
    type: 'push',
    channel: requiredText(fields, 'cn'),
    data: fields['dt'],
    literal: flag(fields, 'jt'),
    client: optionalText(fields, 'cl') ?? '',
    qos,
    id: id ?? '',
    retained: flag(fields, 'rt'),
  };
}

type Fields = Record<string, unknown>;

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function integer(fields: Fields, key: string): number {
  const value = fields[key];
  if (!Number.isInteger(value)) throw new BadPacket(`field ${key} is not an integer`);
  return value as number;
}

function optionalText(fields: Fields, key: string): string | undefined {
  const value = fields[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw new BadPacket(`field ${key} is not text`);
  return value;
}

function requiredText(fields: Fields, key: string): string {
  const value = optionalText(fields, key);
  if (value === undefined) throw new BadPacket(`field ${key} is missing`);
  return value;
}

function optionalId(fields: Fields): string | undefined {
  const value = fields['id'];
  return typeof value === 'number' ? String(value) : optionalText(fields, 'id');
}

function flag(fields: Fields, key: string): boolean {
  const value = fields[key];
  if (value === undefined || value === null || value === 0 || value === false || value === '0') return false;
  if (value === 1 || value === true || value === '1') return true;
  throw new BadPacket(`field ${key} is neither 0 nor 1`);
}

/**
 * The text of `dt` in a packet that {@link decode} has accepted, byte for byte (protocol.md 2.7).
 * Of duplicate keys the last one counts, as for `JSON.parse`.
 */
export function rawData(packet: string): string | undefined {
  const outer = members(packet, skipSpace(packet, 0));
  const fields = outer[0];
  if (fields === undefined) return undefined;
  return members(packet, fields.start)
    .filter((member) => member.key === 'dt')
    .map((member) => packet.slice(member.start, member.end))
    .at(-1);
}

interface Member {
  key: string;
  start: number;
  end: number;
}

/** The members of the object whose brace is at `at`. The text is known to be JSON. */
function members(text: string, at: number): Member[] {
  const found: Member[] = [];
  at = skipSpace(text, at + 1);
  while (text[at] === '"') {
    const keyEnd = skipValue(text, at);
    const key = JSON.parse(text.slice(at, keyEnd)) as string;
    const start = skipSpace(text, skipSpace(text, keyEnd) + 1); // past the colon
    const end = skipValue(text, start);
    found.push({ key, start, end });
    at = skipSpace(text, end);
    if (text[at] !== ',') break;
    at = skipSpace(text, at + 1);
  }
  return found;
}

function skipSpace(text: string, at: number): number {
  while (at < text.length && text.charCodeAt(at) <= 0x20) at++;
  return at;
}

/** The index behind the JSON value that begins at `at`. */
function skipValue(text: string, at: number): number {
  let depth = 0;
  for (;;) {
    const c = text[at++];
    if (c === undefined) return text.length;
    if (c === '"') {
      at = skipString(text, at);
    } else if (c === '{' || c === '[') {
      depth++;
    } else if (c === '}' || c === ']') {
      depth--;
    } else if (depth === 0) {
      while (at < text.length && !',}] \t\r\n'.includes(text.charAt(at))) at++; // a number, or a word
    }
    if (depth === 0) return at;
  }
}

/** The index behind the string whose first character is at `at`. */
function skipString(text: string, at: number): number {
  while (at < text.length) {
    const c = text[at++];
    if (c === '"') return at;
    if (c === '\\') at++;
  }
  return at;
}

const MAX_CHANNEL_BYTES = 512;

/**
 * The name without white space around it, as acknowledgements and pushes carry it (protocol.md 2.8).
 *
 * @throws UsageError with status 11 if no server takes it.
 */
export function channelName(raw: string): string {
  if (typeof raw !== 'string') {
    throw new UsageError(`a channel name must be a string, not ${typeof raw}`, Status.INVALID_CHANNEL);
  }
  const name = trimmed(raw);
  if (name === '' || name === '$' || name === '#') {
    throw new UsageError(`${JSON.stringify(raw)} is not a channel name: the name is empty`, Status.INVALID_CHANNEL);
  }
  const size = byteLength(name);
  if (size > MAX_CHANNEL_BYTES) {
    const problem = `a channel name of ${size} bytes is too long: ${MAX_CHANNEL_BYTES} is the limit`;
    throw new UsageError(problem, Status.INVALID_CHANNEL);
  }
  return name;
}
