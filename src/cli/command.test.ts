import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { readInput } from './command.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'command-'));
  writeFileSync(join(folder, 'file'), 'twelve bytes');
});
afterAll(() => rmSync(folder, { recursive: true }));

test('a file is read up to its limit', () => {
  expect(readInput(join(folder, 'file'), 12, 'key').toString()).toBe('twelve bytes');
});

test.each([
  ['file', 11, 'has 12 bytes; at most 11 are taken as key'],
  ['nothing', 12, 'nothing: no such key'],
  ['.', 12, 'is not a file'],
  ['file/below', 12, 'cannot be read as key: ENOTDIR'],
  ['long'.repeat(100), 12, 'cannot be read as key: ENAMETOOLONG'],
  ['a\0b', 12, 'cannot be read as key'],
])('%j, of at most %i bytes: %s', (name, most, message) => {
  const read = () => readInput(`${folder}/${name}`, most, 'key');
  expect(read).toThrow(UserError);
  expect(read).toThrow(message);
});
