/** The token of a client: where it comes from, when it is replaced, and what a failure to replace it means. */
import { JmqtError, NetworkError, RefusedError, Status, UsageError } from './errors.js';
import { Backoff } from './reconnect.js';
import type { Credentials } from './session.js';

export interface RefreshContext {
  /** Empty if it is not known yet. */
  clientId: string;
  /** Asks the server for a token, like `client.auth`. */
  authenticate(data: unknown): Promise<Credentials>;
}

export interface TokensOptions {
  given: Partial<Record<keyof Credentials, string | number | undefined>>;
  authData: { data: unknown } | undefined;
  refreshToken: ((context: RefreshContext) => Credentials | Promise<Credentials>) | undefined;
  /** Asks the server (§7.a). */
  authenticate(data: unknown): Promise<Credentials>;
}

/** A token is replaced this long before it expires, or after nine tenths of its time if that is later. */
const AHEAD_MS = 60_000;

/** The least time from one token to the next: `refreshToken` may give one that expires at once. */
const LEAST_MS = 1_000;

/** The longest time a timer can be set to. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export class Tokens {
  readonly #options: TokensOptions;
  #credentials: Partial<Credentials>;
  /** Of the last successful `auth`, for a new token. */
  #authData: { data: unknown } | undefined;
  /** The token is known to be of no use. */
  #expired = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: TokensOptions) {
    this.#options = options;
    this.#authData = options.authData;
    this.#credentials = options.given as Partial<Credentials>;
  }

  get clientId(): string | undefined {
    return this.#credentials.clientId;
  }

  /** From now on with these. @throws UsageError if there is neither a token nor a way to get one. */
  use(credentials: Partial<Credentials>): void {
    const before = this.#credentials;
    const { token, clientId } = { ...before, ...credentials };
    const complete = token !== undefined && clientId !== undefined;
    if (!complete && !this.#options.refreshToken && !this.#authData) {
      throw new UsageError(
        'a session needs a token and a client id: call auth first, pass both, or set the option auth or refreshToken',
      );
    }
    if (before.clientId !== undefined && before.clientId !== clientId) this.#authData = undefined; // another client's
    const known = credentials.token === undefined ? before.expiresAt : undefined;
    this.#credentials = { token, clientId, expiresAt: credentials.expiresAt ?? known } as Partial<Credentials>;
    if (credentials.token !== undefined) this.#expired = false;
  }

  /** The credentials to connect with: new ones if those there are are of no use. @throws what `refresh` throws. */
  async current(): Promise<Credentials> {
    const { token, clientId, expiresAt } = this.#credentials;
    const late = expiresAt !== undefined && Date.now() >= expiresAt;
    if (token === undefined || clientId === undefined || this.#expired || late) await this.#refresh();
    return this.#credentials as Credentials;
  }

  /** The server no longer accepts the credentials (these, or any). Returns whether there is a way to get new ones. */
  expire(credentials: Credentials | undefined): boolean {
    if (credentials === undefined || credentials.token === this.#credentials.token) this.#expired = true;
    return this.#options.refreshToken !== undefined || this.#authData !== undefined;
  }

  /** Asks the server for a token, and keeps it. */
  async authenticate(data: unknown): Promise<Credentials> {
    const credentials = await this.#options.authenticate(data);
    this.#authData = { data };
    this.#keep(credentials);
    return credentials;
  }

  /** There is a session: replaces the token before it expires, if it is known when that is. */
  refreshAhead(failed: (error: unknown) => void): void {
    this.rest();
    const { expiresAt } = this.#credentials;
    if (expiresAt === undefined || !this.#options.refreshToken) return;
    const left = expiresAt - Date.now();
    const wait = Math.max(left - AHEAD_MS, left * 0.9, LEAST_MS);
    this.#refreshIn(wait, failed, new Backoff({ initialDelay: LEAST_MS }));
  }

  /** There will be no session for now. */
  rest(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #refreshIn(milliseconds: number, failed: (error: unknown) => void, backoff: Backoff): void {
    const part = Math.min(milliseconds, LONGEST_TIMER_MS);
    const timer = setTimeout(() => {
      if (part < milliseconds) {
        this.#refreshIn(milliseconds - part, failed, backoff);
        return;
      }
      this.#refresh().then(
        () => {
          if (this.#timer === timer) this.refreshAhead(failed);
        },
        (error: unknown) => {
          failed(error);
          if (this.#timer !== timer || (error instanceof JmqtError && error.code === 'UNAUTHORIZED')) return;
          this.#refreshIn(LEAST_MS + (backoff.next() ?? 0), failed, backoff);
        },
      );
    }, part);
    this.#timer = timer;
  }

  async #refresh(): Promise<void> {
    const { refreshToken, authenticate } = this.#options;
    if (refreshToken) {
      try {
        this.#keep(await refreshToken({ clientId: this.clientId ?? '', authenticate }));
      } catch (error) {
        if (error instanceof JmqtError) throw error;
        const words = error instanceof Error ? error.message : String(error);
        throw new NetworkError(`refreshToken failed: ${words}`, { cause: error });
      }
      return;
    }
    if (!this.#authData) throw new RefusedError('conn', Status.INVALID_TOKEN);
    await this.authenticate(this.#authData.data);
  }

  #keep(credentials: Credentials): void {
    this.#credentials = credentials;
    this.#expired = false;
  }
}
