/** Bounds-checked little-endian access to a file's bytes. Everything outside the file is a UserError that says what lay where. */

import { UserError } from '../base/errors.ts';
import { hex } from '../base/hex.ts';

/** Files above this are refused: no kernel module or kernel image comes near it. */
export const MAX_FILE_SIZE = 512 * 1024 * 1024;
/** Longest name accepted. The kernel's own limit (KSYM_NAME_LEN) is 512. */
const MAX_NAME_LENGTH = 4096;

export class Reader {
  private readonly view: DataView;

  /** `file` is the name used in messages. */
  constructor(
    readonly bytes: Uint8Array,
    readonly file: string,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length > MAX_FILE_SIZE) this.fail(`is ${bytes.length} bytes; at most ${MAX_FILE_SIZE} are accepted`);
  }

  fail(message: string, fix?: string): never {
    throw new UserError(`${this.file}: ${message}`, fix);
  }

  /** Throws unless [at, at + length) lies in the file. */
  need(at: number, length: number, what: string): void {
    if (at >= 0 && length >= 0 && at + length <= this.bytes.length) return;
    this.fail(
      `${what} lies at ${hex(at)}, ${length} bytes long, but the file has ${this.bytes.length} bytes`,
      'the file is truncated or damaged: get it again',
    );
  }

  slice(at: number, length: number, what: string): Uint8Array {
    this.need(at, length, what);
    return this.bytes.subarray(at, at + length);
  }

  u8(at: number): number {
    return this.view.getUint8(at);
  }
  u16(at: number): number {
    return this.view.getUint16(at, true);
  }
  u32(at: number): number {
    return this.view.getUint32(at, true);
  }
  u64(at: number): bigint {
    return this.view.getBigUint64(at, true);
  }

  /** An unsigned 64-bit field that must be small enough to be a number (offsets, sizes, values). */
  word(at: number, what: string): number {
    const high = this.view.getUint32(at + 4, true);
    if (high > 0x1f_ffff) this.fail(`${what} is ${hex(this.u64(at))}, which is out of range`);
    return high * 0x1_0000_0000 + this.view.getUint32(at, true);
  }

  /** A signed 64-bit field that must be a safe integer (addends). */
  signedWord(at: number, what: string): number {
    const value = this.view.getInt32(at + 4, true) * 0x1_0000_0000 + this.view.getUint32(at, true);
    if (!Number.isSafeInteger(value)) this.fail(`${what} is ${hex(this.u64(at))}, which is out of range`);
    return value;
  }
}

/** The NUL-ended string at `offset` in a string table. `fail` throws. */
export function stringAt(table: Uint8Array, offset: number, fail: (message: string) => never): string {
  if (offset >= table.length) fail(`a name lies at ${hex(offset)} of a string table of ${table.length} bytes`);
  const end = table.subarray(offset, offset + MAX_NAME_LENGTH + 1).indexOf(0);
  if (end < 0) fail(`the name at ${hex(offset)} of a string table has no end within ${MAX_NAME_LENGTH} bytes`);
  return Buffer.from(table.buffer, table.byteOffset + offset, end).toString('latin1');
}
