// Control and debug registers (Intel SDM vol. 3, 2.5, 4.10.4 and 18.2), XCR0, and what the vector unit's users ask about them.
import {
  CR0_CD, CR0_EM, CR0_ET, CR0_MP, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CR0_WP,
  CR4_DE, CR4_OSFXSR, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_LME,
} from './control-bits';
import { cpu } from './state';
import { fault, faultCode, updateStep } from './events';
import { PHYSICAL_BITS } from './paging';
import { mode64 } from './segments';
import { flushAll, flushLocal, flushPage, selectSet, updateContext, vectorAllowed } from './views';
import { CR0, CR2, CR3, CR4, CR8, DR, EFER, SEG_ATTR, XCR0 } from './layout';
import { CR4_SUPPORTED } from './cpuid';

const CR0_BITS: u64 = 0xe005003f;

/** `index`: 0, 2, 3, 4 or 8. */
export function readControl(index: u32): u64 {
  switch (index) {
    case 0: return load<u64>(cpu, CR0);
    case 2: return load<u64>(cpu, CR2);
    case 3: return load<u64>(cpu, CR3);
    case 4: return load<u64>(cpu, CR4);
    default: return load<u64>(cpu, CR8);
  }
}

export function writeControl(index: u32, value: u64): void {
  switch (index) {
    case 0: writeCr0(value); break;
    case 2: store<u64>(cpu, value, CR2); break;
    case 3: writeCr3(value); break;
    case 4: writeCr4(value); break;
    default:
      if (value >> 4) faultCode(13, 0);
      store<u64>(cpu, value, CR8);
  }
}

export function writeCr0(value: u64): void {
  if (value >> 32 || ((value & CR0_PG) != 0 && !(value & CR0_PE)) || ((value & CR0_NW) != 0 && !(value & CR0_CD))) faultCode(13, 0);
  value = (value & CR0_BITS) | CR0_ET;
  const old = load<u64>(cpu, CR0);
  const efer = load<u64>(cpu, EFER);
  if (value & CR0_PG && !(old & CR0_PG) && efer & EFER_LME) {
    // Long mode begins (SDM vol. 3, 10.8.5): PAE must be on, CS must not be 64-bit already.
    if (!(load<u64>(cpu, CR4) & CR4_PAE) || load<u16>(cpu + 2, SEG_ATTR) & 0x2000) faultCode(13, 0);
    store<u64>(cpu, efer | EFER_LMA, EFER);
  } else if (!(value & CR0_PG) && old & CR0_PG) {
    if (mode64() || load<u64>(cpu, CR4) & CR4_PCIDE) faultCode(13, 0);
    store<u64>(cpu, efer & ~EFER_LMA, EFER);
  }
  store<u64>(cpu, value, CR0);
  if ((value ^ old) & (CR0_PG | CR0_WP | CR0_PE)) flushAll();
  updateContext();
}

function writeCr3(value: u64): void {
  const pcide = (load<u64>(cpu, CR4) & CR4_PCIDE) != 0;
  const keep = pcide && value >> 63 != 0;
  if (pcide) value &= ~(<u64>1 << 63);
  if (value >> PHYSICAL_BITS) faultCode(13, 0);
  store<u64>(cpu, value, CR3);
  if (!keep) flushLocal(pcide ? <u32>value & 0xfff : 0, false);
  selectSet();
  updateContext();
}

export function writeCr4(value: u64): void {
  const old = load<u64>(cpu, CR4);
  if (value & ~CR4_SUPPORTED) faultCode(13, 0);
  if (load<u64>(cpu, EFER) & EFER_LMA && !(value & CR4_PAE)) faultCode(13, 0);
  if (value & CR4_PCIDE && !(old & CR4_PCIDE) && (!(load<u64>(cpu, EFER) & EFER_LMA) || load<u64>(cpu, CR3) & 0xfff)) faultCode(13, 0);
  store<u64>(cpu, value, CR4);
  if ((value ^ old) & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)) flushAll();
  updateContext();
}

/** LMSW: MP, EM and TS, and PE only from 0 to 1. */
export function loadStatus(value: u32): void {
  const old = load<u64>(cpu, CR0);
  writeCr0((old & ~0xe) | (value & 0xf));
}

export function clearTaskSwitched(): void {
  store<u64>(cpu, load<u64>(cpu, CR0) & ~CR0_TS, CR0);
  updateContext();
}

// ---- Debug registers ---------------------------------------------------------------------------------------------------------

const DR7_GD: u64 = 0x2000;
const DR6_BD: u32 = 0x2000;

/**
 * The number after aliasing (DR4 and DR5 are DR6 and DR7 unless CR4.DE), or #UD; #DB first when DR7.GD guards them. Nonzero: an exit
 * code.
 */
export function debugIndex(index: u32): u32 {
  if (index > 7 || ((index == 4 || index == 5) && load<u64>(cpu, CR4) & CR4_DE)) fault(6);
  if (load<u64>(cpu + 56, DR) & DR7_GD) {
    store<u64>(cpu + 56, load<u64>(cpu + 56, DR) & ~DR7_GD, DR);
    store<u64>(cpu + 48, load<u64>(cpu + 48, DR) | DR6_BD, DR);
    fault(1);
  }
  return index == 4 || index == 5 ? index + 2 : index;
}

export function readDebug(index: u32): u64 {
  return load<u64>(cpu + (debugIndex(index) << 3), DR);
}

export function writeDebug(index: u32, value: u64): void {
  const at = debugIndex(index);
  if (at >= 6 && value >> 32) faultCode(13, 0);
  storeDebug(at, value);
}

/** Without checks, for the host side too. */
export function storeDebug(index: u32, value: u64): void {
  if (index == 6) value = (value & 0xe00f) | 0xffff0ff0;
  if (index == 7) value = (value & 0xffff2bff) | 0x400;
  store<u64>(cpu + (index << 3), value, DR);
  if (index == 6) return;
  flushAll(); // watched pages have no tags
  updateStep();
}

// ---- Vector unit -------------------------------------------------------------------------------------------------------------

/** Raises what an x87, MMX or FWAIT instruction raises while FPU_OK bit 0 is clear (SDM vol. 3, tables 2-2 and 13-1). */
export function fpuUnusable(): void {
  fault(7);
}

/** Likewise MMX: CR0.EM makes it undefined. */
export function mmxUnusable(): void {
  if (load<u64>(cpu, CR0) & CR0_EM) fault(6);
  fault(7);
}

/** Likewise SSE instructions, while FPU_OK bit 1 is clear. */
export function sseUnusable(): void {
  if (load<u64>(cpu, CR0) & CR0_EM || !(load<u64>(cpu, CR4) & CR4_OSFXSR)) fault(6);
  fault(7);
}

/** FWAIT: #NM only with MP and TS together. */
export function checkWait(): void {
  const cr0 = load<u64>(cpu, CR0);
  if (((cr0 & CR0_MP) != 0 && (cr0 & CR0_TS) != 0) || !vectorAllowed()) fault(7);
}

/** XSETBV of XCR0: x87 always, SSE; nothing else is announced (CPUID 0Dh). */
export function writeXcr0(value: u64): void {
  if (!(value & 1) || value & ~3) faultCode(13, 0);
  store<u64>(cpu, value, XCR0);
}

/** INVPCID (SDM vol. 2). */
export function invalidatePcid(type: u64, pcid: u64, la: u64): void {
  if (type > 3 || (type < 2 && (pcid >> 12 || (pcid != 0 && !(load<u64>(cpu, CR4) & CR4_PCIDE))))) faultCode(13, 0);
  if (type == 0) flushPage(la);
  else if (type == 1) flushLocal(<u32>pcid, false);
  else if (type == 2) flushAll();
  else flushLocal(0, true);
}
