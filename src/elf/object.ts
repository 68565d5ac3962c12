/**
 * An ELF64 x86-64 relocatable file as objects that may be edited: sections, symbols and relocations refer to each other directly, so
 * that removing or adding one renumbers nothing. Indices exist only in `readObject` and `writeObject`.
 *
 * Symbol, string and relocation tables are not sections here: they are made anew when the file is written.
 */

import { SHF, SHT, STB, STT } from './constants.ts';

export interface SectionFields {
  name: string;
  type: number;
  flags: bigint;
  /** Power of two, 1 or more. */
  alignment: number;
  entrySize: number;
  /** The bytes; empty for NOBITS. May be edited in place. */
  data: Uint8Array;
  /** NOBITS only: bytes reserved. */
  reserved?: number;
  info?: number;
}

export class Section {
  name: string;
  type: number;
  flags: bigint;
  alignment: number;
  entrySize: number;
  data: Uint8Array;
  reserved: number;
  info: number;
  /** sh_link of a SHF_LINK_ORDER section. */
  link: Section | undefined;
  relocations: Relocation[] = [];

  constructor(fields: SectionFields) {
    this.name = fields.name;
    this.type = fields.type;
    this.flags = fields.flags;
    this.alignment = fields.alignment;
    this.entrySize = fields.entrySize;
    this.data = fields.data;
    this.reserved = fields.reserved ?? 0;
    this.info = fields.info ?? 0;
  }

  get size(): number {
    return this.type === SHT.nobits ? this.reserved : this.data.length;
  }
  get allocated(): boolean {
    return (this.flags & SHF.alloc) !== 0n;
  }
  get writable(): boolean {
    return (this.flags & SHF.write) !== 0n;
  }
  get executable(): boolean {
    return (this.flags & SHF.exec) !== 0n;
  }
}

/** Where a symbol is defined. */
export type Place = Section | 'undefined' | 'absolute' | 'common';

export interface ElfSymbol {
  name: string;
  binding: number;
  type: number;
  /** st_other: visibility. */
  other: number;
  place: Place;
  /** Offset in its section, or the absolute value. */
  value: number;
  size: number;
}

export interface Relocation {
  /** Offset of the field in the section that holds it. */
  offset: number;
  type: number;
  symbol: ElfSymbol;
  addend: number;
}

export class ElfObject {
  /** Index 0 is the null section. The position of a section here is its index in the written file. */
  sections: Section[] = [new Section({ name: '', type: SHT.null, flags: 0n, alignment: 0, entrySize: 0, data: new Uint8Array(0) })];
  /** Index 0 is the null symbol. */
  symbols: ElfSymbol[] = [{ name: '', binding: STB.local, type: STT.none, other: 0, place: 'undefined', value: 0, size: 0 }];

  /** The first section of that name. */
  section(name: string): Section | undefined {
    return this.sections.find((section) => section.name === name);
  }

  addSection(fields: SectionFields): Section {
    const section = new Section(fields);
    this.sections.push(section);
    return section;
  }

  /** Removes sections with their relocations, and the symbols defined in them. Relocations elsewhere that use them are the caller's. */
  removeSections(sections: ReadonlySet<Section>): void {
    this.sections = this.sections.filter((section) => !sections.has(section));
    this.symbols = this.symbols.filter((symbol) => typeof symbol.place === 'string' || !sections.has(symbol.place));
  }

  addSymbol(symbol: ElfSymbol): ElfSymbol {
    this.symbols.push(symbol);
    return symbol;
  }
}

/** A name to show: section symbols have none of their own. */
export function symbolName(symbol: ElfSymbol): string {
  if (symbol.name !== '') return symbol.name;
  return typeof symbol.place === 'object' ? symbol.place.name : '(null symbol)';
}

/** The function symbols of an object by where they start. */
export class FunctionIndex {
  private readonly starts = new Map<Section, Map<number, ElfSymbol[]>>();

  constructor(object: ElfObject) {
    for (const symbol of object.symbols) {
      if (symbol.type !== STT.func || typeof symbol.place === 'string') continue;
      const section = this.starts.get(symbol.place) ?? new Map<number, ElfSymbol[]>();
      this.starts.set(symbol.place, section);
      const names = section.get(symbol.value);
      if (names) names.push(symbol);
      else section.set(symbol.value, [symbol]);
    }
  }

  /** The function symbols that start exactly there (aliases in symbol table order), or undefined. */
  at(section: Section, offset: number): readonly ElfSymbol[] | undefined {
    return this.starts.get(section)?.get(offset);
  }
}
