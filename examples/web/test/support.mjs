/**
 * What the tests share: the sample server as a process, Chromium, and what one says about a page.
 *
 * Waits are for what appears in the page or in the log, never for time. Whatever is started here ends
 * with its test, by its own process id.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

export const chromiumPath = process.env.CHROMIUM ?? '/usr/bin/chromium';

const root = fileURLToPath(new URL('../../../', import.meta.url));

export function program(name, variable) {
  const named = process.env[variable];
  const places = named ? [named] : ['debug', 'release'].map((kind) => join(root, 'target', kind, name));
  const found = places.find((place) => existsSync(place));
  assert.ok(found, `there is no ${name}: cargo build --bin ${name}, or name one in ${variable}`);
  return found;
}

// A file that takes too long is ended by SIGTERM, on which Playwright closes the browser, but does not exit.
process.once('SIGTERM', () => setTimeout(() => process.exit(143), 30_000).unref());

/** Kills the child at the end of this process, however it comes. */
export function endWithThisProcess(child, kill = () => child.kill('SIGKILL')) {
  process.once('exit', kill);
  child.once('exit', () => process.off('exit', kill));
}

/** The sample server with a store of its own. It can be killed, and started again on the same ports. */
export class Server {
  #folder = mkdtempSync(join(tmpdir(), 'jmqt-web-'));
  #child;
  #ended;
  #settings;
  ports = { tcp: 0, ws: 0, http: 0 };
  #vanish = () => {
    this.#child?.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10 });
  };

  constructor(settings) {
    this.#settings = settings;
    process.once('exit', this.#vanish);
  }

  /** `settings`: more lines for its `server.conf`. */
  static async start(t, settings = []) {
    const server = new Server(settings);
    t.after(() => server.close());
    await server.start();
    return server;
  }

  get page() {
    return `http://127.0.0.1:${this.ports.http}/`;
  }

  get tcp() {
    return `jmqt://127.0.0.1:${this.ports.tcp}`;
  }

  async start() {
    const config = join(this.#folder, 'server.conf');
    writeFileSync(
      config,
      [
        'BIND_ADDRESS = "127.0.0.1"',
        `SOCKET_PORT = ${this.ports.tcp}`,
        `WEBSOCKET_PORT = ${this.ports.ws}`,
        // A browser on a busy machine must find everything that was published, however late.
        'OUTBOUND_QUEUE_BYTES = 268435456',
        `SQLITE_PATH = ${JSON.stringify(join(this.#folder, 'jmqt.db'))}`,
        ...this.#settings,
      ].join('\n'),
    );
    const words = ['--config', config, '--web-port', this.ports.http === 0 ? 'any' : String(this.ports.http)];
    const child = spawn(program('sample_server', 'JMQT_SAMPLE_SERVER'), words, { cwd: this.#folder, env: {}, stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child = child;
    this.#ended = once(child, 'exit');
    const lines = [];
    for await (const line of createInterface({ input: child.stderr })) {
      lines.push(line);
      const listening = /Listening on (\w+) .*:(\d+)$/.exec(line);
      if (listening) this.ports[listening[1]] = Number(listening[2]);
      if (listening?.[1] === 'http') {
        child.stderr.resume();
        return;
      }
    }
    assert.fail(`the server did not start:\n${lines.join('\n')}`);
  }

  /** kill -9. */
  async kill() {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  async close() {
    await this.kill();
    process.off('exit', this.#vanish);
    rmSync(this.#folder, { recursive: true });
  }
}

/** A certificate for this machine that nobody trusts. */
function certificate() {
  const folder = mkdtempSync(join(tmpdir(), 'jmqt-web-tls-'));
  try {
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
    const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1', '-subj', '/CN=127.0.0.1'];
    execFileSync('openssl', ['req', ...kind, '-keyout', key, '-out', cert], { stdio: 'ignore' });
    return { key: readFileSync(key), cert: readFileSync(cert) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** An HTTP proxy before the server: the page is below `folder`, and upgrades there go to the WebSocket. Where the page is. */
export async function proxy(t, server, folder, secure) {
  const front = secure ? https.createServer(certificate()) : http.createServer();
  const below = (url) => `/${url.slice(folder.length)}`;
  front.on('request', (request, response) => {
    if (!request.url.startsWith(folder)) return response.writeHead(404).end();
    const options = { port: server.ports.http, host: '127.0.0.1', path: below(request.url), agent: false };
    const passed = http.get(options, (answer) => answer.pipe(response.writeHead(answer.statusCode, answer.headers)));
    passed.on('error', () => response.destroy());
  });
  const sockets = new Set();
  front.on('upgrade', (request, near) => {
    if (!request.url.startsWith(folder)) return near.destroy();
    const far = net.connect(server.ports.ws, '127.0.0.1');
    const headers = Object.entries(request.headers).map(([name, value]) => `${name}: ${value}\r\n`);
    far.write(`GET ${below(request.url)} HTTP/1.1\r\n${headers.join('')}\r\n`);
    near.pipe(far).pipe(near);
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => {}).on('close', () => [near, far].forEach((end) => end.destroy()));
    }
  });
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    front.closeAllConnections();
    front.close();
  });
  front.listen(0, '127.0.0.1');
  await once(front, 'listening');
  return `${secure ? 'https' : 'http'}://127.0.0.1:${front.address().port}${folder}`;
}

/** `jmqt`, the Rust client, as a process: what it prints, what it tells, and the code it ends with. */
export function rustClient(t, server, name, words) {
  const options = ['--url', server.tcp, '--name', name, '-v'];
  const child = spawn(program('jmqt', 'JMQT'), [...words, ...options], { env: {} });
  endWithThisProcess(child);
  t.after(() => child.kill('SIGKILL'));
  const [printed, told] = [[], []];
  child.stdout.setEncoding('utf8').on('data', (text) => printed.push(text));
  child.stderr.setEncoding('utf8').on('data', (text) => told.push(text));
  return {
    /** Done when it has said this on standard error. */
    async says(text) {
      while (!told.join('').includes(text)) await once(child.stderr, 'data');
    },
    printed: () => printed.join(''),
    ended: once(child, 'close').then(([code]) => code),
  };
}

/** Chromium, with a profile of its own that goes with it. */
export async function browse(t) {
  const browser = await chromium.launch({
    executablePath: chromiumPath,
    headless: true,
    timeout: 60_000,
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
  });
  t.after(() => browser.close());
  return browser;
}

export const DESKTOP = { width: 1280, height: 800 };
export const PHONE = { width: 390, height: 844 };

/**
 * Lets a test stand between a page and its server. Playwright can do so only where the page itself opens its WebSocket,
 * so the page has no workers here.
 */
export async function between(page, handler) {
  await page.addInitScript(() => delete window.Worker);
  await page.routeWebSocket(/^ws:/, handler);
}

/** A page of its own, with its own memory. What it complains about fails the test. `prepare(page)` comes before it loads. */
export async function open(t, browser, server, options = {}, prepare = undefined) {
  const context = await browser.newContext({ viewport: DESKTOP, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    // That a connection could not be made is said by the browser itself.
    if (message.type() === 'error' && !/WebSocket connection|ERR_CONNECTION/.test(message.text())) complaints.push(message.text());
  });
  t.after(() => assert.deepEqual(complaints, []));
  // It would go on trying to reach a server that ends with its test.
  t.after(() => context.close());
  await prepare?.(page);
  await page.goto(server.page);
  await page.locator('body[data-ready]').waitFor();
  return page;
}

export async function connect(page, name) {
  await page.getByLabel('Client name').fill(name);
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await see(page, '#state-text', `Connected as ${name}`);
  await see(page, '#subscriptions', `#${name}`);
}

/** Waits until this text, or a text like this, is in the element. */
export async function see(page, selector, text) {
  await page.locator(selector).filter({ hasText: text }).first().waitFor();
}

export async function subscribe(page, channel, persistent = false) {
  await page.getByLabel('Channel to subscribe to').fill(channel);
  await page.locator('#persistent').setChecked(persistent);
  await page.getByLabel('Channel to subscribe to').press('Enter');
}

export async function publish(page, to, data, { qos = 0, retain = false } = {}) {
  await page.locator('#to').fill(to);
  await page.locator('#payload').fill(data);
  if (await page.locator('input[name="qos"]').first().isEnabled()) await page.locator(`input[name="qos"][value="${qos}"]`).check();
  if (await page.locator('#retain').isEnabled()) await page.locator('#retain').setChecked(retain);
  await page.locator('#publish').click();
}

/** The row of a message that came in, with this channel, sender and data. */
export function received(page, channel, from, data) {
  const has = (name, text) => page.locator(`.${name}`, { hasText: new RegExp(`^${escape(text)}$`) });
  return page
    .locator('.message[data-kind="in"]:visible')
    .filter({ has: has('name', channel) })
    .filter({ has: has('from', from) })
    .filter({ has: has('data', data) });
}

function escape(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
