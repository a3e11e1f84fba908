/**
 * JSON as it is typed: whether it is right, else where it is wrong and what was expected there, and the
 * same text in another layout.
 *
 * `JSON.parse` says no line in some browsers, and would change numbers that JavaScript cannot hold; here
 * every digit stays as it was typed. Pure: no document.
 */

/** The server takes no deeper nesting. */
const MAX_DEPTH = 128;

const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const SPACE = /[ \t\r\n]*/y;
const WORDS = ['true', 'false', 'null'];

class Mistake {
  constructor(offset, problem) {
    this.offset = offset;
    this.problem = problem;
  }
}

/** `undefined` if `text` is JSON, else `{ offset, line, column, problem }`, counted from 1 but for `offset`. */
export function mistakeIn(text) {
  try {
    walk(text, () => {});
    return undefined;
  } catch (mistake) {
    if (!(mistake instanceof Mistake)) throw mistake;
    const before = text.slice(0, mistake.offset).split('\n');
    return { ...mistake, line: before.length, column: [...before.at(-1)].length + 1 };
  }
}

/** The text with a line for each member and two spaces for each level. It must be JSON. */
export function format(text) {
  let out = '';
  let depth = 0;
  const line = () => `\n${'  '.repeat(depth)}`;
  walk(text, (kind, token) => {
    if (kind === 'open') depth++;
    if (kind === 'close' || kind === 'end') depth--;
    if (kind === 'item' || kind === 'end') out += line();
    out += kind === 'colon' ? ': ' : token;
  });
  return out;
}

/** Goes through `text` and tells `token(kind, text)`. @throws Mistake */
function walk(text, token) {
  let at = 0;
  const skip = () => {
    SPACE.lastIndex = at;
    SPACE.test(text);
    at = SPACE.lastIndex;
  };
  const fail = (problem, offset = at) => {
    throw new Mistake(offset, at >= text.length && offset === at ? `the text ends here; ${problem}` : problem);
  };
  const string = (kind) => {
    const start = at;
    for (at++; ; at++) {
      const code = text.charCodeAt(at);
      if (Number.isNaN(code)) fail('the string that begins here has no closing quote', start);
      if (code === 0x22) break;
      if (code < 0x20) fail(code === 10 || code === 13 ? 'a string ends on its line: write \\n for a new one' : 'write this character as \\u and four digits');
      if (code !== 0x5c) continue;
      at++;
      const escaped = text[at];
      if (escaped === 'u') {
        if (!/^[0-9a-fA-F]{4}$/.test(text.slice(at + 1, at + 5))) fail('\\u needs four hexadecimal digits', at - 1);
        at += 4;
      } else if (escaped === undefined || !'"\\/bfnrt'.includes(escaped)) {
        fail('there is no such escape; a backslash itself is \\\\', at - 1);
      }
    }
    at++;
    token(kind, text.slice(start, at));
  };
  const scalar = () => {
    const first = text[at];
    if (first === '"') return string('value');
    if (first === "'") fail('strings must be in double quotes');
    if (first === '-' || (first >= '0' && first <= '9')) {
      NUMBER.lastIndex = at;
      const found = NUMBER.exec(text)?.[0];
      const next = text[at + (found?.length ?? 0)];
      if (found === undefined) fail('a number needs a digit here', at + 1);
      if (/[0-9a-zA-Z.+_-]/.test(next ?? '')) fail('this is not a number', at);
      at += found.length;
      return token('value', found);
    }
    const word = /[\p{L}\p{N}_$]+/uy;
    word.lastIndex = at;
    const found = word.exec(text)?.[0];
    if (WORDS.includes(found)) {
      at += found.length;
      return token('value', found);
    }
    if (found !== undefined) fail('text must be in double quotes');
    return fail('expected a value');
  };

  /** What is open: `}` or `]`. */
  const open = [];
  for (;;) {
    // A value begins here.
    skip();
    const first = text[at];
    let complete = true;
    if (first === '{' || first === '[') {
      if (open.length === MAX_DEPTH) fail(`nested deeper than ${MAX_DEPTH} levels`);
      const close = first === '{' ? '}' : ']';
      at++;
      token('open', first);
      skip();
      if (text[at] === close) {
        at++;
        token('close', close);
      } else {
        open.push(close);
        token('item', '');
        if (close === '}') member();
        complete = false;
      }
    } else scalar();
    // After a value: what is open goes on, or ends.
    while (complete) {
      skip();
      const close = open.at(-1);
      if (close === undefined) {
        if (at < text.length) fail('there is more after the end of the value');
        return;
      }
      if (text[at] === ',') {
        at++;
        skip();
        if (text[at] === close) fail('there is no comma after the last one');
        token('comma', ',');
        token('item', '');
        if (close === '}') member();
        complete = false;
      } else if (text[at] === close) {
        at++;
        open.pop();
        token('end', close);
      } else fail(`expected a comma or ${close}`);
    }
  }

  function member() {
    skip();
    if (text[at] !== '"') fail(/['\p{L}_$]/u.test(text[at] ?? '') ? 'names must be in double quotes' : 'expected a name in double quotes');
    string('name');
    skip();
    if (text[at] !== ':') fail('expected a colon');
    at++;
    token('colon', ':');
  }
}
