/** What `--events` writes is a chain, also over runs appended to one file; `audit verify` reads it back. */
import { execFileSync, spawn } from 'node:child_process';
import { appendFileSync, closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { EventTarget } from './event-target.ts';
import { LINE_LIMIT } from '../policy/audit-chain.ts';
import { readChain } from './audit.ts';
import { type EventsLost, openEventStream } from './event-stream.ts';

let folder: string;
let path: string;
beforeEach(() => {
  asked = [];
  folder = mkdtempSync(join(tmpdir(), 'events-'));
  path = join(folder, 'events.ndjson');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** What the log asked of the machine. */
let asked: string[];
const open = (where: string, policy: EventsLost = 'hold') =>
  openEventStream(where, { policy, hold: (on) => asked.push(on ? 'hold' : 'go on'), stop: () => asked.push('stop') });

async function run(where = path, events = 3): Promise<void> {
  const stream = open(where);
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
  expect(readChain(path).findings).toEqual([{ line: 5, kind: 'cut', problem: expect.stringContaining('is cut off') }]);
  await run();
  expect(readChain(path)).toMatchObject({
    lines: 10,
    ended: true,
    findings: [{ line: 5, kind: 'no-event', problem: expect.stringContaining('is no event') }],
  });
});

test('a log of more than one piece, with a line across the border of two', async () => {
  const stream = open(path);
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
  expect(readChain(path).findings.at(-1)).toEqual({ line: 6, kind: 'no-event', problem: expect.stringContaining('is no event') });
});

describe('when the log cannot be written', () => {
  /** A disk with room for so many bytes, which may grow. */
  function disk(room: number) {
    let written = '';
    const target: EventTarget = {
      write(bytes) {
        const taken = Math.min(bytes.length, room - written.length);
        written += bytes.subarray(0, taken).toString();
        return { taken, reason: taken < bytes.length ? 'no space left on device' : '' };
      },
      ready() {},
      gone() {},
      close: async () => {},
    };
    const grow = (by: number) => {
      room += by;
      target.ready();
    };
    const read = () => {
      writeFileSync(path, written);
      return readChain(path);
    };
    return { target, grow, read };
  }
  const start = (policy: EventsLost, room: number) => {
    const { target, grow, read } = disk(room);
    const stream = openEventStream(
      'disk',
      { policy, hold: (on) => asked.push(on ? 'hold' : 'go on'), stop: () => asked.push('stop') },
      { target },
    );
    const write = (count: number) => {
      for (let index = 0; index < count; index++) stream.write({ event: 'guard.violation', count: index });
    };
    return { stream, grow, read, write };
  };

  test('hold: the machine waits until there is room, also in the middle of a line, and nothing is lost', async () => {
    const { stream, grow, read, write } = start('hold', 1000);
    write(20);
    expect(asked).toEqual(['hold']);
    grow(500);
    expect(asked).toEqual(['hold']);
    grow(100_000);
    expect(asked).toEqual(['hold', 'go on']);
    write(5);
    expect(await stream.close()).toEqual({ lost: 0 });
    expect(read()).toMatchObject({ events: 25, ended: true, findings: [] });
  });

  test('hold, and the machine ends before there is room: what is lost is counted', async () => {
    const { stream, read, write } = start('hold', 1000);
    write(20);
    const { lost } = await stream.close();
    const { events, ended, findings } = read();
    expect(lost + events).toBe(20);
    expect(ended).toBe(false);
    expect(findings.map(({ kind }) => kind)).toEqual(['cut']);
  });

  test('stop: the machine is stopped once', async () => {
    const { stream, write } = start('stop', 1000);
    write(20);
    expect(asked).toEqual(['stop']);
    expect((await stream.close()).lost).toBeGreaterThan(0);
  });

  test('continue: what is lost is said in the log, where it is missing', async () => {
    const { stream, grow, read, write } = start('continue', 1000);
    write(5000);
    expect(asked).toEqual([]);
    grow(1e6);
    write(3);
    const { lost } = await stream.close();
    const { events, ended, findings } = read();
    expect(ended).toBe(true);
    expect(findings).toEqual([{ line: expect.any(Number), kind: 'lost', problem: expect.stringContaining(`${lost} events were lost`) }]);
    expect(events - 1 + lost).toBe(5003);
  });

  test('a log that cannot even begin is an error, but for continue', async () => {
    expect(() => start('hold', 10)).toThrow('no space left');
    expect(() => start('stop', 10)).toThrow('no space left');
    expect(() => open('/dev/full')).toThrow(/ENOSPC/);
    const stream = open('/dev/full', 'continue');
    stream.write({ event: 'x' });
    expect((await stream.close()).lost).toBeGreaterThan(0);
  });

  test('a reader that leaves stops the machine, but for continue', async () => {
    for (const [policy, expected] of [
      ['hold', ['stop', 'go on']],
      ['continue', ['go on']],
    ] as const) {
      asked = [];
      const fifo = join(folder, `fifo-${policy}`);
      execFileSync('mkfifo', [fifo]);
      const reader = spawn('head', ['-n', '2', fifo], { stdio: 'ignore' });
      const left = new Promise((resolve) => reader.on('exit', resolve));
      const stream = await vi.waitFor(() => open(fifo, policy), { timeout: 20_000 });
      for (let index = 0; index < 3; index++) stream.write({ event: 'x' });
      await left;
      await vi.waitFor(() => {
        stream.write({ event: 'x' });
        expect(asked).toEqual(expected);
      });
      stream.write({ event: 'x' });
      expect((await stream.close()).lost).toBeGreaterThan(0);
    }
  });

  test('a reader that stalls holds the machine, and gets everything when it goes on', async () => {
    const fifo = join(folder, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    const stream = open(fifo);
    const detail = 'y'.repeat(100_000);
    for (let index = 0; index < 100; index++) stream.write({ event: 'x', detail });
    expect(asked).toEqual(['hold']);
    const copy = spawn('cat', [], { stdio: [reader, openSync(path, 'w'), 'inherit'] });
    await vi.waitFor(() => expect(asked).toEqual(['hold', 'go on']), { timeout: 20_000 });
    expect(await stream.close()).toEqual({ lost: 0 });
    closeSync(reader);
    await new Promise((resolve) => copy.on('exit', resolve));
    expect(readChain(path)).toMatchObject({ events: 100, ended: true, findings: [] });
  });
});
