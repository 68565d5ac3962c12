/** Operands of SSE and MMX instructions. */

import { FPR, FSW, FTW, XMM } from './layout';
import { cpu } from './state';
import { ea, OP_MOD, OP_REG, OP_RM } from './record';
import { rd128, rd64 } from './memory';
import { faultCode } from './events';

/** Address of the XMM register in ModRM.reg. */
// @ts-ignore: decorator
@inline
export function xmmReg(op: usize): usize {
  return cpu + XMM + (<usize>load<u8>(op, OP_REG) << 4);
}

/** Address of the XMM register in ModRM.rm (register forms). */
// @ts-ignore: decorator
@inline
export function xmmRm(op: usize): usize {
  return cpu + XMM + (<usize>load<u8>(op, OP_RM) << 4);
}

/** Address of the MMX register in ModRM.reg; REX does not extend it. */
// @ts-ignore: decorator
@inline
export function mmxReg(op: usize): usize {
  return cpu + FPR + (<usize>(load<u8>(op, OP_REG) & 7) << 4);
}

// @ts-ignore: decorator
@inline
export function mmxRm(op: usize): usize {
  return cpu + FPR + (<usize>(load<u8>(op, OP_RM) & 7) << 4);
}

/** A 64-bit value in the low half of a vector of zeros. */
// @ts-ignore: decorator
@inline
export function low64(value: u64): v128 {
  return i64x2.replace_lane(i64x2.splat(0), 0, value);
}

/** Address of the memory operand, which must be 16-byte aligned (#GP). */
// @ts-ignore: decorator
@inline
export function alignedAddress(op: usize): u64 {
  const la = ea(op);
  if ((la & 15) != 0) faultCode(13, 0);
  return la;
}

/** 128-bit source: register or aligned memory. */
export function src128(op: usize): v128 {
  return load<u8>(op, OP_MOD) != 0 ? rd128(alignedAddress(op)) : v128.load(xmmRm(op));
}

/** The same without the demand of alignment. */
export function unaligned128(op: usize): v128 {
  return load<u8>(op, OP_MOD) != 0 ? rd128(ea(op)) : v128.load(xmmRm(op));
}

/** Low 64 bits of a register, or memory. */
export function src64(op: usize): u64 {
  return load<u8>(op, OP_MOD) != 0 ? rd64(ea(op)) : load<u64>(xmmRm(op));
}

/** MMX source: register or memory. */
export function srcMmx(op: usize): u64 {
  return load<u8>(op, OP_MOD) != 0 ? rd64(ea(op)) : load<u64>(mmxRm(op));
}

/** What every MMX instruction does to the x87: TOP = 0, all registers in use (SDM vol. 1, 9.5.1; EMMS empties them). */
export function enterMmx(): void {
  store<u16>(cpu, load<u16>(cpu, FSW) & 0xc7ff, FSW);
  store<u8>(cpu, 0xff, FTW);
}

/** A written MMX register has all ones for sign and exponent. */
export function setMmx(register: usize, value: u64): void {
  store<u64>(register, value);
  store<u16>(register, 0xffff, 8);
}
