// From linear address to linear memory: page walks (Intel SDM vol. 3, chapter 4), the view's fixed pages and permissions, and the
// filling of translation entries. Permissions of views exist only here: what `fill` does not tag, no access reaches.
import { CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NXE } from './control-bits';
import { cpu } from './state';
import { frames, ram, ramSize } from './shared';
import { ADDEND, ENTRY_FLAGS, EXECUTE_TAG, READ_TAG, WRITE_TAG, entryAt } from './memory';
import { watchedPage } from './mmio';
import { lineStored } from './monitor';
import { canonicalFault, faultCode, pageFault } from './events';
import {
  CODE_PAGES, CR0, CR3, CR4, EFER, EXIT_ADDRESS, FILLS, FIXED_ADDRESS, FIXED_HOST, FIXED_PERMISSION, FIXED_SIZE, FRAME_MONITORED, FRAME_NO_EXECUTE,
  FRAME_NO_READ, FRAME_NO_WRITE, FRAME_NOTICED, LARGE_PAGES, SET_FILLED, SET_HEADER, TLB_ARRAY_SIZE, TLB_SET, VIEW, VIEW_FIXED, VIEW_FIXED_COUNT, VIEW_ID,
} from './layout';

// Kinds of access, as the bits of the page-fault error code
export const ACCESS_READ: u32 = 0;
export const ACCESS_WRITE: u32 = 2;
export const ACCESS_FETCH: u32 = 16;

const PF_PRESENT: u32 = 1;
const PF_USER: u32 = 4;
const PF_RESERVED: u32 = 8;

// Entry flags
export const ENTRY_GLOBAL: u32 = 1;
export const ENTRY_LARGE: u32 = 2; // part of a 2 or 4 MiB page
export const ENTRY_HUGE: u32 = 4; // part of a 1 GiB page

// Bits of paging-structure entries (SDM vol. 3, tables 4-14 to 4-19)
const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;

/** Physical address bits, as CPUID 80000008h announces; the bits from here to 51 of an entry are reserved. */
export const PHYSICAL_BITS: u32 = 40;
const ADDRESS_MASK: u64 = 0xff_ffff_f000;
const RESERVED: u64 = 0xf_ff00_0000_0000;

// What the last walk found
/** Guest physical address. */
export let walkGpa: u64 = 0;
/** 1 when RAM was denied by the view's permissions, so that the access is answered like a device's. */
export let walkRefused: u32 = 0;
let writable: bool = false;
let userPage: bool = false;
let executable: bool = false;
let dirty: bool = false;
let entryFlags: u32 = 0;

// Arrays of a set
const ARRAY_AC: u32 = 1;
const ARRAY_USER: u32 = 2;

/** Which array of the current set `array` is. */
function arrayNumber(array: usize): u32 {
  return <u32>(array - load<u32>(cpu, TLB_SET) - SET_HEADER) / TLB_ARRAY_SIZE;
}

/** Linear-memory address of a paging-structure entry, or 0 where there is no readable RAM. */
function entryHost(gpa: u64): usize {
  if (gpa >= ramSize) return 0;
  const host = ram + <usize>gpa;
  return load<u8>(frames + (host >>> 12)) & FRAME_NO_READ ? 0 : host;
}

/** Sets A or D bits; false if another CPU changed the entry meanwhile, then the walk starts again. */
function mark(host: usize, entry: u64, bits: u64, wide: bool): bool {
  const frame = load<u8>(frames + (host >>> 12));
  if ((entry & bits) == bits || frame & FRAME_NO_WRITE) return true;
  if (wide ? atomic.cmpxchg<u64>(host, entry, entry | bits) != entry : atomic.cmpxchg<u32>(host, <u32>entry, <u32>(entry | bits)) != <u32>entry) return false;
  if (frame & FRAME_MONITORED) lineStored(host, wide ? 8 : 4);
  return true;
}

/**
 * Walks the page tables for `access` by array kind `kind`. Returns -1 and sets the walk variables, or the page-fault error code.
 * With `commit` sets accessed and dirty bits.
 */
function walk(la: u64, access: u32, kind: u32, commit: bool): i32 {
  walkRefused = 0;
  if (!(load<u64>(cpu, CR0) & CR0_PG)) {
    walkGpa = la & 0xffffffff;
    writable = userPage = executable = dirty = true;
    entryFlags = ENTRY_GLOBAL;
    return -1;
  }
  let result: i32 = -2;
  while (result == -2) result = load<u64>(cpu, CR4) & CR4_PAE ? walkWide(la, access, kind, commit) : walkNarrow(la, access, kind, commit);
  return result;
}

/** PAE and 4-level paging: entries of 8 bytes. */
function walkWide(la: u64, access: u32, kind: u32, commit: bool): i32 {
  const long = (load<u64>(cpu, EFER) & EFER_LMA) != 0;
  const nxe = (load<u64>(cpu, EFER) & EFER_NXE) != 0;
  const reserved = RESERVED | (nxe ? 0 : NX);
  const code = access | (kind == ARRAY_USER ? PF_USER : 0);
  let table = load<u64>(cpu, CR3) & (long ? ADDRESS_MASK : 0xffffffe0);
  let shift: u64 = long ? 39 : 30;
  let rights: u64 = RW | US;
  let notExecutable: u64 = 0;
  for (;;) {
    const host = entryHost(table + (((la >> shift) & 0x1ff) << 3));
    if (host == 0) return code;
    const entry = load<u64>(host);
    if (!(entry & P)) return code;
    const pointer = !long && shift == 30; // a PAE page-directory-pointer entry has no rights
    if (entry & (pointer ? 0xfff0_0000_0000_01e6 | RESERVED : reserved)) return code | PF_PRESENT | PF_RESERVED;
    if (!pointer) {
      rights &= entry;
      notExecutable |= entry & NX;
    }
    const leaf = shift == 12 || (entry & PS) != 0;
    if (!leaf) {
      if (commit && !pointer && !mark(host, entry, A, true)) return -2;
      table = entry & ADDRESS_MASK;
      shift -= 9;
      continue;
    }
    if (shift > 30) return code | PF_PRESENT | PF_RESERVED; // PS in a PML4 entry
    const offsetMask = (<u64>1 << shift) - 1;
    if (shift > 12 && entry & offsetMask & ~0x1fff) return code | PF_PRESENT | PF_RESERVED;
    entryFlags = shift == 12 ? 0 : shift == 21 ? ENTRY_LARGE : ENTRY_HUGE;
    executable = notExecutable == 0;
    walkGpa = (entry & ADDRESS_MASK & ~offsetMask) | (la & offsetMask);
    return finish(host, entry, rights, access, kind, code, commit, true);
  }
}

/** 32-bit paging: entries of 4 bytes, no NX. */
function walkNarrow(la: u64, access: u32, kind: u32, commit: bool): i32 {
  const code = access | (kind == ARRAY_USER ? PF_USER : 0);
  const directory = entryHost((load<u64>(cpu, CR3) & 0xfffff000) + (((la >> 22) & 0x3ff) << 2));
  if (directory == 0) return code;
  const upper = load<u32>(directory);
  if (!(upper & <u32>P)) return code;
  executable = true;
  if (upper & <u32>PS && load<u64>(cpu, CR4) & CR4_PSE) {
    if (upper & 0x3f_0000 | upper & 0x20_0000) return code | PF_PRESENT | PF_RESERVED; // PSE-36 bits beyond 40, and bit 21
    entryFlags = ENTRY_LARGE;
    walkGpa = <u64>(upper & 0xffc00000) | (<u64>((upper >> 13) & 0xff) << 32) | (la & 0x3fffff);
    return finish(directory, upper, upper & (RW | US), access, kind, code, commit, false);
  }
  if (commit && !mark(directory, upper, A, false)) return -2;
  const host = entryHost(<u64>(upper & 0xfffff000) + (((la >> 12) & 0x3ff) << 2));
  if (host == 0) return code;
  const entry = load<u32>(host);
  if (!(entry & <u32>P)) return code;
  entryFlags = 0;
  walkGpa = <u64>(entry & 0xfffff000) | (la & 0xfff);
  return finish(host, entry, <u64>(upper & entry) & (RW | US), access, kind, code, commit, false);
}

/** Permission check of the final entry, then accessed and dirty bits (SDM vol. 3, 4.6 and 4.8). */
function finish(host: usize, entry: u64, rights: u64, access: u32, kind: u32, code: u32, commit: bool, wide: bool): i32 {
  const cr4 = load<u64>(cpu, CR4);
  writable = (rights & RW) != 0 || (kind != ARRAY_USER && !(load<u64>(cpu, CR0) & CR0_WP));
  userPage = (rights & US) != 0;
  if (kind == ARRAY_USER) {
    if (!userPage) return code | PF_PRESENT;
  } else if (userPage) {
    if (cr4 & CR4_SMEP) executable = false;
    if (access != ACCESS_FETCH && kind != ARRAY_AC && cr4 & CR4_SMAP) return code | PF_PRESENT;
  }
  if (access == ACCESS_WRITE && !writable) return code | PF_PRESENT;
  if (access == ACCESS_FETCH && !executable) return code | PF_PRESENT;
  if (entry & G && cr4 & CR4_PGE) entryFlags |= ENTRY_GLOBAL;
  const bits = A | (access == ACCESS_WRITE ? D : 0);
  dirty = ((entry | bits) & D) != 0;
  if (commit) {
    if (!mark(host, entry, bits, wide)) return -2;
    if (load<u8>(frames + (host >>> 12)) & FRAME_NO_WRITE) dirty = true;
  }
  return -1;
}

/** True if `la` is canonical for 4-level paging. */
// @ts-ignore: decorator
@inline
export function isCanonical(la: u64): bool {
  return <u64>((<i64>la << 16) >> 16) == la;
}

/** The fixed page entry of the view at `page`, or 0. */
export function fixedPage(view: usize, page: u64): usize {
  const base: usize = load<u32>(view, VIEW_FIXED);
  let low: u32 = 0;
  let high = load<u32>(view, VIEW_FIXED_COUNT);
  while (low < high) {
    const middle = (low + high) >>> 1;
    const at = load<u64>(base + middle * FIXED_SIZE, FIXED_ADDRESS);
    if (at == page) return base + middle * FIXED_SIZE;
    if (at < page) low = middle + 1;
    else high = middle;
  }
  return 0;
}

/**
 * Finds where `la` leads for a read or write through the given array and enters it there. Faults, or returns the address in linear
 * memory; 0 means device memory (or RAM that the view may not touch) at `walkGpa`.
 */
export function fill(array: usize, la: u64, access: u32): usize {
  if (!isCanonical(la)) canonicalFault(la);
  const kind = arrayNumber(array);
  const view: usize = load<u32>(cpu, VIEW);
  if (load<u32>(view, VIEW_ID) != 0 && kind != ARRAY_USER) {
    const fixed = fixedPage(view, la & ~0xfff);
    if (fixed != 0) return fillFixed(array, la, access, fixed);
  }
  const fault = walk(la, access, kind, true);
  if (fault >= 0) pageFault(la, fault);
  if (walkGpa >= ramSize) return 0;
  const host = ram + <usize>walkGpa;
  const frame = load<u8>(frames + (host >>> 12));
  const untrusted = load<u32>(view, VIEW_ID) == 0;
  const readable = !untrusted || !(frame & FRAME_NO_READ);
  const writeAllowed = !(frame & FRAME_NO_WRITE);
  if (access == ACCESS_WRITE ? !writeAllowed : !readable) {
    walkRefused = access == ACCESS_WRITE ? 0 : 1;
    return 0;
  }
  const watch = watchedPage(la & ~0xfff);
  enter(array, la, host,
    readable && !watch,
    writeAllowed && writable && dirty && !watch && !(frame & FRAME_NOTICED),
    untrusted && executable && !(frame & FRAME_NO_EXECUTE));
  return host;
}

function fillFixed(array: usize, la: u64, access: u32, fixed: usize): usize {
  const permission = load<u32>(fixed, FIXED_PERMISSION);
  if (!(permission & (access == ACCESS_WRITE ? 2 : 1))) pageFault(la, access | PF_PRESENT);
  const host: usize = <usize>load<u32>(fixed, FIXED_HOST) + (<usize>la & 0xfff);
  const watch = watchedPage(la & ~0xfff);
  entryFlags = 0;
  enter(array, la, host,
    (permission & 1) != 0 && !watch,
    (permission & 2) != 0 && !watch && !(load<u8>(frames + (host >>> 12)) & FRAME_NOTICED),
    (permission & 4) != 0);
  return host;
}

/** The slow path of `fetchHost` and `fetchOrRefuse`: 0 with the exit record filled when the view does not allow the fetch. */
export function fillFetch(array: usize, la: u64): usize {
  if (!isCanonical(la)) faultCode(13, 0);
  const kind = arrayNumber(array);
  const view: usize = load<u32>(cpu, VIEW);
  const page = la & ~0xfff;
  let host: usize = 0;
  if (load<u32>(view, VIEW_ID) != 0) {
    const fixed: usize = kind == ARRAY_USER ? 0 : fixedPage(view, page);
    if (fixed == 0 || !(load<u32>(fixed, FIXED_PERMISSION) & 4)) return refuseFetch(la);
    host = fillFixed(array, la, load<u32>(fixed, FIXED_PERMISSION) & 1 ? ACCESS_READ : ACCESS_WRITE, fixed);
  } else {
    const fault = walk(la, ACCESS_FETCH, kind, true);
    // The error code has the fetch bit only where execution can be refused (SDM vol. 3, 4.7).
    if (fault >= 0) pageFault(la, load<u64>(cpu, EFER) & EFER_NXE || load<u64>(cpu, CR4) & CR4_SMEP ? fault : fault & ~ACCESS_FETCH);
    if (walkGpa >= ramSize) return refuseFetch(la);
    host = ram + <usize>walkGpa;
    const frame = load<u8>(frames + (host >>> 12));
    if (frame & FRAME_NO_EXECUTE) return refuseFetch(la);
    const watch = watchedPage(page);
    // A walk for a fetch does not check what a data read would: SMAP.
    const readable = kind != 0 || !userPage || !(load<u64>(cpu, CR4) & CR4_SMAP);
    enter(array, la, host,
      readable && !(frame & FRAME_NO_READ) && !watch,
      readable && writable && dirty && !watch && !(frame & (FRAME_NO_WRITE | FRAME_NOTICED)),
      true);
  }
  return host;
}

function refuseFetch(la: u64): usize {
  store<f64>(cpu, <f64>(<i64>la), EXIT_ADDRESS);
  return 0;
}

function enter(array: usize, la: u64, host: usize, read: bool, write: bool, execute: bool): void {
  const page = la & ~0xfff;
  const none = u64.MAX_VALUE;
  const e = entryAt(array, la);
  store<u64>(e, read ? page : none, READ_TAG);
  store<u64>(e, write ? page : none, WRITE_TAG);
  store<u64>(e, execute ? page : none, EXECUTE_TAG);
  store<u32>(e, <u32>host - <u32>la, ADDEND);
  store<u32>(e, entryFlags, ENTRY_FLAGS);
  const set: usize = load<u32>(cpu, TLB_SET);
  store<u32>(set + (arrayNumber(array) << 2), 1, SET_FILLED);
  if (entryFlags & (ENTRY_LARGE | ENTRY_HUGE)) setBit(LARGE_PAGES, entryFlags & ENTRY_LARGE ? largeHash(la) : hugeHash(la));
  store<u64>(cpu, load<u64>(cpu, FILLS) + 1, FILLS);
}

// ---- Filters: bit sets with false positives only -----------------------------------------------------------------------------

/** Fibonacci hashing: neighbours spread evenly, and user and kernel addresses with equal low bits do not meet. */
function hashed(number: u64, bits: u64): u32 { return <u32>((number * 0x9e3779b97f4a7c15) >> (64 - bits)); }
export function pageHash(la: u64): u32 { return hashed(la >> 12, 15); }
export function largeHash(la: u64): u32 { return hashed(la >> 21, 12); }
export function hugeHash(la: u64): u32 { return hashed(la >> 30, 12); }

export function setBit(filter: usize, hash: u32): void {
  const at = cpu + filter + (hash >>> 3);
  store<u8>(at, <u8>(<u32>load<u8>(at) | (<u32>1 << (hash & 7))));
}
export function testBit(filter: usize, hash: u32): bool {
  return ((load<u8>(cpu + filter + (hash >>> 3)) >> (hash & 7)) & 1) != 0;
}

/**
 * Guest physical address for a linear address as a CPL 0 access would find it, or -1. Ignores SMAP and the view, changes nothing.
 */
export function translateQuietly(la: u64, write: bool): f64 {
  if (!isCanonical(la)) return -1;
  return walk(la, write ? ACCESS_WRITE : ACCESS_READ, ARRAY_AC, false) < 0 ? <f64>walkGpa : -1;
}
