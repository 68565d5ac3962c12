/** x87 arithmetic, comparison, and the exact operations: FPREM, FSCALE, FXTRACT, FRNDINT (Intel SDM vol. 1, 8.3; vol. 2). */

import {
  aClass, add, aExp, aSig, aSign, bClass, bExp, bSig, bSign, clearDenormal, compareAB, copyAToB, DENORMAL, denormalOperand, integerOfA,
  INVALID, IS_FINITE, IS_INFINITE, IS_QUIET, IS_SIGNALING, IS_UNSUPPORTED, IS_ZERO, multiply, NEAREST, negateB, packSig80, packWord80,
  quotient, raise, rClass, resultFromA, rExp, round, setClass, setR, setRaised, setSign, squareRoot, swapAB, unpackInt, ZERO_DIVIDE,
} from './softfloat80';
import {
  clearC2, INDEFINITE_SIG, INDEFINITE_WORD, isEmpty, loadSt, masked, pop, precision, push, roundingControl, setC1, setConditions, setSt,
  signal, signalRounded, st, stackFault, SW_C0, SW_C1, SW_C2, SW_C3,
} from './x87state';

const QUIET: u64 = 0x4000000000000000;
export const EMIN = -16382;
export const EMAX = 16383;

/** Start of an instruction's computation. */
export function begin(): void {
  setRaised(0);
  clearDenormal();
}

/** True if ST(i) and ST(j) are in use; else the masked response: ST(to) becomes indefinite, and the stack is popped if `pops`. */
export function bothUsed(i: u32, j: u32, to: u32, pops: bool): bool {
  if (!isEmpty(i) && !isEmpty(j)) return true;
  if (stackFault(false)) {
    setSt(to, INDEFINITE_SIG, INDEFINITE_WORD);
    if (pops) pop();
  }
  return false;
}

/** The same for one operand, ST(0). */
export function used(): bool {
  return bothUsed(0, 0, 0, false);
}

// ---- results

/** Rounds the result r to `keep` bits, signals, and stores it in ST(i) unless an unmasked exception forbids. True if stored. */
export function storeResult(i: u32, keep: i32): bool {
  if (rClass == IS_FINITE) round(keep, EMIN, EMAX, roundingControl(), masked());
  if (denormalOperand) raise(DENORMAL);
  if (!signalRounded()) return false;
  if (rClass == IS_QUIET) setSt(i, INDEFINITE_SIG, INDEFINITE_WORD);
  else setSt(i, packSig80(), packWord80());
  return true;
}

export function storeIndefinite(i: u32): bool {
  raise(INVALID);
  return storeQuiet(i, INDEFINITE_SIG, 1);
}

function storeQuiet(i: u32, sig: u64, sign: u32): bool {
  if (!signalRounded()) return false;
  setSt(i, sig | QUIET, (sign << 15) | 0x7fff);
  return true;
}

/** Operand a is a NaN or an unsupported format. */
export function aIsNaN(): bool {
  return aClass >= IS_QUIET;
}
export function eitherIsNaN(): bool {
  return aClass >= IS_QUIET || bClass >= IS_QUIET;
}

/** Result of an operation on one operand that is a NaN or unsupported. */
export function storeNaN(i: u32): bool {
  if (aClass == IS_UNSUPPORTED) return storeIndefinite(i);
  if (aClass == IS_SIGNALING) raise(INVALID);
  return storeQuiet(i, aSig, aSign);
}

/**
 * Result of an operation on a and b, either a NaN or unsupported (SDM vol. 1, table 4-7): a quiet NaN before a signaling one, else the
 * larger significand.
 */
export function storeEitherNaN(i: u32): bool {
  if (aClass == IS_UNSUPPORTED || bClass == IS_UNSUPPORTED) return storeIndefinite(i);
  if (aClass == IS_SIGNALING || bClass == IS_SIGNALING) raise(INVALID);
  let takeA = aClass >= IS_QUIET;
  if (aClass >= IS_QUIET && bClass >= IS_QUIET) {
    if (aClass != bClass) takeA = aClass == IS_QUIET;
    else takeA = aSig == bSig ? aSign <= bSign : (aSig | QUIET) > (bSig | QUIET);
  }
  return takeA ? storeQuiet(i, aSig, aSign) : storeQuiet(i, bSig, bSign);
}

// ---- arithmetic: a is ST(0), b the other operand

/** The arithmetic operations by the reg field: 0 add, 1 mul, 4 a - b, 5 b - a, 6 a / b, 7 b / a. Result to ST(to). True if stored. */
export function arithmetic(operation: u32, to: u32): bool {
  if (eitherIsNaN()) return storeEitherNaN(to);
  switch (operation) {
    case 0: { add(roundingControl()); break; }
    case 1: { multiply(); break; }
    case 4: { negateB(); add(roundingControl()); break; }
    case 5: { swapAB(); negateB(); add(roundingControl()); break; }
    case 6: { quotient(); break; }
    default: { swapAB(); quotient(); break; }
  }
  return storeResult(to, precision());
}

/**
 * Condition codes of a comparison of a with b; `quiet`: only signaling NaNs are invalid. True unless an unmasked exception forbids
 * popping.
 */
export function compare(quiet: bool): bool {
  const order = compareOperands(quiet);
  const proceeds = signal();
  setConditions(conditionsOf(order));
  return proceeds;
}

/** -1, 0, 1, or 2 for unordered. */
export function compareOperands(quiet: bool): i32 {
  if (eitherIsNaN()) {
    if (!quiet || aClass > IS_QUIET || bClass > IS_QUIET) raise(INVALID);
    return 2;
  }
  if (denormalOperand) raise(DENORMAL);
  return compareAB();
}

function conditionsOf(order: i32): u32 {
  return order == 2 ? SW_C3 | SW_C2 | SW_C0 : order < 0 ? SW_C0 : order == 0 ? SW_C3 : 0;
}

/** FTST. */
export function testZero(): void {
  begin();
  if (isEmpty(0)) {
    unorderedFault();
    return;
  }
  unpackInt(0);
  copyAToB();
  loadSt(0);
  compare(false);
}

/** Comparison with an empty register. True if masked. */
export function unorderedFault(): bool {
  const proceeds = stackFault(false);
  setConditions(SW_C3 | SW_C2 | SW_C0);
  return proceeds;
}

export function examine(): void {
  const at = st(0);
  const word: u32 = load<u16>(at, 8);
  const sign: u32 = (word & 0x8000) != 0 ? SW_C1 : 0;
  if (isEmpty(0)) {
    setConditions(sign | SW_C3 | SW_C0);
    return;
  }
  loadSt(0);
  let code: u32;
  if (aClass == IS_ZERO) code = SW_C3;
  else if (aClass == IS_FINITE) code = (word & 0x7fff) == 0 ? SW_C3 | SW_C2 : SW_C2;
  else if (aClass == IS_INFINITE) code = SW_C2 | SW_C0;
  else if (aClass == IS_UNSUPPORTED) code = 0;
  else code = SW_C0;
  setConditions(sign | code);
}

/** FCHS (flip) and FABS: the sign alone, whatever the register holds. */
export function changeSign(flip: bool): void {
  if (!used()) return;
  const at = st(0);
  const word: u32 = load<u16>(at, 8);
  store<u16>(at, flip ? word ^ 0x8000 : word & 0x7fff, 8);
  setC1(false);
}

export function root(): void {
  if (!used()) return;
  begin();
  loadSt(0);
  if (aIsNaN()) {
    storeNaN(0);
    return;
  }
  squareRoot();
  storeResult(0, precision());
}

export function roundToInteger(): void {
  if (!used()) return;
  begin();
  loadSt(0);
  if (aIsNaN()) {
    storeNaN(0);
    return;
  }
  const large = aClass != IS_FINITE || aExp >= 63;
  const sign = aSign;
  const magnitude = large ? 0 : integerOfA(roundingControl());
  if (denormalOperand) raise(DENORMAL);
  if (!signalRounded() || large) return;
  if (magnitude == 0) {
    setSt(0, 0, sign << 15);
    return;
  }
  const shift = clz(magnitude);
  setSt(0, magnitude << shift, (sign << 15) | (16383 + 63 - <u32>shift));
}

/** FSCALE: ST(0) * 2^trunc(ST(1)). */
export function scale(): void {
  if (!bothUsed(0, 1, 0, false)) return;
  begin();
  loadSt(1);
  copyAToB();
  loadSt(0);
  if (eitherIsNaN()) {
    storeEitherNaN(0);
    return;
  }
  if (bClass == IS_INFINITE) {
    const invalid = aClass == (bSign != 0 ? IS_INFINITE : IS_ZERO);
    if (invalid) {
      storeIndefinite(0);
      return;
    }
    setSign(aSign);
    setClass(bSign != 0 ? IS_ZERO : IS_INFINITE);
    storeResult(0, 64);
    return;
  }
  resultFromA();
  if (aClass == IS_FINITE && bClass == IS_FINITE) {
    // anything from 2^16 on overflows or underflows in any case
    const distance = bExp < 0 ? 0 : bExp > 16 ? 0x10000 : <i32>(bSig >> (63 - bExp));
    setR(aSign, bSign != 0 ? aExp - distance : aExp + distance, aSig, 0);
    round(64, EMIN, EMAX, roundingControl(), masked());
    // an unmasked exception wraps the exponent, which may not be enough: then infinity or zero
    if (rClass == IS_FINITE && (rExp > EMAX || rExp < EMIN)) round(64, EMIN, EMAX, NEAREST, 0x3f);
    if (denormalOperand) raise(DENORMAL);
    if (signalRounded()) setSt(0, packSig80(), packWord80());
    return;
  }
  storeResult(0, 64);
}

/** FXTRACT: exponent to ST(0), then the significand is pushed. */
export function extractExponent(): void {
  if (isEmpty(0) || !isEmpty(7)) {
    if (stackFault(!isEmpty(0))) {
      setSt(0, INDEFINITE_SIG, INDEFINITE_WORD);
      push(INDEFINITE_SIG, INDEFINITE_WORD);
    }
    return;
  }
  begin();
  loadSt(0);
  if (aIsNaN()) {
    if (storeNaN(0)) push(load<u64>(st(0)), load<u16>(st(0), 8));
    return;
  }
  const sign = aSign << 15;
  const infinity: u64 = 0x8000000000000000;
  if (aClass == IS_ZERO) {
    raise(ZERO_DIVIDE);
    if (!signalRounded()) return;
    setSt(0, infinity, 0xffff);
    push(0, sign);
  } else if (aClass == IS_INFINITE) {
    setC1(false);
    setSt(0, infinity, 0x7fff);
    push(infinity, sign | 0x7fff);
  } else {
    const sig = aSig;
    const exponent = aExp;
    if (denormalOperand) raise(DENORMAL);
    if (!signalRounded()) return;
    unpackInt(exponent);
    resultFromA();
    setSt(0, packSig80(), packWord80());
    push(sig, sign | 16383);
  }
}

/**
 * FPREM (`nearest` false) and FPREM1: the exact remainder of ST(0) / ST(1). Exponents more than 63 apart are reduced in steps, C2 telling
 * that more are needed; the step's size, 32 to 63, is the CPU's choice.
 */
export function partialRemainder(nearest: bool): void {
  clearC2();
  if (!bothUsed(0, 1, 0, false)) return;
  begin();
  loadSt(1);
  copyAToB();
  loadSt(0);
  if (eitherIsNaN()) {
    storeEitherNaN(0);
    return;
  }
  if (aClass == IS_INFINITE || bClass == IS_ZERO) {
    storeIndefinite(0);
    return;
  }
  if (aClass == IS_ZERO || bClass == IS_INFINITE) {
    resultFromA();
    if (storeResult(0, 64)) setConditions(0);
    return;
  }
  const distance = aExp - bExp;
  const partial = distance >= 64;
  const steps = partial ? (distance & 31) | 32 : distance;
  let rest = aSig;
  let quotientBits: u32 = 0;
  let exp = steps < 0 ? aExp : aExp - steps;
  if (steps >= 0) {
    let carry = false;
    for (let i = 0; ; i++) {
      quotientBits <<= 1;
      if (carry || rest >= bSig) {
        rest -= bSig;
        quotientBits |= 1;
      }
      if (i == steps) break;
      carry = <i64>rest < 0;
      rest <<= 1;
    }
  }
  let sign = aSign;
  if (nearest && !partial && distance >= -1) {
    // twice the rest against the divisor; at distance -1, the rest itself is so scaled
    const half = distance >= 0 ? bSig - rest : 0;
    const above = distance >= 0 ? rest > half || (rest == half && (quotientBits & 1) != 0) : rest > bSig;
    if (above) {
      rest = distance >= 0 ? half : bSig - (rest - bSig);
      sign ^= 1;
      quotientBits += 1;
    }
  }
  if (rest == 0) {
    setSign(aSign);
    setClass(IS_ZERO);
  } else {
    const shift = <i32>clz(rest);
    setR(sign, exp - shift, rest << shift, 0);
  }
  if (!storeResult(0, 64)) return;
  if (partial) setConditions(SW_C2);
  else setConditions(((quotientBits & 4) != 0 ? SW_C0 : 0) | ((quotientBits & 2) != 0 ? SW_C3 : 0) | ((quotientBits & 1) != 0 ? SW_C1 : 0));
}
