// Counts of undefined instructions by opcode, for finding out what a guest wanted. Read by the host side.
import { CODE_AREA } from './layout';
import { OP_CODE, OP_SIZE, OP_SUB } from './record';
import { cpu } from './state';

export const UNDEFINED_AT: usize = 256; // offset in the code area
export const UNDEFINED_MAX: u32 = 64; // entries of {u32 code, u32 count}; code: prefixes << 24 | map << 16 | opcode << 8 | ModRM

/** Counts the undefined instruction `op`; when the table is full, new kinds go uncounted. */
export function countUndefined(op: usize): void {
  if (load<u8>(op, OP_SIZE) != 0) return; // a row of the table: UD0, UD1, UD2, or LOCK where it is not allowed
  const sub = <u32>load<u16>(op, OP_SUB);
  const code = ((sub >> 8) << 24) | ((sub & 3) << 16) | load<u16>(op, OP_CODE);
  let entry: usize = load<u32>(cpu, CODE_AREA) + UNDEFINED_AT;
  for (let i: u32 = 0; i < UNDEFINED_MAX; i++, entry += 8) {
    const count = load<u32>(entry, 4);
    if (count != 0 && load<u32>(entry) != code) continue;
    store<u32>(entry, code);
    store<u32>(entry, count + 1, 4);
    return;
  }
}
