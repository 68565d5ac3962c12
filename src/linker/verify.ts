/**
 * Checks a guarded module against its manifest from the bytes alone. It shares no code with the linker's editing: what the linker believes
 * it did is not asked, only what the file says. Run on every linker output, and by the VMM on every image that is registered.
 */

import { createHash } from 'node:crypto';
import { hex } from '../base/hex.ts';
import { R, relocationName } from '../elf/constants.ts';
import { type ElfObject, FunctionIndex, type Relocation, type Section, symbolName } from '../elf/object.ts';
import { readObject } from '../elf/read.ts';
import { SHADOW_RANGES, SHADOW_TEXT } from '../policy/shadow-stack.ts';
import { DEVICE_SECTION, GATE_PORT, GATE_SECTION, GATE_SIZE, type Gate, type Manifest, type SectionRole } from '../policy/manifest.ts';
import { deviceRoutinesFinding } from './device-routines.ts';
import { TRACEPOINT_KEY, TRACEPOINT_SECTION } from './frozen.ts';
import { DROPPED_SECTIONS, isInit, isPositionList, THUNK_SECTION } from './section-rules.ts';
import { shadowStackFindings } from './shadow-stack-check.ts';

const PAGE_SIZE = 4096;
const MAX_FINDINGS = 100;
/** Kernel thunks that must not be reached from guarded text. */
const FORBIDDEN = /^(__fentry__|__x86_return_thunk|__x86_indirect_.*)$/;

/**
 * What does not hold; empty if all does. At most 100 findings. `file` is the name used in messages.
 * Throws UserError when `image` is no relocatable file.
 */
export function verifyLinked(image: Uint8Array, manifest: Manifest, file: string): string[] {
  const findings: string[] = [];
  const digest = createHash('sha256').update(image).digest('hex');
  if (digest !== manifest.image) return [`the file's SHA-256 is ${digest}; the manifest is for ${manifest.image}`];
  const object = readObject(image, file);
  checkSections(object, manifest, findings);
  const gates = object.section(GATE_SECTION);
  if (!gates) return [...findings, `there is no section ${GATE_SECTION}`];
  checkGateSection(object, gates, manifest, findings);
  const functions = new FunctionIndex(object);
  checkGates(gates, manifest, functions, findings);
  checkThunks(object, findings);
  checkDeviceRoutines(object, gates, findings);
  checkTracepoints(object, findings);
  checkShadowStack(object, manifest, findings);
  const entryOffsets = new Set(manifest.gates.filter(({ kind }) => kind === 'entry').map(({ offset }) => offset));
  const callOffsets = new Set(manifest.gates.filter(({ kind }) => kind === 'call').map(({ offset }) => offset));
  const imports = new Set<string>();
  for (const section of object.sections) {
    if (!section.allocated || section === gates || SHADOW_SECTIONS.has(section.name)) continue;
    for (const relocation of section.relocations) {
      if (findings.length >= MAX_FINDINGS) return findings;
      const finding = checkRelocation(section, relocation, gates, entryOffsets, callOffsets);
      if (finding !== undefined) {
        const against = `${relocationName(relocation.type)} against ${symbolName(relocation.symbol)}`;
        findings.push(`${section.name}+${hex(relocation.offset)}: ${against} ${finding}`);
      }
      if (relocation.symbol.place === 'undefined' && relocation.type !== R.none) imports.add(relocation.symbol.name);
    }
  }
  const found = [...imports].sort();
  if (found.join() !== [...manifest.imports].sort().join()) {
    const listed = new Set(manifest.imports);
    const differing = [...found.filter((name) => !listed.has(name)), ...manifest.imports.filter((name) => !imports.has(name))];
    findings.push(`the manifest's imports differ from the file's in: ${differing.slice(0, 5).join(', ')}`);
  }
  return findings.slice(0, MAX_FINDINGS);
}

function checkSections(object: ElfObject, manifest: Manifest, findings: string[]): void {
  const listed = new Map(manifest.sections.map((section) => [section.index, section]));
  for (const [index, section] of object.sections.entries()) {
    if (DROPPED_SECTIONS.has(section.name)) findings.push(`section ${section.name} should have been dropped`);
    const entry = listed.get(index);
    listed.delete(index);
    if (!section.allocated) {
      if (entry) findings.push(`the manifest lists section ${index} (${section.name}), which is not allocated`);
      continue;
    }
    if (!entry) {
      findings.push(`the manifest does not list section ${index} (${section.name})`);
      continue;
    }
    if (entry.name !== section.name || entry.size !== section.size || entry.align !== section.alignment || entry.init !== isInit(section)) {
      findings.push(
        `section ${index} is ${section.name}, ${section.size} bytes aligned to ${section.alignment}; ` +
          `the manifest says ${entry.name}, ${entry.size}, ${entry.align}`,
      );
    }
    const expected = rolesAllowed(section);
    if (!expected.includes(entry.role))
      findings.push(`section ${section.name} has role ${entry.role}; its flags allow ${expected.join(' or ')}`);
    if (section.executable && section.writable) findings.push(`section ${section.name} is writable and executable`);
    if (
      entry.role === 'private' &&
      (section.alignment % PAGE_SIZE !== 0 || section.size % PAGE_SIZE !== 0 || section.size === 0 || isInit(section))
    ) {
      findings.push(`private section ${section.name} does not consist of whole pages`);
    }
  }
  for (const { index, name } of listed.values()) findings.push(`the manifest lists section ${index} (${name}), which does not exist`);
}

/** The roles that a section may have by its flags and name. */
function rolesAllowed(section: Section): SectionRole[] {
  if (section.name === GATE_SECTION) return ['gates'];
  if (section.executable) return ['text'];
  return section.writable ? ['data', 'private', 'metadata'] : ['constants', 'metadata'];
}

function checkGateSection(object: ElfObject, gates: Section, manifest: Manifest, findings: string[]): void {
  if (!gates.allocated || !gates.executable || gates.writable) findings.push(`${GATE_SECTION} is not allocated, read-only and executable`);
  if (gates.alignment % PAGE_SIZE !== 0 || gates.size % PAGE_SIZE !== 0 || gates.size === 0)
    findings.push(`${GATE_SECTION} does not consist of whole pages`);
  const core = object.sections.filter((section) => section.allocated && section.executable && !isInit(section));
  if (core.at(-1) !== gates) findings.push(`${GATE_SECTION} is not the last executable section`);
  if (object.sections.filter(({ name }) => name === GATE_SECTION).length > 1) findings.push(`there is more than one ${GATE_SECTION}`);
  if (manifest.gatePort !== GATE_PORT) findings.push(`the manifest's gate port is ${manifest.gatePort}; this version knows ${GATE_PORT}`);
}

function checkGates(section: Section, manifest: Manifest, functions: FunctionIndex, findings: string[]): void {
  const { gates } = manifest;
  if (gates[0]?.kind !== 'return' || gates[1]?.kind !== 're-entry') findings.push('gates 0 and 1 are not the return and the re-entry gate');
  if (gates.length * GATE_SIZE > section.size) {
    findings.push(`the manifest lists ${gates.length} gates; ${GATE_SECTION} has room for ${section.size / GATE_SIZE}`);
    return;
  }
  const links = new Map(section.relocations.map((relocation) => [relocation.offset, relocation]));
  if (links.size !== section.relocations.length) findings.push(`${GATE_SECTION} has two relocations at one place`);
  for (const [index, gate] of gates.entries()) {
    const link = links.get(gate.offset + 8);
    links.delete(gate.offset + 8);
    const finding = checkGate(section, gate, index, link, functions);
    if (finding !== undefined) findings.push(`gate ${index} (${gate.kind} ${gate.symbol}): ${finding}`);
  }
  for (const offset of links.keys()) findings.push(`${GATE_SECTION}+${hex(offset)} is relocated, but belongs to no gate's link word`);
  if (section.data.subarray(gates.length * GATE_SIZE).some((byte) => byte !== 0xcc))
    findings.push(`${GATE_SECTION} has bytes other than int3 behind its last gate`);
  for (const offset of [manifest.initGate, manifest.cleanupGate]) {
    if (offset !== -1 && gates[offset / GATE_SIZE]?.kind !== 'entry')
      findings.push(`the init or cleanup gate at ${offset} is no entry gate`);
  }
}

function checkGate(
  section: Section,
  gate: Gate,
  index: number,
  link: Relocation | undefined,
  functions: FunctionIndex,
): string | undefined {
  if (gate.offset !== index * GATE_SIZE) return `its offset is ${gate.offset}; ${index * GATE_SIZE} is expected`;
  const bytes = section.data.subarray(gate.offset, gate.offset + GATE_SIZE);
  const expected = [0xe6, GATE_PORT, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0, 0, 0, 0, 0, 0, 0, 0];
  if (expected.some((byte, position) => bytes[position] !== byte)) return 'its bytes are not those of a gate';
  if (gate.kind === 'return' || gate.kind === 're-entry') {
    return index > 1 ? 'there is one gate of its kind' : link ? 'its link word is relocated' : undefined;
  }
  if (link?.type !== R.abs64) return 'its link word has no R_X86_64_64 relocation';
  const { symbol, addend } = link;
  if (gate.kind === 'call') {
    return symbol.place === 'undefined' && symbol.name === gate.symbol && addend === 0 && !FORBIDDEN.test(symbol.name)
      ? undefined
      : `its link word is for ${symbolName(symbol)}+${addend}`;
  }
  const { place } = symbol;
  if (typeof place === 'string' || !place.executable || place === section)
    return `its link word is for ${symbolName(symbol)}, which is no code of the module`;
  const names = functions.at(place, symbol.value + addend);
  if (!names?.some(({ name }) => name === gate.symbol))
    return `its link word is for ${place.name}+${hex(symbol.value + addend)}, where ${gate.symbol} does not start`;
  if (gate.section !== place.name || gate.sectionOffset !== symbol.value + addend)
    return `the manifest places it at ${gate.section}+${gate.sectionOffset}`;
  return undefined;
}

/** Thunks are `jmp *REG` and int3 in four bytes each: ff e0+r cc cc, or 41 ff e0+r cc. */
function checkThunks(object: ElfObject, findings: string[]): void {
  const section = object.section(THUNK_SECTION);
  if (!section) return;
  const text = Buffer.from(section.data).toString('hex');
  if (!/^(ffe[0-35-7]cccc|41ffe[0-7]cc)+$/.test(text) || section.relocations.length > 0)
    findings.push(`${THUNK_SECTION} holds something other than thunks`);
}

/** The routines for devices are those of this version of the linker; their jumps to the kernel go by gates (checked with all relocations). */
function checkDeviceRoutines(object: ElfObject, gates: Section, findings: string[]): void {
  const section = object.section(DEVICE_SECTION);
  if (!section) return;
  const finding = deviceRoutinesFinding(section.data, new Set(section.relocations.map(({ offset }) => offset)));
  if (finding !== undefined) findings.push(`${DEVICE_SECTION} ${finding}`);
  if (section.relocations.some(({ type, symbol }) => type !== R.plt32 || symbol.place !== gates))
    findings.push(`${DEVICE_SECTION} has a relocation that is no jump to a gate`);
}

/** Their relocations are checked one by one, by what a shadow stack is. */
const SHADOW_SECTIONS: ReadonlySet<string> = new Set([SHADOW_TEXT, SHADOW_RANGES]);

function checkShadowStack(object: ElfObject, manifest: Manifest, findings: string[]): void {
  findings.push(...shadowStackFindings(object, manifest.gates));
  if ((object.section(SHADOW_TEXT) !== undefined) !== (manifest.shadowStack === true))
    findings.push('the manifest and the file disagree about a shadow stack');
}

/** A tracepoint with a static call would have the kernel patch the module's text. */
function checkTracepoints(object: ElfObject, findings: string[]): void {
  const section = object.section(TRACEPOINT_SECTION);
  const key = section?.relocations.find(({ symbol }) => TRACEPOINT_KEY.test(symbol.name));
  if (section && key) findings.push(`${section.name}+${hex(key.offset)}: the tracepoint has a static call, ${key.symbol.name}`);
}

/** What is wrong with a relocation outside the gate section, or undefined. */
function checkRelocation(
  section: Section,
  relocation: Relocation,
  gates: Section,
  entries: ReadonlySet<number>,
  calls: ReadonlySet<number>,
): string | undefined {
  const { type, symbol, addend, offset } = relocation;
  if (type === R.none) return undefined;
  if (FORBIDDEN.test(symbol.name) && symbol.place === 'undefined') return 'reaches a thunk of the kernel';
  const isBranch = section.executable && (type === R.plt32 || (type === R.pc32 && isBranchOpcode(section.data, offset)));
  if (symbol.place === 'undefined') return isBranch || type === R.plt32 ? 'branches out of the module without a gate' : undefined;
  if (typeof symbol.place === 'string' || !symbol.place.executable)
    return isBranch ? 'branches to what is no code of the module' : undefined;
  if (isPositionList(section)) return undefined;
  // From here on it concerns code of the module: only branches may name it directly, everything else must name a gate.
  const target = symbol.value + addend + (section.executable && (type === R.pc32 || type === R.plt32) ? 4 : 0);
  if (symbol.place !== gates) return isBranch ? undefined : `hands out the address ${symbol.place.name}+${hex(target)}`;
  if (isBranch) return calls.has(target) ? undefined : 'branches to a gate that is no call gate';
  return entries.has(target) ? undefined : 'hands out the address of a gate that is no entry gate';
}

/** e8 call, e9 jmp, 0f 8x jcc before the field. */
function isBranchOpcode(code: Uint8Array, offset: number): boolean {
  const opcode = code[offset - 1];
  return opcode === 0xe8 || opcode === 0xe9 || (code[offset - 2] === 0x0f && (opcode & 0xf0) === 0x80);
}
