/**
 * Which byte strings may run on the host's CPU, and which of those have one right outcome. Decided from the bytes alone, by an independent
 * disassembler: every instruction that can be reached from the first byte, by falling through and by direct branches, must pass.
 */
import type { Instruction as Row } from '../../src/engine/soft/isa/row.ts';
import { isComparedLoosely } from './compare.ts';
import type { Case } from './fixture.ts';
import { type Decoded, decode } from './iced.ts';
import { WINDOWS, windowAt } from './layout.ts';
import { type Encoding, split } from './match.ts';

export type Verdict =
  /** Runs on both. `row`: of the only instruction; undefined for several, and for bytes that are none. */
  | { kind: 'compare'; row: Row | undefined; instructions: number }
  /** Belongs to a feature that the engine does not announce: the engine must refuse it, whatever the host does. */
  | { kind: 'refuse' }
  | { kind: 'leave out'; reason: string };

/** What both sides announce (features.ts), and the engine's row for some bytes (match.ts). */
export interface Sides {
  engine: ReadonlySet<string>;
  host: ReadonlySet<string>;
  rowOf: (bits: Case['bits'], code: Uint8Array) => Row | undefined;
}

type Exclusion = readonly [reason: string, matches: (decoded: Decoded, prefixes: readonly number[], row: Row | undefined) => boolean];

const mnemonics =
  (names: RegExp) =>
  ({ mnemonic }: Decoded): boolean =>
    names.test(mnemonic);

const repeats = (prefixes: readonly number[]): boolean => prefixes.includes(0xf2) || prefixes.includes(0xf3);

const isNearBranch = (row: Row | undefined): boolean => row?.attributes.forced64 === true && row.attributes.end;

const isControlMove = (row: Row | undefined): boolean => row?.operands.some(({ kind }) => kind === 'C') === true;

/** Everything that is left out for what it is; the first that matches gives the reason. */
const EXCLUSIONS: readonly Exclusion[] = [
  // What enters the host's kernel, or is answered by it in the CPU's place
  ['a system call', mnemonics(/^(Syscall|Sysenter|Sysretq?|Sysexitq?)$/)],
  ['INT n other than 3 and 4: gates of the host', ({ mnemonic, immediate8 }) => mnemonic === 'Int' && immediate8 !== 3 && immediate8 !== 4],
  ['UMIP: Linux answers in the place of the CPU', mnemonics(/^(Sgdt|Sidt|Sldt|Str|Smsw)$/)],
  ['INT1: under a hypervisor its RIP may be wrong', mnemonics(/^Int1$/)],
  // What differs by nature
  ['time, counters, random numbers', mnemonics(/^(Rdtscp?|Rdpmc|Rdrand|Rdseed)$/)],
  ['the identity of the CPU', mnemonics(/^(Cpuid|Xgetbv|Rdpid)$/)],
  ['XCR0 has more parts on the host', mnemonics(/^(Xsave|Xrstor)/)],
  ['descriptors of the host', mnemonics(/^(Lar|Lsl|Verr|Verw|L[defgs]s|Retf|Iret[dq]?)$/)],
  ['descriptors of the host', ({ code }) => /^(Mov_Sreg_|Pop[wdq]_[DEFGS]S$|(Jmp|Call)_(m16|ptr))/.test(code)],
  ['CR4.FSGSBASE is as the host has it', mnemonics(/^(Rd|Wr)[fg]sbase$/)],
  // What the manuals leave open (Intel SDM vol. 2, at the instruction)
  ['undefined: BSWAP of 16 bits', ({ code }) => code === 'Bswap_r16'],
  ['undefined: MOVSXD of 16 bits', ({ code }) => code === 'Movsxd_r16_rm16'],
  [
    'undefined: SHLD and SHRD of 16 bits by more than 16',
    ({ code, immediate8 }) => /^Sh[lr]d_rm16/.test(code) && (code.endsWith('CL') || (immediate8 & 31) > 16),
  ],
  ['VERW with LOCK: AMD executes it', (_, prefixes, row) => row?.mnemonic === 'VERW' && prefixes.includes(0xf0)],
  ['MOV CR0 with LOCK: CR8 on AMD (APM vol. 3, MOV CRn)', (_, prefixes, row) => isControlMove(row) && prefixes.includes(0xf0)],
  ['LOOPcc with REP: reserved, AMD takes it for the condition', ({ mnemonic }, prefixes) => /^Loop/.test(mnemonic) && repeats(prefixes)],
  ['near branch with 66: AMD truncates RIP, Intel does not', (_, prefixes, row) => isNearBranch(row) && prefixes.includes(0x66)],
];

/** They store the x87 last-instruction pointers (README.md), and reserved bytes that not every CPU leaves alone. */
const STORES_IMAGE = mnemonics(/^(Fnstenv|Fnsave|Fxsave(64)?)$/);

/** Decides. Says in `test` what is not compared: memory behind a stored image, flags that several instructions leave undefined. */
export function admit(test: Case, sides: Sides): Verdict {
  const bytes = withSurroundings(test);
  const rows: (Row | undefined)[] = [];
  const pending = new Set([0]);
  // All branches lead ahead, so that an instruction comes behind whatever may run before it.
  while (pending.size > 0) {
    const start = Math.min(...pending);
    pending.delete(start);
    const code = bytes.subarray(start, start + 15);
    const row = sides.rowOf(test.bits, code);
    const decoded = decode(test.bits, code, test.at + start);
    const verdict = judge(decoded, code, row, test, sides);
    if (verdict !== undefined) return verdict.kind === 'refuse' && rows.length > 0 ? leaveOut('a feature that the engine lacks') : verdict;
    rows.push(row);
    if ((decoded.reads & test.undefinedFlags) !== 0) return leaveOut('reads a flag that another left undefined');
    test.undefinedFlags |= decoded.leavesUndefined;
    if (STORES_IMAGE(decoded)) test.ignored = WINDOWS.map(({ base, size }) => ({ address: base, size }));
    for (const next of successors(decoded, start, test)) {
      if (next <= start) return leaveOut('a branch back: may not end');
      pending.add(next);
    }
  }
  if (rows.length > 1) {
    const all = rows.filter((row) => row !== undefined);
    if (all.some(isComparedLoosely)) return leaveOut('several instructions, one of them compared loosely');
    // The engine has none (README.md).
    if (all.some((row) => row.mnemonic === 'POPF')) return leaveOut('several instructions, POPF among them: alignment checks');
  }
  return { kind: 'compare', row: rows.length === 1 ? rows[0] : undefined, instructions: rows.length };
}

/** The string and what a CPU may fetch behind it: INT3, up to the end of the window. */
function withSurroundings({ code, at }: Case): Uint8Array {
  const end = WINDOWS[windowAt(at)];
  const bytes = new Uint8Array(Math.min(code.length + 15, end === undefined ? 0 : end.base + end.size - at)).fill(0xcc);
  bytes.set(code);
  return bytes;
}

/** Bytes that may follow an opcode: ModRM, SIB, displacement and immediate. */
const LONGEST_OPERANDS = 10;
/** First bytes of EVEX, XOP and VEX: up to three more and the opcode follow. */
const ESCAPES: readonly number[] = [0x62, 0x8f, 0xc4, 0xc5];
const LONGEST_ESCAPE = 4;
/** ModRM of VMCALL and VMMCALL, which a hypervisor may answer with whatever prefixes. */
const HYPERCALLS: readonly number[] = [0xc1, 0xd9];

const leaveOut = (reason: string): Verdict => ({ kind: 'leave out', reason });

function judge(decoded: Decoded, code: Uint8Array, row: Row | undefined, { bits }: Case, sides: Sides): Verdict | undefined {
  const encoding = split(bits, code);
  if (decoded.features.some((feature) => !sides.engine.has(feature))) {
    return row === undefined ? { kind: 'refuse' } : leaveOut('a hint or older instruction where the feature is lacking');
  }
  if (decoded.features.some((feature) => !sides.host.has(feature))) return leaveOut('a feature that the host lacks');
  const exclusion = EXCLUSIONS.find(([, matches]) => matches(decoded, encoding?.prefixes ?? [], row));
  if (exclusion !== undefined) return leaveOut(exclusion[0]);
  const isUndefined = row?.handler === 'UD' || !(decoded.valid || (decoded.cut && row !== undefined));
  return isUndefined ? judgeUndefined(code, encoding, sides) : undefined;
}

/**
 * How much a CPU fetches of what it does not know is its own business (Intel SDM vol. 3, table 7-2: the three have one priority). So is what one that
 * has AVX makes of its reserved bits.
 */
function judgeUndefined(code: Uint8Array, encoding: Encoding | undefined, sides: Sides): Verdict | undefined {
  if (encoding?.map === 1 && encoding.opcode === 0x01 && HYPERCALLS.includes(encoding.modrm)) return leaveOut('a call of the hypervisor');
  const isEscape = encoding?.map === 0 && ESCAPES.includes(encoding.opcode);
  const end = (encoding?.length ?? code.length) + (isEscape ? LONGEST_ESCAPE : 0) + LONGEST_OPERANDS;
  if (end > code.length) return leaveOut(code.length < 15 ? 'undefined, or a page fault of its fetch' : 'undefined, or too long');
  return isEscape && !sides.engine.has('AVX') ? { kind: 'refuse' } : undefined;
}

/** Offsets within the string of the instructions that can follow; behind the string lies INT3. */
function successors({ valid, length, fallsThrough, target }: Decoded, start: number, { at, code }: Case): number[] {
  if (!valid) return [];
  const next = fallsThrough ? [start + length] : [];
  if (target !== undefined) next.push(Number(target) - at);
  return next.filter((offset) => offset >= 0 && offset < code.length);
}
