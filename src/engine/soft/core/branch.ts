// Near transfers of control in any mode, and POPF: what ends a block and has no fast handler. RIP already holds the next instruction's.
import * as H from './generated/integer';
import { faultCode, flagsChanged } from './events';
import { cond, condZ, getFlags, setFlags } from './flags';
import { CPL, GPR, MODE, PAGE_BASE, RIP, SEG_LIMIT } from './layout';
import { rmw64 } from './memory';
import { readFirst, readRegister, unsigned, writeRegister } from './operands';
import { isCanonical } from './paging';
import { popped, push, top } from './pushpop';
import { OP_ASIZE, OP_CODE, OP_IMM, OP_SIZE } from './record';
import { cpu } from './state';

const RCX = GPR + 8;

export function execBranch(op: usize): void {
  const size: u32 = load<u8>(op, OP_SIZE);
  switch (load<u16>(op, 2)) {
    case H.JCC: if (cond((load<u16>(op, OP_CODE) >> 8) & 15)) jumpTo(relative(op, size)); break;
    case H.JMP_J: jumpTo(relative(op, size)); break;
    case H.JMP_E: jumpTo(readFirst(op, size)); break;
    case H.CALL_J: call(relative(op, size), size); break;
    case H.CALL_E: call(readFirst(op, size), size); break;
    case H.RET: ret(size, 0); break;
    case H.RET_Iw: ret(size, load<u16>(op, OP_IMM)); break;
    case H.LOOP: loop(op, size); break;
    case H.POPF: popFlags(size); break;
    default: unreachable();
  }
}

function relative(op: usize, size: u32): u64 {
  return unsigned(load<u64>(cpu, PAGE_BASE) + load<u64>(op, OP_IMM), size);
}

/** A non-canonical target, or one beyond the limit of CS, faults before anything has changed. */
function checkTarget(rip: u64): void {
  if (load<u32>(cpu, MODE) == 2 ? !isCanonical(rip) : rip > <u64>load<u32>(cpu + 4, SEG_LIMIT)) faultCode(13, 0);
}

/** CALL to a non-canonical target in 64-bit mode: a fault of the push comes first. */
export function badCall(c: usize): void {
  rmw64(load<u64>(c, GPR + 32) - 8);
  faultCode(13, 0);
}

export function jumpTo(rip: u64): void {
  checkTarget(rip);
  store<u64>(cpu, rip, RIP);
}

export function call(rip: u64, size: u32): void {
  if (load<u32>(cpu, MODE) == 2 && !isCanonical(rip)) badCall(cpu);
  checkTarget(rip);
  push(load<u64>(cpu, RIP), size);
  store<u64>(cpu, rip, RIP);
}

function ret(size: u32, extra: u32): void {
  const rip = top(size);
  checkTarget(rip);
  popped(size + extra);
  store<u64>(cpu, rip, RIP);
}

/** LOOPNE, LOOPE, LOOP, JrCXZ by opcode; the counter's width is the address size. */
function loop(op: usize, size: u32): void {
  const wide: u32 = load<u8>(op, OP_ASIZE);
  const kind = load<u16>(op, OP_CODE) >> 8;
  const count = readRegister(cpu + RCX, wide);
  if (kind == 0xe3) {
    if (count == 0) jumpTo(relative(op, size));
    return;
  }
  const left = unsigned(count - 1, wide);
  const taken = left != 0 && (kind == 0xe2 || condZ(cpu) == (kind == 0xe1));
  if (taken) jumpTo(relative(op, size));
  writeRegister(cpu + RCX, wide, left);
}

const IF: u64 = 0x200;
const IOPL: u64 = 0x3000;
const VM: u64 = 0x20000;
const RF: u64 = 0x10000;
/** CF PF AF ZF SF TF DF OF NT, AC, ID: what any code may change. */
const ANYONE: u64 = 0x244dd5;

/** POPF (SDM vol. 2): privilege decides silently which flags change. */
function popFlags(size: u32): void {
  const old = getFlags();
  const iopl = <u32>(old >> 12) & 3;
  const cpl = load<u32>(cpu, CPL);
  const virtual8086 = (old & VM) != 0;
  if (virtual8086 && iopl != 3) faultCode(13, 0);
  const value = top(size);
  popped(size);
  let mask = ANYONE;
  if (virtual8086 || cpl <= iopl) mask |= IF;
  if (!virtual8086 && cpl == 0) mask |= IOPL;
  if (size == 2) mask &= 0xffff;
  setFlags(((old & ~mask) | (value & mask)) & ~(size == 2 ? 0 : RF));
  flagsChanged();
}
