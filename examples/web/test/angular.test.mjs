/**
 * The drop-in in a page of AngularJS, where each operation is called in a digest cycle.
 *
 * AngularJS refuses to begin a digest inside of another one. Pages of the first client begin one for each event, and leave
 * callbacks to promises, so an event inside of a call breaks them.
 */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Client } from '../../../jmqt-js/dist/index.js';
import { Server, browse } from './support.mjs';

let browser;
const closing = [];
before(async () => {
  browser = await browse({ after: (close) => closing.push(close) });
});
after(async () => {
  for (const close of closing) await close();
});

const ANGULAR = fileURLToPath(new URL('node_modules/angular/angular.min.js', import.meta.url));
const COMPAT = fileURLToPath(process.env.JMQT_COMPAT_SCRIPT ?? new URL('../../../jmqt-js/browser/jmqt-compat.js', import.meta.url));

/** Runs in the page: a service with promises, and a scope that begins a digest for each event. */
function application(port) {
  const { angular } = window;
  window.errors = [];
  /* global JMQTClient -- of the classic script */
  angular.module('page', []).factory('$exceptionHandler', () => (error) => window.errors.push(String(error.message)));
  angular.module('page').run(($rootScope, $q) => {
    const client = new JMQTClient('127.0.0.1', port, false);
    client.on('push', (channel, from, data) => {
      if (channel !== 'update') $rootScope.$broadcast('page:push', { channel, from, data }); // presence comes when it comes
    });
    client.on('disconnect', () => $rootScope.$broadcast('page:disconnect'));
    $rootScope.lines = [];
    for (const name of ['page:push', 'page:disconnect']) {
      $rootScope.$on(name, (event, push) => {
        $rootScope.$apply(() => $rootScope.lines.push(push ? `push ${push.channel} ${JSON.stringify(push.data)}` : 'disconnect'));
      });
    }
    // Each is called from ng-click: in a digest.
    $rootScope.does = (name, ...words) => {
      if (name === 'disconnect') {
        client.disconnect(...words);
        return;
      }
      const deferred = $q.defer();
      client[name](...words, (...answer) => deferred.resolve(answer));
      deferred.promise.then((answer) => {
        if (name === 'auth') $rootScope.token = answer[1];
        $rootScope.lines.push(`${name} ${JSON.stringify(name === 'auth' ? answer[0] : answer.slice(0, 2))}`);
      });
    };
    window.does = (...words) => $rootScope.$apply(() => $rootScope.does(...words));
    window.conn = () => $rootScope.$apply(() => $rootScope.does('conn', 'bob', $rootScope.token));
  });
  angular.bootstrap(document.getElementById('app'), ['page'], { strictDi: false });
}

test('every operation of the drop-in works in a digest cycle of AngularJS', async (t) => {
  const server = await Server.start(t);
  const context = await browser.newContext();
  t.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  // Served for real: what a test answers in a server's place may not connect to this machine.
  const body = '<!doctype html><ol id="app"><li ng-repeat="line in lines track by $index">{{line}}</li></ol>';
  const site = createServer((request, response) => response.setHeader('content-type', 'text/html').end(body));
  t.after(() => site.close());
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
  await page.goto(`http://127.0.0.1:${site.address().port}/`);
  await page.addScriptTag({ path: ANGULAR });
  await page.addScriptTag({ path: COMPAT });
  await page.evaluate(application, server.ports.ws);
  /** The operation, and what the view then shows as its last line. */
  const step = async (line, ...words) => {
    await page.evaluate((given) => (given[0] === 'conn' ? window.conn() : window.does(...given)), words);
    await page.locator('li:last-child').filter({ hasText: line }).waitFor();
  };
  await step('sub [9,"news"]', 'sub', 'news', 0);
  await step('unsub [9,"news"]', 'unsub', 'news');
  await step('pub [9,"1"]', 'pub', 'news', 1, 0, 0);
  await page.evaluate(() => window.does('disconnect', true));
  await step('auth 10', 'auth', {});
  await step('auth 1', 'auth', { client_name: 'bob' });
  await step('conn [1]', 'conn');
  await step('conn [1]', 'conn'); // there is a session
  await step('sub [1,"news"]', 'sub', 'news', 0);
  await step('sub [1,"kept"]', 'sub', 'kept', 1);
  await step('pub [1,"2"]', 'pub', 'kept', 1, 1, 1);
  await step('pub [1,"3"]', 'pub', '$mySubscriptions', {}, 0, 0);
  const alice = new Client({ url: server.tcp });
  t.after(() => alice.disconnect({ timeout: 0 }));
  await alice.auth({ client_name: 'alice' });
  await alice.conn();
  await alice.pub('kept', 2, { qos: 1 });
  await page.locator('li:last-child').filter({ hasText: 'push kept 2' }).waitFor();
  await step('unsub [1,"kept"]', 'unsub', 'kept');
  await step('unsub [1,"news"]', 'unsub', 'news');
  await step('disconnect', 'disconnect', true);
  await step('sub [9,"news"]', 'sub', 'news', 0);
  await step('auth 1', 'auth', { client_name: 'bob' });
  await step('disconnect', 'disconnect');
  await step('auth 1', 'auth', { client_name: 'bob' });
  await step('conn [1]', 'conn');
  await server.kill();
  await page.locator('li:last-child').filter({ hasText: 'disconnect' }).waitFor();
  await page.evaluate(() => window.does('auth', { client_name: 'bob' }));
  await page.locator('li', { hasText: 'auth 9' }).waitFor();
  const seen = await page.locator('li').allTextContents();
  assert.deepEqual(seen, [
    'sub [9,"news"]', 'unsub [9,"news"]', 'pub [9,"1"]', 'auth 10', 'auth 1', 'conn [1]', 'conn [1]', 'sub [1,"news"]',
    'sub [1,"kept"]', 'pub [1,"2"]', 'pub [1,"3"]', 'push kept 2', 'unsub [1,"kept"]', 'unsub [1,"news"]', 'disconnect',
    'sub [9,"news"]', 'auth 1', 'disconnect', 'auth 1', 'conn [1]', 'disconnect', 'disconnect',
    'auth 9', // called before the event: its promise has its turn after it
  ]);
  assert.deepEqual(await page.evaluate(() => window.errors), []);
  assert.deepEqual(complaints, []);
});
