/**
 * What the vault's secret looks like in memory, in every form that HMAC-SHA-256 gives it: the key, the key blocks, their words as the message schedule
 * holds them, and the hash states after them, each of which would do to forge signatures. In pieces of 16 bytes, so that a part is found too.
 */
import { createHash } from 'node:crypto';

export interface Needle {
  name: string;
  bytes: Uint8Array;
}

const BLOCK = 64;
const PIECE = 16;
const MASK = 0xa5;

/** `key` has 32 to 64 bytes. */
export function vaultNeedles(key: Uint8Array): Needle[] {
  const padded = (pad: number) => Uint8Array.from({ length: BLOCK }, (_, index) => (key[index] ?? 0) ^ pad);
  const [inner, outer] = [padded(0x36), padded(0x5c)];
  const shown: [string, Uint8Array][] = [
    ['key', key.subarray(0, 32)],
    ['inner key block', inner.subarray(0, 32)],
    ['outer key block', outer.subarray(0, 32)],
    ['inner schedule', swapped(inner).subarray(0, 32)],
    ['outer schedule', swapped(outer).subarray(0, 32)],
    ['inner state', swapped(stateAfter(inner))],
    ['outer state', swapped(stateAfter(outer))],
  ];
  return shown.flatMap(([name, bytes]) =>
    Array.from({ length: bytes.length / PIECE }, (_, index) => ({ name, bytes: bytes.slice(index * PIECE, (index + 1) * PIECE) })),
  );
}

/** As modules/attacks/search.h wants it: so that looking for it does not put it into memory. */
export const masked = ({ bytes }: Needle): Uint8Array => bytes.map((byte) => byte ^ MASK);

/** Big-endian words as a little-endian processor stores them. */
const swapped = (bytes: Uint8Array) => Uint8Array.from(Buffer.from(bytes).swap32());

/** The hash state after one block: SHA-256's compression function on its initial state (FIPS 180-4, 6.2.2), big-endian. */
function stateAfter(block: Uint8Array): Uint8Array {
  const schedule = new Uint32Array(64);
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength);
  const rotate = (word: number, by: number) => (word >>> by) | (word << (32 - by));
  for (let t = 0; t < 64; t++) {
    if (t < 16) schedule[t] = view.getUint32(4 * t);
    else {
      const [x, y] = [schedule[t - 15], schedule[t - 2]];
      schedule[t] =
        schedule[t - 16] + schedule[t - 7] + (rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3)) + (rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10));
    }
  }
  const { constants, initial } = constantsOfSha256();
  const state = Uint32Array.from(initial);
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t++) {
    const one = (h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + constants[t] + schedule[t]) | 0;
    const two = ((rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [a, b, c, d, e, f, g, h] = [(one + two) | 0, a, b, c, (d + one) | 0, e, f, g];
  }
  const out = Buffer.alloc(32);
  for (const [index, word] of [a, b, c, d, e, f, g, h].entries()) out.writeUInt32BE((initial[index] + word) >>> 0, 4 * index);
  return out;
}

/** FIPS 180-4, 4.2.2 and 5.3.3: the first 32 bits of the fractions of the roots of the first primes. */
function constantsOfSha256(): { constants: number[]; initial: number[] } {
  const primes: bigint[] = [];
  for (let n = 2n; primes.length < 64; n++) if (primes.every((prime) => n % prime !== 0n)) primes.push(n);
  // Integer roots of p * 2^(32 k): exact, where floating point would lose the last bits.
  const root = (value: bigint, degree: bigint) => {
    let low = 0n;
    let high = 1n << 48n;
    while (high - low > 1n) {
      const middle = (low + high) / 2n;
      if (middle ** degree <= value) low = middle;
      else high = middle;
    }
    return Number(low & 0xffff_ffffn);
  };
  return { constants: primes.map((prime) => root(prime << 96n, 3n)), initial: primes.slice(0, 8).map((prime) => root(prime << 64n, 2n)) };
}

/** 16 bytes that everyone may find: a search that misses them proves nothing. */
export const CONTROL: Needle = {
  name: 'control',
  bytes: createHash('sha256').update('portcullis vault control').digest().subarray(0, PIECE),
};
