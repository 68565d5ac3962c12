import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { buildCpio } from './cpio.ts';

const archive = buildCpio([
  { kind: 'file', path: 'a/b/text', mode: 0o755, data: Buffer.from('hello') },
  { kind: 'link', path: 'a/link', target: 'b/text' },
  { kind: 'folder', path: 'empty' },
  { kind: 'file', path: 'odd', data: Buffer.from('1') },
]);

test('every header begins at a multiple of four and the archive ends with the trailer', () => {
  let at = 0;
  const names: string[] = [];
  for (;;) {
    expect(at % 4).toBe(0);
    const header = Buffer.from(archive.subarray(at, at + 110)).toString('latin1');
    expect(header.slice(0, 6)).toBe('070701');
    const size = Number.parseInt(header.slice(54, 62), 16);
    const nameSize = Number.parseInt(header.slice(94, 102), 16);
    const name = Buffer.from(archive.subarray(at + 110, at + 110 + nameSize - 1)).toString();
    names.push(name);
    if (name === 'TRAILER!!!') break;
    const data = (at + 110 + nameSize + 3) & ~3;
    at = (data + size + 3) & ~3;
  }
  expect(names).toEqual(['a', 'a/b', 'a/b/text', 'a/link', 'empty', 'odd', 'TRAILER!!!']);
});

test('parents are added once, and the same input gives the same bytes', () => {
  const entries = [{ kind: 'file', path: 'x/y', data: new Uint8Array(3) }] as const;
  expect(Buffer.compare(buildCpio(entries), buildCpio(entries))).toBe(0);
});

const cpio = spawnSync('cpio', ['--version']);
test.skipIf(cpio.error !== undefined)('the cpio tool unpacks it (skipped where it is not installed)', () => {
  const folder = mkdtempSync(join(tmpdir(), 'cpio-'));
  try {
    expect(spawnSync('cpio', ['-idm', '--quiet'], { cwd: folder, input: archive }).status).toBe(0);
    expect(readFileSync(join(folder, 'a/b/text'), 'utf8')).toBe('hello');
    expect(statSync(join(folder, 'a/b/text')).mode & 0o777).toBe(0o755);
    expect(readlinkSync(join(folder, 'a/link'))).toBe('b/text');
  } finally {
    rmSync(folder, { recursive: true });
  }
});
