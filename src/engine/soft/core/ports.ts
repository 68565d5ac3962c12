// IN, OUT, INS and OUTS (Intel SDM vol. 1, chapter 19). Permission is IOPL's or the I/O bitmap's of the TSS.
import { cpu } from './state';
import { faultCode } from './events';
import { clearReplay, portAccess, watchedPort } from './mmio';
import { probeWrite, rd16, rd32, rd8, sysRd16, wr16, wr32, wr8 } from './memory';
import { currentRip, OP_ASIZE, OP_CODE, OP_PREFIX, OP_SEG, PREFIX_66, PREFIX_REP, PREFIX_REPNE } from './record';
import { ATTR_P, CS, ES, FS, TR, checkSegment, mode64, protectedMode, segAttr, segBase, segLimit } from './segments';
import { CPL, EXIT_ADDRESS, EXIT_IO, EXIT_PORT, EXIT_REPLAY, EXIT_SIZE, EXIT_TARGET, EXIT_VALUE, EXIT_WRITE, GPR, MODE, REPLAY_NONE, RFLAGS, RIP } from './layout';

const RCX = GPR + 8;
const RSI = GPR + 48;
const RDI = GPR + 56;
const DF: u64 = 0x400;

/** Bytes of an I/O operand: opcode bit 0 tells bytes from words and doublewords. */
export function ioSize(op: usize): u32 {
  if (!((load<u16>(op, OP_CODE) >> 8) & 1)) return 1;
  const toggled = (load<u16>(op, OP_PREFIX) & PREFIX_66) != 0;
  return (load<u32>(cpu, MODE) == 0) != toggled ? 2 : 4;
}

/** #GP(0) where IOPL and the I/O permission bitmap deny the ports (SDM vol. 1, 19.5). */
function checkPorts(port: u32, size: u32): void {
  if (!protectedMode() || load<u32>(cpu, CPL) <= (<u32>load<u64>(cpu, RFLAGS) >> 12 & 3)) return;
  // Only 32- and 64-bit TSSs have a bitmap. Two bytes are read always: the access may straddle.
  if (!(segAttr(TR) & ATTR_P) || !(segAttr(TR) & 8) || segLimit(TR) < 0x67) faultCode(13, 0);
  const at = sysRd16(segBase(TR) + 0x66) + (port >>> 3);
  if (at + 1 > segLimit(TR)) faultCode(13, 0);
  const bits = sysRd16(segBase(TR) + at) >> (port & 7);
  if (bits & ((1 << size) - 1)) faultCode(13, 0);
}

function record(port: u32, size: u32, write: bool, value: u32): void {
  store<u32>(cpu, port, EXIT_PORT);
  store<u32>(cpu, size, EXIT_SIZE);
  store<u32>(cpu, write, EXIT_WRITE);
  store<u32>(cpu, value, EXIT_VALUE);
  store<u32>(cpu, REPLAY_NONE, EXIT_REPLAY);
  store<u32>(cpu, <u32>cpu + GPR, EXIT_TARGET);
  store<f64>(cpu, <f64>(<i64>(currentRip() + (mode64() ? 0 : segBase(CS)))), EXIT_ADDRESS);
}

/** IN and OUT leave with RIP past the instruction; the host puts what was read into RAX. */
export function portExit(op: usize, port: u32, write: bool): i32 {
  const size = ioSize(op);
  checkPorts(port, size);
  watchedPort(port, size);
  const rax = load<u32>(cpu, GPR);
  record(port, size, write, write ? (size == 4 ? rax : rax & ((1 << (size << 3)) - 1)) : 0);
  return EXIT_IO;
}

function sized(value: u64, asize: u32): u64 {
  return asize == 8 ? value : asize == 4 ? value & 0xffffffff : value & 0xffff;
}

/** Moves an index or count register of the address size by `step`. */
function advance(register: usize, step: i64, asize: u32): void {
  const value = load<u64>(register) + step;
  if (asize == 2) store<u16>(register, <u16>value);
  else store<u64>(register, sized(value, asize));
}

function stringAddress(segment: u32, offset: u64, size: u32, write: bool): u64 {
  if (mode64()) return segment >= FS ? offset + segBase(segment) : offset;
  checkSegment(segment, <u32>offset, size, write);
  return (segBase(segment) + offset) & 0xffffffff;
}

/** One element of INS or OUTS; with REP and more to do, RIP goes back to the instruction. */
export function stringPort(op: usize, write: bool): i32 {
  const asize = load<u8>(op, OP_ASIZE);
  const size = ioSize(op);
  const repeated = (load<u16>(op, OP_PREFIX) & (PREFIX_REP | PREFIX_REPNE)) != 0;
  const port = load<u16>(cpu, GPR + 16);
  checkPorts(port, size); // also when there is nothing to repeat
  if (repeated && sized(load<u64>(cpu, RCX), asize) == 0) return 0;
  watchedPort(port, size);
  const step: i64 = load<u64>(cpu, RFLAGS) & DF ? -(<i64>size) : size;
  if (write) {
    const la = stringAddress(load<u8>(op, OP_SEG), sized(load<u64>(cpu, RSI), asize), size, false);
    record(port, size, true, size == 1 ? rd8(la) : size == 2 ? rd16(la) : rd32(la));
    portAccess(EXIT_IO);
    advance(cpu + RSI, step, asize);
  } else {
    const la = stringAddress(ES, sized(load<u64>(cpu, RDI), asize), size, true);
    probeWrite(la, size);
    record(port, size, false, 0);
    const value = portAccess(EXIT_IO);
    if (size == 1) wr8(la, value);
    else if (size == 2) wr16(la, value);
    else wr32(la, value);
    advance(cpu + RDI, step, asize);
  }
  clearReplay();
  if (repeated) {
    advance(cpu + RCX, -1, asize);
    if (sized(load<u64>(cpu, RCX), asize) != 0) store<u64>(cpu, currentRip(), RIP);
  }
  return 0;
}
