// Effective addresses that are not flat 64-bit ones: 16- and 32-bit address sizes, segment bases and limits.
import { MODE } from './layout';
import { checkSegment, FS, segBase } from './segments';
import {
  EA_NEXT, EA_WRITE, eaFlat, OP_ASIZE, OP_EA, OP_LENGTH, OP_OFFSET, OP_SEG, OP_SIZE,
} from './record';
import { cpu } from './state';

/** The address mask of an address size in bytes. */
// @ts-ignore: decorator
@inline
export function addressMask(size: u32): u64 {
  return size == 8 ? u64.MAX_VALUE : size == 4 ? 0xffffffff : 0xffff;
}

/** The offset in its segment, before any check. */
export function offsetOf(op: usize): u64 {
  let offset = eaFlat(op);
  if (load<u8>(op, OP_EA) & EA_NEXT) offset += <u64>load<u16>(op, OP_OFFSET) + <u64>load<u8>(op, OP_LENGTH);
  return offset & addressMask(load<u8>(op, OP_ASIZE));
}

export function eaSlow(op: usize): u64 {
  return linear(load<u8>(op, OP_SEG), offsetOf(op), load<u8>(op, OP_SIZE), (load<u8>(op, OP_EA) & EA_WRITE) != 0);
}

/** Linear address of `size` bytes at `offset` in a segment, checked as the mode asks (SDM vol. 3, 5.3 and 5.5). */
export function linear(segment: u32, offset: u64, size: u32, write: bool): u64 {
  if (load<u32>(cpu, MODE) == 2) return segment >= FS ? offset + segBase(segment) : offset;
  checkSegment(segment, <u32>offset, size, write);
  return (segBase(segment) + offset) & 0xffffffff;
}
