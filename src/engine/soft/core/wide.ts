/**
 * Floating point with a 128-bit significand, for the x87's transcendental functions: the significand is so much longer than the result's
 * 64 bits that truncating each step leaves the final rounding right but in rare cases. A number is 32 bytes in linear memory: significand
 * high and low (top bit set; zero has 0), exponent, sign; value = significand / 2^127 * 2^exp.
 */

import { divide, mulHigh, remainder } from './softfloat80';

const LO: usize = 8;
const EXP: usize = 16;
const SIGN: usize = 20;
export const WIDE_SIZE: usize = 32;

const TOP: u64 = 0x8000000000000000;

export function wideSet(d: usize, sign: u32, exp: i32, hi: u64, lo: u64): void {
  store<u64>(d, hi);
  store<u64>(d, lo, LO);
  store<i32>(d, exp, EXP);
  store<u32>(d, sign, SIGN);
}
export function wideCopy(d: usize, a: usize): void {
  wideSet(d, load<u32>(a, SIGN), load<i32>(a, EXP), load<u64>(a), load<u64>(a, LO));
}
export function wideHigh(a: usize): u64 {
  return load<u64>(a);
}
export function wideLow(a: usize): u64 {
  return load<u64>(a, LO);
}
export function wideExp(a: usize): i32 {
  return load<i32>(a, EXP);
}
export function wideSign(a: usize): u32 {
  return load<u32>(a, SIGN);
}
export function wideNegate(a: usize): void {
  store<u32>(a, load<u32>(a, SIGN) ^ 1, SIGN);
}
/** The next number towards zero: what a series whose terms are too small to add stays short of. */
export function wideDecrement(a: usize): void {
  const hi = load<u64>(a);
  const lo = load<u64>(a, LO) - 1;
  store<u64>(a, lo, LO);
  if (lo != u64.MAX_VALUE) return;
  if (hi == TOP) wideScale(a, -1);
  store<u64>(a, hi == TOP ? u64.MAX_VALUE : hi - 1);
}
/** Multiplies by a power of two. */
export function wideScale(a: usize, by: i32): void {
  store<i32>(a, load<i32>(a, EXP) + by, EXP);
}
export function wideInt(d: usize, n: u32): void {
  if (n == 0) wideSet(d, 0, 0, 0, 0);
  else wideSet(d, 0, 31 - <i32>clz(n), (<u64>n << 32) << <u64>clz(n), 0);
}

/** Stores hi:lo, of any magnitude, with the top bit moved up; `exp` is the exponent if it is already there. */
export function wideNormal(d: usize, sign: u32, exp: i32, hi: u64, lo: u64): void {
  if (hi == 0) {
    hi = lo;
    lo = 0;
    exp -= 64;
    if (hi == 0) {
      wideSet(d, 0, 0, 0, 0);
      return;
    }
  }
  const shift = clz(hi);
  if (shift != 0) {
    hi = (hi << shift) | (lo >> (64 - shift));
    lo <<= shift;
  }
  wideSet(d, sign, exp - <i32>shift, hi, lo);
}

export function wideMul(d: usize, a: usize, b: usize): void {
  const ah = load<u64>(a);
  const al = load<u64>(a, LO);
  const bh = load<u64>(b);
  const bl = load<u64>(b, LO);
  if (ah == 0 || bh == 0) {
    wideSet(d, 0, 0, 0, 0);
    return;
  }
  let hi = mulHigh(ah, bh);
  let lo = ah * bh;
  const cross = mulHigh(ah, bl);
  lo += cross;
  hi += u64(lo < cross);
  const cross2 = mulHigh(al, bh);
  lo += cross2;
  hi += u64(lo < cross2);
  wideNormal(d, load<u32>(a, SIGN) ^ load<u32>(b, SIGN), load<i32>(a, EXP) + load<i32>(b, EXP) + 1, hi, lo);
}

/** |a| < |b| */
function below(a: usize, b: usize): bool {
  if (load<u64>(a) == 0) return load<u64>(b) != 0;
  if (load<u64>(b) == 0) return false;
  if (load<i32>(a, EXP) != load<i32>(b, EXP)) return load<i32>(a, EXP) < load<i32>(b, EXP);
  if (load<u64>(a) != load<u64>(b)) return load<u64>(a) < load<u64>(b);
  return load<u64>(a, LO) < load<u64>(b, LO);
}

export function wideAdd(d: usize, a: usize, b: usize): void {
  if (below(a, b)) {
    const other = a;
    a = b;
    b = other;
  }
  const distance = load<i32>(a, EXP) - load<i32>(b, EXP);
  if (load<u64>(b) == 0 || distance > 127) {
    if (d != a) wideCopy(d, a);
    return;
  }
  let bh = load<u64>(b);
  let bl = load<u64>(b, LO);
  if (distance >= 64) {
    bl = bh >> (distance - 64);
    bh = 0;
  } else if (distance > 0) {
    bl = (bl >> distance) | (bh << (64 - distance));
    bh >>= distance;
  }
  const ah = load<u64>(a);
  const al = load<u64>(a, LO);
  const sign = load<u32>(a, SIGN);
  const exp = load<i32>(a, EXP);
  if (sign == load<u32>(b, SIGN)) {
    const lo = al + bl;
    const carry = u64(lo < al);
    const hi = ah + bh + carry;
    if (hi < ah || (hi == ah && carry != 0)) wideSet(d, sign, exp + 1, TOP | (hi >> 1), (lo >> 1) | (hi << 63));
    else wideSet(d, sign, exp, hi, lo);
    return;
  }
  wideNormal(d, sign, exp, ah - bh - u64(al < bl), al - bl);
}

/** a - b, for different a and b. */
export function wideSub(d: usize, a: usize, b: usize): void {
  wideNegate(b);
  wideAdd(d, a, b);
  if (d != b) wideNegate(b);
}

/** a / n, for n in [1, 2^31). */
export function wideDivInt(d: usize, a: usize, n: u32): void {
  const hi = load<u64>(a);
  if (hi == 0) {
    wideSet(d, 0, 0, 0, 0);
    return;
  }
  const shift = <u64>clz(<u64>n);
  const divisor = <u64>n << shift;
  // hi:lo:0 / n in three digits of 64 bits, both shifted up so that the divisor has its top bit set
  const q2 = divide(hi >> (64 - shift), (hi << shift) | (load<u64>(a, LO) >> (64 - shift)), divisor);
  const q1 = divide(remainder, load<u64>(a, LO) << shift, divisor);
  const q0 = divide(remainder, 0, divisor);
  const up = <u64>clz(q2); // 0 for n = 1, else 1..31
  if (up == 0) wideSet(d, load<u32>(a, SIGN), load<i32>(a, EXP), q2, q1);
  else wideSet(d, load<u32>(a, SIGN), load<i32>(a, EXP) - <i32>up, (q2 << up) | (q1 >> (64 - up)), (q1 << up) | (q0 >> (64 - up)));
}

/** a / b by shifting and subtracting, for b != 0. */
export function wideDiv(d: usize, a: usize, b: usize): void {
  let rh = load<u64>(a);
  let rl = load<u64>(a, LO);
  if (rh == 0) {
    wideSet(d, 0, 0, 0, 0);
    return;
  }
  const bh = load<u64>(b);
  const bl = load<u64>(b, LO);
  let exp = load<i32>(a, EXP) - load<i32>(b, EXP);
  let carry: u64 = 0;
  if (rh < bh || (rh == bh && rl < bl)) {
    carry = rh >> 63;
    rh = (rh << 1) | (rl >> 63);
    rl <<= 1;
    exp -= 1;
  }
  let qh: u64 = 0;
  let ql: u64 = 0;
  for (let i = 0; i < 128; i++) {
    qh = (qh << 1) | (ql >> 63);
    ql <<= 1;
    if (carry != 0 || rh > bh || (rh == bh && rl >= bl)) {
      rh = rh - bh - u64(rl < bl);
      rl -= bl;
      ql |= 1;
    }
    carry = rh >> 63;
    rh = (rh << 1) | (rl >> 63);
    rl <<= 1;
  }
  wideSet(d, load<u32>(a, SIGN) ^ load<u32>(b, SIGN), exp, qh, ql);
}
