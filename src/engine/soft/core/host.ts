// What the host side calls, besides the vector unit's functions. None of these may be called while run() executes on the same CPU.
import { cpu } from './state';
import { attachArea } from './blocks';
import { attach as bind, ram, ramSize } from './shared';
import { storeDebug } from './control';
import { updateStep, updateWaiting } from './events';
import { setFlags } from './flags';
import { readMsr as read, msrValue, writeMsr as write } from './msr';
import { cachedAddress } from './memory';
import { translateQuietly } from './paging';
import { flushAll, updateContext } from './views';
import { INJECTED, NMI_PENDING, RFLAGS, WINDOW_WANTED } from './layout';

export { carryOn, resume, unwound } from './events';
export { enterView } from './views';

/** Binds this instance to its CPU's state block. Called once. The first instance of a CPU then needs `systemChanged`, with VIEW and the system registers set. */
export function attach(block: usize): void {
  bind(block);
  attachArea();
}

/** After the host wrote system registers: everything derived from them is made anew. */
export function systemChanged(): void {
  flushAll();
  setFlags(load<u64>(cpu, RFLAGS));
  updateContext();
  updateWaiting();
  updateStep();
}

export function inject(vector: u32): void {
  store<u32>(cpu, vector + 1, INJECTED);
  updateWaiting();
}

export function nmi(): void {
  store<u32>(cpu, 1, NMI_PENDING);
  updateWaiting();
}

export function requestWindow(): void {
  store<u32>(cpu, 1, WINDOW_WANTED);
  updateWaiting();
}

/** 0 = known, the value is `msrResult()`; 1 = unknown; 2 = refused. */
export function readMsr(index: u32): u32 {
  return read(index);
}
export function msrResult(): u64 {
  return msrValue;
}
export function writeMsr(index: u32, value: u64): u32 {
  return write(index, value);
}

/**
 * Guest physical address of a signed linear address, or -1. What the CPU holds already is what it would use, and saves a walk: the monitor asks
 * for the stack at every crossing. Fixed pages lie outside guest RAM, so their entries do not answer.
 */
export function translate(la: f64, write: bool): f64 {
  const address = <u64>(<i64>la);
  const held = cachedAddress(address, write);
  if (held != 0 && <u64>(held - ram) < ramSize) return <f64>(held - ram);
  return translateQuietly(address, write);
}

export function writeDebug(index: u32, value: u64): void {
  storeDebug(index, value);
}
