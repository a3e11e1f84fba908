/** The two limits every call can have: an `AbortSignal`, and a time. */
import { AbortedError, TimeoutError } from './errors.js';

export interface CallOptions {
  /** Ends the call with an `AbortedError`. What was sent already is not taken back. */
  signal?: AbortSignal | undefined;
  /** Milliseconds after which the call ends with a `TimeoutError`; 0 is never. */
  timeout?: number | undefined;
}

/**
 * Starts something that tells its end by `resolve` and `reject`, within the limits. `cancel` is called
 * when a limit was reached first; `hint` adds to the message of a `TimeoutError`.
 */
export function limited<T>(
  what: string,
  options: CallOptions,
  timeout: number,
  start: (resolve: (value: T) => void, reject: (error: unknown) => void) => void,
  cancel: (error: Error) => void,
  hint: () => string = () => '',
): Promise<T> {
  const { signal } = options;
  const milliseconds = options.timeout ?? timeout;
  if (signal?.aborted) return Promise.reject(new AbortedError(`${what} was aborted before it started`, signal.reason));
  if (!signal && !(milliseconds > 0)) return new Promise(start);
  return new Promise((resolve, reject) => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const settle = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
    };
    const stop = (error: Error): void => {
      settle();
      cancel(error);
      reject(error);
    };
    const aborted = (): void => stop(new AbortedError(`${what} was aborted`, signal?.reason));
    if (milliseconds > 0) {
      const late = (): void => stop(new TimeoutError(`${what}: no answer within ${milliseconds} ms${hint()}`));
      timer = setTimeout(late, milliseconds);
    }
    signal?.addEventListener('abort', aborted);
    start(
      (value) => {
        settle();
        resolve(value);
      },
      (error) => {
        settle();
        reject(error as Error);
      },
    );
  });
}
