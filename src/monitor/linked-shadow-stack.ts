/**
 * The VMM's side of a linked shadow stack (linker/shadow-stack.ts): it makes the record of an entry itself, asks the records at a way out, and says what a
 * `ud2` of the routines means. The records lie in private memory of the module.
 */
import { joinAddress, PAGE_SIZE } from '../engine/contract.ts';
import { GATE_SIZE } from '../policy/manifest.ts';
import {
  BUCKET_SIZE,
  recordBucket,
  CALL_SIZE,
  RANGE_SIZE,
  RECORD_SIZE,
  SHADOW,
  SHADOW_RANGES,
  SHADOW_RECORDS,
  SHADOW_TEXT,
  SHADOW_TRAPS,
} from '../policy/shadow-stack.ts';
import type { ShadowTrap } from '../policy/shadow-stack.ts';
import { STACK_SIZE } from './frames.ts';
import { RELOCATION } from './image.ts';
import type { ImageSource } from './image.ts';
import type { PrivateMemory } from './private-memory.ts';
import type { ViolationReason } from './reasons.ts';

const CALL = 0xe8;
/** A record in 32-bit words: stack pointer, return address. */
const RECORD_WORDS = RECORD_SIZE / 4;
const BUCKET_WORDS = BUCKET_SIZE / 4;
const PAGE_WORDS = PAGE_SIZE / 4;
/** Bytes between a call of an entry and the entry itself, at most: a kernel stack, wherever it begins. */
const REACH = 2 * STACK_SIZE;

export class LinkedShadowStack {
  private readonly text: number;
  /** Where functions that have a stub go on behind it. */
  private readonly bodies: ReadonlySet<number>;
  /** By gate: return address of its one call, NaN for a gate that is jumped to. */
  private readonly returns: Float64Array;
  private readonly recorded: readonly boolean[];
  /** The records, by page. */
  private readonly pages: readonly Uint32Array[];

  /** Undefined for a module linked without. */
  static of(image: ImageSource, bases: Float64Array, memory: PrivateMemory): LinkedShadowStack | undefined {
    const text = image.sections.findIndex(({ name, role }) => name === SHADOW_TEXT && role === 'text');
    return text < 0 ? undefined : new LinkedShadowStack(image, bases, memory, text);
  }

  private constructor(
    private readonly image: ImageSource,
    private readonly bases: Float64Array,
    private readonly memory: PrivateMemory,
    text: number,
  ) {
    this.text = bases[text];
    this.bodies = new Set(
      image.sections[text].relocations
        .filter(({ offset }) => offset >= SHADOW.stubs)
        .map(({ section, addend }) => bases[section] + addend + 4),
    );
    this.recorded = image.gates.map((gate) => gate?.recorded === true);
    this.returns = this.returnAddresses();
    this.pages = memory.pagesOf(SHADOW_RECORDS).map((bytes) => new Uint32Array(bytes.buffer, bytes.byteOffset, PAGE_WORDS));
  }

  /**
   * The kernel calls a function of the module: its record is made here, since the word on the stack could change before the stub reads it. Gives where to go on, or NaN:
   * there is no room. `entries`: see `sweep`.
   */
  enter(target: number, slot: number, address: number, entries: () => Float64Array): number {
    if (!this.bodies.has(target + CALL_SIZE)) return target;
    const page = this.pageOf(slot);
    let at = this.place(page, slot);
    if (at < 0 && this.sweep(entries(), slot)) at = this.place(page, slot);
    if (at < 0) return Number.NaN;
    page.set(halvesOf(slot), at);
    page.set(halvesOf(address), at + 2);
    return target + CALL_SIZE;
  }

  /** False if a way out by `gate`, -1 for one by pointer, does not return to `address`, which lies in `slot`. A record of it is used up. */
  mayLeave(gate: number, slot: number, address: number): boolean {
    if (gate >= 0 && !Number.isNaN(this.returns[gate])) return this.returns[gate] === address;
    const page = this.pageOf(slot);
    const at = this.find(page, slot);
    const same = at >= 0 && joinAddress(page[at + 2], page[at + 3]) === address;
    if (same) page.fill(0, at, at + 2);
    return same || gate < 0 || !this.recorded[gate];
  }

  /** What is wrong where a `ud2` of the routines stands, or undefined. */
  trap(address: number): ShadowTrap | undefined {
    const offset = address - this.text;
    return TRAPS.find((trap) => SHADOW_TRAPS[trap] === offset);
  }

  /** True right before `leave` goes back to its caller: the stack is the caller's, who goes on at what R11 says. */
  gone(address: number): boolean {
    return address === this.text + SHADOW.gone;
  }

  /** Where a stub that found no room begins anew. */
  get again(): number {
    return this.text + SHADOW.enter;
  }

  /**
   * Forgets the records of calls that can never return, since the thread has ended or the module was left by a jump: those on a kernel stack with none of `entries` above them,
   * the stack pointers, sorted, with which unfinished entries end. True if there is room for a record at `slot` now.
   */
  sweep(entries: Float64Array, slot: number): boolean {
    for (const page of this.pages) {
      for (let at = 0; at < PAGE_WORDS; at += RECORD_WORDS) {
        const pointer = joinAddress(page[at], page[at + 1]);
        if (pointer < 0 && !this.memory.holds(pointer) && !(above(entries, pointer) - pointer <= REACH)) page.fill(0, at, at + 2);
      }
    }
    return this.place(this.pageOf(slot), slot) >= 0;
  }

  /** Init memory goes back to the guest: no return address lies there any more. */
  dropInit(): void {
    const ranges = this.memory.section(SHADOW_RANGES);
    const relocations = this.image.sections.find(({ name }) => name === SHADOW_RANGES)?.relocations ?? [];
    for (const { offset, section } of relocations) {
      if (section >= 0 && this.image.sections[section].init) ranges?.write(offset - (offset % RANGE_SIZE), new Uint8Array(RANGE_SIZE));
    }
  }

  private pageOf(slot: number): Uint32Array {
    return this.pages[Math.floor(recordBucket(slot) / PAGE_SIZE)];
  }

  private firstOf(slot: number): number {
    return (recordBucket(slot) % PAGE_SIZE) / 4;
  }

  /** Where a record goes: the first that is free, or an old one of that stack pointer; -1 if there is none. */
  private place(page: Uint32Array, slot: number): number {
    const first = this.firstOf(slot);
    for (let at = first; at < first + BUCKET_WORDS; at += RECORD_WORDS) {
      if ((page[at] === 0 && page[at + 1] === 0) || joinAddress(page[at], page[at + 1]) === slot) return at;
    }
    return -1;
  }

  private find(page: Uint32Array, slot: number): number {
    const first = this.firstOf(slot);
    for (let at = first; at < first + BUCKET_WORDS; at += RECORD_WORDS) if (joinAddress(page[at], page[at + 1]) === slot) return at;
    return -1;
  }

  private returnAddresses(): Float64Array {
    const { sections, gateSection, gates } = this.image;
    const returns = new Float64Array(gates.length).fill(Number.NaN);
    for (const [index, { role, bytes, relocations }] of sections.entries()) {
      if (role !== 'text') continue;
      for (const { offset, type, section, addend } of relocations) {
        if (section === gateSection && type === RELOCATION.PLT32 && bytes[offset - 1] === CALL)
          returns[(addend + 4) / GATE_SIZE] = this.bases[index] + offset + 4;
      }
    }
    return returns;
  }
}

const TRAPS = Object.keys(SHADOW_TRAPS) as ShadowTrap[];

/** What a trap of the routines says of the module, where there is no mending it. */
export const TRAPPED: Record<ShadowTrap, { reason: ViolationReason; detail: string }> = {
  foreign: { reason: 'shadow-stack', detail: 'a function of the module began with a return address that is not of its call' },
  full: { reason: 'stack-depth', detail: 'there is no room for a return address' },
  differs: { reason: 'shadow-stack', detail: 'a return of the module did not find the address of its call' },
};

/** The least of the sorted numbers above `pointer`; NaN if there is none. */
function above(sorted: Float64Array, pointer: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= pointer) low = middle + 1;
    else high = middle;
  }
  return low < sorted.length ? sorted[low] : Number.NaN;
}

const halvesOf = (address: number) => [address >>> 0, Math.floor(address / 0x1_0000_0000) >>> 0];
