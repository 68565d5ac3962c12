// A stack that is being pushed to or popped from by a transfer of control, perhaps not the one in SS:RSP. Nothing here changes
// registers: the caller commits `stackPointer()` when no fault can follow any more.
import { cpu } from './state';
import { faultCode } from './events';
import { readVia, sysArray, tlb, writeVia } from './memory';
import { ATTR_CODE, ATTR_DB, ATTR_DOWN, SS, mode64, segAttr, segBase, segLimit } from './segments';
import { GPR } from './layout';

let array: usize = 0;
let base: u64 = 0;
let limit: u32 = 0;
let attr: u32 = 0;
let mask: u64 = 0;
let pointer: u64 = 0;
let checked: bool = false;
/** Error code of #SS when an access lies outside. */
let errorCode: u32 = 0;

/** A flat 64-bit stack. `user`: accesses are CPL 3's. */
export function useFlatStack(rsp: u64, user: bool): void {
  array = user ? tlb : sysArray();
  base = 0;
  mask = u64.MAX_VALUE;
  pointer = rsp;
  checked = false;
}

/** A stack in a legacy segment. */
export function useStack(segmentBase: u64, segmentLimit: u32, attributes: u32, sp: u64, user: bool, code: u32): void {
  array = user ? tlb : sysArray();
  base = segmentBase;
  limit = segmentLimit;
  attr = attributes;
  mask = attributes & ATTR_DB ? 0xffffffff : 0xffff;
  pointer = sp;
  checked = true;
  errorCode = code;
}

/** The current stack. */
export function useCurrentStack(): void {
  const rsp = load<u64>(cpu + 32, GPR);
  if (mode64()) useFlatStack(rsp, true);
  else useStack(segBase(SS), segLimit(SS), segAttr(SS), rsp, true, 0);
  array = tlb;
}

function address(offset: u64, size: u32): u64 {
  if (!checked) return offset;
  const first = <u32>(offset & mask);
  const last = first + size - 1;
  const ok = (attr & (ATTR_CODE | ATTR_DOWN)) == ATTR_DOWN
    ? first > limit && last >= first && (attr & ATTR_DB || last <= 0xffff)
    : last <= limit && last >= first;
  if (!ok) faultCode(12, errorCode);
  return (base + first) & 0xffffffff;
}

export function push(size: u32, value: u64): void {
  const next = pointer - size;
  writeVia(array, address(next, size), size, value);
  pointer = next;
}

export function pop(size: u32): u64 {
  const value = readVia(array, address(pointer, size), size);
  pointer += size;
  return value;
}

/** Reads `size` bytes `offset` above the stack pointer. */
export function peek(offset: u32, size: u32): u64 {
  return readVia(array, address(pointer + offset, size), size);
}

export function skip(bytes: u64): void {
  pointer += bytes;
}

/** The new RSP: only SP changes where the stack is 16 bits wide. */
export function stackPointer(): u64 {
  if (mask == u64.MAX_VALUE) return pointer;
  if (mask == 0xffffffff) return pointer & mask;
  return (load<u64>(cpu + 32, GPR) & ~mask) | (pointer & mask);
}
