/** Hexadecimal text for people and JSON. */

/** `0x` and lower-case digits of an unsigned number, a signed linear address (as 64-bit two's complement) or a bigint. */
export function hex(value: number | bigint): string {
  const word = typeof value === 'bigint' ? value : Number.isInteger(value) ? BigInt(value) : undefined;
  if (word === undefined) return String(value);
  return `0x${(word < 0n ? BigInt.asUintN(64, word) : word).toString(16)}`;
}

/** Bytes as two digits each, no separator. */
export function hexBytes(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}
