/**
 * Which code of a module belongs to functions whose return address is recorded by a linked shadow stack: those that begin with `call __fentry__`, and their cold
 * parts. Functions written in assembly, `inline` ones of which a copy was made after all, and `__exit` ones have no such call; they have no record, and must
 * not be made to look for one: what they found would be that of a call long past.
 */
import { STT } from '../elf/constants.ts';
import type { ElfObject, ElfSymbol, Relocation, Section } from '../elf/object.ts';

/** The part of a function that GCC moves to .text.unlikely. It is reached by jumps from the function of that name alone. */
const COLD = /^(.+)\.cold(?:\.\d+)?$/;
const ENDBR64 = [0xf3, 0x0f, 0x1e, 0xfa];

const RECORDED = 1;
const UNRECORDED = 2;

export class RecordedCode {
  /** By byte of each section; 0 outside of functions. */
  private readonly marks = new Map<Section, Uint8Array>();
  /** Functions without a record, sorted. */
  readonly without: readonly string[];

  /** `entries`: the relocations of `call __fentry__`. */
  constructor(object: ElfObject, entries: readonly { section: Section; relocation: Relocation }[]) {
    const starts = new Map<Section, Set<number>>();
    for (const { section, relocation } of entries) starts.set(section, (starts.get(section) ?? new Set()).add(relocation.offset - 1));
    const functions = object.symbols.filter(
      ({ type, place, size }) => type === STT.func && typeof place === 'object' && place.executable && size > 0,
    );
    const cold = new Set(functions.filter(({ name }) => COLD.test(name)));
    for (const symbol of functions) {
      if (cold.has(symbol)) continue;
      const section = symbol.place as Section;
      const at = symbol.value + (ENDBR64.every((byte, index) => section.data[symbol.value + index] === byte) ? ENDBR64.length : 0);
      this.mark(symbol, starts.get(section)?.has(at) ?? false);
    }
    const byName = new Map<string, ElfSymbol[]>();
    for (const symbol of functions) byName.set(symbol.name, [...(byName.get(symbol.name) ?? []), symbol]);
    for (const symbol of cold) {
      const hot = byName.get(COLD.exec(symbol.name)?.[1] ?? '') ?? [];
      this.mark(symbol, hot.length > 0 && hot.every((one) => this.has(one.place as Section, one.value)));
    }
    const without = functions.filter((symbol) => !this.has(symbol.place as Section, symbol.value));
    // Aliases are one function.
    const first = (symbol: ElfSymbol) => without.find(({ place, value }) => place === symbol.place && value === symbol.value) === symbol;
    this.without = without
      .filter(first)
      .map(({ name }) => name)
      .sort();
  }

  /** True if the function around this place has a record while it runs. */
  has(section: Section, offset: number): boolean {
    return this.marks.get(section)?.[offset] === RECORDED;
  }

  private mark({ place, value, size }: ElfSymbol, recorded: boolean): void {
    const section = place as Section;
    const marks = this.marks.get(section) ?? new Uint8Array(section.size);
    this.marks.set(section, marks);
    for (let at = value; at < Math.min(value + size, marks.length); at++)
      marks[at] = recorded && marks[at] !== UNRECORDED ? RECORDED : UNRECORDED;
  }
}
