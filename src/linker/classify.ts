/**
 * What each relocation of a module means for the border. In kernels built with retpolines, return thunks and -mfentry every control
 * transfer out of a section is a relocation, so classifying relocations classifies control flow; the only bytes looked at are the opcode
 * right before the relocated field. What is not understood is a problem, never a guess.
 */

import { hex, hexBytes } from '../base/hex.ts';
import { R, relocationName } from '../elf/constants.ts';
import { type ElfSymbol, type FunctionIndex, type Relocation, type Section, symbolName } from '../elf/object.ts';
import { isDeviceRoutine } from './device-routines.ts';
import { isPositionList } from './section-rules.ts';
import { thunkRegister } from './thunks.ts';

/** A function of the module by where it starts, with all its names in symbol table order. */
export interface OwnFunction {
  section: Section;
  offset: number;
  names: readonly ElfSymbol[];
}

export type Decision =
  /** Nothing crosses: data, a position, an imported address used as a value, a branch inside the module. */
  | { kind: 'keep' }
  /** `call __fentry__`: becomes a nop. */
  | { kind: 'function-entry' }
  /** `jmp __x86_return_thunk`: becomes a return. */
  | { kind: 'return' }
  /** Call or jump through a register by the kernel's thunk: goes to the module's own thunk. */
  | { kind: 'indirect'; register: string }
  /** Call or jump to a kernel function: goes to its call gate. */
  | { kind: 'call-out'; symbol: ElfSymbol }
  /** Call or jump to a helper for device registers: goes to the module's own routine. */
  | { kind: 'device-routine'; symbol: ElfSymbol }
  /** `call *mem` or `jmp *mem`: stays; the monitor meets the fetch. */
  | { kind: 'memory-branch'; jump: boolean }
  /** The address of an own function where someone may call it: becomes its entry gate's. `addend` is the new one. */
  | { kind: 'escape'; target: OwnFunction; addend: number }
  | { kind: 'problem'; message: string };

/** How the instruction around a PC-relative field uses it. */
type Form = 'call' | 'jump' | 'conditional' | 'lea' | 'memory-call' | 'memory-jump' | 'memory';

const KEEP: Decision = { kind: 'keep' };

export function classify(section: Section, relocation: Relocation, functions: FunctionIndex): Decision {
  const { type, offset } = relocation;
  if (type === R.none) return KEEP;
  const width = fieldWidth(type);
  if (width === undefined) return problem(section, relocation, "is a relocation that the kernel's module loader does not know");
  if (offset + width > section.data.length) return problem(section, relocation, `lies outside the section's ${section.data.length} bytes`);
  if (relocation.symbol.place === 'common') return problem(section, relocation, 'uses a common symbol; the kernel needs -fno-common');
  if (relocation.symbol.place === 'undefined' && relocation.symbol.name === '') return problem(section, relocation, 'names no symbol');
  if (isPositionList(section)) return KEEP;
  if (usesThunkAsValue(section, relocation)) return problem(section, relocation, 'uses a thunk of the kernel as data');
  return section.executable ? classifyInText(section, relocation, functions) : classifyInData(section, relocation, functions);
}

/** Bytes that a relocation fills in, or undefined for a type that modules do not have. */
export function fieldWidth(type: number): 4 | 8 | undefined {
  switch (type) {
    case R.abs64:
    case R.pc64:
      return 8;
    case R.pc32:
    case R.plt32:
    case R.abs32:
    case R.abs32s:
      return 4;
    default:
      return undefined;
  }
}

function classifyInText(section: Section, relocation: Relocation, functions: FunctionIndex): Decision {
  const { type, symbol, addend } = relocation;
  if (type === R.pc32 || type === R.plt32) {
    const form = formAt(section.data, relocation.offset);
    if (form === undefined) return problem(section, relocation, 'is no branch and no RIP-relative access');
    if (form === 'call' || form === 'jump' || form === 'conditional') return classifyBranch(section, relocation, form);
    if (type === R.plt32) return problem(section, relocation, 'is a branch relocation on something that is no branch');
    if (typeof symbol.place === 'object' && symbol.place.executable) {
      // The field ends the instruction of a lea, so RIP is offset + 4.
      return form === 'lea'
        ? escaping(section, relocation, symbol.place, addend + 4, -4, functions)
        : problem(section, relocation, 'reads or writes own code');
    }
    if (form === 'memory-call' || form === 'memory-jump') return { kind: 'memory-branch', jump: form === 'memory-jump' };
    return KEEP;
  }
  if (type === R.pc64) return problem(section, relocation, 'is a 64-bit relative field in code, which no known compiler emits');
  if (typeof symbol.place === 'object' && symbol.place.executable) return escaping(section, relocation, symbol.place, addend, 0, functions);
  return KEEP;
}

/** Thunks are patched by the kernel or leave the module by themselves; nothing but a branch may name them. */
function usesThunkAsValue(section: Section, { type, offset, symbol }: Relocation): boolean {
  if (symbol.place !== 'undefined' || !/^(__fentry__$|__x86_return_thunk$|__x86_indirect_)/.test(symbol.name)) return false;
  const form = section.executable && (type === R.pc32 || type === R.plt32) ? formAt(section.data, offset) : undefined;
  return form !== 'call' && form !== 'jump' && form !== 'conditional';
}

function classifyBranch(section: Section, relocation: Relocation, form: 'call' | 'jump' | 'conditional'): Decision {
  const { symbol, addend } = relocation;
  if (typeof symbol.place === 'object') {
    return symbol.place.executable ? KEEP : problem(section, relocation, 'branches to a section that is not executable');
  }
  if (symbol.place !== 'undefined') return problem(section, relocation, 'branches to an absolute address');
  if (addend !== -4) return problem(section, relocation, 'branches into the middle of a kernel function');
  if (form === 'conditional') return problem(section, relocation, 'is a conditional branch out of the module');
  if (symbol.name === '__fentry__')
    return form === 'call' ? { kind: 'function-entry' } : problem(section, relocation, 'jumps to __fentry__');
  if (symbol.name === '__x86_return_thunk')
    return form === 'jump' ? { kind: 'return' } : problem(section, relocation, 'calls the return thunk');
  if (isDeviceRoutine(symbol.name)) return { kind: 'device-routine', symbol };
  if (!symbol.name.startsWith('__x86_indirect_')) return { kind: 'call-out', symbol };
  const register = thunkRegister(symbol.name);
  return register === undefined ? problem(section, relocation, 'uses an unknown indirect branch thunk') : { kind: 'indirect', register };
}

function classifyInData(section: Section, relocation: Relocation, functions: FunctionIndex): Decision {
  const { type, symbol, addend } = relocation;
  if (type === R.plt32) return problem(section, relocation, 'is a branch relocation in data');
  if (typeof symbol.place !== 'object' || !symbol.place.executable) return KEEP;
  if (type === R.abs32 || type === R.abs32s) return problem(section, relocation, 'is a 32-bit code address in data');
  return escaping(section, relocation, symbol.place, addend, 0, functions);
}

function escaping(
  section: Section,
  relocation: Relocation,
  place: Section,
  addend: number,
  newAddend: number,
  functions: FunctionIndex,
): Decision {
  const offset = relocation.symbol.value + addend;
  const names = functions.at(place, offset);
  if (!names) return problem(section, relocation, `takes the address of code (${place.name}+${hex(offset)}) where no function starts`);
  return { kind: 'escape', target: { section: place, offset, names }, addend: newAddend };
}

/**
 * The instruction form by the opcode before a 4-byte PC-relative field (Intel SDM vol. 2, appendix A). A RIP-relative operand's ModRM byte
 * (mod 00, r/m 101) stands right before the field and is never e8, e9 or 80..8f, so the forms exclude each other.
 */
function formAt(code: Uint8Array, offset: number): Form | undefined {
  if (offset < 1) return undefined;
  const last = code[offset - 1];
  if (last === 0xe8) return 'call';
  if (last === 0xe9) return 'jump';
  if (offset < 2) return undefined;
  const before = code[offset - 2];
  if (before === 0x0f && (last & 0xf0) === 0x80) return 'conditional';
  if ((last & 0xc7) !== 0x05) return undefined;
  if (before === 0x8d) return 'lea';
  // Group 5: ff /2 is call, ff /4 is jmp. ff /3 and /5 are far branches.
  if (before === 0xff && last === 0x15) return 'memory-call';
  if (before === 0xff && last === 0x25) return 'memory-jump';
  return 'memory';
}

/** `section+offset: relocation against symbol+addend (bytes ..) message`. */
export function describeSite(section: Section, { offset, type, symbol, addend }: Relocation): string {
  const start = Math.max(0, offset - 3);
  const bytes = hexBytes(section.data.subarray(start, offset + 4));
  const against = `${relocationName(type)} against ${symbolName(symbol)}${addend < 0 ? '-' : '+'}${hex(Math.abs(addend))}`;
  return `${section.name}+${hex(offset)}: ${against} (bytes ${bytes} from ${hex(start)})`;
}

function problem(section: Section, relocation: Relocation, message: string): Decision {
  return { kind: 'problem', message: `${describeSite(section, relocation)} ${message}` };
}
