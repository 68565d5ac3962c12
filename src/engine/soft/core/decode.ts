// The decoder: instruction bytes to one record, by the tables made from isa/ (Intel SDM vol. 2, chapter 2). It runs once per instruction
// of a block, so it prefers being plain to being fast.
import { GPR, PAGE_BASE, SEG_BASE, ZERO } from './layout';
import { H_FIRST_64, H_SHADOWED, H_STRING, H_TOO_LONG, H_UNDEFINED } from './generated/handlers';
import { OPCODE_CANDIDATES, OPCODE_INDEX, OPCODE_ROWS, ROW_BYTES } from './generated/tables';
import {
  EA_NEXT, EA_SLOW, EA_WRITE, OP_A, OP_ASIZE, OP_B, OP_BASE, OP_CODE, OP_DISP, OP_EA, OP_FALL, OP_HANDLER, OP_IMM, OP_INDEX,
  OP_LENGTH,
  OP_MOD, OP_OFFSET, OP_PREFIX, OP_REG, OP_RM, OP_SCALE, OP_SEG, OP_SIZE, OP_SUB, OP_TAKEN, PREFIX_66, PREFIX_67, PREFIX_LOCK, PREFIX_REP,
  PREFIX_REPNE, PREFIX_REX, PREFIX_REXW, PREFIX_SEG, RECORD_SIZE,
} from './record';
import { DS, FS, SS } from './segments';
import { shadowStackOn } from './shadow-stack';
import { cpu } from './state';

// Fields of a row (written by isa/generate.ts)
const ROW_PREFIX: usize = 0; // 0 any, 1 none, 2 66, 3 F2, 4 F3
const ROW_DIGIT: usize = 1; // ModRM.reg, or FFh
const ROW_EXACT: usize = 2; // 1 = ModRM must equal ROW_MODRM
const ROW_MODRM: usize = 3;
const ROW_PLACE: usize = 4; // 0 any, 1 memory, 2 register
const ROW_FLAGS: usize = 5;
const ROW_SIZE: usize = 6; // 0 effective operand size, 1 b, 2 w, 3 d, 4 q, 5 y, 6 z
const ROW_IMMEDIATE: usize = 7;
const ROW_A: usize = 8; // source of the first register operand
const ROW_B: usize = 9;
const ROW_MISC: usize = 10; // bit 0: first operand is a byte, bit 1: second, bit 2: LEA
const ROW_HANDLER: usize = 11;
const ROW_SUB: usize = 12;
const ROW_WRITES: usize = 14;
const ROW_SHADOWED: usize = 15; // 1 = CALL, returns and indirect jumps: another handler in views with a shadow stack
const ROW_FAST: usize = 16; // u16 [memory][log2 size]

const ROW_LOCK: u32 = 1;
const ROW_I64: u32 = 2;
const ROW_O64: u32 = 4;
const ROW_D64: u32 = 8;
const ROW_F64: u32 = 16;
const ROW_END: u32 = 32;
const ROW_HAS_MODRM: u32 = 64;
const ROW_STACK: u32 = 128;

/** decode()'s answers. */
export const DECODED: u32 = 0; // the record is complete, the block goes on
export const DECODED_END: u32 = 1; // likewise, and it ends the block
export const NEEDS_MORE: u32 = 2; // the bytes given do not hold the whole instruction

// The instruction being decoded
let at: usize = 0; // next byte
let end: usize = 0; // behind the last byte there is
let short: bool = false; // ran past `end`

function next8(): u32 {
  if (at >= end) {
    short = true;
    return 0;
  }
  const value = load<u8>(at);
  at++;
  return value;
}

/** Signed value of 1, 2, 4 or 8 bytes. */
function nextSigned(size: u32): i64 {
  if (at + size > end) {
    short = true;
    return 0;
  }
  const from = at;
  at += size;
  return size == 1 ? <i64>load<i8>(from) : size == 2 ? <i64>load<i16>(from) : size == 4 ? <i64>load<i32>(from) : load<i64>(from);
}

/**
 * Decodes the instruction at `code`, of which `available` bytes (at least 1) may be read, into the record `op`. `offset`: its offset in
 * its page.
 * `mode`: 0, 1 or 2 as in MODE. Undefined and overlong instructions become records that fault when they execute.
 */
export function decode(op: usize, code: usize, available: u32, offset: u32, mode: u32): u32 {
  at = code;
  end = code + (available < 15 ? available : 15);
  short = false;
  memory.fill(op, 0, RECORD_SIZE);
  store<u16>(op, <u16>offset, OP_OFFSET);
  const answer = decodeParts(op, mode, offset);
  if (short) {
    if (available < 15) return NEEDS_MORE;
    // Longer than 15 bytes: #GP(0) (SDM vol. 2, 2.3.11).
    store<u16>(op, H_TOO_LONG, OP_HANDLER);
    store<u8>(op, 15, OP_LENGTH);
    return DECODED_END;
  }
  if (answer == NOT_AN_INSTRUCTION) {
    store<u16>(op, H_UNDEFINED, OP_HANDLER);
    store<u8>(op, <u8>(at - code), OP_LENGTH);
    return DECODED_END;
  }
  return answer;
}

const NOT_AN_INSTRUCTION: u32 = 3;

// What prefixes and ModRM said
let prefix: u32 = 0;
let segment: u32 = 0; // override, with PREFIX_SEG
let rex: u32 = 0;
let modrm: u32 = 0;

function decodeParts(op: usize, mode: u32, offset: u32): u32 {
  const start = at;
  let opcode = prefixes(mode);
  if (short) return 0;
  let map: u32 = 0;
  if (opcode == 0x0f) {
    map = 1;
    opcode = next8();
    if (opcode == 0x38 || opcode == 0x3a) {
      map = opcode == 0x38 ? 2 : 3;
      opcode = next8();
    }
    if (short) return 0;
  }
  if (map == 0 && opcode == 0x90 && rex & 1) prefix &= ~PREFIX_REP; // XCHG R8, not PAUSE
  store<u16>(op, <u16>(opcode << 8), OP_CODE);
  store<u16>(op, <u16>(map | (prefix << 8)), OP_SUB); // for the statistics of undefined instructions
  const row = findRow(map << 8 | opcode, mode);
  if (row == 0) return short ? 0 : NOT_AN_INSTRUCTION;
  const flags: u32 = load<u8>(row, ROW_FLAGS);
  const hasModrm = (flags & ROW_HAS_MODRM) != 0;
  if (hasModrm) at++;

  // Sizes (SDM vol. 2, 2.2.1.2 and vol. 1, 3.6)
  const wide = (prefix & PREFIX_REXW) != 0;
  let effective: u32 = mode == 2 ? (wide ? 8 : prefix & PREFIX_66 ? 2 : 4) : (mode == 1) != ((prefix & PREFIX_66) != 0) ? 4 : 2;
  if (mode == 2) {
    if (flags & ROW_F64) effective = 8;
    else if (flags & ROW_D64) effective = prefix & PREFIX_66 && !wide ? 2 : 8;
  }
  const addressSize: u32 = mode == 2 ? (prefix & PREFIX_67 ? 4 : 8) : (mode == 1) != ((prefix & PREFIX_67) != 0) ? 4 : 2;
  const size = operandSize(load<u8>(row, ROW_SIZE), effective, wide);
  store<u8>(op, <u8>size, OP_SIZE);
  store<u8>(op, <u8>addressSize, OP_ASIZE);
  store<u16>(op, <u16>prefix, OP_PREFIX);
  store<u16>(op, load<u16>(row, ROW_SUB), OP_SUB);

  let inMemory = false;
  if (hasModrm) {
    store<u16>(op, <u16>(opcode << 8 | modrm), OP_CODE);
    store<u8>(op, <u8>(((modrm >> 3) & 7) | ((rex & 4) << 1)), OP_REG);
    inMemory = modrm < 0xc0 && !controlRegister(map << 8 | opcode);
    if (inMemory) {
      store<u8>(op, 1, OP_MOD);
      memoryOperand(op, mode, addressSize);
    } else {
      store<u8>(op, <u8>((modrm & 7) | ((rex & 1) << 3)), OP_RM);
      store<u8>(op, <u8>(prefix & PREFIX_SEG ? segment : DS), OP_SEG); // of MASKMOVQ's implicit operand
    }
  } else {
    store<u8>(op, <u8>((opcode & 7) | ((rex & 1) << 3)), OP_REG);
    // No prefix takes the stack out of SS.
    store<u8>(op, <u8>(flags & ROW_STACK ? SS : prefix & PREFIX_SEG ? segment : DS), OP_SEG);
  }
  immediate(op, load<u8>(row, ROW_IMMEDIATE), effective, addressSize, mode);
  if (short) return 0;
  const length = <u32>(at - start);
  store<u8>(op, <u8>length, OP_LENGTH);

  // LOCK is for the listed instructions with a memory destination only (SDM vol. 2, LOCK).
  if (prefix & PREFIX_LOCK && !(flags & ROW_LOCK && inMemory)) return NOT_AN_INSTRUCTION;

  const misc: u32 = load<u8>(row, ROW_MISC);
  store<u32>(op, registerOperand(op, load<u8>(row, ROW_A), (misc & 1) != 0, inMemory), OP_A);
  store<u32>(op, registerOperand(op, load<u8>(row, ROW_B), (misc & 2) != 0, inMemory), OP_B);
  if (inMemory) finishAddress(op, mode, addressSize, offset + length, (misc & 4) != 0, load<u8>(row, ROW_WRITES) != 0);

  const handler = load<u8>(row, ROW_HANDLER);
  store<u16>(op, handler, OP_HANDLER);
  if (isBranchTarget(load<u8>(row, ROW_IMMEDIATE))) {
    // Distance of the target from the page's first byte.
    store<i64>(op, load<i64>(op, OP_IMM) + <i64>(offset + length), OP_IMM);
    store<u32>(op, 0, OP_FALL);
    store<u32>(op, 0, OP_TAKEN);
  }
  if (load<u8>(row, ROW_SHADOWED) && shadowStackOn()) store<u16>(op, H_SHADOWED, OP_HANDLER);
  else if (!(prefix & PREFIX_LOCK)) {
    const fast = load<u16>(row + (((inMemory ? 4 : 0) + ctz<u32>(size)) << 1), ROW_FAST);
    if (fast != 0 && (fast < H_FIRST_64 || (mode == 2 && load<u8>(op, OP_EA) == 0))) store<u16>(op, fast, OP_HANDLER);
  }
  if (handler == H_STRING) return DECODED;
  return handler == H_UNDEFINED || flags & ROW_END ? DECODED_END : DECODED;
}

/** Reads prefixes and REX; returns the first opcode byte (SDM vol. 2, 2.1.1 and 2.2.1). */
function prefixes(mode: u32): u32 {
  prefix = 0;
  segment = DS;
  rex = 0;
  while (true) {
    const byte = next8();
    if (short) return 0;
    switch (byte) {
      case 0xf0: prefix |= PREFIX_LOCK; break;
      case 0xf2: prefix = (prefix & ~PREFIX_REP) | PREFIX_REPNE; break;
      case 0xf3: prefix = (prefix & ~PREFIX_REPNE) | PREFIX_REP; break;
      case 0x66: prefix |= PREFIX_66; break;
      case 0x67: prefix |= PREFIX_67; break;
      case 0x26:
      case 0x2e:
      case 0x36:
      case 0x3e:
        // ES, CS, SS and DS overrides do nothing in 64-bit mode, and leave an earlier FS or GS in force.
        if (mode != 2) {
          prefix |= PREFIX_SEG;
          segment = (byte >> 3) & 3;
        }
        break;
      case 0x64:
      case 0x65:
        prefix |= PREFIX_SEG;
        segment = byte - 0x60;
        break;
      default:
        if (mode == 2 && (byte & 0xf0) == 0x40) {
          // REX counts only right before the opcode.
          const opcode = next8();
          if (short) return 0;
          if (!isPrefix(opcode)) {
            rex = byte;
            prefix |= PREFIX_REX | (byte & 8 ? PREFIX_REXW : 0);
            return opcode;
          }
          at--;
          break;
        }
        return byte;
    }
  }
}

function isPrefix(byte: u32): bool {
  return byte == 0xf0 || byte == 0xf2 || byte == 0xf3 || (byte >= 0x64 && byte <= 0x67) || (byte & 0xe7) == 0x26 || (byte & 0xf0) == 0x40;
}

/** MOV to and from control and debug registers ignore ModRM.mod (SDM vol. 2, MOV). */
function controlRegister(code: u32): bool {
  return code >= 0x120 && code <= 0x123;
}

/** The row that fits, or 0; also peeks at ModRM. */
function findRow(code: u32, mode: u32): usize {
  const first: u32 = load<u16>(OPCODE_INDEX + (code << 2));
  const count: u32 = load<u16>(OPCODE_INDEX + (code << 2), 2);
  const mandatory: u32 = prefix & PREFIX_REPNE ? 3 : prefix & PREFIX_REP ? 4 : prefix & PREFIX_66 ? 2 : 1;
  let peeked = false;
  for (let i = first; i < first + count; i++) {
    const row = OPCODE_ROWS + <usize>load<u16>(OPCODE_CANDIDATES + (i << 1)) * ROW_BYTES;
    const flags: u32 = load<u8>(row, ROW_FLAGS);
    const wanted: u32 = load<u8>(row, ROW_PREFIX);
    if (wanted != 0 && wanted != mandatory) continue;
    if (flags & (mode == 2 ? ROW_I64 : ROW_O64)) continue;
    if (flags & ROW_HAS_MODRM) {
      if (!peeked) {
        if (at >= end) {
          short = true;
          return 0;
        }
        modrm = load<u8>(at);
        peeked = true;
      }
      const digit: u32 = load<u8>(row, ROW_DIGIT);
      if (digit != 0xff && digit != ((modrm >> 3) & 7)) continue;
      if (load<u8>(row, ROW_EXACT) && load<u8>(row, ROW_MODRM) != modrm) continue;
      const place = load<u8>(row, ROW_PLACE);
      if (place != 0 && (place == 1) != (modrm < 0xc0)) continue;
    }
    return row;
  }
  return 0;
}

function operandSize(rule: u32, effective: u32, wide: bool): u32 {
  switch (rule) {
    case 1: return 1;
    case 2: return 2;
    case 3: return 4;
    case 4: return 8;
    case 5: return wide ? 8 : 4;
    case 6: return effective == 8 ? 4 : effective;
    default: return effective;
  }
}

function registerAddress(index: u32, byte: bool): u32 {
  if (byte && rex == 0 && index >= 4 && index < 8) return <u32>(cpu + GPR + ((index - 4) << 3) + 1); // AH CH DH BH
  return <u32>(cpu + GPR + (index << 3));
}

function registerOperand(op: usize, source: u32, byte: bool, inMemory: bool): u32 {
  switch (source) {
    case 1:
    case 3: return registerAddress(load<u8>(op, OP_REG), byte);
    case 2: return inMemory ? 0 : registerAddress(load<u8>(op, OP_RM), byte);
    case 4: return <u32>(cpu + GPR);
    case 5: return <u32>(cpu + GPR + 8);
    case 6: return <u32>(cpu + GPR + 16);
    default: return 0;
  }
}

function isBranchTarget(rule: u32): bool {
  return rule == 5 || rule == 6;
}

function immediate(op: usize, rule: u32, effective: u32, addressSize: u32, mode: u32): void {
  let value: i64 = 0;
  const z: u32 = effective == 2 ? 2 : 4;
  switch (rule) {
    case 0: return;
    case 1: // Ib
    case 5: value = nextSigned(1); break; // Jb
    case 2: value = nextSigned(2); break; // Iw
    case 3: // Iz
    case 6: value = nextSigned(z); break; // Jz
    case 4: value = nextSigned(effective); break; // Iv
    case 7: // O
      value = nextSigned(addressSize);
      if (addressSize < 8) value &= addressSize == 4 ? 0xffffffff : 0xffff;
      break;
    case 8: // Ap
      value = nextSigned(z) & (z == 4 ? 0xffffffff : 0xffff);
      value |= (nextSigned(2) & 0xffff) << 32;
      break;
    case 9: // Iw,Ib
      value = nextSigned(2) & 0xffff;
      value |= (nextSigned(1) & 0xff) << 16;
      break;
    default: value = 1; // the literal 1
  }
  store<i64>(op, value, OP_IMM);
}

/** ModRM, SIB and displacement (SDM vol. 2, tables 2-1 to 2-3). */
function memoryOperand(op: usize, mode: u32, addressSize: u32): void {
  const zero = <u32>(cpu + ZERO);
  let base = zero;
  let index = zero;
  let stack = false;
  let displacement: i64 = 0;
  const mod = modrm >> 6;
  const rm = modrm & 7;
  if (addressSize == 2) {
    // BX+SI BX+DI BP+SI BP+DI SI DI BP BX
    if (rm != 6 || mod != 0) {
      base = registerAddress(rm == 7 || rm < 2 ? 3 : rm == 4 ? 6 : rm == 5 ? 7 : 5, false);
      stack = rm == 2 || rm == 3 || rm == 6;
      if (rm < 4) index = registerAddress(rm & 1 ? 7 : 6, false);
    }
    if (mod == 1) displacement = nextSigned(1);
    else if (mod == 2 || (mod == 0 && rm == 6)) displacement = nextSigned(2);
  } else {
    let disp32 = mod == 2;
    if (rm == 4) {
      const sib = next8();
      const indexNumber = ((sib >> 3) & 7) | ((rex & 2) << 2);
      if (indexNumber != 4) {
        index = registerAddress(indexNumber, false);
        store<u8>(op, <u8>(sib >> 6), OP_SCALE);
      }
      if ((sib & 7) == 5 && mod == 0) disp32 = true;
      else {
        base = registerAddress((sib & 7) | ((rex & 1) << 3), false);
        stack = (sib & 7 | ((rex & 1) << 3)) == 4 || (sib & 7 | ((rex & 1) << 3)) == 5;
      }
    } else if (rm == 5 && mod == 0) {
      disp32 = true;
      if (mode == 2) base = <u32>(cpu + PAGE_BASE);
    } else {
      base = registerAddress(rm | ((rex & 1) << 3), false);
      stack = (rm | ((rex & 1) << 3)) == 5;
    }
    if (mod == 1) displacement = nextSigned(1);
    else if (disp32) displacement = nextSigned(4);
  }
  store<u32>(op, base, OP_BASE);
  store<u32>(op, index, OP_INDEX);
  store<i32>(op, <i32>displacement, OP_DISP);
  store<u8>(op, <u8>(prefix & PREFIX_SEG ? segment : stack ? SS : DS), OP_SEG);
}

/**
 * Once the length is known: RIP-relative displacements, and whether the flat sum is the address. `next`: page offset behind the
 * instruction.
 */
function finishAddress(op: usize, mode: u32, addressSize: u32, next: u32, lea: bool, writes: bool): void {
  let slow: u32 = 0;
  if (load<u32>(op, OP_BASE) == <u32>(cpu + PAGE_BASE)) {
    const displacement = <i64>load<i32>(op, OP_DISP) + <i64>next;
    if (displacement <= i32.MAX_VALUE) store<i32>(op, <i32>displacement, OP_DISP);
    else slow = EA_NEXT | EA_SLOW;
  }
  if (mode != 2 || addressSize != 8) slow |= EA_SLOW;
  else if (!lea && slow == 0 && prefix & PREFIX_SEG && segment >= FS) {
    // A segment base takes the place of the index where there is none.
    if (load<u32>(op, OP_INDEX) == <u32>(cpu + ZERO)) store<u32>(op, <u32>(cpu + SEG_BASE + (segment << 3)), OP_INDEX);
    else slow |= EA_SLOW;
  }
  if (slow && writes) slow |= EA_WRITE;
  store<u8>(op, <u8>slow, OP_EA);
}
