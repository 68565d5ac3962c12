/**
 * The VMM's own copy of a module (P9): bytes of the registered image, relocated to the solved addresses, in whole pages. The guest's
 * copy is compared with it and then never looked at again.
 */
import { on } from '../base/defence-switch.ts';
import { hex } from '../base/hex.ts';
import { PAGE_SIZE, PERMISSION } from '../engine/contract.ts';
import type { Permission } from '../engine/contract.ts';
import { RELOCATION } from './image.ts';
import type { ImageSection, ImageSource } from './image.ts';
import { Refusal } from './solve.ts';
import type { ReadGuest, Solution } from './solve.ts';

export type PageRole = 'text' | 'gates' | 'constants' | 'private';
export interface PlacedPage {
  readonly address: number;
  readonly role: PageRole;
  readonly init: boolean;
  readonly permission: Permission;
  readonly bytes: Uint8Array;
}
/** Linear addresses [start, end). */
export interface LinearRange {
  readonly start: number;
  readonly end: number;
}
export interface Placement {
  readonly pages: readonly PlacedPage[];
  /** Whole pages of every solved section, the guest's data of the module included, merged: first what stays, then what goes after init. */
  readonly ranges: readonly LinearRange[];
  readonly initRanges: readonly LinearRange[];
  /** Names of constant sections left in guest memory because they share a page with data that the kernel may change. */
  readonly unguarded: readonly string[];
}

const PERMISSIONS: Record<PageRole, Permission> = {
  text: PERMISSION.read | PERMISSION.execute,
  gates: PERMISSION.read | PERMISSION.execute,
  constants: PERMISSION.read,
  private: PERMISSION.read | PERMISSION.write,
};
const INT3 = 0xcc;

const pageOf = (address: number) => Math.floor(address / PAGE_SIZE) * PAGE_SIZE;
const mappedRole = (section: ImageSection): PageRole | undefined =>
  section.role === 'data' || section.role === 'metadata' ? undefined : section.role;

/** Builds the pages of a solved module, or throws the Refusal that says why it cannot be trusted. */
export function buildPlacement(image: ImageSource, solution: Solution, read: ReadGuest): Placement {
  const { bases, imports, copies } = solution;
  const placed = image.sections
    .map((section, index) => ({ section, index, base: bases[index], end: bases[index] + section.size }))
    .filter(({ section, base }) => section.size > 0 && base < 0)
    .sort((a, b) => a.base - b.base);
  for (let i = 1; i < placed.length; i++) {
    const [before, after] = [placed[i - 1], placed[i]];
    if (after.base < before.end && on('sections-apart'))
      throw new Refusal('sections-overlap', `${before.section.name} and ${after.section.name} at ${hex(after.base)}`);
  }
  const rangesOf = (init: boolean) =>
    mergeRanges(
      placed
        .filter(({ section }) => section.init === init)
        .map(({ base, end }) => ({ start: pageOf(base), end: pageOf(end - 1) + PAGE_SIZE })),
    );
  const [ranges, initRanges] = [rangesOf(false), rangesOf(true)];
  // One page below counts as inside: nothing that a kernel exports ends in a module's first bytes.
  const inside = (address: number) => [...ranges, ...initRanges].some(({ start, end }) => address >= start - PAGE_SIZE && address < end);
  for (const { symbol, section, addend } of image.sections.flatMap(({ relocations }) => relocations)) {
    const value = section < 0 ? imports.get(symbol) : undefined;
    if (value === undefined || !on('import-outside')) continue;
    if (inside(value)) throw new Refusal('import-inside', `${symbol} at ${hex(value)}`);
    if (inside(value + addend))
      throw new Refusal('import-inside', `${symbol} at ${hex(value)}, ${addend} bytes behind which the module looks`);
  }

  const pages = new Map<number, PlacedPage>();
  const unguarded = new Set<string>();
  const shared = new Set<number>();
  for (const { section, base, end } of placed) {
    if (section.role !== 'data') continue;
    for (let page = pageOf(base); page < end; page += PAGE_SIZE) shared.add(page);
  }
  for (const { section, index, base, end } of placed) {
    const role = mappedRole(section);
    if (!role) continue;
    const bytes = relocated(section, base, bases, imports);
    const copy = copies[index];
    if (role !== 'private' && copy) compare(role, section.name, bytes, copy);
    for (let page = pageOf(base); page < end; page += PAGE_SIZE) {
      if (shared.has(page)) {
        if (role !== 'constants' && on('sections-apart'))
          throw new Refusal('sections-overlap', `${section.name} shares the page ${hex(page)} with data`);
        unguarded.add(section.name);
        continue;
      }
      const entry: PlacedPage = pages.get(page) ?? newPage(page, role, section.init);
      if ((entry.role !== role || entry.init !== section.init) && on('sections-apart')) {
        throw new Refusal('sections-overlap', `${section.name} shares the page ${hex(page)} with ${entry.role}`);
      }
      pages.set(page, entry);
      const from = Math.max(base, page);
      entry.bytes.set(bytes.subarray(from - base, Math.min(end, page + PAGE_SIZE) - base), from - page);
    }
  }
  const all = [...pages.values()];
  checkGaps(all, placed, read);
  return { pages: all, ranges, initRanges, unguarded: [...unguarded] };
}

function newPage(address: number, role: PageRole, init: boolean): PlacedPage {
  const bytes = new Uint8Array(PAGE_SIZE);
  if (role === 'text' || role === 'gates') bytes.fill(INT3);
  return { address, role, init, permission: PERMISSIONS[role], bytes };
}

/** The section's bytes at `base` with every relocation applied (psABI table 4.9). */
function relocated(section: ImageSection, base: number, bases: Float64Array, imports: ReadonlyMap<string, number>): Uint8Array {
  const bytes = section.bytes.slice();
  const words = new DataView(bytes.buffer);
  for (const { offset, type, section: target, symbol, addend } of section.relocations) {
    const value = (target >= 0 ? bases[target] : (imports.get(symbol) ?? Number.NaN)) + addend;
    const distance = value - (base + offset);
    const fits = (low: number, high: number, word: number) => {
      if (!(word >= low && word <= high)) {
        throw new Refusal('relocation-overflow', `${section.name}+${hex(offset)} to ${symbol || 'a section'} at ${hex(value)}`);
      }
      return word;
    };
    switch (type) {
      case RELOCATION.PC32:
      case RELOCATION.PLT32:
        words.setInt32(offset, fits(-(2 ** 31), 2 ** 31 - 1, distance), true);
        break;
      case RELOCATION.R32:
        words.setUint32(offset, fits(0, 2 ** 32 - 1, value), true);
        break;
      case RELOCATION.R32S:
        words.setInt32(offset, fits(-(2 ** 31), 2 ** 31 - 1, value), true);
        break;
      case RELOCATION.R64:
        words.setBigInt64(offset, BigInt(fits(-(2 ** 47), 2 ** 47 - 1, value)), true);
        break;
      case RELOCATION.PC64:
        words.setBigInt64(offset, BigInt(fits(-(2 ** 48), 2 ** 48, distance)), true);
        break;
    }
  }
  return bytes;
}

function compare(role: PageRole, name: string, ours: Uint8Array, guest: Uint8Array): void {
  const at = ours.findIndex((byte, index) => byte !== guest[index]);
  if (at < 0 || !on(role === 'constants' ? 'constants-comparison' : 'text-comparison')) return;
  throw new Refusal(
    role === 'constants' ? 'constants-differ' : 'text-differs',
    `${name}+${hex(at)}: the guest holds ${hex(guest[at])}, the image ${hex(ours[at])}`,
  );
}

/** Text pages hold text and zeros, nothing else: another module's code must not become protected, or ours hide in a gap. */
function checkGaps(pages: readonly PlacedPage[], placed: readonly { base: number; end: number }[], read: ReadGuest): void {
  for (const page of pages) {
    if (page.role !== 'text') continue;
    const guest = read(page.address, PAGE_SIZE);
    if (!guest) throw new Refusal('not-mapped', `text page ${hex(page.address)}`);
    for (const { base, end } of placed) guest.fill(0, clamp(base - page.address), clamp(end - page.address));
    const at = guest.findIndex((byte) => byte !== 0);
    if (at >= 0 && on('gap-comparison'))
      throw new Refusal('text-differs', `the gap at ${hex(page.address + at)} holds ${hex(guest[at])} instead of 0`);
  }
}
const clamp = (offset: number) => Math.min(Math.max(offset, 0), PAGE_SIZE);

/** Sorts and joins ranges that touch. */
export function mergeRanges(ranges: LinearRange[]): LinearRange[] {
  const out: { start: number; end: number }[] = [];
  for (const { start, end } of ranges.sort((a, b) => a.start - b.start)) {
    const last = out.at(-1);
    if (last && start <= last.end) last.end = Math.max(last.end, end);
    else out.push({ start, end });
  }
  return out;
}
