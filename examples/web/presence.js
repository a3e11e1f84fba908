/**
 * Who is online: the clients that the request `$online` of the sample application lists when this page connects, and later
 * arrivals and departures, which the server publishes on the `update` channel: `{"online":"alice"}`, or, of several at once,
 * `{"online":["alice","bob"],"offline":"carol"}`.
 *
 * Another server application may have neither. Then this list stays empty and says why.
 */
import { log } from './activity.js';
import { byId, element, number } from './dom.js';
import { explain } from './words.js';

const ONLINE = '$online';
const CHANNEL = 'update';
/** More names than this are counted by the server alone. */
const LIMIT = 10_000;
/** More than this are not listed. */
const LISTED = 100;
/** Thousands may come at once: the list is rebuilt at most this often. */
const PAUSE_MS = 200;

/** One name, or a list of names. */
function names(told) {
  return (Array.isArray(told) ? told : [told]).filter((name) => typeof name === 'string');
}

export class Presence {
  /** The channel that the server alone fills, and to which it subscribes every client; `undefined` if it has none. */
  channel = undefined;

  #names = new Set();
  /** How many more there are, without names. */
  #unnamed = 0;
  /** Who has gone since `$online` was asked: the answer may be older. `undefined` while there is no question. */
  #gone = undefined;
  #connection;
  #chosen;
  #told;
  /** What is said where nobody else is listed. */
  #hint = '';
  #timer = undefined;

  /** `chosen(client)` hears who was clicked, `told()` when `channel` is known. */
  constructor(connection, chosen, told) {
    this.#connection = connection;
    this.#chosen = chosen;
    this.#told = told;
    connection.on('state', (state) => {
      if (state === 'connected') {
        void this.#ask();
        return;
      }
      if (state === 'retrying') return;
      // Who goes meanwhile is not heard of.
      this.#names.clear();
      this.#unnamed = 0;
      this.#gone = undefined;
      this.channel = undefined;
      this.#say('Seen here once connected.');
    });
    connection.on('push', (message) => this.#heard(message));
    this.#say('Seen here once connected.');
  }

  #heard({ channel, client, data }) {
    if (channel !== (this.channel ?? CHANNEL) || client !== '' || data === null || typeof data !== 'object') return;
    for (const name of names(data.online)) this.#comes(name);
    for (const name of names(data.offline)) this.#goes(name);
    this.#changed();
  }

  #comes(name) {
    this.#gone?.delete(name);
    if (this.#names.size < LIMIT) this.#names.add(name);
    else if (!this.#names.has(name)) this.#unnamed++;
  }

  #goes(name) {
    if (this.#gone && this.#gone.size < LIMIT) this.#gone.add(name);
    if (!this.#names.delete(name)) this.#unnamed = Math.max(0, this.#unnamed - 1);
  }

  async #ask() {
    const { client } = this.#connection;
    const gone = (this.#gone = new Set());
    const outdated = () => gone !== this.#gone || client !== this.#connection.client;
    try {
      const reply = await client.request(ONLINE);
      if (outdated()) return;
      const named = Array.isArray(reply?.clients) ? reply.clients.filter((name) => typeof name === 'string') : [];
      for (const name of named) if (!gone.has(name) && this.#names.size < LIMIT) this.#names.add(name);
      this.#unnamed = Math.max(0, Number.isSafeInteger(reply?.total) ? reply.total - named.length : 0);
      this.channel = typeof reply?.channel === 'string' ? reply.channel : CHANNEL;
      this.#say('Nobody else is here.');
      this.#told();
    } catch (error) {
      if (outdated() || error.code === 'CONNECTION_LOST') return;
      log(explain('Asking who is online', error), 'bad');
      this.#say('This server does not tell who is online.');
    }
    this.#gone = undefined;
  }

  #say(hint) {
    this.#hint = hint;
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
    const total = names.length + this.#unnamed;
    const rows = names.slice(0, LISTED).map((name) => {
      const own = name === this.#connection.name;
      const button = element('button', { type: 'button', className: 'link', textContent: name, title: `Publish to #${name}` });
      button.addEventListener('click', () => this.#chosen(name));
      return element('li', {}, element('span', { className: 'dot', 'aria-hidden': 'true' }), button, own ? element('span', { className: 'badge', textContent: 'you' }) : '');
    });
    if (total > rows.length) {
      rows.push(element('li', { className: 'muted', textContent: `and ${number.format(total - rows.length)} more` }));
    }
    byId('online').replaceChildren(...rows);
    byId('online-count').textContent = total === 0 ? '' : number.format(total);
    byId('no-online').hidden = rows.length > 1;
    byId('no-online').textContent = this.#hint;
  }
}
