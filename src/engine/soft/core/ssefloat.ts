/**
 * SSE arithmetic on single and double precision elements.
 *
 * The host's floats give the right result when rounding is to nearest, but no exception flags. They are used when operands and result are
 * normal numbers or zeros, so that only INEXACT can arise, and INEXACT is masked and either already set or disproved by a cheap test. All
 * else goes to softfloat80. Results and flags are thus exact in every mode; programs that compute with rounded numbers meet the slow way
 * once.
 */

import { VECTOR_SCRATCH } from './layout';
import { cpu } from './state';
import { ea, OP_IMM, OP_MOD } from './record';
import { rd32, rd64 } from './memory';
import { src128, xmmReg, xmmRm } from './xmm';
import { begin, commit, DAZ, FTZ, mxcsr, PE, PM, RC, UM } from './mxcsr';
import {
  add, aSign, clearDenormal, copyAToB, DENORMAL, denormalOperand, INEXACT, INVALID, IS_FINITE, IS_QUIET, IS_ZERO, multiply, negateB,
  pack32, pack64, quotient, raise, rClass, round, setA, setClass, squareRoot, tinyResult, UNDERFLOW, unpack32, unpack64,
} from './softfloat80';

export const ADD: u32 = 0;
export const SUB: u32 = 1;
export const MUL: u32 = 2;
export const DIV: u32 = 3;
export const SQRT: u32 = 4;
export const MIN: u32 = 5;
export const MAX: u32 = 6;

const NAN32: u32 = 0xffc00000;
const NAN64: u64 = 0xfff8000000000000;
const QUIET32: u32 = 0x400000;
const QUIET64: u64 = 0x8000000000000;

// ---- classes of bit patterns

// @ts-ignore: decorator
@inline
export function isNaN32(bits: u32): bool {
  return (bits & 0x7fffffff) > 0x7f800000;
}
// @ts-ignore: decorator
@inline
export function isNaN64(bits: u64): bool {
  return (bits & 0x7fffffffffffffff) > 0x7ff0000000000000;
}
// @ts-ignore: decorator
@inline
export function isSignaling32(bits: u32): bool {
  return isNaN32(bits) && (bits & QUIET32) == 0;
}
// @ts-ignore: decorator
@inline
export function isSignaling64(bits: u64): bool {
  return isNaN64(bits) && (bits & QUIET64) == 0;
}
// @ts-ignore: decorator
@inline
export function isDenormal32(bits: u32): bool {
  return (bits & 0x7fffffff) - 1 < 0x7fffff;
}
// @ts-ignore: decorator
@inline
export function isDenormal64(bits: u64): bool {
  return (bits & 0x7fffffffffffffff) - 1 < 0xfffffffffffff;
}
/** Normal, with an exponent field of at least `least`. */
// @ts-ignore: decorator
@inline
function isNormal32(bits: u32, least: u32): bool {
  return ((bits >> 23) & 0xff) - least < 0xff - least;
}
// @ts-ignore: decorator
@inline
function isNormal64(bits: u64, least: u32): bool {
  return (<u32>(bits >> 52) & 0x7ff) - least < 0x7ff - least;
}
// @ts-ignore: decorator
@inline
function isZero32(bits: u32): bool {
  return bits << 1 == 0;
}
// @ts-ignore: decorator
@inline
function isZero64(bits: u64): bool {
  return bits << 1 == 0;
}

// ---- one element

/**
 * Only INEXACT can arise from this operation, whose result in the host's arithmetic is r. A result of the least exponent may have been
 * rounded up to it.
 */
function plain32(kind: u32, a: u32, b: u32, r: u32): bool {
  if (kind == SQRT) return isZero32(b) || ((b >> 31) == 0 && isNormal32(b, 1));
  if (!(isZero32(a) || isNormal32(a, 1))) return false;
  if (kind == DIV) return isNormal32(b, 1) && (isZero32(a) || isNormal32(r, 2));
  if (!(isZero32(b) || isNormal32(b, 1))) return false;
  if (kind == MUL) return isZero32(a) || isZero32(b) || isNormal32(r, 2);
  return isZero32(r) || isNormal32(r, 1);
}

function plain64(kind: u32, a: u64, b: u64, r: u64): bool {
  if (kind == SQRT) return isZero64(b) || (<i64>b > 0 && isNormal64(b, 1));
  if (!(isZero64(a) || isNormal64(a, 1))) return false;
  if (kind == DIV) return isNormal64(b, 1) && (isZero64(a) || isNormal64(r, 2));
  if (!(isZero64(b) || isNormal64(b, 1))) return false;
  if (kind == MUL) return isZero64(a) || isZero64(b) || isNormal64(r, 2);
  return isZero64(r) || isNormal64(r, 1);
}

/** Proves that r is exact; may fail to. */
function exact32(kind: u32, x: f32, y: f32, r: f32): bool {
  if (kind <= SUB) {
    const z = kind == SUB ? -y : y;
    const part = r - x; // Knuth's two-sum
    return x - (r - part) + (z - part) == 0;
  }
  if (kind == MUL) return <f64>x * <f64>y == <f64>r;
  if (kind == DIV) return <f64>r * <f64>y == <f64>x;
  return <f64>r * <f64>r == <f64>y;
}

function exact64(kind: u32, x: f64, y: f64, r: f64): bool {
  if (kind <= SUB) {
    const z = kind == SUB ? -y : y;
    const part = r - x;
    return x - (r - part) + (z - part) == 0;
  }
  if (kind == MUL) return x == 0 || y == 0 || shortProduct(x, y);
  if (kind == DIV) return x == 0 || (shortProduct(r, y) && r * y == x);
  return y == 0 || (shortProduct(r, r) && r * r == y);
}

/** The product of two normal numbers fits 53 bits, as their trailing zeros show. */
function shortProduct(x: f64, y: f64): bool {
  return ctz(reinterpret<u64>(x) | 0x10000000000000) + ctz(reinterpret<u64>(y) | 0x10000000000000) >= 53;
}

/** Result of an operation; unary SQRT takes b. Raises into softfloat80's flags. */
export function arith32(kind: u32, a: u32, b: u32): u32 {
  const csr = mxcsr();
  if (kind >= MIN) return extreme32(kind, a, b, csr);
  if ((csr & (RC | PM)) == PM) {
    const x = reinterpret<f32>(a);
    const y = reinterpret<f32>(b);
    let r: f32 = 0;
    switch (kind) {
      case ADD: { r = x + y; break; }
      case SUB: { r = x - y; break; }
      case MUL: { r = x * y; break; }
      case DIV: { r = x / y; break; }
      default: { r = sqrt<f32>(y); break; }
    }
    if (plain32(kind, a, b, reinterpret<u32>(r)) && ((csr & PE) != 0 || exact32(kind, x, y, r))) return reinterpret<u32>(r);
  }
  return slow32(kind, a, b, csr);
}

export function arith64(kind: u32, a: u64, b: u64): u64 {
  const csr = mxcsr();
  if (kind >= MIN) return extreme64(kind, a, b, csr);
  if ((csr & (RC | PM)) == PM) {
    const x = reinterpret<f64>(a);
    const y = reinterpret<f64>(b);
    let r: f64 = 0;
    switch (kind) {
      case ADD: { r = x + y; break; }
      case SUB: { r = x - y; break; }
      case MUL: { r = x * y; break; }
      case DIV: { r = x / y; break; }
      default: { r = sqrt<f64>(y); break; }
    }
    if (plain64(kind, a, b, reinterpret<u64>(r)) && ((csr & PE) != 0 || exact64(kind, x, y, r))) return reinterpret<u64>(r);
  }
  return slow64(kind, a, b, csr);
}

/** NaN result (SDM vol. 1, table 4-7): the first operand that is a NaN, made quiet. */
function nan32(a: u32, b: u32): u32 {
  if (isSignaling32(a) || isSignaling32(b)) raise(INVALID);
  return (isNaN32(a) ? a : b) | QUIET32;
}
function nan64(a: u64, b: u64): u64 {
  if (isSignaling64(a) || isSignaling64(b)) raise(INVALID);
  return (isNaN64(a) ? a : b) | QUIET64;
}

/** With DAZ a denormal operand counts as zero and raises nothing. */
function flushOperand(csr: u32): void {
  if ((csr & DAZ) == 0 || !denormalOperand) return;
  clearDenormal();
  setA(aSign, 0, 0, IS_ZERO);
}

function operand32(bits: u32, csr: u32): void {
  unpack32(bits);
  flushOperand(csr);
}
export function operand64(bits: u64, csr: u32): void {
  unpack64(bits);
  flushOperand(csr);
}

function slow32(kind: u32, a: u32, b: u32, csr: u32): u32 {
  if (kind == SQRT) a = b;
  if (isNaN32(a) || isNaN32(b)) return nan32(a, b);
  clearDenormal();
  operand32(b, csr);
  copyAToB();
  if (kind != SQRT) operand32(a, csr);
  compute(kind, csr);
  return round32(csr);
}

function slow64(kind: u32, a: u64, b: u64, csr: u32): u64 {
  if (kind == SQRT) a = b;
  if (isNaN64(a) || isNaN64(b)) return nan64(a, b);
  clearDenormal();
  operand64(b, csr);
  copyAToB();
  if (kind != SQRT) operand64(a, csr);
  compute(kind, csr);
  return round64(csr);
}

function compute(kind: u32, csr: u32): void {
  switch (kind) {
    case ADD: { add((csr >> 13) & 3); break; }
    case SUB: { negateB(); add((csr >> 13) & 3); break; }
    case MUL: { multiply(); break; }
    case DIV: { quotient(); break; }
    default: { squareRoot(); break; }
  }
  if (denormalOperand) raise(DENORMAL);
}

/** Rounds softfloat80's result to single precision, with FTZ. */
export function round32(csr: u32): u32 {
  if (rClass == IS_QUIET) return NAN32;
  if (rClass == IS_FINITE) {
    round(24, -126, 127, (csr >> 13) & 3, csr >> 7);
    flushResult(csr);
  }
  return pack32();
}

export function round64(csr: u32): u64 {
  if (rClass == IS_QUIET) return NAN64;
  if (rClass == IS_FINITE) {
    round(53, -1022, 1023, (csr >> 13) & 3, csr >> 7);
    flushResult(csr);
  }
  return pack64();
}

/** FTZ works only where underflow is masked (SDM vol. 1, 10.2.3.3). */
function flushResult(csr: u32): void {
  if (!tinyResult || (csr & (FTZ | UM)) != (FTZ | UM)) return;
  raise(UNDERFLOW | INEXACT);
  setClass(IS_ZERO);
}

/** MIN and MAX give the second operand when either is a NaN or both are zeros. */
function extreme32(kind: u32, a: u32, b: u32, csr: u32): u32 {
  if (isNaN32(a) || isNaN32(b)) {
    raise(INVALID);
    return (csr & DAZ) != 0 && isDenormal32(b) ? b & 0x80000000 : b;
  }
  a = denormal32(a, csr);
  b = denormal32(b, csr);
  const x = reinterpret<f32>(a);
  const y = reinterpret<f32>(b);
  return (kind == MIN ? x < y : x > y) ? a : b;
}

function extreme64(kind: u32, a: u64, b: u64, csr: u32): u64 {
  if (isNaN64(a) || isNaN64(b)) {
    raise(INVALID);
    return (csr & DAZ) != 0 && isDenormal64(b) ? b & 0x8000000000000000 : b;
  }
  a = denormal64(a, csr);
  b = denormal64(b, csr);
  const x = reinterpret<f64>(a);
  const y = reinterpret<f64>(b);
  return (kind == MIN ? x < y : x > y) ? a : b;
}

/** An operand that is used as it is: raises DENORMAL, or becomes zero with DAZ. */
function denormal32(bits: u32, csr: u32): u32 {
  if (!isDenormal32(bits)) return bits;
  if ((csr & DAZ) != 0) return bits & 0x80000000;
  raise(DENORMAL);
  return bits;
}
function denormal64(bits: u64, csr: u32): u64 {
  if (!isDenormal64(bits)) return bits;
  if ((csr & DAZ) != 0) return bits & 0x8000000000000000;
  raise(DENORMAL);
  return bits;
}

// ---- comparing

/** Order of two elements: -1, 0, 1, or 2 when unordered. INVALID for a signaling NaN, with `signaling` for any NaN. */
export function order32(a: u32, b: u32, signaling: bool): i32 {
  if (isNaN32(a) || isNaN32(b)) {
    if (signaling || isSignaling32(a) || isSignaling32(b)) raise(INVALID);
    return 2;
  }
  const csr = mxcsr();
  const x = reinterpret<f32>(denormal32(a, csr));
  const y = reinterpret<f32>(denormal32(b, csr));
  return x < y ? -1 : i32(x > y);
}
export function order64(a: u64, b: u64, signaling: bool): i32 {
  if (isNaN64(a) || isNaN64(b)) {
    if (signaling || isSignaling64(a) || isSignaling64(b)) raise(INVALID);
    return 2;
  }
  const csr = mxcsr();
  const x = reinterpret<f64>(denormal64(a, csr));
  const y = reinterpret<f64>(denormal64(b, csr));
  return x < y ? -1 : i32(x > y);
}

/** Predicates LT, LE, NLT, NLE of CMPccPS raise INVALID for quiet NaNs too. */
// @ts-ignore: decorator
@inline
function signalingPredicate(predicate: u32): bool {
  return (predicate & 3) == 1 || (predicate & 3) == 2;
}

function holds(predicate: u32, order: i32): bool {
  let result = false;
  switch (predicate & 3) {
    case 0: { result = order == 0; break; }
    case 1: { result = order == -1; break; }
    case 2: { result = order == -1 || order == 0; break; }
    default: { result = order == 2; break; }
  }
  return result != ((predicate & 4) != 0);
}

function compare32(a: u32, b: u32, predicate: u32): u32 {
  return holds(predicate, order32(a, b, signalingPredicate(predicate))) ? 0xffffffff : 0;
}
function compare64(a: u64, b: u64, predicate: u32): u64 {
  return holds(predicate, order64(a, b, signalingPredicate(predicate))) ? 0xffffffffffffffff : 0;
}

// ---- instructions

/** Scalar source: element of the register or of memory, which need not be aligned. */
export function source32(op: usize): u32 {
  return load<u8>(op, OP_MOD) != 0 ? rd32(ea(op)) : load<u32>(xmmRm(op));
}
export function source64(op: usize): u64 {
  return load<u8>(op, OP_MOD) != 0 ? rd64(ea(op)) : load<u64>(xmmRm(op));
}

export function scalar32(op: usize, kind: u32): void {
  const b = source32(op);
  const d = xmmReg(op);
  begin();
  const r = arith32(kind, load<u32>(d), b);
  commit();
  store<u32>(d, r);
}

export function scalar64(op: usize, kind: u32): void {
  const b = source64(op);
  const d = xmmReg(op);
  begin();
  const r = arith64(kind, load<u64>(d), b);
  commit();
  store<u64>(d, r);
}

// @ts-ignore: decorator
@inline
function abs32(x: v128): v128 {
  return v128.and(x, i32x4.splat(0x7fffffff));
}
// @ts-ignore: decorator
@inline
function abs64(x: v128): v128 {
  return v128.and(x, i64x2.splat(0x7fffffffffffffff));
}
// @ts-ignore: decorator
@inline
function normalLanes32(x: v128, least: u32): v128 {
  return i32x4.lt_u(i32x4.sub(x, i32x4.splat(least << 23)), i32x4.splat((0xff - least) << 23));
}
/** Wasm has no unsigned 64-bit lane comparison: magnitudes are positive, so the signed ones do. */
// @ts-ignore: decorator
@inline
function normalLanes64(x: v128, least: i64): v128 {
  return v128.and(i64x2.ge_s(x, i64x2.splat(least << 52)), i64x2.lt_s(x, i64x2.splat(0x7ff0000000000000)));
}

/** All four elements at once; false when an element needs more than that. The result is in VECTOR_SCRATCH. */
function quick32(kind: u32, a: v128, b: v128): bool {
  const zero = i32x4.splat(0);
  const pa = abs32(a);
  const pb = abs32(b);
  const za = i32x4.eq(pa, zero);
  const zb = i32x4.eq(pb, zero);
  const na = v128.or(za, normalLanes32(pa, 1));
  const nb = normalLanes32(pb, 1);
  let r: v128;
  let fine: v128;
  switch (kind) {
    case ADD:
    case SUB: {
      r = kind == ADD ? f32x4.add(a, b) : f32x4.sub(a, b);
      const pr = abs32(r);
      fine = v128.and(v128.and(na, v128.or(zb, nb)), v128.or(i32x4.eq(pr, zero), normalLanes32(pr, 1)));
      break;
    }
    case MUL: {
      r = f32x4.mul(a, b);
      fine = v128.and(v128.and(na, v128.or(zb, nb)), v128.or(v128.or(za, zb), normalLanes32(abs32(r), 2)));
      break;
    }
    case DIV: {
      r = f32x4.div(a, b);
      fine = v128.and(v128.and(na, nb), v128.or(za, normalLanes32(abs32(r), 2)));
      break;
    }
    case SQRT: {
      r = f32x4.sqrt(b);
      fine = v128.or(zb, v128.and(nb, i32x4.ge_s(b, zero)));
      break;
    }
    default: {
      r = v128.bitselect(a, b, kind == MIN ? f32x4.lt(a, b) : f32x4.gt(a, b));
      const infinity = i32x4.splat(0x7f800000);
      fine = v128.and(v128.or(na, i32x4.eq(pa, infinity)), v128.or(v128.or(zb, nb), i32x4.eq(pb, infinity)));
      break;
    }
  }
  v128.store(cpu, r, VECTOR_SCRATCH);
  return i32x4.all_true(fine);
}

function quick64(kind: u32, a: v128, b: v128): bool {
  const zero = i64x2.splat(0);
  const pa = abs64(a);
  const pb = abs64(b);
  const za = i64x2.eq(pa, zero);
  const zb = i64x2.eq(pb, zero);
  const na = v128.or(za, normalLanes64(pa, 1));
  const nb = normalLanes64(pb, 1);
  let r: v128;
  let fine: v128;
  switch (kind) {
    case ADD:
    case SUB: {
      r = kind == ADD ? f64x2.add(a, b) : f64x2.sub(a, b);
      const pr = abs64(r);
      fine = v128.and(v128.and(na, v128.or(zb, nb)), v128.or(i64x2.eq(pr, zero), normalLanes64(pr, 1)));
      break;
    }
    case MUL: {
      r = f64x2.mul(a, b);
      fine = v128.and(v128.and(na, v128.or(zb, nb)), v128.or(v128.or(za, zb), normalLanes64(abs64(r), 2)));
      break;
    }
    case DIV: {
      r = f64x2.div(a, b);
      fine = v128.and(v128.and(na, nb), v128.or(za, normalLanes64(abs64(r), 2)));
      break;
    }
    case SQRT: {
      r = f64x2.sqrt(b);
      fine = v128.or(zb, v128.and(nb, i64x2.ge_s(b, zero)));
      break;
    }
    default: {
      r = v128.bitselect(a, b, kind == MIN ? f64x2.lt(a, b) : f64x2.gt(a, b));
      const infinity = i64x2.splat(0x7ff0000000000000);
      fine = v128.and(v128.or(na, i64x2.eq(pa, infinity)), v128.or(v128.or(zb, nb), i64x2.eq(pb, infinity)));
      break;
    }
  }
  v128.store(cpu, r, VECTOR_SCRATCH);
  return i64x2.all_true(fine);
}

/** Temporaries: operands of the element loops, then their result. */
const TEMP_B: usize = VECTOR_SCRATCH + 16;
const TEMP_A: usize = VECTOR_SCRATCH + 32;

/** Result for four elements each; raises, but does not commit. */
export function arith32x4(kind: u32, a: v128, b: v128): v128 {
  if (((mxcsr() & (RC | PM | PE)) == (PM | PE) || kind >= MIN) && quick32(kind, a, b)) return v128.load(cpu, VECTOR_SCRATCH);
  v128.store(cpu, a, TEMP_A);
  v128.store(cpu, b, TEMP_B);
  for (let p = cpu, end = cpu + 16; p < end; p += 4) {
    store<u32>(p, arith32(kind, load<u32>(p, TEMP_A), load<u32>(p, TEMP_B)), VECTOR_SCRATCH);
  }
  return v128.load(cpu, VECTOR_SCRATCH);
}

export function arith64x2(kind: u32, a: v128, b: v128): v128 {
  if (((mxcsr() & (RC | PM | PE)) == (PM | PE) || kind >= MIN) && quick64(kind, a, b)) return v128.load(cpu, VECTOR_SCRATCH);
  v128.store(cpu, a, TEMP_A);
  v128.store(cpu, b, TEMP_B);
  for (let p = cpu, end = cpu + 16; p < end; p += 8) {
    store<u64>(p, arith64(kind, load<u64>(p, TEMP_A), load<u64>(p, TEMP_B)), VECTOR_SCRATCH);
  }
  return v128.load(cpu, VECTOR_SCRATCH);
}

export function packed32(op: usize, kind: u32): void {
  const b = src128(op);
  const d = xmmReg(op);
  begin();
  const r = arith32x4(kind, v128.load(d), b);
  commit();
  v128.store(d, r);
}

export function packed64(op: usize, kind: u32): void {
  const b = src128(op);
  const d = xmmReg(op);
  begin();
  const r = arith64x2(kind, v128.load(d), b);
  commit();
  v128.store(d, r);
}

/** CMPccPS, CMPccPD: legacy encodings have eight predicates in the low bits of the immediate. */
export function comparePacked32(op: usize): void {
  v128.store(cpu, src128(op), TEMP_B);
  const d = xmmReg(op);
  const predicate = load<u32>(op, OP_IMM) & 7;
  begin();
  for (let i: usize = 0; i < 16; i += 4) {
    store<u32>(cpu + i, compare32(load<u32>(d + i), load<u32>(cpu + i, TEMP_B), predicate), VECTOR_SCRATCH);
  }
  commit();
  v128.store(d, v128.load(cpu, VECTOR_SCRATCH));
}

export function comparePacked64(op: usize): void {
  v128.store(cpu, src128(op), TEMP_B);
  const d = xmmReg(op);
  const predicate = load<u32>(op, OP_IMM) & 7;
  begin();
  for (let i: usize = 0; i < 16; i += 8) {
    store<u64>(cpu + i, compare64(load<u64>(d + i), load<u64>(cpu + i, TEMP_B), predicate), VECTOR_SCRATCH);
  }
  commit();
  v128.store(d, v128.load(cpu, VECTOR_SCRATCH));
}

export function compareScalar32(op: usize): void {
  const b = source32(op);
  const d = xmmReg(op);
  begin();
  const r = compare32(load<u32>(d), b, load<u32>(op, OP_IMM) & 7);
  commit();
  store<u32>(d, r);
}

export function compareScalar64(op: usize): void {
  const b = source64(op);
  const d = xmmReg(op);
  begin();
  const r = compare64(load<u64>(d), b, load<u32>(op, OP_IMM) & 7);
  commit();
  store<u64>(d, r);
}
