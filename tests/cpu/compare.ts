/** What differs between an expected outcome and the guest's, after leaving out what the manuals leave open. */
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import { type Case, END, FIELDS, input, NAMES, type Outcome } from './fixture.ts';
import { WINDOWS } from './layout.ts';

const [CF, AF, OF] = [0x1, 0x10, 0x800];
const RF = 0x10000n;

/** One line per difference; empty when all agrees. `row` is undefined for a sequence of several instructions. */
export function differences(row: Instruction | undefined, test: Case, expected: Outcome, actual: Outcome): string[] {
  const found: string[] = [];
  const check = (what: string, want: bigint | number | string, got: bigint | number | string): void => {
    if (want !== got) found.push(`${what}: expected ${show(want)}, got ${show(got)}`);
  };
  check('vector', expected.vector, actual.vector);
  check('rip', expected.rip, actual.rip);
  if (expected.vector !== actual.vector) return found;
  check('error code', expected.error, actual.error);
  if (!isWideImage(row)) check('cr2', expected.cr2, actual.cr2);
  expected.gpr.forEach((value, i) => { check(NAMES[i] as string, value, actual.gpr[i] as bigint); });
  const open = BigInt(expected.vector === END ? undefinedFlags(row, test) : 0) | RF;
  check('rflags', expected.rflags & ~open, actual.rflags & ~open);
  compareVector(row, expected, actual, check);
  WINDOWS.forEach((window, w) => {
    const want = expected.memory[w] as Uint8Array, got = actual.memory[w] as Uint8Array;
    if (Buffer.compare(want, got) === 0) return;
    for (let i = 0; i < want.length; i++) {
      if (want[i] === got[i]) continue;
      const address = window.base + i;
      if (test.ignored.some((range) => address >= range.address && address < range.address + range.size)) continue;
      const end = Math.min(i + 10, want.length);
      check(`memory at ${address.toString(16)}`, hex(want.subarray(i, end)), hex(got.subarray(i, end)));
      i = end;
      if (found.length > 12) return;
    }
  });
  return found;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const show = (value: bigint | number | string): string => (typeof value === 'string' ? value : `0x${value.toString(16)}`);

/** Instructions with images of many words: which of them faults first is the processor's own business. */
function isWideImage(row: Instruction | undefined): boolean {
  return row !== undefined && /^(FX|XSAVE|XR|FNSAVE|FRSTOR|FLDENV|FNSTENV|PUSHA|POPA|ENTER)/.test(row.mnemonic);
}

/**
 * Flags that are undefined after the case. The table's `undef` is the worst case over all counts; what a shift leaves undefined
 * depends on its count (Intel SDM vol. 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD).
 */
export function undefinedFlags(row: Instruction | undefined, test: Case): number {
  if (row === undefined) return test.undefinedFlags;
  const all = row.attributes.undefinedFlags;
  if (!/^(SHL|SHR|SAL|SAR|ROL|ROR|RCL|RCR|SHLD|SHRD)$/.test(row.mnemonic)) return all;
  const last = row.operands.at(-1)?.text;
  const raw = last === '1' ? 1 : last === 'CL' ? Number((input(test).state.gpr[1] as bigint) & 255n) : (test.code.at(-1) as number);
  const size = operandSize(row, test);
  const count = raw & (size === 64 ? 63 : 31);
  if (count === 0) return 0;
  let open = all;
  if (count === 1) open &= ~OF;
  if (row.mnemonic.length === 4 ? count <= size : count < size || row.mnemonic === 'SAR') open &= ~CF;
  return /^R/.test(row.mnemonic) ? open & ~AF : open;
}

function operandSize(row: Instruction, test: Case): number {
  if (row.operands[0]?.size === 'b') return 8;
  const prefixes: number[] = [];
  for (const byte of test.code) {
    prefixes.push(byte);
    if (![0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3].includes(byte)) break;
  }
  const rex = prefixes.at(-1) as number;
  if (test.bits === 64 && (rex & 0xf8) === 0x48) return 64;
  return prefixes.includes(0x66) ? 16 : 32;
}

const TRANSCENDENTAL = /^(FSIN|FCOS|FSINCOS|FPTAN|FPATAN|F2XM1|FYL2X|FYL2XP1)$/;
const APPROXIMATE = /^(RCP|RSQRT)(PS|SS)$/;
/** Precision flag and C1 (rounded up): they depend on the last bit of a transcendental result. */
const ROUNDING_BITS = 0x220;

function compareVector(row: Instruction | undefined, expected: Outcome, actual: Outcome, check: (what: string, want: string, got: string) => void): void {
  if (Buffer.compare(expected.fx, actual.fx) === 0) return;
  const transcendental = row !== undefined && TRANSCENDENTAL.test(row.mnemonic);
  for (const [name, offset, size] of FIELDS) {
    const want = expected.fx.slice(offset, offset + size), got = actual.fx.slice(offset, offset + size);
    if (Buffer.compare(want, got) === 0) continue;
    if (name === 'sw' && transcendental) for (const bytes of [want, got]) new DataView(bytes.buffer).setUint16(0, new DataView(bytes.buffer).getUint16(0, true) & ~ROUNDING_BITS, true);
    if (name[0] === 'p' && transcendental && nearExtended(want, got)) continue;
    if (name[0] === 'x' && row !== undefined && APPROXIMATE.test(row.mnemonic) && nearSingles(want, got)) continue;
    const number = name[0] === 'x' || name[0] === 'p' ? (bytes: Uint8Array) => hex(bytes) : (bytes: Uint8Array) => `0x${hex(bytes.reverse())}`;
    check(name, number(want), number(got));
  }
}

/** Within one unit in the last place of the 64-bit significand (Intel SDM vol. 1, 8.3.10, promises that). */
function nearExtended(want: Uint8Array, got: Uint8Array): boolean {
  const a = new DataView(want.buffer), b = new DataView(got.buffer);
  const rank = (view: DataView): bigint => (BigInt(view.getUint16(8, true) & 0x7fff) << 63n) + BigInt.asUintN(63, view.getBigUint64(0, true));
  const distance = rank(a) - rank(b);
  return (a.getUint16(8, true) >> 15) === (b.getUint16(8, true) >> 15) && distance >= -1n && distance <= 1n;
}

/** RCPPS and RSQRTPS promise a relative error of at most 1.5 * 2^-12; two processors may differ by twice that. */
function nearSingles(want: Uint8Array, got: Uint8Array): boolean {
  const a = new DataView(want.buffer), b = new DataView(got.buffer);
  return [0, 4, 8, 12].every((i) => {
    const x = a.getFloat32(i, true), y = b.getFloat32(i, true);
    return a.getUint32(i) === b.getUint32(i) || (Math.abs(x) > 0 && Math.abs(x - y) <= Math.abs(x) * 3 * 2 ** -12);
  });
}
