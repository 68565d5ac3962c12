import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { UserError } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import { openUser } from './user.ts';

let folder = '';
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), 'user-'))));
afterEach(() => rmSync(folder, { recursive: true }));

function program(text: string): string {
  const path = join(folder, 'passt');
  writeFileSync(path, text);
  chmodSync(path, 0o755);
  return path;
}

test('frames go through the descriptor that passt is told of', async () => {
  // Stands for passt: sends back what comes on descriptor 3.
  const passt = program(`#!${process.execPath}
const { argv } = process;
if (argv[argv.indexOf('--fd') + 1] !== '3') process.exit(1);
const socket = new (require('node:net').Socket)({ fd: 3 });
socket.pipe(socket);
`);
  const backend = await openUser({ log: silentLog, passt });
  const got: Uint8Array[] = [];
  backend.receive = (frame) => got.push(frame) > 0;
  backend.send(new Uint8Array(60).fill(7));
  await vi.waitFor(() => expect(got).toEqual([new Uint8Array(60).fill(7)]), 10_000);
  backend.close();
});

test('a program that ends at once is named with what it said', async () => {
  const passt = program('#!/bin/sh\necho "no template interface" >&2\nexit 3\n');
  await expect(openUser({ log: silentLog, passt, settle: 30_000 })).rejects.toThrow(/code 3\. no template interface/);
});

test('a missing program names the package', async () => {
  const error = await openUser({ log: silentLog, passt: 'no-such-passt' }).catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(UserError);
  expect((error as UserError).fix).toContain('passt');
});
