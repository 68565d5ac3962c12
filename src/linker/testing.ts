/** For tests: small kernel modules made by hand with the project's own ELF writer, in the shape that Debian's compiler gives them. */

import { R, SHF, SHT, STB, STT } from '../elf/constants.ts';
import { ElfObject, type ElfSymbol, type Section } from '../elf/object.ts';
import { writeObject } from '../elf/write.ts';

export const FLAGS = { text: SHF.alloc | SHF.exec, rodata: SHF.alloc, data: SHF.alloc | SHF.write } as const;

/** Appends bytes and relocated fields to one section. */
export class Assembler {
  constructor(private readonly section: Section) {}

  get offset(): number {
    return this.section.data.length;
  }

  emit(...bytes: number[]): this {
    const { data } = this.section;
    const longer = new Uint8Array(data.length + bytes.length);
    longer.set(data);
    longer.set(bytes, data.length);
    this.section.data = longer;
    return this;
  }

  /** A relocated field of zeros, 4 or 8 bytes. */
  field(type: number, symbol: ElfSymbol, addend: number): this {
    this.section.relocations.push({ offset: this.offset, type, symbol, addend });
    return this.emit(...new Array(type === R.abs64 || type === R.pc64 ? 8 : 4).fill(0));
  }

  call(symbol: ElfSymbol): this {
    return this.emit(0xe8).field(R.plt32, symbol, -4);
  }
  jump(symbol: ElfSymbol): this {
    return this.emit(0xe9).field(R.plt32, symbol, -4);
  }
  /** `mov $symbol+addend, %rdi` */
  loadAddress(symbol: ElfSymbol, addend = 0): this {
    return this.emit(0x48, 0xc7, 0xc7).field(R.abs32s, symbol, addend);
  }
  pointer(symbol: ElfSymbol, addend = 0): this {
    return this.field(R.abs64, symbol, addend);
  }
}

/** A module under construction. Starts with .modinfo, .text, .data, .gnu.linkonce.this_module and an `init_module` that calls `greets`. */
export class TinyModule {
  readonly object = new ElfObject();
  readonly text: Section;
  readonly thisModule: Section;
  private readonly undefinedSymbols = new Map<string, ElfSymbol>();

  constructor(greets = '_printk') {
    this.add('.modinfo', FLAGS.rodata, Buffer.from('license=GPL\0name=tiny\0vermagic=6.1.0-tiny SMP \0'));
    this.text = this.add('.text', FLAGS.text);
    this.thisModule = this.add('.gnu.linkonce.this_module', FLAGS.data, new Uint8Array(0x380));
    const init = this.function('init_module', (code) =>
      code.call(this.kernel('__fentry__')).call(this.kernel(greets)).jump(this.kernel('__x86_return_thunk')),
    );
    this.thisModule.relocations.push({ offset: 0x138, type: R.abs64, symbol: init, addend: 0 });
  }

  add(name: string, flags: bigint, data: Uint8Array = new Uint8Array(0)): Section {
    return this.object.addSection({ name, type: SHT.progbits, flags, alignment: 8, entrySize: 0, data });
  }

  bss(name: string, size: number): Section {
    return this.object.addSection({
      name,
      type: SHT.nobits,
      flags: FLAGS.data,
      alignment: 8,
      entrySize: 0,
      data: new Uint8Array(0),
      reserved: size,
    });
  }

  code(section: Section = this.text): Assembler {
    return new Assembler(section);
  }

  /** An undefined symbol. */
  kernel(name: string): ElfSymbol {
    const known = this.undefinedSymbols.get(name);
    if (known) return known;
    const symbol = this.object.addSymbol({ name, binding: STB.global, type: STT.none, other: 0, place: 'undefined', value: 0, size: 0 });
    this.undefinedSymbols.set(name, symbol);
    return symbol;
  }

  symbol(name: string, type: number, place: Section, value: number, size = 0): ElfSymbol {
    return this.object.addSymbol({ name, binding: type === STT.section ? STB.local : STB.global, type, other: 0, place, value, size });
  }

  function(name: string, build: (code: Assembler) => void, section: Section = this.text): ElfSymbol {
    const code = this.code(section);
    const start = code.offset;
    build(code);
    return this.symbol(name, STT.func, section, start, code.offset - start);
  }

  bytes(): Uint8Array {
    return writeObject(this.object);
  }
}
