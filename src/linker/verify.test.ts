import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { R, SHT } from '../elf/constants.ts';
import type { ElfObject, Section } from '../elf/object.ts';
import { readObject } from '../elf/read.ts';
import { writeObject } from '../elf/write.ts';
import type { Manifest } from '../policy/manifest.ts';
import { linkModule } from './link.ts';
import { FLAGS, TinyModule } from './testing.ts';
import { verifyLinked } from './verify.ts';

function linked(): { image: Uint8Array; manifest: Manifest } {
  const tiny = new TinyModule();
  const callback = tiny.function('callback', (code) =>
    code.call(tiny.kernel('kfree')).call(tiny.kernel('__x86_indirect_thunk_rax')).call(tiny.kernel('ioread8')),
  );
  tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(callback);
  tiny.bss('.portcullis.private', 100);
  return linkModule(tiny.bytes(), 'tiny.ko');
}

/** Changes the linked file, gives it the digest that it now has, and verifies it. */
function findingsAfter(change: (object: ElfObject, manifest: Manifest) => void): string[] {
  const { image, manifest } = linked();
  const object = readObject(image, 'tiny.ko');
  change(object, manifest);
  const changed = writeObject(object);
  return verifyLinked(changed, { ...manifest, image: createHash('sha256').update(changed).digest('hex') }, 'tiny.ko');
}

const named = (object: ElfObject, name: string): Section => object.section(name) as Section;
const symbolNamed = (object: ElfObject, name: string) => object.symbols.find((symbol) => symbol.name === name)!;

describe('verifyLinked', () => {
  test('finds nothing in what the linker makes', () => {
    const { image, manifest } = linked();
    expect(verifyLinked(image, manifest, 'tiny.ko')).toEqual([]);
    expect(findingsAfter(() => {})).toEqual([]);
  });

  test('finds a changed byte by the digest', () => {
    const { image, manifest } = linked();
    image[100] ^= 1;
    expect(verifyLinked(image, manifest, 'tiny.ko')[0]).toContain('SHA-256');
  });

  const cases: [string, (object: ElfObject, manifest: Manifest) => void, string][] = [
    [
      'a call past its gate',
      (object) => {
        const call = named(object, '.text').relocations[0];
        call.symbol = symbolNamed(object, 'kfree');
      },
      'branches out of the module without a gate',
    ],
    [
      'a call to an entry gate',
      (object) => {
        named(object, '.text').relocations[0].symbol = symbolNamed(object, 'guard.in.callback');
      },
      'no call gate',
    ],
    [
      'a bare function address in data',
      (object) => {
        named(object, '.rodata').relocations[0].symbol = symbolNamed(object, 'callback');
      },
      'hands out the address .text+0xf',
    ],
    [
      'a call gate as a callback',
      (object) => {
        named(object, '.rodata').relocations[0].symbol = symbolNamed(object, 'guard.out.kfree');
      },
      'no entry gate',
    ],
    [
      'a middle of a gate as a callback',
      (object) => {
        named(object, '.rodata').relocations[0].addend = 2;
      },
      'no entry gate',
    ],
    [
      'a kernel thunk',
      (object) => {
        symbolNamed(object, 'kfree').name = '__x86_return_thunk';
      },
      '__x86_return_thunk',
    ],
    [
      'a changed gate',
      (object) => {
        named(object, '.text.guard').data[33] = 0x5f;
      },
      'its bytes are not those of a gate',
    ],
    [
      'code behind the gates',
      (object) => {
        named(object, '.text.guard').data[4000] = 0x90;
      },
      'other than int3',
    ],
    [
      'a gate linked elsewhere',
      (object) => {
        named(object, '.text.guard').relocations[0].symbol = symbolNamed(object, 'callback');
      },
      'where init_module does not start',
    ],
    [
      'a gate with an offset',
      (object) => {
        named(object, '.text.guard').relocations[2].addend = 1;
      },
      'its link word is for',
    ],
    [
      "a relocation in a gate's code",
      (object) => {
        named(object, '.text.guard').relocations.push({ offset: 0, type: R.abs64, symbol: symbolNamed(object, 'kfree'), addend: 0 });
      },
      "belongs to no gate's link word",
    ],
    [
      'a changed thunk',
      (object) => {
        named(object, '.text.thunks').data[1] = 0xd0;
      },
      'something other than thunks',
    ],
    [
      'a changed routine for devices',
      (object) => {
        named(object, '.text.device').data[0] ^= 1;
      },
      '.text.device holds something other than routines for devices at 0',
    ],
    [
      'code behind the routines',
      (object) => {
        const section = named(object, '.text.device');
        section.data = Uint8Array.from([...section.data, 0x90]);
      },
      'holds something other than routines for devices at 48',
    ],
    [
      'a routine that jumps elsewhere',
      (object) => {
        named(object, '.text.device').relocations[0].symbol = symbolNamed(object, 'callback');
      },
      '.text.device has a relocation that is no jump to a gate',
    ],
    [
      'a routine whose jump leads nowhere',
      (object) => {
        named(object, '.text.device').relocations.length = 0;
      },
      'has relocations elsewhere than at its jumps',
    ],
    [
      'a dropped section that is back',
      (object) => {
        named(object, '.rodata').name = '__jump_table';
      },
      '__jump_table should have been dropped',
    ],
    [
      'text that is writable',
      (object) => {
        named(object, '.text').flags |= FLAGS.data;
      },
      'writable and executable',
    ],
    [
      'code behind the gate section',
      (object) => {
        object.addSection({
          name: '.text.late',
          type: SHT.progbits,
          flags: FLAGS.text,
          alignment: 1,
          entrySize: 0,
          data: new Uint8Array(1),
        });
      },
      'not the last executable section',
    ],
    [
      'a private section of part of a page',
      (_, manifest) => {
        manifest.sections.find(({ name }) => name === '.rodata')!.role = 'private';
      },
      '.rodata',
    ],
    [
      'an unlisted section',
      (_, manifest) => {
        manifest.sections.shift();
      },
      'does not list section 1 (.modinfo)',
    ],
    [
      'a section that is not there',
      (_, manifest) => {
        manifest.sections[0].index = 99;
      },
      'section 99',
    ],
    [
      'an import that is not listed',
      (_, manifest) => {
        manifest.imports.push('jiffies');
      },
      "imports differ from the file's in: jiffies",
    ],
    [
      'gates in another order',
      (_, manifest) => {
        manifest.gates.reverse();
      },
      'gates 0 and 1',
    ],
    [
      'more gates than room',
      (_, manifest) => {
        manifest.gates = new Array(300).fill(manifest.gates[0]);
      },
      'lists 300 gates',
    ],
    [
      'an init gate that is none',
      (_, manifest) => {
        manifest.initGate = 0;
      },
      'init or cleanup gate',
    ],
  ];
  test.each(cases)('finds %s', (_, change, message) => expect(findingsAfter(change).join('\n')).toContain(message));
});
