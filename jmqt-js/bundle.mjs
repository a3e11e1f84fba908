/**
 * Makes the files for pages out of `dist/`: `npm run build`.
 *
 * The same input gives the same bytes, so that a test can tell whether what is checked in is current.
 */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
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

/** The files, as they should be: `{ path, text }`. Each is there to be read, and minified with a source map. */
export async function bundles() {
  const kinds = FILES.flatMap((file) => [
    { ...file, minify: false },
    { ...file, minify: true, path: file.path.replace(/\.js$/, '.min.js') },
  ]);
  const made = await Promise.all(
    kinds.map(async ({ path, format, entry, minify }) => {
      const result = await build({
        stdin: { contents: entry, resolveDir: root, sourcefile: 'entry.js' },
        absWorkingDir: root,
        outfile: path,
        bundle: true,
        format,
        minify,
        sourcemap: minify ? 'linked' : false,
        platform: 'browser',
        target: 'es2022',
        charset: 'utf8',
        legalComments: 'none',
        banner: { js: '// jmqt-js: made by `npm run build` from src/; MIT license. Do not edit.' },
        write: false,
      });
      return result.outputFiles.map(({ path: file, text }) => ({ path: relative(root, file), text }));
    }),
  );
  return made.flat();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const { path, text } of await bundles()) writeFileSync(new URL(path, import.meta.url), text);
}
