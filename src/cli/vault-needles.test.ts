import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { CONTROL, masked, vaultNeedles } from './vault-needles.ts';

test('the states are those of SHA-256: the published one for a block of zeros', () => {
  // A key of 0x36 makes the inner block zeros; SHA-256's state after 64 zero bytes (as in the midstates that miners publish).
  const needles = vaultNeedles(new Uint8Array(64).fill(0x36));
  const state = Buffer.concat(needles.filter(({ name }) => name === 'inner state').map(({ bytes }) => bytes)).swap32();
  expect(state.toString('hex')).toBe('da5698be17b9b46962335799779fbeca8ce5d491c0d26243bafef9ea1837a9d8');
});

test('seven forms of the key in pieces of 16 bytes, none of them alike, masked ones neither', () => {
  const key = randomBytes(32);
  const needles = vaultNeedles(key);
  expect(needles).toHaveLength(14);
  const texts = [...needles, CONTROL]
    .flatMap((needle) => [needle.bytes, masked(needle)])
    .map((bytes) => Buffer.from(bytes).toString('hex'));
  expect(new Set(texts).size).toBe(30);
  expect(texts.every((text) => text.length === 32)).toBe(true);
  expect(Buffer.concat([needles[0].bytes, needles[1].bytes])).toEqual(key);
});
