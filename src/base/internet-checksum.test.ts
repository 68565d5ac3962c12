import { expect, test } from 'vitest';
import { checksumAdd, checksumFinish, checksumFold } from './internet-checksum.ts';

/** RFC 1071, word by word. */
function plain(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += bytes[i] * 256 + (bytes[i + 1] ?? 0);
    sum = (sum & 0xffff) + (sum >>> 16);
  }
  return sum;
}

test('the example of RFC 1071', () => {
  const bytes = Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7);
  expect(checksumFold(checksumAdd(0, bytes, 0, 8))).toBe(0xddf2);
  expect(checksumFinish(checksumAdd(0, bytes, 0, 8))).toBe(0x220d);
});

test('every length and a largest packet agree with the plain sum', () => {
  const bytes = Uint8Array.from({ length: 65_535 }, (_, i) => (i * 31 + (i >> 5)) & 0xff);
  for (const length of [0, 1, 2, 7, 8, 9, 15, 16, 1459, 0x3fff, 0x4000, 0x4001, 0x4008, 65_535]) {
    expect([length, checksumFold(checksumAdd(0, bytes, 0, length))]).toEqual([length, plain(bytes.subarray(0, length))]);
  }
  expect(checksumFold(checksumAdd(0, new Uint8Array(65_535).fill(0xff), 0, 65_534))).toBe(0xffff);
});
