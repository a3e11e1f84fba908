/** Keyboard shortcuts, and the list of them. Single keys can be switched off, and never count while typing. */
import { byId, memory } from './dom.js';

/** `actions` has a function for each key; `escape()` says whether it had something to close. */
export function listenForShortcuts(actions, escape) {
  const help = byId('help');
  const single = byId('single-keys');
  single.checked = memory.get('keys') !== 'off';
  single.addEventListener('change', () => memory.set('keys', single.checked ? '' : 'off'));
  byId('help-open').addEventListener('click', () => help.showModal());
  help.addEventListener('click', (event) => {
    if (event.target === help) help.close();
  });
  const all = { ...actions, '?': () => help.showModal() };
  document.addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.key === 'Escape') {
      if (escape()) event.preventDefault();
      return;
    }
    if (!single.checked || isTyping(event.target) || !Object.hasOwn(all, event.key)) return;
    event.preventDefault();
    all[event.key]();
  });
}

function isTyping(target) {
  return target.matches('textarea, select') || (target.matches('input') && !['checkbox', 'radio'].includes(target.type));
}
