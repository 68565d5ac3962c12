/** What the kernel of a host may keep from user code, found out by trying. Cases that it concerns cannot be compared there. */
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import { type Case, END, newCase } from './fixture.ts';
import { type Bits, isCanonical } from './layout.ts';
import type { Native } from './native.ts';

export interface Limit {
  what: string;
  concerns: (test: Case, row: Instruction | undefined) => boolean;
}

const RSP = 4;
/** They see the descriptor of 32-bit code, or go there. */
const READS_DESCRIPTORS = /^(LAR|LSL|VERR|VERW|CALLF|JMPF|RETF|IRET)$/;

const isOddStack = (test: Case): boolean => test.registers.some(([register, value]) => register === RSP && !isCanonical(value));

function nop(bits: Bits, registers: Case['registers'] = []): Case {
  return { ...newCase(bits, [0x90], 'gi', 1), registers };
}

/** Each with a case that runs to its end where there is no such limit. */
const LIMITS: readonly (Limit & { probe: Case })[] = [
  { what: '16-bit code', probe: nop(16), concerns: ({ bits }) => bits === 16 },
  { what: '32-bit code', probe: nop(32), concerns: ({ bits }, row) => bits === 32 || READS_DESCRIPTORS.test(row?.mnemonic ?? '') },
  { what: 'stack pointers that are not canonical', probe: nop(64, [[RSP, 1n << 63n]]), concerns: isOddStack },
];

export function limitsOf(native: Native): Limit[] {
  const outcomes = native.run(LIMITS.map(({ probe }) => probe));
  return [...outcomes].flatMap(({ vector }, i) => (vector === END ? [] : [LIMITS[i] as Limit]));
}
