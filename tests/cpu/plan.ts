/** A case in the making: what is known before its code is encoded, and the choice of memory operands. */
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import type { Choice, Memory } from './encode.ts';
import type { Patch } from './fixture.ts';
import { type Bits, DATA, DATA_END, GS_BASE, LOW, READ_ONLY, STACK } from './layout.ts';
import type { Random } from './state.ts';

/** Where a memory operand lies. */
export type Target = 'aligned' | 'any' | 'cross' | 'edge' | 'unmapped' | 'readonly' | 'noncanonical' | 'low';

export interface Plan {
  readonly row: Instruction;
  readonly bits: Bits;
  readonly size: 16 | 32 | 64;
  readonly random: Random;
  readonly target: Target;
  /** Linear address of the memory operand, or undefined in the register form. */
  address: number | undefined;
  /** Address size prefix. */
  addressPrefix: boolean;
  prefixes: number[];
  reg: number;
  /** Register of ModRM.rm in the register form. */
  rm: number;
  forceRex: boolean;
  wide: boolean;
  idle66: boolean;
  immediates: { value: bigint; size: number }[];
  /** Values of general registers that the instruction depends on. */
  registers: Map<number, bigint>;
  rflags: bigint | undefined;
  patches: Patch[];
  ignored: { address: number; size: number }[];
  /** True when the address itself is the operand (LEA) and need not be mapped. */
  addressOnly: boolean;
}

const MASK64 = (1n << 64n) - 1n;
const SIZES: Record<string, number> = {
  b: 1,
  w: 2,
  d: 4,
  q: 8,
  dq: 16,
  ps: 16,
  pd: 16,
  ss: 4,
  sd: 8,
  pi: 8,
  m16: 2,
  m32: 4,
  m64: 8,
  m80: 10,
};

/** Bytes of the row's memory operand; 0 when it has none. */
export function memorySize(row: Instruction, size: number): number {
  const operand = row.operands.find(({ text }) => /^[EMQW]|^m\d|^m$|\/M/.test(text));
  if (operand === undefined) return 0;
  const letters = /^[EMQW](\w*)$|\/M(\w+)$/.exec(operand.text);
  const type = letters === null ? operand.text : (letters[1] ?? letters[2] ?? '');
  switch (type) {
    case 'v':
      return size / 8;
    case 'z':
      return Math.min(size, 32) / 8;
    case 'y':
      return size === 64 ? 8 : 4;
    case 'a':
      return (size * 2) / 8;
    case 'p':
      return size / 8 + 2;
    default:
      return SIZES[type] ?? 8;
  }
}

/** An address for an operand of `bytes` bytes. */
export function place(target: Target, bytes: number, random: Random): number {
  const align = bytes >= 64 ? 64 : bytes === 10 ? 16 : Math.max(1, bytes);
  switch (target) {
    case 'aligned':
      return DATA + 0x400 + align * random.below(Math.max(2, Math.floor(0x400 / align)));
    case 'any':
      return DATA + 0x200 + random.below(0xc00);
    case 'cross':
      return DATA + 0x1000 - (bytes < 2 ? 1 : 1 + random.below(bytes - 1));
    case 'edge':
      return DATA_END - (bytes < 2 ? 0 : 1 + random.below(bytes - 1));
    case 'unmapped':
      return DATA_END + align * random.below(8);
    case 'readonly':
      return READ_ONLY + align * random.below(16);
    case 'low':
      return LOW + 0x400 + align * random.below(8);
    case 'noncanonical':
      return Number.NaN;
  }
}

const NON_CANONICAL = [0x8000_0000_0000_0000n, 0x0000_8000_0000_0000n, 0xffff_7fff_ffff_fff0n, 0x1234_5678_9abc_def0n];

/** Address size in bits. */
export function addressBits({ bits, addressPrefix }: Plan): Bits {
  if (!addressPrefix) return bits;
  return bits === 32 ? 16 : 32;
}

/** 16-bit addresses reach only the low window. */
export function usesSmallAddresses(plan: Plan): boolean {
  return addressBits(plan) === 16;
}

/** Chooses an addressing form that reaches `plan.address` and sets the registers it needs. */
export function memoryForm(plan: Plan): Memory {
  const { random, bits } = plan;
  if (usesSmallAddresses(plan)) return form16(plan);
  const free = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].filter((r) => (r < 8 || bits === 64) && !plan.registers.has(r));
  const scale = random.below(4) as 0 | 1 | 2 | 3;
  let displacement = [0, random.below(256) - 128, (random.next() | 0) >> random.below(20)][random.below(3)] as number;
  let displacementSize: 0 | 1 | 2 | 4 = displacement === 0 ? 0 : displacement >= -128 && displacement < 128 ? 1 : 4;
  const kind = random.below(10);
  if (plan.addressOnly) {
    const base = kind === 0 && bits === 64 ? 'rip' : undefined;
    if (kind < 2) return { base, scale: 0, displacement: random.next() | 0, displacementSize: 4 };
  }
  let segment = 0;
  if (bits === 64 && random.chance(6) && !plan.addressOnly && plan.target !== 'noncanonical') {
    plan.prefixes.push(0x65);
    segment = GS_BASE;
  } else if (random.chance(4)) plan.prefixes.push(random.pick(bits === 64 ? [0x26, 0x2e, 0x36, 0x3e] : [0x26, 0x36, 0x3e]));
  const noncanonical = plan.target === 'noncanonical';
  const goal = (noncanonical ? random.pick(NON_CANONICAL) : BigInt(plan.address ?? 0)) - BigInt(segment);
  if (!noncanonical && !plan.addressOnly) {
    // Made relative once the length is known.
    if (kind === 0 && bits === 64) return { base: 'rip', scale: 0, displacement: Number(goal), displacementSize: 4 };
    if (kind === 1) return { scale: 0, displacement: Number(goal), displacementSize: 4 };
    if (kind === 2 && !plan.registers.has(4) && Math.abs(Number(goal) - STACK) < 0x10000) {
      return { base: 4, scale: 0, displacement: Number(goal) - STACK, displacementSize: 4 };
    }
    if (kind === 3) {
      const index = random.pick(free);
      const value = random.below(0x10000);
      plan.registers.set(index, BigInt(value));
      return { index, scale, displacement: Number(goal) - (value << scale), displacementSize: 4 };
    }
  }
  const base = random.pick(free);
  const others = free.filter((r) => r !== base);
  const index = random.chance(40) ? random.pick(others) : undefined;
  if (displacementSize === 0 && (base & 7) === 5) {
    displacementSize = 1;
    displacement = 0;
  }
  if (plan.addressOnly) return { base, index, scale, displacement, displacementSize };
  let offset = 0n;
  if (index !== undefined) {
    const value = random.chance(30) ? BigInt.asUintN(bits, -BigInt(random.below(5000))) : BigInt(random.below(0x10000));
    plan.registers.set(index, value);
    offset = value << BigInt(scale);
  }
  const wanted = goal - offset - BigInt(displacement);
  // With 32-bit addresses in 64-bit mode only the low halves count.
  const noise = bits === 64 && plan.addressPrefix ? BigInt(random.next()) << 32n : 0n;
  plan.registers.set(base, (bits !== 64 || plan.addressPrefix ? BigInt.asUintN(32, wanted) | noise : wanted) & MASK64);
  return { base, index, scale, displacement, displacementSize };
}

/** 16-bit addressing forms, ModRM.rm 0..7, and 8 for disp16 alone (Intel SDM vol. 2, table 2-1). */
const FORMS16: readonly (readonly number[])[] = [[3, 6], [3, 7], [5, 6], [5, 7], [6], [7], [5], [3], []];

function form16(plan: Plan): Memory {
  const { random } = plan;
  const goal = plan.address ?? 0;
  const form = random.pick(FORMS16.map((_, i) => i).filter((i) => (FORMS16[i] as readonly number[]).every((r) => !plan.registers.has(r))));
  const registers = FORMS16[form] as readonly number[];
  if (form === 8) return { scale: 0, displacement: goal, displacementSize: 2, form16: 8 };
  const displacementSize = random.pick(form === 6 ? ([1, 2] as const) : ([0, 1, 2] as const));
  const displacement = displacementSize === 0 ? 0 : displacementSize === 1 ? random.below(256) - 128 : random.below(0x10000);
  const rest = goal - displacement;
  const first = registers.length === 2 ? random.below(0x10000) : rest;
  const noise = (value: number): bigint => BigInt(((value & 0xffff) | (random.below(4) << 16)) >>> 0);
  plan.registers.set(registers[0] as number, noise(first));
  if (registers.length === 2) plan.registers.set(registers[1] as number, noise(rest - first));
  return { scale: 0, displacement, displacementSize, form16: form };
}

export function choiceOf(plan: Plan, rm: number | Memory): Choice {
  const { bits, size, prefixes, reg, immediates, forceRex, wide, idle66, addressPrefix } = plan;
  return { bits, size, prefixes: addressPrefix ? [...prefixes, 0x67] : prefixes, reg, rm, immediates, forceRex, wide, idle66 };
}
