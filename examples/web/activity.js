/** The log: what this page did and what became of it, the newest first. */
import { byId, clock, element } from './dom.js';

const LIMIT = 200;

/** `kind` is `good`, `bad` or `plain`. */
export function log(text, kind = 'plain') {
  const list = byId('activity');
  const now = new Date();
  list.prepend(
    element('li', { className: kind }, element('time', { dateTime: now.toISOString(), textContent: clock(now) }), element('span', { textContent: text })),
  );
  while (list.childElementCount > LIMIT) list.lastElementChild.remove();
}
