// Task switches through 32-bit TSSs (Intel SDM vol. 3, 8.3): legacy protected mode only, which no guest of today uses beyond tests.
import { cpu } from './state';
import { faultCode, flagsChanged } from './events';
import { getFlags, setFlags } from './flags';
import { sysRd16, sysRd32, sysWr16, sysWr32, sysWr8, sysRd8 } from './memory';
import {
  ATTR_CODE, ATTR_P, ATTR_S, CS, ES, LDTR, SS, TR, attrOf, baseOf, descriptorAddress, dplOf, limitOf, loadSegment, readDescriptor, segAttr,
  segBase, segSelector, selectorFault, setNull, setSegment, typeOf, loadStackSegment,
} from './segments';
import { push, stackPointer, useCurrentStack } from './stack';
import { flushLocal, updateContext } from './views';
import { CPL, CR0, CR3, GPR, NO_CODE, RIP } from './layout';

export const TASK_CALL: u32 = 0; // CALL, interrupts and exceptions
export const TASK_JUMP: u32 = 1;
export const TASK_IRET: u32 = 2;

const NT: u64 = 0x4000;
const BUSY: u32 = 2;
// Offsets in a 32-bit TSS (SDM vol. 3, figure 8-2)
const TSS_LINK: u32 = 0;
const TSS_CR3: u32 = 28;
const TSS_EIP: u32 = 32;
const TSS_EFLAGS: u32 = 36;
const TSS_GPR: u32 = 40;
const TSS_SEGMENTS: u32 = 72;
const TSS_LDT: u32 = 96;

/** Switches to the task of `selector` (ignored for TASK_IRET). `code`: error code to push on the new stack, or NO_CODE. */
export function switchTask(selector: u32, how: u32, code: u32): void {
  const oldBase = segBase(TR);
  const oldSelector = segSelector(TR);
  const vector: u32 = how == TASK_IRET ? 10 : 13;
  if (how == TASK_IRET) selector = sysRd16(oldBase + TSS_LINK);
  if (selector & 4 || (selector & 0xfffc) == 0) selectorFault(vector, selector);
  const descriptor = readDescriptor(selector, vector);
  const attr = attrOf(descriptor);
  if ((typeOf(attr) & ~BUSY) != 9 || ((attr & BUSY) != 0) != (how == TASK_IRET)) selectorFault(vector, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  if (limitOf(descriptor) < 0x67 || !(segAttr(TR) & 8)) selectorFault(10, selector);
  const base = baseOf(descriptor);
  saveTask(oldBase, how == TASK_IRET ? getFlags() & ~NT : getFlags());
  if (how != TASK_CALL) setBusy(oldSelector, false);
  if (how != TASK_IRET) setBusy(selector, true);
  let flags: u64 = sysRd32(base + TSS_EFLAGS);
  if (how == TASK_CALL) {
    sysWr16(base + TSS_LINK, oldSelector);
    flags |= NT;
  }
  setSegment(TR, selector, base, limitOf(descriptor), attr | BUSY);
  store<u64>(cpu, load<u64>(cpu, CR0) | 8, CR0);
  loadTask(base, flags);
  if (code != NO_CODE) {
    useCurrentStack();
    push(4, code);
    store<u64>(cpu + 32, stackPointer(), GPR);
  }
}

function setBusy(selector: u32, busy: bool): void {
  const at = descriptorAddress(selector, 8) + 5;
  sysWr8(at, busy ? sysRd8(at) | BUSY : sysRd8(at) & ~BUSY);
}

function saveTask(base: u64, flags: u64): void {
  sysWr32(base + TSS_EIP, <u32>load<u64>(cpu, RIP));
  sysWr32(base + TSS_EFLAGS, <u32>flags);
  for (let i: u32 = 0; i < 8; i++) sysWr32(base + TSS_GPR + (i << 2), load<u32>(cpu + (i << 3), GPR));
  for (let i: u32 = 0; i < 6; i++) sysWr32(base + TSS_SEGMENTS + (i << 2), segSelector(i));
}

function loadTask(base: u64, flags: u64): void {
  const cr3: u64 = sysRd32(base + TSS_CR3);
  const eip = sysRd32(base + TSS_EIP);
  for (let i: u32 = 0; i < 8; i++) store<u64>(cpu + (i << 3), sysRd32(base + TSS_GPR + (i << 2)), GPR);
  const ldt = sysRd16(base + TSS_LDT);
  const cs = sysRd16(base + TSS_SEGMENTS + 4);
  const ss = sysRd16(base + TSS_SEGMENTS + 8);
  if (load<u64>(cpu, CR0) & 0x80000000) {
    store<u64>(cpu, cr3, CR3);
    flushLocal(0, false);
  }
  store<u64>(cpu, eip, RIP);
  loadLdt(ldt, 10);
  const code = readDescriptor(cs, 10);
  const attr = attrOf(code);
  if ((attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE) || dplOf(attr) != (cs & 3)) selectorFault(10, cs);
  if (!(attr & ATTR_P)) selectorFault(11, cs);
  setSegment(CS, cs, baseOf(code), limitOf(code), attr | 1);
  store<u32>(cpu, cs & 3, CPL);
  loadStackSegment(ss, cs & 3, 10);
  for (let i = ES; i < 6; i++) if (i != CS && i != SS) loadSegment(i, sysRd16(base + TSS_SEGMENTS + (i << 2)));
  setFlags((flags & 0x3f7fd5) | 2);
  updateContext();
  flagsChanged();
  if (eip > limitOf(code)) faultCode(13, 0);
}

/** LLDT; in long mode the descriptor has 16 bytes, which the caller adds with `upper`. */
export function loadLdt(selector: u32, vector: u32): void {
  if ((selector & 0xfffc) == 0) {
    setNull(LDTR, selector);
    return;
  }
  if (selector & 4) selectorFault(vector, selector);
  const descriptor = readDescriptor(selector, vector);
  const attr = attrOf(descriptor);
  if (typeOf(attr) != 2) selectorFault(vector, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  setSegment(LDTR, selector, baseOf(descriptor), limitOf(descriptor), attr);
}
