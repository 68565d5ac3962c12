import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { processors } from './assemble.ts';
import { resolveRunOptions } from './run-options.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'options-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
  delete process.env.PORTCULLIS_MEMORY;
  delete process.env.PORTCULLIS_ON_VIOLATION;
});
const config = (value: unknown) => {
  const path = join(folder, 'vm.json');
  writeFileSync(path, typeof value === 'string' ? value : JSON.stringify(value));
  return path;
};

test('defaults', () => {
  expect(resolveRunOptions({}, undefined)).toMatchObject({ name: 'vm', memory: 256 << 20, clock: 'host', net: [] });
});

test('flags win over the environment, the environment over the file', () => {
  const file = config({ memory: '64M', name: 'from-file' });
  expect(resolveRunOptions({}, file)).toMatchObject({ memory: 64 << 20, name: 'from-file' });
  process.env.PORTCULLIS_MEMORY = '128M';
  expect(resolveRunOptions({}, file).memory).toBe(128 << 20);
  expect(resolveRunOptions({ memory: '1G' }, file).memory).toBe(2 ** 30);
});

test('serials of withdrawn grants are checked', () => {
  expect(resolveRunOptions({ revoked: ['0'.repeat(32)] }, undefined).revoked).toEqual(['0'.repeat(32)]);
  expect(() => resolveRunOptions({ revoked: ['42'] }, undefined)).toThrow(/32 lower-case hex digits/);
});

test('environment names are made from option names', () => {
  process.env.PORTCULLIS_ON_VIOLATION = 'stop';
  expect(resolveRunOptions({}, undefined).onViolation).toBe('stop');
});

test('CPUs, cores and pins', () => {
  expect(resolveRunOptions({}, undefined)).toMatchObject({ cpus: 1 });
  expect(resolveRunOptions({ cpus: '4', cores: '2', pin: '0=1, 3=0', seed: '7' }, undefined)).toMatchObject({
    cpus: 4,
    cores: 2,
    pin: [
      [0, 1],
      [3, 0],
    ],
    seed: 7,
  });
  expect(processors(resolveRunOptions({ cpus: '4', pin: '3=3' }, undefined))).toEqual({
    cpus: 4,
    cores: 4,
    pins: [[3, 3]],
    seed: undefined,
  });
});

test.each([
  ['a CPU that is not there', { cpus: '2', pin: '2=0' }, /no virtual CPU 2/],
  ['a core that is not there', { cpus: '4', cores: '2', pin: '0=2' }, /no core 2/],
])('a pin to %s is a clear error', (_, flags, message) => {
  expect(() => processors(resolveRunOptions(flags, undefined))).toThrow(message);
});

test.each([
  ['no CPU', { cpus: '0' }, /cpus/],
  ['too many CPUs', { cpus: '17' }, /cpus/],
  ['no pin', { pin: 'x' }, /pin.*CPU=CORE.*"x"/],
  ['a CPU pinned twice', { pin: '0=1,0=0' }, /each CPU once/],
  ['a negative seed', { seed: '-1' }, /seed/],
  ['a size too small', { memory: '1M' }, /memory.*16M to 3G.*"1M"/],
  ['no size', { memory: 'lots' }, /memory/],
  ['an unknown clock', { clock: 'sundial' }, /clock/],
  ['a bad name', { name: 'a b' }, /name/],
  ['a bad port', { debugExit: 'x' }, /debugExit/],
])('%s is a clear error', (_, flags, message) => {
  expect(() => resolveRunOptions(flags, undefined)).toThrow(message);
  expect(() => resolveRunOptions(flags, undefined)).toThrow(UserError);
});

test.each([
  ['an unknown key', { memroy: '64M' }, /unknown option "memroy"/],
  ['a list', [1], /expected an object/],
  ['no JSON', '{', /vm\.json/],
])('config file with %s is a clear error', (_, value, message) => {
  expect(() => resolveRunOptions({}, config(value))).toThrow(message);
});
