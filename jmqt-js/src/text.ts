/** How servers see a text: without white space around it, and in bytes. Pure. */

/** White space as JMQT servers see it: Unicode's, which differs from `String.trim` in two characters. */
const EDGES = /^[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+|[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+$/g;

/** Without white space around it, as servers see it. */
export function trimmed(text: string): string {
  return text.replace(EDGES, '');
}

const encoder = new TextEncoder();

/** How many bytes `text` has as UTF-8; counted only where a guess from its length may be wrong. */
export function byteLength(text: string): number {
  return encoder.encode(text).length;
}

/** Whether `text` has more than `limit` bytes, cheaply for what is far from it. */
export function exceeds(text: string, limit: number): boolean {
  return text.length * 3 > limit && (text.length > limit || byteLength(text) > limit);
}
