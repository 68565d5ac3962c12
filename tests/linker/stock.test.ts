/**
 * The linker on stock modules: every transfer of the output is disassembled and compared with the stock file, independently of the linker.
 * Needs an unpacked kernel: PORTCULLIS_KERNEL_TREE (a folder with lib/modules/RELEASE), or the project's cache.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { GateKind } from '../../src/policy/manifest.ts';
import { parseManifest } from '../../src/policy/schema.ts';
import { describeModule } from '../../src/linker/describe.ts';
import { linkModule } from '../../src/linker/link.ts';
import { verifyLinked } from '../../src/linker/verify.ts';
import { findModules } from './stock-testing.ts';
import { strayTransfers } from './transfers.ts';

const MODULES = ['e1000', 'e1000e', '8139cp', 'virtio_net', '8021q', 'mii'];

const found = findModules();
if ('missing' in found) console.warn(`SKIPPED: the linker is not tested on stock modules: ${found.missing}`);
const paths = 'folder' in found ? readdirSync(found.folder, { recursive: true, encoding: 'utf8' }) : [];

function stock(name: string): Uint8Array {
  const path = paths.find((candidate) => basename(candidate) === `${name}.ko`);
  if (path === undefined || !('folder' in found)) throw new Error(`the kernel tree has no ${name}.ko`);
  return readFileSync(join(found.folder, path));
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

    test.each([false, true])(
      'every transfer leaves the text by its own call gate, every address handed out is its own entry gate; shadow stack: %s',
      (shadowStack) => {
        const input = stock(name);
        const { image, manifest } = linkModule(input, `${name}.ko`, { shadowStack });
        expect(strayTransfers(input, image, manifest)).toEqual([]);
      },
    );
  });

  test("the check on transfers sees the stock file's own", () => {
    const input = stock('mii');
    const calls = strayTransfers(input, input, linkModule(input, 'mii.ko').manifest).filter((finding) => finding.includes('a transfer to'));
    expect(calls.length).toBeGreaterThan(10);
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

  test('kinds of gates that are swapped in the manifest are found at the gates and at every use', () => {
    const input = stock('e1000');
    const { image, manifest } = linkModule(input, 'e1000.ko');
    const kinds = new Map<string, GateKind>([
      ['e1000_probe', 'call'],
      ['napi_gro_receive', 'entry'],
    ]);
    const gates = manifest.gates.map((gate) => ({ ...gate, kind: kinds.get(gate.symbol) ?? gate.kind }));
    const found = strayTransfers(input, image, { ...manifest, gates });
    expect(found).toContainEqual(expect.stringMatching(/^\.text\.guard\+.*: the manifest says call, its link word entry$/));
    expect(found).toContainEqual(expect.stringMatching(/^\.text\.guard\+.*: the manifest says entry, its link word call$/));
    expect(found).toContainEqual(
      expect.stringMatching(/^\.text\+.*: a transfer to napi_gro_receive ends at the entry gate napi_gro_receive$/),
    );
    expect(found).toContainEqual(expect.stringMatching(/^\.data\+.*: hands out the call gate e1000_probe for \.text\+/));
    expect(found.every((finding) => finding.startsWith('.text.guard') || /napi_gro_receive|e1000_probe/.test(finding))).toBe(true);
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
