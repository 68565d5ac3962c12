// Far transfers of control: JMP, CALL and RET between segments and through call gates, IRET, and the fast system calls
// (Intel SDM vol. 3, 5.8 and vol. 2). As in deliver.ts, all checks and stack accesses come before the first register changes.
import { cpu } from './state';
import { fault, faultCode, flagsChanged, updateWaiting } from './events';
import { getFlags, setFlags } from './flags';
import { innerStackPointer, innerStackSelector, tssStack } from './deliver';
import { isCanonical } from './paging';
import { PREFIX_REXW } from './record';
import {
  ATTR_CODE, ATTR_DB, ATTR_DOWN, ATTR_L, ATTR_P, ATTR_S, CS, SS, attrOf, baseOf, checkStackSegment, dplOf, dropInnerSegments, limitOf,
  longMode, mode64, protectedMode, readDescriptor, readUpperBase, segSelector, selectorFault, setAccessed, setNull, setReal, setSegment,
  typeOf,
} from './segments';
import { peek, pop, push, skip, stackPointer, useCurrentStack, useFlatStack, useStack } from './stack';
import { switchTask, TASK_CALL, TASK_IRET, TASK_JUMP } from './tasks';
import { updateContext } from './views';
import {
  CPL, EFER, GPR, LSTAR, NMI_BLOCKED, NO_CODE, RIP, SFMASK, STAR, STEP_FLAGS, SYSENTER_CS, SYSENTER_EIP, SYSENTER_ESP,
} from './layout';

const RCX = GPR + 8;
const RDX = GPR + 16;
const RSP = GPR + 32;
const R11 = GPR + 88;
const IF: u64 = 0x200;
const IOPL: u64 = 0x3000;
const NT: u64 = 0x4000;
const RF: u64 = 0x10000;
const VM: u64 = 0x20000;
const VIF_VIP: u64 = 0x180000;
/** TF, DF, NT, RF, AC, ID and the arithmetic flags: what any IRET may change. */
const OPEN_FLAGS: u64 = 0x254dd5;

function truncate(offset: u64, size: u32): u64 {
  return size == 8 ? offset : size == 4 ? offset & 0xffffffff : offset & 0xffff;
}

/** Checks a target offset against the code segment it lies in. */
function checkTarget(offset: u64, descriptor: u64): void {
  if (longMode() && attrOf(descriptor) & ATTR_L) {
    if (!isCanonical(offset)) faultCode(13, 0);
  } else if (offset > <u64>limitOf(descriptor)) faultCode(13, 0);
}

/** L and D together are reserved in long mode. */
function checkCodeBits(selector: u32, attr: u32): void {
  if (longMode() && (attr & (ATTR_L | ATTR_DB)) == (ATTR_L | ATTR_DB)) selectorFault(13, selector);
}

function enterCode(selector: u32, descriptor: u64, cpl: u32, offset: u64): void {
  setSegment(CS, (selector & 0xfffc) | cpl, baseOf(descriptor), limitOf(descriptor), attrOf(descriptor) | 1);
  store<u64>(cpu, offset, RIP);
  store<u32>(cpu, cpl, CPL);
  updateContext();
}

/** JMP or CALL to selector:offset. `size`: operand size. RIP is past the instruction. */
export function farTransfer(selector: u32, target: u64, size: u32, call: bool): void {
  const offset = truncate(target, size);
  if (!protectedMode()) {
    if (offset > 0xffff) faultCode(13, 0);
    if (call) pushReturn(size);
    setReal(CS, selector);
    store<u64>(cpu, offset, RIP);
    return;
  }
  if ((selector & 0xfffc) == 0) faultCode(13, 0);
  const descriptor = readDescriptor(selector, 13);
  const attr = attrOf(descriptor);
  const cpl = load<u32>(cpu, CPL);
  if (!(attr & ATTR_S)) {
    farSystem(selector, descriptor, call);
    return;
  }
  if (!(attr & ATTR_CODE)) selectorFault(13, selector);
  checkCodeBits(selector, attr);
  const dpl = dplOf(attr);
  if (attr & ATTR_DOWN ? dpl > cpl : (selector & 3) > cpl || dpl != cpl) selectorFault(13, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  checkTarget(offset, descriptor);
  if (call) pushReturn(size);
  setAccessed(selector, attr);
  enterCode(selector, descriptor, cpl, offset);
}

function pushReturn(size: u32): void {
  useCurrentStack();
  push(size, segSelector(CS));
  push(size, load<u64>(cpu, RIP));
  store<u64>(cpu, stackPointer(), RSP);
}

/** Call gates, task gates and task segments. */
function farSystem(selector: u32, descriptor: u64, call: bool): void {
  const attr = attrOf(descriptor);
  const type = typeOf(attr);
  const dpl = dplOf(attr);
  const long = longMode();
  if (long ? type != 12 : type != 12 && type != 4 && type != 5 && type != 1 && type != 9) selectorFault(13, selector);
  if (dpl < load<u32>(cpu, CPL) || dpl < (selector & 3)) selectorFault(13, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  if (type == 12 || type == 4) callGate(selector, descriptor, call);
  else switchTask(type == 5 ? <u32>(descriptor >> 16) & 0xffff : selector, call ? TASK_CALL : TASK_JUMP, NO_CODE);
}

/** SDM vol. 3, 5.8.3 to 5.8.5. */
function callGate(gateSelector: u32, gate: u64, call: bool): void {
  const long = longMode();
  const size: u32 = long ? 8 : typeOf(attrOf(gate)) == 12 ? 4 : 2;
  const cpl = load<u32>(cpu, CPL);
  const upper = long ? readUpperBase(gateSelector, 13) : 0;
  const offset = truncate((gate & 0xffff) | ((gate >> 32) & 0xffff0000), size == 8 ? 4 : size) | upper;
  const selector = <u32>(gate >> 16) & 0xffff;
  if ((selector & 0xfffc) == 0) faultCode(13, 0);
  const descriptor = readDescriptor(selector, 13);
  const attr = attrOf(descriptor);
  const dpl = dplOf(attr);
  if ((attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE) || dpl > cpl) selectorFault(13, selector);
  if (!call && !(attr & ATTR_DOWN) && dpl != cpl) selectorFault(13, selector);
  if (long && (attr & (ATTR_L | ATTR_DB)) != ATTR_L) selectorFault(13, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  checkTarget(offset, descriptor);
  const inner = attr & ATTR_DOWN ? cpl : dpl;
  if (call && inner < cpl) {
    if (long) callInnerLong(inner);
    else callInnerLegacy(inner, size, <u32>(gate >> 32) & 31);
  } else if (call) pushReturn(size);
  setAccessed(selector, attr);
  enterCode(selector, descriptor, inner, offset);
}

function callInnerLong(inner: u32): void {
  const rsp = tssStack(4 + (inner << 3));
  if (!isCanonical(rsp)) faultCode(12, 0);
  useFlatStack(rsp, false);
  push(8, segSelector(SS));
  push(8, load<u64>(cpu, RSP));
  push(8, segSelector(CS));
  push(8, load<u64>(cpu, RIP));
  setNull(SS, inner);
  store<u64>(cpu, stackPointer(), RSP);
}

function callInnerLegacy(inner: u32, size: u32, parameters: u32): void {
  const selector = innerStackSelector(inner);
  const stack = checkStackSegment(selector, inner, 10);
  const pointer = innerStackPointer(inner);
  const total = parameters * size;
  // The parameters are read from the old stack one by one, each pushed to the new one.
  let depth: u32 = 0;
  depth = pushInner(stack, selector, pointer, depth, size, segSelector(SS));
  depth = pushInner(stack, selector, pointer, depth, size, load<u64>(cpu, RSP));
  for (let at = total; at > 0; at -= size) {
    useCurrentStack();
    depth = pushInner(stack, selector, pointer, depth, size, peek(at - size, size));
  }
  depth = pushInner(stack, selector, pointer, depth, size, segSelector(CS));
  pushInner(stack, selector, pointer, depth, size, load<u64>(cpu, RIP));
  setAccessed(selector, attrOf(stack));
  setSegment(SS, selector, baseOf(stack), limitOf(stack), attrOf(stack) | 1);
  store<u64>(cpu, stackPointer(), RSP);
}

/** Pushes `depth` bytes below the inner stack's start; returns the new depth. */
function pushInner(stack: u64, selector: u32, pointer: u32, depth: u32, size: u32, value: u64): u32 {
  useStack(baseOf(stack), limitOf(stack), attrOf(stack), pointer - depth, false, selector & 0xfffc);
  push(size, value);
  return depth + size;
}

/** Code segment of a far return to privilege level RPL >= CPL. */
function returnCode(selector: u32): u64 {
  if ((selector & 0xfffc) == 0) faultCode(13, 0);
  const descriptor = readDescriptor(selector, 13);
  const attr = attrOf(descriptor);
  const rpl = selector & 3;
  if ((attr & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE) || rpl < load<u32>(cpu, CPL)) selectorFault(13, selector);
  if (attr & ATTR_DOWN ? dplOf(attr) > rpl : dplOf(attr) != rpl) selectorFault(13, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  checkCodeBits(selector, attr);
  return descriptor;
}

/** SS:RSP of a return to another level, or (IRET in 64-bit mode) to the same. `toLong`: the target is 64-bit code. */
function checkReturnStack(selector: u32, cpl: u32, toLong: bool): u64 {
  if ((selector & 0xfffc) == 0) {
    if (!toLong || cpl == 3 || (selector & 3) != cpl) faultCode(13, 0);
    return 0;
  }
  return checkStackSegment(selector, cpl, 13);
}

function setReturnStack(selector: u32, descriptor: u64, rsp: u64): void {
  if (descriptor == 0) setNull(SS, selector);
  else {
    setAccessed(selector, attrOf(descriptor));
    setSegment(SS, selector, baseOf(descriptor), limitOf(descriptor), attrOf(descriptor) | 1);
  }
  const wide = mode64() || descriptor == 0 || (attrOf(descriptor) & ATTR_DB) != 0;
  store<u64>(cpu, wide ? rsp : (load<u64>(cpu, RSP) & ~0xffff) | (rsp & 0xffff), RSP);
}

/** RETF, releasing `extra` bytes of parameters. */
export function farReturn(size: u32, extra: u32): void {
  useCurrentStack();
  const offset = pop(size);
  const selector = <u32>pop(size) & 0xffff;
  if (!protectedMode()) {
    if (offset > 0xffff) faultCode(13, 0);
    skip(extra);
    store<u64>(cpu, stackPointer(), RSP);
    setReal(CS, selector);
    store<u64>(cpu, offset, RIP);
    return;
  }
  const descriptor = returnCode(selector);
  const rpl = selector & 3;
  checkTarget(offset, descriptor);
  skip(extra);
  if (rpl == load<u32>(cpu, CPL)) {
    setAccessed(selector, attrOf(descriptor));
    store<u64>(cpu, stackPointer(), RSP);
    enterCode(selector, descriptor, rpl, offset);
    return;
  }
  const rsp = pop(size);
  const ss = <u32>pop(size) & 0xffff;
  const stack = checkReturnStack(ss, rpl, longMode() && (attrOf(descriptor) & ATTR_L) != 0);
  setAccessed(selector, attrOf(descriptor));
  enterCode(selector, descriptor, rpl, offset);
  setReturnStack(ss, stack, rsp + extra);
  dropInnerSegments(rpl);
}

/** RFLAGS after IRET from `cpl`, given the popped image. */
function returnFlags(image: u64, size: u32, cpl: u32): u64 {
  const old = getFlags();
  let mask = OPEN_FLAGS;
  if (<u64>cpl <= (old & IOPL) >> 12) mask |= IF;
  if (cpl == 0) mask |= IOPL | VIF_VIP;
  if (size == 2) mask &= 0xffff;
  return (old & ~mask) | (image & mask) | 2;
}

export function interruptReturn(size: u32): void {
  store<u32>(cpu, 0, NMI_BLOCKED);
  updateWaiting();
  if (!protectedMode()) {
    useCurrentStack();
    const ip = pop(size);
    const cs = <u32>pop(size) & 0xffff;
    const image = pop(size);
    if (ip > 0xffff) faultCode(13, 0);
    store<u64>(cpu, stackPointer(), RSP);
    setReal(CS, cs);
    store<u64>(cpu, ip, RIP);
    setFlags(returnFlags(image, size, 0));
    flagsChanged();
    return;
  }
  const long = longMode();
  if (getFlags() & NT) {
    if (long) faultCode(13, 0);
    switchTask(0, TASK_IRET, NO_CODE);
    return;
  }
  useCurrentStack();
  const cpl = load<u32>(cpu, CPL);
  const offset = pop(size);
  const selector = <u32>pop(size) & 0xffff;
  const image = pop(size);
  if (!long && cpl == 0 && size == 4 && image & VM) faultCode(13, 0); // virtual-8086 mode does not exist here
  const descriptor = returnCode(selector);
  const rpl = selector & 3;
  const toLong = long && (attrOf(descriptor) & ATTR_L) != 0;
  checkTarget(offset, descriptor);
  const flags = returnFlags(image, size, cpl);
  if (mode64() || rpl != cpl) {
    const rsp = pop(size);
    const ss = <u32>pop(size) & 0xffff;
    const stack = checkReturnStack(ss, rpl, toLong);
    setAccessed(selector, attrOf(descriptor));
    enterCode(selector, descriptor, rpl, offset);
    setReturnStack(ss, stack, rsp);
    if (rpl != cpl) dropInnerSegments(rpl);
  } else {
    setAccessed(selector, attrOf(descriptor));
    store<u64>(cpu, stackPointer(), RSP);
    enterCode(selector, descriptor, rpl, offset);
  }
  setFlags(flags);
  flagsChanged();
}

// ---- Fast system calls (SDM vol. 3, 5.8.7 and 5.8.8) ------------------------------------------------------------------------------

const CODE_64: u32 = 0xa09b; // G, L, present, accessed execute/read
const CODE_32: u32 = 0xc09b;
const DATA: u32 = 0xc093;
const USER: u32 = 0x60; // DPL 3

function flatSegments(cs: u32, codeAttr: u32, ss: u32, cpl: u32): void {
  const user = cpl == 3 ? USER : 0;
  setSegment(CS, (cs & 0xfffc) | cpl, 0, 0xffffffff, codeAttr | user);
  setSegment(SS, (ss & 0xfffc) | cpl, 0, 0xffffffff, DATA | user);
  store<u32>(cpu, cpl, CPL);
  updateContext();
  flagsChanged();
}

export function syscall(): void {
  if (!(load<u64>(cpu, EFER) & 1)) fault(6);
  const flags = getFlags();
  store<u64>(cpu, load<u64>(cpu, RIP), RCX);
  store<u64>(cpu, flags & ~RF, R11);
  store<u64>(cpu, load<u64>(cpu, LSTAR), RIP);
  setFlags((flags & ~(load<u64>(cpu, SFMASK) & 0xffffffff) & ~RF) | 2);
  store<u32>(cpu, 0, STEP_FLAGS);
  const star = <u32>(load<u64>(cpu, STAR) >> 32) & 0xffff;
  flatSegments(star, CODE_64, star + 8, 0);
}

export function sysret(prefix: u32): void {
  if (!(load<u64>(cpu, EFER) & 1)) fault(6);
  if (load<u32>(cpu, CPL) != 0) faultCode(13, 0);
  const wide = (prefix & PREFIX_REXW) != 0;
  const rip = load<u64>(cpu, RCX);
  if (wide && !isCanonical(rip)) faultCode(13, 0);
  const star = <u32>(load<u64>(cpu, STAR) >> 48) & 0xffff;
  store<u64>(cpu, wide ? rip : rip & 0xffffffff, RIP);
  setFlags((load<u64>(cpu, R11) & 0x3c7fd7) | 2);
  flatSegments(wide ? star + 16 : star, wide ? CODE_64 : CODE_32, star + 8, 3);
}

export function sysenter(): void {
  const cs = <u32>load<u64>(cpu, SYSENTER_CS) & 0xffff;
  if (!protectedMode() || (cs & 0xfffc) == 0) faultCode(13, 0);
  const long = longMode();
  store<u64>(cpu, long ? load<u64>(cpu, SYSENTER_EIP) : load<u64>(cpu, SYSENTER_EIP) & 0xffffffff, RIP);
  store<u64>(cpu, long ? load<u64>(cpu, SYSENTER_ESP) : load<u64>(cpu, SYSENTER_ESP) & 0xffffffff, RSP);
  setFlags(getFlags() & ~(IF | VM | RF));
  flatSegments(cs, long ? CODE_64 : CODE_32, cs + 8, 0);
}

export function sysexit(prefix: u32): void {
  const cs = <u32>load<u64>(cpu, SYSENTER_CS) & 0xffff;
  if (!protectedMode() || (cs & 0xfffc) == 0 || load<u32>(cpu, CPL) != 0) faultCode(13, 0);
  const wide = (prefix & PREFIX_REXW) != 0 && longMode();
  const rip = load<u64>(cpu, RDX);
  const rsp = load<u64>(cpu, RCX);
  if (wide && (!isCanonical(rip) || !isCanonical(rsp))) faultCode(13, 0);
  store<u64>(cpu, wide ? rip : rip & 0xffffffff, RIP);
  store<u64>(cpu, wide ? rsp : rsp & 0xffffffff, RSP);
  flatSegments(wide ? cs + 32 : cs + 16, wide ? CODE_64 : CODE_32, wide ? cs + 40 : cs + 24, 3);
}
