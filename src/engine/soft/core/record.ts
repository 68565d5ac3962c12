// A decoded instruction: 48 bytes in the record pool. The decoder fills it once, the interpreter reads it each time it runs.
// Register operands are *addresses* into the state block, so that a handler needs no register numbers, no REX and no high-byte rule.
import { GPR, PAGE_BASE, CUR_OP, MODE } from './layout';
import { cpu } from './state';
import { eaSlow } from './address';

export const RECORD_SIZE: usize = 48;

export const OP_HANDLER: usize = 0; // u16: case of the interpreter's switch (generated/handlers.ts)
export const OP_SUB: usize = 2; // u16: the row's handler constant (generated/<family>.ts)
export const OP_OFFSET: usize = 4; // u16: offset in its page of the first byte; RIP = PAGE_BASE + OFFSET
export const OP_LENGTH: usize = 6; // u8: bytes, 1..15
export const OP_LEFT: usize = 7; // u8: instructions from this one to the end of its block, this one included
export const OP_SIZE: usize = 8; // u8: size in bytes (1, 2, 4, 8) of the form's first general operand, else the effective operand size
export const OP_SCALE: usize = 9; // u8: shift of the index, 0..3
export const OP_REG: usize = 10; // u8: ModRM.reg with REX.R, or the register in the opcode with REX.B
export const OP_RM: usize = 11; // u8: ModRM.rm with REX.B (register form)
export const OP_MOD: usize = 12; // u8: 1 = memory form, 0 = register form or no ModRM
export const OP_EA: usize = 13; // u8: 0 = flat 64-bit address, else EA_* : take the slow function
export const OP_PREFIX: usize = 14; // u16: PREFIX_*
export const OP_A: usize = 16; // u32: address of the first operand when it is a general register, else 0
export const OP_B: usize = 20; // u32: address of the second operand when it is a general register, else 0
export const OP_BASE: usize = 24; // u32: address of the base register, of PAGE_BASE, or of ZERO
export const OP_INDEX: usize = 28; // u32: address of the index register, of a segment base, or of ZERO
export const OP_FALL: usize = 24; // u32: direct branches have no memory operand: linked record of the next instruction, 0 = not linked
export const OP_TAKEN: usize = 28; // u32: linked record of the branch target, 0 = not linked
export const OP_DISP: usize = 32; // i32: displacement; RIP-relative: from the start of the page
export const OP_SEG: usize = 36; // u8: segment register number of the memory operand (default or override); SS for implicit stack accesses
export const OP_ASIZE: usize = 37; // u8: address size in bytes (2, 4, 8)
export const OP_CODE: usize = 38; // u16: last opcode byte in bits 8..15, ModRM byte in bits 0..7 (x87 FOP, statistics)
export const OP_IMM: usize = 40; // i64: immediate, sign-extended from its own size (so load<u8> or load<u16> give the unsigned one);
// direct branch: target as distance from PAGE_BASE; moffs: the address; Ap: offset, selector in bits 32..47; Iw,Ib: the byte in bits 16..23

export const PREFIX_LOCK: u32 = 0x01;
export const PREFIX_REPNE: u32 = 0x02; // F2
export const PREFIX_REP: u32 = 0x04; // F3
export const PREFIX_66: u32 = 0x08;
export const PREFIX_67: u32 = 0x10;
export const PREFIX_REXW: u32 = 0x20;
export const PREFIX_REX: u32 = 0x40;
export const PREFIX_SEG: u32 = 0x80; // any segment override

export const EA_SLOW: u32 = 1; // address size or segmentation needs the slow function
export const EA_WRITE: u32 = 4; // with EA_SLOW: the operand is written
export const EA_NEXT: u32 = 2; // RIP-relative whose page-relative displacement does not fit: add the next instruction's offset

/** Linear address of the memory operand. Legacy modes: with limit checks (may fault). */
// @ts-ignore: decorator
@inline
export function ea(op: usize): u64 {
  return load<u8>(op, OP_EA) == 0 ? eaFlat(op) : eaSlow(op);
}

/** The same, for records whose OP_EA is 0. */
// @ts-ignore: decorator
@inline
export function eaFlat(op: usize): u64 {
  const index = load<u64>(load<u32>(op, OP_INDEX)) << (<u64>load<u8>(op, OP_SCALE));
  return load<u64>(load<u32>(op, OP_BASE)) + index + <u64>(<i64>load<i32>(op, OP_DISP));
}

/** Address of a 64-bit general register. */
// @ts-ignore: decorator
@inline
export function gpr(index: u32): usize {
  return cpu + GPR + (index << 3);
}

/** RIP is 32 bits wide outside 64-bit mode. */
// @ts-ignore: decorator
@inline
export function wrapRip(rip: u64): u64 {
  return load<u32>(cpu, MODE) == 2 ? rip : rip & 0xffffffff;
}

/** RIP of the instruction that is executing. */
export function currentRip(): u64 {
  return wrapRip(load<u64>(cpu, PAGE_BASE) + <u64>load<u16>(load<u32>(cpu, CUR_OP), OP_OFFSET));
}

/** RIP behind the instruction `op`. */
export function nextRip(op: usize): u64 {
  return wrapRip(load<u64>(cpu, PAGE_BASE) + <u64>load<u16>(op, OP_OFFSET) + <u64>load<u8>(op, OP_LENGTH));
}
