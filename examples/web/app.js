/** A JMQT client in a page. Here: which part hears of which, views, appearance. */
import { Connection } from './connection.js';
import { byId, isWide, memory } from './dom.js';
import { Messages } from './messages.js';
import { Presence } from './presence.js';
import { Publish } from './publish.js';
import { listenForShortcuts } from './shortcuts.js';
import { Subscriptions } from './subscriptions.js';

const connection = new Connection();
const messages = new Messages(connection, (client) => writeTo(`#${client}`));
const publish = new Publish(connection, (entry) => messages.add(entry));
const presence = new Presence(connection, (client) => writeTo(`#${client}`), () => subscriptions.draw());
const subscriptions = new Subscriptions(connection, (channel) => writeTo(channel), (channel) => channel === presence.channel);

// On a phone there is one view at a time.
function show(view) {
  document.body.dataset.view = view;
  for (const tab of document.querySelectorAll('.tabs button')) {
    if (tab.dataset.view === view) tab.setAttribute('aria-current', 'true');
    else tab.removeAttribute('aria-current');
  }
}

function writeTo(channel) {
  show('publish');
  publish.address(channel);
}

function focusOn(view, id) {
  show(view);
  byId(id).focus();
}

for (const tab of document.querySelectorAll('.tabs button')) {
  tab.addEventListener('click', () => show(tab.dataset.view));
}

listenForShortcuts(
  {
    '/': () => focusOn('messages', 'filter-text'),
    m: () => focusOn('messages', 'list'),
    n: () => focusOn('publish', byId('to').value === '' ? 'to' : 'payload'),
    s: () => focusOn('setup', 'channel'),
    p: () => messages.togglePause(),
  },
  () => messages.close(),
);

const theme = memory.get('theme') || 'system';
for (const choice of document.querySelectorAll('input[name="theme"]')) {
  choice.checked = choice.value === theme;
  choice.addEventListener('change', () => {
    memory.set('theme', choice.value === 'system' ? '' : choice.value);
    if (choice.value === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice.value;
  });
}

await connection.findServer();
if (isWide()) byId('name').focus();
document.body.dataset.ready = 'true';
