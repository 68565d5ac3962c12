// Operands of any size for the handlers that are not specialised. Values are zero-extended to 64 bits.
import { OP_A, OP_B, OP_MOD, OP_PREFIX, ea, PREFIX_LOCK } from './record';
import { rd16, rd32, rd64, rd8, rmw16, rmw32, rmw64, rmw8, wr16, wr32, wr64, wr8 } from './memory';
import { replace } from './atomics';

// @ts-ignore: decorator
@inline
export function signed(value: u64, size: u32): i64 {
  const shift = <i64>(64 - (size << 3));
  return (<i64>value << shift) >> shift;
}

// @ts-ignore: decorator
@inline
export function unsigned(value: u64, size: u32): u64 {
  return size == 8 ? value : value & (((<u64>1) << (<u64>size << 3)) - 1);
}

export function readRegister(address: usize, size: u32): u64 {
  if (size == 8) return load<u64>(address);
  if (size == 4) return load<u32>(address);
  if (size == 2) return load<u16>(address);
  return load<u8>(address);
}

/** A 32-bit write clears the upper half (SDM vol. 1, 3.4.1.1). */
export function writeRegister(address: usize, size: u32, value: u64): void {
  if (size == 8) store<u64>(address, value);
  else if (size == 4) store<u64>(address, value & 0xffffffff);
  else if (size == 2) store<u16>(address, <u16>value);
  else store<u8>(address, <u8>value);
}

export function readMemory(la: u64, size: u32): u64 {
  if (size == 8) return rd64(la);
  if (size == 4) return rd32(la);
  if (size == 2) return rd16(la);
  return rd8(la);
}

/** For read-modify-write: faults as a write. */
export function modifyMemory(la: u64, size: u32): u64 {
  if (size == 8) return rmw64(la);
  if (size == 4) return rmw32(la);
  if (size == 2) return rmw16(la);
  return rmw8(la);
}

export function writeMemory(la: u64, size: u32, value: u64): void {
  if (size == 8) wr64(la, value);
  else if (size == 4) wr32(la, <u32>value);
  else if (size == 2) wr16(la, <u32>value);
  else wr8(la, <u32>value);
}

/** The first operand, which may be in memory. */
export function readFirst(op: usize, size: u32): u64 {
  return load<u8>(op, OP_MOD) ? readMemory(ea(op), size) : readRegister(load<u32>(op, OP_A), size);
}

/** The second operand, which may be in memory. */
export function readSecond(op: usize, size: u32): u64 {
  return load<u8>(op, OP_MOD) ? readMemory(ea(op), size) : readRegister(load<u32>(op, OP_B), size);
}

/** Writes the first operand without having read it. */
export function writeFirst(op: usize, size: u32, value: u64): void {
  if (load<u8>(op, OP_MOD)) writeMemory(ea(op), size, value);
  else writeRegister(load<u32>(op, OP_A), size, value);
}

// A read-modify-write of the first operand: `la = target(op)`, then { `old = beginModify(op, la, size)`, compute } until `endModify(...)`.
// It only repeats under LOCK, when another CPU wrote in between.

export function target(op: usize): u64 {
  return load<u8>(op, OP_MOD) ? ea(op) : 0;
}

export function beginModify(op: usize, la: u64, size: u32): u64 {
  return load<u8>(op, OP_MOD) ? modifyMemory(la, size) : readRegister(load<u32>(op, OP_A), size);
}

export function endModify(op: usize, la: u64, size: u32, old: u64, value: u64): bool {
  if (!load<u8>(op, OP_MOD)) {
    writeRegister(load<u32>(op, OP_A), size, value);
    return true;
  }
  if (load<u16>(op, OP_PREFIX) & PREFIX_LOCK) return replace(la, size, old, value);
  writeMemory(la, size, value);
  return true;
}
