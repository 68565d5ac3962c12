/**
 * ELF constants, with the names of the System V gABI (chapters 4 and 5) and the x86-64 psABI (section 4.4), less their prefixes.
 * Only what Portcullis reads or writes.
 */

/** e_type: gABI "ELF Header". */
export const ET = { rel: 1, exec: 2, dyn: 3 } as const;
/** e_machine. */
export const EM = { i386: 3, x8664: 62 } as const;

/** sh_type: gABI "Sections". */
export const SHT = {
  null: 0,
  progbits: 1,
  symtab: 2,
  strtab: 3,
  rela: 4,
  nobits: 8,
  note: 7,
  rel: 9,
  group: 17,
  symtabShndx: 18,
} as const;
/** sh_flags. */
export const SHF = {
  write: 1n,
  alloc: 2n,
  exec: 4n,
  merge: 0x10n,
  strings: 0x20n,
  infoLink: 0x40n,
  linkOrder: 0x80n,
  group: 0x200n,
  compressed: 0x800n,
} as const;
/** Reserved section indices: gABI "Special Sections Indexes". */
export const SHN = { undefined: 0, reserved: 0xff00, absolute: 0xfff1, common: 0xfff2, extended: 0xffff } as const;

/** Symbol binding: gABI "Symbol Table". */
export const STB = { local: 0, global: 1, weak: 2 } as const;
/** Symbol type. */
export const STT = { none: 0, object: 1, func: 2, section: 3, file: 4 } as const;

/** Relocation types that the Linux module loader knows (psABI table 4.9; Linux arch/x86/kernel/module.c). */
export const R = { none: 0, abs64: 1, pc32: 2, plt32: 4, abs32: 10, abs32s: 11, pc64: 24 } as const;

/** p_type: gABI "Program Header". */
export const PT = { load: 1, note: 4 } as const;

const RELOCATION_NAMES: Record<number, string> = {
  0: 'R_X86_64_NONE',
  1: 'R_X86_64_64',
  2: 'R_X86_64_PC32',
  3: 'R_X86_64_GOT32',
  4: 'R_X86_64_PLT32',
  9: 'R_X86_64_GOTPCREL',
  10: 'R_X86_64_32',
  11: 'R_X86_64_32S',
  24: 'R_X86_64_PC64',
  41: 'R_X86_64_GOTPCRELX',
  42: 'R_X86_64_REX_GOTPCRELX',
};

export function relocationName(type: number): string {
  return RELOCATION_NAMES[type] ?? `relocation type ${type}`;
}
