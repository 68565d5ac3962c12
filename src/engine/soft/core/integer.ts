// General-purpose instructions in any operand size, address size and mode: what the interpreter's fast handlers do not cover. The
// constants are the handler names of isa/integer.ts.
import * as H from './generated/integer';
import { linear, offsetOf } from './address';
import { GPR, MODE, RFLAGS } from './layout';
import { foundHigh, foundLow, replace, replace16 } from './atomics';
import { bitTest, bitTestMemory } from './bits';
import { fault, faultCode } from './events';
import {
  AF, arithmeticFlags, carryFlags, CF, cf, cond, FLAGS_ADC, FLAGS_ADD, FLAGS_DEC, FLAGS_INC, FLAGS_SBB, FLAGS_SUB, getArith, logicFlags,
  PF, setArith,
  setSomeArith, SF, ZF,
} from './flags';
import { divide128, highProduct, highProductSigned, remainder128 } from './multiply';
import {
  beginModify, endModify, modifyMemory, readFirst, readMemory, readRegister, readSecond, signed, target, unsigned, writeFirst,
  writeMemory, writeRegister,
} from './operands';
import { rmw64, wr64 } from './memory';
import { execStack } from './pushpop';
import { ea, OP_A, OP_ASIZE, OP_B, OP_CODE, OP_IMM, OP_MOD, OP_PREFIX, OP_REG, OP_SEG, OP_SIZE, PREFIX_66, PREFIX_LOCK, PREFIX_REXW } from './record';
import { rotateOrShift, shiftDouble } from './shifts';
import { cpu } from './state';

export { productOverflows } from './multiply';

const RAX = GPR;
const RCX = GPR + 8;
const RDX = GPR + 16;
const RBX = GPR + 24;
const DF: u64 = 0x400;

export function execInteger(op: usize): void {
  const size: u32 = load<u8>(op, OP_SIZE);
  switch (load<u16>(op, 2)) {
    case H.ALU_E_G: aluFirst(op, size, readRegister(load<u32>(op, OP_B), size), (load<u16>(op, OP_CODE) >> 11) & 7); break;
    case H.ALU_E_I: aluFirst(op, size, unsigned(load<u64>(op, OP_IMM), size), load<u8>(op, OP_REG) & 7); break;
    case H.ALU_G_E: aluRegister(op, size, readSecond(op, size)); break;
    case H.ALU_A_I: aluRegister(op, size, unsigned(load<u64>(op, OP_IMM), size)); break;
    case H.TEST_E_G: logicFlags(cpu, signed(readFirst(op, size) & readRegister(load<u32>(op, OP_B), size), size)); break;
    case H.TEST_E_I: logicFlags(cpu, signed(readFirst(op, size) & load<u64>(op, OP_IMM), size)); break;
    case H.TEST_A_I: logicFlags(cpu, signed(readRegister(cpu + RAX, size) & load<u64>(op, OP_IMM), size)); break;
    case H.INC_E:
    case H.DEC_E:
      increment(op, size, load<u16>(op, 2) == H.INC_E); break;
    case H.NOT: {
      const la = target(op);
      while (true) {
        const a = beginModify(op, la, size);
        if (endModify(op, la, size, a, ~a)) break;
      }
      break;
    }
    case H.NEG: {
      const la = target(op);
      while (true) {
        const a = beginModify(op, la, size);
        if (endModify(op, la, size, a, 0 - a)) {
          arithmeticFlags(cpu, FLAGS_SUB, 0, signed(a, size), signed(0 - a, size));
          break;
        }
      }
      break;
    }
    case H.MUL: multiplyUnsigned(readFirst(op, size), size); break;
    case H.IMUL: multiplySigned(readFirst(op, size), size); break;
    case H.DIV: divideUnsigned(readFirst(op, size), size); break;
    case H.IDIV: divideSigned(readFirst(op, size), size); break;
    case H.IMUL_Gv_Ev: product(op, size, readSecond(op, size), readRegister(load<u32>(op, OP_A), size)); break;
    case H.IMUL_Gv_Ev_I: product(op, size, readSecond(op, size), load<u64>(op, OP_IMM)); break;

    case H.MOV_E_G: writeFirst(op, size, readRegister(load<u32>(op, OP_B), size)); break;
    case H.MOV_G_E: writeRegister(load<u32>(op, OP_A), size, readSecond(op, size)); break;
    case H.MOV_E_I: writeFirst(op, size, load<u64>(op, OP_IMM)); break;
    case H.MOV_Z_I: writeRegister(load<u32>(op, OP_A), size, load<u64>(op, OP_IMM)); break;
    case H.MOV_A_O: writeRegister(cpu + RAX, size, readMemory(absolute(op, size, false), size)); break;
    case H.MOV_O_A: writeMemory(absolute(op, size, true), size, readRegister(cpu + RAX, size)); break;
    case H.LEA_Gv_M: writeRegister(load<u32>(op, OP_A), size, offsetOf(op)); break;
    case H.MOVZX_b: writeRegister(load<u32>(op, OP_A), size, readSecond(op, 1)); break;
    case H.MOVZX_w: writeRegister(load<u32>(op, OP_A), size, readSecond(op, 2)); break;
    case H.MOVSX_b: writeRegister(load<u32>(op, OP_A), size, signed(readSecond(op, 1), 1)); break;
    case H.MOVSX_w: writeRegister(load<u32>(op, OP_A), size, signed(readSecond(op, 2), 2)); break;
    case H.MOVSXD_Gv_Ed: writeRegister(load<u32>(op, OP_A), size, signed(readSecond(op, 4), 4)); break;
    case H.XCHG_E_G: exchange(op, size); break;
    case H.XCHG_Z_A: {
      if (load<u8>(op, OP_REG) == 0) break; // NOP
      const a = readRegister(load<u32>(op, OP_A), size);
      writeRegister(load<u32>(op, OP_A), size, readRegister(cpu + RAX, size));
      writeRegister(cpu + RAX, size, a);
      break;
    }
    case H.XADD: exchangeAdd(op, size); break;
    case H.CMPXCHG: compareExchange(op, size); break;
    case H.CMPXCHG8B_M: if (load<u16>(op, OP_PREFIX) & PREFIX_REXW) compareExchange16(op); else compareExchange8(op); break;
    case H.BSWAP_Zv: {
      const register: usize = load<u32>(op, OP_A);
      // 16 bits: undefined; processors give 0.
      writeRegister(register, size, size == 8 ? bswap<u64>(load<u64>(register)) : size == 4 ? bswap<u32>(load<u32>(register)) : 0);
      break;
    }
    case H.MOVBE_G_M: writeRegister(load<u32>(op, OP_A), size, swapped(readMemory(ea(op), size), size)); break;
    case H.MOVBE_M_G: writeMemory(ea(op), size, swapped(readRegister(load<u32>(op, OP_B), size), size)); break;
    case H.CBW: writeRegister(cpu + RAX, size, signed(readRegister(cpu + RAX, size >> 1), size >> 1)); break;
    case H.CWD: writeRegister(cpu + RDX, size, signed(readRegister(cpu + RAX, size), size) >> 63); break;
    case H.XLAT: xlat(op); break;
    case H.CMOV_G_E: {
      const value = readSecond(op, size);
      writeRegister(load<u32>(op, OP_A), size, cond((load<u16>(op, OP_CODE) >> 8) & 15) ? value : readRegister(load<u32>(op, OP_A), size));
      break;
    }
    case H.SET_E: writeFirst(op, 1, u64(cond((load<u16>(op, OP_CODE) >> 8) & 15))); break;

    case H.SHIFT_E_I: rotateOrShift(op, size, load<u8>(op, OP_IMM)); break;
    case H.SHIFT_E_1: rotateOrShift(op, size, 1); break;
    case H.SHIFT_E_CL: rotateOrShift(op, size, load<u8>(cpu, RCX)); break;
    case H.SHLD_I: shiftDouble(op, size, load<u8>(op, OP_IMM), true); break;
    case H.SHLD_CL: shiftDouble(op, size, load<u8>(cpu, RCX), true); break;
    case H.SHRD_I: shiftDouble(op, size, load<u8>(op, OP_IMM), false); break;
    case H.SHRD_CL: shiftDouble(op, size, load<u8>(cpu, RCX), false); break;

    case H.BIT_E_I: bitTest(op, size, load<u64>(op, OP_IMM), load<u8>(op, OP_REG) & 3); break;
    case H.BIT_E_G:
      if (load<u8>(op, OP_MOD)) bitTestMemory(op, size, (load<u16>(op, OP_CODE) >> 11) & 3);
      else bitTest(op, size, readRegister(load<u32>(op, OP_B), size), (load<u16>(op, OP_CODE) >> 11) & 3);
      break;
    case H.BSF_Gv_Ev:
    case H.BSR_Gv_Ev: {
      const a = readSecond(op, size);
      // With a zero source the destination keeps its value, as on all 64-bit processors. ZF from LF_RESULT; the others are undefined.
      logicFlags(cpu, signed(a, size));
      if (a != 0) writeRegister(load<u32>(op, OP_A), size, load<u16>(op, 2) == H.BSF_Gv_Ev ? ctz<u64>(a) : 63 - clz<u64>(a));
      break;
    }
    case H.TZCNT_Gv_Ev: {
      const a = readSecond(op, size);
      const bits = <u64>size << 3;
      const count = a == 0 ? bits : ctz<u64>(a);
      carryFlags(cpu, i64(a == 0), 0, count);
      writeRegister(load<u32>(op, OP_A), size, count);
      break;
    }
    case H.LZCNT_Gv_Ev: {
      const a = readSecond(op, size);
      const count = clz<u64>(a) - (64 - (<u64>size << 3));
      carryFlags(cpu, i64(a == 0), 0, count);
      writeRegister(load<u32>(op, OP_A), size, count);
      break;
    }
    case H.POPCNT_Gv_Ev: {
      const a = readSecond(op, size);
      setArith(a == 0 ? ZF : 0);
      writeRegister(load<u32>(op, OP_A), size, popcnt<u64>(a));
      break;
    }
    case H.CRC32_b: crc32(op, readSecond(op, 1), 1); break;
    case H.CRC32_v: {
      // The source has the effective operand size; OP_SIZE is the destination's.
      const from: u32 = size == 8 ? 8 : ((load<u16>(op, OP_PREFIX) & PREFIX_66) != 0) != (load<u32>(cpu, MODE) == 0) ? 2 : 4;
      crc32(op, readSecond(op, from), from);
      break;
    }

    case H.SAHF: setSomeArith(SF | ZF | AF | PF | CF, load<u8>(cpu, RAX + 1)); break;
    case H.LAHF: store<u8>(cpu, <u8>(getArith() | 2), RAX + 1); break;
    case H.CMC: setSomeArith(CF, cf() ^ 1); break;
    case H.CLC: setSomeArith(CF, 0); break;
    case H.STC: setSomeArith(CF, 1); break;
    case H.CLD: store<u64>(cpu, load<u64>(cpu, RFLAGS) & ~DF, RFLAGS); break;
    case H.STD: store<u64>(cpu, load<u64>(cpu, RFLAGS) | DF, RFLAGS); break;

    case H.DAA:
    case H.DAS:
      decimalAdjust(load<u16>(op, 2) == H.DAS); break;
    case H.AAA:
    case H.AAS:
      asciiAdjust(load<u16>(op, 2) == H.AAS); break;
    case H.AAM_Ib: {
      const base: u32 = load<u8>(op, OP_IMM);
      if (base == 0) fault(0);
      const al: u32 = load<u8>(cpu, RAX);
      store<u16>(cpu, <u16>((al / base) << 8 | (al % base)), RAX);
      logicFlags(cpu, <i64>load<i8>(cpu, RAX));
      break;
    }
    case H.AAD_Ib: {
      const al = <u8>(<u32>load<u8>(cpu, RAX) + <u32>load<u8>(cpu, RAX + 1) * <u32>load<u8>(op, OP_IMM));
      store<u16>(cpu, al, RAX);
      logicFlags(cpu, <i64><i8>al);
      break;
    }
    case H.BOUND_Gv_Ma: {
      const la = ea(op);
      const low = signed(readMemory(la, size), size);
      const high = signed(readMemory((la + size) & 0xffffffff, size), size);
      const index = signed(readRegister(load<u32>(op, OP_A), size), size);
      if (index < low || index > high) fault(5);
      break;
    }
    case H.NOP:
    case H.PAUSE:
      break;
    default: execStack(op, size);
  }
}

// ---- The eight ALU operations, in their encoding order ---------------------------------------------------------------------------

function aluResult(operation: u32, a: u64, b: u64, carry: u64): u64 {
  switch (operation) {
    case 0: return a + b;
    case 1: return a | b;
    case 2: return a + b + carry;
    case 3: return a - b - carry;
    case 4: return a & b;
    case 6: return a ^ b;
    default: return a - b;
  }
}

function aluFlags(operation: u32, a: u64, b: u64, r: u64, size: u32): void {
  let kind: u32;
  switch (operation) {
    case 0: { kind = FLAGS_ADD; break; }
    case 2: { kind = FLAGS_ADC; break; }
    case 3: { kind = FLAGS_SBB; break; }
    case 5:
    case 7: { kind = FLAGS_SUB; break; }
    default: {
      logicFlags(cpu, signed(r, size));
      return;
    }
  }
  arithmeticFlags(cpu, kind, signed(a, size), signed(b, size), signed(r, size));
}

function aluFirst(op: usize, size: u32, b: u64, operation: u32): void {
  const carry: u64 = cf();
  if (operation == 7) {
    const a = readFirst(op, size);
    aluFlags(7, a, b, a - b, size);
    return;
  }
  const la = target(op);
  while (true) {
    const a = beginModify(op, la, size);
    const r = aluResult(operation, a, b, carry);
    if (endModify(op, la, size, a, r)) {
      aluFlags(operation, a, b, r, size);
      return;
    }
  }
}

function aluRegister(op: usize, size: u32, b: u64): void {
  const operation: u32 = (load<u16>(op, OP_CODE) >> 11) & 7;
  const a = readRegister(load<u32>(op, OP_A), size);
  const r = aluResult(operation, a, b, cf());
  if (operation != 7) writeRegister(load<u32>(op, OP_A), size, r);
  aluFlags(operation, a, b, r, size);
}

function increment(op: usize, size: u32, up: bool): void {
  const carry: i64 = cf();
  const la = target(op);
  while (true) {
    const a = beginModify(op, la, size);
    const r = up ? a + 1 : a - 1;
    if (endModify(op, la, size, a, r)) {
      arithmeticFlags(cpu, up ? FLAGS_INC : FLAGS_DEC, signed(a, size), carry, signed(r, size));
      return;
    }
  }
}

// ---- Multiplication and division ---------------------------------------------------------------------------------------------------

/** rDX:rAX, or AX for bytes. */
function writeProduct(low: u64, high: u64, size: u32): void {
  if (size == 1) store<u16>(cpu, <u16>(low & 0xff | high << 8), RAX);
  else {
    writeRegister(cpu + RAX, size, low);
    writeRegister(cpu + RDX, size, high);
  }
}

function multiplyUnsigned(b: u64, size: u32): void {
  const a = readRegister(cpu + RAX, size);
  const low = a * b;
  const high = size == 8 ? highProduct(a, b) : low >> (<u64>size << 3);
  writeProduct(unsigned(low, size), high, size);
  carryFlags(cpu, i64(high != 0), i64(high != 0), signed(low, size));
}

function multiplySigned(b: u64, size: u32): void {
  const x = signed(readRegister(cpu + RAX, size), size);
  const y = signed(b, size);
  const low = x * y;
  const high: i64 = size == 8 ? highProductSigned(x, y) : low >> (<i64>size << 3);
  const over = i64(high != signed(low, size) >> 63);
  writeProduct(unsigned(low, size), unsigned(high, size), size);
  carryFlags(cpu, over, over, signed(low, size));
}

function product(op: usize, size: u32, b: u64, a: u64): void {
  const x = signed(a, size);
  const y = signed(b, size);
  const low = x * y;
  const over = size == 8 ? i64(highProductSigned(x, y) != low >> 63) : i64(low != signed(low, size));
  writeRegister(load<u32>(op, OP_A), size, low);
  carryFlags(cpu, over, over, signed(low, size));
}

function divideUnsigned(divisor: u64, size: u32): void {
  if (divisor == 0) fault(0);
  if (size == 8) {
    const high = load<u64>(cpu, RDX);
    if (high >= divisor) fault(0);
    const quotient = divide128(high, load<u64>(cpu, RAX), divisor);
    store<u64>(cpu, quotient, RAX);
    store<u64>(cpu, remainder128, RDX);
    return;
  }
  const dividend = dividendOf(size);
  const quotient = dividend / divisor;
  if (quotient != unsigned(quotient, size)) fault(0);
  writeProduct(quotient, dividend % divisor, size);
}

function dividendOf(size: u32): u64 {
  return size == 1 ? load<u16>(cpu, RAX) : readRegister(cpu + RDX, size) << (<u64>size << 3) | readRegister(cpu + RAX, size);
}

function divideSigned(raw: u64, size: u32): void {
  const divisor = signed(raw, size);
  if (divisor == 0) fault(0);
  if (size == 8) {
    divideSigned128(divisor);
    return;
  }
  const dividend = size == 4 ? <i64>dividendOf(4) : signed(dividendOf(size), size << 1);
  if (dividend == i64.MIN_VALUE && divisor == -1) fault(0); // would trap in WebAssembly
  const quotient = dividend / divisor;
  if (quotient != signed(quotient, size)) fault(0);
  writeProduct(unsigned(quotient, size), unsigned(dividend % divisor, size), size);
}

function divideSigned128(divisor: i64): void {
  let low = load<u64>(cpu, RAX);
  let high = load<u64>(cpu, RDX);
  const negative = <i64>high < 0;
  if (negative) {
    high = ~high + u64(low == 0);
    low = 0 - low;
  }
  const magnitude: u64 = divisor < 0 ? 0 - <u64>divisor : <u64>divisor;
  if (high >= magnitude) fault(0);
  const quotient = divide128(high, low, magnitude);
  const opposite = negative != (divisor < 0);
  if (quotient > (opposite ? <u64>1 << 63 : <u64>i64.MAX_VALUE)) fault(0);
  store<u64>(cpu, opposite ? 0 - quotient : quotient, RAX);
  store<u64>(cpu, negative ? 0 - remainder128 : remainder128, RDX);
}

// ---- Exchanges ---------------------------------------------------------------------------------------------------------------------

/** XCHG with memory locks with or without the prefix. */
function exchange(op: usize, size: u32): void {
  const register: usize = load<u32>(op, OP_B);
  const value = readRegister(register, size);
  const la = target(op);
  while (true) {
    const old = beginModify(op, la, size);
    if (load<u8>(op, OP_MOD) ? replace(la, size, old, value) : endModify(op, la, size, old, value)) {
      writeRegister(register, size, old);
      return;
    }
  }
}

function exchangeAdd(op: usize, size: u32): void {
  const register: usize = load<u32>(op, OP_B);
  const b = readRegister(register, size);
  const la = target(op);
  while (true) {
    const a = beginModify(op, la, size);
    // The register first: with the same register twice, the sum remains.
    if (!load<u8>(op, OP_MOD)) writeRegister(register, size, a);
    if (endModify(op, la, size, a, a + b)) {
      if (load<u8>(op, OP_MOD)) writeRegister(register, size, a);
      arithmeticFlags(cpu, FLAGS_ADD, signed(a, size), signed(b, size), signed(a + b, size));
      return;
    }
  }
}

function compareExchange(op: usize, size: u32): void {
  const la = target(op);
  const accumulator = readRegister(cpu + RAX, size);
  const source = readRegister(load<u32>(op, OP_B), size);
  while (true) {
    const old = beginModify(op, la, size);
    const equal = old == accumulator;
    // A memory destination is written in any case; a register only when equal (so its upper half stays).
    const done = equal || load<u8>(op, OP_MOD) ? endModify(op, la, size, old, equal ? source : old) : true;
    if (done) {
      if (!equal) writeRegister(cpu + RAX, size, old);
      arithmeticFlags(cpu, FLAGS_SUB, signed(accumulator, size), signed(old, size), signed(accumulator - old, size));
      return;
    }
  }
}

function compareExchange8(op: usize): void {
  const la = ea(op);
  const expected = <u64>load<u32>(cpu, RDX) << 32 | load<u32>(cpu, RAX);
  const source = <u64>load<u32>(cpu, RCX) << 32 | load<u32>(cpu, RBX);
  while (true) {
    const old = modifyMemory(la, 8);
    const equal = old == expected;
    if (endModify(op, la, 8, old, equal ? source : old)) {
      if (!equal) {
        store<u64>(cpu, old & 0xffffffff, RAX);
        store<u64>(cpu, old >> 32, RDX);
      }
      setSomeArith(ZF, equal ? ZF : 0);
      return;
    }
  }
}

function compareExchange16(op: usize): void {
  const la = ea(op);
  if (la & 15) faultCode(13, 0);
  let low = rmw64(la);
  let high = rmw64(la + 8);
  const expectedLow = load<u64>(cpu, RAX);
  const expectedHigh = load<u64>(cpu, RDX);
  const locked = (load<u16>(op, OP_PREFIX) & PREFIX_LOCK) != 0;
  const done = replace16(la, locked, expectedLow, expectedHigh, load<u64>(cpu, RBX), load<u64>(cpu, RCX));
  if (done) {
    low = foundLow;
    high = foundHigh;
  }
  const equal = low == expectedLow && high == expectedHigh;
  if (!done) {
    wr64(la, equal ? load<u64>(cpu, RBX) : low);
    wr64(la + 8, equal ? load<u64>(cpu, RCX) : high);
  }
  if (!equal) {
    store<u64>(cpu, low, RAX);
    store<u64>(cpu, high, RDX);
  }
  setSomeArith(ZF, equal ? ZF : 0);
}

// ---- The rest ----------------------------------------------------------------------------------------------------------------------

/** Address of the O operand of MOV: an offset in the instruction, without ModRM. */
function absolute(op: usize, size: u32, write: bool): u64 {
  return linear(load<u8>(op, OP_SEG), load<u64>(op, OP_IMM), size, write);
}

function swapped(value: u64, size: u32): u64 {
  return bswap<u64>(value) >> (64 - (<u64>size << 3));
}

function xlat(op: usize): void {
  const wide: u32 = load<u8>(op, OP_ASIZE);
  const offset = unsigned(load<u64>(cpu, RBX) + <u64>load<u8>(cpu, RAX), wide);
  store<u8>(cpu, <u8>readMemory(linear(load<u8>(op, OP_SEG), offset, 1, false), 1), RAX);
}

/** CRC-32C, reflected polynomial 82F63B78h (SDM vol. 2, CRC32). */
function crc32(op: usize, source: u64, bytes: u32): void {
  let crc = load<u32>(load<u32>(op, OP_A));
  for (let i: u32 = 0; i < bytes; i++) {
    crc ^= <u32>(source >> (<u64>i << 3)) & 0xff;
    for (let bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  store<u64>(load<u32>(op, OP_A), crc);
}

/** DAA and DAS (SDM vol. 2). */
function decimalAdjust(subtract: bool): void {
  const old: u32 = load<u8>(cpu, RAX);
  const flags = getArith();
  let al = old;
  let carry = flags & CF;
  let adjust: u32 = 0;
  if ((old & 15) > 9 || flags & AF) {
    if (subtract) {
      if (al < 6) carry = CF;
      al -= 6;
    } else al += 6;
    adjust = AF;
  }
  if (old > 0x99 || flags & CF) {
    al = subtract ? al - 0x60 : al + 0x60;
    carry = CF;
  }
  store<u8>(cpu, <u8>al, RAX);
  setArith(resultFlags(al) | carry | adjust);
}

/** AAA and AAS. */
function asciiAdjust(subtract: bool): void {
  const flags = getArith();
  let changed: u32 = 0;
  let ax: u32 = load<u16>(cpu, RAX);
  if ((ax & 15) > 9 || flags & AF) {
    ax = subtract ? ax - 0x106 : ax + 0x106;
    changed = AF | CF;
  }
  ax &= 0xff0f;
  store<u16>(cpu, <u16>ax, RAX);
  setArith(resultFlags(ax) | changed);
}

/** SF, ZF and PF of a byte. */
function resultFlags(value: u32): u32 {
  const byte = value & 0xff;
  return (byte & 0x80 ? SF : 0) | (byte == 0 ? ZF : 0) | (popcnt<u32>(byte) & 1 ? 0 : PF);
}
