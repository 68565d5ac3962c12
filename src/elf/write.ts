/**
 * Writing relocatable files. Same object, same bytes: no time stamps, no environment.
 * Order in the file: header, sections, relocation tables, symbol table, string tables, section headers.
 */

import { UserError } from '../base/errors.ts';
import { EM, ET, SHF, SHN, SHT, STB } from './constants.ts';
import type { ElfObject, ElfSymbol, Relocation, Section } from './object.ts';

const MAX_OUTPUT = 1024 * 1024 * 1024;

interface Header {
  name: number;
  type: number;
  flags: bigint;
  offset: number;
  size: number;
  link: number;
  info: number;
  alignment: number;
  entrySize: number;
}
interface Piece {
  header: Header;
  data: Uint8Array;
}

/** The file's bytes. A section's index is its position in `object.sections`. Throws UserError for too many sections or more than 1 GiB. */
export function writeObject(object: ElfObject): Uint8Array {
  const sectionIndex = new Map(object.sections.map((section, index) => [section, index]));
  const relocated = object.sections.filter((section) => section.relocations.length > 0);
  const symtab = object.sections.length + relocated.length;
  const count = symtab + 3;
  if (count >= SHN.reserved) throw new UserError(`the file would have ${count} sections; ELF allows ${SHN.reserved - 1}`);

  // Local symbols come first, in their order (gABI "Symbol Table": sh_info is one more than the last local's index).
  const locals = object.symbols.filter((symbol) => symbol.binding === STB.local);
  const symbols = [...locals, ...object.symbols.filter((symbol) => symbol.binding !== STB.local)];
  const symbolIndex = new Map(symbols.map((symbol, index) => [symbol, index]));
  const strings = new StringTable();
  const sectionNames = new StringTable();

  const pieces: Piece[] = object.sections.map((section) => sectionPiece(section, sectionNames, sectionIndex));
  for (const section of relocated) {
    pieces.push(
      piece(sectionNames.offset(`.rela${section.name}`), SHT.rela, encodeRelocations(section, symbolIndex), {
        flags: SHF.infoLink,
        link: symtab,
        info: indexIn(sectionIndex, section),
        alignment: 8,
        entrySize: 24,
      }),
    );
  }
  pieces.push(
    piece(sectionNames.offset('.symtab'), SHT.symtab, encodeSymbols(symbols, strings, sectionIndex), {
      link: symtab + 1,
      info: locals.length,
      alignment: 8,
      entrySize: 24,
    }),
  );
  pieces.push(piece(sectionNames.offset('.strtab'), SHT.strtab, strings.encode(), {}));
  const ownName = sectionNames.offset('.shstrtab');
  pieces.push(piece(ownName, SHT.strtab, sectionNames.encode(), {}));
  return assemble(pieces);
}

function sectionPiece(section: Section, names: StringTable, sectionIndex: ReadonlyMap<Section, number>): Piece {
  if (section.type === SHT.null) return piece(0, SHT.null, new Uint8Array(0), { alignment: 0 });
  const link = section.link ? indexIn(sectionIndex, section.link) : 0;
  const { flags, info, alignment, entrySize } = section;
  const made = piece(names.offset(section.name), section.type, section.data, { flags, link, info, alignment, entrySize });
  made.header.size = section.size;
  return made;
}

function piece(name: number, type: number, data: Uint8Array, more: Partial<Header>): Piece {
  return { header: { name, type, flags: 0n, offset: 0, size: data.length, link: 0, info: 0, alignment: 1, entrySize: 0, ...more }, data };
}

function assemble(pieces: readonly Piece[]): Uint8Array {
  let end = 64;
  for (const { header, data } of pieces) {
    if (header.type === SHT.null) continue;
    if (header.type !== SHT.nobits) end = alignUp(end, header.alignment);
    header.offset = end;
    end += data.length;
  }
  const table = alignUp(end, 8);
  const total = table + pieces.length * 64;
  if (total > MAX_OUTPUT) throw new UserError(`the file would be ${total} bytes; at most ${MAX_OUTPUT} are supported`);

  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, ET.rel, true);
  view.setUint16(18, EM.x8664, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(40, BigInt(table), true);
  view.setUint16(52, 64, true);
  view.setUint16(58, 64, true);
  view.setUint16(60, pieces.length, true);
  view.setUint16(62, pieces.length - 1, true);
  for (const [index, { header, data }] of pieces.entries()) {
    bytes.set(data, header.offset);
    const at = table + index * 64;
    view.setUint32(at, header.name, true);
    view.setUint32(at + 4, header.type, true);
    view.setBigUint64(at + 8, header.flags, true);
    view.setBigUint64(at + 24, BigInt(header.offset), true);
    view.setBigUint64(at + 32, BigInt(header.size), true);
    view.setUint32(at + 40, header.link, true);
    view.setUint32(at + 44, header.info, true);
    view.setBigUint64(at + 48, BigInt(header.alignment), true);
    view.setBigUint64(at + 56, BigInt(header.entrySize), true);
  }
  return bytes;
}

function encodeSymbols(symbols: readonly ElfSymbol[], strings: StringTable, sectionIndex: ReadonlyMap<Section, number>): Uint8Array {
  const bytes = new Uint8Array(symbols.length * 24);
  const view = new DataView(bytes.buffer);
  for (const [index, symbol] of symbols.entries()) {
    const at = index * 24;
    view.setUint32(at, strings.offset(symbol.name), true);
    view.setUint8(at + 4, (symbol.binding << 4) | symbol.type);
    view.setUint8(at + 5, symbol.other);
    view.setUint16(at + 6, placeIndex(symbol, sectionIndex), true);
    view.setBigUint64(at + 8, BigInt(symbol.value), true);
    view.setBigUint64(at + 16, BigInt(symbol.size), true);
  }
  return bytes;
}

function placeIndex(symbol: ElfSymbol, sectionIndex: ReadonlyMap<Section, number>): number {
  switch (symbol.place) {
    case 'undefined':
      return SHN.undefined;
    case 'absolute':
      return SHN.absolute;
    case 'common':
      return SHN.common;
    default:
      return indexIn(sectionIndex, symbol.place);
  }
}

function encodeRelocations(section: Section, symbolIndex: ReadonlyMap<ElfSymbol, number>): Uint8Array {
  const bytes = new Uint8Array(section.relocations.length * 24);
  const view = new DataView(bytes.buffer);
  for (const [index, relocation] of section.relocations.entries()) {
    const at = index * 24;
    putSigned(view, at, relocation.offset);
    view.setUint32(at + 8, relocation.type, true);
    view.setUint32(at + 12, requireSymbol(symbolIndex, relocation, section), true);
    putSigned(view, at + 16, relocation.addend);
  }
  return bytes;
}

/** A safe integer as 64-bit two's complement. */
function putSigned(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setInt32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}

function requireSymbol(symbolIndex: ReadonlyMap<ElfSymbol, number>, relocation: Relocation, section: Section): number {
  const index = symbolIndex.get(relocation.symbol);
  if (index === undefined)
    throw new Error(
      `relocation at ${section.name}+${relocation.offset} uses a symbol (${relocation.symbol.name}) that is not in the object`,
    );
  return index;
}

function indexIn(sectionIndex: ReadonlyMap<Section, number>, section: Section): number {
  const index = sectionIndex.get(section);
  if (index === undefined) throw new Error(`section ${section.name} is used but is not in the object`);
  return index;
}

function alignUp(value: number, alignment: number): number {
  const step = Math.max(1, alignment);
  return Math.ceil(value / step) * step;
}

/** NUL-ended strings, each stored once. Offset 0 is the empty string. */
class StringTable {
  private readonly offsets = new Map<string, number>([['', 0]]);
  private length = 1;

  offset(text: string): number {
    const known = this.offsets.get(text);
    if (known !== undefined) return known;
    const offset = this.length;
    this.offsets.set(text, offset);
    this.length += text.length + 1;
    return offset;
  }

  encode(): Uint8Array {
    const bytes = new Uint8Array(this.length);
    for (const [text, offset] of this.offsets) bytes.set(Buffer.from(text, 'latin1'), offset);
    return bytes;
  }
}
