// MONITOR and MWAIT (Intel SDM vol. 2, and vol. 3, 9.10.4): waiting for a store to one line of memory.
//
// The page of a monitored line has FRAME_MONITORED. No CPU has a translation for writing to such a page, so every store to it takes the slow
// path and looks whether a CPU monitors that line; stores by devices do the same on the host side (space.ts). A page keeps its mark while
// any view allows the instructions: marking it again would mean a purge at every wait.
//
// MWAIT waits outside run(): the host asks MONITOR_LINE whether the wait goes on. A wait that ends too early is allowed, one that never ends
// is not.
import { cpu } from './state';
import { fault, faultCode } from './events';
import { readableAddress } from './memory';
import { watched } from './mmio';
import { shared } from './shared';
import { noticeWrites } from './together';
import {
  ALLOW_MWAIT, CPL, EVENT_FORCED, EVENT_INTERRUPT, EVENT_KICK, EVENT_NMI, EVENT_TRAP, EVENTS, EXIT_EXTENSIONS, EXIT_MWAIT, EXIT_PORT,
  EXIT_VALUE, FRAME_MONITORED, FRAME_MONITORED_SETTLED, GPR, MONITOR_LINE, MONITOR_LINE_SIZE, MWAIT_STATE, MWAIT_WAITS, MWAIT_WITHHELD, RFLAGS, SHARED_CPU_COUNT,
  SHARED_CPUS, VIEW, VIEW_ALLOWED, VIEW_ID,
} from './layout';

const TF: u64 = 0x100;
/** MWAIT extensions: an interrupt ends the wait even if RFLAGS.IF is clear. */
const BREAK_ON_INTERRUPT: u64 = 1;

/** True where the instructions exist. */
export function mwaitExists(): bool {
  const view: usize = load<u32>(cpu, VIEW);
  return load<u32>(view, VIEW_ID) != 0 && (load<u32>(view, VIEW_ALLOWED) & ALLOW_MWAIT) != 0;
}

function requireMwait(): void {
  if (!mwaitExists() || load<u32>(cpu, CPL) != 0) fault(6);
}

/** True if something would end a wait by HLT or MWAIT at once: it is delivered behind the instruction. Nobody outside knows of it. */
export function mustNotSleep(): bool {
  return (load<u64>(cpu, RFLAGS) & TF) != 0 || (load<u32>(cpu, EVENTS) & (EVENT_TRAP | EVENT_NMI | EVENT_INTERRUPT | EVENT_FORCED)) != 0;
}

/** What was monitored is so no more. */
export function disarm(): void {
  if (load<u32>(cpu, MONITOR_LINE) == 0 && load<u32>(cpu, MWAIT_STATE) == 0) return;
  atomic.store<u32>(cpu + MONITOR_LINE, 0);
  store<u32>(cpu, 0, MWAIT_STATE);
}

/** MONITOR may be executed, with these extensions; else #UD or #GP. */
export function requireMonitor(extensions: u64): void {
  requireMwait();
  if (extensions != 0) faultCode(13, 0);
}

/** MONITOR of the byte at `la`: faults as reading it would. Device memory is never armed (it is not write-back). */
export function monitorLine(la: u64): void {
  const host = readableAddress(la);
  watched(la, 1, false);
  if (host == 0) {
    disarm();
    return;
  }
  noticeWrites(host & ~0xfff, FRAME_MONITORED, FRAME_MONITORED_SETTLED);
  // Locked, so that what the guest reads next is read after every CPU can see it.
  atomic.store<u32>(cpu + MONITOR_LINE, <u32>host & ~(MONITOR_LINE_SIZE - 1));
}

/** MWAIT: an exit code, or 0 to go on at the next instruction. */
export function mwait(extensions: u64): i32 {
  requireMwait();
  if (extensions & ~BREAK_ON_INTERRUPT) faultCode(13, 0);
  store<u32>(cpu, load<u32>(cpu, GPR), EXIT_PORT);
  store<u32>(cpu, <u32>extensions, EXIT_EXTENSIONS);
  if (load<u32>(cpu, MWAIT_WITHHELD) != 0) {
    disarm();
    store<u32>(cpu, 1, EXIT_VALUE);
    return EXIT_MWAIT;
  }
  if (atomic.load<u32>(cpu + MONITOR_LINE) == 0) return 0;
  if (mustNotSleep()) {
    disarm();
    return 0;
  }
  store<u32>(cpu, 0, EXIT_VALUE);
  atomic.store<u32>(cpu + MWAIT_STATE, MWAIT_WAITS);
  return EXIT_MWAIT;
}

/** After a store to [host, host + size) in a page with FRAME_MONITORED: the CPUs that monitor its line wake. */
export function lineStored(host: usize, size: u32): void {
  atomic.or<u32>(cpu + EVENTS, 0); // the store is seen before the lines are looked at: they are armed before memory is looked at
  const count = load<u32>(shared, SHARED_CPU_COUNT);
  for (let i: u32 = 0; i < count; i++) {
    const other: usize = load<u32>(shared + (i << 2), SHARED_CPUS);
    const line: usize = atomic.load<u32>(other + MONITOR_LINE);
    if (line == 0 || line + MONITOR_LINE_SIZE <= host || host + size <= line) continue;
    if (atomic.cmpxchg<u32>(other + MONITOR_LINE, <u32>line, 0) != <u32>line) continue;
    // It waits for its turn: this one's ends.
    if (other != cpu && atomic.load<u32>(other + MWAIT_STATE) == MWAIT_WAITS) atomic.or<u32>(cpu + EVENTS, EVENT_KICK);
  }
}
