/**
 * The linker on stock modules: every transfer of the output is disassembled, independently of the relocation rules.
 * Needs an unpacked kernel: PORTCULLIS_KERNEL_TREE (a folder with lib/modules/RELEASE), or the project's cache.
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic } from 'iced-x86';
import { describe, expect, test } from 'vitest';
import type { Relocation, Section } from '../elf/object.ts';
import { readObject } from '../elf/read.ts';
import { cachedKernel } from '../guest/fetch.ts';
import { GATE_SECTION } from '../policy/manifest.ts';
import { parseManifest } from '../policy/schema.ts';
import { describeModule } from './describe.ts';
import { linkModule } from './link.ts';
import { verifyLinked } from './verify.ts';

const MODULES = ['e1000', 'e1000e', '8139cp', 'virtio_net', '8021q', 'mii'];

/** The folder lib/modules/RELEASE, or why there is none. */
function findModules(): { folder: string } | { missing: string } {
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

const found = findModules();
if ('missing' in found) console.warn(`SKIPPED: the linker is not tested on stock modules: ${found.missing}`);
const paths = 'folder' in found ? readdirSync(found.folder, { recursive: true, encoding: 'utf8' }) : [];

function stock(name: string): Uint8Array {
  const path = paths.find((candidate) => basename(candidate) === `${name}.ko`);
  if (path === undefined || !('folder' in found)) throw new Error(`the kernel tree has no ${name}.ko`);
  return readFileSync(join(found.folder, path));
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
function strayBranches(image: Uint8Array, memoryBranches: ReadonlySet<string>): string[] {
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

describe.skipIf('missing' in found)('stock modules', () => {
  describe.each(MODULES)('%s', (name) => {
    test('links, verifies, and gives the same bytes again', () => {
      const input = stock(name);
      const { image, manifest } = linkModule(input, `${name}.ko`);
      expect(verifyLinked(image, manifest, `${name}.ko`)).toEqual([]);
      expect(linkModule(input, `${name}.ko`)).toMatchObject({ manifest });
      expect(parseManifest(JSON.stringify(manifest), 'manifest')).toEqual(manifest);
      expect(manifest.module).toBe(name);
      if (name !== 'mii') expect(manifest.initGate).toBeGreaterThan(0);
    });

    test('no branch leaves the text of the output but through gates', () => {
      const input = stock(name);
      const { memoryBranches } = describeModule(input, `${name}.ko`);
      const known = new Set(memoryBranches.map(({ section, offset }) => `${section}+${offset}`));
      expect(strayBranches(linkModule(input, `${name}.ko`).image, known)).toEqual([]);
    });
  });

  test("the check on branches sees the stock file's own", () => {
    expect(strayBranches(stock('mii'), new Set()).length).toBeGreaterThan(50);
  });

  test('e1000 has the entries that a network driver has', () => {
    const { manifest } = linkModule(stock('e1000'), 'e1000.ko');
    const entries = manifest.gates.filter(({ kind }) => kind === 'entry').map(({ symbol }) => symbol);
    expect(entries).toEqual(expect.arrayContaining(['e1000_probe', 'e1000_xmit_frame', 'e1000_intr', 'e1000_clean', 'e1000_init_module']));
    expect(manifest.gates.filter(({ kind }) => kind === 'call').map(({ symbol }) => symbol)).toEqual(
      expect.arrayContaining(['napi_gro_receive', 'dma_map_page_attrs']),
    );
    expect(manifest.imports).toContain('jiffies');
  });

  test("mii's exports are entries", () => {
    const entries = linkModule(stock('mii'), 'mii.ko')
      .manifest.gates.filter(({ kind }) => kind === 'entry')
      .map(({ symbol }) => symbol);
    expect(entries).toContain('mii_ethtool_gset');
  });

  test.each([
    ['xfs', 'where no function starts'],
    ['crc32c-intel', '.rodata+0x'],
    ['kvm-intel', 'vmx_vmexit'],
    ['aesni-intel', 'static calls'],
  ])('%s is refused', (name, message) => {
    expect(() => linkModule(stock(name), `${name}.ko`)).toThrow(message);
  });

  test('alternatives for SMAP are applied where the module has them', () => {
    const described = describeModule(stock('ib_uverbs'), 'ib_uverbs.ko');
    expect(described.problems).toEqual([]);
    expect(described.alternativesApplied).toBeGreaterThan(0);
  });
});
