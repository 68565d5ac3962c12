/**
 * What the peer's server sends: pseudo-random bytes that are a function of seed and position, so that any part can be made again for a
 * retransmission and nothing need be stored. The host knows the digest without a transfer.
 */
import { createHash } from 'node:crypto';

const CHUNK = 65536;
const words = new Uint32Array(CHUNK / 4 + 2);
const bytes = new Uint8Array(words.buffer);

/** Word number `index` of the stream: the 32-bit finalizer of MurmurHash3 over a Weyl sequence. */
function word(seed: number, index: number): number {
  let value = (Math.imul(index, 0x9e37_79b9) + seed) | 0;
  value = Math.imul(value ^ (value >>> 16), 0x85eb_ca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2_ae35);
  return value ^ (value >>> 16);
}

/** Writes stream bytes [position, position + length) into `target` at `at`. 0 <= position, position + length < 2^53; length <= 65536. */
export function fillContent(target: Uint8Array, at: number, seed: number, position: number, length: number): void {
  const skip = position % 4;
  // Beyond 2^32 words (16 GiB) the upper part of the index joins the seed, so that the stream does not repeat.
  const first = (position - skip) / 4;
  const count = (skip + length + 3) >>> 2;
  const low = first % 0x1_0000_0000;
  const high = (first - low) / 0x1_0000_0000;
  for (let i = 0; i < count; i++) {
    const index = low + i;
    words[i] = index < 0x1_0000_0000 ? word(seed + high, index) : word(seed + high + 1, index - 0x1_0000_0000);
  }
  target.set(bytes.subarray(skip, skip + length), at);
}

/** SHA-256 of the first `length` bytes for `seed`, in hexadecimal. */
export function contentSha256(length: number, seed: number): string {
  const hash = createHash('sha256');
  const chunk = new Uint8Array(CHUNK);
  for (let position = 0; position < length; position += CHUNK) {
    const part = Math.min(CHUNK, length - position);
    fillContent(chunk, 0, seed, position, part);
    hash.update(part === CHUNK ? chunk : chunk.subarray(0, part));
  }
  return hash.digest('hex');
}
