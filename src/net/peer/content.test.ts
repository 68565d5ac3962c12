import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { contentSha256, fillContent } from './content.ts';

test('any cut of the stream gives the same bytes', () => {
  const whole = new Uint8Array(10_000);
  fillContent(whole, 0, 5, 0, whole.length);
  for (const [position, length] of [
    [0, 1],
    [1, 1],
    [3, 5],
    [4, 4],
    [1459, 1460],
    [9999, 1],
  ]) {
    const part = new Uint8Array(length + 2);
    fillContent(part, 1, 5, position, length);
    expect(part.subarray(1, -1)).toEqual(whole.subarray(position, position + length));
    expect([part[0], part[length + 1]]).toEqual([0, 0]);
  }
});

test('the digest is that of the bytes, and seeds differ', () => {
  const bytes = new Uint8Array(65_536 + 17);
  fillContent(bytes, 0, 9, 0, 65_536);
  fillContent(bytes, 65_536, 9, 65_536, 17);
  expect(contentSha256(bytes.length, 9)).toBe(createHash('sha256').update(bytes).digest('hex'));
  expect(contentSha256(100, 1)).not.toBe(contentSha256(100, 2));
});

test('it does not repeat beyond 16 GiB', () => {
  const first = new Uint8Array(64);
  const later = new Uint8Array(64);
  fillContent(first, 0, 1, 0, 64);
  fillContent(later, 0, 1, 2 ** 34, 64);
  expect(later).not.toEqual(first);
});
