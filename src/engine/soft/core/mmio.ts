// Device memory and watched pages. An access without RAM leaves the engine in the middle of an instruction, which is executed again
// from its start once the access is answered. The replay log holds the answers: as long as an instruction makes its accesses in
// the same order each time, each of them reaches the device once.
import { cpu } from './state';
import { unwind } from './shared';
import { walkGpa, walkRefused } from './paging';
import { currentRipOrNext } from './events';
import {
  CR4, DELIVERY, DR, EXIT_EXTENSIONS, EXIT_GPA, EXIT_MMIO, EXIT_REPLAY, EXIT_SIZE, EXIT_VALUE, EXIT_WRITE, PENDING, PENDING_EXIT,
  PENDING_VECTOR, REPLAY, REPLAY_COUNT, REPLAY_INDEX, REPLAY_LOG, REPLAY_MAX, REPLAY_RIP, TRAPS,
} from './layout';

/** The answer to the next device access of this instruction, if it is already known. */
// @ts-ignore: decorator
@inline
function answered(): bool {
  return load<u32>(cpu, REPLAY_INDEX) < load<u32>(cpu, REPLAY_COUNT);
}

function nextAnswer(): u32 {
  const index = load<u32>(cpu, REPLAY_INDEX);
  store<u32>(cpu, index + 1, REPLAY_INDEX);
  return load<u32>(cpu + (index << 2), REPLAY);
}

/** An instruction with more device accesses than the log holds (none has, short of XRSTOR in device memory) reads ones from there on. */
function logFull(): bool {
  return load<u32>(cpu, REPLAY_INDEX) >= <u32>REPLAY_MAX;
}

/** Ends the instruction with exit `code`, whose record is filled; it runs again when the access is answered. */
function suspend(code: u32): void {
  store<u32>(cpu, REPLAY_LOG, EXIT_REPLAY);
  store<u64>(cpu, currentRipOrNext(), REPLAY_RIP);
  if (load<u32>(cpu, EXIT_WRITE)) store<u32>(cpu, load<u32>(cpu, REPLAY_COUNT) + 1, REPLAY_COUNT);
  store<u32>(cpu, PENDING_EXIT, PENDING);
  store<u32>(cpu, code, PENDING_VECTOR);
  unwind();
}

/** One access of 1, 2 or 4 bytes at `gpa`. */
function access(gpa: u64, size: u32, write: bool, value: u32): u32 {
  if (answered()) return nextAnswer();
  if (logFull() || load<u32>(cpu, DELIVERY)) return 0xffffffff;
  record(gpa, size, write, value);
  suspend(EXIT_MMIO);
  return 0;
}

function record(gpa: u64, size: u32, write: bool, value: u32): void {
  store<u32>(cpu, size, EXIT_SIZE);
  store<u32>(cpu, write, EXIT_WRITE);
  store<u32>(cpu, value, EXIT_VALUE);
  store<u32>(cpu, walkRefused, EXIT_EXTENSIONS);
  store<f64>(cpu, <f64>gpa, EXIT_GPA);
}

/** Fills the exit record of an access at the physical address that the last `fill` found; `value`: zero-extended. */
export function recordAccess(size: u32, write: bool, value: u32): void {
  record(walkGpa, size, write, value);
}

/** Reads 1, 2, 4 or 8 bytes at the physical address that the last `fill` found. */
export function mmioRead(size: u32): u64 {
  const gpa = walkGpa;
  if (size < 8) return <u64>access(gpa, size, false, 0) & ((<u64>1 << (size << 3)) - 1);
  const low = access(gpa, 4, false, 0);
  return <u64>low | (<u64>access(gpa + 4, 4, false, 0) << 32);
}

/** Writes likewise. */
export function mmioWrite(size: u32, value: u64): void {
  const gpa = walkGpa;
  access(gpa, size < 4 ? size : 4, true, <u32>(size < 4 ? value & ((<u64>1 << (size << 3)) - 1) : value));
  if (size == 8) access(gpa + 4, 4, true, <u32>(value >> 32));
}

/** INS and OUTS: a port access through the log, `exit` = EXIT_IO with its record filled. Returns the value read. */
export function portAccess(exit: u32): u32 {
  if (answered()) return nextAnswer();
  suspend(exit);
  return 0;
}

/**
 * Forgets the answers: the instruction, or one iteration of it, is complete. REP handlers call it after each iteration that they
 * commit.
 */
// @ts-ignore: decorator
@inline
export function clearReplay(): void {
  store<u64>(cpu, 0, REPLAY_COUNT); // and REPLAY_INDEX behind it
}

// ---- Data breakpoints (Intel SDM vol. 3, 18.2) -----------------------------------------------------------------------------

const IO: u32 = 2; // R/W field of DR7

/** True if a data breakpoint lies in the page of `la`: such pages get no tags, so that each access comes by `watched`. */
export function watchedPage(la: u64): bool {
  const dr7 = <u32>load<u64>(cpu + 56, DR);
  if ((dr7 & 0xff) == 0) return false;
  for (let i: u32 = 0; i < 4; i++) {
    if (((dr7 >> (i << 1)) & 3) == 0 || ((dr7 >> (16 + (i << 2))) & 3) == 0) continue;
    if ((load<u64>(cpu + (i << 3), DR) ^ la) < 0x1000) return true;
  }
  return false;
}

/** Notes the data breakpoints that an access touches; the trap follows the instruction. */
export function watched(la: u64, size: u32, write: bool): void {
  const dr7 = <u32>load<u64>(cpu + 56, DR);
  if (dr7 & 0xff) noteBreakpoints(la, size, write ? (1 << 1) | (1 << 3) : 1 << 3, dr7);
}

/** I/O breakpoints, with CR4.DE. */
export function watchedPort(port: u32, size: u32): void {
  const dr7 = <u32>load<u64>(cpu + 56, DR);
  if (dr7 & 0xff && load<u32>(cpu, CR4) & 8) noteBreakpoints(port, size, 1 << IO, dr7);
}

/** `kinds`: bit set of the R/W field values that match. */
function noteBreakpoints(at: u64, size: u32, kinds: u32, dr7: u32): void {
  for (let i: u32 = 0; i < 4; i++) {
    if (((dr7 >> (i << 1)) & 3) == 0 || ((kinds >> ((dr7 >> (16 + (i << 2))) & 3)) & 1) == 0) continue;
    const field = (dr7 >> (18 + (i << 2))) & 3;
    const length: u64 = field == 2 ? 8 : field + 1; // 00: 1, 01: 2, 10: 8, 11: 4 bytes
    const start = load<u64>(cpu + (i << 3), DR) & ~(length - 1);
    if (at < start + length && start < at + <u64>size) store<u32>(cpu, load<u32>(cpu, TRAPS) | (1 << i), TRAPS);
  }
}
