/**
 * The connection: its form, its state, and the one jmqt-js client behind it.
 *
 * States: `offline`, `connecting`, `connected`, `waiting` (until the next attempt), `retrying`, `leaving`.
 * Others hear of `state` (each change) and `push` (each message).
 */
import { log } from './activity.js';
import { serverAddress } from './address.js';
import { announce, byId, isWide, memory } from './dom.js';
import { Client, RawJson } from './jmqt.js';
import { mistakeIn } from './json.js';
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
  /** What the form said when the client was made. */
  #form = '';
  /** The client whose session the server has ended for good, until the next connection: it knows the subscriptions. */
  #ended = undefined;

  constructor() {
    byId('name').value = memory.get('name');
    byId('connect-form').addEventListener('submit', (event) => {
      event.preventDefault();
      void (this.#mayReturn() ? this.#return() : this.#connect());
    });
    for (const id of ['name', 'server', 'auth-data']) byId(id).addEventListener('input', () => this.#nameButton());
    byId('disconnect').addEventListener('click', () => void this.#disconnect());
    byId('now').addEventListener('click', () => this.client?.reconnectNow());
    byId('server').addEventListener('input', () => this.#showServer());
    byId('auth-data').addEventListener('input', () => this.#showLogin());
    this.#showLogin(); // a browser that reloads may have kept what was typed
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
      const address = serverAddress(location, await response.json());
      if (address === undefined) this.#problem('The server has no WebSocket: set WEBSOCKET_PORT in its server.conf.');
      else byId('server').value = address;
    } catch {
      byId('server').value = `ws://${location.hostname || 'localhost'}:8012`;
    }
    this.#showServer();
  }

  #showServer() {
    byId('server-shown').textContent = byId('server').value;
  }

  #showLogin() {
    const own = byId('auth-data').value.trim() !== '';
    byId('login-shown').textContent = own ? 'auth data' : 'the name';
    // Then the name is for the server to say.
    byId('name').disabled = own;
  }

  #problem(text) {
    byId('connect-error').textContent = text;
  }

  /** What to authenticate with, and the name to remember. `undefined`: it has been said what is missing. */
  #login() {
    const name = byId('name').value.trim();
    const data = byId('auth-data').value.trim();
    if (data !== '') {
      const mistake = mistakeIn(data);
      if (!mistake) return { name: '', data: new RawJson(data) };
      byId('login-details').open = true;
      this.#problem(`The auth data is not JSON: line ${mistake.line}, column ${mistake.column}: ${mistake.problem}.`);
      byId('auth-data').focus();
      return undefined;
    }
    if (name !== '') return { name, data: { client_name: name } };
    this.#problem('A client needs a name.');
    byId('name').focus();
    return undefined;
  }

  /** What the form says, to see whether it was changed. */
  get #asked() {
    return JSON.stringify(['name', 'server', 'auth-data'].map((id) => byId(id).value.trim()));
  }

  async #connect() {
    this.#problem('');
    const login = this.#login();
    if (!login) return;
    let client;
    try {
      // The worker keeps the session while this page is hidden, and frames smooth while thousands of messages come.
      client = new Client({ url: byId('server').value.trim(), reconnect: { maxDelay: 15_000 }, worker: true });
    } catch (error) {
      byId('server-details').open = true;
      this.#problem(explain('Connecting', error));
      return;
    }
    this.#forget();
    this.client = client;
    this.name = login.name;
    this.#form = this.#asked;
    this.#listen(client);
    await this.#open(client, async () => {
      await client.auth(login.data, { timeout: 15_000 });
      await client.conn({}, { timeout: 15_000 });
      if (login.name !== '') memory.set('name', login.name); // auth data may be a secret: it is not remembered
    });
  }

  /** Whether there is a connection to come back to: the server ended it, and the form still says the same. */
  #mayReturn() {
    return this.#ended?.form === this.#asked;
  }

  /** The server ended the connection, and the user wants to reconnect. */
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
    if (reason) this.#ended = { client: this.client, form: this.#form };
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
    for (const id of ['name', 'server', 'auth-data']) byId(id).readOnly = busy;
    // They look as if they could not be used, and say why when they are.
    for (const id of ['subscribe', 'publish']) {
      byId(id).setAttribute('aria-disabled', String(!this.usable));
      byId(id).title = this.usable ? (id === 'publish' ? 'Ctrl+Enter' : '') : 'Connect first';
    }
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
