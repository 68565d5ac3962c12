/**
 * The linker on stock modules: every transfer of the output is disassembled, independently of the relocation rules.
 * Needs an unpacked kernel: PORTCULLIS_KERNEL_TREE (a folder with lib/modules/RELEASE), or the project's cache.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseManifest } from '../../src/policy/schema.ts';
import { describeModule } from '../../src/linker/describe.ts';
import { linkModule } from '../../src/linker/link.ts';
import { findModules, strayAddresses, strayBranches } from './stock-testing.ts';
import { verifyLinked } from '../../src/linker/verify.ts';

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

  test('an address that leads past the gates would be found', () => {
    const { image, manifest } = linkModule(stock('e1000'), 'e1000.ko');
    expect(strayAddresses(image, manifest)).toEqual([]);
    const entry = manifest.gates.find(({ symbol }) => symbol === 'e1000_probe');
    const gates = manifest.gates.filter((gate) => gate !== entry);
    expect(strayAddresses(image, { ...manifest, gates })).toEqual([
      expect.stringContaining(`hands out .text.guard+0x${entry?.offset.toString(16)}`),
    ]);
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
