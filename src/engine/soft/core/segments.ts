// Segment registers and descriptors (Intel SDM vol. 3, 3.4 and 5.2 to 5.8).
import { cpu } from './state';
import { faultCode } from './events';
import { sysRd64, sysWr8, sysRd8 } from './memory';
import { CPL, CR0, EFER, EXTERNAL, GDTR_BASE, GDTR_LIMIT, MODE, SEG_ATTR, SEG_BASE, SEG_LIMIT, SEG_SELECTOR } from './layout';

export const ES: u32 = 0;
export const CS: u32 = 1;
export const SS: u32 = 2;
export const DS: u32 = 3;
export const FS: u32 = 4;
export const GS: u32 = 5;
export const TR: u32 = 6;
export const LDTR: u32 = 7;

// Attributes as the engine contract has them
export const ATTR_ACCESSED: u32 = 1;
export const ATTR_WRITABLE: u32 = 2; // data; code: readable
export const ATTR_DOWN: u32 = 4; // data: expand-down; code: conforming
export const ATTR_CODE: u32 = 8;
export const ATTR_S: u32 = 0x10;
export const ATTR_P: u32 = 0x80;
export const ATTR_L: u32 = 0x2000;
export const ATTR_DB: u32 = 0x4000;
export const ATTR_G: u32 = 0x8000;

export function segBase(i: u32): u64 { return load<u64>(cpu + (i << 3), SEG_BASE); }
export function segLimit(i: u32): u32 { return load<u32>(cpu + (i << 2), SEG_LIMIT); }
export function segSelector(i: u32): u32 { return load<u16>(cpu + (i << 1), SEG_SELECTOR); }
export function segAttr(i: u32): u32 { return load<u16>(cpu + (i << 1), SEG_ATTR); }

export function setSegment(i: u32, selector: u32, base: u64, limit: u32, attr: u32): void {
  store<u64>(cpu + (i << 3), base, SEG_BASE);
  store<u32>(cpu + (i << 2), limit, SEG_LIMIT);
  store<u16>(cpu + (i << 1), <u16>selector, SEG_SELECTOR);
  store<u16>(cpu + (i << 1), <u16>attr, SEG_ATTR);
}

export function protectedMode(): bool { return (load<u64>(cpu, CR0) & 1) != 0; }
export function longMode(): bool { return (load<u64>(cpu, EFER) & 0x400) != 0; }
export function mode64(): bool { return load<u32>(cpu, MODE) == 2; }

// ---- Descriptors -----------------------------------------------------------------------------------------------------------

export function attrOf(descriptor: u64): u32 { return <u32>(descriptor >> 40) & 0xf0ff; }
export function dplOf(attr: u32): u32 { return (attr >> 5) & 3; }
/** Type field with the S bit: 0..31. */
export function typeOf(attr: u32): u32 { return attr & 0x1f; }
export function baseOf(descriptor: u64): u64 { return ((descriptor >> 16) & 0xffffff) | ((descriptor >> 56) << 24); }
export function limitOf(descriptor: u64): u32 {
  const limit = <u32>((descriptor & 0xffff) | ((descriptor >> 32) & 0xf0000));
  return attrOf(descriptor) & ATTR_G ? (limit << 12) | 0xfff : limit;
}

/** Raises `vector` with a selector error code. */
export function selectorFault(vector: u32, selector: u32): void {
  faultCode(vector, (selector & 0xfffc) | load<u32>(cpu, EXTERNAL));
}

/** Linear address of the descriptor of `selector`, whose `size` bytes lie within the table's limit; 0 when they do not. */
export function descriptorAddress(selector: u32, size: u32): u64 {
  const offset = selector & 0xfff8;
  if (selector & 4) {
    if (!(segAttr(LDTR) & ATTR_P) || offset + size - 1 > segLimit(LDTR)) return 0;
    return segBase(LDTR) + offset;
  }
  if (offset + size - 1 > load<u32>(cpu, GDTR_LIMIT)) return 0;
  return load<u64>(cpu, GDTR_BASE) + offset;
}

/** The descriptor of a selector; outside its table: `vector` with the selector. */
export function readDescriptor(selector: u32, vector: u32): u64 {
  const at = descriptorAddress(selector, 8);
  if (at == 0) selectorFault(vector, selector);
  return sysRd64(at);
}

/** Upper half of the base of a 16-byte system descriptor (long mode). */
export function readUpperBase(selector: u32, vector: u32): u64 {
  const at = descriptorAddress(selector, 16);
  if (at == 0) selectorFault(vector, selector);
  return sysRd64(at + 8) << 32;
}

/** Sets the accessed bit in a code or data descriptor. */
export function setAccessed(selector: u32, attr: u32): void {
  if (attr & ATTR_ACCESSED) return;
  const at = descriptorAddress(selector, 8);
  sysWr8(at + 5, sysRd8(at + 5) | 1);
}

/** A segment register that no access may use. */
export function setNull(i: u32, selector: u32): void {
  setSegment(i, selector, 0, 0, 0);
}

/** Real-address mode: only selector and base change; limit and attributes stay as they were. */
export function setReal(i: u32, selector: u32): void {
  store<u16>(cpu + (i << 1), <u16>selector, SEG_SELECTOR);
  store<u64>(cpu + (i << 3), <u64>selector << 4, SEG_BASE);
}

/** Loads a data segment register or SS as MOV, POP, LSS and LDS do. */
export function loadSegment(i: u32, selector: u32): void {
  if (!protectedMode()) {
    setReal(i, selector);
    return;
  }
  const cpl = load<u32>(cpu, CPL);
  if (i == SS) {
    loadStackSegment(selector, cpl, 13);
    return;
  }
  if ((selector & 0xfffc) == 0) {
    setNull(i, selector);
    return;
  }
  const descriptor = readDescriptor(selector, 13);
  const attr = attrOf(descriptor);
  const type = typeOf(attr);
  if (!(type & ATTR_S) || (type & (ATTR_CODE | ATTR_WRITABLE)) == ATTR_CODE) selectorFault(13, selector);
  const conforming = (type & (ATTR_CODE | ATTR_DOWN)) == (ATTR_CODE | ATTR_DOWN);
  if (!conforming && (dplOf(attr) < cpl || dplOf(attr) < (selector & 3))) selectorFault(13, selector);
  if (!(attr & ATTR_P)) selectorFault(11, selector);
  setAccessed(selector, attr);
  setSegment(i, selector, baseOf(descriptor), limitOf(descriptor), attr | ATTR_ACCESSED);
}

/** SS for privilege level `cpl`; faults other than not-present are `vector` (#GP, or #TS from a TSS). */
export function loadStackSegment(selector: u32, cpl: u32, vector: u32): void {
  if ((selector & 0xfffc) == 0) {
    if (!mode64() || cpl == 3 || (selector & 3) != cpl) selectorFault(vector, 0);
    setNull(SS, selector);
    return;
  }
  const descriptor = checkStackSegment(selector, cpl, vector);
  setAccessed(selector, attrOf(descriptor));
  setSegment(SS, selector, baseOf(descriptor), limitOf(descriptor), attrOf(descriptor) | ATTR_ACCESSED);
}

/** The descriptor of a stack segment that may be used at `cpl`. */
export function checkStackSegment(selector: u32, cpl: u32, vector: u32): u64 {
  if ((selector & 0xfffc) == 0) selectorFault(vector, 0);
  const descriptor = readDescriptor(selector, vector);
  const attr = attrOf(descriptor);
  if ((attr & (ATTR_S | ATTR_CODE | ATTR_WRITABLE)) != (ATTR_S | ATTR_WRITABLE)) selectorFault(vector, selector);
  if ((selector & 3) != cpl || dplOf(attr) != cpl) selectorFault(vector, selector);
  if (!(attr & ATTR_P)) selectorFault(12, selector);
  return descriptor;
}

/** After a return to an outer level: data segments that it may not use become null (SDM vol. 2, IRET and RET). */
export function dropInnerSegments(cpl: u32): void {
  for (let i: u32 = 0; i < 6; i++) {
    if (i == CS || i == SS) continue;
    const attr = segAttr(i);
    const conforming = (attr & (ATTR_CODE | ATTR_DOWN)) == (ATTR_CODE | ATTR_DOWN);
    if (segSelector(i) & 0xfffc && !conforming && dplOf(attr) < cpl) setNull(i, 0);
  }
}

/**
 * Legacy-mode limit and rights check of `size` bytes at `offset` in segment `i` (SDM vol. 3, 5.3): #SS(0) for the stack segment,
 * else #GP(0).
 * In 64-bit mode there is nothing to check.
 */
export function checkSegment(i: u32, offset: u32, size: u32, write: bool): void {
  const attr = segAttr(i);
  const last = offset + size - 1;
  const limit = segLimit(i);
  let ok: bool;
  if ((attr & (ATTR_CODE | ATTR_DOWN)) == ATTR_DOWN) ok = offset > limit && last >= offset && (attr & ATTR_DB || last <= 0xffff);
  else ok = last <= limit && last >= offset;
  if (protectedMode()) {
    if (!(attr & ATTR_P)) ok = false;
    else if (write ? (attr & (ATTR_CODE | ATTR_WRITABLE)) != ATTR_WRITABLE : (attr & (ATTR_CODE | ATTR_WRITABLE)) == ATTR_CODE) ok = false;
  }
  if (!ok) {
    if (i == SS) faultCode(12, 0);
    faultCode(13, 0);
  }
}
