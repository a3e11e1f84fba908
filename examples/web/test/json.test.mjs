/** JSON as it is typed: what is right, where it is wrong, and how it is laid out. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { format, mistakeIn } from '../json.js';

test('a mistake is told with its line, its column and what was expected', () => {
  for (const [text, line, column, problem] of [
    ['', 1, 1, /the text ends here; expected a value/],
    ['hello', 1, 1, /double quotes/],
    ["'a'", 1, 1, /double quotes/],
    ['{"a":1,}', 1, 8, /no comma after the last one/],
    ['{\n  "a": 1,\n  b: 2\n}', 3, 3, /names must be in double quotes/],
    ['{"a" 1}', 1, 6, /expected a colon/],
    ['[1 2]', 1, 4, /expected a comma or \]/],
    ['[1,\n2', 2, 2, /the text ends here; expected a comma or \]/],
    ['"a', 1, 1, /no closing quote/],
    ['"a\nb"', 1, 3, /ends on its line/],
    ['"\\q"', 1, 2, /no such escape/],
    ['"\\u12"', 1, 2, /four hexadecimal digits/],
    ['01', 1, 1, /not a number/],
    ['-', 1, 2, /needs a digit/],
    ['1 2', 1, 3, /more after the end/],
    ['"🦀" x', 1, 5, /more after the end/],
    [`${'['.repeat(129)}`, 1, 129, /nested deeper than 128/],
  ]) {
    const mistake = mistakeIn(text);
    assert.ok(mistake, text);
    assert.deepEqual([mistake.line, mistake.column], [line, column], `${text}: ${mistake.problem}`);
    assert.match(mistake.problem, problem);
  }
});

test('what JSON.parse takes is right, and nothing else', () => {
  const pieces = ['{', '}', '[', ']', ',', ':', '"a"', '"\\n"', '1', '-0', '1.5e3', '.5', 'true', 'null', 'nul', ' ', '\n', '"', '\\'];
  let state = 1;
  const random = (below) => (state = (state * 48_271) % 2_147_483_647) % below;
  for (let round = 0; round < 20_000; round++) {
    const text = Array.from({ length: 1 + random(7) }, () => pieces[random(pieces.length)]).join('');
    let right = true;
    try {
      JSON.parse(text);
    } catch {
      right = false;
    }
    assert.equal(mistakeIn(text) === undefined, right, JSON.stringify(text));
    if (right) assert.deepEqual(JSON.parse(format(text)), JSON.parse(text));
  }
});

test('laying out changes white space alone', () => {
  assert.equal(format(' {"a":[ ],"b":{"c":12345678901234567890.10,"d":"\\u0041 {"}} '), '{\n  "a": [],\n  "b": {\n    "c": 12345678901234567890.10,\n    "d": "\\u0041 {"\n  }\n}');
});
