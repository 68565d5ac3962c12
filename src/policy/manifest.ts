/**
 * The manifest: what the linker says about a guarded module. Made by `portcullis link`, registered with the VMM together with the
 * guarded .ko (the *registered image*), named in grants by its digest.
 *
 * The VMM reads relocations and bytes from the registered image itself (whose SHA-256 the manifest holds); the manifest names what the
 * image's ELF structure alone cannot say: which gate is which, and what is private.
 */

/** The I/O port that every gate writes to: `out %al, $GATE_PORT` (bytes e6 5e). */
export const GATE_PORT = 0x5e;
/** Bytes per gate. A gate is `out %al, $GATE_PORT`, int3 up to byte 8, then a 64-bit little-endian link word (see `Gate`). */
export const GATE_SIZE = 16;
/** The section that holds gates and nothing else: page-aligned whole pages, executable, last of the core text. Unused gates are int3. */
export const GATE_SECTION = '.text.guard';

/** The linker's own routines for device registers. */
export const DEVICE_SECTION = '.text.device';

/** The kernel's print function, `int _printk(const char *fmt, ...)`, and its name before Linux 5.15. Every guarded module has a call gate to one of them. */
export const PRINT_FUNCTIONS: readonly string[] = ['_printk', 'printk'];

export type GateKind = 'entry' | 'call' | 'return' | 're-entry';

/**
 * One gate. Its link word, filled in by the kernel's own relocation at load:
 *  - entry: address of the function entered (R_X86_64_64 against the function's section symbol or the function)
 *  - call: address of the kernel function called (R_X86_64_64 against the undefined symbol)
 *  - return, re-entry: 0. There is one of each per module, gates 0 and 1.
 */
export interface Gate {
  kind: GateKind;
  /** Offset in the gate section, a multiple of GATE_SIZE. */
  offset: number;
  /** entry: the function's name; call: the symbol called. Empty for return and re-entry. */
  symbol: string;
  /** entry: section and offset of the function. */
  section?: string;
  sectionOffset?: number;
  /** entry: the kernel calls it before the init function (the setter of a module parameter). */
  beforeInit?: true;
  /** call, with a shadow stack: jumped to by functions whose return address is recorded. */
  recorded?: true;
}

export type SectionRole =
  | 'text' // executable, in the module view from the image, unreadable as code for the guest
  | 'gates' // GATE_SECTION
  | 'constants' // read-only, mapped in the module view from the image
  | 'private' // writable, module view only; the guest's copy is dead storage
  | 'data' // the guest's: ordinary writable data, sorted tables, what the kernel changes
  | 'metadata'; // allocated, but for the kernel only (orc, versions, bug and exception tables, ...)

export interface ManifestSection {
  /** Index in the guarded ELF. */
  index: number;
  name: string;
  role: SectionRole;
  size: number;
  align: number;
  /** True for sections that the kernel frees after init (.init.*). */
  init: boolean;
}

export interface Manifest {
  format: 'portcullis-manifest-1';
  /** Module name as the kernel knows it (.modinfo name, e.g. "e1000"). */
  module: string;
  /** .modinfo vermagic of the input. */
  vermagic: string;
  /** SHA-256, hex, of the guarded .ko and of the .ko it was made from. */
  image: string;
  source: string;
  linker: string; // version of the linker
  gatePort: number;
  sections: ManifestSection[];
  gates: Gate[];
  /** Names of `init_module` and `cleanup_module` entry gates, as offsets in the gate section; -1 if the module has none. */
  initGate: number;
  cleanupGate: number;
  /** Symbols imported as data or address (not called through a gate), sorted. */
  imports: string[];
  /** True if the module uses the vector unit (imports kernel_fpu_begin*). */
  vector: boolean;
  /** Privileges wanted, e.g. ["pci-device"]. Informative: grants decide. */
  privileges: string[];
  /** Linked with a shadow stack (shadow-stack.ts): each call of the kernel has a gate of its own. */
  shadowStack?: true;
}
