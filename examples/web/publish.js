/** Publishing: to a channel, to `#client`, or a request to `$control`; the editor of its JSON. */
import { log } from './activity.js';
import { byId, oncePerFrame, size } from './dom.js';
import { RawJson } from './jmqt.js';
import { format, mistakeIn } from './json.js';
import { explain } from './words.js';

export class Publish {
  #connection;
  #sent;
  #mistake = undefined;

  /** `sent(entry)` hears of what was published and of what was answered, as entries of the feed. */
  constructor(connection, sent) {
    this.#connection = connection;
    this.#sent = sent;
    const payload = byId('payload');
    payload.addEventListener('input', oncePerFrame(() => this.#check()));
    payload.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      byId('publish-form').requestSubmit();
    });
    byId('to').addEventListener('input', () => this.#showKind());
    byId('format').addEventListener('click', () => this.#format());
    byId('payload-go').addEventListener('click', () => this.#goToMistake());
    byId('publish-form').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#publish();
    });
    this.#check();
  }

  /** Writes to this channel next. */
  address(channel) {
    byId('to').value = channel;
    this.#showKind();
    byId('payload').focus();
  }

  #showKind() {
    const to = byId('to').value.trim();
    const [control, direct] = [to.startsWith('$'), to.startsWith('#')];
    byId('to-kind').textContent = control ? 'request to the server' : direct ? 'one client' : '';
    byId('qos-set').disabled = control;
    byId('retain').disabled = control || direct;
    byId('publish').textContent = control ? 'Ask' : 'Publish';
  }

  #check() {
    const text = byId('payload').value;
    const control = byId('to').value.trim().startsWith('$');
    this.#mistake = control && text.trim() === '' ? undefined : mistakeIn(text);
    const wrong = this.#mistake !== undefined;
    const verdict = wrong ? `Line ${this.#mistake.line}, column ${this.#mistake.column}: ${this.#mistake.problem}` : 'Valid JSON';
    byId('payload').setAttribute('aria-invalid', String(wrong));
    byId('payload-state').classList.toggle('wrong', wrong);
    if (byId('payload-verdict').textContent !== verdict) byId('payload-verdict').textContent = verdict;
    byId('payload-go').hidden = !wrong;
    byId('payload-size').textContent = size(new TextEncoder().encode(text).length);
  }

  #format() {
    this.#check();
    if (this.#mistake) this.#goToMistake();
    else byId('payload').value = format(byId('payload').value);
    this.#check();
  }

  #goToMistake() {
    if (!this.#mistake) return;
    const payload = byId('payload');
    const { offset } = this.#mistake;
    payload.focus();
    payload.setSelectionRange(offset, Math.min(offset + 1, payload.value.length));
  }

  #result(text, kind) {
    const result = byId('publish-result');
    result.textContent = text;
    result.className = `result ${kind}`;
  }

  async #publish() {
    const to = byId('to').value.trim();
    const text = byId('payload').value.trim();
    this.#check();
    if (to === '') {
      this.#result('To which channel?', 'bad');
      byId('to').focus();
      return;
    }
    if (this.#mistake) {
      this.#result('Not published: the data is not JSON yet.', 'bad');
      this.#goToMistake();
      return;
    }
    const { client } = this.#connection;
    if (!client || !this.#connection.usable) {
      this.#result('Not connected: connect first.', 'bad');
      return;
    }
    const begun = performance.now();
    const took = () => `${Math.round(performance.now() - begun)} ms`;
    const waiting = this.#connection.state === 'connected' ? '' : ' Waiting for the connection…';
    try {
      if (to.startsWith('$')) {
        this.#result(`Asking ${to}…${waiting}`, '');
        const reply = await client.request(to, text === '' ? undefined : new RawJson(text), { raw: true });
        this.#sent({ kind: 'reply', channel: to, from: 'server', text: reply.text, qos: 0, retained: false });
        this.#done(`${to} answered, in ${took()}`);
        return;
      }
      const qos = byId('publish-form').elements.qos.value === '1' ? 1 : 0;
      const retain = byId('retain').checked && !to.startsWith('#');
      this.#result(waiting.trim() || 'Publishing…', '');
      const published = client.pub(to, new RawJson(text), { qos, retain });
      await published;
      this.#sent({ kind: 'out', channel: to, from: 'you', text, qos, retained: retain });
      const what = retain ? ', retained' : '';
      this.#done(qos === 1 ? `Published to ${to}${what}: stored, in ${took()}` : `Published to ${to}${what}: sent`);
    } catch (error) {
      const problem = explain(to.startsWith('$') ? `Asking ${to}` : `Publishing to ${to}`, error);
      this.#result(problem, 'bad');
      log(problem, 'bad');
    }
  }

  #done(text) {
    this.#result(text, 'good');
    log(text, 'good');
  }
}
