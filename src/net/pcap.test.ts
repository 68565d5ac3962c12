import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { createLog, silentLog } from '../base/log.ts';
import type { NetworkBackend } from './ports.ts';
import { withPcap } from './pcap.ts';

let folder = '';
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), 'pcap-'))));
afterEach(() => rmSync(folder, { recursive: true }));

function wire() {
  const sent: Uint8Array[] = [];
  const backend: NetworkBackend = { send: (frame) => void sent.push(frame), receive: () => true, ready: () => {}, close: () => {} };
  return { sent, backend };
}

test('both directions are in the file, refused frames once', () => {
  const path = join(folder, 'out.pcap');
  const { backend, sent } = wire();
  let now = 1_500_000_007;
  const capture = withPcap(backend, { to: path, log: silentLog, now: () => now });
  let room = false;
  capture.receive = () => room;
  capture.send(new Uint8Array(60).fill(1));
  now = 2_000_000_001;
  const frame = new Uint8Array(14).fill(2);
  expect(backend.receive(frame)).toBe(false);
  room = true;
  expect(backend.receive(frame)).toBe(true);
  capture.close();
  expect(sent).toHaveLength(1);
  const file = readFileSync(path);
  expect(file.length).toBe(24 + 16 + 60 + 16 + 14);
  expect([file.readUInt32LE(0), file.readUInt16LE(4), file.readUInt16LE(6), file.readUInt32LE(20)]).toEqual([0xa1b23c4d, 2, 4, 1]);
  expect([0, 4, 8, 12].map((at) => file.readUInt32LE(24 + at))).toEqual([1, 500_000_007, 60, 60]);
  expect([0, 4, 8, 12].map((at) => file.readUInt32LE(100 + at))).toEqual([2, 1, 14, 14]);
  expect(file.subarray(116)).toEqual(Buffer.alloc(14, 2));
});

test('many frames, each of the largest size, are all there', () => {
  const path = join(folder, 'big.pcap');
  const capture = withPcap(wire().backend, { to: path, log: silentLog, now: () => 0 });
  for (let i = 0; i < 40; i++) capture.send(new Uint8Array(65535).fill(i));
  capture.close();
  expect(readFileSync(path).length).toBe(24 + 40 * (16 + 65535));
});

test.skipIf(!existsSync('/dev/full'))('a full disk ends the capture with one warning, and the network goes on', () => {
  const warnings: string[] = [];
  const { backend, sent } = wire();
  const capture = withPcap(backend, {
    to: openSync('/dev/full', 'w'),
    log: createLog('net', (record) => warnings.push(record.message)),
    now: () => 0,
  });
  for (let i = 0; i < 200; i++) capture.send(new Uint8Array(1500));
  capture.close();
  expect(sent).toHaveLength(200);
  expect(warnings).toHaveLength(1);
  expect(capture.statistics().missed).toBeGreaterThan(100);
});

test('a path that cannot be written is a user error', () => {
  expect(() => withPcap(wire().backend, { to: join(folder, 'no', 'such'), log: silentLog, now: () => 0 })).toThrow(UserError);
});
