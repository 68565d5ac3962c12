/**
 * The registered image as the monitor sees it: sections, relocations and gates, already checked for structure, so that
 * everything behind this file can index without asking again. How an ELF file becomes one stands in image-elf.ts.
 */
import { UserError } from '../base/errors.ts';
import { PAGE_SIZE } from '../engine/contract.ts';
import { GATE_SECTION, GATE_SIZE } from '../policy/manifest.ts';
import type { Gate, Manifest, SectionRole } from '../policy/manifest.ts';

/** Relocation types that a guarded module may hold (x86-64 psABI 1.0, table 4.9). */
export const RELOCATION = { R64: 1, PC32: 2, PLT32: 4, R32: 10, R32S: 11, PC64: 24 } as const;

export interface ImageRelocation {
  /** Offset in the section that is changed. */
  readonly offset: number;
  readonly type: number;
  /** Index into `ImageSource.sections` of the symbol's section, or -1 for an undefined symbol named `symbol`. */
  readonly section: number;
  readonly symbol: string;
  /** Symbol value (offset in its section) plus addend for a defined symbol, addend alone for an undefined one. */
  readonly addend: number;
}

export interface ImageSection {
  readonly name: string;
  readonly role: SectionRole;
  readonly size: number;
  /** Power of two, 1 to 65536. */
  readonly align: number;
  readonly init: boolean;
  /** `size` bytes as in the file, zeros for a section without bits; may be empty for the roles data and metadata. */
  readonly bytes: Uint8Array;
  /** May be empty for the roles data and metadata. */
  readonly relocations: readonly ImageRelocation[];
}

export interface ImageSource {
  readonly module: string;
  readonly sections: readonly ImageSection[];
  /** Index into `sections` of the gate section. */
  readonly gateSection: number;
  /** One per slot of the gate section; undefined = unused. `target` of an entry gate: section index and offset. */
  readonly gates: readonly (ImageGate | undefined)[];
  readonly initGate: number;
  readonly cleanupGate: number;
  readonly vector: boolean;
}
export interface ImageGate {
  readonly kind: Gate['kind'];
  readonly symbol: string;
  readonly init: boolean;
  /** May be entered before the init function. */
  readonly beforeInit: boolean;
  /** call: jumped to by functions whose return address a linked shadow stack has. */
  readonly recorded: boolean;
}

/** Most text and constants, and most private memory, of one module: 16 MiB each. */
const LIMIT = 16 << 20;

/** Joins sections and the manifest's gates. Throws UserError when they do not fit together. */
export function createImage(manifest: Manifest, sections: readonly ImageSection[]): ImageSource {
  const bad = (found: string, expected: string): never => {
    throw new UserError(`manifest of ${manifest.module}: ${found}; expected ${expected}`, 'link the module again');
  };
  const gateSection = sections.findIndex((section) => section.role === 'gates');
  const gateBytes = gateSection < 0 ? bad('no gate section', `a section ${GATE_SECTION}`) : sections[gateSection];
  if (gateBytes.size === 0 || gateBytes.size % PAGE_SIZE !== 0) bad(`gate section of ${gateBytes.size} bytes`, 'whole pages');
  for (const [role, limit] of [
    ['text', LIMIT],
    ['gates', LIMIT],
    ['constants', LIMIT],
    ['private', LIMIT],
  ] as const) {
    const total = sections.reduce((sum, section) => sum + (section.role === role ? section.size : 0), 0);
    if (total > limit) bad(`${total} bytes of ${role}`, `at most ${limit}`);
  }
  for (const section of sections) {
    if (section.align < 1 || section.align > 65536 || (section.align & (section.align - 1)) !== 0) {
      bad(`section ${section.name} aligned to ${section.align}`, 'a power of two up to 65536');
    }
    const kernels = section.role === 'data' || section.role === 'metadata';
    if (section.bytes.length !== section.size && !(kernels && section.bytes.length === 0))
      bad(`section ${section.name} with ${section.bytes.length} bytes`, `${section.size}`);
    for (const relocation of section.relocations) {
      const width = relocation.type === RELOCATION.R64 || relocation.type === RELOCATION.PC64 ? 8 : 4;
      if (!Object.values(RELOCATION).some((type) => type === relocation.type)) {
        bad(`relocation type ${relocation.type} in ${section.name}`, 'one that guarded modules use');
      }
      if (!(relocation.offset >= 0 && relocation.offset + width <= section.size)) {
        bad(`relocation at ${relocation.offset} of ${section.name}`, `an offset below ${section.size}`);
      }
      if (relocation.section >= sections.length) bad(`relocation against section ${relocation.section}`, 'a section of the image');
    }
  }
  const gates: (ImageGate | undefined)[] = new Array(gateBytes.size / GATE_SIZE).fill(undefined);
  for (const gate of manifest.gates) {
    const index = gate.offset / GATE_SIZE;
    if (!Number.isInteger(index) || index < 0 || index >= gates.length || gates[index]) {
      bad(`gate at offset ${gate.offset}`, `distinct multiples of ${GATE_SIZE} below ${gateBytes.size}`);
    }
    const init = sections.some((section) => section.init && section.name === gate.section);
    gates[index] = { kind: gate.kind, symbol: gate.symbol, init, beforeInit: gate.beforeInit === true, recorded: gate.recorded === true };
  }
  if (gates[0]?.kind !== 'return' || gates[1]?.kind !== 're-entry') bad('gates 0 and 1 of another kind', 'return and re-entry');
  for (const [name, offset] of [
    ['init', manifest.initGate],
    ['cleanup', manifest.cleanupGate],
  ] as const) {
    if (offset !== -1 && gates[offset / GATE_SIZE]?.kind !== 'entry') bad(`${name} gate ${offset}`, 'an entry gate');
  }
  const index = (offset: number) => (offset < 0 ? -1 : offset / GATE_SIZE);
  return {
    module: manifest.module,
    sections,
    gateSection,
    gates,
    vector: manifest.vector,
    initGate: index(manifest.initGate),
    cleanupGate: index(manifest.cleanupGate),
  };
}
