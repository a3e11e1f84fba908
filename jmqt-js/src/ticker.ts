/**
 * A timer that goes on in a hidden page.
 *
 * Browsers run the timers of a hidden page once a minute, which is too seldom for a session of 15 seconds. A worker's
 * timers are not held back, so a hidden page gets its ticks from one, if it allows workers (a `Content-Security-Policy` needs
 * `worker-src blob:`, and `trusted-types jmqt-js` if it requires those). A browser complains where they are refused, so they
 * are not asked for unless the application says so; the page's own timer has to do then, and the server's pings.
 */

import { hasWorkers, startWorker } from './blob-worker.js';

interface Page {
  readonly hidden: boolean;
  addEventListener(name: 'visibilitychange', listener: () => void): void;
  removeEventListener(name: 'visibilitychange', listener: () => void): void;
}

/**
 * Calls `task` about every `milliseconds`, sometimes more often; from a worker while the page is hidden, if
 * `workers` says that the page allows them. What is returned ends that.
 */
export function every(milliseconds: number, task: () => void, workers: boolean): () => void {
  const timer = setInterval(task, milliseconds);
  const { document } = globalThis as { document?: Page };
  if (!document || !workers || !hasWorkers()) return () => clearInterval(timer);
  let worker: Worker | undefined;
  const follow = (): void => {
    if (document.hidden) {
      worker ??= workerTicks(milliseconds, task);
    } else {
      worker?.terminate();
      worker = undefined;
    }
  };
  document.addEventListener('visibilitychange', follow);
  follow();
  return () => {
    clearInterval(timer);
    document.removeEventListener('visibilitychange', follow);
    worker?.terminate();
    worker = undefined;
  };
}

/** The page does not allow workers: asking once is enough, because the browser complains each time. */
let refused = false;

function workerTicks(milliseconds: number, task: () => void): Worker | undefined {
  if (refused) return undefined;
  try {
    const { worker, release } = startWorker(`setInterval(() => postMessage(0), ${milliseconds})`);
    worker.onmessage = () => {
      release();
      task();
    };
    worker.onerror = (event) => {
      event.preventDefault?.();
      release();
      worker.terminate();
      refused = true;
    };
    return worker;
  } catch {
    refused = true;
    return undefined;
  }
}
