/** FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XRSTOR and the host's access to the vector state (Intel SDM vol. 1, 10.5 and 13.4 to 13.8). */

import { CR0_TS, CR4_OSXSAVE } from './control-bits';
import { CR0, CR4, FCS, FCW, FDP, FDS, FIP, FOP, FPR, FSW, FTW, GPR, MODE, MXCSR, VECTOR_SCRATCH, XCR0, XMM } from './layout';
import { cpu } from './state';
import { ea, OP_PREFIX, PREFIX_REXW } from './record';
import { rd64, wr64 } from './memory';
import { fault, faultCode } from './events';
import { vectorAllowed } from './views';
import { initX87, st, updateSummary } from './x87state';
import { probeArea } from './x87env';
import { MXCSR_MASK, MXCSR_RESET } from './mxcsr';

// Offsets in the area
const AREA_FCW: usize = 0;
const AREA_FSW: usize = 2;
const AREA_FTW: usize = 4;
const AREA_FOP: usize = 6;
const AREA_FIP: usize = 8;
const AREA_FCS: usize = 12;
const AREA_FDP: usize = 16;
const AREA_FDS: usize = 20;
const AREA_MXCSR: usize = 24;
const AREA_MXCSR_MASK: usize = 28;
const AREA_ST: usize = 32;
const AREA_XMM: usize = 160;
const LEGACY_SIZE: usize = 512;
const HEADER: usize = 512; // XSTATE_BV, XCOMP_BV, 48 reserved bytes
const HEADER_SIZE: usize = 64;
/** Bytes of the standard form with the state components that exist: x87 and SSE. */
const VECTOR_SIZE: u32 = 576;

const STATE_X87: u64 = 1;
const STATE_SSE: u64 = 2;

// ---- between the registers and an image in linear memory

function storeX87(image: usize, wide: bool): void {
  store<u16>(image, load<u16>(cpu, FCW), AREA_FCW);
  store<u16>(image, load<u16>(cpu, FSW), AREA_FSW);
  store<u16>(image, load<u8>(cpu, FTW), AREA_FTW);
  store<u16>(image, load<u16>(cpu, FOP), AREA_FOP);
  store<u64>(image, load<u64>(cpu, FIP), AREA_FIP);
  store<u64>(image, load<u64>(cpu, FDP), AREA_FDP);
  if (!wide) {
    store<u32>(image, load<u16>(cpu, FCS), AREA_FCS);
    store<u32>(image, load<u16>(cpu, FDS), AREA_FDS);
  }
  for (let i: u32 = 0; i < 8; i++) {
    const at = st(i);
    store<u64>(image + (i << 4), load<u64>(at), AREA_ST);
    store<u64>(image + (i << 4), load<u16>(at, 8), AREA_ST + 8);
  }
}

function loadX87(image: usize, wide: bool): void {
  store<u16>(cpu, load<u16>(image, AREA_FSW), FSW);
  store<u8>(cpu, load<u8>(image, AREA_FTW), FTW);
  store<u16>(cpu, load<u16>(image, AREA_FOP) & 0x7ff, FOP);
  store<u64>(cpu, wide ? load<u64>(image, AREA_FIP) : load<u32>(image, AREA_FIP), FIP);
  store<u64>(cpu, wide ? load<u64>(image, AREA_FDP) : load<u32>(image, AREA_FDP), FDP);
  store<u16>(cpu, wide ? 0 : load<u16>(image, AREA_FCS), FCS);
  store<u16>(cpu, wide ? 0 : load<u16>(image, AREA_FDS), FDS);
  for (let i: u32 = 0; i < 8; i++) {
    const at = st(i);
    store<u64>(at, load<u64>(image + (i << 4), AREA_ST));
    store<u16>(at, load<u16>(image + (i << 4), AREA_ST + 8), 8);
  }
  store<u16>(cpu, (load<u16>(image, AREA_FCW) & 0x1f3f) | 0x40, FCW);
  updateSummary();
}

/** XMM registers that the mode has. */
function xmmCount(): usize {
  return load<u32>(cpu, MODE) == 2 ? 16 : 8;
}

function clearX87(): void {
  initX87();
  memory.fill(cpu + FPR, 0, 128);
}

// ---- host side

/** Writes the state in the standard form of XSAVE, VECTOR_SIZE bytes, at `image` in linear memory. */
export function saveVector(image: usize): void {
  memory.fill(image, 0, VECTOR_SIZE);
  storeX87(image, true);
  store<u32>(image, load<u32>(cpu, MXCSR), AREA_MXCSR);
  store<u32>(image, MXCSR_MASK, AREA_MXCSR_MASK);
  memory.copy(image + AREA_XMM, cpu + XMM, 256);
  store<u64>(image, STATE_X87 | STATE_SSE, HEADER);
}

/** Reads such a state; components that its XSTATE_BV lacks get their initial values. Bits that do not exist are ignored. */
export function loadVector(image: usize): void {
  const present = load<u64>(image, HEADER);
  if ((present & STATE_X87) != 0) loadX87(image, true);
  else clearX87();
  if ((present & STATE_SSE) != 0) memory.copy(cpu + XMM, image + AREA_XMM, 256);
  else memory.fill(cpu + XMM, 0, 256);
  store<u32>(cpu, load<u32>(image, AREA_MXCSR) & MXCSR_MASK, MXCSR);
}

/** Power-up state (SDM vol. 3, table 10-1). */
export function initVector(): void {
  clearX87();
  store<u16>(cpu, 0x40, FCW);
  store<u8>(cpu, 0xff, FTW);
  store<u32>(cpu, MXCSR_RESET, MXCSR);
  memory.fill(cpu + XMM, 0, 256);
}

// ---- instructions: an image is built or fetched in VECTOR_SCRATCH, so that no fault leaves half a state behind

function toGuest(la: u64, from: usize, to: usize): void {
  for (let i = from; i < to; i += 8) wr64(la + <u64>i, load<u64>(cpu + i, VECTOR_SCRATCH));
}
function fromGuest(la: u64, from: usize, to: usize): void {
  for (let i = from; i < to; i += 8) store<u64>(cpu + i, rd64(la + <u64>i), VECTOR_SCRATCH);
}

function wide(op: usize): bool {
  return (load<u16>(op, OP_PREFIX) & PREFIX_REXW) != 0;
}

function alignedArea(op: usize, alignment: u64): u64 {
  const la = ea(op);
  if ((la & (alignment - 1)) != 0) faultCode(13, 0);
  return la;
}

export function fxsave(op: usize): void {
  const la = alignedArea(op, 16);
  probeArea(la, LEGACY_SIZE, true);
  const image = cpu + VECTOR_SCRATCH;
  storeX87(image, wide(op));
  store<u32>(image, load<u32>(cpu, MXCSR), AREA_MXCSR);
  store<u32>(image, MXCSR_MASK, AREA_MXCSR_MASK);
  memory.copy(image + AREA_XMM, cpu + XMM, 256);
  toGuest(la, 0, AREA_XMM + (xmmCount() << 4));
}

export function fxrstor(op: usize): void {
  const la = alignedArea(op, 16);
  probeArea(la, LEGACY_SIZE, false);
  const end = AREA_XMM + (xmmCount() << 4);
  fromGuest(la, 0, end);
  const image = cpu + VECTOR_SCRATCH;
  const csr = load<u32>(image, AREA_MXCSR);
  if ((csr & ~MXCSR_MASK) != 0) faultCode(13, 0);
  loadX87(image, wide(op));
  store<u32>(cpu, csr, MXCSR);
  memory.copy(cpu + XMM, image + AREA_XMM, end - AREA_XMM);
}

/** What XSAVE and XRSTOR need, and the components that EDX:EAX asks of them. */
function requested(): u64 {
  if ((load<u32>(cpu, CR4) & CR4_OSXSAVE) == 0) fault(6);
  if ((load<u32>(cpu, CR0) & CR0_TS) != 0 || !vectorAllowed()) fault(7);
  return ((<u64>load<u32>(cpu, GPR + 16) << 32) | <u64>load<u32>(cpu, GPR)) & load<u64>(cpu, XCR0);
}

/** Components that are not in their initial state (XINUSE). The x87 always counts as used. */
function inUse(): u64 {
  let any = i32x4.splat(0);
  for (let p = cpu + XMM, end = p + 256; p < end; p += 16) any = v128.or(any, v128.load(p));
  return v128.any_true(any) ? STATE_X87 | STATE_SSE : STATE_X87;
}

/** XSAVE and XSAVEOPT; `optimised`: XMM registers in their initial state are only marked so, not written. */
export function xsave(op: usize, optimised: bool): void {
  const components = requested();
  const la = alignedArea(op, 64);
  probeArea(la, LEGACY_SIZE + HEADER_SIZE, true);
  const image = cpu + VECTOR_SCRATCH;
  const bitmap = rd64(la + HEADER);
  const used = inUse();
  if ((components & STATE_X87) != 0) {
    storeX87(image, wide(op));
    toGuest(la, 0, AREA_MXCSR);
    toGuest(la, AREA_ST, AREA_XMM);
  }
  if ((components & STATE_SSE) != 0) {
    store<u32>(image, load<u32>(cpu, MXCSR), AREA_MXCSR);
    store<u32>(image, MXCSR_MASK, AREA_MXCSR_MASK);
    memory.copy(image + AREA_XMM, cpu + XMM, 256);
    toGuest(la, AREA_MXCSR, AREA_ST);
    if (!optimised || (used & STATE_SSE) != 0) toGuest(la, AREA_XMM, AREA_XMM + (xmmCount() << 4));
  }
  wr64(la + HEADER, (bitmap & ~components) | (components & used));
}

export function xrstor(op: usize): void {
  const components = requested();
  const la = alignedArea(op, 64);
  fromGuest(la, HEADER, HEADER + HEADER_SIZE);
  const image = cpu + VECTOR_SCRATCH;
  const present = load<u64>(image, HEADER);
  // no compacted form; a component that XCR0 lacks (SDM vol. 1, 13.8)
  if ((present & ~load<u64>(cpu, XCR0)) != 0 || (load<u64>(image, HEADER + 8) | load<u64>(image, HEADER + 16)) != 0) faultCode(13, 0);
  const end = AREA_XMM + (xmmCount() << 4);
  if (components != 0) fromGuest(la, 0, end);
  if ((components & STATE_SSE) != 0) {
    if ((load<u32>(image, AREA_MXCSR) & ~MXCSR_MASK) != 0) faultCode(13, 0);
    store<u32>(cpu, load<u32>(image, AREA_MXCSR), MXCSR);
    if ((present & STATE_SSE) != 0) memory.copy(cpu + XMM, image + AREA_XMM, end - AREA_XMM);
    else memory.fill(cpu + XMM, 0, end - AREA_XMM);
  }
  if ((components & STATE_X87) != 0) {
    if ((present & STATE_X87) != 0) loadX87(image, wide(op));
    else clearX87();
  }
}
