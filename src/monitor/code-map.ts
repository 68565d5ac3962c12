/**
 * What the monitor must know about places in a module's text: which are return addresses, and how far above the stack pointer the
 * frame of the function around them ends. The sizes come from the image's own unwind table (ORC, Linux
 * arch/x86/include/asm/orc_types.h), so the return addresses on a stack are found exactly, never guessed from stale words.
 */
import { RELOCATION } from './image.ts';
import { DEVICE_SECTION } from '../policy/manifest.ts';
import { SHADOW_TEXT } from '../policy/shadow-stack.ts';
import type { ImageSource } from './image.ts';
import type { PlacedPage } from './relocate.ts';

/** The linker's sections of local thunks (`jmp *%REG`) and routines: they have no unwind table, every instruction has its return address on top. */
const LINKERS = new Set(['.text.thunks', DEVICE_SECTION, SHADOW_TEXT]);
const CALL_REL32 = 0xe8;
/** `call *disp32(%rip)`, ff /2 with ModRM mod 00 r/m 101 (Intel SDM vol. 2, CALL): how modules call through pv_ops. */
const CALL_MEMORY = [0xff, 0x15];

/** Register that a frame's end is counted from (orc_types.h, ORC_REG_*). */
const ORC_BP = 4;
const ORC_SP = 5;
const ORC_PREVIOUS_SP = 1;
const ORC_ENTRY_SIZE = 6;

/** Answers of `frameSize` beside a positive size: no return address; counted from RBP; unknown. */
export const NOT_RETURN = 0;
export const FROM_RBP = -1;
export const UNKNOWN_FRAME = -2;

/** How to step from a place to its caller: CFA = (RSP or RBP) + size; the return address lies at CFA - 8. */
export interface UnwindRule {
  readonly base: 'rsp' | 'rbp' | 'unknown';
  readonly size: number;
  /** Where the caller's RBP was saved, relative to the CFA; undefined = unchanged. */
  readonly savedRbp: number | undefined;
}
const UNKNOWN: UnwindRule = { base: 'unknown', size: 0, savedRbp: undefined };
/** At a function's first instruction. */
export const RETURN_ON_TOP: UnwindRule = { base: 'rsp', size: 8, savedRbp: undefined };

interface Region {
  readonly start: number;
  readonly end: number;
  readonly sizes: Int16Array;
}

export class CodeMap {
  private regions: Region[] = [];
  private readonly ruleAddresses: number[];
  private readonly rules: UnwindRule[];

  /** `pages`: text and gate pages; `bases`: section addresses. */
  constructor(image: ImageSource, bases: Float64Array, pages: readonly PlacedPage[]) {
    const rules = rulesOf(image, bases);
    this.ruleAddresses = rules.map(([address]) => address);
    this.rules = rules.map(([, rule]) => rule);
    this.regions = join(pages).map((region) => this.scan(region.start, region.bytes, pages));
    this.markMemoryCalls(image, bases);
  }

  /** True if `address` lies in a page of text or gates. */
  holds(address: number): boolean {
    for (const region of this.regions) if (address >= region.start && address < region.end) return true;
    return false;
  }

  /** For a return address right behind a call instruction: bytes from RSP after the return to the end of the frame; else one of the negative answers or NOT_RETURN. */
  frameSize(address: number): number {
    for (const region of this.regions) if (address >= region.start && address < region.end) return region.sizes[address - region.start];
    return NOT_RETURN;
  }

  /** The rule at an instruction; for return addresses ask with `address - 1`, since the call belongs to the frame. */
  rule(address: number): UnwindRule {
    let low = 0;
    let high = this.ruleAddresses.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ruleAddresses[middle] <= address) low = middle + 1;
      else high = middle;
    }
    return low === 0 || !this.holds(address) ? UNKNOWN : this.rules[low - 1];
  }

  /** Forgets the pages from `start` on that are gone with init memory. */
  drop(pages: readonly PlacedPage[]): void {
    this.regions = this.regions.filter((region) => !pages.some((page) => page.address >= region.start && page.address < region.end));
  }

  /** Marks the return addresses of one run of pages. */
  private scan(start: number, bytes: Uint8Array, pages: readonly PlacedPage[]): Region {
    const own = (address: number) => pages.some((page) => address >= page.address && address < page.address + 4096);
    const words = new DataView(bytes.buffer);
    const region = { start, end: start + bytes.length, sizes: new Int16Array(bytes.length) };
    this.regions.push(region); // so that `rule` knows the region being scanned
    for (let at = 0; at + 5 < bytes.length; at++) {
      if (bytes[at] !== CALL_REL32) continue;
      const back = at + 5;
      if (!own(start + back + words.getInt32(at + 1, true))) continue;
      this.mark(region, back);
    }
    return region;
  }

  /** Calls through memory lead anywhere; they are known by their operand's relocation, since their bytes alone could be part of another instruction. */
  private markMemoryCalls(image: ImageSource, bases: Float64Array): void {
    for (const [index, { role, bytes, relocations }] of image.sections.entries()) {
      if (role !== 'text' || Number.isNaN(bases[index])) continue;
      for (const { offset, type } of relocations) {
        if (type !== RELOCATION.PC32 || CALL_MEMORY.some((byte, place) => bytes[offset - 2 + place] !== byte)) continue;
        const back = bases[index] + offset + 4;
        const region = this.regions.find(({ start, end }) => back >= start && back < end);
        if (region !== undefined) this.mark(region, back - region.start);
      }
    }
  }

  private mark(region: Region, back: number): void {
    const rule = this.rule(region.start + back - 1);
    region.sizes[back] =
      rule.base === 'rsp' && rule.size > 0 && rule.size % 8 === 0 ? rule.size : rule.base === 'rbp' ? FROM_RBP : UNKNOWN_FRAME;
  }
}

/** Runs of adjacent pages with their bytes. Init and core text never touch, so a run is dropped whole or not at all. */
function join(pages: readonly PlacedPage[]): { start: number; bytes: Uint8Array }[] {
  const runs: PlacedPage[][] = [];
  for (const page of [...pages].sort((a, b) => a.address - b.address)) {
    const last = runs.at(-1)?.at(-1);
    if (last && last.address + last.bytes.length === page.address && last.init === page.init) runs.at(-1)?.push(page);
    else runs.push([page]);
  }
  return runs.map((run) => {
    const bytes = new Uint8Array(run.length * run[0].bytes.length);
    for (const [index, page] of run.entries()) bytes.set(page.bytes, index * page.bytes.length);
    return { start: run[0].address, bytes };
  });
}

/** Unwind rules by address, sorted. */
function rulesOf(image: ImageSource, bases: Float64Array): [number, UnwindRule][] {
  const rules: [number, UnwindRule][] = [];
  const covered = new Set<number>();
  const places = image.sections.find((section) => section.name === '.orc_unwind_ip');
  const entries = image.sections.find((section) => section.name === '.orc_unwind');
  if (places && entries) {
    const words = new DataView(entries.bytes.buffer, entries.bytes.byteOffset, entries.bytes.byteLength);
    for (const { offset, section, addend } of places.relocations) {
      const at = (offset / 4) * ORC_ENTRY_SIZE;
      if (section < 0 || Number.isNaN(bases[section]) || !Number.isInteger(at) || at + ORC_ENTRY_SIZE > entries.bytes.length) continue;
      covered.add(section);
      rules.push([bases[section] + addend, orcRule(words, at)]);
    }
  }
  for (const [index, section] of image.sections.entries()) {
    if (Number.isNaN(bases[index])) continue;
    if (section.role === 'gates' || LINKERS.has(section.name)) rules.push([bases[index], RETURN_ON_TOP]);
    else if (section.role === 'text' && !covered.has(index)) rules.push([bases[index], UNKNOWN]);
  }
  // Where one section's closing entry and the next one's first share an address, the closing one yields (as in Linux orc_sort_cmp).
  const closing = (rule: UnwindRule) => (rule === UNKNOWN ? 0 : 1);
  return rules.sort((a, b) => a[0] - b[0] || closing(a[1]) - closing(b[1]));
}

function orcRule(words: DataView, at: number): UnwindRule {
  const registers = words.getUint8(at + 4);
  const base = registers & 15;
  const size = words.getInt16(at, true);
  const savedRbp = registers >> 4 === ORC_PREVIOUS_SP ? words.getInt16(at + 2, true) : undefined;
  if (base === ORC_SP) return { base: 'rsp', size, savedRbp };
  if (base === ORC_BP) return { base: 'rbp', size, savedRbp };
  return UNKNOWN;
}
