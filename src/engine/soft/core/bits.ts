// BT, BTS, BTR, BTC (SDM vol. 2). ZF stays; CF is the bit; the other flags are undefined.
import { addressMask, linear, offsetOf } from './address';
import { keepZeroSetCarry } from './flags';
import { beginModify, endModify, readFirst, readMemory, readRegister, signed, target } from './operands';
import { ea, OP_ASIZE, OP_B, OP_EA, OP_SEG } from './record';
import { cpu } from './state';

const BT: u32 = 0;
const BTS: u32 = 1;
const BTR: u32 = 2;

function changed(operation: u32, value: u64, bit: u64): u64 {
  return operation == BTS ? value | bit : operation == BTR ? value & ~bit : value ^ bit;
}

/** The bit index is taken modulo the operand size. */
export function bitTest(op: usize, size: u32, index: u64, operation: u32): void {
  const n = index & ((<u64>size << 3) - 1);
  if (operation == BT) keepZeroSetCarry(cpu, (readFirst(op, size) >> n) & 1);
  else modify(op, target(op), size, n, operation);
}

/** A register index reaches beyond the memory operand: it selects the word of `size` bytes at EA + size * (index div bits). */
export function bitTestMemory(op: usize, size: u32, operation: u32): void {
  const bits = <i64>size << 3;
  const index = signed(readRegister(load<u32>(op, OP_B), size), size);
  const step = <u64>((index >> <i64>ctz<u64>(bits)) * <i64>size);
  const n = <u64>index & <u64>(bits - 1);
  const la = load<u8>(op, OP_EA) == 0 ? ea(op) + step
    : linear(load<u8>(op, OP_SEG), (offsetOf(op) + step) & addressMask(load<u8>(op, OP_ASIZE)), size, operation != BT);
  if (operation == BT) keepZeroSetCarry(cpu, (readMemory(la, size) >> n) & 1);
  else modify(op, la, size, n, operation);
}

function modify(op: usize, la: u64, size: u32, n: u64, operation: u32): void {
  while (true) {
    const a = beginModify(op, la, size);
    if (endModify(op, la, size, a, changed(operation, a, (<u64>1) << n))) {
      keepZeroSetCarry(cpu, (a >> n) & 1);
      return;
    }
  }
}
