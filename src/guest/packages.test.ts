import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { moveInto } from './packages.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'packages-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function unpacked(name: string, files: readonly string[]): string {
  const tree = join(folder, name);
  mkdirSync(tree);
  for (const file of files) writeFileSync(join(tree, file), name);
  return tree;
}
const target = () => join(folder, 'package_1');

test('an unpacked package gets its name', () => {
  moveInto(unpacked('mine', ['file', '.complete']), target());
  expect(readFileSync(join(target(), 'file'), 'utf8')).toBe('mine');
});

test('one that another process has unpacked meanwhile stays as it is', () => {
  moveInto(unpacked('theirs', ['file', '.complete']), target());
  moveInto(unpacked('mine', ['file', '.complete']), target());
  expect(readFileSync(join(target(), 'file'), 'utf8')).toBe('theirs');
});

test('what is not complete is replaced', () => {
  unpacked('package_1', ['file', 'more']);
  moveInto(unpacked('mine', ['file', '.complete']), target());
  expect(readFileSync(join(target(), 'file'), 'utf8')).toBe('mine');
  expect(existsSync(join(target(), 'more'))).toBe(false);
});

test('a folder that is not there is an error', () => {
  expect(() => moveInto(unpacked('mine', ['.complete']), join(folder, 'no/such/folder'))).toThrow('ENOENT');
});
