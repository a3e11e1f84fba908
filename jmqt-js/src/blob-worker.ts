/** Workers that are made from the text of a program, so that there is no second file. */

interface TrustedTypes {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): { createScriptURL(url: string): string };
}

/** A page that requires trusted types allows it by this name: `trusted-types jmqt-js`. */
const POLICY = 'jmqt-js';

let policy: { createScriptURL(url: string): string } | undefined;

/** Whether this platform has what is needed. A page's `Content-Security-Policy` may refuse it all the same. */
export function hasWorkers(): boolean {
  return typeof Worker === 'function' && typeof Blob === 'function' && typeof URL.createObjectURL === 'function';
}

/** Starts the program. `release` drops its text, once it runs. @throws an error if the page's policy does not allow it. */
export function startWorker(program: string): { worker: Worker; release: () => void } {
  const source = URL.createObjectURL(new Blob([program], { type: 'text/javascript' }));
  const release = (): void => URL.revokeObjectURL(source);
  try {
    const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
    // The URL is of what this module has written itself.
    policy ??= trustedTypes?.createPolicy(POLICY, { createScriptURL: (url) => url });
    return { worker: new Worker(policy?.createScriptURL(source) ?? source), release };
  } catch (error) {
    release();
    throw error;
  }
}
