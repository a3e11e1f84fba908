/**
 * The connection: its form, its state, and the one jmqt-js client behind it.
 *
 * States: `offline`, `connecting`, `connected`, `waiting` (until the next attempt), `retrying`, `leaving`.
 * Others hear of `state` (each change) and `push` (each message).
 */
import { log } from './activity.js';
import { announce, byId, isWide, memory } from './dom.js';
import { Client } from './jmqt.js';
import { ending, explain } from './words.js';

export class Connection {
  state = 'offline';
  /** The client of jmqt-js, while there is one. */
  client = undefined;
  name = '';

  #listeners = { state: [], push: [] };
  #until = 0;
  #attempt = 0;
  #countdown = undefined;
  /** The client whose session the server has ended for good, until the next connection: it knows the subscriptions. */
  #ended = undefined;

  constructor() {
    byId('name').value = memory.get('name');
    byId('connect-form').addEventListener('submit', (event) => {
      event.preventDefault();
      void (this.#mayReturn() ? this.#return() : this.#connect());
    });
    for (const id of ['name', 'server']) byId(id).addEventListener('input', () => this.#nameButton());
    byId('disconnect').addEventListener('click', () => void this.#disconnect());
    byId('now').addEventListener('click', () => this.client?.reconnectNow());
    byId('server').addEventListener('input', () => this.#showServer());
  }

  on(name, listener) {
    this.#listeners[name].push(listener);
  }

  /** Whether a publish is sent, now or when the connection is back. */
  get usable() {
    return ['connected', 'waiting', 'retrying'].includes(this.state);
  }

  /** Asks the server that served this page where its WebSocket is. */
  async findServer() {
    try {
      const response = await fetch('config.json');
      const { websocketPort, tlsWebsocketPort } = await response.json();
      const secure = tlsWebsocketPort !== null && (location.protocol === 'https:' || websocketPort === null);
      const port = secure ? tlsWebsocketPort : websocketPort;
      if (port === null) this.#problem('The server has no WebSocket: set WEBSOCKET_PORT in its server.conf.');
      else byId('server').value = `${secure ? 'wss' : 'ws'}://${location.hostname}:${port}`;
    } catch {
      byId('server').value = `ws://${location.hostname || 'localhost'}:8012`;
    }
    this.#showServer();
  }

  #showServer() {
    byId('server-shown').textContent = byId('server').value;
  }

  #problem(text) {
    byId('connect-error').textContent = text;
  }

  async #connect() {
    this.#problem('');
    const name = byId('name').value.trim();
    if (name === '') {
      this.#problem('A client needs a name.');
      byId('name').focus();
      return;
    }
    let client;
    try {
      client = new Client({ url: byId('server').value.trim(), reconnect: { maxDelay: 15_000 } });
    } catch (error) {
      byId('server-details').open = true;
      this.#problem(explain('Connecting', error));
      return;
    }
    this.#forget();
    this.client = client;
    this.name = name;
    this.#listen(client);
    await this.#open(client, async () => {
      await client.auth({ client_name: name }, { timeout: 15_000 });
      await client.conn({}, { timeout: 15_000 });
      memory.set('name', name);
    });
  }

  /** Whether there is a connection to come back to: the server ended it, and the form still says the same. */
  #mayReturn() {
    return this.#ended?.name === byId('name').value.trim() && this.#ended.url === byId('server').value.trim();
  }

  /** The server ended the connection, and whoever looks at this page wants it back. */
  async #return() {
    this.#problem('');
    const { client } = this.#ended;
    this.#ended = undefined;
    this.client = client;
    await this.#open(client, () => client.reconnect({ timeout: 15_000 }));
  }

  #forget() {
    void this.#ended?.client.disconnect({ silent: true });
    this.#ended = undefined;
  }

  async #open(client, opening) {
    this.#enter('connecting');
    try {
      await opening();
    } catch (error) {
      await client.disconnect({ silent: true });
      if (this.client !== client) return;
      this.client = undefined;
      const cancelled = this.state === 'leaving';
      this.#enter('offline');
      if (cancelled) return;
      const text = explain('Connecting', error);
      this.#problem(text);
      log(text, 'bad');
    }
  }

  async #disconnect() {
    const client = this.client;
    if (!client) return;
    this.#enter('leaving');
    await client.disconnect();
    if (this.client !== client) return;
    this.client = undefined;
    this.#enter('offline');
  }

  #listen(client) {
    const current = (listener) => (event) => {
      if (this.client === client) listener(event);
    };
    client.on('push', current((message) => this.#emit('push', message)));
    client.on('connected', current((event) => this.#connected(event)));
    client.on('disconnect', current((event) => this.#disconnected(event)));
    client.on('reconnecting', current((event) => this.#reconnecting(event)));
    client.on('error', (error) => log(explain('Something', error), 'bad'));
  }

  #connected({ clientId, resumed }) {
    this.name = clientId;
    this.#enter('connected');
    log(resumed ? `Connected again as ${clientId}` : `Connected as ${clientId}`, 'good');
    if (!resumed && isWide()) byId('channel').focus({ preventScroll: true });
  }

  #disconnected({ error, willReconnect, reason }) {
    if (error.code === 'CLOSED') {
      log('Disconnected');
      return;
    }
    const text = reason ? ending(this.name, reason) : explain(willReconnect ? 'The connection' : 'Reconnecting', error);
    log(text, 'bad');
    if (willReconnect || this.state === 'connecting') return;
    if (reason) this.#ended = { client: this.client, name: this.name, url: byId('server').value.trim() };
    this.client = undefined;
    this.#problem(text);
    this.#enter('offline');
  }

  #reconnecting({ attempt, delay }) {
    this.#until = performance.now() + delay;
    this.#attempt = attempt;
    this.#enter('waiting');
    this.#countdown = setInterval(() => this.#showState(), 200);
    this.#showState();
  }

  #enter(state) {
    clearInterval(this.#countdown);
    this.#countdown = undefined;
    const entered = state !== this.state;
    this.state = state;
    const busy = state !== 'offline';
    for (const id of ['name', 'server']) byId(id).readOnly = busy;
    byId('connect').hidden = busy;
    this.#nameButton();
    byId('disconnect').hidden = !busy;
    byId('disconnect').textContent = state === 'connecting' ? 'Cancel' : 'Disconnect';
    byId('disconnect').disabled = state === 'leaving';
    if (state === 'offline' && entered) byId('connect').focus({ preventScroll: true });
    this.#showState();
    if (entered) this.#emit('state', state);
  }

  #nameButton() {
    byId('connect').textContent = this.#mayReturn() ? 'Connect here' : 'Connect';
  }

  #showState() {
    const left = Math.ceil((this.#until - performance.now()) / 1_000);
    if (this.state === 'waiting' && left <= 0) this.state = 'retrying';
    const attempt = this.#attempt > 1 ? `, attempt ${this.#attempt}` : '';
    const [text, spoken] = {
      offline: ['Not connected'],
      connecting: ['Connecting…'],
      connected: [`Connected as ${this.name}`],
      waiting: [`Reconnecting in ${left} s${attempt}`, 'Connection lost. Reconnecting.'],
      retrying: [`Reconnecting…${attempt}`, 'Connection lost. Reconnecting.'],
      leaving: ['Disconnecting…'],
    }[this.state];
    // Spoken once for each state, not for each second of the countdown.
    if (byId('announce').textContent !== (spoken ?? text)) announce(spoken ?? text);
    if (byId('state-text').textContent !== text) byId('state-text').textContent = text;
    byId('now').hidden = this.state !== 'waiting';
    document.body.dataset.state = this.state;
  }

  #emit(name, event) {
    for (const listener of this.#listeners[name]) listener(event);
  }
}
