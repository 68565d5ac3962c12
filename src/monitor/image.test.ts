/** The registered image: structure is checked before anything indexes into it, and the tables of the image mean what Linux means by them. */
import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { R, SHF, SHT, STB, STT } from '../elf/constants.ts';
import { ElfObject } from '../elf/object.ts';
import type { Section } from '../elf/object.ts';
import { writeObject } from '../elf/write.ts';
import { REG } from '../engine/contract.ts';
import { GATE_PORT } from '../policy/manifest.ts';
import type { Manifest } from '../policy/manifest.ts';
import { CodeMap, FROM_RBP, NOT_RETURN } from './code-map.ts';
import { resumeTable } from './exceptions.ts';
import { createImage } from './image.ts';
import type { ImageSection, ImageSource } from './image.ts';
import { imageFromElf } from './image-elf.ts';
import { buildPlacement } from './relocate.ts';
import { solve } from './solve.ts';
import { CORE, Guest, S, T, tinyImage } from '../privileges/testing.ts';
import { guestReader } from './guest-memory.ts';

const gates: Manifest['gates'] = [
  { kind: 'return', offset: 0, symbol: '' },
  { kind: 're-entry', offset: 16, symbol: '' },
  { kind: 'entry', offset: 32, symbol: 'init_module', section: '.text', sectionOffset: 0 },
];

/** A minimal ELF image and its manifest. */
function elf(): { object: ElfObject; manifest: Manifest } {
  const object = new ElfObject();
  const text = object.addSection({
    name: '.text',
    type: SHT.progbits,
    flags: SHF.alloc | SHF.exec,
    alignment: 16,
    entrySize: 0,
    data: Uint8Array.of(0xe8, 0, 0, 0, 0, 0xc3),
  });
  const guard = object.addSection({
    name: '.text.guard',
    type: SHT.progbits,
    flags: SHF.alloc | SHF.exec,
    alignment: 4096,
    entrySize: 0,
    data: new Uint8Array(4096),
  });
  const bss = object.addSection({
    name: '.bss',
    type: SHT.nobits,
    flags: SHF.alloc | SHF.write,
    alignment: 32,
    entrySize: 0,
    data: new Uint8Array(0),
    reserved: 1 << 28,
  });
  const symbol = object.addSymbol({ name: 'init_module', binding: STB.global, type: STT.func, other: 0, place: text, value: 2, size: 6 });
  const kernel = object.addSymbol({
    name: '_printk',
    binding: STB.global,
    type: STT.none,
    other: 0,
    place: 'undefined',
    value: 0,
    size: 0,
  });
  guard.relocations.push({ offset: 40, type: R.abs64, symbol, addend: 3 }, { offset: 24, type: R.none, symbol, addend: 0 });
  text.relocations.push({ offset: 1, type: R.plt32, symbol: kernel, addend: -4 });
  const at = (section: Section) => object.sections.indexOf(section);
  const manifest: Manifest = {
    format: 'portcullis-manifest-1',
    module: 'm',
    vermagic: '',
    image: '',
    source: '',
    linker: '',
    gatePort: GATE_PORT,
    sections: [
      { index: at(text), name: '.text', role: 'text', size: 6, align: 16, init: false },
      { index: at(guard), name: '.text.guard', role: 'gates', size: 4096, align: 4096, init: false },
      { index: at(bss), name: '.bss', role: 'data', size: 1 << 28, align: 32, init: false },
    ],
    gates,
    initGate: 32,
    cleanupGate: -1,
    imports: [],
    vector: false,
    privileges: [],
  };
  return { object, manifest };
}

describe('imageFromElf', () => {
  test("joins sections, relocations and gates; makes no bytes for the kernel's own data", () => {
    const { object, manifest } = elf();
    const image = imageFromElf(writeObject(object), manifest);
    expect(image.gates.slice(0, 4)).toEqual([
      { kind: 'return', symbol: '', init: false, beforeInit: false, recorded: false },
      { kind: 're-entry', symbol: '', init: false, beforeInit: false, recorded: false },
      { kind: 'entry', symbol: 'init_module', init: false, beforeInit: false, recorded: false },
      undefined,
    ]);
    expect(image.sections[0].relocations).toEqual([{ offset: 1, type: R.plt32, section: -1, symbol: '_printk', addend: -4 }]);
    expect(image.sections[1].relocations).toEqual([{ offset: 40, type: R.abs64, section: 0, symbol: 'init_module', addend: 5 }]);
    expect(image.sections[2]).toMatchObject({ size: 1 << 28, bytes: new Uint8Array(0) });
    expect([image.initGate, image.cleanupGate, image.gateSection]).toEqual([2, -1, 1]);
  });

  test.each<[string, (manifest: Manifest) => void, RegExp]>([
    [
      'a section of another size',
      (m) => {
        m.sections[0].size = 7;
      },
      /its manifest says .text of 7 bytes/,
    ],
    [
      'a section that is not there',
      (m) => {
        m.sections[0].index = 99;
      },
      /section 99 is missing/,
    ],
    [
      'no gate section',
      (m) => {
        m.sections.splice(1, 1);
      },
      /which is in no section|no gate section/,
    ],
    [
      'a gate beyond the section',
      (m) => {
        m.gates = [...gates, { kind: 'call', offset: 4096, symbol: 'x' }];
      },
      /gate at offset 4096/,
    ],
    [
      'a gate between gates',
      (m) => {
        m.gates = [...gates, { kind: 'call', offset: 56, symbol: 'x' }];
      },
      /gate at offset 56/,
    ],
    [
      'two gates in one place',
      (m) => {
        m.gates = [...gates, { kind: 'call', offset: 32, symbol: 'x' }];
      },
      /gate at offset 32/,
    ],
    [
      'no re-entry gate',
      (m) => {
        m.gates = [gates[0], gates[2]];
      },
      /gates 0 and 1/,
    ],
    [
      'an init gate that is none',
      (m) => {
        m.initGate = 16;
      },
      /init gate 16/,
    ],
    [
      'private memory of a quarter gigabyte',
      (m) => {
        m.sections[2].role = 'private';
      },
      /16 MiB/,
    ],
    [
      'text that its relocations point out of',
      (m) => {
        m.sections.shift();
      },
      /which is in no section/,
    ],
  ])('refuses %s', (_, change, message) => {
    const { object, manifest } = elf();
    change(manifest);
    expect(() => imageFromElf(writeObject(object), manifest)).toThrow(UserError);
    expect(() => imageFromElf(writeObject(object), manifest)).toThrow(message);
  });

  test('createImage refuses relocations that do not fit', () => {
    const { manifest } = elf();
    const section = (
      name: string,
      role: ImageSection['role'],
      size: number,
      relocations: ImageSection['relocations'] = [],
    ): ImageSection => ({
      name,
      role,
      size,
      align: 1,
      init: false,
      bytes: new Uint8Array(size),
      relocations,
    });
    const guard = section('.text.guard', 'gates', 4096);
    for (const bad of [
      { offset: 1, type: R.abs64, section: 0, symbol: '', addend: 0 },
      { offset: -1, type: R.pc32, section: 0, symbol: '', addend: 0 },
      { offset: 0, type: 9, section: 0, symbol: '', addend: 0 },
      { offset: 0, type: R.pc32, section: 7, symbol: '', addend: 0 },
    ])
      expect(() => createImage(manifest, [section('.text', 'text', 8, [bad]), guard])).toThrow(UserError);
    expect(
      createImage(manifest, [section('.text', 'text', 8, [{ offset: 0, type: R.abs64, section: 0, symbol: '', addend: 0 }]), guard])
        .sections,
    ).toHaveLength(2);
  });
});

function placed(image: ImageSource) {
  const guest = new Guest([]);
  guest.load(image);
  const read = guestReader(guest.cpu, guest.engine.memory);
  const solution = solve(image, CORE + 0x1000, read);
  const { pages } = buildPlacement(image, solution, read);
  return {
    solution,
    code: new CodeMap(
      image,
      solution.bases,
      pages.filter(({ role }) => role === 'text' || role === 'gates'),
    ),
  };
}

describe('the tables of an image', () => {
  const image = tinyImage();

  test('return addresses are exactly the places behind calls, with the frame size from the unwind table', () => {
    const { code } = placed(image);
    const found = Array.from({ length: 0xa4 }, (_, offset) => [offset, code.frameSize(CORE + offset)]).filter(
      ([, size]) => size !== NOT_RETURN,
    );
    expect(found).toEqual([
      [T.afterInner, 24],
      [T.afterCall, 24],
      [T.innerAfterCall, 16],
      [T.afterThunk, 16],
      [T.bpAfterCall, FROM_RBP],
    ]);
    expect(code.rule(CORE + 0xa0)).toEqual({ base: 'rsp', size: 8, savedRbp: undefined }); // thunks
    expect(code.rule(CORE + T.bpAfterCall - 1)).toEqual({ base: 'rbp', size: 16, savedRbp: -16 });
    expect(code.rule(CORE - 1).base).toBe('unknown');
    expect(code.rule(0).base).toBe('unknown');
  });

  test('a call through memory is one by its relocation, not by its bytes alone', () => {
    const text = image.sections[S.text];
    const bytes = Uint8Array.from(text.bytes);
    for (const at of [0x88, 0x90]) bytes.set([0xff, 0x15, 0, 0, 0, 0], at);
    const operand = { offset: 0x8a, type: R.pc32, section: -1, symbol: 'jiffies', addend: 36 };
    const sections = image.sections.map((section, index) =>
      index === S.text ? { ...section, bytes, relocations: [...section.relocations, operand] } : section,
    );
    const { code } = placed({ ...image, sections });
    expect(code.frameSize(CORE + 0x8e)).not.toBe(NOT_RETURN);
    expect(code.frameSize(CORE + 0x96)).toBe(NOT_RETURN);
  });

  test('where one section ends and the next begins, the closing unwind entry yields', () => {
    const orc = image.sections[S.orc];
    const bytes = new Uint8Array(orc.bytes.length + 6);
    bytes.set(orc.bytes); // the added entry is zeros: undefined
    const ip = image.sections[S.orcIp];
    const closing = { offset: ip.bytes.length, type: R.pc32, section: S.text, symbol: '', addend: 0x20 };
    const sections = image.sections.map((section, index) =>
      index === S.orc
        ? { ...section, bytes, size: bytes.length }
        : index === S.orcIp
          ? { ...section, relocations: [...section.relocations, closing] }
          : section,
    );
    expect(placed({ ...image, sections }).code.rule(CORE + 0x20)).toMatchObject({ base: 'rsp', size: 8 });
  });

  test('without an unwind table every call leaves an unknown frame', () => {
    const sections = image.sections.map((section, index) =>
      index === S.orc || index === S.orcIp ? { ...section, name: '.gone' } : section,
    );
    expect(placed({ ...image, sections }).code.frameSize(CORE + T.afterCall)).toBe(-2);
  });

  // Types of arch/x86/include/asm/extable_fixup_types.h: data, what RAX RCX RDX become from 1, 3, 5; undefined: not allowed.
  test.each<[string, number, [number, number, number] | undefined, number]>([
    ['NONE', 0, undefined, 0],
    ['DEFAULT', 1, [1, 3, 5], 0],
    ['FAULT', 2, [14, 3, 5], 0],
    ['UACCESS', 3, [1, 3, 5], 0],
    ['COPY', 4, [14, 3, 5], 0],
    ['CLEAR_FS', 5, undefined, 0],
    ['BPF', 7, undefined, 0],
    ['WRMSR', 8, [1, 3, 5], 0],
    ['RDMSR', 9, [0, 3, 0], 0],
    ['RDMSR_SAFE into rcx, clearing rax and rdx', 11 | (1 << 8) | (3 << 12), [0, -5, 0], 0],
    ['POP_REG rdx', 16 | (2 << 8), [1, 3, 0], 8],
    ['EFAULT in rax', 17 | (-14 << 16), [-14, 3, 5], 0],
    ['one in rdx', 17 | (2 << 8) | (1 << 16), [1, 3, 1], 0],
    ['into rsp', 17 | (4 << 8), undefined, 0],
    ['UCOPY_LEN8: rcx = 8 rcx + rdx', 19 | (2 << 8) | (8 << 16), [1, 29, 5], 0],
    ['ZEROPAD', 20, undefined, 0],
  ])('exception fixup %s', (_, data, expected, pop) => {
    const bytes = new Uint8Array(12);
    new DataView(bytes.buffer).setInt32(8, data, true);
    const sections = image.sections.map((section, index) => (index === S.exceptions ? { ...section, bytes } : section));
    const { solution } = placed(image);
    const table = resumeTable({ ...image, sections }, solution.bases);
    const fixup = table.fixups.get(CORE + T.faulting);
    expect(table.unsupported).toBe(expected ? 0 : 1);
    expect(fixup?.address).toBe(expected && CORE + T.fixup);
    if (!fixup || !expected) return;
    const words = new BigInt64Array([1n, 3n, 5n, 0n]);
    fixup.effect(new Uint32Array(words.buffer), 0, 14);
    expect([words[REG.rax], words[REG.rcx], words[REG.rdx]].map(Number)).toEqual(expected);
    expect(fixup.pop).toBe(pop);
  });

  test('WARN is listed, BUG is not', () => {
    const { solution } = placed(image);
    expect([...resumeTable(image, solution.bases).warnings]).toEqual([CORE + T.warn]);
    const bug = image.sections.map((section, index) => (index === S.bugs ? { ...section, bytes: new Uint8Array(12) } : section));
    expect(resumeTable({ ...image, sections: bug }, solution.bases).warnings.size).toBe(0);
  });
});
