// String instructions (SDM vol. 2: MOVS, STOS, LODS, CMPS, SCAS, REP). Every completed iteration is committed, so a fault or an exit in the
// next one leaves the instruction restartable. One dispatch does a bounded number of iterations, so that events are not kept waiting; the
// bound does not depend on the state of any cache, which keeps instruction counts reproducible.
import * as H from './generated/integer';
import { addressMask, linear } from './address';
import { arithmeticFlags, FLAGS_SUB } from './flags';
import { EVENT_STEP, EVENTS, GPR, MODE, RFLAGS } from './layout';
import { hostAddress } from './memory';
import { readMemory, readRegister, signed, writeMemory, writeRegister } from './operands';
import { OP_ASIZE, OP_PREFIX, OP_SEG, OP_SIZE, PREFIX_REP, PREFIX_REPNE } from './record';
import { ES } from './segments';
import { cpu } from './state';

const RAX = GPR;
const RCX = GPR + 8;
const RSI = GPR + 48;
const RDI = GPR + 56;
const DF: u64 = 0x400;

const MAX_ITERATIONS: u64 = 4096;

/** Executes the instruction, or (REP) as many iterations as one dispatch may do: false = more remain, come again. */
export function execString(op: usize): bool {
  const prefix: u32 = load<u16>(op, OP_PREFIX);
  if (!(prefix & (PREFIX_REP | PREFIX_REPNE))) {
    iterate(op, false);
    return true;
  }
  const wide: u32 = load<u8>(op, OP_ASIZE);
  const count = readRegister(cpu + RCX, wide);
  if (count == 0) return true;
  // A single-stepped REP traps after each iteration.
  const most = load<u32>(cpu, EVENTS) & EVENT_STEP ? 1 : MAX_ITERATIONS;
  const todo = count < most ? count : most;
  const kind: u32 = load<u16>(op, 2);
  if (kind == H.CMPS || kind == H.SCAS) return compareMany(op, todo, wide, prefix) || todo == count;
  const bulk = load<u32>(cpu, MODE) == 2 && wide == 8 && (kind == H.MOVS || kind == H.STOS);
  let left = todo;
  while (left != 0) {
    const done = bulk ? inBulk(op, kind == H.MOVS, left) : 0;
    if (done != 0) left -= done;
    else {
      iterate(op, true);
      left--;
    }
  }
  return todo == count;
}

/** Repeats while the comparison says so; true when it said stop. */
function compareMany(op: usize, todo: u64, wide: u32, prefix: u32): bool {
  for (let i: u64 = 0; i < todo; i++) {
    const equal = iterate(op, true);
    if (equal != ((prefix & PREFIX_REP) != 0)) return true;
  }
  return false;
}

function step(size: u32): u64 {
  return load<u64>(cpu, RFLAGS) & DF ? 0 - <u64>size : size;
}

function advance(register: usize, by: u64, wide: u32): void {
  writeRegister(cpu + register, wide, load<u64>(cpu + register) + by);
}

/** One iteration; with `counted` it takes one from rCX. Returns whether a comparison found equality. */
function iterate(op: usize, counted: bool): bool {
  const size: u32 = load<u8>(op, OP_SIZE);
  const wide: u32 = load<u8>(op, OP_ASIZE);
  const mask = addressMask(wide);
  const by = step(size);
  const from = load<u64>(cpu, RSI) & mask;
  const to = load<u64>(cpu, RDI) & mask;
  let equal = false;
  switch (load<u16>(op, 2)) {
    case H.MOVS:
      writeMemory(linear(ES, to, size, true), size, readMemory(linear(load<u8>(op, OP_SEG), from, size, false), size));
      advance(RSI, by, wide);
      advance(RDI, by, wide);
      break;
    case H.STOS:
      writeMemory(linear(ES, to, size, true), size, load<u64>(cpu, RAX));
      advance(RDI, by, wide);
      break;
    case H.LODS:
      writeRegister(cpu + RAX, size, readMemory(linear(load<u8>(op, OP_SEG), from, size, false), size));
      advance(RSI, by, wide);
      break;
    case H.CMPS: {
      const a = readMemory(linear(load<u8>(op, OP_SEG), from, size, false), size);
      equal = compare(a, readMemory(linear(ES, to, size, false), size), size);
      advance(RSI, by, wide);
      advance(RDI, by, wide);
      break;
    }
    default: {
      equal = compare(readRegister(cpu + RAX, size), readMemory(linear(ES, to, size, false), size), size);
      advance(RDI, by, wide);
    }
  }
  if (counted) advance(RCX, -1, wide);
  return equal;
}

function compare(a: u64, b: u64, size: u32): bool {
  arithmeticFlags(cpu, FLAGS_SUB, signed(a, size), signed(b, size), signed(a - b, size));
  return a == b;
}

/**
 * MOVS or STOS in 64-bit mode, as many of `left` iterations as stay inside one page at each end, through direct addresses. 0 = not
 * possible here (device memory, a page with code, an element that crosses): do one iteration the slow way.
 */
function inBulk(op: usize, move: bool, left: u64): u64 {
  const size: u32 = load<u8>(op, OP_SIZE);
  const down = (load<u64>(cpu, RFLAGS) & DF) != 0;
  const to = load<u64>(cpu, RDI);
  let count = fitting(to, size, down, left);
  const from = move ? linear(load<u8>(op, OP_SEG), load<u64>(cpu, RSI), size, false) : 0;
  if (move) count = fitting(from, size, down, count);
  if (count == 0) return 0;
  let source: usize = 0;
  if (move) {
    source = hostAddress(from, false);
    if (source == 0) return 0;
  }
  let target = hostAddress(to, true);
  if (target == 0) return 0;
  const bytes = <usize>count * size;
  if (down) {
    target -= bytes - size;
    source -= bytes - size;
  }
  if (move) copy(target, source, bytes, size, down);
  else fill(target, bytes, size);
  const by = down ? 0 - <u64>bytes : <u64>bytes;
  if (move) advance(RSI, by, 8);
  advance(RDI, by, 8);
  advance(RCX, 0 - count, 8);
  return count;
}

/** How many of `most` elements from `la` on, upwards or downwards, lie wholly in its page. */
function fitting(la: u64, size: u32, down: bool, most: u64): u64 {
  const offset = la & 0xfff;
  if (offset + size > 0x1000) return 0;
  const room = down ? offset / size + 1 : (0x1000 - offset) / size;
  return room < most ? room : most;
}

/** Element by element in the direction asked for: where the areas overlap that way, a pattern repeats. */
function copy(target: usize, source: usize, bytes: usize, size: u32, down: bool): void {
  const repeats = down ? target < source && source < target + bytes : source < target && target < source + bytes;
  if (!repeats) {
    memory.copy(target, source, bytes);
    return;
  }
  for (let i: usize = 0; i < bytes; i += size) {
    const at = down ? bytes - size - i : i;
    storeElement(target + at, size, readRegister(source + at, size));
  }
}

function storeElement(address: usize, size: u32, value: u64): void {
  if (size == 8) store<u64>(address, value);
  else if (size == 4) store<u32>(address, <u32>value);
  else if (size == 2) store<u16>(address, <u16>value);
  else store<u8>(address, <u8>value);
}

function fill(target: usize, bytes: usize, size: u32): void {
  const value = readRegister(cpu + RAX, size);
  if (size == 1 || value == 0) memory.fill(target, <u8>value, bytes);
  else for (let i: usize = 0; i < bytes; i += size) storeElement(target + i, size, value);
}
