/** The package, as `npm pack` makes it: complete, and found by every way of resolving modules. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const root = fileURLToPath(new URL('../', import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

test('the npm package is complete, and can be imported and required, with types', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'jmqt-js-package-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const run = (program: string, ...words: string[]): string =>
    execFileSync(program, words, { cwd: folder, encoding: 'utf8', env: { ...process.env, npm_config_cache: join(folder, 'cache') } });
  const [packed] = JSON.parse(run('npm', 'pack', root, '--ignore-scripts', '--json')) as [{ filename: string; files: { path: string }[] }];
  const paths = new Set(packed.files.map(({ path }) => path));
  for (const path of [
    'LICENSE', 'README.md', 'package.json', 'dist/index.js', 'dist/index.d.ts', 'dist/cjs/index.js', 'dist/cjs/index.d.ts',
    'dist/cjs/package.json', 'compat/package.json', 'browser/jmqt.js', 'browser/jmqt.min.js', 'browser/jmqt.min.js.map',
    'browser/jmqt-compat.js', 'browser/jmqt-compat.min.js', 'browser/jmqt-compat.min.js.map',
  ]) {
    assert.ok(paths.has(path), `${path} is missing`);
  }
  assert.deepEqual([...paths].filter((path) => /^(src|test|build)\//.test(path)), []);

  mkdirSync(join(folder, 'node_modules/jmqt-js'), { recursive: true });
  run('tar', '-xzf', packed.filename, '-C', 'node_modules/jmqt-js', '--strip-components=1');
  const said = `console.log(typeof Client, typeof JMQTClient)`;
  for (const [file, source] of [
    ['a.mjs', `import { Client } from 'jmqt-js'; import { JMQTClient } from 'jmqt-js/compat'; ${said}`],
    ['a.cjs', `const { Client } = require('jmqt-js'); const { JMQTClient } = require('jmqt-js/compat'); ${said}`],
  ] as const) {
    writeFileSync(join(folder, file), source);
    assert.equal(run(process.execPath, file), 'function function\n', file);
  }
  const typed = `
    import { Client } from 'jmqt-js';
    import { JMQTClient } from 'jmqt-js/compat';
    export const news: Promise<{ n: number }> = new Client({ url: 'ws://localhost' }).request<{ n: number }>('$n');
    export const old: string = new JMQTClient('localhost', 8012).websockAddress;
  `;
  for (const name of ['b.mts', 'b.cts', 'b.ts']) writeFileSync(join(folder, name), typed);
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  const check = (file: string, ...words: string[]): string =>
    run(process.execPath, tsc, '--noEmit', '--strict', '--target', 'es2022', ...words, file);
  check('b.mts', '--module', 'node16');
  check('b.cts', '--module', 'node16');
  check('b.ts', '--module', 'commonjs', '--moduleResolution', 'node10');
  check('b.ts', '--module', 'esnext', '--moduleResolution', 'bundler');
});

test('the package says what it is', () => {
  const { license, keywords, engines, scripts, files } = JSON.parse(read('package.json')) as Record<string, unknown>;
  assert.equal(license, 'MIT');
  assert.equal(read('LICENSE'), read('../LICENSE'));
  assert.ok((keywords as string[]).includes('jmqt'));
  assert.deepEqual(engines, { node: '>=20' });
  assert.equal((scripts as Record<string, string>)['prepare'], 'node prepare.mjs'); // a clone can be installed from
  assert.ok((files as string[]).includes('LICENSE'));
});

test('the files for pages stay small', () => {
  for (const [path, most] of [
    ['browser/jmqt.min.js', 18_000],
    ['browser/jmqt-compat.min.js', 4_000],
  ] as const) {
    const size = gzipSync(read(path)).length;
    assert.ok(size <= most, `${path} has ${size} bytes compressed, of ${statSync(join(root, path)).size}`);
  }
});
