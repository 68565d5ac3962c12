import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { R, SHF, SHT, STB, STT } from './constants.ts';
import { readModInfo } from './modinfo.ts';
import { ElfObject, FunctionIndex } from './object.ts';
import { readObject } from './read.ts';
import { writeObject } from './write.ts';

function sample(): ElfObject {
  const object = new ElfObject();
  const text = object.addSection({
    name: '.text',
    type: SHT.progbits,
    flags: SHF.alloc | SHF.exec,
    alignment: 16,
    entrySize: 0,
    data: new Uint8Array(32).fill(0x90),
  });
  const strings = object.addSection({
    name: '.rodata.str1.1',
    type: SHT.progbits,
    flags: SHF.alloc | SHF.merge | SHF.strings,
    alignment: 1,
    entrySize: 1,
    data: Buffer.from('hi\0'),
  });
  object.addSection({
    name: '.bss',
    type: SHT.nobits,
    flags: SHF.alloc | SHF.write,
    alignment: 4096,
    entrySize: 0,
    data: new Uint8Array(0),
    reserved: 123,
  });
  const linked = object.addSection({
    name: '__sites',
    type: SHT.progbits,
    flags: SHF.alloc | SHF.linkOrder,
    alignment: 8,
    entrySize: 0,
    data: new Uint8Array(8),
  });
  linked.link = text;
  const exported = object.addSymbol({ name: 'exported', binding: STB.global, type: STT.func, other: 2, place: text, value: 16, size: 8 });
  const local = object.addSymbol({ name: 'local', binding: STB.local, type: STT.func, other: 0, place: text, value: 0, size: 16 });
  const kernel = object.addSymbol({ name: 'kfree', binding: STB.global, type: STT.none, other: 0, place: 'undefined', value: 0, size: 0 });
  object.addSymbol({
    name: '__crc_exported',
    binding: STB.global,
    type: STT.none,
    other: 0,
    place: 'absolute',
    value: 0xdeadbeef,
    size: 0,
  });
  text.relocations.push(
    { offset: 1, type: R.plt32, symbol: kernel, addend: -4 },
    { offset: 8, type: R.abs64, symbol: exported, addend: 0x1_2345_6789 },
  );
  strings.relocations.push({ offset: 0, type: R.none, symbol: object.symbols[0], addend: 0 });
  linked.relocations.push({ offset: 0, type: R.pc64, symbol: local, addend: -0x1_0000_0001 });
  return object;
}

const plain = (object: ElfObject) => ({
  sections: object.sections.map(({ relocations, link, ...section }) => ({
    ...section,
    data: [...section.data],
    link: link?.name,
    relocations: relocations.map(({ symbol, ...more }) => ({ ...more, symbol: symbol.name })),
  })),
  symbols: object.symbols
    .map(({ place, ...symbol }) => ({ ...symbol, place: typeof place === 'string' ? place : place.name }))
    .sort((a, b) => (a.name < b.name ? -1 : 1)),
});

test('what is written is read back, and written the same again', () => {
  const bytes = writeObject(sample());
  const back = readObject(bytes, 'sample');
  expect(plain(back)).toEqual(plain(sample()));
  expect(writeObject(back)).toEqual(bytes);
});

test('local symbols come first, whatever the order they were added in', () => {
  expect(readObject(writeObject(sample()), 'sample').symbols.map(({ name }) => name)).toEqual([
    '',
    'local',
    'exported',
    'kfree',
    '__crc_exported',
  ]);
});

test.each([
  ['Uint8Array', (bytes: Uint8Array) => bytes],
  ['Buffer', (bytes: Uint8Array) => Buffer.from(bytes)],
])('reading a %s copies: editing sections leaves the file alone', (_, make) => {
  const bytes = make(writeObject(sample()));
  const before = new Uint8Array(bytes);
  readObject(bytes, 'sample').section('.text')!.data.fill(0);
  expect(new Uint8Array(bytes)).toEqual(before);
});

test('removing a section removes its symbols', () => {
  const object = sample();
  object.removeSections(new Set([object.section('.text')!, object.section('__sites')!]));
  const back = readObject(writeObject(object), 'sample');
  expect(back.sections.map(({ name }) => name)).toEqual(['', '.rodata.str1.1', '.bss']);
  expect(back.symbols.map(({ name }) => name)).toEqual(['', 'kfree', '__crc_exported']);
});

test('a symbol that is used but not in the object is a defect, not a file', () => {
  const object = sample();
  object.symbols = object.symbols.filter(({ name }) => name !== 'kfree');
  expect(() => writeObject(object)).toThrow('uses a symbol (kfree) that is not in the object');
});

test('functions are found by where they start, aliases together', () => {
  const object = sample();
  const text = object.section('.text')!;
  object.addSymbol({ name: 'alias', binding: STB.global, type: STT.func, other: 0, place: text, value: 16, size: 8 });
  const functions = new FunctionIndex(object);
  expect(functions.at(text, 16)?.map(({ name }) => name)).toEqual(['exported', 'alias']);
  expect(functions.at(text, 1)).toBeUndefined();
});

test('.modinfo keys', () => {
  const object = sample();
  expect(readModInfo(object)).toEqual({ name: undefined, vermagic: undefined, entries: [] });
  const data = Buffer.from('name=e1000\0alias=a\0alias=b=c\0\0odd\0vermagic=6.1 SMP ');
  object.addSection({ name: '.modinfo', type: SHT.progbits, flags: SHF.alloc, alignment: 1, entrySize: 0, data });
  expect(readModInfo(object)).toEqual({
    name: 'e1000',
    vermagic: '6.1 SMP ',
    entries: [
      ['name', 'e1000'],
      ['alias', 'a'],
      ['alias', 'b=c'],
      ['odd', ''],
      ['vermagic', '6.1 SMP '],
    ],
  });
});

describe('damaged files give a UserError', () => {
  const good = writeObject(sample());
  const view = new DataView(good.buffer);
  const table = Number(view.getBigUint64(40, true));
  const count = view.getUint16(60, true);
  const at = (index: number, field: number) => table + index * 64 + field;

  function refusal(change: (bytes: Uint8Array, words: DataView) => void): string {
    const bytes = good.slice();
    change(bytes, new DataView(bytes.buffer));
    try {
      readObject(bytes, 'bad.ko');
    } catch (error) {
      expect(error).toBeInstanceOf(UserError);
      return (error as UserError).message;
    }
    return 'read';
  }

  test.each<[string, (bytes: Uint8Array, words: DataView) => void, string]>([
    [
      'the wrong magic',
      (bytes) => {
        bytes[0] = 0;
      },
      'bad.ko: is not an ELF file',
    ],
    [
      'ELF32',
      (bytes) => {
        bytes[4] = 1;
      },
      'ELF class 1',
    ],
    [
      'big-endian',
      (bytes) => {
        bytes[5] = 2;
      },
      'data encoding 2',
    ],
    [
      'another machine',
      (bytes) => {
        bytes[18] = 183;
      },
      'machine 183',
    ],
    [
      'an executable',
      (bytes) => {
        bytes[16] = 2;
      },
      'ELF type 2',
    ],
    ['no sections', (_, words) => words.setUint16(60, 0, true), 'has 0 sections'],
    ['extended section numbering', (_, words) => words.setUint16(62, 0xffff, true), 'section 65535'],
    ['section headers of another size', (_, words) => words.setUint16(58, 40, true), '40 bytes each'],
    ['section headers outside', (_, words) => words.setBigUint64(40, 1n << 40n, true), 'the section header table lies at'],
    ['an offset that no number holds', (_, words) => words.setBigUint64(40, (1n << 64n) - 1n, true), 'out of range'],
    ['a section outside', (_, words) => words.setBigUint64(at(1, 24), BigInt(good.length), true), 'section 1 lies at'],
    [
      'overlapping sections',
      (_, words) => {
        for (const index of [1, 2]) {
          words.setBigUint64(at(index, 24), 0n, true);
          words.setBigUint64(at(index, 32), BigInt(good.length), true);
        }
      },
      'overlap',
    ],
    ['a huge .bss', (_, words) => words.setBigUint64(at(3, 32), 1n << 41n, true), 'NOBITS'],
    ['a crooked alignment', (_, words) => words.setBigUint64(at(1, 48), 3n, true), 'alignment 3'],
    ['a huge alignment', (_, words) => words.setBigUint64(at(1, 48), 1n << 30n, true), 'power of two up to 65536'],
    ['a name outside', (_, words) => words.setUint32(at(1, 0), 0xffff_ff00, true), 'section 1: a name lies at'],
    ['two symbol tables', (_, words) => words.setUint32(at(2, 4), SHT.symtab, true), '2 symbol tables'],
    ['a group', (_, words) => words.setUint32(at(1, 4), SHT.group, true), 'section .text has type 17'],
    ['a link to nowhere', (_, words) => words.setUint32(at(4, 40), 77, true), 'linked to section 77'],
    ['a relocation table for nothing', (_, words) => words.setUint32(at(5, 44), 0xffff, true), 'relocates section 65535'],
    [
      'two relocation tables for one section',
      (_, words) => words.setUint32(at(6, 44), 1, true),
      'second relocation table for section .text',
    ],
    ['relocations with other symbols', (_, words) => words.setUint32(at(5, 40), 1, true), 'as its symbol table'],
    ['relocations of another size', (_, words) => words.setBigUint64(at(5, 56), 16n, true), 'entries of 16'],
    [
      'a relocation outside',
      (bytes, words) => words.setUint32(Number(words.getBigUint64(at(5, 24), true)), bytes.length, true),
      'outside section .text',
    ],
    [
      'a relocation with a symbol that is not there',
      (_, words) => words.setUint32(Number(words.getBigUint64(at(5, 24), true)) + 12, 99, true),
      'symbol 99 does not exist',
    ],
    [
      'a symbol in a section that is not there',
      (_, words) => words.setUint16(Number(words.getBigUint64(at(count - 3, 24), true)) + 24 + 6, 500, true),
      'section 500',
    ],
  ])('%s', (_, change, message) => expect(refusal(change)).toContain(message));

  test.each([
    ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]],
    ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
    ['gzip', [0x1f, 0x8b]],
  ])('a file compressed with %s is named', (name, magic) => {
    expect(() => readObject(new Uint8Array([...magic, 0, 0, 0, 0]), 'x.ko')).toThrow(`is compressed with ${name}`);
  });

  test('many symbols that share one long name do not become gigabytes', () => {
    const object = new ElfObject();
    object.addSymbol({ name: 'n'.repeat(4000), binding: STB.global, type: STT.none, other: 0, place: 'absolute', value: 0, size: 0 });
    for (let index = 0; index < 20_000; index++) object.addSymbol({ ...object.symbols[1] });
    expect(() => readObject(writeObject(object), 'x.ko')).toThrow('symbol names are more than');
  });

  /** Reads, and where that works writes: nothing but a UserError may come out. */
  function survives(bytes: Uint8Array): void {
    try {
      writeObject(readObject(bytes, 'fuzz.ko'));
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
    }
  }

  test('any truncation is refused or read, never anything else', () => {
    for (let length = 0; length < good.length; length++) {
      expect(() => readObject(good.subarray(0, length), 'cut.ko')).toThrow(UserError);
    }
  });

  test('any changed bytes are refused or read', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }), (changes) => {
        const bytes = good.slice();
        for (const [where, value] of changes) bytes[where] = value;
        survives(bytes);
      }),
      { numRuns: 2000 },
    );
  });

  test('any changed header field is refused or read', () => {
    fc.assert(
      fc.property(
        fc.nat(count * 8 - 1),
        fc.oneof(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), fc.bigInt({ min: 0n, max: 5000n })),
        (field, value) => {
          const bytes = good.slice();
          new DataView(bytes.buffer).setBigUint64(table + field * 8, value, true);
          survives(bytes);
        },
      ),
      { numRuns: 2000 },
    );
  });
});
