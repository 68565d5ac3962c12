// System instructions: the switch over the handler constants of isa/system.ts. RIP is past the instruction when a handler begins.
import { CR4_FSGSBASE, CR4_OSXSAVE, CR4_TSD } from './control-bits';
import { cpu } from './state';
import { checkSegment } from './segments';
import { cpuid, eax, ebx, ecx, edx } from './cpuid';
import { clearTaskSwitched, invalidatePcid, loadStatus, readControl, readDebug, writeControl, writeDebug, writeXcr0 } from './control';
import { beginShadow, debugInterrupt, fault, faultCode, softwareInterrupt, updateWaiting } from './events';
import { farReturn, farTransfer, interruptReturn, syscall, sysenter, sysexit, sysret } from './far';
import { ZF, cond, setArith, setSomeArith } from './flags';
import { monitorLine, mustNotSleep, mwait, requireMonitor } from './monitor';
import { MSR_DONE, MSR_FAULT, msrValue, readMsr, timeStamp, writeMsr } from './msr';
import { isCanonical } from './paging';
import { portExit, stringPort } from './ports';
import { hostRandom, shared } from './shared';
import { rd16, rd32, rd64, rmw16, sysRd64, sysRmw32, sysWr32, wr16, wr32, wr64 } from './memory';
import { OP_CODE, OP_IMM, OP_MOD, OP_PREFIX, OP_REG, OP_RM, OP_SEG, OP_SIZE, OP_SUB, currentRip, ea, gpr } from './record';
import {
  ATTR_CODE, ATTR_DOWN, ATTR_P, ATTR_S, ATTR_WRITABLE, CS, DS, ES, FS, GS, LDTR, SS, TR, attrOf, baseOf, descriptorAddress, dplOf, limitOf,
  loadSegment, longMode, mode64, protectedMode, readDescriptor, readUpperBase, segBase, segSelector, selectorFault, setSegment, typeOf,
} from './segments';
import { pop, push, stackPointer, useCurrentStack } from './stack';
import { loadLdt } from './tasks';
import { serialize } from './together';
import { flushPage, selectArray } from './views';
import {
  CPL, CR4, EXIT_HALT, EXIT_MSR, EXIT_PORT, EXIT_WRITE, GDTR_BASE, GDTR_LIMIT, GPR, IDTR_BASE,
  IDTR_LIMIT, KERNEL_GS_BASE, RESTART_RIP, RFLAGS, RIP, SEG_BASE, SHARED_CLOCK, SHARED_RANDOM, TSC_AUX, XCR0,
} from './layout';
import {
  ARPL, CALLF_A, CALLF_M, CLAC, CLI, CLTS, CPUID, HLT, IN_DX, IN_I, INS, INT, INT1, INT3, INTO, INVLPG, INVPCID, IRET, JMPF_A, JMPF_M, LAR,
  LGDT, LIDT, LLDT, LMSW, LOAD_FAR, LSL, LTR, MONITOR, MOV_C_R, MOV_D_R, MOV_E_S, MOV_R_C, MOV_R_D, MOV_S_E, MWAIT, OUT_DX, OUT_I, OUTS,
  POP_S, PUSH_S, RDBASE, RDMSR, RDPID, RDPMC, RDRAND, RDTSC, RDTSCP, RETF, RETF_Iw, SGDT, SIDT, SLDT, SMSW, STAC, STI, STR, SWAPGS, SYSCALL,
  SYSENTER, SYSEXIT, SYSRET, VERR, VERW, WBINVD, WRBASE, WRMSR, XGETBV, XSETBV,
} from './generated/system';

const IF: u64 = 0x200;
const AC: u64 = 0x40000;

/** Executes a system instruction; 0, or the exit code to leave with. */
export function execSystem(op: usize): i32 {
  switch (load<u16>(op, OP_SUB)) {
    case OUT_DX: return portExit(op, load<u16>(cpu, GPR + 16), true);
    case OUT_I: return portExit(op, load<u8>(op, OP_IMM), true);
    case IN_DX: return portExit(op, load<u16>(cpu, GPR + 16), false);
    case IN_I: return portExit(op, load<u8>(op, OP_IMM), false);
    case INS: return stringPort(op, false);
    case OUTS: return stringPort(op, true);
    case CLI: setInterruptFlag(false); break;
    case STI: setInterruptFlag(true); break;
    case SYSCALL: syscall(); break;
    case SYSRET: sysret(load<u16>(op, OP_PREFIX)); break;
    case IRET:
      serialize();
      interruptReturn(load<u8>(op, OP_SIZE));
      break;
    case SWAPGS: swapGs(); break;
    case STAC: setAccessCheck(true); break;
    case CLAC: setAccessCheck(false); break;
    case RDMSR: return readModelSpecific();
    case WRMSR:
      serialize();
      return writeModelSpecific();
    case RDTSC: readTime(); break;
    case RDTSCP:
      readTime();
      store<u64>(cpu, load<u32>(cpu, TSC_AUX), GPR + 8);
      break;
    case RDBASE: readBase(op); break;
    case WRBASE: writeBase(op); break;
    case MOV_C_R:
      requireControl(op);
      serialize();
      writeControl(load<u8>(op, OP_REG), native(gpr(load<u8>(op, OP_RM))));
      break;
    case MOV_R_C:
      requireControl(op);
      writeNative(gpr(load<u8>(op, OP_RM)), readControl(load<u8>(op, OP_REG)));
      break;
    case MOV_D_R:
      requireDebug(op);
      serialize();
      writeDebug(load<u8>(op, OP_REG), native(gpr(load<u8>(op, OP_RM))));
      break;
    case MOV_R_D:
      requireDebug(op);
      writeNative(gpr(load<u8>(op, OP_RM)), readDebug(load<u8>(op, OP_REG)));
      break;
    case INVLPG:
      requireSupervisor();
      serialize();
      flushPage(ea(op));
      break;
    case INVPCID:
      serialize();
      invalidate(op);
      break;
    case HLT:
      requireSupervisor();
      return mustNotSleep() ? 0 : EXIT_HALT;
    case CPUID:
      serialize();
      cpuid(load<u32>(cpu, GPR), load<u32>(cpu, GPR + 8));
      store<u64>(cpu, eax, GPR);
      store<u64>(cpu, ecx, GPR + 8);
      store<u64>(cpu, edx, GPR + 16);
      store<u64>(cpu, ebx, GPR + 24);
      break;
    case MOV_S_E: moveToSegment(op); break;
    case MOV_E_S: storeSelector(op, segSelector(load<u8>(op, OP_REG) & 7), (load<u8>(op, OP_REG) & 7) < 6); break;
    case PUSH_S:
      useCurrentStack();
      push(load<u8>(op, OP_SIZE), segSelector(opcodeSegment(op)));
      store<u64>(cpu, stackPointer(), GPR + 32);
      break;
    case POP_S: popSegment(op); break;
    case LOAD_FAR: loadFar(op); break;
    case INT3: return softwareInterrupt(3);
    case INT: return softwareInterrupt(load<u8>(op, OP_IMM));
    case INTO: return cond(0) ? softwareInterrupt(4) : 0;
    case INT1: return debugInterrupt();
    case CALLF_A: farTransfer(load<u16>(op, OP_IMM + 4), load<u32>(op, OP_IMM), load<u8>(op, OP_SIZE), true); break;
    case JMPF_A: farTransfer(load<u16>(op, OP_IMM + 4), load<u32>(op, OP_IMM), load<u8>(op, OP_SIZE), false); break;
    case CALLF_M: farMemory(op, true); break;
    case JMPF_M: farMemory(op, false); break;
    case RETF: farReturn(load<u8>(op, OP_SIZE), 0); break;
    case RETF_Iw: farReturn(load<u8>(op, OP_SIZE), load<u16>(op, OP_IMM)); break;
    case SYSENTER: sysenter(); break;
    case SYSEXIT: sysexit(load<u16>(op, OP_PREFIX)); break;
    case SGDT: storeTable(op, load<u64>(cpu, GDTR_BASE), load<u32>(cpu, GDTR_LIMIT)); break;
    case SIDT: storeTable(op, load<u64>(cpu, IDTR_BASE), load<u32>(cpu, IDTR_LIMIT)); break;
    case LGDT:
      serialize();
      loadTable(op, GDTR_BASE, GDTR_LIMIT);
      break;
    case LIDT:
      serialize();
      loadTable(op, IDTR_BASE, IDTR_LIMIT);
      break;
    case SLDT:
      requireProtected();
      storeSelector(op, segSelector(LDTR), true);
      break;
    case STR:
      requireProtected();
      storeSelector(op, segSelector(TR), true);
      break;
    case LLDT: loadLocalTable(privilegedSelector(op)); break;
    case LTR: loadTask(privilegedSelector(op)); break;
    case LAR: loadAccessRights(op); break;
    case LSL: loadLimit(op); break;
    case VERR: verify(operand16(op), false); break;
    case VERW: verify(operand16(op), true); break;
    case ARPL: adjustRpl(op); break;
    case SMSW:
      if (load<u8>(op, OP_MOD)) wr16(ea(op), <u32>readControl(0));
      else writeSized(gpr(load<u8>(op, OP_RM)), load<u8>(op, OP_SIZE), readControl(0));
      break;
    case LMSW:
      requireSupervisor();
      loadStatus(operand16(op));
      break;
    case CLTS:
      requireSupervisor();
      clearTaskSwitched();
      break;
    case WBINVD:
      requireSupervisor();
      serialize();
      break;
    case XGETBV: getExtended(); break;
    case XSETBV: setExtended(); break;
    case RDRAND: random(op); break;
    case RDPID: store<u64>(gpr(load<u8>(op, OP_RM)), load<u64>(cpu, TSC_AUX)); break;
    case RDPMC: faultCode(13, 0); break;
    case MONITOR: monitor(op); break;
    case MWAIT: return mwait(native(cpu + GPR + 8));
    default: fault(6);
  }
  return 0;
}

// ---- Checks and operands -------------------------------------------------------------------------------------------------------

function requireSupervisor(): void {
  if (load<u32>(cpu, CPL) != 0) faultCode(13, 0);
}
/** Control and debug registers that do not exist are #UD at any privilege. */
function requireControl(op: usize): void {
  const index = load<u8>(op, OP_REG);
  if (index != 0 && index != 2 && index != 3 && index != 4 && index != 8) fault(6);
  requireSupervisor();
}
function requireDebug(op: usize): void {
  if (load<u8>(op, OP_REG) > 7) fault(6);
  requireSupervisor();
}
function requireProtected(): void {
  if (!protectedMode()) fault(6);
}

/** Control and debug registers move in the full width of the mode. */
function native(register: usize): u64 {
  return mode64() ? load<u64>(register) : load<u32>(register);
}
function writeNative(register: usize, value: u64): void {
  store<u64>(register, mode64() ? value : value & 0xffffffff);
}
function writeSized(register: usize, size: u32, value: u64): void {
  if (size == 2) store<u16>(register, <u16>value);
  else store<u64>(register, size == 8 ? value : value & 0xffffffff);
}

function operand16(op: usize): u32 {
  return load<u8>(op, OP_MOD) ? rd16(ea(op)) : load<u16>(gpr(load<u8>(op, OP_RM)));
}

/** The operand of LLDT and LTR: mode and privilege are checked before it is read. */
function privilegedSelector(op: usize): u32 {
  requireProtected();
  requireSupervisor();
  return operand16(op);
}

/** A selector goes to 16 bits of memory, or zero-extended to a register. */
function storeSelector(op: usize, selector: u32, valid: bool): void {
  if (!valid) fault(6);
  if (load<u8>(op, OP_MOD)) wr16(ea(op), selector);
  else writeSized(gpr(load<u8>(op, OP_RM)), load<u8>(op, OP_SIZE), selector);
}

/** The segment register in PUSH and POP opcodes. */
function opcodeSegment(op: usize): u32 {
  return (load<u16>(op, OP_CODE) >> 11) & 7;
}

// ---- Segment registers -----------------------------------------------------------------------------------------------------------

function moveToSegment(op: usize): void {
  const index = load<u8>(op, OP_REG) & 7;
  if (index == CS || index > GS) fault(6);
  loadSegment(index, operand16(op));
  if (index == SS) beginShadow(true);
}

function popSegment(op: usize): void {
  const index = opcodeSegment(op);
  useCurrentStack();
  const selector = <u32>pop(load<u8>(op, OP_SIZE)) & 0xffff;
  const rsp = stackPointer();
  loadSegment(index, selector);
  store<u64>(cpu, rsp, GPR + 32);
  if (index == SS) beginShadow(true);
}

function readSized(la: u64, size: u32): u64 {
  return size == 2 ? rd16(la) : size == 4 ? rd32(la) : rd64(la);
}

/** LES, LDS, LSS, LFS, LGS. */
function loadFar(op: usize): void {
  const code = load<u16>(op, OP_CODE) >> 8;
  const index = code == 0xc4 ? ES : code == 0xc5 ? DS : code == 0xb2 ? SS : code == 0xb4 ? FS : GS;
  const size = load<u8>(op, OP_SIZE);
  const la = ea(op);
  const offset = readSized(la, size);
  loadSegment(index, rd16(la + size));
  writeSized(gpr(load<u8>(op, OP_REG)), size, offset);
}

function farMemory(op: usize, call: bool): void {
  const size = load<u8>(op, OP_SIZE);
  const la = ea(op);
  const offset = readSized(la, size);
  farTransfer(rd16(la + size), offset, size, call);
}

function swapGs(): void {
  requireSupervisor();
  const base = segBase(GS);
  store<u64>(cpu + (GS << 3), load<u64>(cpu, KERNEL_GS_BASE), SEG_BASE);
  store<u64>(cpu, base, KERNEL_GS_BASE);
}

/** RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE: ModRM.reg bit 0 tells FS from GS. */
function baseRegister(op: usize): usize {
  if (!(load<u64>(cpu, CR4) & CR4_FSGSBASE)) fault(6);
  return cpu + SEG_BASE + ((load<u8>(op, OP_REG) & 1 ? GS : FS) << 3);
}
function readBase(op: usize): void {
  writeSized(gpr(load<u8>(op, OP_RM)), load<u8>(op, OP_SIZE), load<u64>(baseRegister(op)));
}
function writeBase(op: usize): void {
  const register = gpr(load<u8>(op, OP_RM));
  const value = load<u8>(op, OP_SIZE) == 8 ? load<u64>(register) : load<u32>(register);
  const base = baseRegister(op);
  if (!isCanonical(value)) faultCode(13, 0);
  store<u64>(base, value);
}

// ---- Descriptors -------------------------------------------------------------------------------------------------------------------

function storeTable(op: usize, base: u64, limit: u32): void {
  const la = ea(op);
  wr16(la, limit);
  if (mode64()) wr64(la + 2, base);
  else wr32(la + 2, <u32>base);
}

function loadTable(op: usize, base: usize, limit: usize): void {
  requireSupervisor();
  const la = ea(op);
  const newLimit = rd16(la);
  let newBase = mode64() ? rd64(la + 2) : rd32(la + 2);
  if (!mode64() && load<u8>(op, OP_SIZE) == 2) newBase &= 0xffffff;
  if (!isCanonical(newBase)) faultCode(13, 0);
  store<u64>(cpu + base, newBase);
  store<u32>(cpu + limit, newLimit);
}

function loadLocalTable(selector: u32): void {
  const upper = longMode() && selector & 0xfffc ? readUpperBase(selector, 13) : 0;
  loadLdt(selector, 13);
  store<u64>(cpu + (LDTR << 3), segBase(LDTR) | upper, SEG_BASE);
}

function loadTask(selector: u32): void {
  if ((selector & 0xfffc) == 0) faultCode(13, 0);
  if (selector & 4) selectorFault(13, selector);
  const descriptor = readDescriptor(selector, 13);
  const attr = attrOf(descriptor);
  const type = typeOf(attr);
  if (type != 9 && (type != 1 || longMode())) selectorFault(13, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  const base = baseOf(descriptor) | (longMode() ? readUpperBase(selector, 13) : 0);
  if (!isCanonical(base)) selectorFault(13, selector);
  const at = descriptorAddress(selector, 8) + 4;
  sysWr32(at, sysRmw32(at) | 0x200); // busy
  setSegment(TR, selector, base, limitOf(descriptor), attr | 2);
}

/** Descriptor that LAR, LSL, VERR and VERW may see, or 0. `types`: bit set of system types that count. */
function visibleDescriptor(selector: u32, types: u32): u64 {
  if ((selector & 0xfffc) == 0) return 0;
  const at = descriptorAddress(selector, 8);
  if (at == 0) return 0;
  const descriptor = sysRd64(at);
  const attr = attrOf(descriptor);
  if (!(attr & ATTR_S) && !((types >> (attr & 15)) & 1)) return 0;
  const conforming = (attr & (ATTR_S | ATTR_CODE | ATTR_DOWN)) == (ATTR_S | ATTR_CODE | ATTR_DOWN);
  if (!conforming && (dplOf(attr) < load<u32>(cpu, CPL) || dplOf(attr) < (selector & 3))) return 0;
  return descriptor;
}

function setZero(value: bool): void {
  setSomeArith(ZF, value ? ZF : 0);
}

function loadAccessRights(op: usize): void {
  requireProtected();
  // TSSs, LDT, call gates; legacy mode: the 16-bit kinds and task gates too (SDM vol. 2, LAR).
  const descriptor = visibleDescriptor(operand16(op), longMode() ? 0x1a04 : 0x1a3e);
  setZero(descriptor != 0);
  if (descriptor != 0) writeSized(gpr(load<u8>(op, OP_REG)), load<u8>(op, OP_SIZE), (descriptor >> 32) & 0xffff00);
}

function loadLimit(op: usize): void {
  requireProtected();
  const descriptor = visibleDescriptor(operand16(op), longMode() ? 0x0a04 : 0x0a0e);
  setZero(descriptor != 0);
  if (descriptor != 0) writeSized(gpr(load<u8>(op, OP_REG)), load<u8>(op, OP_SIZE), limitOf(descriptor));
}

function verify(selector: u32, write: bool): void {
  requireProtected();
  const attr = attrOf(visibleDescriptor(selector, 0));
  const code = (attr & ATTR_CODE) != 0;
  const writable = (attr & ATTR_WRITABLE) != 0;
  setZero((attr & ATTR_S) != 0 && (write ? !code && writable : !code || writable));
}

function adjustRpl(op: usize): void {
  requireProtected();
  const rpl = load<u16>(gpr(load<u8>(op, OP_REG))) & 3;
  const memory = load<u8>(op, OP_MOD) != 0;
  const at = memory ? ea(op) : 0;
  const old = memory ? rmw16(at) : load<u16>(gpr(load<u8>(op, OP_RM)));
  const lower = (old & 3) < rpl;
  setZero(lower);
  if (!lower) return;
  if (memory) wr16(at, (old & ~3) | rpl);
  else store<u16>(gpr(load<u8>(op, OP_RM)), <u16>((old & ~3) | rpl));
}

// ---- Flags, control ------------------------------------------------------------------------------------------------------------------

/** CLI and STI. The arithmetic flags are not in the state word, so it may be changed alone. */
function setInterruptFlag(on: bool): void {
  const flags = load<u64>(cpu, RFLAGS);
  if (protectedMode() && load<u32>(cpu, CPL) > (<u32>flags >> 12 & 3)) faultCode(13, 0);
  if (on == ((flags & IF) != 0)) return;
  store<u64>(cpu, flags ^ IF, RFLAGS);
  if (on) beginShadow(false);
  updateWaiting();
}

/** STAC and CLAC. */
function setAccessCheck(on: bool): void {
  if (load<u32>(cpu, CPL) != 0) fault(6);
  const flags = load<u64>(cpu, RFLAGS);
  store<u64>(cpu, on ? flags | AC : flags & ~AC, RFLAGS);
  selectArray();
}

function invalidate(op: usize): void {
  requireSupervisor();
  const la = ea(op);
  const pcid = rd64(la);
  const address = rd64(la + 8);
  const type = native(gpr(load<u8>(op, OP_REG)));
  if (type == 0 && !isCanonical(address)) faultCode(13, 0);
  invalidatePcid(type, pcid, address);
}

function getExtended(): void {
  if (!(load<u64>(cpu, CR4) & CR4_OSXSAVE)) fault(6);
  const index = load<u32>(cpu, GPR + 8);
  if (index > 1) faultCode(13, 0);
  // Index 1: XINUSE, as far as it is known: everything enabled.
  store<u64>(cpu, load<u32>(cpu, XCR0), GPR);
  store<u64>(cpu, 0, GPR + 16);
}

function setExtended(): void {
  if (!(load<u64>(cpu, CR4) & CR4_OSXSAVE)) fault(6);
  requireSupervisor();
  if (load<u32>(cpu, GPR + 8) != 0) faultCode(13, 0);
  writeXcr0((<u64>load<u32>(cpu, GPR + 16) << 32) | load<u32>(cpu, GPR));
}

// ---- Time, MSRs, random numbers, waiting -----------------------------------------------------------------------------------------

function setPair(value: u64): void {
  store<u64>(cpu, value & 0xffffffff, GPR);
  store<u64>(cpu, value >> 32, GPR + 16);
}

function readTime(): void {
  if (load<u64>(cpu, CR4) & CR4_TSD && load<u32>(cpu, CPL) != 0) faultCode(13, 0);
  setPair(timeStamp());
}

function msrExit(index: u32, write: bool): i32 {
  store<u32>(cpu, index, EXIT_PORT);
  store<u32>(cpu, write, EXIT_WRITE);
  store<u64>(cpu, currentRip(), RESTART_RIP);
  return EXIT_MSR;
}

function readModelSpecific(): i32 {
  requireSupervisor();
  const index = load<u32>(cpu, GPR + 8);
  if (readMsr(index) != MSR_DONE) return msrExit(index, false);
  setPair(msrValue);
  return 0;
}

function writeModelSpecific(): i32 {
  requireSupervisor();
  const index = load<u32>(cpu, GPR + 8);
  const result = writeMsr(index, (<u64>load<u32>(cpu, GPR + 16) << 32) | load<u32>(cpu, GPR));
  if (result == MSR_FAULT) faultCode(13, 0);
  return result == MSR_DONE ? 0 : msrExit(index, true);
}

/** RDRAND and RDSEED: a seeded xorshift64* sequence under the deterministic clock, else the host's. */
function random(op: usize): void {
  let value: u64;
  if (load<u32>(shared, SHARED_CLOCK) == 0) value = (<u64>hostRandom() << 32) | hostRandom();
  else {
    let x = load<u64>(shared, SHARED_RANDOM);
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    store<u64>(shared, x, SHARED_RANDOM);
    value = x * 0x2545f4914f6cdd1d;
  }
  writeSized(gpr(load<u8>(op, OP_RM)), load<u8>(op, OP_SIZE), value);
  setArith(1); // CF; the others are cleared
}

/** MONITOR: the address is DS:rAX unless a prefix says otherwise; the extensions in rCX must be 0, the hints in EDX mean nothing. */
function monitor(op: usize): void {
  requireMonitor(native(cpu + GPR + 8));
  const segment = load<u8>(op, OP_SEG);
  const offset = native(cpu + GPR);
  if (!mode64()) checkSegment(segment, <u32>offset, 1, false);
  monitorLine(mode64() && segment < FS ? offset : segBase(segment) + offset);
}
