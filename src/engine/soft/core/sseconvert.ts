/** SSE conversions between integers, single and double precision, and rounding to an integral value. */

import { VECTOR_SCRATCH } from './layout';
import { cpu } from './state';
import { ea, OP_A, OP_B, OP_IMM, OP_MOD, OP_PREFIX, PREFIX_REXW } from './record';
import { rd32, rd64 } from './memory';
import { low64, src128, src64, xmmReg } from './xmm';
import { begin, commit, DAZ, mxcsr, RC, roundingMode } from './mxcsr';
import {
  isDenormal32, isDenormal64, isNaN32, isNaN64, isSignaling32, isSignaling64, operand64, round32, round64, source32, source64,
} from './ssefloat';
import {
  clearDenormal, DENORMAL, denormalOperand, DOWN, INEXACT, INVALID, NEAREST, raise, resultFromA, TRUNCATE, unpackInt,
} from './softfloat80';

const QUIET32: u32 = 0x400000;
const QUIET64: u64 = 0x8000000000000;

// ---- one element

function singleToDouble(bits: u32): u64 {
  if (isNaN32(bits)) {
    if (isSignaling32(bits)) raise(INVALID);
    return (<u64>(bits & 0x80000000) << 32) | 0x7ff8000000000000 | (<u64>(bits & 0x7fffff) << 29);
  }
  if (isDenormal32(bits)) {
    if ((mxcsr() & DAZ) != 0) return <u64>(bits & 0x80000000) << 32;
    raise(DENORMAL);
  }
  return reinterpret<u64>(<f64>reinterpret<f32>(bits));
}

function doubleToSingle(bits: u64): u32 {
  if (isNaN64(bits)) {
    if (isSignaling64(bits)) raise(INVALID);
    return (<u32>(bits >> 32) & 0x80000000) | 0x7fc00000 | (<u32>(bits >> 29) & 0x7fffff);
  }
  const csr = mxcsr();
  if ((csr & RC) == 0) {
    const x = reinterpret<f64>(bits);
    const r = <f32>x;
    const field = (reinterpret<u32>(r) >> 23) & 0xff;
    if (x == 0 || (field > 1 && field < 0xff)) {
      if (<f64>r != x) raise(INEXACT);
      return reinterpret<u32>(r);
    }
  }
  clearDenormal();
  operand64(bits, csr);
  if (denormalOperand) raise(DENORMAL);
  resultFromA();
  return round32(csr);
}

function intToSingle(value: i64): u32 {
  const csr = mxcsr();
  if ((csr & RC) == 0) {
    const r = <f32>value;
    if (value == 0 || (ctz(value) + 24 >= 64 - clz(abs64(value)))) return reinterpret<u32>(r);
    raise(INEXACT);
    return reinterpret<u32>(r);
  }
  unpackInt(value);
  resultFromA();
  return round32(csr);
}

function intToDouble(value: i64): u64 {
  const csr = mxcsr();
  if ((csr & RC) == 0) {
    if (value != 0 && ctz(value) + 53 < 64 - clz(abs64(value))) raise(INEXACT);
    return reinterpret<u64>(<f64>value);
  }
  unpackInt(value);
  resultFromA();
  return round64(csr);
}

/** Magnitude; the most negative number has 2^63. */
// @ts-ignore: decorator
@inline
function abs64(value: i64): u64 {
  return <u64>(value < 0 ? 0 - value : value);
}

/** Rounds to an integral value; NaN and infinities pass. */
// @ts-ignore: decorator
@inline
function integral64(x: f64, rc: u32): f64 {
  if (rc == NEAREST) return nearest<f64>(x);
  if (rc == TRUNCATE) return trunc<f64>(x);
  return rc == DOWN ? floor<f64>(x) : ceil<f64>(x);
}
// @ts-ignore: decorator
@inline
function integral32(x: f32, rc: u32): f32 {
  if (rc == NEAREST) return nearest<f32>(x);
  if (rc == TRUNCATE) return trunc<f32>(x);
  return rc == DOWN ? floor<f32>(x) : ceil<f32>(x);
}

/** Signed 32-bit integer, or 80000000h and INVALID when it does not fit. */
function doubleToInt32(bits: u64, rc: u32): u32 {
  const x = flushed64(bits);
  const r = integral64(x, rc);
  if (!(r >= -2147483648.0 && r <= 2147483647.0)) {
    raise(INVALID);
    return 0x80000000;
  }
  if (r != x) raise(INEXACT);
  return <u32>(<i32>r);
}

function doubleToInt64(bits: u64, rc: u32): u64 {
  const x = flushed64(bits);
  const r = integral64(x, rc);
  if (!(r >= -9223372036854775808.0 && r < 9223372036854775808.0)) {
    raise(INVALID);
    return 0x8000000000000000;
  }
  if (r != x) raise(INEXACT);
  return <u64>(<i64>r);
}

/** Denormals as zero; conversions to integers do not raise DENORMAL. */
// @ts-ignore: decorator
@inline
function flushed64(bits: u64): f64 {
  return isDenormal64(bits) && (mxcsr() & DAZ) != 0 ? 0 : reinterpret<f64>(bits);
}

/** A single as a double of the same value, for conversion to an integer: raises nothing. */
// @ts-ignore: decorator
@inline
function widened(bits: u32): u64 {
  if (isDenormal32(bits) && (mxcsr() & DAZ) != 0) return 0;
  return reinterpret<u64>(<f64>reinterpret<f32>(bits));
}

function singleToInt32(bits: u32, rc: u32): u32 {
  return doubleToInt32(widened(bits), rc);
}
function singleToInt64(bits: u32, rc: u32): u64 {
  return doubleToInt64(widened(bits), rc);
}

/** ROUNDxx: `control` is its immediate. */
function roundSingle(bits: u32, control: u32): u32 {
  if (isNaN32(bits)) {
    if (isSignaling32(bits)) raise(INVALID);
    return bits | QUIET32;
  }
  if (isDenormal32(bits) && (mxcsr() & DAZ) != 0) return bits & 0x80000000;
  const x = reinterpret<f32>(bits);
  const r = integral32(x, (control & 4) != 0 ? roundingMode() : control & 3);
  if (r != x && (control & 8) == 0) raise(INEXACT);
  return reinterpret<u32>(r) | (bits & 0x80000000);
}

function roundDouble(bits: u64, control: u32): u64 {
  if (isNaN64(bits)) {
    if (isSignaling64(bits)) raise(INVALID);
    return bits | QUIET64;
  }
  if (isDenormal64(bits) && (mxcsr() & DAZ) != 0) return bits & 0x8000000000000000;
  const x = reinterpret<f64>(bits);
  const r = integral64(x, (control & 4) != 0 ? roundingMode() : control & 3);
  if (r != x && (control & 8) == 0) raise(INEXACT);
  return reinterpret<u64>(r) | (bits & 0x8000000000000000);
}

// ---- scalar instructions

/** Ey as a signed number: 64 bits with REX.W. */
function sourceInt(op: usize): i64 {
  if ((load<u16>(op, OP_PREFIX) & PREFIX_REXW) != 0) {
    return <i64>(load<u8>(op, OP_MOD) != 0 ? rd64(ea(op)) : load<u64>(load<u32>(op, OP_B)));
  }
  return <i64>(<i32>(load<u8>(op, OP_MOD) != 0 ? rd32(ea(op)) : load<u32>(load<u32>(op, OP_B))));
}

/** Gy, 64 bits with REX.W; 32-bit results clear the high half. */
function wide(op: usize): bool {
  return (load<u16>(op, OP_PREFIX) & PREFIX_REXW) != 0;
}

export function cvtsi2ss(op: usize): void {
  const value = sourceInt(op);
  begin();
  const r = intToSingle(value);
  commit();
  store<u32>(xmmReg(op), r);
}

export function cvtsi2sd(op: usize): void {
  const value = sourceInt(op);
  begin();
  const r = intToDouble(value);
  commit();
  store<u64>(xmmReg(op), r);
}

export function cvtss2si(op: usize, rc: u32): void {
  const bits = source32(op);
  begin();
  const r = wide(op) ? singleToInt64(bits, rc) : <u64>singleToInt32(bits, rc);
  commit();
  store<u64>(load<u32>(op, OP_A), r);
}

export function cvtsd2si(op: usize, rc: u32): void {
  const bits = source64(op);
  begin();
  const r = wide(op) ? doubleToInt64(bits, rc) : <u64>doubleToInt32(bits, rc);
  commit();
  store<u64>(load<u32>(op, OP_A), r);
}

export function cvtss2sd(op: usize): void {
  const bits = source32(op);
  begin();
  const r = singleToDouble(bits);
  commit();
  store<u64>(xmmReg(op), r);
}

export function cvtsd2ss(op: usize): void {
  const bits = source64(op);
  begin();
  const r = doubleToSingle(bits);
  commit();
  store<u32>(xmmReg(op), r);
}

export function roundss(op: usize): void {
  const bits = source32(op);
  begin();
  const r = roundSingle(bits, load<u8>(op, OP_IMM));
  commit();
  store<u32>(xmmReg(op), r);
}

export function roundsd(op: usize): void {
  const bits = source64(op);
  begin();
  const r = roundDouble(bits, load<u8>(op, OP_IMM));
  commit();
  store<u64>(xmmReg(op), r);
}

// ---- packed instructions: operand in TEMP, result in VECTOR_SCRATCH

const TEMP: usize = VECTOR_SCRATCH + 16;

function finish(op: usize): void {
  commit();
  v128.store(xmmReg(op), v128.load(cpu, VECTOR_SCRATCH));
}

function start(value: v128): void {
  v128.store(cpu, value, TEMP);
  v128.store(cpu, i32x4.splat(0), VECTOR_SCRATCH);
  begin();
}

export function roundps(op: usize): void {
  start(src128(op));
  for (let p = cpu, end = cpu + 16; p < end; p += 4) store<u32>(p, roundSingle(load<u32>(p, TEMP), load<u8>(op, OP_IMM)), VECTOR_SCRATCH);
  finish(op);
}

export function roundpd(op: usize): void {
  start(src128(op));
  for (let p = cpu, end = cpu + 16; p < end; p += 8) store<u64>(p, roundDouble(load<u64>(p, TEMP), load<u8>(op, OP_IMM)), VECTOR_SCRATCH);
  finish(op);
}

export function cvtps2pd(op: usize): void {
  start(low64(src64(op)));
  store<u64>(cpu, singleToDouble(load<u32>(cpu, TEMP)), VECTOR_SCRATCH);
  store<u64>(cpu, singleToDouble(load<u32>(cpu, TEMP + 4)), VECTOR_SCRATCH + 8);
  finish(op);
}

export function cvtpd2ps(op: usize): void {
  start(src128(op));
  store<u32>(cpu, doubleToSingle(load<u64>(cpu, TEMP)), VECTOR_SCRATCH);
  store<u32>(cpu, doubleToSingle(load<u64>(cpu, TEMP + 8)), VECTOR_SCRATCH + 4);
  finish(op);
}

export function cvtdq2ps(op: usize): void {
  start(src128(op));
  for (let p = cpu, end = cpu + 16; p < end; p += 4) store<u32>(p, intToSingle(load<i32>(p, TEMP)), VECTOR_SCRATCH);
  finish(op);
}

export function cvtdq2pd(op: usize): void {
  start(low64(src64(op)));
  store<f64>(cpu, <f64>load<i32>(cpu, TEMP), VECTOR_SCRATCH);
  store<f64>(cpu, <f64>load<i32>(cpu, TEMP + 4), VECTOR_SCRATCH + 8);
  finish(op);
}

export function cvtps2dq(op: usize, rc: u32): void {
  start(src128(op));
  for (let p = cpu, end = cpu + 16; p < end; p += 4) store<u32>(p, singleToInt32(load<u32>(p, TEMP), rc), VECTOR_SCRATCH);
  finish(op);
}

export function cvtpd2dq(op: usize, rc: u32): void {
  start(src128(op));
  store<u32>(cpu, doubleToInt32(load<u64>(cpu, TEMP), rc), VECTOR_SCRATCH);
  store<u32>(cpu, doubleToInt32(load<u64>(cpu, TEMP + 8), rc), VECTOR_SCRATCH + 4);
  finish(op);
}

// ---- with MMX operands: the callers of these move the 64-bit operand and result

/** CVTPI2PS: the low half of the destination changes. */
export function cvtpi2ps(op: usize, source: u64): void {
  begin();
  const r = <u64>intToSingle(<i64>(<i32>source)) | (<u64>intToSingle(<i64>source >> 32) << 32);
  commit();
  store<u64>(xmmReg(op), r);
}

export function cvtpi2pd(op: usize, source: u64): void {
  const d = xmmReg(op);
  store<f64>(d, <f64>(<i32>source));
  store<f64>(d, <f64>(<i64>source >> 32), 8);
}

export function cvtps2pi(source: u64, rc: u32): u64 {
  begin();
  const r = <u64>singleToInt32(<u32>source, rc) | (<u64>singleToInt32(<u32>(source >> 32), rc) << 32);
  commit();
  return r;
}

export function cvtpd2pi(source: v128, rc: u32): u64 {
  begin();
  const r = <u64>doubleToInt32(i64x2.extract_lane(source, 0), rc) | (<u64>doubleToInt32(i64x2.extract_lane(source, 1), rc) << 32);
  commit();
  return r;
}

// ---- approximations

/**
 * 1/x to well within the allowed relative error of 1.5 * 2^-12: rounded to single. Denormals count as zeros, denormal results become
 * zeros; no exceptions but NaN propagation.
 */
function reciprocal(bits: u32): u32 {
  if (isNaN32(bits)) return bits | QUIET32;
  if (isDenormal32(bits)) bits &= 0x80000000;
  const r = reinterpret<u32>(<f32>1 / reinterpret<f32>(bits));
  return isDenormal32(r) ? r & 0x80000000 : r;
}

/** 1/sqrt(x) likewise; negative numbers give the default NaN. */
function reciprocalRoot(bits: u32): u32 {
  if (isNaN32(bits)) return bits | QUIET32;
  if (isDenormal32(bits)) bits &= 0x80000000;
  if (bits << 1 != 0 && bits >> 31 != 0) return 0xffc00000;
  return reinterpret<u32>(<f32>(1 / sqrt<f64>(<f64>reinterpret<f32>(bits))));
}

export function approximatePacked(op: usize, root: bool): void {
  start(src128(op));
  for (let p = cpu, end = cpu + 16; p < end; p += 4) {
    const x = load<u32>(p, TEMP);
    store<u32>(p, root ? reciprocalRoot(x) : reciprocal(x), VECTOR_SCRATCH);
  }
  finish(op);
}

export function approximateScalar(op: usize, root: bool): void {
  const x = source32(op);
  store<u32>(xmmReg(op), root ? reciprocalRoot(x) : reciprocal(x));
}
