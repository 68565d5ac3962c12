/**
 * x87 loads and stores: conversions between the registers' double extended format and the formats of memory (Intel SDM vol. 1, 4.2, 4.7,
 * 8.3.3).
 */

import { ea } from './record';
import { probeWrite, rd16, rd32, rd64, wr16, wr32, wr64 } from './memory';
import {
  aClass, aSig, aSign, DENORMAL, denormalOperand, INEXACT, integerOfA, INVALID, IS_FINITE, IS_QUIET, IS_SIGNALING, IS_UNSUPPORTED, pack32,
  pack64, packSig80, packWord80, raise, raised, resultFromA, round, setRaised, unpack32, unpack64, unpackInt,
} from './softfloat80';
import {
  INDEFINITE_SIG, INDEFINITE_WORD, isEmpty, loadSt, masked, noteOperand, pop, push, roundingControl, setC1, signal, signalRounded, st,
  stackFault,
} from './x87state';
import { begin } from './x87arith';

// ---- loads

/** True if there is room for a push; else the masked response is to push the indefinite value. */
function room(): bool {
  if (isEmpty(7)) return true;
  if (stackFault(true)) push(INDEFINITE_SIG, INDEFINITE_WORD);
  return false;
}

/**
 * Pushes softfloat80's operand a, which came from single or double precision: denormals and signaling NaNs are exceptions.
 * CPUs push a denormal even when its exception is unmasked.
 */
function pushA(): void {
  if (denormalOperand) raise(DENORMAL);
  if (aClass == IS_SIGNALING) raise(INVALID);
  if (!signal() && aClass == IS_SIGNALING) return;
  setC1(false);
  if (aClass >= IS_QUIET) {
    push(aSig | 0x4000000000000000, (aSign << 15) | 0x7fff);
  } else {
    resultFromA();
    push(packSig80(), packWord80());
  }
}

export function loadSingle(op: usize): void {
  const la = ea(op);
  const bits = rd32(la);
  noteOperand(op, la);
  if (!room()) return;
  begin();
  unpack32(bits);
  pushA();
}

export function loadDouble(op: usize): void {
  const la = ea(op);
  const bits = rd64(la);
  noteOperand(op, la);
  if (!room()) return;
  begin();
  unpack64(bits);
  pushA();
}

/** FLD m80: any pattern, no exceptions but the stack's. */
export function loadExtended(op: usize): void {
  const la = ea(op);
  const sig = rd64(la);
  const word = rd16(la + 8);
  noteOperand(op, la);
  pushRaw(sig, word);
}

/** Pushes a register image: FLD m80, FLD ST(i). */
export function pushRaw(sig: u64, word: u32): void {
  if (!room()) return;
  setC1(false);
  push(sig, word);
}

/** FILD of 2, 4 or 8 bytes; always exact. */
export function loadInteger(op: usize, size: u32): void {
  const la = ea(op);
  const value: i64 = size == 2 ? <i64>(<i16>rd16(la)) : size == 4 ? <i64>(<i32>rd32(la)) : <i64>rd64(la);
  noteOperand(op, la);
  if (!room()) return;
  setC1(false);
  unpackInt(value);
  resultFromA();
  push(packSig80(), packWord80());
}

/** FBLD: 18 decimal digits, low first, and a sign. */
export function loadDecimal(op: usize): void {
  const la = ea(op);
  const digits = rd64(la);
  const high = rd16(la + 8);
  noteOperand(op, la);
  if (!room()) return;
  let value: i64 = 0;
  for (let i = 17; i >= 0; i--) {
    const digit = i >= 16 ? (high >> ((<u32>i - 16) << 2)) & 15 : <u32>(digits >> (<u64>i << 2)) & 15;
    value = value * 10 + <i64>digit;
  }
  setC1(false);
  unpackInt(value);
  resultFromA();
  push(packSig80(), packWord80() | (high & 0x8000));
}

// ---- stores. The value and its exceptions first, then memory, then the status word: a page fault leaves no trace.

/** An unmasked exception forbids writing memory: any but INEXACT. */
function mayStore(): bool {
  return (raised & ~masked() & ~INEXACT) == 0;
}

function finishStore(pops: bool): void {
  const stored = mayStore();
  if (!stored) setRaised(raised & ~INEXACT); // nothing was rounded
  signalRounded();
  if (stored && pops) pop();
}

/** ST(0) is empty: the exceptions of a stack underflow, noted by `signal` once memory is written. */
function emptyTop(): bool {
  begin();
  if (!isEmpty(0)) return false;
  raise(INVALID);
  return true;
}

/** The operand a as single precision. */
function toSingle(): u32 {
  if (aClass == IS_UNSUPPORTED) {
    raise(INVALID);
    return 0xffc00000;
  }
  if (aClass >= IS_QUIET) {
    if (aClass == IS_SIGNALING) raise(INVALID);
    return (aSign << 31) | 0x7fc00000 | (<u32>(aSig >> 40) & 0x7fffff);
  }
  resultFromA();
  if (aClass == IS_FINITE) round(24, -126, 127, roundingControl(), masked());
  return pack32();
}

function toDouble(): u64 {
  if (aClass == IS_UNSUPPORTED) {
    raise(INVALID);
    return 0xfff8000000000000;
  }
  if (aClass >= IS_QUIET) {
    if (aClass == IS_SIGNALING) raise(INVALID);
    return (<u64>aSign << 63) | 0x7ff8000000000000 | ((aSig >> 11) & 0xfffffffffffff);
  }
  resultFromA();
  if (aClass == IS_FINITE) round(53, -1022, 1023, roundingControl(), masked());
  return pack64();
}

export function storeSingle(op: usize, pops: bool): void {
  const la = ea(op);
  const empty = emptyTop();
  loadSt(0);
  const value = empty ? 0xffc00000 : toSingle();
  if (mayStore()) wr32(la, value);
  else probeWrite(la, 4);
  noteOperand(op, la);
  finishMemory(empty, pops);
}

export function storeDouble(op: usize, pops: bool): void {
  const la = ea(op);
  const empty = emptyTop();
  loadSt(0);
  const value = empty ? 0xfff8000000000000 : toDouble();
  if (mayStore()) wr64(la, value);
  else probeWrite(la, 8);
  noteOperand(op, la);
  finishMemory(empty, pops);
}

function finishMemory(empty: bool, pops: bool): void {
  if (!empty) finishStore(pops);
  else if (stackFault(false) && pops) pop();
}

/** FSTP m80: any pattern, no exceptions but the stack's. */
export function storeExtended(op: usize): void {
  const la = ea(op);
  const empty = emptyTop();
  const at = st(0);
  probeWrite(la, 10);
  if (mayStore()) {
    wr64(la, empty ? INDEFINITE_SIG : load<u64>(at));
    wr16(la + 8, empty ? INDEFINITE_WORD : load<u16>(at, 8));
  }
  noteOperand(op, la);
  finishMemory(empty, true);
}

/** FIST, FISTP, FISTTP: out of range and NaN give the most negative number and INVALID. */
export function storeInteger(op: usize, size: u32, rc: u32, pops: bool): void {
  const la = ea(op);
  const empty = emptyTop();
  const limit: u64 = size == 2 ? 0x8000 : size == 4 ? 0x80000000 : 0x8000000000000000;
  loadSt(0);
  let value: u64 = limit;
  if (!empty) {
    const fits = aClass <= IS_FINITE;
    const magnitude = fits ? integerOfA(rc) : u64.MAX_VALUE;
    if (magnitude < limit || (magnitude == limit && aSign != 0)) {
      value = aSign != 0 ? 0 - magnitude : magnitude;
    } else {
      begin();
      raise(INVALID);
    }
  }
  if (!mayStore()) probeWrite(la, size);
  else if (size == 2) wr16(la, <u32>value & 0xffff);
  else if (size == 4) wr32(la, <u32>value);
  else wr64(la, value);
  noteOperand(op, la);
  finishMemory(empty, pops);
}

const DECIMAL_LIMIT: u64 = 1000000000000000000;

/** FBSTP. */
export function storeDecimal(op: usize): void {
  const la = ea(op);
  const empty = emptyTop();
  loadSt(0);
  let low: u64 = 0xc000000000000000;
  let high: u32 = 0xffff;
  if (!empty) {
    let magnitude = aClass <= IS_FINITE ? integerOfA(roundingControl()) : u64.MAX_VALUE;
    if (magnitude < DECIMAL_LIMIT) {
      low = 0;
      high = aSign << 15;
      for (let i = 0; i < 18; i++) {
        const digit = magnitude % 10;
        magnitude /= 10;
        if (i < 16) low |= digit << (<u64>i << 2);
        else high |= <u32>digit << ((<u32>i - 16) << 2);
      }
    } else {
      begin();
      raise(INVALID);
    }
  }
  probeWrite(la, 10);
  if (mayStore()) {
    wr64(la, low);
    wr16(la + 8, high);
  }
  noteOperand(op, la);
  finishMemory(empty, true);
}
