/** The message list: what came in, what went out, filters, pause, and one message in full. */
import { byId, clock, element, icon, number, oncePerFrame, size } from './dom.js';
import { Feed, filterFor } from './feed.js';
import { format } from './json.js';
import { List } from './list.js';
import { Rate } from './rate.js';

/** A row shows this much of the data, the detail this much. */
const ROW_CHARACTERS = 300;
const DETAIL_CHARACTERS = 200_000;
/** Channels that are remembered for completion. */
const KNOWN_CHANNELS = 200;

const KINDS = { in: 'received', out: 'sent', reply: 'answer' };

export class Messages {
  #feed = new Feed();
  #rate = new Rate();
  #known = new Set();
  #list;
  #reply;
  #filtered = false;
  /** How many there were when the end was last in sight. */
  #seen = 0;
  #draw = oncePerFrame(() => this.#drawNow());

  /** `reply(client)` hears to whom an answer is to be written. */
  constructor(connection, reply) {
    this.#reply = reply;
    this.#list = new List({
      box: 'list',
      spacer: 'spacer',
      make: makeRow,
      fill: fillRow,
      changed: () => {
        this.#showDetail();
        this.#draw();
      },
    });
    connection.on('push', ({ channel, client, qos, retained, json }) => {
      this.#rate.add();
      this.add({ kind: 'in', channel, from: client === '' ? 'server' : client, text: json, qos, retained });
    });
    const filter = () => {
      const chosen = filterFor(byId('filter-channel').value, byId('filter-text').value);
      this.#filtered = chosen !== undefined;
      this.#feed.filter = chosen;
      this.#list.following = true;
      this.#drawNow(); // a key pressed before the next frame goes through the new list
    };
    byId('filter-channel').addEventListener('input', filter);
    byId('filter-text').addEventListener('input', filter);
    byId('pause').addEventListener('click', () => this.togglePause());
    byId('clear').addEventListener('click', () => {
      this.#feed.clear();
      this.#list.select(undefined);
      this.#draw();
    });
    byId('latest').addEventListener('click', () => {
      this.#list.follow();
      byId('list').focus({ preventScroll: true });
    });
    byId('detail-close').addEventListener('click', () => this.close());
    byId('detail-copy').addEventListener('click', () => void this.#copy());
    byId('detail-reply').addEventListener('click', () => this.#reply(this.#list.selected.from));
    this.#draw();
  }

  add(entry) {
    entry.time = Date.now();
    this.#feed.add(entry);
    this.knows(entry.channel);
    this.#draw();
  }

  /** Offers this channel where one can be typed. */
  knows(channel) {
    if (this.#known.has(channel) || this.#known.size >= KNOWN_CHANNELS) return;
    this.#known.add(channel);
    byId('channels').append(element('option', { value: channel }));
  }

  togglePause() {
    if (this.#feed.paused) this.#feed.resume();
    else this.#feed.pause();
    const { paused } = this.#feed;
    byId('pause').setAttribute('aria-pressed', String(paused));
    byId('pause-icon').setAttribute('href', paused ? '#i-play' : '#i-pause');
    this.#draw();
  }

  /** Closes the message that is shown in full, if there is one. */
  close() {
    if (!this.#list.selected) return false;
    this.#list.select(undefined);
    byId('list').focus({ preventScroll: true });
    return true;
  }

  #drawNow() {
    const { gone, more } = this.#feed.advance();
    const { shown, total, paused, missed } = this.#feed;
    this.#list.update(shown, gone);
    if (this.#list.following) this.#seen = total;
    text('message-count', this.#filtered ? `${number.format(shown.length)} of ${number.format(this.#feed.kept)}` : number.format(total));
    byId('message-count').title = `${number.format(total)} so far; the last ${number.format(this.#feed.kept)} are kept`;
    text('pause-text', paused ? (missed > 0 ? `Go on (${number.format(missed)} new)` : 'Go on') : 'Pause');
    const fresh = total - this.#seen;
    byId('latest').hidden = this.#list.following;
    text('latest-text', fresh > 0 && !paused ? `${number.format(fresh)} new` : 'Latest');
    byId('no-messages').hidden = shown.length > 0 || more;
    text('no-messages', this.#filtered && this.#feed.kept > 0 ? 'No message is like that.' : 'No messages yet. Subscribe to a channel, or publish to one.');
    if (more) this.#draw();
  }

  #showDetail() {
    const entry = this.#list.selected;
    const detail = byId('detail');
    if (detail.entry === entry) return;
    detail.entry = entry;
    detail.hidden = !entry;
    if (!entry) return;
    const facts = [
      entry.kind === 'out' ? KINDS.out : `${entry.kind === 'in' ? 'from' : KINDS.reply} ${entry.kind === 'in' ? entry.from : ''}`.trim(),
      precise(entry.time),
      `QoS ${entry.qos}`,
      ...(entry.retained ? ['retained'] : []),
      size(new TextEncoder().encode(entry.text).length),
    ];
    byId('detail-channel').textContent = entry.channel;
    byId('detail-facts').textContent = facts.join(' · ');
    byId('detail-reply').hidden = entry.kind !== 'in' || entry.from === 'server';
    const long = entry.text.length > DETAIL_CHARACTERS;
    byId('detail-data').textContent = long
      ? `${entry.text.slice(0, DETAIL_CHARACTERS)}\n… and ${number.format(entry.text.length - DETAIL_CHARACTERS)} characters more`
      : format(entry.text);
  }

  async #copy() {
    const label = byId('detail-copy').querySelector('span');
    try {
      await navigator.clipboard.writeText(this.#list.selected.text);
      label.textContent = 'Copied';
    } catch {
      // Without https:// or localhost there is no clipboard: it is selected, for Ctrl+C.
      getSelection().selectAllChildren(byId('detail-data'));
      label.textContent = 'Selected';
    }
    setTimeout(() => (label.textContent = 'Copy'), 1_500);
  }
}

function text(id, value) {
  if (byId(id).textContent !== value) byId(id).textContent = value;
}

function precise(time) {
  return `${clock(time)}.${String(time % 1_000).padStart(3, '0')}`;
}

function makeRow() {
  const cells = ['way', 'time', 'name', 'from', 'data', 'marks'].map((name) => element('span', { className: name }));
  cells[0].append(icon('in'));
  cells[1].append(' ', element('span', { className: 'thousandths' }));
  const row = element('div', { className: 'message' }, ...cells);
  row.cells = cells;
  return row;
}

function fillRow(row, { kind, time, channel, from, text: data, qos, retained }) {
  const [way, when, name, who, what, marks] = row.cells;
  if (row.kind !== kind) {
    row.kind = kind;
    row.dataset.kind = kind;
    way.firstChild.firstChild.setAttribute('href', `#i-${kind}`);
    way.title = KINDS[kind];
  }
  const whole = precise(time);
  when.firstChild.data = whole.slice(0, 8);
  when.lastChild.textContent = whole.slice(8);
  name.textContent = channel;
  who.textContent = from;
  what.textContent = data.length > ROW_CHARACTERS ? `${data.slice(0, ROW_CHARACTERS)}…` : data;
  const mark = (qos === 1 ? 'QoS 1' : '') + (retained ? ' retained' : '');
  if (marks.textContent !== mark) marks.textContent = mark;
}
