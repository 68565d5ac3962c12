// Lazy arithmetic flags. An instruction stores its operands and result, sign-extended to 64 bits, and a kind; flags are worked out when
// something reads them. With sign-extended values every flag but PF and AF (low bits) is the same expression for all operand sizes.
//
// ZF is always `LF_RESULT == 0`, whatever the kind. SF and PF come from LF_RESULT too, except for FLAGS_EXPLICIT.
import { LF_A, LF_B, LF_KIND, LF_RESULT, RFLAGS } from './layout';
import { cpu } from './state';

export const CF: u32 = 0x001;
export const PF: u32 = 0x004;
export const AF: u32 = 0x010;
export const ZF: u32 = 0x040;
export const SF: u32 = 0x080;
export const OF: u32 = 0x800;
export const ARITHMETIC_FLAGS: u32 = 0x8d5;

export const FLAGS_LOGIC: u32 = 0; // CF = OF = AF = 0
export const FLAGS_ADD: u32 = 1; // R = A + B
export const FLAGS_SUB: u32 = 2; // R = A - B
export const FLAGS_ADC: u32 = 3; // R = A + B + carry
export const FLAGS_SBB: u32 = 4; // R = A - B - borrow
export const FLAGS_INC: u32 = 5; // R = A + 1; B = CF as it was
export const FLAGS_DEC: u32 = 6; // R = A - 1; B = CF as it was
export const FLAGS_CARRY: u32 = 7; // A = CF, B = OF (0 or 1), AF = 0: shifts, rotates' CF and OF, multiplications
export const FLAGS_EXPLICIT: u32 = 8; // A = the six flags as RFLAGS bits

// How handlers store flags; `c` is the state block, operands and result are sign-extended.

// @ts-ignore: decorator
@inline
export function logicFlags(c: usize, result: i64): void {
  store<u32>(c, FLAGS_LOGIC, LF_KIND);
  store<i64>(c, result, LF_RESULT);
}
// @ts-ignore: decorator
@inline
export function arithmeticFlags(c: usize, kind: u32, a: i64, b: i64, result: i64): void {
  store<u32>(c, kind, LF_KIND);
  store<i64>(c, a, LF_A);
  store<i64>(c, b, LF_B);
  store<i64>(c, result, LF_RESULT);
}
/** SF, ZF, PF from the result; CF and OF given as 0 or 1. */
// @ts-ignore: decorator
@inline
export function carryFlags(c: usize, carry: i64, over: i64, result: i64): void {
  arithmeticFlags(c, FLAGS_CARRY, carry, over, result);
}
/** ZF stays; CF is given; the others are undefined (bit tests). */
// @ts-ignore: decorator
@inline
export function keepZeroSetCarry(c: usize, carry: i64): void {
  store<u32>(c, FLAGS_CARRY, LF_KIND);
  store<i64>(c, carry, LF_A);
  store<i64>(c, 0, LF_B);
}

/** CF of a kind other than FLAGS_SUB. */
export function carrySlow(): bool {
  const a = load<i64>(cpu, LF_A);
  switch (load<u32>(cpu, LF_KIND)) {
    case FLAGS_LOGIC: return false;
    case FLAGS_ADD: return <u64>load<i64>(cpu, LF_RESULT) < <u64>a;
    case FLAGS_SUB: return <u64>a < <u64>load<i64>(cpu, LF_B);
    case FLAGS_ADC: {
      const b = load<i64>(cpu, LF_B);
      return ((a & b) | ((a | b) & ~load<i64>(cpu, LF_RESULT))) < 0;
    }
    case FLAGS_SBB: {
      const b = load<i64>(cpu, LF_B);
      return ((~a & b) | ((~a | b) & load<i64>(cpu, LF_RESULT))) < 0;
    }
    case FLAGS_INC:
    case FLAGS_DEC: return load<u8>(cpu, LF_B) != 0;
    default: return (a & 1) != 0; // FLAGS_CARRY, FLAGS_EXPLICIT: CF is bit 0
  }
}

/** OF of any kind. */
export function overflow(): bool {
  const a = load<i64>(cpu, LF_A);
  const b = load<i64>(cpu, LF_B);
  const r = load<i64>(cpu, LF_RESULT);
  switch (load<u32>(cpu, LF_KIND)) {
    case FLAGS_LOGIC: return false;
    case FLAGS_ADD:
    case FLAGS_ADC: return ((a ^ r) & (b ^ r)) < 0;
    case FLAGS_SUB:
    case FLAGS_SBB: return ((a ^ b) & (a ^ r)) < 0;
    case FLAGS_INC: return (~a & r) < 0;
    case FLAGS_DEC: return (a & ~r) < 0;
    case FLAGS_CARRY: return b != 0;
    default: return (a & OF) != 0;
  }
}

/** AF of any kind. */
function adjust(): bool {
  const a = load<i64>(cpu, LF_A);
  const r = load<i64>(cpu, LF_RESULT);
  switch (load<u32>(cpu, LF_KIND)) {
    case FLAGS_ADD:
    case FLAGS_ADC:
    case FLAGS_SUB:
    case FLAGS_SBB: return ((a ^ load<i64>(cpu, LF_B) ^ r) & AF) != 0;
    case FLAGS_INC:
    case FLAGS_DEC: return ((a ^ r) & AF) != 0;
    case FLAGS_EXPLICIT: return (a & AF) != 0;
    default: return false;
  }
}

export function sign(): bool {
  return load<u32>(cpu, LF_KIND) == FLAGS_EXPLICIT ? (load<u32>(cpu, LF_A) & SF) != 0 : load<i64>(cpu, LF_RESULT) < 0;
}

export function parity(): bool {
  if (load<u32>(cpu, LF_KIND) == FLAGS_EXPLICIT) return (load<u32>(cpu, LF_A) & PF) != 0;
  return (popcnt<u32>(load<u8>(cpu, LF_RESULT)) & 1) == 0;
}

/** CF as 0 or 1. */
// @ts-ignore: decorator
@inline
export function cf(): u32 {
  return load<u32>(cpu, LF_KIND) == FLAGS_SUB ? u32(load<u64>(cpu, LF_A) < load<u64>(cpu, LF_B)) : u32(carrySlow());
}

function lessSlow(): bool {
  return sign() != overflow();
}

// The conditions of Jcc, SETcc and CMOVcc (Intel SDM vol. 1, appendix B), even ones; the odd ones are their negations. `c` is the state
// block.

// @ts-ignore: decorator
@inline
export function condB(c: usize): bool {
  return load<u32>(c, LF_KIND) == FLAGS_SUB ? load<u64>(c, LF_A) < load<u64>(c, LF_B) : carrySlow();
}
// @ts-ignore: decorator
@inline
export function condZ(c: usize): bool {
  return load<i64>(c, LF_RESULT) == 0;
}
// @ts-ignore: decorator
@inline
export function condBE(c: usize): bool {
  return load<u32>(c, LF_KIND) == FLAGS_SUB ? load<u64>(c, LF_A) <= load<u64>(c, LF_B) : condZ(c) || carrySlow();
}
// @ts-ignore: decorator
@inline
export function condS(c: usize): bool {
  return load<u32>(c, LF_KIND) == FLAGS_EXPLICIT ? sign() : load<i64>(c, LF_RESULT) < 0;
}
// @ts-ignore: decorator
@inline
export function condL(c: usize): bool {
  const kind = load<u32>(c, LF_KIND);
  return kind == FLAGS_SUB ? load<i64>(c, LF_A) < load<i64>(c, LF_B) : kind == FLAGS_LOGIC ? load<i64>(c, LF_RESULT) < 0 : lessSlow();
}
// @ts-ignore: decorator
@inline
export function condLE(c: usize): bool {
  const kind = load<u32>(c, LF_KIND);
  return kind == FLAGS_SUB ? load<i64>(c, LF_A) <= load<i64>(c, LF_B)
    : kind == FLAGS_LOGIC ? load<i64>(c, LF_RESULT) <= 0 : condZ(c) || lessSlow();
}

/** Condition `cc`, 0 (O) to 15 (NLE). */
export function cond(cc: u32): bool {
  let holds: bool;
  switch (cc >> 1) {
    case 0: { holds = overflow(); break; }
    case 1: { holds = condB(cpu); break; }
    case 2: { holds = condZ(cpu); break; }
    case 3: { holds = condBE(cpu); break; }
    case 4: { holds = sign(); break; }
    case 5: { holds = parity(); break; }
    case 6: { holds = condL(cpu); break; }
    default: { holds = condLE(cpu); break; }
  }
  return holds != ((cc & 1) != 0);
}

/** The six arithmetic flags as RFLAGS bits. */
export function getArith(): u32 {
  return u32(cf()) | (u32(parity()) << 2) | (u32(adjust()) << 4) | (u32(condZ(cpu)) << 6) | (u32(sign()) << 7) | (u32(overflow()) << 11);
}

/** Sets the six arithmetic flags from RFLAGS bits; other bits of `bits` are ignored. */
export function setArith(bits: u32): void {
  store<u32>(cpu, FLAGS_EXPLICIT, LF_KIND);
  store<i64>(cpu, <i64>(bits & ARITHMETIC_FLAGS), LF_A);
  store<i64>(cpu, (bits & ZF) != 0 ? 0 : 1, LF_RESULT);
}

/** Sets some of the six flags and keeps the others. */
export function setSomeArith(mask: u32, bits: u32): void {
  setArith((getArith() & ~mask) | (bits & mask));
}

/** The whole of RFLAGS; bit 1 always set. */
export function getFlags(): u64 {
  return (load<u64>(cpu, RFLAGS) & ~<u64>ARITHMETIC_FLAGS) | <u64>getArith() | 2;
}

/** Replaces the whole of RFLAGS without checks; the caller sees to what a change of IF, TF, AC, VM means. */
export function setFlags(value: u64): void {
  store<u64>(cpu, (value & ~<u64>ARITHMETIC_FLAGS) | 2, RFLAGS);
  setArith(<u32>value);
}
