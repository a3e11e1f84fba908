/** Who listens to what. */
export class Events<Map extends object> {
  readonly #listeners = new globalThis.Map<keyof Map, ((event: never) => unknown)[]>();
  readonly #report: (error: unknown) => void;

  /** `report` hears of listeners that throw. */
  constructor(report: (error: unknown) => void) {
    this.#report = report;
  }

  on<K extends keyof Map>(name: K, listener: (event: Map[K]) => unknown): void {
    this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), listener]);
  }

  off<K extends keyof Map>(name: K, listener: (event: Map[K]) => unknown): void {
    const kept = (this.#listeners.get(name) ?? []).filter((other) => other !== listener);
    this.#listeners.set(name, kept);
  }

  has(name: keyof Map): boolean {
    return (this.#listeners.get(name)?.length ?? 0) > 0;
  }

  emit<K extends keyof Map>(name: K, event: Map[K]): void {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(event as never);
      } catch (error) {
        this.#report(error);
      }
    }
  }
}
