/**
 * The linker: a stock, prebuilt kernel module in, a guarded module and its manifest out. It edits relocations and adds two
 * sections; no function is moved, no instruction of the module's own logic is changed. Same input, same output.
 */

import { createHash } from 'node:crypto';
import { UserError } from '../base/errors.ts';
import type { ElfObject, ElfSymbol, Section } from '../elf/object.ts';
import { readModInfo } from '../elf/modinfo.ts';
import { readObject } from '../elf/read.ts';
import { SHT } from '../elf/constants.ts';
import { writeObject } from '../elf/write.ts';
import type { LinkPolicy } from '../policy/link-policy.ts';
import { GATE_PORT, type Gate, type Manifest, type ManifestSection } from '../policy/manifest.ts';
import { HEAP_SECTION } from '../policy/private-memory.ts';
import { type Analysis, analyse, type Edit } from './analyse.ts';
import { callGates } from './call-gates.ts';
import { addDeviceRoutines, type DeviceRoutines } from './device-routines.ts';
import { addGates, type GateTable } from './gates.ts';
import { type ExportVersion, importPrint } from './print-import.ts';
import { RecordedCode } from './recorded.ts';
import { isInit, roleOf } from './section-rules.ts';
import { addShadowStack, type ShadowStack } from './shadow-stack.ts';
import { addThunks } from './thunks.ts';
import { verifyLinked } from './verify.ts';

/** Version of the linker, in every manifest. Raise it whenever the output for the same input changes. */
export const LINKER_VERSION = 'portcullis-linker-5';
const PAGE_SIZE = 4096;
/** `nopl 0(%rax,%rax)`, 5 bytes (Intel SDM vol. 2, NOP, table 4-12). */
const NOP5 = [0x0f, 0x1f, 0x44, 0x00, 0x00];
/** `ret`, then int3 against straight-line speculation, in place of `jmp __x86_return_thunk`; as the kernel's apply_returns does. */
const RETURN5 = [0xc3, 0xcc, 0xcc, 0xcc, 0xcc];
/** jmp rel32 */
const JUMP = 0xe9;

export interface LinkResult {
  /** The guarded .ko. */
  image: Uint8Array;
  manifest: Manifest;
  warnings: string[];
}

/**
 * Guards a module. `file` is the name used in messages; `exportVersion` knows the CRCs of the kernel's exports, for what the linker imports itself.
 * Throws UserError when the file is no module or has something that cannot be guarded; the message names section, offset, symbol and bytes.
 */
export function linkModule(input: Uint8Array, file: string, policy: LinkPolicy = {}, exportVersion?: ExportVersion): LinkResult {
  const object = readObject(input, file);
  const information = readModInfo(object);
  const analysis = analyse(object, policy);
  const [first, ...rest] = analysis.problems.messages;
  if (first !== undefined) {
    const more = rest.length > 0 ? ` (and ${rest.length} more)` : '';
    throw new UserError(`${file} cannot be guarded: ${first}${more}`, 'portcullis inspect FILE lists every obstacle');
  }
  if (information.name === undefined || information.vermagic === undefined) {
    throw new UserError(
      `${file} cannot be guarded: its .modinfo has no name or no vermagic`,
      'give a complete module (.ko), not an object file',
    );
  }

  const [release] = information.vermagic.split(' ');
  importPrint(object, analysis.calls, (symbol) => exportVersion?.(release, symbol));
  const recorded = policy.shadowStack ? recordedCode(object, analysis) : undefined;
  const thunks = addThunks(object, analysis.registers);
  const routines = addDeviceRoutines(object, analysis.deviceRoutines);
  const shadow = recorded && addShadowStack(object, functionEntries(analysis.edits), recorded, file);
  const table = addGates(object, { ...analysis, calls: callGates(analysis, recorded) });
  shadow?.complete(table.returnGate);
  for (const jump of routines.jumps) jump.symbol = table.call(jump.symbol);
  for (const section of analysis.privateSections) {
    padToPages(section, section.name === HEAP_SECTION ? policy.heap : undefined);
    if (section.name === HEAP_SECTION) writeHeapSize(section);
  }
  const spent = new Set(analysis.edits.filter((edit) => apply(edit, thunks, routines, shadow, table)).map(({ relocation }) => relocation));
  for (const section of object.sections) section.relocations = section.relocations.filter((relocation) => !spent.has(relocation));
  dropUnusedSymbols(object);

  const image = writeObject(object);
  const manifest: Manifest = {
    format: 'portcullis-manifest-1',
    module: information.name,
    vermagic: information.vermagic,
    image: sha256(image),
    source: sha256(input),
    linker: LINKER_VERSION,
    gatePort: GATE_PORT,
    sections: manifestSections(object, new Set(policy.private)),
    gates: table.gates,
    initGate: gateOf('init_module', analysis, table),
    cleanupGate: gateOf('cleanup_module', analysis, table),
    imports: analysis.imports,
    vector: analysis.calls.some(({ name }) => name.startsWith('kernel_fpu_begin')),
    privileges: [...new Set(policy.privileges)].sort(),
    ...(shadow ? { shadowStack: true } : {}),
  };
  const findings = verifyLinked(image, manifest, file);
  if (findings.length > 0) throw new Error(`the linker's output for ${file} does not hold: ${findings.join('; ')}`);
  return { image, manifest, warnings: analysis.warnings };
}

/** Tells of functions without a record in the warnings. */
function recordedCode(object: ElfObject, { edits, warnings }: Analysis): RecordedCode {
  const recorded = new RecordedCode(object, functionEntries(edits));
  const { length } = recorded.without;
  const names = recorded.without.slice(0, 5).join(', ');
  if (length > 0)
    warnings.push(`${length} function(s) do not call __fentry__ and return without a record: ${names}${length > 5 ? ', ...' : ''}`);
  return recorded;
}

/** Every `call __fentry__`. */
const functionEntries = (edits: readonly Edit[]): Edit[] => edits.filter(({ decision }) => decision.kind === 'function-entry');

/** Carries out one edit. True if the relocation is used up. */
function apply(
  { section, relocation, decision }: Edit,
  thunks: ReadonlyMap<string, ElfSymbol>,
  routines: DeviceRoutines,
  shadow: ShadowStack | undefined,
  table: GateTable,
): boolean {
  switch (decision.kind) {
    case 'function-entry': {
      const stub = shadow?.stubs.get(relocation);
      if (stub === undefined) {
        section.data.set(NOP5, relocation.offset - 1);
        return true;
      }
      section.data[relocation.offset - 1] = JUMP;
      relocation.symbol = stub;
      return false;
    }
    case 'return': {
      const leave = shadow?.leave(section, relocation.offset);
      if (leave === undefined) {
        section.data.set(RETURN5, relocation.offset - 1);
        return true;
      }
      relocation.symbol = leave;
      return false;
    }
    case 'indirect': {
      const thunk = thunks.get(decision.register);
      if (!thunk) throw new Error(`no thunk was made for ${decision.register}`);
      relocation.symbol = thunk;
      return false;
    }
    case 'device-routine':
      relocation.symbol = routines.symbols.get(decision.symbol.name) ?? missing(decision.symbol);
      return false;
    case 'call-out':
      relocation.symbol = table.call(decision.symbol, relocation);
      return false;
    case 'escape':
      relocation.symbol = table.entry(decision.target);
      relocation.addend = decision.addend;
      return false;
  }
}

function missing({ name }: ElfSymbol): never {
  throw new Error(`no routine was made for ${name}`);
}

/** Private sections fill whole pages, so that no page is shared with what the guest may reach. `least`: bytes that it shall have. */
function padToPages(section: Section, least = 1): void {
  const size = Math.ceil(Math.max(1, least, section.size) / PAGE_SIZE) * PAGE_SIZE;
  section.alignment = Math.max(section.alignment, PAGE_SIZE);
  if (section.type === SHT.nobits) section.reserved = size;
  else {
    const data = new Uint8Array(size);
    data.set(section.data);
    section.data = data;
  }
}

/** The heap begins with its size (modules/portcullis.h), which only the linker knows. */
function writeHeapSize({ data }: Section): void {
  new DataView(data.buffer, data.byteOffset, data.byteLength).setBigUint64(0, BigInt(data.length), true);
}

/** The kernel resolves every undefined symbol of the table, used or not; those that only dropped lists used go. */
function dropUnusedSymbols(object: ElfObject): void {
  const used = new Set(object.sections.flatMap((section) => section.relocations.map(({ symbol }) => symbol)));
  const [none] = object.symbols;
  object.symbols = object.symbols.filter((symbol) => symbol === none || symbol.place !== 'undefined' || used.has(symbol));
}

/** The allocated sections as the manifest lists them. */
export function manifestSections(object: ElfObject, privateNames: ReadonlySet<string>): ManifestSection[] {
  return object.sections.flatMap((section, index) =>
    section.allocated
      ? [
          {
            index,
            name: section.name,
            role: roleOf(section, privateNames),
            size: section.size,
            align: section.alignment,
            init: isInit(section),
          },
        ]
      : [],
  );
}

function gateOf(name: string, { entries }: Analysis, { gates }: GateTable): number {
  const target = entries.find(({ names }) => names.some((symbol) => symbol.name === name));
  if (!target) return -1;
  return (
    gates.find((gate: Gate) => gate.kind === 'entry' && gate.section === target.section.name && gate.sectionOffset === target.offset)
      ?.offset ?? -1
  );
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
