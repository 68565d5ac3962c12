/**
 * Access to guest memory by linear address.
 *
 * A translation array has one 32-byte entry for each hash of a linear page: tags for reading, writing and executing, and what
 * to add to the low half of a linear address to get an address in linear memory. A tag is the linear page; an absent right is
 * a tag that no page has. An access is allowed when the page of its *last* byte equals the tag at the index of its *first*:
 * so the one comparison also finds page crossings. Everything else is the business of the slow functions: misses, crossings,
 * device memory, pages with decoded code or a monitored line, watched pages.
 *
 * Three arrays make a set: supervisor, supervisor with EFLAGS.AC where SMAP is on, user. A CPU has several sets, each for one
 * pair of view and PCID, so neither a change of view nor one of address space forgets anything.
 */
import { cpu } from './state';
import { frames, shared } from './shared';
import { codeWritten } from './blocks';
import { mmioRead, mmioWrite, watched, watchedPage } from './mmio';
import { lineStored } from './monitor';
import { ACCESS_FETCH, ACCESS_READ, ACCESS_WRITE, fill, fillFetch, isCanonical } from './paging';
import { canonicalFault, fetchExit } from './events';
import {
  DROPPED, DROPPED_ALL, DROPPED_MAX, EVENT_DROP, EVENTS, FRAME_CODE, FRAME_CODE_SETTLED, FRAME_MONITORED, FRAME_NOTICED, SET_HEADER, SHARED_CPU_COUNT, SHARED_CPUS, TLB, TLB_ARRAY_SIZE,
  TLB_ENTRIES, TLB_ENTRY_SIZE, TLB_SET_SIZE, TLB_SETS, TLB_SETS_AT, TLB_SYS,
} from './layout';

// Fields of an entry
export const READ_TAG = 0;
export const WRITE_TAG = 8;
export const EXECUTE_TAG = 16;
export const ADDEND = 24; // u32
export const ENTRY_FLAGS = 28; // u32

/** The current array; a copy of the state word TLB. */
export let tlb: usize = 0;
export function setTlb(array: usize): void {
  tlb = array;
  store<u32>(cpu, <u32>array, TLB);
}

// @ts-ignore: decorator
@inline
export function entryIn(array: usize, la: u64): usize {
  return array + (((<u32>la) >>> 7) & ((TLB_ENTRIES - 1) << 5));
}
export function entryAt(array: usize, la: u64): usize {
  return entryIn(array, la);
}

// @ts-ignore: decorator
@inline
export function hits(tag: u64, la: u64, last: u64): bool {
  return ((la + last) & ~0xfff) == tag;
}

/** Address in linear memory of `la` by the entry `e`, whose tag it hits. */
// @ts-ignore: decorator
@inline
export function hostIn(e: usize, la: u64): usize {
  return <usize>load<u32>(e, ADDEND) + <usize>la;
}

/** Address in linear memory of a page that the supervisor's translations of the current view and PCID hold with that right, plus the offset; 0 if they do not. */
export function cachedAddress(la: u64, write: bool): usize {
  const e = entryIn(<usize>load<u32>(cpu, TLB_SYS), la);
  return hits(load<u64>(e + (write ? WRITE_TAG : READ_TAG)), la, 0) ? <usize>load<u32>(e, ADDEND) + <usize>la : 0;
}

// ---- Fast paths ----------------------------------------------------------------------------------------------------------

// @ts-ignore: decorator
@inline
export function rd8(la: u64): u32 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e), la, 0)) return load<u8>(<usize>load<u32>(e, ADDEND) + <usize>la);
  return <u32>readSlow(la, 1);
}
// @ts-ignore: decorator
@inline
export function rd16(la: u64): u32 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e), la, 1)) return load<u16>(<usize>load<u32>(e, ADDEND) + <usize>la);
  return <u32>readSlow(la, 2);
}
// @ts-ignore: decorator
@inline
export function rd32(la: u64): u32 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e), la, 3)) return load<u32>(<usize>load<u32>(e, ADDEND) + <usize>la);
  return <u32>readSlow(la, 4);
}
// @ts-ignore: decorator
@inline
export function rd64(la: u64): u64 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e), la, 7)) return load<u64>(<usize>load<u32>(e, ADDEND) + <usize>la);
  return readSlow(la, 8);
}
// @ts-ignore: decorator
@inline
export function rd128(la: u64): v128 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e), la, 15)) return v128.load(<usize>load<u32>(e, ADDEND) + <usize>la);
  return readSlow128(la);
}

// @ts-ignore: decorator
@inline
export function wr8(la: u64, v: u32): void {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 0)) store<u8>(<usize>load<u32>(e, ADDEND) + <usize>la, <u8>v);
  else writeSlow(la, 1, v);
}
// @ts-ignore: decorator
@inline
export function wr16(la: u64, v: u32): void {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 1)) store<u16>(<usize>load<u32>(e, ADDEND) + <usize>la, <u16>v);
  else writeSlow(la, 2, v);
}
// @ts-ignore: decorator
@inline
export function wr32(la: u64, v: u32): void {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 3)) store<u32>(<usize>load<u32>(e, ADDEND) + <usize>la, v);
  else writeSlow(la, 4, v);
}
// @ts-ignore: decorator
@inline
export function wr64(la: u64, v: u64): void {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 7)) store<u64>(<usize>load<u32>(e, ADDEND) + <usize>la, v);
  else writeSlow(la, 8, v);
}
// @ts-ignore: decorator
@inline
export function wr128(la: u64, v: v128): void {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 15)) v128.store(<usize>load<u32>(e, ADDEND) + <usize>la, v);
  else writeSlow128(la, v);
}

// Reads for read-modify-write: they fault as writes, and the write of the same bytes that follows cannot fault.
// @ts-ignore: decorator
@inline
export function rmw8(la: u64): u32 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 0)) return load<u8>(<usize>load<u32>(e, ADDEND) + <usize>la);
  return <u32>modifySlow(la, 1);
}
// @ts-ignore: decorator
@inline
export function rmw16(la: u64): u32 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 1)) return load<u16>(<usize>load<u32>(e, ADDEND) + <usize>la);
  return <u32>modifySlow(la, 2);
}
// @ts-ignore: decorator
@inline
export function rmw32(la: u64): u32 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 3)) return load<u32>(<usize>load<u32>(e, ADDEND) + <usize>la);
  return <u32>modifySlow(la, 4);
}
// @ts-ignore: decorator
@inline
export function rmw64(la: u64): u64 {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, WRITE_TAG), la, 7)) return load<u64>(<usize>load<u32>(e, ADDEND) + <usize>la);
  return modifySlow(la, 8);
}

/**
 * The address in linear memory of the byte at `la`, good to the end of its page, if that is plain memory that allows the access;
 * 0 for device memory, watched pages and (writes) pages whose writes are noticed. Faults where the access would fault.
 */
// @ts-ignore: decorator
@inline
export function hostAddress(la: u64, write: bool): usize {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e + (write ? WRITE_TAG : READ_TAG)), la, 0)) return <usize>load<u32>(e, ADDEND) + <usize>la;
  return hostAddressSlow(la, write);
}

/** Faults as a write of `size` bytes (at most 4096) would, and writes nothing. */
export function probeWrite(la: u64, size: u32): void {
  translate(tlb, la, ACCESS_WRITE);
  if (crosses(la, size)) translate(tlb, nextPage(la), ACCESS_WRITE);
}
/** Likewise as a read. */
export function probeRead(la: u64, size: u32): void {
  translate(tlb, la, ACCESS_READ);
  if (crosses(la, size)) translate(tlb, nextPage(la), ACCESS_READ);
}

/** Address in linear memory of the code byte at `la`; else unwinds with #PF, #GP or the exit 'fetch'. */
// @ts-ignore: decorator
@inline
export function fetchHost(la: u64): usize {
  const e = entryIn(tlb, la);
  if (hits(load<u64>(e, EXECUTE_TAG), la, 0)) return hostIn(e, la);
  const host = fillFetch(tlb, la);
  if (host == 0) fetchExit();
  return host;
}
/** The same, but 0 where the view does not allow the fetch: run() is to leave with EXIT_FETCH. */
export function fetchOrRefuse(la: u64): usize {
  const e = entryIn(tlb, la);
  return hits(load<u64>(e, EXECUTE_TAG), la, 0) ? hostIn(e, la) : fillFetch(tlb, la);
}

// ---- Implicit supervisor accesses: descriptor tables, TSS, stacks of delivery ------------------------------------------------

export function sysRd8(la: u64): u32 { return <u32>readVia(sysArray(), la, 1); }
export function sysRd16(la: u64): u32 { return <u32>readVia(sysArray(), la, 2); }
export function sysRd32(la: u64): u32 { return <u32>readVia(sysArray(), la, 4); }
export function sysRd64(la: u64): u64 { return readVia(sysArray(), la, 8); }
export function sysWr8(la: u64, v: u32): void { writeVia(sysArray(), la, 1, v); }
export function sysWr16(la: u64, v: u32): void { writeVia(sysArray(), la, 2, v); }
export function sysWr32(la: u64, v: u32): void { writeVia(sysArray(), la, 4, v); }
/** Reads for read-modify-write. */
export function sysRmw32(la: u64): u32 { return <u32>modifyVia(sysArray(), la, 4); }

// @ts-ignore: decorator
@inline
export function sysArray(): usize {
  return load<u32>(cpu, TLB_SYS);
}

// ---- Slow paths ----------------------------------------------------------------------------------------------------------

export function readSlow(la: u64, size: u32): u64 { return readVia(tlb, la, size); }
export function writeSlow(la: u64, size: u32, v: u64): void { writeVia(tlb, la, size, v); }
function modifySlow(la: u64, size: u32): u64 { return modifyVia(tlb, la, size); }

function readSlow128(la: u64): v128 {
  if (crosses(la, 16)) checkLast(la, 16);
  const low = readVia(tlb, la, 8);
  const high = readVia(tlb, la + 8, 8);
  return i64x2.replace_lane(i64x2.splat(low), 1, high);
}

function writeSlow128(la: u64, v: v128): void {
  if (crosses(la, 16)) {
    checkLast(la, 16);
    probeWrite(la, 16);
  }
  writeVia(tlb, la, 8, i64x2.extract_lane(v, 0));
  writeVia(tlb, la + 8, 8, i64x2.extract_lane(v, 1));
}

function crosses(la: u64, size: u32): bool {
  return ((<u32>la) & 0xfff) + size > 0x1000;
}
/** An access that runs into the non-canonical hole faults for that before its first page is looked at. */
function checkLast(la: u64, size: u32): void {
  if (!isCanonical(la + size - 1)) canonicalFault(la);
}
function nextPage(la: u64): u64 {
  return (la & ~0xfff) + 0x1000;
}

/** True for an access by the current translations that lies in one page, of device memory (at `walkGpa`). Faults where the access would. */
export function reachesDevice(la: u64, size: u32, write: bool): bool {
  return !crosses(la, size) && translate(tlb, la, write ? ACCESS_WRITE : ACCESS_READ) == 0;
}

/** Linear-memory address for an access within one page, or 0 for device memory. */
function translate(array: usize, la: u64, access: u32): usize {
  const e = entryIn(array, la);
  const tag = load<u64>(e + (access == ACCESS_WRITE ? WRITE_TAG : READ_TAG));
  if (hits(tag, la, 0)) return <usize>load<u32>(e, ADDEND) + <usize>la;
  return fill(array, la, access);
}

/** `size` <= 8. Any crossing is read byte by byte, in ascending order. */
export function readVia(array: usize, la: u64, size: u32): u64 {
  if (crosses(la, size)) {
    checkLast(la, size);
    let value: u64 = 0;
    for (let i: u32 = 0; i < size; i++) value |= readVia(array, la + i, 1) << (i << 3);
    return value;
  }
  const host = translate(array, la, ACCESS_READ);
  if (host == 0) return mmioRead(size);
  watched(la, size, false);
  return loadHost(host, size);
}

function loadHost(host: usize, size: u32): u64 {
  if (size == 8) return load<u64>(host);
  if (size == 4) return load<u32>(host);
  if (size == 2) return load<u16>(host);
  return load<u8>(host);
}

function modifyVia(array: usize, la: u64, size: u32): u64 {
  if (crosses(la, size)) {
    checkLast(la, size);
    translate(array, la, ACCESS_WRITE);
    translate(array, nextPage(la), ACCESS_WRITE);
    return readVia(array, la, size);
  }
  const host = translate(array, la, ACCESS_WRITE);
  if (host == 0) return mmioRead(size);
  watched(la, size, false);
  return loadHost(host, size);
}

export function writeVia(array: usize, la: u64, size: u32, value: u64): void {
  if (crosses(la, size)) {
    checkLast(la, size);
    translate(array, la, ACCESS_WRITE);
    translate(array, nextPage(la), ACCESS_WRITE);
    for (let i: u32 = 0; i < size; i++) writeVia(array, la + i, 1, value >> (i << 3));
    return;
  }
  const host = translate(array, la, ACCESS_WRITE);
  if (host == 0) {
    mmioWrite(size, value);
    return;
  }
  watched(la, size, true);
  const frame = load<u8>(frames + (host >>> 12));
  if (frame & FRAME_CODE) dropCode(host & ~0xfff);
  if (size == 8) store<u64>(host, value);
  else if (size == 4) store<u32>(host, <u32>value);
  else if (size == 2) store<u16>(host, <u16>value);
  else store<u8>(host, <u8>value);
  if (frame & FRAME_MONITORED) lineStored(host, size);
}

/** The address in linear memory of the byte at `la`, 0 for device memory. Faults where reading it would. */
export function readableAddress(la: u64): usize {
  return translate(tlb, la, ACCESS_READ);
}

/**
 * For a locked operation on aligned bytes at `la`, which a rmw function has read: where they lie, if `lockedDone` is called when they have
 * been written; 0 for device memory and data breakpoints.
 */
export function lockedAddress(la: u64): usize {
  const host = translate(tlb, la, ACCESS_WRITE);
  return host != 0 && !watchedPage(la & ~0xfff) ? host : 0;
}

/** After a locked operation wrote `size` bytes at an address in linear memory. */
export function lockedDone(host: usize, size: u32): void {
  const frame = load<u8>(frames + (host >>> 12));
  if (frame & FRAME_CODE) dropCode(host & ~0xfff);
  if (frame & FRAME_MONITORED) lineStored(host, size);
}

function hostAddressSlow(la: u64, write: bool): usize {
  fill(tlb, la, write ? ACCESS_WRITE : ACCESS_READ);
  const e = entryIn(tlb, la);
  return hits(load<u64>(e + (write ? WRITE_TAG : READ_TAG)), la, 0) ? <usize>load<u32>(e, ADDEND) + <usize>la : 0;
}

// ---- Decoded code --------------------------------------------------------------------------------------------------------

/** Forgets the decoded code of a page of linear memory on every CPU; its FRAME_CODE bit is clear afterwards. */
export function dropCode(page: usize): void {
  codeWritten(page);
  const frame = frames + (page >>> 12);
  atomic.and<u8>(frame, <u8>~(FRAME_CODE | FRAME_CODE_SETTLED));
  const count = load<u32>(shared, SHARED_CPU_COUNT);
  for (let i: u32 = 0; i < count; i++) {
    const other: usize = load<u32>(shared + (i << 2), SHARED_CPUS);
    if (other != cpu) queueDrop(other, page);
  }
}

/** Tells another CPU that a page's code is stale. */
function queueDrop(other: usize, page: usize): void {
  let slot: u32 = 0;
  while (slot < <u32>DROPPED_MAX && atomic.cmpxchg<u32>(other + DROPPED + (slot << 2), 0, <u32>page) != 0) slot++;
  if (slot == <u32>DROPPED_MAX) atomic.store<u32>(other + DROPPED_ALL, 1);
  atomic.or<u32>(other + EVENTS, EVENT_DROP);
}

/** No translation leads a write to the page of linear memory at `page` any more: of this CPU, or with `everyCpu` of all, none of which is running. */
export function purgeWrites(page: usize, everyCpu: bool): void {
  if (!everyCpu) {
    purge(cpu, page);
    return;
  }
  const count = load<u32>(shared, SHARED_CPU_COUNT);
  for (let i: u32 = 0; i < count; i++) purge(load<u32>(shared + (i << 2), SHARED_CPUS), page);
}

/** The same for this CPU and all pages with a bit of FRAME_NOTICED. */
export function purgeNoticed(): void {
  purge(cpu, 0);
}

/** `page` 0: all noticed ones. */
function purge(block: usize, page: usize): void {
  let set = block + TLB_SETS_AT;
  for (let s = 0; s < TLB_SETS; s++, set += TLB_SET_SIZE) {
    if (load<u32>(set) == 0) continue; // never used
    let e = set + SET_HEADER;
    const end = e + 3 * TLB_ARRAY_SIZE;
    for (; e < end; e += TLB_ENTRY_SIZE) {
      const tag = load<u64>(e, WRITE_TAG);
      if (tag & 0xfff) continue;
      const to = <usize>load<u32>(e, ADDEND) + <usize>tag;
      if (page != 0 ? to == page : (load<u8>(frames + (to >>> 12)) & FRAME_NOTICED) != 0) store<u64>(e, u64.MAX_VALUE, WRITE_TAG);
    }
  }
}

