/**
 * For the linker's tests on stock modules: where they are, and a disassembly of the linker's output by a disassembler that is not ours
 * (iced-x86), independent of the relocation rules.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic } from 'iced-x86';
import { R } from '../../src/elf/constants.ts';
import type { ElfObject, Relocation, Section } from '../../src/elf/object.ts';
import { readObject } from '../../src/elf/read.ts';
import { cachedKernel } from '../../src/guest/fetch.ts';
import { GATE_SECTION, type Manifest } from '../../src/policy/manifest.ts';

/** The folder lib/modules/RELEASE, or why there is none. */
export function findModules(): { folder: string } | { missing: string } {
  const tree = process.env.PORTCULLIS_KERNEL_TREE;
  if (tree === undefined) {
    const kernel = cachedKernel();
    return kernel ? { folder: kernel.modules } : { missing: 'there is no kernel in the cache and PORTCULLIS_KERNEL_TREE is not set' };
  }
  for (const parent of [join(tree, 'lib/modules'), join(tree, 'usr/lib/modules')]) {
    const [release] = existsSync(parent) ? readdirSync(parent) : [];
    if (release !== undefined) return { folder: join(parent, release) };
  }
  return { missing: `PORTCULLIS_KERNEL_TREE is ${tree}, which has no lib/modules` };
}

interface Branch {
  at: number;
  flow: FlowControl;
  target: number;
  relocation: Relocation | undefined;
}

/** All branches of a section, and where its instructions start. Fails on bytes that are no instruction. */
function disassemble(section: Section): { branches: Branch[]; starts: Set<number>; outs: number[] } {
  const relocations = new Map(section.relocations.map((relocation) => [relocation.offset, relocation]));
  const decoder = new Decoder(64, section.data, DecoderOptions.None);
  const instruction = new Instruction();
  const branches: Branch[] = [];
  const starts = new Set<number>();
  const outs: number[] = [];
  decoder.ip = 0n;
  while (decoder.canDecode) {
    const at = decoder.position;
    decoder.decodeOut(instruction);
    if (instruction.isInvalid) throw new Error(`${section.name}+0x${at.toString(16)}: no instruction`);
    starts.add(at);
    if (instruction.mnemonic === Mnemonic.Out && section.data[at] === 0xe6) outs.push(at);
    const flow = instruction.flowControl;
    if (flow === FlowControl.Next || flow === FlowControl.Interrupt || flow === FlowControl.Exception) continue;
    const near = flow === FlowControl.Call || flow === FlowControl.UnconditionalBranch || flow === FlowControl.ConditionalBranch;
    branches.push({
      at,
      flow,
      target: near ? Number(instruction.nearBranchTarget) : -1,
      relocation: near ? relocations.get(at + instruction.length - 4) : undefined,
    });
  }
  instruction.free();
  decoder.free();
  return { branches, starts, outs };
}

/** Every branch that leads where it should not. */
export function strayBranches(image: Uint8Array, memoryBranches: ReadonlySet<string>): string[] {
  const object = readObject(image, 'image');
  const gates = object.section(GATE_SECTION);
  const text = object.sections.filter((section) => section.allocated && section.executable && section !== gates);
  const code = new Map(text.map((section) => [section, disassemble(section)]));
  const stray: string[] = [];
  for (const [section, { branches, starts, outs }] of code) {
    for (const at of outs) if (section.data[at + 1] === 0x5e) stray.push(`${section.name}+${at}: a gate's instruction`);
    for (const { at, flow, target, relocation } of branches) {
      const where = `${section.name}+0x${at.toString(16)}`;
      if (flow === FlowControl.Return) continue;
      if (flow === FlowControl.IndirectBranch || flow === FlowControl.IndirectCall) {
        if (section.name !== '.text.thunks' && !memoryBranches.has(`${section.name}+${at + 2}`)) stray.push(`${where}: an indirect branch`);
      } else if (!relocation) {
        if (!starts.has(target)) stray.push(`${where}: a branch to 0x${target.toString(16)}, where no instruction starts`);
      } else {
        const { symbol, addend } = relocation;
        const to = symbol.value + addend + 4;
        if (typeof symbol.place === 'string') stray.push(`${where}: a branch to ${symbol.name} without a gate`);
        else if (symbol.place === gates ? to % 16 !== 0 : !code.get(symbol.place)?.starts.has(to))
          stray.push(`${where}: a branch into the middle of ${symbol.place.name}`);
      }
    }
  }
  return stray;
}

/**
 * Sections that name places in the text for the kernel to look up, not to call: where to unwind, to patch, to report. An address in
 * `__ex_table` is where a fault of the module's own goes on; the monitor resumes there by itself.
 */
const POSITION_LISTS =
  /^(__ex_table|__bug_table|\.orc_unwind_ip|__mcount_loc|__patchable_function_entries|\.smp_locks|\.parainstructions|\.altinstructions)$/;

/** Every function address that is handed out and is not that of an entry gate. */
export function strayAddresses(image: Uint8Array, manifest: Manifest): string[] {
  const object: ElfObject = readObject(image, 'image');
  const gates = object.section(GATE_SECTION);
  const entries = new Set(manifest.gates.filter(({ kind }) => kind === 'entry').map(({ offset }) => offset));
  const stray: string[] = [];
  for (const section of object.sections) {
    if (!section.allocated || section === gates || POSITION_LISTS.test(section.name)) continue;
    const branches = section.executable ? new Set(disassemble(section).branches.map(({ relocation }) => relocation)) : undefined;
    for (const relocation of section.relocations) {
      const { symbol, addend, offset, type } = relocation;
      if (type === R.none || typeof symbol.place === 'string' || !symbol.place.executable || branches?.has(relocation)) continue;
      const relative = section.executable && (type === R.pc32 || type === R.plt32);
      const target = symbol.value + addend + (relative ? 4 : 0);
      if (symbol.place !== gates || !entries.has(target))
        stray.push(`${section.name}+0x${offset.toString(16)} hands out ${symbol.place.name}+0x${target.toString(16)}`);
    }
  }
  return stray;
}
