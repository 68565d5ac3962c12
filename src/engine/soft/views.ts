/**
 * Views on the host side. What the core needs (fixed pages, allowed instructions, a generation that tells it to forget translations) is
 * kept in descriptors in linear memory; the windows are looked at only when an access has already left the core.
 */

import { type FixedPage, type HostPage, type Instruction, PAGE_SIZE, type PhysicalRange, type View } from '../contract.ts';
import {
  ALLOW_MWAIT,
  ALLOW_VECTOR,
  EVENT_VIEWS,
  FIXED_ADDRESS,
  FIXED_HOST,
  FIXED_LANDING,
  FIXED_PERMISSION,
  FIXED_SIZE,
  VIEW_ALLOWED,
  VIEW_FIXED,
  VIEW_FIXED_COUNT,
  VIEW_GENERATION,
  VIEW_ID,
  VIEW_SHADOW_STACK,
  VIEW_SIZE,
} from './core/layout.ts';
import { forgetMonitored, MAX_VIEWS, pageWritten, type Space, setEvents } from './space.ts';

const ALLOW: Record<Instruction, number> = { 'monitor-mwait': ALLOW_MWAIT, vector: ALLOW_VECTOR };

/** Where FIXED_LANDING lies in the word at FIXED_PERMISSION. */
const LANDING_SHIFT = 8 * (FIXED_LANDING - FIXED_PERMISSION);
const landingOf = (word: number): Pick<FixedPage, 'landing'> => (word >>> LANDING_SHIFT === 0 ? {} : { landing: word >>> LANDING_SHIFT });

/** Address of a host page in linear memory. */
export function hostPageAddress(page: HostPage): number {
  return page.bytes.byteOffset;
}

export class SoftView implements View {
  private ranges: readonly PhysicalRange[] = [];

  /** `descriptor`: address in linear memory. `repack` makes room for this view's fixed pages and returns where. */
  constructor(
    readonly id: number,
    readonly name: string,
    readonly descriptor: number,
    private readonly space: Space,
    private readonly place: (view: SoftView, count: number) => number,
    private readonly monitorEnded: () => void,
    private readonly pageByAddress: (address: number) => HostPage,
    private readonly quiet: () => void,
  ) {
    this.word(VIEW_ID, id);
    this.word(VIEW_FIXED_COUNT, 0);
    this.word(VIEW_ALLOWED, 0);
    this.word(VIEW_SHADOW_STACK, 0);
    this.changed();
  }

  private word(offset: number, value: number): void {
    this.space.words[(this.descriptor + offset) >>> 2] = value;
  }
  private read(offset: number): number {
    return this.space.words[(this.descriptor + offset) >>> 2] ?? 0;
  }

  /** CPUs forget what they know of this view before their next instruction. */
  changed(): void {
    Atomics.add(this.space.words, (this.descriptor + VIEW_GENERATION) >>> 2, 1);
    for (const block of this.space.cpus) setEvents(this.space, block, EVENT_VIEWS);
  }

  setFixedPages(pages: readonly FixedPage[]): void {
    if (this.id === 0 && pages.length > 0) throw new RangeError('the untrusted view has no fixed pages');
    const sorted = pages.toSorted((a, b) => a.address - b.address);
    sorted.forEach((fixed, i) => {
      if (!(fixed.address < 0 && fixed.address >= -(2 ** 47)) || fixed.address % PAGE_SIZE !== 0) {
        throw new RangeError(`fixed page at ${fixed.address}: expected a page-aligned canonical address in the upper half`);
      }
      const { landing = 1 } = fixed;
      if (!(landing > 0 && landing <= PAGE_SIZE && (landing & (landing - 1)) === 0))
        throw new RangeError(`fixed page at ${fixed.address}: landing ${landing}, expected a power of two up to ${PAGE_SIZE}`);
      if (sorted[i - 1]?.address === fixed.address) throw new RangeError(`two fixed pages at ${fixed.address}`);
    });
    this.quiet();
    const at = this.place(this, sorted.length);
    sorted.forEach((fixed, i) => {
      this.writeEntry(at + i * FIXED_SIZE, fixed);
    });
    this.word(VIEW_FIXED, at);
    this.word(VIEW_FIXED_COUNT, sorted.length);
    for (const fixed of sorted) pageWritten(this.space, hostPageAddress(fixed.page)); // its bytes may be new
    this.changed();
  }

  private writeEntry(at: number, fixed: FixedPage): void {
    const { words } = this.space;
    words[(at + FIXED_ADDRESS) >>> 2] = fixed.address >>> 0;
    words[(at + FIXED_ADDRESS + 4) >>> 2] = Math.floor(fixed.address / 2 ** 32) >>> 0;
    words[(at + FIXED_HOST) >>> 2] = hostPageAddress(fixed.page);
    words[(at + FIXED_PERMISSION) >>> 2] = (fixed.permission & 7) | ((fixed.landing ?? 0) << LANDING_SHIFT);
  }

  get fixedPages(): readonly FixedPage[] {
    const { words } = this.space;
    const base = this.read(VIEW_FIXED);
    return Array.from({ length: this.read(VIEW_FIXED_COUNT) }, (_, i) => {
      const at = (base + i * FIXED_SIZE) >>> 2;
      return {
        address: ((words[at + 1] ?? 0) | 0) * 2 ** 32 + (words[at] ?? 0),
        page: this.pageByAddress(words[at + FIXED_HOST / 4] ?? 0),
        permission: (words[at + FIXED_PERMISSION / 4] ?? 0) & 7,
        ...landingOf(words[at + FIXED_PERMISSION / 4] ?? 0),
      };
    });
  }

  setWindows(ranges: readonly PhysicalRange[]): void {
    this.quiet();
    this.ranges = ranges.map(({ start, end }) => ({ start, end }));
  }
  get windows(): readonly PhysicalRange[] {
    return this.ranges;
  }
  reaches(gpa: number): boolean {
    return this.ranges.some(({ start, end }) => gpa >= start && gpa < end);
  }

  setAllowed(instructions: ReadonlySet<Instruction>): void {
    if (this.id === 0 && instructions.size > 0) throw new RangeError('the untrusted view allows nothing extra');
    this.quiet();
    let bits = 0;
    for (const instruction of instructions) bits |= ALLOW[instruction];
    const monitored = (this.read(VIEW_ALLOWED) & ~bits & ALLOW_MWAIT) !== 0;
    this.word(VIEW_ALLOWED, bits);
    this.changed();
    if (monitored) this.monitorEnded();
  }
  setShadowStack(on: boolean): void {
    if (this.id === 0) throw new RangeError('the untrusted view has no shadow stack');
    this.quiet();
    this.word(VIEW_SHADOW_STACK, on ? 1 : 0);
    this.changed();
  }
  get shadowStack(): boolean {
    return this.read(VIEW_SHADOW_STACK) !== 0;
  }

  get allowed(): ReadonlySet<Instruction> {
    const bits = this.read(VIEW_ALLOWED);
    return new Set((Object.keys(ALLOW) as Instruction[]).filter((name) => bits & ALLOW[name]));
  }
}

/** All views of an engine, and the pool of fixed-page entries that they share. */
export class ViewTable {
  private readonly slots: (SoftView | undefined)[] = [];
  private nextId = 0;

  constructor(
    private readonly space: Space,
    private readonly pageByAddress: (address: number) => HostPage,
    /** Called before a change that CPUs in other threads must not see half done. */
    private readonly quiet: () => void,
  ) {}

  create(name: string): SoftView {
    let slot = this.slots.indexOf(undefined);
    if (slot < 0) slot = this.slots.length;
    if (slot >= MAX_VIEWS) throw new RangeError(`no more than ${MAX_VIEWS} views`);
    const descriptor = this.space.views + slot * VIEW_SIZE;
    const view = new SoftView(
      this.nextId++,
      name,
      descriptor,
      this.space,
      (asker, count) => this.place(asker, count),
      () => this.monitorEnded(),
      this.pageByAddress,
      this.quiet,
    );
    this.slots[slot] = view;
    return view;
  }

  destroy(view: SoftView): void {
    const slot = this.slots.indexOf(view);
    if (slot < 0) throw new RangeError(`view ${view.name} does not exist`);
    view.setFixedPages([]);
    view.setWindows([]);
    if (view.allowed.size > 0) view.setAllowed(new Set());
    this.slots[slot] = undefined;
  }

  /** A view lost MONITOR. */
  private monitorEnded(): void {
    if (!this.all.some(({ allowed }) => allowed.has('monitor-mwait'))) forgetMonitored(this.space);
  }

  get all(): SoftView[] {
    return this.slots.filter((view) => view !== undefined);
  }

  /** Room for `count` entries of `asker`: the others' lists are moved together first. Rare, and no CPU runs meanwhile. */
  private place(asker: SoftView, count: number): number {
    const { words, fixed, fixedMax } = this.space;
    let used = 0;
    for (const view of this.all) if (view !== asker) used += view.fixedPages.length;
    if (used + count > fixedMax) throw new RangeError(`no more than ${fixedMax} fixed pages in all views`);
    const kept = this.all
      .filter((view) => view !== asker)
      .map((view) => {
        const base = (view.descriptor + VIEW_FIXED) >>> 2;
        const length = words[(view.descriptor + VIEW_FIXED_COUNT) >>> 2] ?? 0;
        const from = (words[base] ?? 0) >>> 2;
        return { base, entries: words.slice(from, from + (length * FIXED_SIZE) / 4) };
      });
    let next = fixed;
    for (const { base, entries } of kept) {
      words.set(entries, next >>> 2);
      words[base] = next;
      next += entries.byteLength;
    }
    return next;
  }
}
