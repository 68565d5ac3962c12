/**
 * Packed integer operations that have the same meaning for every lane of a 64-bit MMX and a 128-bit XMM register, by the handlers of
 * isa/sse.ts. An MMX operand is the low half, the high half being zero.
 */

import * as H from './generated/sse';

/** Result of operation `sub` on destination `a` and source `b`. */
export function packed(sub: u32, a: v128, b: v128): v128 {
  switch (sub) {
    case H.PADDB: return i8x16.add(a, b);
    case H.PADDW: return i16x8.add(a, b);
    case H.PADDD: return i32x4.add(a, b);
    case H.PADDQ: return i64x2.add(a, b);
    case H.PSUBB: return i8x16.sub(a, b);
    case H.PSUBW: return i16x8.sub(a, b);
    case H.PSUBD: return i32x4.sub(a, b);
    case H.PSUBQ: return i64x2.sub(a, b);
    case H.PADDSB: return i8x16.add_sat_s(a, b);
    case H.PADDSW: return i16x8.add_sat_s(a, b);
    case H.PADDUSB: return i8x16.add_sat_u(a, b);
    case H.PADDUSW: return i16x8.add_sat_u(a, b);
    case H.PSUBSB: return i8x16.sub_sat_s(a, b);
    case H.PSUBSW: return i16x8.sub_sat_s(a, b);
    case H.PSUBUSB: return i8x16.sub_sat_u(a, b);
    case H.PSUBUSW: return i16x8.sub_sat_u(a, b);
    case H.PCMPEQB: return i8x16.eq(a, b);
    case H.PCMPEQW: return i16x8.eq(a, b);
    case H.PCMPEQD: return i32x4.eq(a, b);
    case H.PCMPEQQ: return i64x2.eq(a, b);
    case H.PCMPGTB: return i8x16.gt_s(a, b);
    case H.PCMPGTW: return i16x8.gt_s(a, b);
    case H.PCMPGTD: return i32x4.gt_s(a, b);
    case H.PCMPGTQ: return i64x2.gt_s(a, b);
    case H.PAND: return v128.and(a, b);
    case H.PANDN: return v128.andnot(b, a);
    case H.POR: return v128.or(a, b);
    case H.PXOR: return v128.xor(a, b);
    case H.PMINUB: return i8x16.min_u(a, b);
    case H.PMINSB: return i8x16.min_s(a, b);
    case H.PMINUW: return i16x8.min_u(a, b);
    case H.PMINSW: return i16x8.min_s(a, b);
    case H.PMINUD: return i32x4.min_u(a, b);
    case H.PMINSD: return i32x4.min_s(a, b);
    case H.PMAXUB: return i8x16.max_u(a, b);
    case H.PMAXSB: return i8x16.max_s(a, b);
    case H.PMAXUW: return i16x8.max_u(a, b);
    case H.PMAXSW: return i16x8.max_s(a, b);
    case H.PMAXUD: return i32x4.max_u(a, b);
    case H.PMAXSD: return i32x4.max_s(a, b);
    case H.PAVGB: return i8x16.avgr_u(a, b);
    case H.PAVGW: return i16x8.avgr_u(a, b);
    case H.PABSB: return i8x16.abs(b);
    case H.PABSW: return i16x8.abs(b);
    case H.PABSD: return i32x4.abs(b);
    case H.PSIGNB: {
      const negative = i8x16.shr_s(b, 7);
      return v128.andnot(i8x16.sub(v128.xor(a, negative), negative), i8x16.eq(b, i8x16.splat(0)));
    }
    case H.PSIGNW: {
      const negative = i16x8.shr_s(b, 15);
      return v128.andnot(i16x8.sub(v128.xor(a, negative), negative), i16x8.eq(b, i16x8.splat(0)));
    }
    case H.PSIGND: {
      const negative = i32x4.shr_s(b, 31);
      return v128.andnot(i32x4.sub(v128.xor(a, negative), negative), i32x4.eq(b, i32x4.splat(0)));
    }
    case H.PMULLW: return i16x8.mul(a, b);
    case H.PMULLD: return i32x4.mul(a, b);
    case H.PMULHW: return highWords(i32x4.extmul_low_i16x8_s(a, b), i32x4.extmul_high_i16x8_s(a, b));
    case H.PMULHUW: return highWords(i32x4.extmul_low_i16x8_u(a, b), i32x4.extmul_high_i16x8_u(a, b));
    case H.PMULHRSW: {
      // Wasm saturates the one product that overflows, -1 * -1; x86 wraps it
      const least = i16x8.splat(-0x8000);
      return v128.xor(i16x8.q15mulr_sat_s(a, b), v128.and(i16x8.eq(a, least), i16x8.eq(b, least)));
    }
    case H.PMULUDQ: {
      const mask = i64x2.splat(0xffffffff);
      return i64x2.mul(v128.and(a, mask), v128.and(b, mask));
    }
    case H.PMULDQ: return i64x2.mul(i64x2.shr_s(i64x2.shl(a, 32), 32), i64x2.shr_s(i64x2.shl(b, 32), 32));
    case H.PMADDWD: return i32x4.dot_i16x8_s(a, b);
    case H.PMADDUBSW: {
      const even = i16x8.mul(v128.and(a, i16x8.splat(0xff)), i16x8.shr_s(i16x8.shl(b, 8), 8));
      return i16x8.add_sat_s(even, i16x8.mul(i16x8.shr_u(a, 8), i16x8.shr_s(b, 8)));
    }
    case H.PSADBW: {
      const difference = v128.or(i8x16.sub_sat_u(a, b), i8x16.sub_sat_u(b, a));
      const sums = i32x4.extadd_pairwise_i16x8_u(i16x8.extadd_pairwise_i8x16_u(difference));
      return v128.and(i64x2.add(sums, i64x2.shr_u(sums, 32)), i64x2.splat(0xffffffff));
    }
    case H.PSLLW: return count(b) > 15 ? i16x8.splat(0) : i16x8.shl(a, <i32>count(b));
    case H.PSLLD: return count(b) > 31 ? i16x8.splat(0) : i32x4.shl(a, <i32>count(b));
    case H.PSLLQ: return count(b) > 63 ? i16x8.splat(0) : i64x2.shl(a, <i32>count(b));
    case H.PSRLW: return count(b) > 15 ? i16x8.splat(0) : i16x8.shr_u(a, <i32>count(b));
    case H.PSRLD: return count(b) > 31 ? i16x8.splat(0) : i32x4.shr_u(a, <i32>count(b));
    case H.PSRLQ: return count(b) > 63 ? i16x8.splat(0) : i64x2.shr_u(a, <i32>count(b));
    case H.PSRAW: return i16x8.shr_s(a, count(b) > 15 ? 15 : <i32>count(b));
    case H.PSRAD: return i32x4.shr_s(a, count(b) > 31 ? 31 : <i32>count(b));
    case H.PUNPCKLBW: return i8x16.shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    case H.PUNPCKLWD: return i16x8.shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    case H.PUNPCKLDQ: return i32x4.shuffle(a, b, 0, 4, 1, 5);
    case H.PUNPCKLQDQ: return i64x2.shuffle(a, b, 0, 2);
    case H.PUNPCKHBW: return i8x16.shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    case H.PUNPCKHWD: return i16x8.shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    case H.PUNPCKHDQ: return i32x4.shuffle(a, b, 2, 6, 3, 7);
    case H.PUNPCKHQDQ: return i64x2.shuffle(a, b, 1, 3);
    case H.PACKSSWB: return i8x16.narrow_i16x8_s(a, b);
    case H.PACKUSWB: return i8x16.narrow_i16x8_u(a, b);
    case H.PACKSSDW: return i16x8.narrow_i32x4_s(a, b);
    case H.PACKUSDW: return i16x8.narrow_i32x4_u(a, b);
    case H.PSHUFB: return i8x16.swizzle(a, v128.and(b, i8x16.splat(<i8>0x8f)));
    case H.PHADDW: return i16x8.add(evenWords(a, b), oddWords(a, b));
    case H.PHADDSW: return i16x8.add_sat_s(evenWords(a, b), oddWords(a, b));
    case H.PHADDD: return i32x4.add(i32x4.shuffle(a, b, 0, 2, 4, 6), i32x4.shuffle(a, b, 1, 3, 5, 7));
    case H.PHSUBW: return i16x8.sub(evenWords(a, b), oddWords(a, b));
    case H.PHSUBSW: return i16x8.sub_sat_s(evenWords(a, b), oddWords(a, b));
    case H.PHSUBD: return i32x4.sub(i32x4.shuffle(a, b, 0, 2, 4, 6), i32x4.shuffle(a, b, 1, 3, 5, 7));
    default: {
      unreachable();
      return a;
    }
  }
}

/** Shift count: the low 64 bits of the source, all of them. */
// @ts-ignore: decorator
@inline
function count(b: v128): u64 {
  return <u64>i64x2.extract_lane(b, 0);
}

// @ts-ignore: decorator
@inline
function highWords(low: v128, high: v128): v128 {
  return i16x8.shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
}
// @ts-ignore: decorator
@inline
function evenWords(a: v128, b: v128): v128 {
  return i16x8.shuffle(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}
// @ts-ignore: decorator
@inline
function oddWords(a: v128, b: v128): v128 {
  return i16x8.shuffle(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
