// Shifts and rotates of any size (SDM vol. 2: SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD).
import { carryFlags, cf, CF, OF, setSomeArith } from './flags';
import { beginModify, endModify, readRegister, signed, target, unsigned } from './operands';
import { OP_B, OP_REG } from './record';
import { cpu } from './state';

/** The operation is ModRM.reg: ROL ROR RCL RCR SHL SHR SAL SAR. */
export function rotateOrShift(op: usize, size: u32, rawCount: u32): void {
  const operation: u32 = load<u8>(op, OP_REG) & 7;
  const bits = size << 3;
  const count = rawCount & (size == 8 ? 63 : 31);
  const carryIn = cf();
  const la = target(op);
  while (true) {
    const a = beginModify(op, la, size);
    const r = operation < 2 ? rotated(a, count, bits, operation == 0)
      : operation < 4 ? rotatedThroughCarry(a, count, bits, carryIn, operation == 2) : shifted(a, count, size, operation);
    if (endModify(op, la, size, a, r)) {
      if (count != 0) shiftFlags(operation, a, r, count, size, carryIn);
      return;
    }
  }
}

function rotated(a: u64, count: u32, bits: u32, left: bool): u64 {
  let n = <u64>(count % bits);
  if (n == 0) return a;
  if (!left) n = bits - n;
  return unsigned((a << n) | (a >> (bits - n)), bits >> 3);
}

/** Carry of the last rotatedThroughCarry. */
let carryOut: u32 = 0;

function rotatedThroughCarry(a: u64, count: u32, bits: u32, carryIn: u32, left: bool): u64 {
  let value = a;
  let carry = <u64>carryIn;
  const top = <u64>bits - 1;
  const steps = count % (bits + 1);
  for (let i: u32 = 0; i < steps; i++) {
    if (left) {
      const out = (value >> top) & 1;
      value = unsigned((value << 1) | carry, bits >> 3);
      carry = out;
    } else {
      const out = value & 1;
      value = (value >> 1) | (carry << top);
      carry = out;
    }
  }
  carryOut = <u32>carry;
  return value;
}

/** Counts up to 63; WebAssembly takes shift counts modulo 64, and smaller operands lie zero- or sign-extended in 64 bits. */
function shifted(a: u64, count: u32, size: u32, operation: u32): u64 {
  const n = <u64>count;
  if (operation == 5) return a >> n;
  if (operation == 7) return unsigned(<u64>(signed(a, size) >> <i64>n), size);
  return unsigned(a << n, size);
}

function shiftFlags(operation: u32, a: u64, r: u64, count: u32, size: u32, carryIn: u32): void {
  const bits = size << 3;
  const top = <u64>bits - 1;
  const n = <u64>count;
  const high = <u32>(r >> top) & 1;
  if (operation < 4) {
    // Rotates leave SF, ZF, PF and AF.
    let carry: u32;
    let over: u32;
    if (operation == 0) {
      carry = <u32>r & 1;
      over = high ^ carry;
    } else if (operation == 1) {
      carry = high;
      over = high ^ (<u32>(r >> (top - 1)) & 1);
    } else {
      carry = carryOut;
      over = operation == 2 ? high ^ carry : high ^ (<u32>(r >> (top - 1)) & 1);
      if (count % (bits + 1) == 0) carry = carryIn;
    }
    setSomeArith(CF | OF, carry | (over ? OF : 0));
    return;
  }
  let carry: u64;
  let over: u64;
  if (operation == 5) {
    carry = (a >> (n - 1)) & 1;
    over = (a >> top) & 1;
  } else if (operation == 7) {
    carry = <u64>(signed(a, size) >> <i64>(n - 1)) & 1;
    over = 0;
  } else {
    carry = count > bits ? 0 : (a >> (bits - n)) & 1;
    over = <u64>high ^ carry;
  }
  carryFlags(cpu, carry, over, signed(r, size));
}

/** SHLD and SHRD. Counts beyond 16 with 16-bit operands are undefined; here the operands repeat, as processors do. */
export function shiftDouble(op: usize, size: u32, rawCount: u32, left: bool): void {
  const bits = <u64>size << 3;
  const n = <u64>(rawCount & (size == 8 ? 63 : 31));
  const b = readRegister(load<u32>(op, OP_B), size);
  const la = target(op);
  while (true) {
    const a = beginModify(op, la, size);
    let r = a;
    let carry: u64 = 0;
    if (n != 0) {
      if (size == 8) {
        r = left ? (a << n) | (b >> (64 - n)) : (a >> n) | (b << (64 - n));
        carry = left ? (a >> (64 - n)) & 1 : (a >> (n - 1)) & 1;
      } else if (size == 4) {
        const both = left ? (a << 32) | b : (b << 32) | a;
        r = left ? (both << n) >> 32 : (both >> n) & 0xffffffff;
        carry = left ? (both >> (64 - n)) & 1 : (both >> (n - 1)) & 1;
      } else {
        const all = left ? (a << 32) | (b << 16) | a : (a << 32) | (b << 16) | a; // 48 bits, so that counts up to 31 find bits
        r = left ? ((all << n) >> 32) & 0xffff : (all >> n) & 0xffff;
        carry = left ? (all >> (48 - n)) & 1 : (all >> (n - 1)) & 1;
      }
    }
    if (endModify(op, la, size, a, r)) {
      if (n != 0) carryFlags(cpu, carry, ((a ^ r) >> (bits - 1)) & 1, signed(r, size));
      return;
    }
  }
}
