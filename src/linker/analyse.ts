/**
 * Everything the linker finds out about a module before it changes a transfer: which relocations need an edit, which functions escape,
 * what is imported, what is dropped. `link` acts on it; `describe` prints it, problems included.
 */

import { hex } from '../base/hex.ts';
import { R, STT } from '../elf/constants.ts';
import { type ElfObject, type ElfSymbol, FunctionIndex, type Relocation, type Section } from '../elf/object.ts';
import type { LinkPolicy } from '../policy/link-policy.ts';
import { GATE_SECTION } from '../policy/manifest.ts';
import { HEAP_HEADER, HEAP_SECTION } from '../policy/private-memory.ts';
import { applyAlternatives } from './alternatives.ts';
import { classify, type Decision, describeSite, fieldWidth, type OwnFunction } from './classify.ts';
import { leavesToKernel } from './device-routines.ts';
import { freezeTracepoints, frozenCode } from './frozen.ts';
import { parameterSetters } from './parameters.ts';
import { Problems } from './problems.ts';
import { DROPPED_SECTIONS, isPrivate, privateObstacle, THIS_MODULE_SECTION, THUNK_SECTION } from './section-rules.ts';

/** A relocation that the linker edits. */
export interface Edit {
  section: Section;
  relocation: Relocation;
  decision: Exclude<Decision, { kind: 'keep' | 'problem' | 'memory-branch' }>;
}
export interface DroppedSection {
  name: string;
  size: number;
  reason: string;
}
/** A `call *mem` or `jmp *mem` that stays. `offset` is that of its relocated field. */
export interface MemoryBranch {
  section: string;
  offset: number;
  symbol: string;
  jump: boolean;
}

export interface Analysis {
  edits: Edit[];
  /** Own functions whose address escapes, each once, in the order met. */
  entries: OwnFunction[];
  /** Those of `entries`, by first name, that the kernel calls before the init function. */
  beforeInit: ReadonlySet<ElfSymbol>;
  /** Helpers for device registers, by name: the module gets routines of its own. */
  deviceRoutines: Map<string, ElfSymbol>;
  /** Undefined symbols called. */
  calls: ElfSymbol[];
  /** Names of undefined symbols used as data or address, sorted. */
  imports: string[];
  /** Registers of indirect calls and jumps. */
  registers: Set<string>;
  memoryBranches: MemoryBranch[];
  dropped: DroppedSection[];
  /** Places where an alternative for SMAP was applied. */
  alternativesApplied: number;
  privateSections: Set<Section>;
  /** Why the module cannot be guarded. None if it can. */
  problems: Problems;
  /** What works differently in the guarded module. */
  warnings: string[];
}

/** Analyses a module. Applies alternatives and removes dropped sections from `object`, and changes nothing else. */
export function analyse(object: ElfObject, policy: LinkPolicy): Analysis {
  const analysis: Analysis = {
    edits: [],
    entries: [],
    beforeInit: parameterSetters(object),
    deviceRoutines: new Map(),
    calls: [],
    imports: [],
    registers: new Set(),
    memoryBranches: [],
    dropped: [],
    alternativesApplied: 0,
    privateSections: new Set(),
    problems: new Problems(),
    warnings: [],
  };
  checkModule(object, analysis);
  analysis.warnings.push(...frozenCode(object, analysis.problems));
  const alternatives = applyAlternatives(object, analysis.problems);
  analysis.alternativesApplied = alternatives.applied;
  if (alternatives.defaults.size > 0) analysis.warnings.push(`alternatives keep their default for ${featureList(alternatives.defaults)}`);
  freezeTracepoints(object);
  const removed = dropSections(object, analysis);
  classifyAll(object, removed, analysis);
  applyPolicy(object, policy, analysis);
  return analysis;
}

function checkModule(object: ElfObject, { problems }: Analysis): void {
  if (object.section(GATE_SECTION) || object.section(THUNK_SECTION))
    problems.add(`it has a section ${GATE_SECTION} or ${THUNK_SECTION}: it is guarded already`);
  if (!object.section(THIS_MODULE_SECTION)) problems.add(`it has no section ${THIS_MODULE_SECTION}, so it is no complete kernel module`);
  for (const section of object.sections) {
    if (section.allocated && section.writable && section.executable) problems.add(`section ${section.name} is writable and executable`);
  }
}

function dropSections(object: ElfObject, analysis: Analysis): Set<Section> {
  const removed = new Set<Section>();
  for (const section of object.sections) {
    const reason = DROPPED_SECTIONS.get(section.name);
    if (reason === undefined) continue;
    removed.add(section);
    analysis.dropped.push({ name: section.name, size: section.size, reason });
  }
  object.removeSections(removed);
  return removed;
}

function classifyAll(object: ElfObject, removed: ReadonlySet<Section>, analysis: Analysis): void {
  const functions = new FunctionIndex(object);
  const entries = new Map<ElfSymbol, OwnFunction>();
  const calls = new Set<ElfSymbol>();
  const imports = new Set<string>();
  for (const section of object.sections) {
    if (!section.allocated) continue;
    checkOverlap(section, analysis.problems);
    for (const relocation of section.relocations) {
      if (analysis.problems.full) return;
      const { place } = relocation.symbol;
      if (typeof place === 'object' && removed.has(place)) {
        analysis.problems.add(`${describeSite(section, relocation)} refers to ${place.name}, which is dropped`);
        continue;
      }
      const decision = classify(section, relocation, functions);
      switch (decision.kind) {
        case 'problem':
          analysis.problems.add(decision.message);
          continue;
        case 'keep':
          if (place === 'undefined' && relocation.type !== R.none) imports.add(relocation.symbol.name);
          continue;
        case 'memory-branch':
          if (place === 'undefined') imports.add(relocation.symbol.name);
          analysis.memoryBranches.push({
            section: section.name,
            offset: relocation.offset,
            symbol: relocation.symbol.name,
            jump: decision.jump,
          });
          continue;
        case 'device-routine':
          analysis.deviceRoutines.set(decision.symbol.name, decision.symbol);
          if (leavesToKernel(decision.symbol.name)) calls.add(decision.symbol);
          break;
        case 'call-out':
          calls.add(decision.symbol);
          break;
        case 'indirect':
          analysis.registers.add(decision.register);
          break;
        case 'escape':
          entries.set(decision.target.names[0], decision.target);
          break;
        case 'function-entry':
        case 'return':
          break;
      }
      analysis.edits.push({ section, relocation, decision });
    }
  }
  analysis.entries = [...entries.values()];
  analysis.calls = [...calls];
  analysis.imports = [...imports].sort();
}

/** Two relocations of the same bytes would make the edits depend on their order. */
function checkOverlap(section: Section, problems: Problems): void {
  const fields = section.relocations.filter(({ type }) => type !== R.none).sort((a, b) => a.offset - b.offset);
  for (let index = 1; index < fields.length; index++) {
    const former = fields[index - 1];
    if (former.offset + (fieldWidth(former.type) ?? 0) > fields[index].offset) {
      problems.add(`${describeSite(section, fields[index])} overlaps another relocation`);
    }
  }
}

function applyPolicy(object: ElfObject, policy: LinkPolicy, analysis: Analysis): void {
  const { problems } = analysis;
  if (policy.entries) {
    const allowed = new Set([...policy.entries, 'init_module', 'cleanup_module']);
    for (const { section, offset, names } of analysis.entries) {
      if (names.some(({ name }) => allowed.has(name))) continue;
      problems.add(
        `function ${names[0].name} (${section.name}+${hex(offset)}) can be entered from outside, but the policy's entries do not name it`,
      );
    }
    const own = new Set(object.symbols.filter(({ type, place }) => type === STT.func && typeof place === 'object').map(({ name }) => name));
    for (const name of policy.entries)
      if (!own.has(name)) problems.add(`the policy's entries name ${name}, which is no function of the module`);
  }
  if (policy.imports) {
    const allowed = new Set(policy.imports);
    for (const name of importedNames(analysis))
      if (!allowed.has(name)) problems.add(`the module imports ${name}, but the policy's imports do not name it`);
  }
  const privateNames = new Set(policy.private);
  for (const name of privateNames)
    if (!object.section(name)) problems.add(`the policy's private sections name ${name}, which the module does not have`);
  const heap = object.section(HEAP_SECTION);
  if (policy.heap !== undefined && !heap)
    problems.add(
      `the policy sets a heap of ${policy.heap} bytes, but the module has no section ${HEAP_SECTION}: it declares no PORTCULLIS_HEAP`,
    );
  if (heap && heap.data.length < HEAP_HEADER) problems.add(`section ${HEAP_SECTION} does not begin with the header of a heap`);
  for (const section of object.sections) {
    if (!isPrivate(section, privateNames)) continue;
    const obstacle = privateObstacle(section);
    if (obstacle === undefined) analysis.privateSections.add(section);
    else problems.add(`section ${section.name} cannot be private: ${obstacle}`);
  }
}

/** Names of everything used from outside, called or not, sorted. */
export function importedNames({ calls, imports }: Analysis): string[] {
  return [...new Set([...calls.map(({ name }) => name), ...imports])].sort();
}

function featureList(defaults: ReadonlyMap<number, number>): string {
  const features = [...defaults].sort(([a], [b]) => a - b).map(([feature, count]) => `${feature >> 5}*32+${feature & 31} (${count})`);
  return `CPU features ${features.join(', ')}`;
}
