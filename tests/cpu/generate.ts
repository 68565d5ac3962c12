/**
 * Cases for one row of the opcode table: every operand size, register and memory forms, edge operands, faults.
 * Deterministic: the row's text and `salt` seed everything.
 */
import type { Family, Instruction } from '../../src/engine/soft/isa/row.ts';
import { encode, hasVariableSize, type Memory, sizesOf } from './encode.ts';
import { type Case, newCase } from './fixture.ts';
import { type Bits, DATA, DATA_END, LOW, START, STACK } from './layout.ts';
import { addressBits, choiceOf, memoryForm, memorySize, type Plan, place, type Target, usesSmallAddresses } from './plan.ts';
import { prepare } from './specials.ts';
import { hasSystemSize, isUserVisible, prepareSystem } from './specials-system.ts';
import { integer, Random } from './state.ts';

export interface Form {
  name: string;
  cases: Case[];
}

/** FNV-1a. */
export function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

/** The rest of the system family has its own conformance tests. */
export function isGenerated(row: Instruction): boolean {
  return row.family !== 'system' || isUserVisible(row);
}

/** Results that the manual leaves undefined and processors do not agree on (Intel SDM vol. 2, at the instruction), by mnemonic. */
function isUndefined(row: Instruction, bits: Bits, size: number): boolean {
  if (row.mnemonic === 'BSWAP') return size === 16;
  if (row.mnemonic === 'MOVSXD') return size === 16; // reads 16 bits on Intel, 32 on AMD
  if (row.family === 'system') return !hasSystemSize(row, size);
  // A near branch with 66 in 64-bit mode: Intel ignores the prefix, AMD truncates RIP. In 32-bit code it leads to 16-bit addresses.
  return size === 16 && bits === 64 && /^(J|CALL|RET|LOOP)/.test(row.mnemonic);
}

/** All forms of a row with their cases. `more` multiplies the number of cases. */
export function generate(row: Instruction, salt = '', more = 1): Form[] {
  const forms: Form[] = [];
  if (!isGenerated(row)) return forms;
  for (const bits of [64, 32, 16] as const) {
    if (bits === 16 && row.family === 'system') continue; // its conformance tests start in real mode
    if (bits === 64 ? row.attributes.invalid64 : row.attributes.only64) continue;
    for (const size of sizesOf(row, bits)) {
      if (isUndefined(row, bits, size)) continue;
      for (const [kind, targets] of kinds(row, bits, size)) {
        const name = `${bits}-bit code, ${hasVariableSize(row) ? `${size}-bit operand, ` : ''}${kind}`;
        const random = new Random(hash(`${row.row[0]}|${row.row[1]}|${name}|${salt}`));
        const repeat = Math.ceil(weight(row, bits, kind) * more);
        const cases = targets.flatMap((target) => Array.from({ length: repeat }, () => build(row, bits, size, kind, target, random)));
        forms.push({ name, cases: cases.filter((test) => test !== undefined) });
      }
    }
  }
  return forms;
}

type Kind = 'register' | 'memory' | 'memory fault' | 'lock' | 'bad lock' | 'implied' | 'stack';

function kinds(row: Instruction, bits: Bits, size: number): [Kind, Target[]][] {
  const bytes = memorySize(row, size);
  if (row.attributes.cpl0) return [[row.place === 'memory' ? 'memory' : 'implied', ['aligned']]];
  if (!row.hasModrm || row.exactModrm !== undefined) {
    const list: [Kind, Target[]][] = [['implied', ['aligned', 'aligned']]];
    if (usesStack(row)) list.push(['stack', ['any', 'any']]);
    return list;
  }
  const list: [Kind, Target[]][] = [];
  const amdRefuses = row.map === 1 && row.opcode === 0x0d; // PREFETCHW of a register: #UD on AMD
  const hasRegister = row.place !== 'memory' && !row.operands.some(({ text }) => text[0] === 'M');
  if (hasRegister && !amdRefuses) list.push(['register', ['aligned', 'aligned']]);
  if (row.place !== 'register' && bytes > 0) {
    list.push(['memory', bytes === 1 ? ['any', 'any'] : ['aligned', 'any', 'cross']]);
    const faults: Target[] = bytes > 1 ? ['edge', 'unmapped', 'readonly'] : ['unmapped', 'readonly'];
    if (bits === 64) faults.push('noncanonical');
    // ARPL that changes nothing writes on Intel, does not on AMD; what LAR and others read there would be any selector of the host.
    const noReadOnly = /^(ARPL|LAR|LSL|VERR|VERW|L[DEFGS]S)$/.test(row.mnemonic) || row.operands[0]?.text === 'Sw';
    list.push(['memory fault', noReadOnly ? faults.filter((target) => target !== 'readonly') : faults]);
    if (row.attributes.lock) list.push(['lock', ['aligned', 'any']]);
    else if (row.family === 'integer') list.push(['bad lock', ['aligned']]);
    if (usesStack(row)) list.push(['stack', ['any']]);
  }
  return list;
}

function usesStack(row: Instruction): boolean {
  // A POP of a segment register from an odd place would load whatever lies there.
  return /^(PUSH|POP|CALL|RET$|ENTER|LEAVE)/.test(row.mnemonic) && !(row.family === 'system' && row.mnemonic === 'POP');
}

/** Cases per target. */
function weight(row: Instruction, bits: Bits, kind: Kind): number {
  if (row.attributes.cpl0) return 1;
  if (kind === 'memory fault' || kind === 'bad lock') return 1;
  if (kind === 'lock') return 2;
  const rare = bits === 16 || (bits === 32 && !row.attributes.invalid64);
  if (kind === 'stack') return rare ? 2 : 5;
  const string = /^(MOVS|CMPS|STOS|LODS|SCAS)$/.test(row.mnemonic) && row.family === 'integer';
  const base = kind === 'memory' ? 2 : string ? 16 : row.family === 'x87' ? (row.operands.length === 0 ? 20 : 8) : 4;
  return rare ? Math.ceil(base / 4) : base;
}

function build(row: Instruction, bits: Bits, size: 16 | 32 | 64, kind: Kind, target: Target, random: Random): Case | undefined {
  const memory =
    ['memory', 'memory fault', 'lock', 'bad lock'].includes(kind) || (kind === 'stack' && row.place !== 'register' && row.hasModrm);
  const bytes = needed(row, size);
  const registers = bits === 64 ? 16 : 8;
  const vector = row.family === 'x87' || row.family === 'sse';
  const environment = /^(FLDENV|FRSTOR|FNSTENV|FNSAVE)$/.test(row.mnemonic);
  const plan: Plan = {
    row,
    bits,
    size,
    random,
    target,
    address: undefined,
    addressPrefix: bits === 64 ? random.chance(8) : random.chance(15),
    prefixes: [],
    reg: random.below(registers),
    rm: random.below(registers),
    forceRex: bits === 64 && random.chance(40),
    wide: bits === 64 && !hasVariableSize(row) && /^(F?XSAVE|F?XRSTOR|CMPXCHG)/.test(row.mnemonic) && random.chance(50),
    idle66:
      !hasVariableSize(row) &&
      row.prefix === 'any' &&
      !(row.attributes.end && bits === 64) &&
      (environment ? random.chance(30) : !vector && random.chance(6)),
    immediates: immediatesOf(row, bits, size, random),
    registers: new Map(),
    rflags: undefined,
    patches: [],
    ignored: [],
    addressOnly: /^(LEA|NOP|PREFETCH)/.test(row.mnemonic),
  };
  if (row.attributes.cpl0) Object.assign(plan, { addressPrefix: false, idle66: false });
  if (memory) plan.address = place(usesSmallAddresses(plan) ? 'low' : target, bytes, random);
  if (target === 'noncanonical') plan.address = DATA;
  if (memory && !plan.addressOnly && target !== 'readonly') plan.patches.push({ address: plan.address as number, bytes: 'operands' });
  if (kind === 'lock' || kind === 'bad lock') plan.prefixes.push(0xf0);
  if (kind === 'stack') plan.registers.set(4, oddStack(bits, row.family, random));
  moffs(plan);
  if (row.family === 'system') prepareSystem(plan);
  else prepare(plan);
  let rm: number | Memory = plan.rm;
  if (memory) rm = memoryForm(plan);
  return finish(plan, rm);
}

/** FXSAVE and XSAVE images are 64-byte aligned and 576 bytes, x87 environments up to 108. */
function needed(row: Instruction, size: number): number {
  return row.operands.some(({ text }) => text === 'm')
    ? /X(SAVE|RSTOR)/.test(row.mnemonic)
      ? 576
      : 108
    : row.mnemonic === 'CMPXCHG8B'
      ? 16
      : memorySize(row, size);
}

/** Stack pointers that cross a page, run off the mapped pages or are not canonical. */
function oddStack(bits: Bits, family: Family, random: Random): bigint {
  const page = DATA + 0x1000;
  const edges = [page + random.below(16), page - random.below(9), DATA_END - random.below(9), DATA + random.below(9)];
  const list = [...edges, DATA + 0x1803, DATA + 0x1901];
  const noncanonical = bits === 64 && family !== 'system' && random.chance(15);
  return noncanonical ? random.pick([0x8000_0000_0000n, 0x8000_0000_0000_0000n, 0x8000_0000_0004n]) : BigInt(random.pick(list));
}

function immediatesOf(row: Instruction, bits: Bits, size: number, random: Random): Plan['immediates'] {
  const list: Plan['immediates'] = [];
  for (const { kind, size: type } of row.operands) {
    if (kind === 'I') {
      const width = type === 'b' ? 1 : type === 'w' ? 2 : type === 'v' ? size / 8 : Math.min(size / 8, 4);
      const anything = random.chance(50) ? integer(random) : random.word();
      list.push({ value: /^RETF?$/.test(row.mnemonic) ? anything & 63n : anything, size: width });
    } else if (kind === 'J') {
      const near = type === 'b' || random.chance(60);
      const far = random.chance(10) ? 0x2000_0000 : random.below(0x700);
      const distance = near ? 16 + random.below(100) : far + 16;
      const width = type === 'b' ? 1 : bits !== 64 && size === 16 ? 2 : 4;
      list.push({ value: BigInt(random.chance(50) ? distance : -distance - 16), size: width });
    }
  }
  return list;
}

/** MOV to and from an absolute address. */
function moffs(plan: Plan): void {
  if (!plan.row.operands.some(({ kind }) => kind === 'O')) return;
  const width = addressBits(plan) / 8;
  const address = width === 2 ? LOW + 0x100 : plan.random.chance(20) ? DATA_END - 1 : DATA + 0x200 + plan.random.below(0x1c00);
  plan.patches.push({ address, bytes: 'operands' });
  plan.immediates = [{ value: BigInt(address), size: width }];
}

function finish(plan: Plan, rm: number | Memory): Case {
  let choice = choiceOf(plan, rm);
  const at = plan.random.chance(3) && !/^(J|CALL|LOOP)/.test(plan.row.mnemonic) ? START + 0x800 - 1 - plan.random.below(4) : START;
  if (typeof rm === 'object' && rm.base === 'rip' && !plan.addressOnly) {
    const length = encode(plan.row, choice).length;
    choice = { ...choice, rm: { ...rm, displacement: rm.displacement - at - length } };
  }
  const test = newCase(plan.bits, encode(plan.row, choice), profileOf(plan.row), plan.random.below(1_000_000));
  test.at = at;
  test.registers = [...plan.registers].sort(([a], [b]) => a - b).filter(([index, value]) => index !== 4 || value !== BigInt(STACK));
  if (plan.rflags !== undefined) test.rflags = plan.rflags;
  test.patches = plan.patches;
  test.ignored = plan.ignored;
  return test;
}

/** Kinds of values that suit the row; see state.ts. */
function profileOf(row: Instruction): string {
  if (row.family === 'integer' || row.family === 'system') return 'gi';
  const text = row.operands.map((operand) => operand.text).join(' ');
  if (row.family === 'x87') {
    if (row.mnemonic.startsWith('FI')) return 'xi';
    if (row.mnemonic === 'FBLD') return 'xb';
    return text.includes('m80') ? 'xt' : text.includes('m64') ? 'xd' : 'xs';
  }
  // XSAVEOPT need not write what is in its initial state: leave nothing in it.
  if (row.mnemonic === 'XSAVEOPT') return 'ns';
  if (/^(FX|XSAVE|XR)/.test(row.mnemonic)) return 'xi';
  const convert = /^CVTT?(P|S)([SDI])/.exec(row.mnemonic);
  const letter =
    convert !== null && /^CVTT?(PI|SI|DQ)/.test(row.mnemonic)
      ? 'q'
      : convert !== null
        ? convert[2] === 'S'
          ? 's'
          : 'd'
        : /[VWUM](ps|ss)/.test(text)
          ? 's'
          : /[VWUM](pd|sd)/.test(text)
            ? 'd'
            : 'q';
  const second = letter === 'q' ? 'i' : letter;
  if (/\b[PQN](q|d|pi)?\b/.test(text) || row.mnemonic === 'EMMS') return (letter === 'q' ? 'm' : letter === 's' ? 'n' : 'o') + second;
  return letter + second;
}
