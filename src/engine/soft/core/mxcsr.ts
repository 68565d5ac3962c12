/** MXCSR: control and exception flags of SSE floating point (Intel SDM vol. 1, 10.2.3 and 11.5). */

import { CR4_OSXMMEXCPT } from './control-bits';
import { CR4, MXCSR } from './layout';
import { cpu } from './state';
import { fault } from './events';
import { DENORMAL, INVALID, raised, setRaised, ZERO_DIVIDE } from './softfloat80';

export const DAZ: u32 = 0x40;
export const PE: u32 = 0x20;
export const PM: u32 = 0x1000;
export const UM: u32 = 0x800;
export const RC: u32 = 0x6000;
export const FTZ: u32 = 0x8000;
/** Bits that software may set; others raise #GP in LDMXCSR, FXRSTOR and XRSTOR. */
export const MXCSR_MASK: u32 = 0xffff;
export const MXCSR_RESET: u32 = 0x1f80;

// @ts-ignore: decorator
@inline
export function mxcsr(): u32 {
  return load<u32>(cpu, MXCSR);
}

/** Rounding mode, as softfloat80 numbers it. */
// @ts-ignore: decorator
@inline
export function roundingMode(): u32 {
  return (load<u32>(cpu, MXCSR) >> 13) & 3;
}

/** Start of an instruction that may raise. */
// @ts-ignore: decorator
@inline
export function begin(): void {
  setRaised(0);
}

/** Before the result is stored: merges what was raised, and unwinds with #XM if any of it is unmasked. */
// @ts-ignore: decorator
@inline
export function commit(): void {
  if (raised != 0) commitRaised();
}

function commitRaised(): void {
  const csr = load<u32>(cpu, MXCSR);
  let flags = raised;
  const unmasked = flags & ~(csr >> 7);
  // an unmasked exception found before computing keeps those of computing from being found (SDM vol. 1, 11.5.3.2)
  if ((unmasked & (INVALID | DENORMAL | ZERO_DIVIDE)) != 0) flags &= INVALID | DENORMAL | ZERO_DIVIDE;
  store<u32>(cpu, csr | flags, MXCSR);
  if (unmasked != 0) fault((load<u32>(cpu, CR4) & CR4_OSXMMEXCPT) != 0 ? 19 : 6);
}
