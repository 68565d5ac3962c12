// 64x64 -> 128 bit products and 128/64 bit quotients, which WebAssembly lacks.

/** High half of the unsigned product. */
export function highProduct(a: u64, b: u64): u64 {
  const a0 = a & 0xffffffff;
  const a1 = a >> 32;
  const b0 = b & 0xffffffff;
  const b1 = b >> 32;
  const low = a0 * b0;
  const middle = a1 * b0 + (low >> 32); // cannot overflow: (2^32 - 1)^2 + 2^32 - 1 < 2^64
  const other = a0 * b1 + (middle & 0xffffffff);
  return a1 * b1 + (middle >> 32) + (other >> 32);
}

/** High half of the signed product. */
export function highProductSigned(a: i64, b: i64): i64 {
  return <i64>highProduct(a, b) - (a < 0 ? b : 0) - (b < 0 ? a : 0);
}

/** True when the signed product of a and b, whose low half is `low`, does not fit in 64 bits. */
export function productOverflows(a: i64, b: i64, low: i64): bool {
  return highProductSigned(a, b) != low >> 63;
}

/** Remainder of the last divide128. */
export let remainder128: u64 = 0;

/**
 * Unsigned quotient of high:low by `divisor`, high < divisor: schoolbook division in 32-bit digits (Knuth, TAOCP vol. 2, 4.3.1, algorithm
 * D).
 */
export function divide128(high: u64, low: u64, divisor: u64): u64 {
  if (high == 0) {
    remainder128 = low % divisor;
    return low / divisor;
  }
  const shift = clz<u64>(divisor);
  const d = divisor << shift;
  const top = shift == 0 ? high : (high << shift) | (low >> (64 - shift));
  const rest = low << shift;
  const q1 = digit(top, rest >> 32, d);
  const middle = ((top << 32) | (rest >> 32)) - q1 * d;
  const q0 = digit(middle, rest & 0xffffffff, d);
  remainder128 = (((middle << 32) | (rest & 0xffffffff)) - q0 * d) >> shift;
  return (q1 << 32) | q0;
}

/** One 32-bit digit of (top * 2^32 + next) / d, where d is normalised and top < d. */
function digit(top: u64, next: u64, d: u64): u64 {
  const d1 = d >> 32;
  const d0 = d & 0xffffffff;
  let q = top / d1;
  let r = top - q * d1;
  while (q > 0xffffffff || q * d0 > ((r << 32) | next)) {
    q--;
    r += d1;
    if (r > 0xffffffff) break;
  }
  return q;
}
