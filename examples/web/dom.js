/** The few things that all parts of the page do with the document, and what is remembered. */

/** The element with this id; a missing one is a mistake in this page. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`there is no #${id}`);
  return element;
}

/** An element with properties and children. Text is only ever text: there is no way to markup from here. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** One of the icons of index.html. */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

/** Runs `work` before the next frame, once, however often it was asked for. */
export function oncePerFrame(work) {
  let asked = 0;
  const run = () => {
    asked = 0;
    work();
  };
  return () => {
    asked ||= requestAnimationFrame(run);
  };
}

export const number = new Intl.NumberFormat('en');

/** Bytes for people. */
export function size(bytes) {
  if (bytes < 1_000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${(bytes / 1_000).toFixed(1)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });

export function clock(time) {
  return CLOCK.format(time);
}

/** What the page remembers from visit to visit. Where storage is forbidden, nothing. */
export const memory = {
  get(key) {
    try {
      return localStorage.getItem(`jmqt.${key}`) ?? '';
    } catch {
      return '';
    }
  },
  set(key, value) {
    try {
      if (value === '') localStorage.removeItem(`jmqt.${key}`);
      else localStorage.setItem(`jmqt.${key}`, value);
    } catch {
      // Not remembered, then.
    }
  },
};

/** Tells those who do not see the page what has changed. */
export function announce(text) {
  byId('announce').textContent = text;
}

/** The whole page is visible, not one tab as on a phone, where a focus would open the keyboard. */
export function isWide() {
  return matchMedia('(min-width: 62rem)').matches;
}
