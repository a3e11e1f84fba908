/** Gets what the tests need and `npm ci` does not bring: Chromium, and jmqt-js compiled for Node. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { chromiumPath } from './support.mjs';

const run = (program, ...words) => execFileSync(program, words, { stdio: 'inherit' });

if (!existsSync(chromiumPath)) {
  console.log(`There is no ${chromiumPath}: installing it`);
  run(fileURLToPath(new URL('../../../scripts/install-package', import.meta.url)), 'chromium');
}

const jmqtJs = fileURLToPath(new URL('../../../jmqt-js/', import.meta.url));
if (!existsSync(`${jmqtJs}/dist/index.js`)) {
  run('npm', '--prefix', jmqtJs, 'ci', '--no-fund', '--no-audit');
  run('npm', '--prefix', jmqtJs, 'run', 'compile');
}
