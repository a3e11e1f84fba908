/** Data as the payload of MQTT clients, and back (protocol.md 2.26). Pure. */

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const MAX_DEPTH = 128;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
/** Half of a pair of surrogates: such text cannot be written as UTF-8. */
const LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

/** What the data stands for, if that is not its own text: a string, or bytes in base64. */
function special(data: unknown): Uint8Array | undefined {
  if (typeof data === 'string') return LONE_SURROGATE.test(data) ? undefined : encoder.encode(data);
  if (typeof data !== 'object' || data === null || Object.keys(data).length !== 1) return undefined;
  const encoded = (data as { $b64?: unknown }).$b64;
  if (typeof encoded !== 'string' || !BASE64.test(encoded)) return undefined;
  const binary = atob(encoded);
  // One text for each sequence of bytes: no bits that nothing stands for.
  if (btoa(binary) !== encoded) return undefined;
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

/** The payload. `json` is the text of `data`, and `literal` its `jt`. */
export function toBytes(data: unknown, json: string, literal: boolean): Uint8Array {
  return (literal ? undefined : special(data)) ?? encoder.encode(json);
}

/** The data of a payload: the text of `dt`, and `jt`. */
export function fromBytes(bytes: Uint8Array): { json: string; literal: boolean } {
  let text: string;
  try {
    text = decoder.decode(bytes);
  } catch {
    return { json: `{"$b64":"${base64(bytes)}"}`, literal: false };
  }
  try {
    const data: unknown = JSON.parse(text);
    if (depth(text) <= MAX_DEPTH) return { json: text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, ''), literal: special(data) !== undefined };
  } catch {
    // not JSON
  }
  return { json: JSON.stringify(text), literal: false };
}

function base64(bytes: Uint8Array): string {
  let binary = '';
  // In parts: a call has a limited number of arguments.
  for (let at = 0; at < bytes.length; at += 4_096) binary += String.fromCharCode(...bytes.subarray(at, at + 4_096));
  return btoa(binary);
}

/** How deep JSON text nests. */
function depth(json: string): number {
  let [now, most, inString] = [0, 0, false];
  for (let at = 0; at < json.length; at++) {
    const c = json[at];
    if (inString) {
      if (c === '\\') at++;
      else if (c === '"') inString = false;
    } else if (c === '"') inString = true;
    else if (c === '{' || c === '[') most = Math.max(most, ++now);
    else if (c === '}' || c === ']') now--;
  }
  return most;
}
