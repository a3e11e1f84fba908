/** Own subscriptions as the server has them (`$mySubscriptions`), and the form that adds to them. */
import { log } from './activity.js';
import { announce, byId, element, icon } from './dom.js';
import { explain } from './words.js';

const MY_SUBSCRIPTIONS = '$mySubscriptions';
const NOT_ALLOWED = 7;

export class Subscriptions {
  #connection;
  #chosen;
  #ofServer;
  #channels = [];
  /** What the server would not end. */
  #fixed = new Set();
  /** Rises with each question, so that an answer that comes late changes nothing. */
  #asked = 0;

  /** `chosen(channel)` hears which one was clicked; `ofServer(channel)` says that only the server ends that one. */
  constructor(connection, chosen, ofServer) {
    this.#connection = connection;
    this.#chosen = chosen;
    this.#ofServer = ofServer;
    connection.on('state', (state) => {
      if (state === 'connected') void this.#refresh();
      if (state === 'offline') {
        this.#fixed.clear();
        this.#show([]);
      }
      byId('subscriptions').classList.toggle('stale', state !== 'connected');
    });
    byId('channel').addEventListener('input', () => this.#problem(''));
    byId('subscribe-form').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#subscribe();
    });
  }

  #problem(text) {
    byId('subscribe-error').textContent = text;
    this.#note('');
    if (text !== '') log(text, 'bad');
  }

  #note(text) {
    byId('subscribe-note').textContent = text;
  }

  /**
   * Without a connection the client sends it when there is one again, which may take long; it is told that it
   * waits. What is returned are the options of the call.
   */
  #patience(what) {
    if (this.#connection.state === 'connected') return {};
    this.#note(`${what}: waiting for the connection…`);
    log(`${what} waits for the connection`);
    return { timeout: 0 };
  }

  async #subscribe() {
    const field = byId('channel');
    const channel = field.value.trim();
    const persistent = byId('persistent').checked;
    // The next name may have been typed by the time the server answers.
    const unchanged = () => field.value.trim() === channel;
    this.#problem('');
    if (channel === '') {
      byId('subscribe-error').textContent = 'Which channel?';
      field.focus();
      return;
    }
    const { client } = this.#connection;
    if (!client || !this.#connection.usable) {
      byId('subscribe-error').textContent = 'Not connected: connect first.';
      return;
    }
    try {
      await client.sub(channel, { persistent, ...this.#patience(`Subscribing to ${channel}`) });
      this.#note('');
      log(`Subscribed to ${channel}${persistent ? ', persistently' : ''}`, 'good');
      announce(`Subscribed to ${channel}`);
      if (unchanged()) field.value = '';
    } catch (error) {
      this.#problem(explain(`Subscribing to ${channel}`, error));
      if (unchanged()) field.select();
      return;
    }
    const channels = await this.#refresh();
    const is = channels?.get(channel);
    if (is !== undefined && (is === 'persistent') !== persistent) {
      this.#problem(`There was a ${is} subscription to ${channel} already. To change it, unsubscribe first.`);
    }
  }

  async #unsubscribe(channel) {
    const { client } = this.#connection;
    if (!client) return;
    this.#problem('');
    try {
      await client.unsub(channel, this.#patience(`Unsubscribing from ${channel}`));
      this.#note('');
      log(`Unsubscribed from ${channel}`, 'good');
      announce(`Unsubscribed from ${channel}`);
    } catch (error) {
      if (error.status === NOT_ALLOWED) this.#fixed.add(channel);
      this.#problem(explain(`Unsubscribing from ${channel}`, error));
    }
    await this.#refresh();
    // The button that had the focus is gone.
    if (document.activeElement === document.body) byId('channel').focus({ preventScroll: true });
  }

  /** Asks the server, and shows what it says. */
  async #refresh() {
    const { client } = this.#connection;
    const asked = ++this.#asked;
    if (!client) return undefined;
    let channels;
    try {
      const reply = await client.request(MY_SUBSCRIPTIONS);
      channels = new Map(Object.entries(reply?.channels ?? {}));
    } catch (error) {
      if (client !== this.#connection.client || error.code === 'CONNECTION_LOST') return undefined;
      // Another server application may not have that channel: then what this page knows itself.
      log(explain('Asking for the subscriptions', error), 'bad');
      channels = new Map([...client.subscriptions].map(([name, kept]) => [name, kept ? 'persistent' : 'temp']));
    }
    if (asked === this.#asked && client === this.#connection.client) this.#show([...channels]);
    return channels;
  }

  #show(channels) {
    this.#channels = channels;
    this.draw();
  }

  /** Shows the subscriptions once more: what is known of them may have changed. */
  draw() {
    const rows = this.#channels.map(([channel, kind]) => {
      const name = element('button', { type: 'button', className: 'link mono', textContent: channel, title: `Publish to ${channel}` });
      name.addEventListener('click', () => this.#chosen(channel));
      const row = element('li', {}, name, element('span', { className: `badge ${kind}`, textContent: kind }));
      if (!channel.startsWith('#') && !this.#ofServer(channel) && !this.#fixed.has(channel)) {
        const end = element('button', { type: 'button', className: 'quiet icon small', 'aria-label': `Unsubscribe from ${channel}`, title: 'Unsubscribe' }, icon('x'));
        end.addEventListener('click', () => void this.#unsubscribe(channel));
        row.append(end);
      }
      return row;
    });
    byId('subscriptions').replaceChildren(...rows);
    byId('subscription-count').textContent = rows.length || '';
    byId('no-subscriptions').hidden = rows.length > 0;
  }
}
