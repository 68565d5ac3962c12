/**
 * Short programs of several instructions: what single instructions cannot show. Flags left by one instruction and read by the next in every
 * combination (engines keep flags lazily), loops, branches inside a page, faults in the middle of a block.
 */
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import { encode, little, sizesOf } from './encode.ts';
import { type Case, newCase } from './fixture.ts';
import { hash } from './generate.ts';
import { type Bits, CODE, DATA, DATA_END } from './layout.ts';
import { integer, Random } from './state.ts';

const [CF, PF, AF, ZF, SF, OF] = [0x1, 0x4, 0x10, 0x40, 0x80, 0x800];
const ALL = CF | PF | AF | ZF | SF | OF;

/** Which arithmetic flags an instruction reads, defines and leaves undefined (Intel SDM vol. 1, appendix A). */
interface Effect {
  reads: number;
  defines: number;
  leavesOpen: number;
}

const CONDITION_READS: Record<string, number> = {
  O: OF,
  NO: OF,
  B: CF,
  NB: CF,
  Z: ZF,
  NZ: ZF,
  BE: CF | ZF,
  NBE: CF | ZF,
  S: SF,
  NS: SF,
  P: PF,
  NP: PF,
  L: SF | OF,
  NL: SF | OF,
  LE: SF | OF | ZF,
  NLE: SF | OF | ZF,
};
const LOGIC: Effect = { reads: 0, defines: ALL & ~AF, leavesOpen: AF };
const FULL: Effect = { reads: 0, defines: ALL, leavesOpen: 0 };
const CARRY: Effect = { reads: CF, defines: ALL, leavesOpen: 0 };
const NONE: Effect = { reads: 0, defines: 0, leavesOpen: 0 };
const EFFECTS: Record<string, Effect> = {
  ADD: FULL,
  SUB: FULL,
  CMP: FULL,
  NEG: FULL,
  XADD: FULL,
  CMPXCHG: FULL,
  POPCNT: FULL,
  ADC: CARRY,
  SBB: CARRY,
  AND: LOGIC,
  OR: LOGIC,
  XOR: LOGIC,
  TEST: LOGIC,
  INC: { ...FULL, defines: ALL & ~CF },
  DEC: { ...FULL, defines: ALL & ~CF },
  SHL: LOGIC,
  SHR: LOGIC,
  SAR: LOGIC,
  ROL: { ...NONE, defines: CF | OF },
  ROR: { ...NONE, defines: CF | OF },
  RCL: { reads: CF, defines: CF | OF, leavesOpen: 0 },
  RCR: { reads: CF, defines: CF | OF, leavesOpen: 0 },
  MUL: { reads: 0, defines: CF | OF, leavesOpen: SF | ZF | AF | PF },
  IMUL: { reads: 0, defines: CF | OF, leavesOpen: SF | ZF | AF | PF },
  BT: { reads: 0, defines: CF, leavesOpen: OF | SF | AF | PF },
  BTS: { reads: 0, defines: CF, leavesOpen: OF | SF | AF | PF },
  BSF: { reads: 0, defines: ZF, leavesOpen: ALL & ~ZF },
  STC: { ...NONE, defines: CF },
  CLC: { ...NONE, defines: CF },
  CMC: { reads: CF, defines: CF, leavesOpen: 0 },
  SAHF: { ...NONE, defines: ALL & ~OF },
  LAHF: { ...NONE, reads: ALL & ~OF },
  PUSHF: { ...NONE, reads: ALL },
  MOV: NONE,
  MOVZX: NONE,
  MOVSX: NONE,
  LEA: NONE,
  NOT: NONE,
  XCHG: NONE,
  PUSH: NONE,
  POP: NONE,
  CBW: NONE,
  CWD: NONE,
  BSWAP: NONE,
};

interface Piece {
  bytes: number[];
  effect: Effect;
}

const RBX = 3,
  RSP = 4,
  RCX = 1;

/** One instruction on registers or on the operands around DATA, which RBX points to; RBX, RCX and RSP are never written. */
function piece(row: Instruction, bits: Bits, random: Random): Piece | undefined {
  const condition = /^(SET|CMOV)(.+)$/.exec(row.mnemonic);
  const effect = condition ? { ...NONE, reads: CONDITION_READS[condition[2] as string] as number } : EFFECTS[row.mnemonic];
  if (effect === undefined || row.operands.some(({ kind, text }) => text === 'CL' || kind === 'O')) return undefined;
  if (bits === 64 ? row.attributes.invalid64 : row.attributes.only64) return undefined;
  const size = random.pick(sizesOf(row, bits).filter((s) => !(row.mnemonic === 'BSWAP' && s === 16)));
  const registers = (bits === 64 ? [0, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] : [0, 2]).filter((r) => r !== RSP);
  const shifted = /^(SHL|SHR|SAR|ROL|ROR|RCL|RCR)$/.test(row.mnemonic);
  const byteImmediate = shifted ? 1n : undefined; // a count of one defines OF
  const immediates = row.operands
    .filter(({ kind }) => kind === 'I')
    .map(({ size: type }) => ({
      value: byteImmediate ?? integer(random),
      size: type === 'b' ? 1 : type === 'w' ? 2 : type === 'v' ? size / 8 : Math.min(4, size / 8),
    }));
  const memory = row.hasModrm && row.place !== 'register' && (row.place === 'memory' || random.chance(30));
  if (memory && (row.mnemonic === 'POP' || (row.mnemonic.startsWith('BT') && row.operands[1]?.kind === 'G'))) return undefined;
  const rm = memory
    ? { base: RBX, scale: 0 as const, displacement: 8 * random.below(8), displacementSize: 1 as const }
    : random.pick(registers);
  const choice = { bits, size, prefixes: [], reg: random.pick(registers), rm, immediates, forceRex: bits === 64 };
  return { bytes: encode(row, choice), effect };
}

/** `count` programs. */
export function sequences(table: readonly Instruction[], salt: string, count: number): Case[] {
  const random = new Random(hash(`sequences|${salt}`));
  const rows = table.filter((row) => row.family === 'integer' && row.attributes.cpuid === undefined);
  return Array.from({ length: count }, () => program(rows, random));
}

function program(rows: readonly Instruction[], random: Random): Case {
  const bits = random.chance(75) ? 64 : 32;
  const loop = random.chance(20);
  const code: number[] = [];
  let open = 0;
  const length = 2 + random.below(6);
  if (loop) code.push(0x39, 0xc0); // CMP EAX, EAX: every flag is defined at the head
  for (let n = 0; n < length; ) {
    const next = random.chance(25) ? jump(rows, bits, open, random) : piece(random.pick(rows), bits, random);
    if (next === undefined || (next.effect.reads & open) !== 0) continue;
    open = (open & ~next.effect.defines) | next.effect.leavesOpen;
    code.push(...next.bytes);
    n++;
  }
  if (loop) {
    const back = code.length + 4;
    code.push(0xff, 0xc9, 0x75, 256 - back); // DEC ECX; JNZ
    open &= CF;
  } else if (random.chance(15)) code.push(0x8b, 0x04, 0x25, ...little(BigInt(DATA_END), 4)); // faults: MOV EAX, [DATA_END]
  const test = newCase(bits, code, 'gi', random.below(1_000_000));
  test.registers = [
    [RCX, BigInt(1 + random.below(4))],
    [RBX, BigInt(DATA + 0x800)],
  ];
  test.patches = [{ address: DATA + 0x800, bytes: 'operands' }];
  test.undefinedFlags = open;
  if (random.chance(10)) test.at = CODE + 0x1000 - random.below(code.length); // across a page
  return test;
}

/** Jcc over one instruction that leaves flags alone. */
function jump(rows: readonly Instruction[], bits: Bits, open: number, random: Random): Piece | undefined {
  const names = Object.keys(CONDITION_READS);
  const index = random.below(names.length);
  const over = piece(random.pick(rows), bits, random);
  if (over === undefined || over.effect.defines !== 0 || over.effect.leavesOpen !== 0 || (over.effect.reads & open) !== 0) return undefined;
  const reads = CONDITION_READS[names[index] as string] as number;
  return { bytes: [0x70 + index, over.bytes.length, ...over.bytes], effect: { ...NONE, reads } };
}
