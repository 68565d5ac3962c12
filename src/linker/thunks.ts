/**
 * The module's own indirect branch thunks. A retpoline call is `call __x86_indirect_thunk_REG`; the kernel's thunk is kernel text and may
 * not run in the module view, so the branch goes to `jmp *REG` in the module's text. Where that leads out of the module, the monitor meets
 * the fetch.
 */

import { SHF, SHT, STB, STT } from '../elf/constants.ts';
import type { ElfObject, ElfSymbol } from '../elf/object.ts';
import { THUNK_SECTION } from './section-rules.ts';

/** General registers in encoding order (Intel SDM vol. 2, table 2-2). */
const REGISTERS = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'];
export const THUNK_SIZE = 4;

/** The register of a kernel thunk's name, or undefined if it is none that is known (Linux arch/x86/lib/retpoline.S). */
export function thunkRegister(symbol: string): string | undefined {
  const register = /^__x86_indirect_(?:call_|jump_)?thunk_(\w+)$/.exec(symbol)?.[1];
  return register !== undefined && register !== 'rsp' && REGISTERS.includes(register) ? register : undefined;
}

/** `jmp *REG` (ff /4, with REX.B for r8 to r15), filled up with int3. */
export function thunkBytes(register: string): number[] {
  const index = REGISTERS.indexOf(register);
  return index < 8 ? [0xff, 0xe0 + index, 0xcc, 0xcc] : [0x41, 0xff, 0xe0 + index - 8, 0xcc];
}

/** Adds the thunk section, one thunk per register in encoding order, and gives their symbols by register. Adds nothing for no registers. */
export function addThunks(object: ElfObject, registers: ReadonlySet<string>): Map<string, ElfSymbol> {
  const symbols = new Map<string, ElfSymbol>();
  if (registers.size === 0) return symbols;
  const used = REGISTERS.filter((register) => registers.has(register));
  const section = object.addSection({
    name: THUNK_SECTION,
    type: SHT.progbits,
    flags: SHF.alloc | SHF.exec,
    alignment: 16,
    entrySize: 0,
    data: Uint8Array.from(used.flatMap(thunkBytes)),
  });
  for (const [index, register] of used.entries()) {
    symbols.set(
      register,
      object.addSymbol({
        name: `guard.jmp.${register}`,
        binding: STB.local,
        type: STT.func,
        other: 0,
        place: section,
        value: index * THUNK_SIZE,
        size: THUNK_SIZE,
      }),
    );
  }
  return symbols;
}
