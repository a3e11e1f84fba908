/**
 * Who is online, as far as the `update` channel has told since this page connected: the server says
 * there who comes and who goes, and not who was there before.
 */
import { byId, element, number } from './dom.js';

const CHANNEL = 'update';
/** More names than this are counted by the server alone. */
const LIMIT = 10_000;
/** More than this are not listed. */
const LISTED = 100;
/** Thousands may come at once: the list is made anew at most this often. */
const PAUSE_MS = 200;

export class Presence {
  #names = new Set();
  #connection;
  #chosen;
  #timer = undefined;

  /** `chosen(client)` hears who was clicked. */
  constructor(connection, chosen) {
    this.#connection = connection;
    this.#chosen = chosen;
    connection.on('state', (state) => {
      if (state === 'connected' || state === 'retrying') return;
      // Who goes meanwhile is not heard of.
      this.#names.clear();
      this.#changed();
    });
    connection.on('push', (message) => this.#heard(message));
  }

  #heard({ channel, client, data }) {
    if (channel !== CHANNEL || client !== '' || data === null || typeof data !== 'object') return;
    if (typeof data.online === 'string' && this.#names.size < LIMIT) this.#names.add(data.online);
    else if (typeof data.offline === 'string') this.#names.delete(data.offline);
    else return;
    this.#changed();
  }

  #changed() {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#show();
    }, PAUSE_MS);
  }

  #show() {
    const names = [...this.#names].sort((a, b) => a.localeCompare(b));
    const rows = names.slice(0, LISTED).map((name) => {
      const own = name === this.#connection.name;
      const button = element('button', { type: 'button', className: 'link', textContent: name, title: `Publish to #${name}` });
      button.addEventListener('click', () => this.#chosen(name));
      return element('li', {}, element('span', { className: 'dot', 'aria-hidden': 'true' }), button, own ? element('span', { className: 'badge', textContent: 'you' }) : '');
    });
    if (names.length > LISTED) {
      rows.push(element('li', { className: 'muted', textContent: `and ${number.format(names.length - LISTED)} more` }));
    }
    byId('online').replaceChildren(...rows);
    byId('online-count').textContent = names.length === 0 ? '' : number.format(names.length);
    byId('no-online').hidden = rows.length > 1;
    byId('no-online').textContent =
      rows.length === 1 ? 'Nobody else has come since you connected.' : 'Who comes and goes is seen here once connected.';
  }
}
