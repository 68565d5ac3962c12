/**
 * The Internet checksum (RFC 1071), in base because both the network card (offload) and the host side of the network
 * need it, and neither may import the other. Sums are kept as plain numbers: 64 KiB of 0xffff words stay far below 2^53.
 */

/** Adds the big-endian 16-bit words of bytes[start, end) to `sum`; an odd last byte counts as the high half of a word. Not folded. */
export function checksumAdd(sum: number, bytes: Uint8Array, start: number, end: number): number {
  let i = start;
  // Eight bytes a turn, high and low bytes apart: 16 KiB of either stay within a 32-bit integer, which V8 adds fastest.
  while (end - i >= 8) {
    const stop = Math.min(end - 7, i + 0x4000);
    let high = 0;
    let low = 0;
    for (; i < stop; i += 8) {
      high += bytes[i] + bytes[i + 2] + bytes[i + 4] + bytes[i + 6];
      low += bytes[i + 1] + bytes[i + 3] + bytes[i + 5] + bytes[i + 7];
    }
    sum += high * 256 + low;
  }
  for (; i + 1 < end; i += 2) sum += bytes[i] * 256 + bytes[i + 1];
  return i < end ? sum + bytes[i] * 256 : sum;
}

/** Folds a sum into 16 bits by end-around carry. 0xffff means that data with a valid checksum was summed. */
export function checksumFold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded % 0x10000) + Math.floor(folded / 0x10000);
  return folded;
}

/** The value for a checksum field: the ones' complement of the folded sum. */
export function checksumFinish(sum: number): number {
  return ~checksumFold(sum) & 0xffff;
}
