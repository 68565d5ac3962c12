import { spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest';
import { UserError } from '../base/errors.ts';
import { openEventStream } from './event-stream.ts';

const folder = mkdtempSync(join(tmpdir(), 'events-'));
const path = (name: string) => join(folder, name);
afterAll(() => rmSync(folder, { recursive: true }));
let said: string;
beforeEach(() => {
  said = '';
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    said += text;
    return true;
  });
});
afterEach(() => { vi.restoreAllMocks(); });

test('a file gets one line an event, and is added to', async () => {
  for (const count of [1, 2]) {
    const stream = openEventStream(path('log'));
    stream.write({ event: 'x', count });
    expect(readFileSync(path('log'), 'utf8').trimEnd().split('\n')).toHaveLength(count); // at once, not at close
    await stream.close();
  }
  expect(readFileSync(path('log'), 'utf8')).toBe('{"event":"x","count":1}\n{"event":"x","count":2}\n');
});

test('fd:N is a descriptor that was given', async () => {
  const fd = openSync(path('given'), 'w');
  const stream = openEventStream(`fd:${fd}`);
  stream.write({ event: 'x' });
  await stream.close();
  expect(readFileSync(path('given'), 'utf8')).toBe('{"event":"x"}\n');
  expect(() => closeSync(fd)).toThrow(/EBADF/); // closed with the stream
});

test.each([['a folder that is not there', '/does/not/exist/log'], ['a closed descriptor', 'fd:4000'], ['no descriptor at all', 'fd:99999999999'], ['a folder', folder]])('%s is a UserError', (_, where) => {
  expect(() => openEventStream(where)).toThrow(UserError);
});

test('a named pipe that nobody reads is an error, not a hang', () => {
  expect(spawnSync('mkfifo', [path('unread')]).status).toBe(0);
  expect(() => openEventStream(path('unread'))).toThrow(/nobody reads/);
});

test('a full disk ends the stream with one message', async () => {
  const stream = openEventStream('/dev/full');
  stream.write({ event: 'x' });
  stream.write({ event: 'y' });
  await stream.close();
  expect(said.match(/ENOSPC/g)).toHaveLength(1);
});

test('a reader that does not keep up loses events, and is told so once; memory stays bounded', async () => {
  expect(spawnSync('mkfifo', [path('slow')]).status).toBe(0);
  const reader = spawn('sh', ['-c', `exec 3< "${path('slow')}"; echo open; sleep 60`], { stdio: ['ignore', 'pipe', 'ignore'] });
  const opened = new Promise((resolve) => reader.stdout.once('data', resolve));
  // The reader's open waits for a writer, and ours fails without a reader: a writer for both stands in.
  const both = openSync(path('slow'), 'r+');
  await opened;
  const stream = openEventStream(path('slow'));
  closeSync(both);
  const event = { event: 'x', text: 'x'.repeat(1 << 16) };
  for (let count = 0; count < 300; count++) stream.write(event);
  expect(said.match(/not read fast enough/g)).toHaveLength(1);
  await stream.close(); // gives up after its limit
  reader.kill();
});

test('a reader that goes away ends the stream with one message', async () => {
  expect(spawnSync('mkfifo', [path('gone')]).status).toBe(0);
  const both = openSync(path('gone'), 'r+');
  const stream = openEventStream(path('gone'));
  closeSync(both);
  stream.write({ event: 'x' });
  await vi.waitFor(() => expect(said).toMatch(/EPIPE/));
  stream.write({ event: 'y' });
  await stream.close();
  expect(said.match(/ended/g)).toHaveLength(1);
});
