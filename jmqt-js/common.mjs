/** Says of the compiled files what they are: `dist/` ES modules, `dist/cjs/` CommonJS; and where old resolvers find `compat`. */
import { mkdirSync, writeFileSync } from 'node:fs';

const write = (path, content) => writeFileSync(new URL(path, import.meta.url), `${JSON.stringify(content, null, 2)}\n`);

write('dist/cjs/package.json', { type: 'commonjs' });
mkdirSync(new URL('compat', import.meta.url), { recursive: true });
write('compat/package.json', { main: '../dist/cjs/compat.js', module: '../dist/compat.js', types: '../dist/cjs/compat.d.ts' });
