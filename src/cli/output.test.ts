import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { UserError } from '../base/errors.ts';
import { columns, reportError } from './output.ts';

let out: string;
let err: string;
beforeEach(() => {
  out = '';
  err = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += text;
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err += text;
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
});

test('a UserError says what to do, and has its own exit code', () => {
  expect(reportError(new UserError('found x', 'do y', 'refused'), false)).toBe(41);
  expect(err).toBe('portcullis: found x\n  do y\n');
  expect(out).toBe('');
});

test('with --json the same as one object on standard output', () => {
  expect(reportError(new UserError('found x', 'do y'), true)).toBe(2);
  expect(JSON.parse(out)).toEqual({ ok: false, exit: 'usage', code: 2, error: { message: 'found x', fix: 'do y' } });
});

test('what the system says is passed on without a stack trace; a defect has one', () => {
  expect(reportError(Object.assign(new Error('ENOENT: no such file'), { code: 'ENOENT', syscall: 'open' }), false)).toBe(1);
  expect(err).toBe('portcullis: ENOENT: no such file\n');
  expect(reportError(new TypeError('oops'), false)).toBe(1);
  expect(err).toMatch(/defect.*\n.*oops\n\s+at /);
});

test('columns are as wide as their longest cell', () => {
  expect(
    columns([
      ['a', 'b'],
      ['long', 'c', 'd'],
    ]),
  ).toBe('a     b\nlong  c  d');
});
