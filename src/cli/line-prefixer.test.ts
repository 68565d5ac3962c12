import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LinePrefixer } from './line-prefixer.ts';

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1');

test('lines are whole, however they arrive', () => {
  fc.assert(
    fc.property(fc.array(fc.stringMatching(/^[ab\n]{0,6}$/)), (pieces) => {
      const lines = new LinePrefixer('one | ');
      const out = pieces.map((piece) => text(lines.add(Buffer.from(piece)))).join('') + text(lines.end());
      const all = pieces.join('');
      const expected = all.split('\n').slice(0, all.endsWith('\n') ? -1 : undefined);
      expect(out).toBe(all === '' ? '' : expected.map((line) => `one | ${line}\n`).join(''));
    }),
  );
});

test('a line without end is printed in pieces, and little of it is kept', () => {
  const lines = new LinePrefixer('> ');
  let out = '';
  for (let index = 0; index < 100; index++) out += text(lines.add(Buffer.alloc(1000, 0x61)));
  expect(out.replaceAll('> ', '').replaceAll('\n', '').length).toBeGreaterThan(100_000 - 8193);
  expect(text(lines.end()).length).toBeLessThan(8200);
});
