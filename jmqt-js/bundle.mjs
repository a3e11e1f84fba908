/**
 * Makes the two files for pages out of `dist/`: `npm run build`.
 *
 * The same input gives the same bytes, so that a test can tell whether what is checked in is current.
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('.', import.meta.url));

/** A classic script cannot import: it leaves its two names where pages look for them. */
const COMPAT = `
import { Status } from './dist/errors.js';
import { JMQTClient } from './dist/compat.js';
globalThis.JMQTClient = JMQTClient;
globalThis.JMQT ??= { statusCodes: Status };
`;

const FILES = [
  { path: 'browser/jmqt.js', format: 'esm', entry: `export * from './dist/index.js';` },
  { path: 'browser/jmqt-compat.js', format: 'iife', entry: COMPAT },
];

/** The files, as they should be: `{ path, text }`. */
export async function bundles() {
  return Promise.all(
    FILES.map(async ({ path, format, entry }) => {
      const result = await build({
        stdin: { contents: entry, resolveDir: root, sourcefile: 'entry.js' },
        absWorkingDir: root,
        bundle: true,
        format,
        platform: 'browser',
        target: 'es2022',
        charset: 'utf8',
        legalComments: 'none',
        banner: { js: '// jmqt-js: made by `npm run build` from src/; MIT license. Do not edit.' },
        write: false,
      });
      return { path, text: result.outputFiles[0].text };
    }),
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const { path, text } of await bundles()) writeFileSync(new URL(path, import.meta.url), text);
}
