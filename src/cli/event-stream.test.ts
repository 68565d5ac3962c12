/** What `--events` writes is a chain, also over runs appended to one file; `audit verify` reads it back. */
import { appendFileSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { LINE_LIMIT } from '../policy/audit-chain.ts';
import { readChain } from './audit.ts';
import { openEventStream } from './event-stream.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'events-'));
  path = join(folder, 'events.ndjson');
});
afterEach(() => rmSync(folder, { recursive: true }));

async function run(where = path, events = 3): Promise<void> {
  const stream = openEventStream(where);
  for (let index = 0; index < events; index++) stream.write({ event: 'guard.violation', count: index });
  await stream.close();
}

test('runs appended to one file are one chain', async () => {
  await run();
  await run();
  await run(`fd:${openSync(path, 'a')}`);
  expect(readChain(path)).toMatchObject({ lines: 15, runs: 3, events: 9, ended: true, findings: [] });
});

test('a run after one that was killed in the middle of a line says so', async () => {
  await run();
  truncateSync(path, readFileSync(path).length - 20);
  expect(readChain(path).findings).toEqual([{ line: 5, problem: 'is cut off' }]);
  await run();
  expect(readChain(path)).toMatchObject({
    lines: 10,
    ended: true,
    findings: [{ line: 5, problem: expect.stringContaining('is no event') }],
  });
});

test('a log of more than one piece, with a line across the border of two', async () => {
  const stream = openEventStream(path);
  for (let index = 0; index < 30; index++) stream.write({ event: 'x', detail: 'y'.repeat(100_000) });
  await stream.close();
  expect(readChain(path)).toMatchObject({ events: 30, ended: true, findings: [] });
});

test('an endless line is refused', () => {
  writeFileSync(path, Buffer.alloc(3 * LINE_LIMIT, 0x20));
  expect(() => readChain(path)).toThrow('more than');
});

test('one changed letter in a log is found', async () => {
  await run();
  const text = readFileSync(path, 'utf8');
  writeFileSync(path, text.replace('"count":1', '"count":2'));
  expect(readChain(path).findings.map(({ line }) => line)).toEqual([4]);
  appendFileSync(path, '\n');
  expect(readChain(path).findings.at(-1)).toEqual({ line: 6, problem: expect.stringContaining('is no event') });
});
