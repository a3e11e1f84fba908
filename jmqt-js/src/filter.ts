/**
 * Filters with wildcards, which name many channels (protocol.md 2.25). Pure.
 *
 * Where channels and filters are keys of one table, a filter has a space before it: no name of a channel has.
 */
import { Status, UsageError } from './errors.js';
import { byteLength, trimmed } from './text.js';

const MAX_BYTES = 512;
const MAX_SEPARATORS = 200;

/**
 * The key of a filter.
 *
 * @throws UsageError with status 11 if no server takes it.
 */
export function filterKey(raw: string): string {
  const problem = (because: string): never => {
    throw new UsageError(`${JSON.stringify(raw)} is not a filter: ${because}`, Status.INVALID_CHANNEL);
  };
  if (typeof raw !== 'string') throw new UsageError(`a filter must be a string, not ${typeof raw}`, Status.INVALID_CHANNEL);
  const filter = trimmed(raw);
  if (!/[+#]/.test(filter)) problem('it has neither + nor #; subscribe to the channel of this name');
  if (byteLength(filter) > MAX_BYTES) problem(`it is longer than ${MAX_BYTES} bytes`);
  if (filter.startsWith('$')) problem('wildcards do not match control channels');
  if (/[\u0000-\u001f\u007f-\u009f]/.test(filter)) problem('it has a control character');
  const levels = filter.split('/');
  if (levels.length - 1 > MAX_SEPARATORS) problem(`it has more than ${MAX_SEPARATORS} /`);
  levels.forEach((level, index) => {
    if (level.includes('+') && level !== '+') problem('+ must be a level of its own');
    if (level.includes('#') && (level !== '#' || index + 1 < levels.length)) problem('# must be a level of its own, the last one');
  });
  return ` ${filter}`;
}

export function isFilterKey(key: string): boolean {
  return key.startsWith(' ');
}

/** The text of a filter, or the name of a channel. */
export function nameOf(key: string): string {
  return isFilterKey(key) ? key.slice(1) : key;
}

/** Whether a filter, as its levels, matches the channel with these levels. Filters match plain channels only. */
export function matches(filter: readonly string[], channel: readonly string[]): boolean {
  const first = channel[0]?.charAt(0);
  if (first === '$' || first === '#') return false;
  for (const [index, level] of filter.entries()) {
    if (level === '#') return true;
    if (index >= channel.length || (level !== '+' && level !== channel[index])) return false;
  }
  return filter.length === channel.length;
}
