/**
 * A list of any length with as many rows in the document as fit on the screen, and a few more.
 *
 * All rows have the height of the style sheet's `--row`. The rows are made once and moved; a row is
 * rewritten only when it shows another entry. For assistive technology it is a listbox whose options
 * say which of how many they are; while it is empty, a group, because a listbox has options.
 */
import { byId, oncePerFrame } from './dom.js';

/** Rows above and below what can be seen, for scrolling. */
const MARGIN = 4;

export class List {
  /** Whether the end of the list is kept in sight. */
  following = true;

  #box;
  #spacer;
  #make;
  #fill;
  #changed;
  #rows = [];
  #shown;
  #height = 28;
  #size = 0;
  #selected;
  #position = 0;
  /** The height of what can be seen, as it was. */
  #view = 0;
  #draw = oncePerFrame(() => this.#drawNow());

  /**
   * `make()` makes a row, `fill(row, entry)` writes it, `changed()` hears of selection and scrolling.
   */
  constructor({ box, spacer, make, fill, changed }) {
    this.#box = byId(box);
    this.#spacer = byId(spacer);
    this.#make = make;
    this.#fill = fill;
    this.#changed = changed;
    this.#box.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.#box.addEventListener('keydown', (event) => this.#key(event));
    this.#spacer.addEventListener('click', (event) => {
      const row = this.#rows.find(({ node }) => node.contains(event.target));
      if (row?.entry) this.select(row.entry);
    });
    new ResizeObserver(() => this.#resized()).observe(this.#box);
  }

  get selected() {
    return this.#selected;
  }

  /** Shows these entries, a `Run` that may have grown, and from whose front `gone` were taken. */
  update(shown, gone) {
    this.#shown = shown;
    if (gone > 0 && !this.following) {
      this.#position = Math.max(0, this.#position - gone * this.#height);
      this.#spacer.style.height = `${shown.length * this.#height}px`;
      this.#box.scrollTop = this.#position;
    }
    this.#drawNow();
  }

  select(entry) {
    this.#selected = entry;
    if (entry) {
      this.following = false;
      this.#reveal(this.#indexOf(entry));
    }
    this.#draw();
    this.#changed();
  }

  follow() {
    this.following = true;
    this.#draw();
    this.#changed();
  }

  get #length() {
    return this.#shown?.length ?? 0;
  }

  #indexOf(entry) {
    // Numbers rise, so it is found by halving.
    let [low, high] = [0, this.#length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#shown.at(middle).number < entry.number) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #reveal(index) {
    const top = index * this.#height;
    const view = this.#box.clientHeight;
    if (top < this.#box.scrollTop) this.#box.scrollTop = top;
    else if (top + this.#height > this.#box.scrollTop + view) this.#box.scrollTop = top + this.#height - view;
  }

  #scrolled() {
    const top = this.#box.scrollTop;
    const atEnd = top + this.#box.clientHeight >= this.#length * this.#height - this.#height / 2;
    // Going up is a wish of the reader; going down to the end is one to follow.
    if (top < this.#position - 1 && !atEnd) this.following = false;
    else if (atEnd) this.following = true;
    this.#position = top;
    this.#draw();
    this.#changed();
  }

  #resized() {
    // Who looks at the selected row shall not lose it to the detail that opens below.
    if (this.#selected && !this.following) {
      const index = this.#indexOf(this.#selected);
      const top = index * this.#height - this.#position;
      if (top > -this.#height && top < this.#view) this.#reveal(index);
    }
    this.#view = this.#box.clientHeight;
    this.#height = Number.parseFloat(getComputedStyle(this.#box).getPropertyValue('--row')) || 28;
    const wanted = Math.ceil(this.#box.clientHeight / this.#height) + 2 * MARGIN;
    while (this.#rows.length > wanted) this.#rows.pop().node.remove();
    while (this.#rows.length < wanted) {
      const node = this.#make();
      node.id = `row-${this.#rows.length}`;
      node.setAttribute('role', 'option');
      node.hidden = true;
      this.#spacer.append(node);
      this.#rows.push({ node, entry: undefined, index: -1, length: -1, selected: false });
    }
    for (const row of this.#rows) row.index = -1;
    this.#draw();
  }

  #drawNow() {
    const length = this.#length;
    if (this.#size !== length * this.#height) {
      this.#size = length * this.#height;
      this.#spacer.style.height = `${this.#size}px`;
      this.#box.setAttribute('role', length === 0 ? 'group' : 'listbox');
    }
    if (this.following) {
      const end = Math.max(0, this.#size - this.#box.clientHeight);
      if (Math.abs(this.#position - end) >= 1) {
        this.#position = end;
        this.#box.scrollTop = end;
      }
    }
    const first = Math.max(0, Math.floor(this.#position / this.#height) - MARGIN);
    const count = this.#rows.length;
    let active = '';
    for (let index = first; index < first + count; index++) {
      // Each index has its row, so that scrolling by one line writes one row.
      const row = this.#rows[index % count];
      const entry = index < length ? this.#shown.at(index) : undefined;
      this.#drawRow(row, entry, index, length);
      if (entry && entry === this.#selected) active = row.node.id;
    }
    if (active === '') this.#box.removeAttribute('aria-activedescendant');
    else if (this.#box.getAttribute('aria-activedescendant') !== active) this.#box.setAttribute('aria-activedescendant', active);
  }

  #drawRow(row, entry, index, length) {
    const { node } = row;
    if (row.entry !== entry) {
      row.entry = entry;
      node.hidden = entry === undefined;
      if (entry) this.#fill(node, entry);
    }
    if (!entry) return;
    if (row.index !== index) {
      row.index = index;
      node.style.transform = `translateY(${index * this.#height}px)`;
      node.setAttribute('aria-posinset', String(index + 1));
    }
    if (row.length !== length) {
      row.length = length;
      node.setAttribute('aria-setsize', String(length));
    }
    const selected = entry === this.#selected;
    if (row.selected !== selected) {
      row.selected = selected;
      node.setAttribute('aria-selected', String(selected));
    }
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.#length === 0) return;
    const page = Math.max(1, Math.floor(this.#box.clientHeight / this.#height) - 1);
    const last = this.#length - 1;
    const at = this.#selected ? this.#indexOf(this.#selected) : undefined;
    const target = {
      ArrowUp: at === undefined ? last : at - 1,
      ArrowDown: at === undefined ? last : at + 1,
      PageUp: (at ?? last) - page,
      PageDown: (at ?? last) + page,
      Home: 0,
      End: last,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.select(this.#shown.at(Math.min(last, Math.max(0, target))));
    if (event.key === 'End') this.follow();
  }
}
