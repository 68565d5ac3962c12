/**
 * Floating-point arithmetic by integers, exact in every rounding mode, with IEEE exception flags: for all x87 arithmetic, and for those
 * SSE operations whose result or flags the host's own floats cannot give (Intel SDM vol. 1, chapter 4.8 and 4.9; IEEE 754-2008).
 *
 * A number is *unpacked* into sign, exponent and a 64-bit significand whose top bit is 1: value = sig / 2^63 * 2^exp. Operations take
 * operands `a` and `b` (module variables; AssemblyScript returns one value only), leave an unrounded result in `r`, and `round` makes it
 * fit a format. NaNs never come here: x87 and SSE choose among NaN operands by different rules, so their callers do that.
 */

/** Exception flags, in the positions of both the x87 status word and MXCSR. */
export const INVALID = 1;
export const DENORMAL = 2;
export const ZERO_DIVIDE = 4;
const OVERFLOW = 8;
export const UNDERFLOW = 16;
export const INEXACT = 32;

/** Classes of an unpacked number. */
export const IS_ZERO = 0;
export const IS_FINITE = 1;
export const IS_INFINITE = 2;
export const IS_QUIET = 3;
export const IS_SIGNALING = 4;
/** x87 only: unnormals, pseudo-infinities, pseudo-NaNs (SDM vol. 1, table 8-3). */
export const IS_UNSUPPORTED = 5;

/** Rounding modes as in the RC fields. */
export const NEAREST = 0;
export const DOWN = 1;
export const UP = 2;
export const TRUNCATE = 3;

/** Exceptions raised since the caller last cleared it. */
export let raised: u32 = 0;
export function setRaised(flags: u32): void {
  raised = flags;
}
export function raise(flags: u32): void {
  raised |= flags;
}

export let aSign: u32 = 0;
export let aExp: i32 = 0;
export let aSig: u64 = 0;
export let aClass: i32 = 0;
export let bSign: u32 = 0;
export let bExp: i32 = 0;
export let bSig: u64 = 0;
export let bClass: i32 = 0;
/** Result: rExt continues the significand below rSig; its lowest bit is sticky. */
export let rSign: u32 = 0;
export let rExp: i32 = 0;
export let rSig: u64 = 0;
export let rExt: u64 = 0;
export let rClass: i32 = 0;
/** The last rounding was of a result too small for a normal number (exact or not). */
export let tinyResult: bool = false;
/** Last rounding went away from zero (C1 of the x87 status word). */
export let roundedUp: bool = false;

const TOP: u64 = 0x8000000000000000;

export function setA(sign: u32, exp: i32, sig: u64, kind: i32): void {
  aSign = sign;
  aExp = exp;
  aSig = sig;
  aClass = kind;
}

function setB(sign: u32, exp: i32, sig: u64, kind: i32): void {
  bSign = sign;
  bExp = exp;
  bSig = sig;
  bClass = kind;
}

export function setR(sign: u32, exp: i32, sig: u64, ext: u64): void {
  rSign = sign;
  rExp = exp;
  rSig = sig;
  rExt = ext;
  rClass = IS_FINITE;
}

/** Moves a to b, so that the next unpack fills a. */
export function copyAToB(): void {
  setB(aSign, aExp, aSig, aClass);
}

export function swapAB(): void {
  const sign = aSign;
  const exp = aExp;
  const sig = aSig;
  const kind = aClass;
  setA(bSign, bExp, bSig, bClass);
  setB(sign, exp, sig, kind);
}

export function negateB(): void {
  bSign ^= 1;
}

// ---- unpacking: all give the class; DENORMAL is not raised here since a NaN or invalid operand comes before it

/** A denormal operand was unpacked since `clearDenormal`, and no exception of higher priority came. The caller raises DENORMAL. */
export let denormalOperand: bool = false;
export function clearDenormal(): void {
  denormalOperand = false;
}

export function unpack32(bits: u32): void {
  const sign = bits >> 31;
  const exp: i32 = (bits >> 23) & 0xff;
  const fraction: u64 = (<u64>(bits & 0x7fffff)) << 40;
  unpackBinary(sign, exp, fraction, 0xff, 127);
}

export function unpack64(bits: u64): void {
  const sign = <u32>(bits >> 63);
  const exp = <i32>(bits >> 52) & 0x7ff;
  unpackBinary(sign, exp, (bits & 0x000fffffffffffff) << 11, 0x7ff, 1023);
}

/** `fraction` has its first fraction bit at bit 62. */
function unpackBinary(sign: u32, exp: i32, fraction: u64, top: i32, bias: i32): void {
  if (exp == top) {
    if (fraction == 0) setA(sign, 0x7fff, TOP, IS_INFINITE);
    else setA(sign, 0x7fff, TOP | fraction, (fraction >> 62) != 0 ? IS_QUIET : IS_SIGNALING);
  } else if (exp != 0) {
    setA(sign, exp - bias, TOP | fraction, IS_FINITE);
  } else if (fraction == 0) {
    setA(sign, 0, 0, IS_ZERO);
  } else {
    denormalOperand = true;
    const shift = <i32>clz(fraction);
    setA(sign, 1 - bias - shift, fraction << shift, IS_FINITE);
  }
}

/** Double extended: significand with explicit integer bit, and the word of sign and exponent. */
export function unpack80(sig: u64, word: u32): void {
  const sign = (word >> 15) & 1;
  const exp: i32 = word & 0x7fff;
  if (exp == 0) {
    if (sig == 0) {
      setA(sign, 0, 0, IS_ZERO);
    } else {
      denormalOperand = true;
      const shift = <i32>clz(sig);
      setA(sign, -16382 - shift, sig << shift, IS_FINITE);
    }
  } else if ((sig & TOP) == 0) {
    setA(sign, exp, sig, IS_UNSUPPORTED);
  } else if (exp == 0x7fff) {
    if (sig == TOP) setA(sign, 0x7fff, sig, IS_INFINITE);
    else setA(sign, 0x7fff, sig, (sig & 0x4000000000000000) != 0 ? IS_QUIET : IS_SIGNALING);
  } else {
    setA(sign, exp - 16383, sig, IS_FINITE);
  }
}

export function unpackInt(value: i64): void {
  if (value == 0) {
    setA(0, 0, 0, IS_ZERO);
    return;
  }
  const sign: u32 = value < 0 ? 1 : 0;
  const magnitude = <u64>(value < 0 ? 0 - value : value);
  const shift = <i32>clz(magnitude);
  setA(sign, 63 - shift, magnitude << shift, IS_FINITE);
}

/** The operand a becomes the result, unrounded. */
export function resultFromA(): void {
  rSign = aSign;
  rExp = aExp;
  rSig = aSig;
  rExt = 0;
  rClass = aClass;
}

/** The result becomes a zero or an infinity of its sign, or the default NaN. */
export function setClass(kind: i32): void {
  rClass = kind;
}
export function setSign(sign: u32): void {
  rSign = sign;
}

// ---- 128-bit helpers

/** High half of the product of two 64-bit numbers. */
export function mulHigh(a: u64, b: u64): u64 {
  const al = a & 0xffffffff;
  const ah = a >> 32;
  const bl = b & 0xffffffff;
  const bh = b >> 32;
  const mid = ah * bl + ((al * bl) >> 32);
  const mid2 = al * bh + (mid & 0xffffffff);
  return ah * bh + (mid >> 32) + (mid2 >> 32);
}

/** Remainder of the last `divide`. */
export let remainder: u64 = 0;

/** Quotient of hi:lo by d, for hi < d and d with its top bit set (Knuth, TAOCP vol. 2, 4.3.1, algorithm D with 32-bit digits). */
export function divide(hi: u64, lo: u64, d: u64): u64 {
  const dh = d >> 32;
  const dl = d & 0xffffffff;
  let q1 = hi / dh;
  let r = hi - q1 * dh;
  const l1 = lo >> 32;
  while (q1 > 0xffffffff || q1 * dl > ((r << 32) | l1)) {
    q1 -= 1;
    r += dh;
    if (r > 0xffffffff) break;
  }
  const mid = ((hi << 32) | l1) - q1 * d;
  let q0 = mid / dh;
  r = mid - q0 * dh;
  const l0 = lo & 0xffffffff;
  while (q0 > 0xffffffff || q0 * dl > ((r << 32) | l0)) {
    q0 -= 1;
    r += dh;
    if (r > 0xffffffff) break;
  }
  remainder = ((mid << 32) | l0) - q0 * d;
  return (q1 << 32) + q0;
}

// ---- arithmetic on operands that are zero, finite or infinite; an invalid one sets rClass = IS_QUIET (the caller's default NaN) and
// raises INVALID

function invalid(): void {
  raised |= INVALID;
  denormalOperand = false;
  rClass = IS_QUIET;
}

function special(sign: u32, kind: i32): void {
  rSign = sign;
  rClass = kind;
}

/** r = a + b. An exact zero from operands of different sign is -0 only when rounding down. */
export function add(rc: u32): void {
  if (aClass == IS_INFINITE || bClass == IS_INFINITE) {
    if (aClass == bClass && aSign != bSign) invalid();
    else special(aClass == IS_INFINITE ? aSign : bSign, IS_INFINITE);
    return;
  }
  if (aClass == IS_ZERO && bClass == IS_ZERO) {
    special(aSign == bSign ? aSign : rc == DOWN ? 1 : 0, IS_ZERO);
    return;
  }
  if (bClass == IS_ZERO) {
    resultFromA();
    return;
  }
  if (aClass == IS_ZERO || aExp < bExp || (aExp == bExp && aSig < bSig)) swapAB();
  if (bClass == IS_ZERO) {
    resultFromA();
    return;
  }
  // |a| >= |b| now: b is shifted right by the distance, what falls out becomes the sticky bit
  const distance = aExp - bExp;
  let hi: u64 = 0;
  let lo: u64 = 0;
  if (distance == 0) {
    hi = bSig;
  } else if (distance < 64) {
    hi = bSig >> distance;
    lo = bSig << (64 - distance);
  } else if (distance == 64) {
    lo = bSig;
  } else if (distance < 128) {
    lo = (bSig >> (distance - 64)) | u64((bSig << (128 - distance)) != 0);
  } else {
    lo = 1;
  }
  if (aSign == bSign) {
    const sum = aSig + hi;
    if (sum < hi) setR(aSign, aExp + 1, TOP | (sum >> 1), (sum << 63) | (lo >> 1) | (lo & 1));
    else setR(aSign, aExp, sum, lo);
    return;
  }
  const low = 0 - lo;
  const high = aSig - hi - u64(lo != 0);
  if (high == 0 && low == 0) {
    special(rc == DOWN ? 1 : 0, IS_ZERO);
    return;
  }
  if (high == 0) {
    const shift = <i32>clz(low);
    setR(aSign, aExp - 64 - shift, low << shift, 0);
    return;
  }
  const shift = <i32>clz(high);
  if (shift == 0) setR(aSign, aExp, high, low);
  else setR(aSign, aExp - shift, (high << shift) | (low >> (64 - shift)), low << shift);
}

/** r = a * b. */
export function multiply(): void {
  const sign = aSign ^ bSign;
  if (aClass == IS_INFINITE || bClass == IS_INFINITE) {
    if (aClass == IS_ZERO || bClass == IS_ZERO) invalid();
    else special(sign, IS_INFINITE);
    return;
  }
  if (aClass == IS_ZERO || bClass == IS_ZERO) {
    special(sign, IS_ZERO);
    return;
  }
  const hi = mulHigh(aSig, bSig);
  const lo = aSig * bSig;
  if ((hi & TOP) != 0) setR(sign, aExp + bExp + 1, hi, lo);
  else setR(sign, aExp + bExp, (hi << 1) | (lo >> 63), lo << 1);
}

/** r = a / b. */
export function quotient(): void {
  const sign = aSign ^ bSign;
  if (aClass == IS_INFINITE) {
    if (bClass == IS_INFINITE) invalid();
    else special(sign, IS_INFINITE);
    return;
  }
  if (bClass == IS_INFINITE) {
    special(sign, IS_ZERO);
    return;
  }
  if (bClass == IS_ZERO) {
    if (aClass == IS_ZERO) {
      invalid();
    } else {
      raised |= ZERO_DIVIDE;
      denormalOperand = false;
      special(sign, IS_INFINITE);
    }
    return;
  }
  if (aClass == IS_ZERO) {
    special(sign, IS_ZERO);
    return;
  }
  const below = aSig < bSig;
  const sig = below ? divide(aSig, 0, bSig) : divide(aSig >> 1, aSig << 63, bSig);
  const ext = remainder == 0 ? 0 : divide(remainder, 0, bSig) | u64(remainder != 0);
  setR(sign, below ? aExp - bExp - 1 : aExp - bExp, sig, ext);
}

/** r = square root of a. */
export function squareRoot(): void {
  if (aClass == IS_ZERO) {
    special(aSign, IS_ZERO);
    return;
  }
  if (aSign != 0) {
    invalid();
    return;
  }
  if (aClass == IS_INFINITE) {
    special(0, IS_INFINITE);
    return;
  }
  // radicand hi:lo in [2^126, 2^128): root in [2^63, 2^64)
  const odd = (aExp & 1) != 0;
  const hi = odd ? aSig : aSig >> 1;
  const lo = odd ? 0 : aSig << 63;
  // 32-bit root of hi from the host's own square root, then one step of Zimmermann's Karatsuba square root gives 64 bits
  let s = <u64>Math.sqrt(<f64>hi);
  if (s > 0xffffffff) s = 0xffffffff;
  while (s * s > hi) s -= 1;
  while (s < 0xffffffff && (s + 1) * (s + 1) <= hi) s += 1;
  const r1 = hi - s * s; // <= 2s
  // next 32 bits: (r1 * 2^32 + top of lo) / 2s
  const n = (r1 << 31) | (lo >> 33); // half of that numerator; r1 <= 2^33 - 2, so 64 bits are enough
  let q = n / s;
  if (q > 0xffffffff) q = 0xffffffff;
  let root = (s << 32) + q;
  // remainder hi:lo - root^2, corrected to [0, 2 * root]; it is small, so its low 64 bits and a sign from the high half suffice
  let high = hi - mulHigh(root, root) - u64(lo < root * root);
  let low = lo - root * root;
  while (<i64>high < 0) {
    root -= 1;
    const step = 2 * root + 1;
    const before = low;
    low += step;
    high += u64(low < before) + (root >> 63);
  }
  const ext: u64 = (high | low) == 0 ? 0 : high != 0 || low > root ? 0xc000000000000000 : 0x4000000000000000;
  setR(0, aExp >> 1, root, ext);
}

/** -1, 0, 1 as a is less than, equal to, greater than b. */
export function compareAB(): i32 {
  if (aClass == IS_ZERO && bClass == IS_ZERO) return 0;
  if (aClass == IS_ZERO) return bSign != 0 ? 1 : -1;
  if (bClass == IS_ZERO) return aSign != 0 ? -1 : 1;
  if (aSign != bSign) return aSign != 0 ? -1 : 1;
  let order = 0;
  if (aClass == IS_INFINITE || bClass == IS_INFINITE) order = i32(aClass == IS_INFINITE) - i32(bClass == IS_INFINITE);
  else if (aExp != bExp) order = aExp < bExp ? -1 : 1;
  else if (aSig != bSig) order = aSig < bSig ? -1 : 1;
  return aSign != 0 ? -order : order;
}

// ---- rounding

/** True if hi:ext, of which `keep` top bits of hi stay (1..64), is to be rounded up in magnitude. */
function roundsUp(sig: u64, ext: u64, keep: i32, sign: u32, rc: u32): bool {
  const rest: u64 = keep == 64 ? ext : (sig << keep) | u64(ext != 0);
  if (rest == 0) return false;
  if (rc == NEAREST) {
    if (rest != TOP) return rest > TOP;
    return ((sig >> (64 - keep)) & 1) != 0;
  }
  return rc == (sign != 0 ? DOWN : UP);
}

/** Exponent change of the result given for unmasked overflow and underflow (SDM vol. 1, 8.5.4, 8.5.5). */
const WRAP = 24576;

/**
 * Rounds the finite result r to `keep` bits of significand in a format of exponents [emin, emax], leaving it in r: rClass may become
 * IS_ZERO or IS_INFINITE; a denormal result keeps rExp = emin with the top bit of rSig clear. Raises OVERFLOW, UNDERFLOW, INEXACT.
 * `masked`: exception bits that are masked. Unmasked overflow and underflow wrap the exponent, which only the x87 stores.
 */
export function round(keep: i32, emin: i32, emax: i32, rc: u32, masked: u32): void {
  roundedUp = false;
  tinyResult = false;
  let wrapped = false;
  if (rExp < emin) {
    // tininess is detected after rounding with unbounded exponent
    const full = keep == 64 ? 0xffffffffffffffff : ~(<u64>0xffffffffffffffff >> keep);
    tinyResult = !(rExp == emin - 1 && (rSig & full) == full && roundsUp(rSig, rExt, keep, rSign, rc));
    if (tinyResult && (masked & UNDERFLOW) == 0) {
      raised |= UNDERFLOW;
      rExp += WRAP;
      wrapped = true;
    } else {
      const shift = emin - rExp;
      if (shift < 64) {
        rExt = (rSig << (64 - shift)) | u64(rExt != 0);
        rSig >>= shift;
      } else {
        rExt = shift == 64 ? rSig | u64(rExt != 0) : 1;
        rSig = 0;
      }
      rExp = emin;
    }
  }
  const low: u64 = keep == 64 ? 0 : <u64>0xffffffffffffffff >> keep;
  const inexact = rExt != 0 || (rSig & low) != 0;
  if (inexact) {
    raised |= tinyResult ? INEXACT | UNDERFLOW : INEXACT;
    const up = roundsUp(rSig, rExt, keep, rSign, rc);
    rSig &= ~low;
    rExt = 0;
    if (up) {
      roundedUp = true;
      rSig += low + 1;
      if (rSig == 0) {
        rSig = TOP;
        rExp += 1;
      }
    }
  }
  if (rExp > emax && !wrapped) {
    raised |= OVERFLOW;
    if ((masked & OVERFLOW) == 0) {
      rExp -= WRAP;
    } else {
      raised |= INEXACT;
      const infinite = rc == NEAREST || rc == (rSign != 0 ? DOWN : UP);
      roundedUp = infinite;
      if (infinite) {
        rClass = IS_INFINITE;
      } else {
        rExp = emax;
        rSig = ~low;
      }
    }
  } else if (rSig == 0) {
    rClass = IS_ZERO;
  }
}

/**
 * Rounds the finite number a to an integer; gives its magnitude, or 2^63 + 1 and more as 2^64 - 1 when it is too large for anything. Sets
 * roundedUp, raises INEXACT.
 */
export function integerOfA(rc: u32): u64 {
  roundedUp = false;
  if (aClass == IS_ZERO) return 0;
  if (aExp >= 64) return 0xffffffffffffffff;
  if (aExp == 63) return aSig;
  let whole: u64 = 0;
  let rest: u64 = 0;
  if (aExp >= 0) {
    whole = aSig >> (63 - aExp);
    rest = aSig << (aExp + 1);
  } else if (aExp == -1) {
    rest = aSig;
  } else {
    rest = 1;
  }
  if (rest == 0) return whole;
  raised |= INEXACT;
  const up = rc == NEAREST ? rest > TOP || (rest == TOP && (whole & 1) != 0) : rc == (aSign != 0 ? DOWN : UP);
  roundedUp = up;
  return whole + u64(up);
}

// ---- packing a rounded r that is zero, finite or infinite

export function pack32(): u32 {
  const sign = rSign << 31;
  if (rClass == IS_ZERO) return sign;
  if (rClass == IS_INFINITE) return sign | 0x7f800000;
  const fraction = <u32>(rSig >> 40) & 0x7fffff;
  return (rSig & TOP) == 0 ? sign | fraction : sign | (<u32>(rExp + 127) << 23) | fraction;
}

export function pack64(): u64 {
  const sign = <u64>rSign << 63;
  if (rClass == IS_ZERO) return sign;
  if (rClass == IS_INFINITE) return sign | 0x7ff0000000000000;
  const fraction = (rSig >> 11) & 0x000fffffffffffff;
  return (rSig & TOP) == 0 ? sign | fraction : sign | (<u64>(rExp + 1023) << 52) | fraction;
}

/** Word of sign and exponent of r in double extended; its significand is `packSig80()`. */
export function packWord80(): u32 {
  const sign = rSign << 15;
  if (rClass == IS_ZERO) return sign;
  if (rClass == IS_INFINITE) return sign | 0x7fff;
  return (rSig & TOP) == 0 ? sign : sign | <u32>(rExp + 16383);
}

export function packSig80(): u64 {
  if (rClass == IS_ZERO) return 0;
  return rClass == IS_INFINITE ? TOP : rSig;
}
