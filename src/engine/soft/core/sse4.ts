/**
 * SSE3 and SSE4 operations across lanes: horizontal arithmetic, dot products, sums of differences, string comparison (Intel SDM vol. 2,
 * 4.1).
 */

import { GPR, VECTOR_SCRATCH, XMM } from './layout';
import { cpu } from './state';
import { ea, OP_IMM, OP_MOD, OP_PREFIX, PREFIX_REXW } from './record';
import { rd16, rd32 } from './memory';
import { CF, OF, setArith, SF, ZF } from './flags';
import { low64, src128, src64, unaligned128, xmmReg, xmmRm } from './xmm';
import { ADD, arith32, arith32x4, arith64, arith64x2, MUL, SUB } from './ssefloat';
import { begin, commit } from './mxcsr';

const TEMP: usize = VECTOR_SCRATCH;

// ---- sign and zero extension: PMOVSXxx, PMOVZXxx

/** Source whose low `size` bytes count. */
export function narrowSource(op: usize, size: u32): v128 {
  if (size == 8) return low64(src64(op));
  if (load<u8>(op, OP_MOD) == 0) return v128.load(xmmRm(op));
  return low64(<u64>(size == 4 ? rd32(ea(op)) : rd16(ea(op))));
}

// ---- horizontal arithmetic

export function horizontal32(op: usize, kind: u32): void {
  const b = src128(op);
  const d = xmmReg(op);
  const a = v128.load(d);
  begin();
  const r = arith32x4(kind, i32x4.shuffle(a, b, 0, 2, 4, 6), i32x4.shuffle(a, b, 1, 3, 5, 7));
  commit();
  v128.store(d, r);
}

export function horizontal64(op: usize, kind: u32): void {
  const b = src128(op);
  const d = xmmReg(op);
  const a = v128.load(d);
  begin();
  const r = arith64x2(kind, i64x2.shuffle(a, b, 0, 2), i64x2.shuffle(a, b, 1, 3));
  commit();
  v128.store(d, r);
}

/** ADDSUBPS: subtracts even elements, adds odd ones. */
export function addsub32(op: usize): void {
  v128.store(cpu, src128(op), TEMP + 48);
  const d = xmmReg(op);
  begin();
  for (let i: usize = 0; i < 16; i += 4) {
    store<u32>(cpu + i, arith32((i & 4) != 0 ? ADD : SUB, load<u32>(d + i), load<u32>(cpu + i, TEMP + 48)), TEMP + 64);
  }
  commit();
  v128.store(d, v128.load(cpu, TEMP + 64));
}

export function addsub64(op: usize): void {
  const b = src128(op);
  const d = xmmReg(op);
  begin();
  const r0 = arith64(SUB, load<u64>(d), <u64>i64x2.extract_lane(b, 0));
  const r1 = arith64(ADD, load<u64>(d, 8), <u64>i64x2.extract_lane(b, 1));
  commit();
  store<u64>(d, r0);
  store<u64>(d, r1, 8);
}

/** Product of one pair of elements, or zero where the immediate does not select it. */
function product32(at: usize, d: usize, selected: u32): u32 {
  return selected != 0 ? arith32(MUL, load<u32>(d + at), load<u32>(cpu + at, TEMP + 48)) : 0;
}

export function dpps(op: usize): void {
  v128.store(cpu, src128(op), TEMP + 48);
  const d = xmmReg(op);
  const c: u32 = load<u8>(op, OP_IMM);
  begin();
  const p0 = product32(0, d, c & 0x10);
  const p1 = product32(4, d, c & 0x20);
  const p2 = product32(8, d, c & 0x40);
  const p3 = product32(12, d, c & 0x80);
  commit(); // an unmasked exception of one stage keeps the next from happening
  const low2 = arith32(ADD, p0, p1);
  const high2 = arith32(ADD, p2, p3);
  commit();
  const sum = arith32(ADD, low2, high2);
  commit();
  for (let i: u32 = 0; i < 4; i++) store<u32>(d + (i << 2), ((c >> i) & 1) != 0 ? sum : 0);
}

export function dppd(op: usize): void {
  const b = src128(op);
  const d = xmmReg(op);
  const c: u32 = load<u8>(op, OP_IMM);
  begin();
  const p0 = (c & 0x10) != 0 ? arith64(MUL, load<u64>(d), <u64>i64x2.extract_lane(b, 0)) : 0;
  const p1 = (c & 0x20) != 0 ? arith64(MUL, load<u64>(d, 8), <u64>i64x2.extract_lane(b, 1)) : 0;
  commit();
  const sum = arith64(ADD, p0, p1);
  commit();
  store<u64>(d, (c & 1) != 0 ? sum : 0);
  store<u64>(d, (c & 2) != 0 ? sum : 0, 8);
}

// ---- integers

/** PTEST. */
export function ptest(op: usize): void {
  const b = src128(op);
  const a = v128.load(xmmReg(op));
  setArith((v128.any_true(v128.and(a, b)) ? 0 : ZF) | (v128.any_true(v128.andnot(b, a)) ? 0 : CF));
}

/** Elements of the source whose top bit in XMM0 is set. `mask` is XMM0 with that bit spread over the element. */
export function blendVariable(op: usize, mask: v128): void {
  const b = src128(op);
  const d = xmmReg(op);
  v128.store(d, v128.bitselect(b, v128.load(d), mask));
}

export function xmm0(): v128 {
  return v128.load(cpu, XMM);
}

export function mpsadbw(op: usize): void {
  const c: u32 = load<u8>(op, OP_IMM);
  v128.store(cpu, src128(op), TEMP);
  const d = xmmReg(op);
  v128.store(cpu, v128.load(d), TEMP + 16);
  const from = cpu + TEMP + ((c & 3) << 2);
  const moving = cpu + TEMP + 16 + (c & 4);
  for (let i: usize = 0; i < 8; i++) {
    let sum = 0;
    for (let j: usize = 0; j < 4; j++) sum += abs<i32>(<i32>load<u8>(moving + i + j) - <i32>load<u8>(from + j));
    store<u16>(d + (i << 1), <u16>sum);
  }
}

/** Smallest word and its index. */
export function phminposuw(op: usize): void {
  v128.store(cpu, src128(op), TEMP);
  let least: u32 = 0xffff;
  let index: u32 = 0;
  for (let i: u32 = 0; i < 8; i++) {
    const word: u32 = load<u16>(cpu + (i << 1), TEMP);
    if (word >= least) continue;
    least = word;
    index = i;
  }
  const d = xmmReg(op);
  store<u64>(d, least | (index << 16));
  store<u64>(d, 0, 8);
}

// ---- PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM

const TEMP_A: usize = TEMP; // reg operand, the set or needle
const TEMP_B: usize = TEMP + 16; // rm operand, the text

/** Element as a number, sign-extended when the immediate says signed. */
function element(base: usize, i: u32, c: u32): i32 {
  const at = cpu + base;
  if ((c & 1) == 0) return (c & 2) != 0 ? <i32>load<i8>(at + i) : <i32>load<u8>(at + i);
  return (c & 2) != 0 ? <i32>load<i16>(at + (i << 1)) : <i32>load<u16>(at + (i << 1));
}

/** Length of an operand: up to the first zero, or from EAX/EDX: magnitude, at most n. */
function implicitLength(base: usize, n: u32, c: u32): u32 {
  let i: u32 = 0;
  while (i < n && element(base, i, c & 1) != 0) i++;
  return i;
}
function explicitLength(register: usize, n: u32, op: usize): u32 {
  const from = cpu + GPR + (register << 3);
  const value = (load<u16>(op, OP_PREFIX) & PREFIX_REXW) != 0 ? load<i64>(from) : <i64>load<i32>(from);
  const magnitude = <u64>(value < 0 ? 0 - value : value);
  return <u32>min<u64>(magnitude, n);
}

/** Result bits before polarity. */
function aggregate(c: u32, n: u32, la: u32, lb: u32): u32 {
  let result: u32 = 0;
  for (let j: u32 = 0; j < n; j++) {
    let bit = false;
    switch ((c >> 2) & 3) {
      case 0: { // equal any: b[j] is in the set a
        if (j < lb) for (let i: u32 = 0; i < la; i++) bit = bit || element(TEMP_A, i, c) == element(TEMP_B, j, c);
        break;
      }
      case 1: { // ranges: a holds pairs of bounds
        if (j < lb) {
          for (let i: u32 = 0; i + 1 < la; i += 2) {
            bit = bit || (element(TEMP_B, j, c) >= element(TEMP_A, i, c) && element(TEMP_B, j, c) <= element(TEMP_A, i + 1, c));
          }
        }
        break;
      }
      case 2: { // equal each
        bit = j < la && j < lb ? element(TEMP_A, j, c) == element(TEMP_B, j, c) : j >= la && j >= lb;
        break;
      }
      default: { // equal ordered: a begins at b[j], as far as b goes
        bit = true;
        for (let i: u32 = 0; i < la && i + j < n; i++) bit = bit && i + j < lb && element(TEMP_A, i, c) == element(TEMP_B, i + j, c);
        break;
      }
    }
    if (bit) result |= 1 << j;
  }
  return result;
}

/** `explicit`: lengths in registers; `mask`: result to XMM0 instead of ECX. */
export function compareStrings(op: usize, explicit: bool, mask: bool): void {
  const c: u32 = load<u8>(op, OP_IMM);
  const n: u32 = (c & 1) != 0 ? 8 : 16;
  v128.store(cpu, unaligned128(op), TEMP_B);
  v128.store(cpu, v128.load(xmmReg(op)), TEMP_A);
  const la = explicit ? explicitLength(0, n, op) : implicitLength(TEMP_A, n, c);
  const lb = explicit ? explicitLength(2, n, op) : implicitLength(TEMP_B, n, c);
  const all: u32 = (1 << n) - 1;
  let bits = aggregate(c, n, la, lb);
  const polarity = (c >> 4) & 3;
  if (polarity == 1) bits ^= all;
  else if (polarity == 3) bits ^= (1 << lb) - 1;
  if (mask) storeMask(bits, n, (c & 0x40) != 0);
  else store<u64>(cpu, <u64>(bits == 0 ? n : (c & 0x40) != 0 ? 31 - clz(bits) : ctz(bits)), GPR + 8);
  setArith((bits != 0 ? CF : 0) | (lb < n ? ZF : 0) | (la < n ? SF : 0) | ((bits & 1) != 0 ? OF : 0));
}

function storeMask(bits: u32, n: u32, expand: bool): void {
  if (!expand) {
    v128.store(cpu, low64(<u64>bits), XMM);
    return;
  }
  for (let i: usize = 0; i < 16; i++) store<u8>(cpu + i, ((bits >> <u32>(n == 16 ? i : i >> 1)) & 1) != 0 ? 0xff : 0, XMM);
}
