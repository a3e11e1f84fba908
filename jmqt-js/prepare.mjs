/**
 * What `npm install` does in a clone, and where a clone is installed from its folder: compiles `src/`.
 *
 * In the second case npm has not installed the compiler here. `browser/` is checked in, and not made here: a test tells
 * whether it is current.
 */
import { execSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = { cwd: fileURLToPath(new URL('.', import.meta.url)), stdio: 'inherit' };
if (!existsSync(new URL('node_modules/typescript', import.meta.url))) {
  execSync('npm ci --ignore-scripts --no-audit --no-fund', here);
}
execSync('npm run compile', here);
