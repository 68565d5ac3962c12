/**
 * Random byte strings as code: up to 15 uniform bytes; prefixes, REX and opcode at random; encodings of the opcode table with bits and bytes
 * changed, prefixes added, cut short; and several of these in a row. Which of them may run is decided elsewhere (admission.ts).
 */
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import { type Case, newCase } from './fixture.ts';
import { generate, hash } from './generate.ts';
import { decode } from './iced.ts';
import { CODE, CODE_END, DATA, isCanonical, START, STACK } from './layout.ts';
import { LEGACY_PREFIXES } from './match.ts';
import { Random } from './state.ts';

/** Bytes that a CPU takes for one instruction at most (Intel SDM vol. 2, 2.3.11). */
const LONGEST = 15;
/** Rows of the opcode table whose encodings a batch starts from. */
const ROWS = 40;
const RSP = 4;
const PROFILES = ['qi', 'qi', 'ss', 'dd', 'xs', 'xd', 'xt', 'xb', 'mi', 'ns', 'od'] as const;
const TF = 0x100;

/** `count` cases in 64-bit code, the same for the same table and salt. */
export function byteStrings(table: readonly Instruction[], salt: string, count: number): Case[] {
  const random = new Random(hash(`bytes|${salt}`));
  const known: Case[] = [];
  for (let n = 0; n < ROWS; n++) {
    for (const form of generate(random.pick(table), salt)) known.push(...form.cases.filter(({ bits }) => bits === 64));
  }
  return Array.from({ length: count }, () => (random.chance(20) ? several(known, random) : single(known, random)));
}

/** A case with one instruction: what lies behind it is cut off. Bytes that are none stay as they are. */
function single(known: readonly Case[], random: Random): Case {
  const test = anything(known, random);
  test.code = firstOf(test);
  return place(test, random);
}

/** The first instruction, whose last bytes may be the INT3 that lie behind the string; the whole string where there is none. */
function firstOf({ bits, code, at }: Case): Uint8Array {
  const bytes = Uint8Array.from({ length: LONGEST }, (_, i) => code[i] ?? 0xcc);
  const { valid, length } = decode(bits, bytes, at);
  return valid ? bytes.slice(0, length) : code;
}

/** Two to five instructions, with the operands of the first known one. */
function several(known: readonly Case[], random: Random): Case {
  const parts = Array.from({ length: 2 + random.below(4) }, () => {
    const part = random.chance(60) ? copy(random.pick(known)) : anything(known, random);
    return { ...part, code: firstOf(part) };
  });
  const first = parts.find(({ patches }) => patches.length > 0) ?? (parts[0] as Case);
  return place({ ...first, code: Uint8Array.from(parts.flatMap(({ code }) => [...code])) }, random);
}

function anything(known: readonly Case[], random: Random): Case {
  const kind = random.below(4);
  if (kind < 2) return mutated(random.pick(known), random);
  const code = kind === 2 ? Array.from({ length: LONGEST }, () => random.below(256)) : shaped(random);
  const test = newCase(64, code.slice(0, LONGEST), random.pick(PROFILES), random.below(1_000_000));
  // Wild addresses fault: most registers point to data.
  for (let register = 0; register < 16; register++) {
    if (register !== RSP && random.chance(70)) test.registers.push([register, BigInt(DATA + 0x400 + 8 * random.below(0x200))]);
  }
  if (random.chance(10)) test.registers.push([RSP, BigInt(STACK + random.below(0x500) - 0x100)]);
  test.patches.push({ address: DATA + 0x400 + 64 * random.below(0x40), bytes: 'operands' });
  return test;
}

/** Prefixes, REX, an opcode of any map, and anything behind it. */
function shaped(random: Random): number[] {
  const code = Array.from({ length: random.pick([0, 0, 0, 1, 1, 2, 3, 12]) }, () => random.pick(LEGACY_PREFIXES) as number);
  if (random.chance(40)) code.push(0x40 + random.below(16));
  code.push(...random.pick([[], [], [], [0x0f], [0x0f], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]]));
  while (code.length < LONGEST) code.push(random.below(256));
  return code;
}

function copy(test: Case): Case {
  return { ...test, at: START, registers: [...test.registers], patches: [...test.patches], ignored: [], undefinedFlags: 0 };
}

function mutated(source: Case, random: Random): Case {
  let code = [...source.code];
  for (let changes = 1 + random.below(3); changes > 0; changes--) {
    const at = random.below(code.length);
    switch (random.below(6)) {
      case 0:
        code[at] = (code[at] as number) ^ (1 << random.below(8));
        break;
      case 1:
        code[at] = random.below(256);
        break;
      case 2:
        code.unshift(random.pick(LEGACY_PREFIXES));
        break;
      case 3:
        code.splice(random.below(Math.min(3, code.length)), 0, 0x40 + random.below(16));
        break;
      case 4:
        code.splice(at, 0, random.below(256));
        break;
      default:
        if (code.length > 1) code = code.slice(0, -1);
    }
  }
  return { ...copy(source), code: Uint8Array.from(code.slice(0, LONGEST)) };
}

/** Where the code lies, and flags: sometimes across a page or cut by the end of what is mapped, sometimes single-stepped. */
function place(test: Case, random: Random): Case {
  const { length } = test.code;
  const where = random.below(12);
  const at = where === 0 ? CODE_END - 1 - random.below(length) : where === 1 ? CODE + 0x1000 - random.below(length) : START;
  const flags = random.chance(8) ? 0x202 | (random.next() & 0xcd5) | (random.chance(40) ? TF : 0) : undefined;
  return {
    ...test,
    // Any instruction may come of it: all registers take part.
    profile: test.profile.replace(/^g/, 'q'),
    at,
    code: test.code.slice(0, CODE_END - at),
    // Not every hypervisor enters user code whose stack pointer is not canonical.
    registers: test.registers.filter(([register, value]) => register !== RSP || isCanonical(value)),
    rflags: flags === undefined ? test.rflags : BigInt(flags),
  };
}
