/** The x87 environment and state in memory: FLDENV, FNSTENV, FRSTOR, FNSAVE (Intel SDM vol. 1, figures 8-9 to 8-12). */

import { CR0, FCS, FCW, FDP, FDS, FIP, FOP, FPR, FSW, FTW, RFLAGS } from './layout';
import { cpu } from './state';
import { ea, OP_SIZE } from './record';
import { probeRead, probeWrite, rd16, rd32, rd64, wr16, wr32, wr64 } from './memory';
import { initX87, setControl, st, SW_BUSY, SW_SUMMARY } from './x87state';

const RFLAGS_VM: u32 = 0x20000;

/** Tag of a physical register: 0 valid, 1 zero, 2 special, 3 empty. */
function tag(register: usize): u32 {
  if (((load<u8>(cpu, FTW) >> <u32>register) & 1) == 0) return 3;
  const sig = load<u64>(cpu + FPR + (register << 4));
  const exp = load<u16>(cpu + FPR + (register << 4), 8) & 0x7fff;
  if (exp == 0) return sig == 0 ? 1 : 2;
  return exp == 0x7fff || <i64>sig >= 0 ? 2 : 0;
}

function tagWord(): u32 {
  let word: u32 = 0;
  for (let i: usize = 0; i < 8; i++) word |= tag(i) << (<u32>i << 1);
  return word;
}

function setTagWord(word: u32): void {
  let used: u32 = 0;
  for (let i: u32 = 0; i < 8; i++) if (((word >> (i << 1)) & 3) != 3) used |= 1 << i;
  store<u8>(cpu, used, FTW);
}

/** Real-address and virtual-8086 mode have layouts of their own. */
function realMode(): bool {
  return (load<u32>(cpu, CR0) & 1) == 0 || (load<u32>(cpu, RFLAGS) & RFLAGS_VM) != 0;
}

function short(op: usize): bool {
  return load<u8>(op, OP_SIZE) == 2;
}

function environmentSize(op: usize): u64 {
  return short(op) ? 14 : 28;
}

/** Writes the environment at `la`, all of which is known to be writable. */
function writeEnvironment(op: usize, la: u64): void {
  const ip = load<u64>(cpu, FIP);
  const dp = load<u64>(cpu, FDP);
  const opcode: u32 = load<u16>(cpu, FOP);
  const cs: u32 = load<u16>(cpu, FCS);
  const ds: u32 = load<u16>(cpu, FDS);
  const real = realMode();
  if (short(op)) {
    wr16(la, load<u16>(cpu, FCW));
    wr16(la + 2, load<u16>(cpu, FSW));
    wr16(la + 4, tagWord());
    if (real) {
      const ip20 = <u32>ip + (cs << 4);
      const dp20 = <u32>dp;
      wr16(la + 6, ip20 & 0xffff);
      wr16(la + 8, ((ip20 >> 4) & 0xf000) | opcode);
      wr16(la + 10, dp20 & 0xffff);
      wr16(la + 12, (dp20 >> 4) & 0xf000);
    } else {
      wr16(la + 6, <u32>ip & 0xffff);
      wr16(la + 8, cs);
      wr16(la + 10, <u32>dp & 0xffff);
      wr16(la + 12, ds);
    }
    return;
  }
  // the upper halves of the 16-bit fields are written as ones
  wr32(la, 0xffff0000 | load<u16>(cpu, FCW));
  wr32(la + 4, 0xffff0000 | load<u16>(cpu, FSW));
  wr32(la + 8, 0xffff0000 | tagWord());
  if (real) {
    const ip32 = <u32>ip + (cs << 4);
    const dp32 = <u32>dp;
    wr32(la + 12, 0xffff0000 | (ip32 & 0xffff));
    wr32(la + 16, ((ip32 >> 4) & 0x0ffff000) | opcode);
    wr32(la + 20, 0xffff0000 | (dp32 & 0xffff));
    wr32(la + 24, (dp32 >> 4) & 0x0ffff000);
  } else {
    wr32(la + 12, <u32>ip);
    wr32(la + 16, (opcode << 16) | cs);
    wr32(la + 20, <u32>dp);
    wr32(la + 24, 0xffff0000 | ds);
  }
}

function readEnvironment(op: usize, la: u64): void {
  const wide = !short(op);
  const control = rd16(la);
  const status = rd16(la + (wide ? 4 : 2));
  const tags = rd16(la + (wide ? 8 : 4));
  const real = realMode();
  let ip: u64;
  let dp: u64;
  let cs: u32 = 0;
  let ds: u32 = 0;
  let opcode: u32 = 0;
  if (wide) {
    const second = rd32(la + 16);
    const fourth = rd32(la + 24);
    ip = rd32(la + 12);
    dp = rd32(la + 20);
    if (real) {
      ip = (ip & 0xffff) | (<u64>(second & 0x0ffff000) << 4);
      dp = (dp & 0xffff) | (<u64>(fourth & 0x0ffff000) << 4);
      opcode = second & 0x7ff;
    } else {
      cs = second & 0xffff;
      opcode = (second >> 16) & 0x7ff;
      ds = fourth & 0xffff;
    }
  } else {
    const second = rd16(la + 8);
    const fourth = rd16(la + 12);
    ip = rd16(la + 6);
    dp = rd16(la + 10);
    if (real) {
      ip |= <u64>(second & 0xf000) << 4;
      dp |= <u64>(fourth & 0xf000) << 4;
      opcode = second & 0x7ff;
    } else {
      cs = second;
      ds = fourth;
    }
  }
  store<u64>(cpu, ip, FIP);
  store<u64>(cpu, dp, FDP);
  store<u16>(cpu, <u16>opcode, FOP);
  store<u16>(cpu, <u16>cs, FCS);
  store<u16>(cpu, <u16>ds, FDS);
  store<u16>(cpu, <u16>status, FSW);
  setTagWord(tags);
  setControl(control);
}

/** A vector state area is shorter than a page: reaching its ends is reaching all of it. */
export function probeArea(la: u64, size: u64, write: bool): void {
  if (write) {
    probeWrite(la, 1);
    probeWrite(la + size - 1, 1);
  } else {
    probeRead(la, 1);
    probeRead(la + size - 1, 1);
  }
}

/** FNSTENV: then all exceptions are masked, so none waits. */
export function storeEnvironment(op: usize): void {
  const la = ea(op);
  probeArea(la, environmentSize(op), true);
  writeEnvironment(op, la);
  store<u16>(cpu, load<u16>(cpu, FCW) | 0x3f, FCW);
  store<u16>(cpu, load<u16>(cpu, FSW) & ~(SW_SUMMARY | SW_BUSY), FSW);
}

export function loadEnvironment(op: usize): void {
  const la = ea(op);
  probeArea(la, environmentSize(op), false);
  readEnvironment(op, la);
}

/** FNSAVE: environment, then ST(0) to ST(7); then FNINIT. */
export function saveState(op: usize): void {
  const la = ea(op);
  const size = environmentSize(op);
  probeArea(la, size + 80, true);
  writeEnvironment(op, la);
  for (let i: u32 = 0; i < 8; i++) {
    const at = st(i);
    wr64(la + size + <u64>(i * 10), load<u64>(at));
    wr16(la + size + <u64>(i * 10 + 8), load<u16>(at, 8));
  }
  initX87();
}

export function restoreState(op: usize): void {
  const la = ea(op);
  const size = environmentSize(op);
  probeArea(la, size + 80, false);
  readEnvironment(op, la);
  for (let i: u32 = 0; i < 8; i++) {
    const at = st(i);
    store<u64>(at, rd64(la + size + <u64>(i * 10)));
    store<u16>(at, <u16>rd16(la + size + <u64>(i * 10 + 8)), 8);
  }
}
