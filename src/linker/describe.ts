/** What `portcullis inspect` shows: a module, stock or guarded, as a plain object. What merely cannot be guarded is listed, not thrown. */

import { createHash } from 'node:crypto';
import { readModInfo } from '../elf/modinfo.ts';
import { type ElfObject, symbolName } from '../elf/object.ts';
import { readObject } from '../elf/read.ts';
import type { LinkPolicy } from '../policy/link-policy.ts';
import { GATE_SECTION, GATE_SIZE, type GateKind, type SectionRole } from '../policy/manifest.ts';
import { type Analysis, analyse, type DroppedSection, type MemoryBranch } from './analyse.ts';
import { LINK_WORD } from './gates.ts';
import { isInit, roleOf } from './section-rules.ts';

export interface ModuleDescription {
  file: string;
  kind: 'stock' | 'guarded';
  module: string | undefined;
  vermagic: string | undefined;
  license: string | undefined;
  depends: string | undefined;
  /** Bytes, and SHA-256 in hex, of the file. */
  size: number;
  sha256: string;
  /** The file carries an appended signature (which linking drops). */
  signed: boolean;
  sections: { name: string; role: SectionRole; size: number; permission: string; align: number; init: boolean; relocations: number }[];
  /** Functions that can be entered from outside. */
  entries: { name: string; aliases: string[]; section: string; offset: number }[];
  /** Kernel functions called, and kernel symbols used as data or address. */
  calls: string[];
  imports: string[];
  /** Guarded modules only. */
  gates: { offset: number; kind: GateKind; symbol: string }[];
  dropped: DroppedSection[];
  /** Branches through memory, which stay as they are. */
  memoryBranches: MemoryBranch[];
  /** Registers of indirect calls and jumps. */
  indirectRegisters: string[];
  /** How many relocations are edited, by kind. */
  edits: Record<string, number>;
  alternativesApplied: number;
  warnings: string[];
  /** Why it cannot be guarded; empty if it can, or is. */
  problems: string[];
}

const SIGNATURE_MAGIC = Buffer.from('~Module signature appended~\n');

/** Throws UserError only when `bytes` is no x86-64 relocatable file. `file` is the name to show. */
export function describeModule(bytes: Uint8Array, file: string, policy: LinkPolicy = {}): ModuleDescription {
  const object = readObject(bytes, file);
  const information = readModInfo(object);
  const value = (key: string) => information.entries.find(([name]) => name === key)?.[1];
  const guarded = object.section(GATE_SECTION) !== undefined;
  const privateNames = new Set(policy.private);
  const common = {
    file,
    module: information.name,
    vermagic: information.vermagic,
    license: value('license'),
    depends: value('depends'),
    size: bytes.length,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    signed: isSigned(bytes),
    sections: object.sections
      .filter(({ allocated }) => allocated)
      .map((section) => ({
        name: section.name,
        role: roleOf(section, privateNames),
        size: section.size,
        align: section.alignment,
        init: isInit(section),
        permission: `r${section.writable ? 'w' : '-'}${section.executable ? 'x' : '-'}`,
        relocations: section.relocations.length,
      })),
  };
  return guarded
    ? { ...common, kind: 'guarded', ...describeGuarded(object) }
    : { ...common, kind: 'stock', ...describeStock(analyse(object, policy)) };
}

type Findings = Omit<
  ModuleDescription,
  'file' | 'kind' | 'module' | 'vermagic' | 'license' | 'depends' | 'size' | 'sha256' | 'signed' | 'sections'
>;

function describeStock(analysis: Analysis): Findings {
  const edits: Record<string, number> = {};
  for (const { decision } of analysis.edits) edits[decision.kind] = (edits[decision.kind] ?? 0) + 1;
  const {
    dropped,
    memoryBranches,
    alternativesApplied,
    warnings,
    problems: { messages: problems },
  } = analysis;
  return {
    entries: analysis.entries.map(({ section, offset, names: [first, ...aliases] }) => ({
      name: first.name,
      aliases: aliases.map(({ name }) => name),
      section: section.name,
      offset,
    })),
    calls: analysis.calls.map(({ name }) => name).sort(),
    imports: analysis.imports,
    gates: [],
    dropped,
    memoryBranches,
    indirectRegisters: [...analysis.registers].sort(),
    edits,
    alternativesApplied,
    warnings,
    problems,
  };
}

function describeGuarded(object: ElfObject): Findings {
  const section = object.section(GATE_SECTION);
  const entries: Findings['entries'] = [];
  const gates: Findings['gates'] = [
    { offset: 0, kind: 'return', symbol: '' },
    { offset: GATE_SIZE, kind: 're-entry', symbol: '' },
  ];
  for (const { offset, symbol, addend } of section?.relocations ?? []) {
    const own = typeof symbol.place === 'object';
    const name = symbolName(symbol);
    gates.push({ offset: offset - LINK_WORD, kind: own ? 'entry' : 'call', symbol: name });
    if (typeof symbol.place === 'object') entries.push({ name, aliases: [], section: symbol.place.name, offset: symbol.value + addend });
  }
  const calls = gates.filter(({ kind }) => kind === 'call').map(({ symbol }) => symbol);
  const imports = new Set<string>();
  for (const other of object.sections) {
    if (other === section || !other.allocated) continue;
    for (const { symbol, type } of other.relocations) if (type !== 0 && symbol.place === 'undefined') imports.add(symbol.name);
  }
  return {
    entries,
    calls,
    imports: [...imports].sort(),
    gates,
    dropped: [],
    memoryBranches: [],
    indirectRegisters: [],
    edits: {},
    alternativesApplied: 0,
    warnings: [],
    problems: [],
  };
}

function isSigned(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes.subarray(Math.max(0, bytes.length - SIGNATURE_MAGIC.length)), SIGNATURE_MAGIC) === 0;
}
