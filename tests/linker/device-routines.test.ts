/** The routines for device registers, read by a disassembler that is not ours. */
import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from 'iced-x86';
import { expect, test } from 'vitest';
import { readObject } from '../../src/elf/read.ts';
import { linkModule } from '../../src/linker/link.ts';
import { TinyModule } from '../../src/linker/testing.ts';
import { strayTransfers } from './transfers.ts';

const WIDTHS = ['8', '16', '32', '16be', '32be', '8_rep', '16_rep', '32_rep'];
const COPIES = ['memcpy_fromio', 'memcpy_toio', 'memset_io', '__iowrite32_copy', '__ioread32_copy', '__iowrite64_copy'];
const NAMES = [...WIDTHS.flatMap((width) => [`ioread${width}`, `iowrite${width}`]), ...COPIES];

const tiny = new TinyModule();
tiny.function('all', (code) => {
  for (const name of NAMES) code.call(tiny.kernel(name));
});
const stock = tiny.bytes();
const { image, manifest } = linkModule(stock, 'tiny.ko');
const object = readObject(image, 'tiny.ko');

/** Instructions of one routine, without the jump to the kernel. */
function listing(name: string): string[] {
  const symbol = object.symbols.find((candidate) => candidate.name === `guard.device.${name}`);
  const section = object.section('.text.device');
  if (!symbol || !section) throw new Error(`there is no routine ${name}`);
  const decoder = new Decoder(64, section.data.subarray(symbol.value, symbol.value + symbol.size), DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Gas);
  const out: string[] = [];
  for (const instruction of decoder.decodeAll()) out.push(formatter.format(instruction));
  return out;
}

test('every helper that is known has its routine, and no branch goes astray', () => {
  expect(
    object.symbols
      .filter(({ name }) => name.startsWith('guard.device.'))
      .map(({ name }) => name.slice(13))
      .sort(),
  ).toEqual([...NAMES].sort());
  expect(strayTransfers(stock, image, manifest)).toEqual([]);
});

test.each(NAMES)('%s changes no register that its caller keeps, and no stack', (name) => {
  for (const text of listing(name)) expect(text).not.toMatch(/push|pop|call|%[re]?bx|%[re]?[sb]p|%r1[0-5]|%r[89]/);
});

test('a read and a write of 32 bits', () => {
  expect(listing('ioread32').slice(0, -1)).toEqual([
    'cmp $0x3FFFF,%rdi',
    'jbe 0x000000000000000C',
    'mov (%rdi),%eax',
    'ret',
    'cmp $0x10000,%rdi',
    'jbe 0x000000000000001A',
    'movzwl %di,%edx',
    'in %dx,%eax',
    'ret',
  ]);
  expect(listing('iowrite32').slice(0, -1)).toEqual([
    'cmp $0x3FFFF,%rsi',
    'jbe 0x000000000000000C',
    'mov %edi,(%rsi)',
    'ret',
    'cmp $0x10000,%rsi',
    'jbe 0x000000000000001C',
    'movzwl %si,%edx',
    'mov %edi,%eax',
    'out %eax,%dx',
    'ret',
  ]);
});
