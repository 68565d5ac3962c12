// Delivery of an interrupt or exception through the IDT (Intel SDM vol. 3, 6.12 and 6.14) or the real-mode vector table (vol. 3, 20.1.4).
// Every check and every push comes before the first register changes, so that a fault in the middle leaves the interrupted state.
import { cpu } from './state';
import { faultCode, flagsChanged } from './events';
import { getFlags, setFlags } from './flags';
import { sysRd16, sysRd32, sysRd64 } from './memory';
import {
  ATTR_CODE, ATTR_DB, ATTR_DOWN, ATTR_L, ATTR_P, ATTR_S, CS, SS, TR, attrOf, baseOf, checkStackSegment, dplOf, limitOf, longMode,
  protectedMode, readDescriptor, segAttr, segBase, segLimit, segSelector, selectorFault, setAccessed, setNull, setReal, setSegment,
} from './segments';
import { isCanonical } from './paging';
import { push, stackPointer, useCurrentStack, useFlatStack, useStack } from './stack';
import { switchTask, TASK_CALL } from './tasks';
import { updateContext } from './views';
import {
  BUDGET, CPL, DELIVERY, EVENT_TYPE_EXCEPTION, EVENT_TYPE_SOFTWARE, EXTERNAL, GPR, IDTR_BASE, IDTR_LIMIT, NO_CODE, RIP,
} from './layout';

const TF: u64 = 0x100;
const IF: u64 = 0x200;
const NT: u64 = 0x4000;
const RF: u64 = 0x10000;
const VM: u64 = 0x20000;
const AC: u64 = 0x40000;

/** Delivers to `vector`. `code`: error code or NO_CODE. */
export function deliver(vector: u32, type: u32, code: u32): void {
  store<u32>(cpu, type == EVENT_TYPE_SOFTWARE ? 0 : 1, EXTERNAL);
  store<u32>(cpu, 1, DELIVERY);
  // A delivery takes the time of an instruction: a handler that faults at once must not hold the CPU for ever.
  store<i64>(cpu, load<i64>(cpu, BUDGET) - 1, BUDGET);
  if (!protectedMode()) deliverReal(vector);
  else if (longMode()) deliverLong(vector, type, code);
  else deliverLegacy(vector, type, code);
  store<u32>(cpu, 0, EXTERNAL);
  store<u32>(cpu, 0, DELIVERY);
}

/** #GP or #NP for a bad IDT entry. */
function gateFault(fault: u32, vector: u32): void {
  faultCode(fault, (vector << 3) | 2 | load<u32>(cpu, EXTERNAL));
}

/** RFLAGS as pushed: faults that are not debug exceptions set RF (SDM vol. 3, 18.3.1.1). */
function savedFlags(vector: u32, type: u32): u64 {
  const flags = getFlags();
  const isFault = type == EVENT_TYPE_EXCEPTION && vector != 1 && vector != 3 && vector != 4 && vector != 8 && vector != 18;
  return isFault ? flags | RF : flags;
}

function enterHandler(interruptGate: bool): void {
  setFlags(getFlags() & ~(TF | NT | RF | VM | (interruptGate ? IF : 0)));
}

function deliverReal(vector: u32): void {
  if ((vector << 2) + 3 > load<u32>(cpu, IDTR_LIMIT)) faultCode(13, 0);
  const entry = sysRd32(load<u64>(cpu, IDTR_BASE) + (vector << 2));
  useCurrentStack();
  push(2, getFlags());
  push(2, segSelector(CS));
  push(2, load<u64>(cpu, RIP));
  store<u64>(cpu + 32, stackPointer(), GPR);
  setReal(CS, entry >>> 16);
  store<u64>(cpu, entry & 0xffff, RIP);
  setFlags(getFlags() & ~(TF | IF | RF | AC));
  flagsChanged();
}

/** The code segment of a gate: its descriptor, checked for privilege. */
function gateCode(selector: u32): u64 {
  if ((selector & 0xfffc) == 0) selectorFault(13, 0);
  const descriptor = readDescriptor(selector, 13);
  const attr = attrOf(descriptor);
  if ((attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE) || dplOf(attr) > load<u32>(cpu, CPL)) selectorFault(13, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  return descriptor;
}

function deliverLong(vector: u32, type: u32, code: u32): void {
  if ((vector << 4) + 15 > load<u32>(cpu, IDTR_LIMIT)) gateFault(13, vector);
  const gate = load<u64>(cpu, IDTR_BASE) + (vector << 4);
  const low = sysRd64(gate);
  const high = sysRd64(gate + 8);
  const gateType = <u32>(low >> 40) & 0x1f;
  const cpl = load<u32>(cpu, CPL);
  if (gateType != 14 && gateType != 15) gateFault(13, vector);
  if (type == EVENT_TYPE_SOFTWARE && (<u32>(low >> 45) & 3) < cpl) gateFault(13, vector);
  if (!((low >> 47) & 1)) gateFault(11, vector);
  const selector = <u32>(low >> 16) & 0xffff;
  const descriptor = gateCode(selector);
  const attr = attrOf(descriptor);
  if ((attr & (ATTR_L | ATTR_DB)) != ATTR_L) selectorFault(13, selector);
  const target = (low & 0xffff) | ((low >> 32) & 0xffff0000) | (high << 32);
  const inner = attr & ATTR_DOWN ? cpl : dplOf(attr);
  const ist = <u32>(low >> 32) & 7;
  let rsp = load<u64>(cpu + 32, GPR);
  if (ist != 0) rsp = tssStack(28 + (ist << 3));
  else if (inner < cpl) rsp = tssStack(4 + (inner << 3));
  if (!isCanonical(rsp)) faultCode(12, load<u32>(cpu, EXTERNAL));
  if (!isCanonical(target)) faultCode(13, load<u32>(cpu, EXTERNAL));
  useFlatStack(rsp & ~0xf, inner == 3);
  push(8, segSelector(SS));
  push(8, load<u64>(cpu + 32, GPR));
  push(8, savedFlags(vector, type));
  push(8, segSelector(CS));
  push(8, load<u64>(cpu, RIP));
  if (code != NO_CODE) push(8, code);
  setAccessed(selector, attr);
  store<u64>(cpu + 32, stackPointer(), GPR);
  store<u64>(cpu, target, RIP);
  setSegment(CS, (selector & 0xfffc) | inner, baseOf(descriptor), limitOf(descriptor), attr | 1);
  if (inner < cpl) setNull(SS, inner);
  store<u32>(cpu, inner, CPL);
  enterHandler(gateType == 14);
  updateContext();
  flagsChanged();
}

/** A stack pointer of the 64-bit TSS (SDM vol. 3, figure 8-11). */
export function tssStack(offset: u32): u64 {
  if (offset + 7 > segLimit(TR)) selectorFault(10, segSelector(TR));
  return sysRd64(segBase(TR) + offset);
}

function deliverLegacy(vector: u32, type: u32, code: u32): void {
  if ((vector << 3) + 7 > load<u32>(cpu, IDTR_LIMIT)) gateFault(13, vector);
  const gate = sysRd64(load<u64>(cpu, IDTR_BASE) + (vector << 3));
  const gateType = <u32>(gate >> 40) & 0x1f;
  const cpl = load<u32>(cpu, CPL);
  const wide = gateType == 14 || gateType == 15;
  if (!wide && gateType != 5 && gateType != 6 && gateType != 7) gateFault(13, vector);
  if (type == EVENT_TYPE_SOFTWARE && (<u32>(gate >> 45) & 3) < cpl) gateFault(13, vector);
  if (!((gate >> 47) & 1)) gateFault(11, vector);
  const selector = <u32>(gate >> 16) & 0xffff;
  if (gateType == 5) {
    switchTask(selector, TASK_CALL, code);
    return;
  }
  const size: u32 = wide ? 4 : 2;
  const descriptor = gateCode(selector);
  const attr = attrOf(descriptor);
  const target = (gate & 0xffff) | (wide ? (gate >> 32) & 0xffff0000 : 0);
  const inner = attr & ATTR_DOWN ? cpl : dplOf(attr);
  if (target > <u64>limitOf(descriptor)) faultCode(13, load<u32>(cpu, EXTERNAL));
  let stackSelector: u32 = 0;
  let stack: u64 = 0;
  if (inner < cpl) {
    stackSelector = innerStackSelector(inner);
    stack = checkStackSegment(stackSelector, inner, 10);
    const fault = (stackSelector & 0xfffc) | load<u32>(cpu, EXTERNAL);
    useStack(baseOf(stack), limitOf(stack), attrOf(stack), innerStackPointer(inner), false, fault);
    push(size, segSelector(SS));
    push(size, load<u64>(cpu + 32, GPR));
  } else useCurrentStack();
  push(size, savedFlags(vector, type));
  push(size, segSelector(CS));
  push(size, load<u64>(cpu, RIP));
  if (code != NO_CODE) push(size, code);
  setAccessed(selector, attr);
  if (inner < cpl) {
    setAccessed(stackSelector, attrOf(stack));
    setSegment(SS, stackSelector, baseOf(stack), limitOf(stack), attrOf(stack) | 1);
  }
  store<u64>(cpu + 32, stackPointer(), GPR);
  store<u64>(cpu, target, RIP);
  setSegment(CS, (selector & 0xfffc) | inner, baseOf(descriptor), limitOf(descriptor), attr | 1);
  store<u32>(cpu, inner, CPL);
  enterHandler((gateType & 1) == 0);
  updateContext();
  flagsChanged();
}

/** SS for a more privileged level from the TSS, 32-bit (SDM vol. 3, figure 8-2) or 16-bit. */
export function innerStackSelector(level: u32): u32 {
  const wide = (segAttr(TR) & 8) != 0;
  const offset: u32 = wide ? 8 + (level << 3) : 4 + (level << 2);
  if (offset + 1 > segLimit(TR)) selectorFault(10, segSelector(TR));
  return sysRd16(segBase(TR) + offset);
}

/** ESP or SP likewise. */
export function innerStackPointer(level: u32): u32 {
  const wide = (segAttr(TR) & 8) != 0;
  const offset: u32 = wide ? 4 + (level << 3) : 2 + (level << 2);
  if (offset + <u32>(wide ? 3 : 1) > segLimit(TR)) selectorFault(10, segSelector(TR));
  return wide ? sysRd32(segBase(TR) + offset) : sysRd16(segBase(TR) + offset);
}
