/**
 * Where else than at the interrupted instruction the kernel may go on (design, section 7): behind the `ud2` of a WARN, or at the
 * fixup of the exception table. Both tables are read from the registered image, and so is what a fixup does to the registers.
 */
import { REG } from '../engine/contract.ts';
import type { ImageSource } from './image.ts';

/** What a fixup does (Linux arch/x86/mm/extable.c, fixup_exception). Registers by x86 number. */
export interface Fixup {
  readonly address: number;
  /** RSP after it, less RSP before. */
  readonly pop: number;
  readonly effect: (halves: Uint32Array, at: number, vector: number) => void;
}
export interface ResumeTable {
  /** Addresses of WARN instructions. */
  readonly warnings: ReadonlySet<number>;
  /** By address of the faulting instruction. */
  readonly fixups: ReadonlyMap<number, Fixup>;
  /** Fixups of kinds that the monitor does not allow. */
  readonly unsupported: number;
}

/** struct bug_entry {s32 address, s32 file, u16 line, u16 flags} (include/asm-generic/bug.h); flag bit 0: WARN. */
const BUG_SIZE = 12;
const BUG_FLAGS = 10;
const BUGFLAG_WARNING = 1;
/** struct exception_table_entry {int insn, fixup, data} (arch/x86/include/asm/extable.h). */
const EX_SIZE = 12;
const EX_DATA = 8;

export function resumeTable(image: ImageSource, bases: Float64Array): ResumeTable {
  const warnings = new Set<number>();
  const fixups = new Map<number, Fixup>();
  let unsupported = 0;
  const bugs = image.sections.find((section) => section.name === '__bug_table');
  if (bugs) {
    for (const [offset, address] of targets(bugs, bases)) {
      if (offset % BUG_SIZE !== 0 || offset + BUG_SIZE > bugs.bytes.length) continue;
      if ((bugs.bytes[offset + BUG_FLAGS] & BUGFLAG_WARNING) !== 0) warnings.add(address);
    }
  }
  const table = image.sections.find((section) => section.name === '__ex_table');
  if (table) {
    const at = targets(table, bases);
    const words = new DataView(table.bytes.buffer, table.bytes.byteOffset, table.bytes.byteLength);
    for (let entry = 0; entry + EX_SIZE <= table.bytes.length; entry += EX_SIZE) {
      const fault = at.get(entry);
      const address = at.get(entry + 4);
      const kind = fixupKind(words.getInt32(entry + EX_DATA, true));
      if (fault === undefined || address === undefined || !kind) unsupported += 1;
      else fixups.set(fault, { address, ...kind });
    }
  }
  return { warnings, fixups, unsupported };
}

/** Addresses that a table's PC-relative words point at, by offset in the table. */
function targets(section: ImageSource['sections'][number], bases: Float64Array): Map<number, number> {
  const out = new Map<number, number>();
  for (const { offset, section: target, addend } of section.relocations) {
    if (target >= 0 && !Number.isNaN(bases[target])) out.set(offset, bases[target] + addend);
  }
  return out;
}

const IO_ERROR = -5;
/** `data` of an entry: type, register, flags, immediate (arch/x86/include/asm/extable_fixup_types.h). */
function fixupKind(data: number): Omit<Fixup, 'address'> | undefined {
  const register = (data >> 8) & 15;
  const flags = (data >> 12) & 15;
  const immediate = data >> 16;
  const then = (effect: Fixup['effect'], pop = 0): Omit<Fixup, 'address'> => ({
    pop,
    effect: (halves, at, vector) => {
      if ((flags & 1) !== 0) set(halves, at, REG.rax, 0);
      if ((flags & 2) !== 0) set(halves, at, REG.rdx, 0);
      effect(halves, at, vector);
    },
  });
  switch (data & 0xff) {
    case 1:
    case 3:
    case 8:
    case 14:
      return then(() => {}); // DEFAULT, UACCESS, WRMSR, DEFAULT_MCE_SAFE
    case 2:
    case 4:
    case 15:
      return then((halves, at, vector) => set(halves, at, REG.rax, vector)); // FAULT, COPY, FAULT_MCE_SAFE
    case 9: // RDMSR: reads as zero
      return then((halves, at) => {
        set(halves, at, REG.rax, 0);
        set(halves, at, REG.rdx, 0);
      });
    case 10:
    case 11:
      return register === REG.rsp ? undefined : then((halves, at) => set(halves, at, register, IO_ERROR)); // WRMSR_SAFE, RDMSR_SAFE
    case 16:
      return register === REG.rsp ? undefined : then((halves, at) => set(halves, at, register, immediate), 8); // POP_REG
    case 17:
      return register === REG.rsp ? undefined : then((halves, at) => set(halves, at, register, immediate)); // IMM_REG
    case 19: // UCOPY_LEN: rcx = immediate * rcx + register
      return then((halves, at) => {
        const words = new BigInt64Array([word(halves, at, REG.rcx), word(halves, at, register)]);
        const sum = BigInt.asUintN(64, BigInt(immediate) * words[0] + words[1]);
        halves[at + 2 * REG.rcx] = Number(sum & 0xffff_ffffn);
        halves[at + 2 * REG.rcx + 1] = Number(sum >> 32n);
      });
    default:
      return undefined;
  }
}

/** Sign-extends a 32-bit value into a saved register. */
function set(halves: Uint32Array, at: number, register: number, value: number): void {
  halves[at + 2 * register] = value;
  halves[at + 2 * register + 1] = value < 0 ? -1 : 0;
}
const word = (halves: Uint32Array, at: number, register: number) =>
  BigInt.asIntN(64, (BigInt(halves[at + 2 * register + 1]) << 32n) | BigInt(halves[at + 2 * register]));
