/** SSE moves, shuffles and blends with more to them than one lane operation. */

import { GPR, VECTOR_SCRATCH } from './layout';
import { addressMask, linear } from './address';
import { cpu } from './state';
import { ea, gpr, OP_ASIZE, OP_IMM, OP_MOD, OP_PREFIX, OP_REG, OP_RM, OP_SEG, PREFIX_REXW } from './record';
import { probeWrite, rd16, rd32, rd64, rd8, wr16, wr32, wr64, wr8 } from './memory';
import { src128, xmmReg, xmmRm } from './xmm';

/** Offset of temporaries of 16 bytes each. */
const TEMP: usize = VECTOR_SCRATCH;

// @ts-ignore: decorator
@inline
function control(op: usize): u32 {
  return load<u8>(op, OP_IMM);
}

export function rexW(op: usize): bool {
  return (load<u16>(op, OP_PREFIX) & PREFIX_REXW) != 0;
}

/** MASKMOVDQU, MASKMOVQ: stores the bytes of `value` whose mask byte has its top bit set at DS:rDI. */
export function maskedStore(op: usize, value: v128, mask: v128): void {
  const bits = i8x16.bitmask(mask);
  if (bits == 0) return;
  const rdi = load<u64>(cpu, GPR + 7 * 8);
  const la = linear(load<u8>(op, OP_SEG), rdi & addressMask(load<u8>(op, OP_ASIZE)), 16, true);
  const first = ctz(bits);
  probeWrite(la + <u64>first, 32 - clz(bits) - first);
  v128.store(cpu, value, TEMP);
  for (let i: usize = 0; i < 16; i++) if (((bits >> <u32>i) & 1) != 0) wr8(la + <u64>i, load<u8>(cpu + i, TEMP));
}

// ---- shuffles by immediate

export function pshufd(op: usize): void {
  v128.store(cpu, src128(op), TEMP);
  const d = xmmReg(op);
  const c = <usize>control(op);
  store<u32>(d, load<u32>(cpu + ((c & 3) << 2), TEMP));
  store<u32>(d, load<u32>(cpu + (((c >> 2) & 3) << 2), TEMP), 4);
  store<u32>(d, load<u32>(cpu + (((c >> 4) & 3) << 2), TEMP), 8);
  store<u32>(d, load<u32>(cpu + ((c >> 6) << 2), TEMP), 12);
}

/** PSHUFLW, PSHUFHW: the four words from byte `half` (0 or 8); the others are copied. */
export function pshufWords(op: usize, half: usize): void {
  const source = src128(op);
  v128.store(cpu, source, TEMP);
  const d = xmmReg(op);
  const c = <usize>control(op);
  v128.store(d, source);
  const from = cpu + half;
  const to = d + half;
  store<u16>(to, load<u16>(from + ((c & 3) << 1), TEMP));
  store<u16>(to, load<u16>(from + (((c >> 2) & 3) << 1), TEMP), 2);
  store<u16>(to, load<u16>(from + (((c >> 4) & 3) << 1), TEMP), 4);
  store<u16>(to, load<u16>(from + ((c >> 6) << 1), TEMP), 6);
}

export function shufps(op: usize): void {
  v128.store(cpu, src128(op), TEMP + 16);
  const d = xmmReg(op);
  v128.store(cpu, v128.load(d), TEMP);
  const c = <usize>control(op);
  store<u32>(d, load<u32>(cpu + ((c & 3) << 2), TEMP));
  store<u32>(d, load<u32>(cpu + (((c >> 2) & 3) << 2), TEMP), 4);
  store<u32>(d, load<u32>(cpu + (((c >> 4) & 3) << 2), TEMP + 16), 8);
  store<u32>(d, load<u32>(cpu + ((c >> 6) << 2), TEMP + 16), 12);
}

export function shufpd(op: usize): void {
  v128.store(cpu, src128(op), TEMP + 16);
  const d = xmmReg(op);
  const c = <usize>control(op);
  if ((c & 1) != 0) store<u64>(d, load<u64>(d, 8));
  store<u64>(d, load<u64>(cpu + ((c & 2) << 2), TEMP + 16), 8);
}

/** PSRLDQ, PSLLDQ by bytes. */
export function shiftBytes(op: usize, left: bool): void {
  const d = xmmRm(op);
  const n = <usize>min<u32>(control(op), 16);
  v128.store(cpu, i32x4.splat(0), TEMP);
  v128.store(cpu, v128.load(d), TEMP + 16);
  v128.store(cpu, i32x4.splat(0), TEMP + 32);
  v128.store(d, v128.load(left ? cpu + TEMP + 16 - n : cpu + TEMP + 16 + n));
}

export function palignr(op: usize): void {
  v128.store(cpu, src128(op), TEMP);
  const d = xmmReg(op);
  v128.store(cpu, v128.load(d), TEMP + 16);
  v128.store(cpu, i32x4.splat(0), TEMP + 32);
  v128.store(cpu, i32x4.splat(0), TEMP + 48);
  v128.store(d, v128.load(cpu + TEMP + <usize>min<u32>(control(op), 32)));
}

/** INSERTPS: source element, destination element, and elements to clear. */
export function insertps(op: usize): void {
  const c = control(op);
  const d = xmmReg(op);
  const value = load<u8>(op, OP_MOD) != 0 ? rd32(ea(op)) : load<u32>(xmmRm(op) + ((c >> 6) << 2));
  store<u32>(d + (((c >> 4) & 3) << 2), value);
  for (let i: u32 = 0; i < 4; i++) if (((c >> i) & 1) != 0) store<u32>(d + (i << 2), 0);
}

// ---- blends

/** Elements of `size` bytes whose bit of the immediate is set come from the source. */
export function blend(op: usize, size: u32): void {
  v128.store(cpu, src128(op), TEMP);
  const d = xmmReg(op);
  const c = control(op);
  for (let i: u32 = 0; i < 16 / size; i++) {
    if (((c >> i) & 1) == 0) continue;
    const at = i * size;
    if (size == 2) store<u16>(d + at, load<u16>(cpu + at, TEMP));
    else if (size == 4) store<u32>(d + at, load<u32>(cpu + at, TEMP));
    else store<u64>(d + at, load<u64>(cpu + at, TEMP));
  }
}

// ---- single elements to and from general registers and memory

/** PINSRB, PINSRW, PINSRD/Q. */
export function insert(op: usize, size: u32): void {
  const from = gpr(load<u8>(op, OP_RM));
  const memory = load<u8>(op, OP_MOD) != 0;
  const d = xmmReg(op) + (control(op) & (16 / size - 1)) * size;
  switch (size) {
    case 1: { store<u8>(d, memory ? <u8>rd8(ea(op)) : load<u8>(from)); break; }
    case 2: { store<u16>(d, memory ? <u16>rd16(ea(op)) : load<u16>(from)); break; }
    case 4: { store<u32>(d, memory ? rd32(ea(op)) : load<u32>(from)); break; }
    default: { store<u64>(d, memory ? rd64(ea(op)) : load<u64>(from)); break; }
  }
}

/** PEXTRB, PEXTRW, PEXTRD/Q, EXTRACTPS with the destination in ModRM.rm. A register is zero-extended. */
export function extract(op: usize, size: u32): void {
  const s = xmmReg(op) + (control(op) & (16 / size - 1)) * size;
  if (load<u8>(op, OP_MOD) == 0) {
    const value = size == 1 ? <u64>load<u8>(s) : size == 2 ? <u64>load<u16>(s) : size == 4 ? <u64>load<u32>(s) : load<u64>(s);
    store<u64>(gpr(load<u8>(op, OP_RM)), value);
    return;
  }
  const la = ea(op);
  switch (size) {
    case 1: { wr8(la, load<u8>(s)); break; }
    case 2: { wr16(la, load<u16>(s)); break; }
    case 4: { wr32(la, load<u32>(s)); break; }
    default: { wr64(la, load<u64>(s)); break; }
  }
}

/** MOVD/MOVQ from a general register or memory. */
export function movdLoad(op: usize): void {
  const d = xmmReg(op);
  const from = gpr(load<u8>(op, OP_RM));
  const memory = load<u8>(op, OP_MOD) != 0;
  let value: u64;
  if (rexW(op)) value = memory ? rd64(ea(op)) : load<u64>(from);
  else value = <u64>(memory ? rd32(ea(op)) : load<u32>(from));
  store<u64>(d, value);
  store<u64>(d, 0, 8);
}

export function movdStore(op: usize): void {
  const value = load<u64>(xmmReg(op));
  if (load<u8>(op, OP_MOD) == 0) store<u64>(gpr(load<u8>(op, OP_RM)), rexW(op) ? value : value & 0xffffffff);
  else if (rexW(op)) wr64(ea(op), value);
  else wr32(ea(op), <u32>value);
}

export function movnti(op: usize): void {
  const value = load<u64>(gpr(load<u8>(op, OP_REG)));
  if (rexW(op)) wr64(ea(op), value);
  else wr32(ea(op), <u32>value);
}
