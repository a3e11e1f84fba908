/**
 * The messages that are kept, and those of them that are shown.
 *
 * Bounded twice: in number and in characters; the oldest go first. Filtering goes on from frame to frame
 * within a time that leaves room for painting, however many messages there are. Paused, the feed shows
 * what there was at that moment, while new messages replace old ones behind it. Pure: no document.
 */

/** A queue with places: what is taken from its front costs nothing. */
export class Run {
  #items = [];
  #front = 0;

  get length() {
    return this.#items.length - this.#front;
  }

  at(index) {
    return this.#items[this.#front + index];
  }

  push(item) {
    this.#items.push(item);
  }

  shift() {
    const item = this.#items[this.#front];
    this.#items[this.#front++] = undefined;
    if (this.#front > 1_024 && this.#front * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#front);
      this.#front = 0;
    }
    return item;
  }

  copy() {
    const copy = new Run();
    copy.#items = this.#items.slice(this.#front);
    return copy;
  }
}

export class Feed {
  /** What is shown: entries in the order they came in. */
  shown = new Run();
  /** Entries since the page was opened. */
  total = 0;

  #limit;
  #characters;
  #kept = new Run();
  #used = 0;
  /** While paused: what there was. */
  #held = undefined;
  #pausedAt = 0;
  /** The next entry to be looked at. */
  #cursor = 0;
  #filter = undefined;

  constructor({ limit = 10_000, characters = 16 << 20 } = {}) {
    this.#limit = limit;
    this.#characters = characters;
  }

  get paused() {
    return this.#held !== undefined;
  }

  get kept() {
    return this.#kept.length;
  }

  /** How many have come since the feed was paused. */
  get missed() {
    return this.paused ? this.total - this.#pausedAt : 0;
  }

  /** Adds `{ channel, text, ... }` and gives it its number. */
  add(entry) {
    entry.number = this.total++;
    this.#kept.push(entry);
    this.#used += entry.text.length;
    while (this.#kept.length > this.#limit || (this.#used > this.#characters && this.#kept.length > 1)) {
      this.#used -= this.#kept.shift().text.length;
    }
  }

  /** `filter(entry)` says what to show; `undefined`: everything. */
  set filter(filter) {
    this.#filter = filter;
    this.#again();
  }

  pause() {
    if (this.paused) return;
    this.#held = this.#kept.copy();
    this.#pausedAt = this.total;
  }

  resume() {
    this.#held = undefined;
  }

  clear() {
    while (this.#kept.length > 0) this.#kept.shift();
    this.#used = 0;
    if (this.paused) this.#held = new Run();
    this.#again();
  }

  #again() {
    this.shown = new Run();
    this.#cursor = 0;
  }

  /**
   * Brings `shown` up to date, for `milliseconds` at most. Returns how many went from its front, and whether
   * there is more to do.
   */
  advance(milliseconds = 6) {
    const source = this.#held ?? this.#kept;
    const first = source.at(0)?.number ?? this.total;
    let gone = 0;
    for (; this.shown.length > 0 && this.shown.at(0).number < first; gone++) this.shown.shift();
    const end = performance.now() + milliseconds;
    let index = Math.max(0, this.#cursor - first);
    for (let looked = 1; index < source.length; index++, looked++) {
      if (looked % 64 === 0 && performance.now() > end) break;
      const entry = source.at(index);
      if (!this.#filter || this.#filter(entry)) this.shown.push(entry);
    }
    this.#cursor = first + index;
    return { gone, more: index < source.length };
  }
}

/** What shows messages of this channel and with this text, whatever its case; `undefined` if both are empty. */
export function filterFor(channel, text) {
  const [wanted, words] = [channel.trim().toLowerCase(), text.trim()];
  if (wanted === '' && words === '') return undefined;
  const pattern = words === '' ? undefined : new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'iu');
  return (entry) =>
    (wanted === '' || entry.channel.toLowerCase().includes(wanted)) &&
    (!pattern || pattern.test(entry.text) || pattern.test(entry.from));
}
