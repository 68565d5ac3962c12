// Stack instructions of any operand and stack size (SDM vol. 2: PUSH, POP, PUSHA, POPA, PUSHF, ENTER, LEAVE).
import * as H from './generated/integer';
import { faultCode } from './events';
import { getFlags } from './flags';
import { GPR, MODE, SEG_ATTR } from './layout';
import { readFirst, readMemory, readRegister, writeMemory, writeRegister } from './operands';
import { eaFlat, OP_A, OP_ASIZE, OP_BASE, OP_EA, OP_IMM, OP_MOD, OP_SEG } from './record';
import { addressMask, linear, offsetOf } from './address';
import { probeWrite } from './memory';
import { ATTR_DB, SS } from './segments';
import { cpu } from './state';

const RSP = GPR + 32;
const RBP = GPR + 40;
const VM: u64 = 0x20000;

/** Width of the stack pointer: 8, or 4 or 2 by the B flag of SS. */
function stackSize(): u32 {
  return load<u32>(cpu, MODE) == 2 ? 8 : load<u16>(cpu + (SS << 1), SEG_ATTR) & ATTR_DB ? 4 : 2;
}

function wrap(pointer: u64, wide: u32): u64 {
  return wide == 8 ? pointer : wide == 4 ? pointer & 0xffffffff : pointer & 0xffff;
}

/** Pushes; RSP changes only if the write did not fault. */
export function push(value: u64, size: u32): void {
  const wide = stackSize();
  const pointer = wrap(load<u64>(cpu, RSP) - size, wide);
  writeMemory(linear(SS, pointer, size, true), size, value);
  writeRegister(cpu + RSP, wide, pointer);
}

/** The value on top; `popped` then moves RSP. */
export function top(size: u32): u64 {
  return readMemory(linear(SS, wrap(load<u64>(cpu, RSP), stackSize()), size, false), size);
}

export function popped(bytes: u32): void {
  const wide = stackSize();
  writeRegister(cpu + RSP, wide, load<u64>(cpu, RSP) + bytes);
}

export function execStack(op: usize, size: u32): void {
  switch (load<u16>(op, 2)) {
    case H.PUSH_Z: push(readRegister(load<u32>(op, OP_A), size), size); break;
    case H.PUSH_I: push(load<u64>(op, OP_IMM), size); break;
    case H.PUSH_E: push(readFirst(op, size), size); break;
    case H.POP_Z: {
      const value = top(size);
      popped(size);
      writeRegister(load<u32>(op, OP_A), size, value);
      break;
    }
    case H.POP_E: {
      const value = top(size);
      if (load<u8>(op, OP_MOD)) writeMemory(popTarget(op, size), size, value);
      popped(size);
      if (!load<u8>(op, OP_MOD)) writeRegister(load<u32>(op, OP_A), size, value);
      break;
    }
    case H.PUSHA: pushAll(size); break;
    case H.POPA: popAll(size); break;
    case H.PUSHF: pushFlags(size); break;
    case H.ENTER_Iw_Ib: enter(op, size); break;
    case H.LEAVE: {
      const wide = stackSize();
      const pointer = wrap(load<u64>(cpu, RBP), wide);
      const value = readMemory(linear(SS, pointer, size, false), size);
      writeRegister(cpu + RSP, wide, pointer + size);
      writeRegister(cpu + RBP, size, value);
      break;
    }
    default: unreachable();
  }
}

/** A destination based on RSP is addressed by the RSP after the pop (SDM vol. 2, POP). */
function popTarget(op: usize, size: u32): u64 {
  const more: u64 = load<u32>(op, OP_BASE) == <u32>(cpu + RSP) ? size : 0;
  if (load<u8>(op, OP_EA) == 0) return eaFlat(op) + more;
  return linear(load<u8>(op, OP_SEG), (offsetOf(op) + more) & addressMask(load<u8>(op, OP_ASIZE)), size, true);
}

function pushFlags(size: u32): void {
  const flags = getFlags();
  // Virtual-8086 mode without virtual interrupts needs IOPL 3.
  if (flags & VM && ((flags >> 12) & 3) != 3) faultCode(13, 0);
  push(flags & 0xfcffff, size); // VM and RF read as 0
}

/** AX CX DX BX SP BP SI DI; all or nothing. */
function pushAll(size: u32): void {
  const wide = stackSize();
  const pointer = load<u64>(cpu, RSP);
  // The last write is the lowest: probe it by writing from there upwards would reverse device order, so check the far end first.
  linear(SS, wrap(pointer - (size << 3), wide), size << 3, true);
  for (let i: u32 = 0; i < 8; i++) {
    writeMemory(linear(SS, wrap(pointer - ((i + 1) * size), wide), size, true), size, readRegister(cpu + GPR + (i << 3), size));
  }
  writeRegister(cpu + RSP, wide, pointer - (size << 3));
}

function popAll(size: u32): void {
  const wide = stackSize();
  const pointer = load<u64>(cpu, RSP);
  // Reads everything once before it changes a register.
  for (let i: u32 = 0; i < 8; i++) readMemory(linear(SS, wrap(pointer + i * size, wide), size, false), size);
  for (let i: u32 = 0; i < 8; i++) {
    if (i == 3) continue; // SP is thrown away
    writeRegister(cpu + GPR + ((7 - i) << 3), size, readMemory(linear(SS, wrap(pointer + i * size, wide), size, false), size));
  }
  writeRegister(cpu + RSP, wide, pointer + (size << 3));
}

/** ENTER: Iw bytes of locals, nesting level 0 to 31. */
function enter(op: usize, size: u32): void {
  const locals = <u64>load<u16>(op, OP_IMM);
  const level: u32 = load<u8>(op, OP_IMM + 2) & 31;
  const wide = stackSize();
  let pointer = wrap(load<u64>(cpu, RSP) - size, wide);
  writeMemory(linear(SS, pointer, size, true), size, readRegister(cpu + RBP, size));
  const frame = pointer;
  if (level > 0) {
    let link = load<u64>(cpu, RBP);
    for (let i: u32 = 1; i < level; i++) {
      link = wrap(link - size, wide);
      const value = readMemory(linear(SS, link, size, false), size);
      pointer = wrap(pointer - size, wide);
      writeMemory(linear(SS, pointer, size, true), size, value);
    }
    pointer = wrap(pointer - size, wide);
    writeMemory(linear(SS, pointer, size, true), size, frame);
  }
  pointer = wrap(pointer - locals, wide);
  // The last byte must be writable (SDM vol. 2, ENTER), so that a fault leaves nothing changed.
  probeWrite(linear(SS, pointer, size, true), size);
  writeRegister(cpu + RSP, wide, pointer);
  writeRegister(cpu + RBP, size, frame);
}
