// Model-specific registers that stock Linux touches (Intel SDM vol. 4, 2.1). What is not here leaves by the exit 'msr': the local
// APIC's registers belong to the machine, and the machine answers #GP for the rest.
import { EFER_LMA, EFER_LME, EFER_NXE } from './control-bits';
import { cpu } from './state';
import { instructionsNow } from './run';
import { hostNow, shared } from './shared';
import { isCanonical } from './paging';
import { FS, GS } from './segments';
import { flushAll, updateContext } from './views';
import {
  CR0, CSTAR, DEBUGCTL, EFER, KERNEL_GS_BASE, LSTAR, MISC_ENABLE, NS_PER_INSTRUCTION, PAT, SEG_BASE, SFMASK, SHARED_CLOCK, SPEC_CTRL, STAR,
  SYSENTER_CS, SYSENTER_EIP, SYSENTER_ESP, TIME_OFFSET, TSC_ADJUST, TSC_AUX,
} from './layout';

export const MSR_DONE: u32 = 0;
export const MSR_UNKNOWN: u32 = 1;
export const MSR_FAULT: u32 = 2;

/** Value that readMsr found. */
export let msrValue: u64 = 0;

const EFER_BITS: u64 = 0x901; // SCE, LME, NXE
/** IA32_MISC_ENABLE: what the guest at large does not have, it cannot switch on. */
const ENABLE_MONITOR: u64 = 1 << 18;

/**
 * IA32_ARCH_CAPABILITIES: RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO,
 * PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO. True of an interpreter.
 */
const ARCH_CAPABILITIES: u64 = 0x400000000d10e17b;

/** Memory types: all write-back, but the 32-bit device hole and the VGA window uncacheable. Fixed: caches do not exist. */
const MTRR_CAP: u64 = 0x508;
const MTRR_DEFAULT: u64 = 0xc06;

/** ns since the virtual machine started; the time-stamp counter counts these. */
export function now(): u64 {
  if (load<u32>(shared, SHARED_CLOCK) == 0) return <u64>hostNow();
  return load<u64>(cpu, TIME_OFFSET) + instructionsNow() * NS_PER_INSTRUCTION;
}

export function timeStamp(): u64 {
  return now() + load<u64>(cpu, TSC_ADJUST);
}

/** Offset in the state block of registers that are plain 64-bit storage, or 0. */
function storage(index: u32): usize {
  switch (index) {
    case 0x3b: return TSC_ADJUST;
    case 0x174: return SYSENTER_CS;
    case 0x175: return SYSENTER_ESP;
    case 0x176: return SYSENTER_EIP;
    case 0x1a0: return MISC_ENABLE;
    case 0xc0000081: return STAR;
    case 0xc0000082: return LSTAR;
    case 0xc0000083: return CSTAR;
    case 0xc0000084: return SFMASK;
    case 0xc0000100: return SEG_BASE + (FS << 3);
    case 0xc0000101: return SEG_BASE + (GS << 3);
    case 0xc0000102: return KERNEL_GS_BASE;
    default: return 0;
  }
}

/** MTRRs: value, or all ones for "none". */
function memoryType(index: u32): u64 {
  if (index == 0xfe) return MTRR_CAP;
  if (index == 0x2ff) return MTRR_DEFAULT;
  if (index == 0x200) return 0xc0000000; // uncacheable
  if (index == 0x201) return 0xffc0000800; // 1 GiB
  if (index >= 0x202 && index <= 0x20f) return 0;
  if (index == 0x250 || index == 0x258) return 0x0606060606060606;
  if (index == 0x259) return 0; // A0000h: VGA
  if (index >= 0x268 && index <= 0x26f) return 0x0505050505050505; // C0000h: ROM
  return u64.MAX_VALUE;
}

export function readMsr(index: u32): u32 {
  const at = storage(index);
  if (at != 0) {
    msrValue = load<u64>(cpu + at);
    return MSR_DONE;
  }
  msrValue = 0;
  switch (index) {
    case 0x10: msrValue = timeStamp(); return MSR_DONE;
    case 0x17: // platform id
    case 0x2a: // power-on configuration
    case 0x179: // no machine-check banks
    case 0x17a:
    case 0x1db: // last branch
    case 0x1dc:
      return MSR_DONE;
    case 0x3a: msrValue = 1; return MSR_DONE; // feature control: locked
    case 0x48: msrValue = load<u64>(cpu, SPEC_CTRL); return MSR_DONE;
    case 0x8b: msrValue = <u64>1 << 32; return MSR_DONE; // microcode revision
    case 0x10a: msrValue = ARCH_CAPABILITIES; return MSR_DONE;
    case 0x1d9: msrValue = load<u64>(cpu, DEBUGCTL); return MSR_DONE;
    case 0x277: msrValue = load<u64>(cpu, PAT); return MSR_DONE;
    case 0xc0000080: msrValue = load<u64>(cpu, EFER); return MSR_DONE;
    case 0xc0000103: msrValue = load<u64>(cpu, TSC_AUX); return MSR_DONE;
  }
  const type = memoryType(index);
  if (type == u64.MAX_VALUE) return MSR_UNKNOWN;
  msrValue = type;
  return MSR_DONE;
}

/** FS, GS and kernel GS base, LSTAR, CSTAR, SYSENTER_ESP and _EIP. */
function holdsAddress(index: u32): bool {
  return (index >= 0xc0000100 && index <= 0xc0000102) || index == 0xc0000082 || index == 0xc0000083 || index == 0x175 || index == 0x176;
}

export function writeMsr(index: u32, value: u64): u32 {
  const at = storage(index);
  if (at != 0) {
    if (holdsAddress(index) && !isCanonical(value)) return MSR_FAULT;
    if (index == 0xc0000084 && value >> 32) return MSR_FAULT;
    if (index == 0x1a0 && value & ENABLE_MONITOR) return MSR_FAULT;
    store<u64>(cpu + at, value);
    return MSR_DONE;
  }
  switch (index) {
    case 0x10:
      store<u64>(cpu, value - now(), TSC_ADJUST);
      return MSR_DONE;
    case 0x48:
      if (value & ~7) return MSR_FAULT;
      store<u64>(cpu, value, SPEC_CTRL);
      return MSR_DONE;
    case 0x49: return value & ~1 ? MSR_FAULT : MSR_DONE; // IBPB: nothing is predicted
    case 0x79: // microcode update
    case 0x8b:
    case 0x17a:
      return MSR_DONE;
    case 0x1d9:
      store<u64>(cpu, value & 3, DEBUGCTL);
      return MSR_DONE;
    case 0x277:
      if (!validPat(value)) return MSR_FAULT;
      store<u64>(cpu, value, PAT);
      return MSR_DONE;
    case 0xc0000080: return writeEfer(value);
    case 0xc0000103:
      if (value >> 32) return MSR_FAULT;
      store<u64>(cpu, value, TSC_AUX);
      return MSR_DONE;
    case 0xfe:
    case 0x10a:
      return MSR_FAULT;
  }
  return memoryType(index) == u64.MAX_VALUE ? MSR_UNKNOWN : MSR_DONE;
}

/** Every byte is one of the memory types UC, WC, WT, WP, WB, UC- (SDM vol. 3, 12.12.2). */
function validPat(value: u64): bool {
  for (let i: u64 = 0; i < 64; i += 8) {
    const type = (value >> i) & 0xff;
    if (type > 7 || type == 2 || type == 3) return false;
  }
  return true;
}

function writeEfer(value: u64): u32 {
  const old = load<u64>(cpu, EFER);
  if (value & ~(EFER_BITS | EFER_LMA)) return MSR_FAULT;
  if ((value ^ old) & EFER_LME && load<u64>(cpu, CR0) & 0x80000000) return MSR_FAULT;
  store<u64>(cpu, (value & EFER_BITS) | (old & EFER_LMA), EFER);
  if ((value ^ old) & EFER_NXE) flushAll();
  updateContext();
  return MSR_DONE;
}
