/**
 * x87 transcendental functions (Intel SDM vol. 1, 8.3.6 to 8.3.10; vol. 2), by series in 128-bit floating point. The error before the
 * final rounding is below 2^-110 of the result, so results are correctly rounded but for one case in 2^45 or so; CPUs promise 1 ulp.
 * Arguments of the trigonometric functions are reduced, exactly, by the 66-bit value of pi that Intel's and AMD's CPUs use (SDM vol. 1,
 * 8.3.8).
 */

import { VECTOR_SCRATCH } from './layout';
import { cpu } from './state';
import {
  aClass, aExp, aSig, aSign, bClass, bExp, bSig, bSign, clearDenormal, copyAToB, INEXACT, INVALID, IS_FINITE, IS_INFINITE, IS_QUIET,
  IS_ZERO, packSig80, packWord80, raise, resultFromA, round, setClass, setR, setSign, UNDERFLOW, ZERO_DIVIDE,
} from './softfloat80';
import {
  clearC2, INDEFINITE_SIG, INDEFINITE_WORD, isEmpty, loadSt, masked, pop, push, roundingControl, setC2, setSt, stackFault,
} from './x87state';
import {
  aIsNaN, begin, bothUsed, eitherIsNaN, EMAX, EMIN, storeEitherNaN, storeIndefinite, storeNaN, storeResult, used,
} from './x87arith';
import {
  WIDE_SIZE, wideAdd, wideCopy, wideDecrement, wideDiv, wideDivInt, wideExp, wideHigh, wideInt, wideLow, wideMul, wideNegate, wideNormal,
  wideScale, wideSet, wideSign, wideSub,
} from './wide';

const PI_HIGH: u64 = 0xc90fdaa22168c234;
const PI_LOW: u64 = 0xc4c6628b80dc1cd1;
/** Low half of the 66-bit pi. */
const PI66_LOW: u64 = 0xc000000000000000;
const SQRT2: u64 = 0xb504f333f9de6484;

/** Bits of a series' sum that a further term must reach to matter. */
const PRECISION = 130;

/** Temporaries. */
// @ts-ignore: decorator
@inline
function slot(n: usize): usize {
  return cpu + VECTOR_SCRATCH + n * WIDE_SIZE;
}

function wideFromA(d: usize): void {
  wideSet(d, aSign, aExp, aSig, 0);
}

/** The wide number becomes softfloat80's result, which lies a little above it. */
function wideResult(a: usize): void {
  setR(wideSign(a), wideExp(a), wideHigh(a), wideLow(a) | 1);
}

// ---- series. `x` in slot s; result in slot d; uses slots 12 to 15

/** x + sum of c_k x^(2k+1): sine and tangent's kin. `kind` chooses the coefficients. */
const SINE: u32 = 0; // (-1)^k / (2k+1)!
const ARCTANGENT: u32 = 1; // (-1)^k / (2k+1)
const ARTANH: u32 = 2; // 1 / (2k+1)

function oddSeries(d: usize, x: usize, kind: u32): void {
  const square = slot(12);
  const power = slot(13);
  const term = slot(14);
  wideMul(square, x, x);
  wideCopy(power, x);
  wideCopy(d, x);
  if (wideHigh(x) == 0) return;
  for (let n: u32 = 3; ; n += 2) {
    wideMul(power, power, square);
    if (kind != ARTANH) wideNegate(power);
    if (kind == SINE) wideDivInt(power, power, n * (n - 1));
    if (wideExp(power) < wideExp(d) - PRECISION) {
      if (n == 3 && kind != ARTANH) wideDecrement(d);
      return;
    }
    if (kind == SINE) {
      wideAdd(d, d, power);
    } else {
      wideDivInt(term, power, n);
      wideAdd(d, d, term);
    }
  }
}

function cosineSeries(d: usize, x: usize): void {
  const square = slot(12);
  const power = slot(13);
  wideMul(square, x, x);
  wideInt(power, 1);
  wideInt(d, 1);
  if (wideHigh(square) == 0) return;
  for (let n: u32 = 2; ; n += 2) {
    wideMul(power, power, square);
    wideNegate(power);
    wideDivInt(power, power, n * (n - 1));
    if (wideExp(power) < wideExp(d) - PRECISION) {
      if (n == 2) wideDecrement(d);
      return;
    }
    wideAdd(d, d, power);
  }
}

/** e^x - 1 for |x| < 1. */
function exponentialSeries(d: usize, x: usize): void {
  const power = slot(13);
  wideCopy(power, x);
  wideCopy(d, x);
  for (let n: u32 = 2; ; n++) {
    wideMul(power, power, x);
    wideDivInt(power, power, n);
    if (wideExp(power) < wideExp(d) - PRECISION) return;
    wideAdd(d, d, power);
  }
}

// ---- trigonometric

/** Quadrant of the argument last reduced. */
let quadrant: u32 = 0;

/** |a| less the nearest multiple of pi/2, exactly, in slot d; its quadrant. */
function reduce(d: usize): void {
  quadrant = 0;
  if (aExp < -1) {
    wideSet(d, 0, aExp, aSig, 0);
    return;
  }
  // 128-bit remainder of the significands by shifting and subtracting, in units of pi/2's last place
  let hi = aExp < 0 ? aSig >> 1 : aSig;
  let lo: u64 = aExp < 0 ? aSig << 63 : 0;
  let carry = false;
  for (let i = 0; ; i++) {
    quadrant <<= 1;
    if (carry || hi > PI_HIGH || (hi == PI_HIGH && lo >= PI66_LOW)) {
      hi = hi - PI_HIGH - u64(lo < PI66_LOW);
      lo -= PI66_LOW;
      quadrant |= 1;
    }
    if (i >= aExp) break;
    carry = <i64>hi < 0;
    hi = (hi << 1) | (lo >> 63);
    lo <<= 1;
  }
  // nearest: at most pi/4 is left
  const borrow = u64(PI66_LOW < lo);
  const otherHigh = PI_HIGH - hi - borrow;
  const otherLow = PI66_LOW - lo;
  let sign: u32 = 0;
  if (otherHigh < hi || (otherHigh == hi && otherLow < lo)) {
    hi = otherHigh;
    lo = otherLow;
    sign = 1;
    quadrant += 1;
  }
  wideNormal(d, sign, 0, hi, lo);
}

/** Sine of a to slot 2, cosine to slot 3. */
function sineAndCosine(): void {
  const negative = aSign != 0;
  reduce(slot(1));
  oddSeries(slot(4), slot(1), SINE);
  cosineSeries(slot(5), slot(1));
  const odd = (quadrant & 1) != 0;
  wideCopy(slot(2), odd ? slot(5) : slot(4));
  wideCopy(slot(3), odd ? slot(4) : slot(5));
  if (((quadrant & 2) != 0) != negative) wideNegate(slot(2));
  if (((quadrant + 1) & 2) != 0) wideNegate(slot(3));
}

const SIN: u32 = 0;
const COS: u32 = 1;
const TAN: u32 = 2;
const SINCOS: u32 = 3;

/** FSIN, FCOS, FPTAN, FSINCOS. */
function trigonometric(kind: u32): void {
  const pushes = kind >= TAN;
  clearC2();
  if (isEmpty(0) || (pushes && !isEmpty(7))) {
    if (stackFault(!isEmpty(0))) {
      setSt(0, INDEFINITE_SIG, INDEFINITE_WORD);
      if (pushes) push(INDEFINITE_SIG, INDEFINITE_WORD);
    }
    return;
  }
  begin();
  loadSt(0);
  if (aIsNaN()) {
    if (storeNaN(0) && pushes) copyTop();
    return;
  }
  if (aClass == IS_INFINITE) {
    if (storeIndefinite(0) && pushes) copyTop();
    return;
  }
  if (aClass == IS_ZERO) {
    if (kind == COS) setSt(0, 0x8000000000000000, 16383);
    else if (pushes) push(0x8000000000000000, 16383);
    return;
  }
  if (aExp >= 63) {
    setC2();
    return;
  }
  sineAndCosine();
  if (kind == TAN) {
    if (aExp < -64) wideFromA(slot(2)); // a little more than that
    else wideDiv(slot(2), slot(2), slot(3));
  }
  wideResult(kind == COS ? slot(3) : slot(2));
  if (!storeResult(0, 64) || !pushes) return;
  if (kind == TAN) {
    push(0x8000000000000000, 16383);
  } else {
    wideResult(slot(3));
    round(64, EMIN, EMAX, roundingControl(), masked());
    push(packSig80(), packWord80());
  }
}

/** Pushes a copy of ST(0). */
function copyTop(): void {
  loadSt(0);
  push(aSig, (aSign << 15) | 0x7fff);
}

export function sine(): void { trigonometric(SIN); }
export function cosine(): void { trigonometric(COS); }
export function tangent(): void { trigonometric(TAN); }
export function sineCosine(): void { trigonometric(SINCOS); }

/** Arctangent of the number in slot s, in [0, 1], to slot d. */
function arctangent(d: usize, s: usize): void {
  if (wideExp(s) < -2 || wideHigh(s) == 0) {
    oddSeries(d, s, ARCTANGENT);
    return;
  }
  // atan t = atan c + atan((t - c) / (1 + t c)) for c = 1/2 or 1
  const half = wideExp(s) == -2 || (wideExp(s) == -1 && wideHigh(s) < 0xc000000000000000);
  const c = slot(6);
  wideInt(c, 1);
  if (half) wideScale(c, -1);
  const numerator = slot(7);
  const denominator = slot(8);
  wideSub(numerator, s, c);
  wideMul(denominator, s, c);
  wideInt(slot(9), 1);
  wideAdd(denominator, denominator, slot(9));
  wideDiv(numerator, numerator, denominator);
  oddSeries(d, numerator, ARCTANGENT);
  if (half) wideSet(c, 0, -2, 0xed63382b0dda7b45, 0x6fe445ecbc3a8d03);
  else wideSet(c, 0, -1, PI_HIGH, PI_LOW);
  wideAdd(d, d, c);
}

/** Multiple of pi/4, of sign `sign`, as the result. */
function quarterPi(n: u32, sign: u32): void {
  wideSet(slot(1), sign, -1, PI_HIGH, PI_LOW);
  wideInt(slot(2), n);
  wideMul(slot(1), slot(1), slot(2));
  wideResult(slot(1));
}

/** FPATAN: ST(1) = angle of the point (ST(0), ST(1)), then pop (SDM vol. 2, table 3-30). */
export function angle(): void {
  if (!bothUsed(0, 1, 1, true)) return;
  begin();
  loadSt(1);
  copyAToB();
  loadSt(0);
  if (eitherIsNaN()) {
    if (storeEitherNaN(1)) pop();
    return;
  }
  const sign = bSign;
  const left = aSign != 0;
  if (bClass == IS_INFINITE) {
    quarterPi(aClass == IS_INFINITE ? (left ? 3 : 1) : 2, sign);
  } else if (bClass == IS_ZERO || aClass == IS_INFINITE) {
    if (left) {
      quarterPi(4, sign);
    } else {
      setSign(sign);
      setClass(IS_ZERO);
    }
  } else if (aClass == IS_ZERO) {
    quarterPi(2, sign);
  } else {
    const x = slot(1);
    const y = slot(2);
    const angleSlot = slot(4);
    wideSet(x, 0, aExp, aSig, 0);
    wideSet(y, 0, bExp, bSig, 0);
    const steep = bExp > aExp || (bExp == aExp && bSig > aSig);
    wideDiv(slot(3), steep ? x : y, steep ? y : x);
    arctangent(angleSlot, slot(3));
    if (steep) {
      wideSet(x, 0, 0, PI_HIGH, PI_LOW);
      wideSub(angleSlot, x, angleSlot);
    }
    if (left) {
      wideSet(x, 0, 1, PI_HIGH, PI_LOW);
      wideSub(angleSlot, x, angleSlot);
    }
    if (sign != 0) wideNegate(angleSlot);
    wideResult(angleSlot);
  }
  if (storeResult(1, 64)) pop();
}

// ---- exponential and logarithms

/** F2XM1: 2^ST(0) - 1 for |ST(0)| <= 1; beyond that the result is undefined, here ST(0) unchanged. */
export function powerLessOne(): void {
  if (!used()) return;
  begin();
  loadSt(0);
  if (aIsNaN()) {
    storeNaN(0);
    return;
  }
  resultFromA();
  if (aClass == IS_INFINITE && aSign != 0) {
    setR(1, 0, 0x8000000000000000, 0);
  } else if (aClass == IS_FINITE && aExp >= 0) {
    if (aExp != 0 || aSig != 0x8000000000000000) raise(INEXACT);
    else if (aSign != 0) setR(1, -1, aSig, 0);
  } else if (aClass == IS_FINITE) {
    wideFromA(slot(1));
    wideSet(slot(2), 0, -1, 0xb17217f7d1cf79ab, 0xc9e3b39803f2f6af); // ln 2
    wideMul(slot(1), slot(1), slot(2));
    exponentialSeries(slot(3), slot(1));
    wideResult(slot(3));
  }
  storeResult(0, 64);
}

/** Slot d times 2 / ln 2. */
function toBinaryLogarithm(d: usize): void {
  wideSet(slot(9), 0, 1, 0xb8aa3b295c17f0bb, 0xbe87fed0691d3e89);
  wideMul(d, d, slot(9));
}

/** Binary logarithm of the positive number in slot x to slot d. */
function binaryLogarithm(d: usize, x: usize): void {
  // x = m * 2^e, m in (sqrt 1/2, sqrt 2]; ln m = 2 artanh((m - 1) / (m + 1))
  const large = wideHigh(x) > SQRT2;
  const e = large ? wideExp(x) + 1 : wideExp(x);
  wideScale(x, -e);
  wideInt(slot(2), 1);
  wideSub(slot(3), x, slot(2));
  wideAdd(x, x, slot(2));
  wideDiv(slot(3), slot(3), x);
  oddSeries(d, slot(3), ARTANH);
  toBinaryLogarithm(d);
  wideInt(slot(5), <u32>abs<i32>(e));
  if (e < 0) wideNegate(slot(5));
  wideAdd(d, d, slot(5));
}

/** Slot a times operand b becomes the result. One that is exact counts as inexact all the same, as CPUs have it. */
function multiplyByB(a: usize, exact: bool): void {
  wideSet(slot(6), bSign, bExp, bSig, 0);
  wideMul(a, a, slot(6));
  wideResult(a);
  if (!exact) return;
  setR(wideSign(a), wideExp(a), wideHigh(a), wideLow(a));
  raise(wideExp(a) < EMIN ? INEXACT | UNDERFLOW : INEXACT);
}

/**
 * Settles the product of b and a logarithm of sign `logarithm` (-1, 0, 1) where either is zero or b infinite; false where it must be
 * computed.
 */
function specialProduct(logarithm: i32): bool {
  if (logarithm == 0) {
    if (bClass == IS_INFINITE) setInvalid();
    else zeroOrInfinity(IS_ZERO, bSign);
    return true;
  }
  if (bClass == IS_ZERO) {
    zeroOrInfinity(IS_ZERO, bSign ^ u32(logarithm < 0));
    return true;
  }
  if (bClass == IS_INFINITE) {
    zeroOrInfinity(IS_INFINITE, bSign ^ u32(logarithm < 0));
    return true;
  }
  return false;
}

function zeroOrInfinity(kind: i32, sign: u32): void {
  setSign(sign);
  setClass(kind);
}

function setInvalid(): void {
  raise(INVALID);
  clearDenormal();
  setClass(IS_QUIET);
}

/** FYL2X: ST(1) = ST(1) * log2 ST(0), then pop (SDM vol. 2, table 3-47). */
export function logarithm(): void {
  if (!bothUsed(0, 1, 1, true)) return;
  begin();
  loadSt(1);
  copyAToB();
  loadSt(0);
  if (eitherIsNaN()) {
    if (storeEitherNaN(1)) pop();
    return;
  }
  if (aClass == IS_ZERO) {
    if (bClass == IS_ZERO) {
      setInvalid();
    } else {
      if (bClass == IS_FINITE) raise(ZERO_DIVIDE);
      clearDenormal();
      zeroOrInfinity(IS_INFINITE, bSign ^ 1);
    }
  } else if (aSign != 0) {
    setInvalid();
  } else if (aClass == IS_INFINITE) {
    if (bClass == IS_ZERO) setInvalid();
    else zeroOrInfinity(IS_INFINITE, bSign);
  } else {
    const powerOfTwo = aSig == 0x8000000000000000;
    if (!specialProduct(powerOfTwo && aExp == 0 ? 0 : aExp < 0 ? -1 : 1)) {
      wideFromA(slot(1));
      binaryLogarithm(slot(4), slot(1));
      multiplyByB(slot(4), powerOfTwo);
    }
  }
  if (storeResult(1, 64)) pop();
}

/**
 * FYL2XP1: ST(1) = ST(1) * log2(ST(0) + 1), then pop. Defined for |ST(0)| <= 1 - sqrt(1/2); here right for all ST(0) > -1, and ST(0)
 * itself below.
 */
export function logarithmPlusOne(): void {
  if (!bothUsed(0, 1, 1, true)) return;
  begin();
  loadSt(1);
  copyAToB();
  loadSt(0);
  if (eitherIsNaN()) {
    if (storeEitherNaN(1)) pop();
    return;
  }
  if (aClass == IS_ZERO) {
    if (bClass == IS_INFINITE) setInvalid();
    else zeroOrInfinity(IS_ZERO, aSign ^ bSign);
  } else if (aSign != 0 && aClass == IS_INFINITE) {
    setInvalid();
  } else if (aSign != 0 && aExp >= 0 && bClass == IS_FINITE) {
    resultFromA();
    raise(INEXACT);
  } else if (aClass == IS_INFINITE) {
    if (bClass == IS_ZERO) setInvalid();
    else zeroOrInfinity(IS_INFINITE, bSign);
  } else if (!specialProduct(aSign != 0 ? -1 : 1)) {
    wideFromA(slot(1));
    if (aExp >= -1) {
      wideInt(slot(2), 1);
      wideAdd(slot(1), slot(1), slot(2));
      binaryLogarithm(slot(4), slot(1));
    } else {
      // ln(1 + x) = 2 artanh(x / (2 + x)), which loses nothing for small x
      wideInt(slot(2), 2);
      wideAdd(slot(2), slot(2), slot(1));
      wideDiv(slot(3), slot(1), slot(2));
      oddSeries(slot(4), slot(3), ARTANH);
      toBinaryLogarithm(slot(4));
    }
    multiplyByB(slot(4), false);
  }
  if (storeResult(1, 64)) pop();
}
