/**
 * Alternatives: `.altinstructions` lists places where the kernel replaces instructions at load according to CPU features. A guarded
 * module's text must not change, so the list is dropped and the defaults run, which Linux keeps correct on every CPU, but for one
 * feature: with SMAP on, code without its STAC and CLAC faults on user memory. Portcullis' CPUs have SMAP, so these are applied here.
 */

import { hex } from '../base/hex.ts';
import { R } from '../elf/constants.ts';
import type { ElfObject, Relocation, Section } from '../elf/object.ts';
import { fieldWidth } from './classify.ts';
import type { Problems } from './problems.ts';

/** Linux arch/x86/include/asm/cpufeatures.h: word * 32 + bit. */
const X86_FEATURE_SMAP = 9 * 32 + 20;
/** ALTINSTR_FLAG_INV in the 12-byte form. */
const INVERTED = 0x8000;

interface Alternative {
  feature: number;
  inverted: boolean;
  target: Place;
  length: number;
  replacement: Place;
  replacementLength: number;
}
interface Place {
  section: Section;
  offset: number;
}

export interface AlternativesResult {
  /** Places changed. */
  applied: number;
  /** Feature numbers (word * 32 + bit) whose alternatives keep their default, with how many there are. */
  defaults: Map<number, number>;
}

/** Applies the alternatives for SMAP in the object's text. Changes nothing where it finds a problem. */
export function applyAlternatives(object: ElfObject, problems: Problems): AlternativesResult {
  const result: AlternativesResult = { applied: 0, defaults: new Map() };
  const table = object.section('.altinstructions');
  if (!table) return result;
  const fields = new RelocatedFields();
  for (const entry of readTable(table, problems)) {
    if (entry.feature !== X86_FEATURE_SMAP) result.defaults.set(entry.feature, (result.defaults.get(entry.feature) ?? 0) + 1);
    else if (!entry.inverted) {
      const obstacle = apply(entry, fields);
      if (obstacle === undefined) result.applied++;
      else problems.add(`${entry.target.section.name}+${hex(entry.target.offset)}: the alternative for SMAP ${obstacle}`);
    }
  }
  return result;
}

/**
 * struct alt_instr (Linux arch/x86/include/asm/alternative.h): s32 place, s32 replacement, u16 feature with a flag in bit 15, u8 length,
 * u8 replacement length: 12 bytes. Since 6.4 the flags are a u16 of their own behind the feature: 14 bytes.
 */
function readTable(table: Section, problems: Problems): Alternative[] {
  const size = table.relocations.length >= 3 ? table.relocations[2].offset : table.data.length;
  const relocations = new Map(table.relocations.map((relocation) => [relocation.offset, relocation]));
  if ((size !== 12 && size !== 14) || table.data.length % size !== 0) {
    problems.add(`.altinstructions: ${table.data.length} bytes in entries of ${size}; entries of 12 or 14 bytes are known`);
    return [];
  }
  const view = new DataView(table.data.buffer, table.data.byteOffset, table.data.byteLength);
  const entries: Alternative[] = [];
  for (let at = 0; at < table.data.length; at += size) {
    const target = placeOf(relocations.get(at));
    const replacement = placeOf(relocations.get(at + 4));
    if (!target || !replacement) {
      problems.add(`.altinstructions+${hex(at)}: the entry has no relocations for its place and its replacement`);
      continue;
    }
    const feature = view.getUint16(at + 8, true);
    entries.push({
      feature: feature & ~INVERTED,
      inverted: size === 12 ? (feature & INVERTED) !== 0 : (view.getUint16(at + 10, true) & 1) !== 0,
      target,
      length: table.data[at + size - 2],
      replacement,
      replacementLength: table.data[at + size - 1],
    });
  }
  return entries;
}

function placeOf(relocation: Relocation | undefined): Place | undefined {
  if (relocation?.type !== R.pc32 || typeof relocation.symbol.place !== 'object') return undefined;
  return { section: relocation.symbol.place, offset: relocation.symbol.value + relocation.addend };
}

/** Puts the replacement in place. Gives what stands against it, or undefined. */
function apply({ target, length, replacement, replacementLength }: Alternative, fields: RelocatedFields): string | undefined {
  if (!inside(target, length) || !inside(replacement, replacementLength)) return 'lies outside its section';
  if (replacementLength > length) return `has ${replacementLength} bytes of replacement for ${length} bytes of room`;
  if (fields.touch(target, length) || fields.touch(replacement, replacementLength)) return 'has relocated operands, which cannot be moved';
  // The kernel fills the rest with nops as well (add_nops).
  target.section.data.fill(0x90, target.offset, target.offset + length);
  target.section.data.set(replacement.section.data.subarray(replacement.offset, replacement.offset + replacementLength), target.offset);
  return undefined;
}

function inside({ section, offset }: Place, length: number): boolean {
  return offset >= 0 && offset + length <= section.data.length;
}

/** The relocated fields of sections by offset, indexed when first asked for. */
class RelocatedFields {
  private readonly widths = new Map<Section, Map<number, number>>();

  /** True if a relocated field touches [offset, offset + length); `length` is at most 255. */
  touch({ section, offset }: Place, length: number): boolean {
    const widths = this.of(section);
    for (let field = offset - 7; field < offset + length; field++) {
      const width = widths.get(field) ?? 0;
      if (width > 0 && field + width > offset) return true;
    }
    return false;
  }

  private of(section: Section): Map<number, number> {
    const known = this.widths.get(section);
    if (known) return known;
    const made = new Map<number, number>();
    for (const { offset, type } of section.relocations) made.set(offset, Math.max(made.get(offset) ?? 0, fieldWidth(type) ?? 0));
    this.widths.set(section, made);
    return made;
  }
}
