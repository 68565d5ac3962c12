/** The command line on small kernels of our own: boot protocols, exit codes, console, limits. Uses the built `dist/`. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { elf32, exitWith, HALT, print, RESET, SPIN, TRIPLE_FAULT } from './bare-metal.ts';

const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'boots-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function run(kernel: Uint8Array, ...more: string[]): { code: number | null; out: string; err: string } {
  const path = join(folder, 'kernel.elf');
  writeFileSync(path, kernel);
  const result = spawnSync(process.execPath, [cli, 'run', '--kernel', path, '--memory', '16M', '--debug-exit', '0xf4', ...more], {
    encoding: 'utf8',
    input: '',
  });
  return { code: result.status, out: result.stdout, err: result.stderr };
}
const code = (...parts: number[][]) => Uint8Array.from(parts.flat());

describe('boot protocols', () => {
  test('Multiboot 1: the magic is in EAX, and the console prints', () => {
    // cmp eax, 0x2badb002; je +4; mov al, 9; out 0xf4, al
    const check = [0x3d, 0x02, 0xb0, 0xad, 0x2b, 0x74, 0x04, ...exitWith(9)];
    const { code: status, out } = run(elf32(code(check, print('multiboot\n'), exitWith(3)), { multiboot: true }));
    expect(out).toBe('multiboot\n');
    expect(status).toBe(3);
  });

  test('PVH: EBX points to the start information', () => {
    // cmp dword [ebx], 0x336ec578; je +4; exit 9
    const check = [0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33, 0x74, 0x04, ...exitWith(9)];
    const { code: status, out } = run(elf32(code(check, print('pvh\n'), exitWith(0)), { pvh: true }));
    expect(out).toBe('pvh\n');
    expect(status).toBe(0);
  });

  test('a 32-bit image cannot be entered by the 64-bit protocol', () => {
    const { code: status, err } = run(elf32(code(HALT)), '--boot', 'linux64');
    expect(status).toBe(2);
    expect(err).toMatch(/32-bit image/);
  });
});

describe('how a run ends', () => {
  test.each([
    ['halt with interrupts off', HALT, 0, /halted/],
    ['triple fault', TRIPLE_FAULT, 33, /triple fault/],
    ['reset', [...RESET, ...SPIN], 32, /reset/],
    ['time limit', SPIN, 36, /time limit/],
    ['a guest that says it panicked', [...print('Kernel panic - not syncing: test\n'), ...TRIPLE_FAULT], 34, /panicked/],
  ])('%s', (_, body, expected, message) => {
    const { code: status, err } = run(elf32(code(body), { multiboot: true }), '--timeout', '2');
    expect(err).toMatch(message);
    expect(status).toBe(expected);
  });

  test('--json gives one object on the last line of standard output, the console goes to standard error', () => {
    const { out, err } = run(elf32(code(print('hello\n'), exitWith(0)), { multiboot: true }), '--json');
    expect(err).toContain('hello');
    const result = JSON.parse(out.trimEnd().split('\n').at(-1) ?? '');
    expect(result).toMatchObject({ ok: true, exit: 'ok', outcome: { kind: 'debug-exit', code: 0 } });
    expect(result.instructions).toBeGreaterThan(10);
  });

  test('the deterministic clock gives the same run twice', () => {
    const kernel = elf32(code([0x0f, 0x31], print('x\n'), exitWith(0)), { multiboot: true });
    const once = JSON.parse(run(kernel, '--json', '--clock', 'instructions').out);
    const again = JSON.parse(run(kernel, '--json', '--clock', 'instructions').out);
    expect(once).toEqual(again);
  });
});

describe('bad input', () => {
  test.each([
    ['no such kernel', ['--kernel', '/does/not/exist'], 2],
    ['a kernel that is no kernel', ['--kernel', cli], 2],
    ['a folder as kernel', ['--kernel', tmpdir()], 2],
    ['too little memory', ['--memory', '1M'], 2],
    ['an unknown back end', ['--net', 'carrier-pigeon'], 2],
    ['an unknown option', ['--no-such-option'], 2],
    ['a missing config file', ['--config', '/does/not/exist.json'], 2],
    ['a module without a manifest', ['--module', cli], 2],
    ['a socket that is not there', ['--net', 'stream:unix:/does/not/exist'], 1],
  ])('%s: a clear error, no stack trace', (_, options, expected) => {
    const path = join(folder, 'ok.elf');
    writeFileSync(path, elf32(code(HALT), { multiboot: true }));
    const result = spawnSync(process.execPath, [cli, 'run', '--kernel', path, ...options], { encoding: 'utf8', input: '' });
    expect(result.stderr).not.toMatch(/\n\s+at .*:\d+:\d+/);
    expect(result.stderr.length).toBeGreaterThan(10);
    expect(result.status).toBe(expected);
  });
});
