/**
 * The x87 register stack, its tags, and its exceptions (Intel SDM vol. 1, chapter 8).
 *
 * An instruction collects exception flags in softfloat80's `raised`, writes memory if it does that, and then calls `signal`: so a page
 * fault leaves the status word as it was. An unmasked exception only sets ES; the next waiting instruction raises #MF.
 */

import { CR0_NE } from './control-bits';
import { CR0, FCS, FCW, FDP, FDS, FIP, FOP, FPR, FSW, FTW, SEG_SELECTOR } from './layout';
import { cpu } from './state';
import { currentRip, OP_CODE, OP_MOD, OP_SEG } from './record';
import { fault } from './events';
import { DENORMAL, INEXACT, INVALID, raised, roundedUp, setRaised, unpack80, ZERO_DIVIDE } from './softfloat80';

const SW_STACK: u32 = 0x40;
export const SW_SUMMARY: u32 = 0x80;
export const SW_C0: u32 = 0x100;
export const SW_C1: u32 = 0x200;
export const SW_C2: u32 = 0x400;
export const SW_C3: u32 = 0x4000;
export const SW_BUSY: u32 = 0x8000;
const SW_CONDITIONS: u32 = 0x4700;

/** The control bits that exist; bit 6 reads as one. */
const CW_WRITABLE: u32 = 0x1f3f;
const CW_FIXED: u32 = 0x40;

const CS: u32 = 1;

/** The default NaN, "real indefinite". */
export const INDEFINITE_SIG: u64 = 0xc000000000000000;
export const INDEFINITE_WORD: u32 = 0xffff;

// ---- stack

// @ts-ignore: decorator
@inline
export function top(): u32 {
  return (load<u16>(cpu, FSW) >> 11) & 7;
}

export function setTop(value: u32): void {
  store<u16>(cpu, (load<u16>(cpu, FSW) & 0xc7ff) | ((value & 7) << 11), FSW);
}

// @ts-ignore: decorator
@inline
function physical(i: u32): u32 {
  return ((load<u16>(cpu, FSW) >> 11) + i) & 7;
}

/** Address of ST(i). */
// @ts-ignore: decorator
@inline
export function st(i: u32): usize {
  return cpu + FPR + (<usize>physical(i) << 4);
}

// @ts-ignore: decorator
@inline
export function isEmpty(i: u32): bool {
  return ((load<u8>(cpu, FTW) >> physical(i)) & 1) == 0;
}

export function setEmpty(i: u32): void {
  store<u8>(cpu, <u32>load<u8>(cpu, FTW) & ~(1 << physical(i)), FTW);
}

function setUsed(i: u32): void {
  store<u8>(cpu, <u32>load<u8>(cpu, FTW) | (1 << physical(i)), FTW);
}

/** Writes ST(i), which is in use afterwards. */
export function setSt(i: u32, sig: u64, word: u32): void {
  const at = st(i);
  store<u64>(at, sig);
  store<u16>(at, <u16>word, 8);
  setUsed(i);
}

export function pop(): void {
  setEmpty(0);
  setTop(top() + 1);
}

/** Pushes, whatever the register that becomes ST(0) held. */
export function push(sig: u64, word: u32): void {
  setTop(top() - 1);
  setSt(0, sig, word);
}

/** Unpacks ST(i) as softfloat80's operand a. */
export function loadSt(i: u32): void {
  const at = st(i);
  unpack80(load<u64>(at), load<u16>(at, 8));
}

// ---- control and status

// @ts-ignore: decorator
@inline
export function roundingControl(): u32 {
  return (load<u16>(cpu, FCW) >> 10) & 3;
}

/** Bits of significand by precision control; the reserved code 1 acts as 64. */
export function precision(): i32 {
  const pc = (load<u16>(cpu, FCW) >> 8) & 3;
  return pc == 0 ? 24 : pc == 2 ? 53 : 64;
}

/** Masked exceptions. */
// @ts-ignore: decorator
@inline
export function masked(): u32 {
  return load<u16>(cpu, FCW) & 0x3f;
}

export function setConditions(bits: u32): void {
  store<u16>(cpu, (load<u16>(cpu, FSW) & ~SW_CONDITIONS) | bits, FSW);
}

export function setC2(): void {
  store<u16>(cpu, load<u16>(cpu, FSW) | SW_C2, FSW);
}
export function clearC2(): void {
  store<u16>(cpu, load<u16>(cpu, FSW) & ~SW_C2, FSW);
}

export function setC1(value: bool): void {
  store<u16>(cpu, (load<u16>(cpu, FSW) & ~SW_C1) | (value ? SW_C1 : 0), FSW);
}

/** ES and B follow the flags and masks whenever either is loaded. */
export function updateSummary(): void {
  const sw: u32 = load<u16>(cpu, FSW) & ~(SW_SUMMARY | SW_BUSY);
  store<u16>(cpu, (sw & 0x3f & ~masked()) != 0 ? sw | SW_SUMMARY | SW_BUSY : sw, FSW);
}

export function setControl(value: u32): void {
  store<u16>(cpu, (value & CW_WRITABLE) | CW_FIXED, FCW);
  updateSummary();
}

/** FNINIT; the registers keep their contents. */
export function initX87(): void {
  store<u16>(cpu, 0x37f, FCW);
  store<u16>(cpu, 0, FSW);
  store<u8>(cpu, 0, FTW);
  store<u16>(cpu, 0, FOP);
  store<u64>(cpu, 0, FIP);
  store<u64>(cpu, 0, FDP);
  store<u32>(cpu, 0, FCS); // and FDS
}

/** Raises #MF for an exception that waits. With CR0.NE clear it is ignored, as with IGNNE# asserted: there is no FERR# wire here. */
// @ts-ignore: decorator
@inline
export function checkPending(): void {
  if ((load<u16>(cpu, FSW) & SW_SUMMARY) != 0 && (load<u32>(cpu, CR0) & CR0_NE) != 0) fault(16);
}

/** Notes the instruction for FIP, FOP, FDP. */
export function noteInstruction(op: usize): void {
  store<u64>(cpu, currentRip(), FIP);
  store<u16>(cpu, load<u16>(op, OP_CODE) & 0x7ff, FOP);
  store<u16>(cpu, load<u16>(cpu + (CS << 1), SEG_SELECTOR), FCS);
}

/** The same for the memory operand, whose linear address is `la`. */
export function noteOperand(op: usize, la: u64): void {
  if (load<u8>(op, OP_MOD) == 0) return;
  store<u64>(cpu, la, FDP);
  store<u16>(cpu, load<u16>(cpu + (<usize>load<u8>(op, OP_SEG) << 1), SEG_SELECTOR), FDS);
}

// ---- exceptions

const BEFORE_COMPUTING: u32 = INVALID | DENORMAL | ZERO_DIVIDE;

/** Adds what was raised to the status word. False if an unmasked exception forbids that the instruction does anything else. */
export function signal(): bool {
  const flags = raised;
  if (flags == 0) return true;
  const unmasked = flags & ~masked();
  // an exception found before computing keeps those of rounding from being found
  const noted = (unmasked & BEFORE_COMPUTING) != 0 ? flags & BEFORE_COMPUTING : flags;
  store<u16>(cpu, load<u16>(cpu, FSW) | noted | (unmasked != 0 ? SW_SUMMARY | SW_BUSY : 0), FSW);
  return (unmasked & BEFORE_COMPUTING) == 0;
}

/** The same, and C1 = rounded up. */
export function signalRounded(): bool {
  const before = signal();
  setC1(before && (raised & INEXACT) != 0 && roundedUp);
  return before;
}

/** Stack underflow (an operand is empty) or overflow. True if it is masked, so that the instruction delivers its indefinite result. */
export function stackFault(overflow: bool): bool {
  setRaised(INVALID);
  store<u16>(cpu, (load<u16>(cpu, FSW) & ~SW_C1) | SW_STACK | (overflow ? SW_C1 : 0), FSW);
  return signal();
}
