/** How many messages come in: the number of the last second, and a line of the last minute with the scale beside it. */
import { byId, number } from './dom.js';

const SECONDS = 60;
const [WIDTH, HEIGHT] = [120, 24];
const compact = new Intl.NumberFormat('en', { notation: 'compact' });

export class Rate {
  #samples = new Array(SECONDS).fill(0);
  #count = 0;
  #since = performance.now();

  constructor() {
    setInterval(() => this.#tick(), 1_000);
    this.#draw();
  }

  add() {
    this.#count++;
  }

  #tick() {
    const now = performance.now();
    this.#samples.push(Math.round((this.#count * 1_000) / (now - this.#since)));
    this.#samples.shift();
    this.#count = 0;
    this.#since = now;
    this.#draw();
  }

  #draw() {
    const most = Math.max(10, ...this.#samples);
    const points = this.#samples.map((sample, index) => {
      const [x, y] = [(index * WIDTH) / (SECONDS - 1), HEIGHT - 1 - (sample * (HEIGHT - 3)) / most];
      return `${x.toFixed(1)} ${y.toFixed(1)}`;
    });
    byId('spark-line').setAttribute('d', `M${points.join('L')}`);
    byId('spark-area').setAttribute('d', `M0 ${HEIGHT}L${points.join('L')}L${WIDTH} ${HEIGHT}z`);
    byId('spark-top').textContent = `${compact.format(most)}/s`;
    byId('rate').textContent = number.format(this.#samples.at(-1));
  }
}
