/** Reading ELF64 x86-64 relocatable files (gABI chapter 4). The file is hostile: every offset, index and count is checked before use. */

import { EM, ET, relocationName, SHF, SHN, SHT } from './constants.ts';
import { ElfObject, Section, type ElfSymbol, type Place } from './object.ts';
import { Reader, stringAt } from './reader.ts';

const HEADER_SIZE = 64;
const SECTION_HEADER_SIZE = 64;
const SYMBOL_SIZE = 24;
const RELA_SIZE = 24;
/** All NOBITS sections together: what a module may ask the guest kernel to zero. */
const MAX_RESERVED = 1024 * 1024 * 1024;
/** All symbol names together: suffix sharing in a string table must not turn a small file into gigabytes of text. */
const MAX_NAME_BYTES = 64 * 1024 * 1024;
/** The largest modules of a distribution have a fifth of these. Debug sections may have more. */
const MAX_SYMBOLS = 1_000_000;
const MAX_RELOCATIONS = 3_000_000;
const STRIP = 'remove debug sections from it first: strip --strip-debug FILE';
/** Largest section alignment. Pages are the most that modules use. */
const MAX_ALIGNMENT = 65536;

interface Header {
  name: string;
  type: number;
  flags: bigint;
  offset: number;
  size: number;
  link: number;
  info: number;
  alignment: number;
  entrySize: number;
}

/**
 * Reads a relocatable file. Section bytes are copies, free to be edited. What stands behind the last section (a signature) is ignored.
 * Throws UserError, with `file` in its message, for anything that is not a well-formed ELF64 little-endian x86-64 relocatable file.
 */
export function readObject(bytes: Uint8Array, file: string): ElfObject {
  const reader = new Reader(bytes, file);
  const headers = readHeaders(reader);
  const object = new ElfObject();

  // Section by index in the file; inactive ones, and tables that the model holds in another form, stay undefined.
  const byIndex: (Section | undefined)[] = headers.map((header, index) =>
    header.type === SHT.null || isTable(header, index, headers) ? undefined : makeSection(reader, header),
  );
  for (const section of byIndex) if (section) object.sections.push(section);
  for (const [index, section] of byIndex.entries()) {
    if (section && (section.flags & SHF.linkOrder) !== 0n) {
      section.link =
        byIndex[headers[index].link] ??
        reader.fail(`section ${section.name} is linked to section ${headers[index].link}, which does not exist`);
    }
  }

  const symbols = readSymbols(reader, headers, byIndex);
  object.symbols = [...object.symbols, ...symbols.slice(1)];
  symbols[0] = object.symbols[0];
  const symtab = headers.findIndex((header) => header.type === SHT.symtab);
  const relocations = headers.reduce((sum, { type, size }) => sum + (type === SHT.rela ? size / RELA_SIZE : 0), 0);
  if (relocations > MAX_RELOCATIONS) reader.fail(`has ${relocations} relocations; at most ${MAX_RELOCATIONS} are accepted`, STRIP);
  for (const header of headers) if (header.type === SHT.rela) readRelocations(reader, header, symtab, symbols, byIndex);
  return object;
}

/** Checks e_ident and e_type..e_shstrndx, and reads the section header table. */
function readHeaders(reader: Reader): Header[] {
  checkIdentity(reader);
  const sectionTable = reader.word(40, 'e_shoff');
  const entrySize = reader.u16(58);
  const count = reader.u16(60);
  const names = reader.u16(62);
  if (entrySize !== SECTION_HEADER_SIZE) reader.fail(`section headers are ${entrySize} bytes each; ELF64 has ${SECTION_HEADER_SIZE}`);
  if (count < 2 || count >= SHN.reserved) reader.fail(`has ${count} sections; 2 to ${SHN.reserved - 1} are supported`);
  if (names === 0 || names >= count) reader.fail(`section names are said to be in section ${names} of ${count}`);
  reader.need(sectionTable, count * SECTION_HEADER_SIZE, 'the section header table');

  const raw = Array.from({ length: count }, (_, index) => rawHeader(reader, sectionTable + index * SECTION_HEADER_SIZE, index));
  let stored = 0;
  let reserved = 0;
  for (const [index, header] of raw.entries()) {
    if (index === 0 || header.type === SHT.null) continue;
    if (header.type === SHT.nobits) reserved += header.size;
    else {
      reader.need(header.offset, header.size, `section ${index}`);
      stored += header.size;
    }
    // Overlapping sections would let a small file become a large one.
    if (stored > reader.bytes.length) reader.fail('its sections overlap: together they are larger than the file');
    if (reserved > MAX_RESERVED) reader.fail(`its NOBITS sections ask for more than ${MAX_RESERVED} bytes`);
  }
  if (raw[names].type !== SHT.strtab) reader.fail(`section names are said to be in section ${names}, which is no string table`);
  const table = reader.slice(raw[names].offset, raw[names].size, 'the section name table');
  return raw.map(({ nameOffset, ...header }, index) => ({
    ...header,
    name: index === 0 ? '' : stringAt(table, nameOffset, (message) => reader.fail(`section ${index}: ${message}`)),
  }));
}

function checkIdentity(reader: Reader): void {
  const { bytes } = reader;
  const expected = 'a kernel module (.ko) is an ELF64 little-endian x86-64 relocatable file';
  if (bytes.length >= 6 && bytes[0] === 0xfd && bytes[1] === 0x37 && bytes[2] === 0x7a)
    reader.fail('is compressed with xz', 'decompress it first: xz -d FILE');
  if (bytes.length >= 4 && bytes[0] === 0x28 && bytes[1] === 0xb5 && bytes[2] === 0x2f && bytes[3] === 0xfd)
    reader.fail('is compressed with zstd', 'decompress it first: zstd -d FILE');
  if (bytes.length >= 2 && bytes[0] === 0x1f && bytes[1] === 0x8b)
    reader.fail('is compressed with gzip', 'decompress it first: gzip -d FILE');
  if (bytes.length < 4 || reader.u32(0) !== 0x464c457f) reader.fail('is not an ELF file', expected);
  reader.need(0, HEADER_SIZE, 'the ELF header');
  if (reader.u8(4) !== 2 || reader.u8(5) !== 1) reader.fail(`is ELF class ${reader.u8(4)}, data encoding ${reader.u8(5)}`, expected);
  if (reader.u8(6) !== 1) reader.fail(`is ELF version ${reader.u8(6)}; there is only version 1`);
  if (reader.u16(16) !== ET.rel || reader.u16(18) !== EM.x8664)
    reader.fail(`is ELF type ${reader.u16(16)} for machine ${reader.u16(18)}`, expected);
}

function rawHeader(reader: Reader, at: number, index: number): Omit<Header, 'name'> & { nameOffset: number } {
  const type = reader.u32(at + 4);
  const alignment = Math.max(1, reader.word(at + 48, `alignment of section ${index}`));
  if (alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) !== 0) {
    reader.fail(`section ${index} has alignment ${alignment}; a power of two up to ${MAX_ALIGNMENT} is expected`);
  }
  return {
    nameOffset: reader.u32(at),
    type,
    flags: reader.u64(at + 8),
    offset: reader.word(at + 24, `offset of section ${index}`),
    size: reader.word(at + 32, `size of section ${index}`),
    link: reader.u32(at + 40),
    info: reader.u32(at + 44),
    alignment,
    entrySize: reader.word(at + 56, `entry size of section ${index}`),
  };
}

/** True for symbol, string and relocation tables, which the model holds in another form. */
function isTable(header: Header, index: number, headers: readonly Header[]): boolean {
  if (header.type === SHT.symtab || header.type === SHT.rela) return true;
  if (header.type !== SHT.strtab) return false;
  return header.name === '.shstrtab' || headers.some((other) => other.type === SHT.symtab && other.link === index);
}

function makeSection(reader: Reader, header: Header): Section {
  const { name, type, flags, alignment, entrySize, info, size } = header;
  if (type === SHT.rel || type === SHT.group || type === SHT.symtabShndx) {
    reader.fail(
      `section ${name} has type ${type}, which x86-64 kernel modules do not use (RELA relocations, no groups, no extended indices)`,
    );
  }
  if (type === SHT.nobits) return new Section({ name, type, flags, alignment, entrySize, info, data: new Uint8Array(0), reserved: size });
  // A copy by `new`: Buffer's own slice() shares its memory.
  const data = new Uint8Array(reader.slice(header.offset, size, `section ${name}`));
  return new Section({ name, type, flags, alignment, entrySize, info, data });
}

function readSymbols(reader: Reader, headers: readonly Header[], byIndex: readonly (Section | undefined)[]): ElfSymbol[] {
  const tables = headers.filter((header) => header.type === SHT.symtab);
  if (tables.length !== 1) reader.fail(`has ${tables.length} symbol tables; a relocatable file has one`);
  const [table] = tables;
  const strings = headers[table.link];
  if (strings?.type !== SHT.strtab) reader.fail(`the symbol table names section ${table.link} as its string table, which is none`);
  const names = reader.slice(strings.offset, strings.size, 'the string table');
  if (table.entrySize !== SYMBOL_SIZE || table.size % SYMBOL_SIZE !== 0 || table.size === 0) {
    reader.fail(`the symbol table is ${table.size} bytes in entries of ${table.entrySize}; entries of ${SYMBOL_SIZE} are expected`);
  }
  if (table.size / SYMBOL_SIZE > MAX_SYMBOLS)
    reader.fail(`has ${table.size / SYMBOL_SIZE} symbols; at most ${MAX_SYMBOLS} are accepted`, STRIP);

  const symbols: ElfSymbol[] = [];
  let nameBytes = 0;
  for (let at = table.offset; at < table.offset + table.size; at += SYMBOL_SIZE) {
    const index = symbols.length;
    const information = reader.u8(at + 4);
    const name = stringAt(names, reader.u32(at), (message) => reader.fail(`symbol ${index}: ${message}`));
    nameBytes += name.length;
    if (nameBytes > MAX_NAME_BYTES) reader.fail(`its symbol names are more than ${MAX_NAME_BYTES} bytes together`);
    symbols.push({
      name,
      binding: information >> 4,
      type: information & 15,
      other: reader.u8(at + 5),
      place: placeOf(reader, reader.u16(at + 6), byIndex, `symbol ${index} (${name})`),
      value: reader.word(at + 8, `value of symbol ${name}`),
      size: reader.word(at + 16, `size of symbol ${name}`),
    });
  }
  return symbols;
}

function placeOf(reader: Reader, index: number, byIndex: readonly (Section | undefined)[], what: string): Place {
  if (index === SHN.undefined) return 'undefined';
  if (index === SHN.absolute) return 'absolute';
  if (index === SHN.common) return 'common';
  return byIndex[index] ?? reader.fail(`${what} is defined in section ${index}, which is missing or a table`);
}

function readRelocations(
  reader: Reader,
  header: Header,
  symtab: number,
  symbols: readonly ElfSymbol[],
  byIndex: readonly (Section | undefined)[],
): void {
  const { name } = header;
  const target = byIndex[header.info];
  if (!target) reader.fail(`${name} relocates section ${header.info}, which is missing or a table`);
  if (header.link !== symtab) reader.fail(`${name} uses section ${header.link} as its symbol table; the symbol table is section ${symtab}`);
  if (header.entrySize !== RELA_SIZE || header.size % RELA_SIZE !== 0) {
    reader.fail(`${name} is ${header.size} bytes in entries of ${header.entrySize}; entries of ${RELA_SIZE} are expected`);
  }
  if (target.relocations.length > 0) reader.fail(`${name} is a second relocation table for section ${target.name}`);
  for (let at = header.offset; at < header.offset + header.size; at += RELA_SIZE) {
    const offset = reader.word(at, `an offset in ${name}`);
    const type = reader.u32(at + 8);
    const symbol =
      symbols[reader.u32(at + 12)] ??
      reader.fail(`${name} at ${offset}: symbol ${reader.u32(at + 12)} does not exist (there are ${symbols.length})`);
    // No known field is longer than 8 bytes; the exact length is checked where the field is used.
    if (offset >= target.size && !(type === 0 && offset === target.size)) {
      reader.fail(`${name}: ${relocationName(type)} at ${offset} lies outside section ${target.name} of ${target.size} bytes`);
    }
    target.relocations.push({ offset, type, symbol, addend: reader.signedWord(at + 16, `an addend in ${name}`) });
  }
}
