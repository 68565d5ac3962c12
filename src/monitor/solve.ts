/**
 * Where did the guest's loader put the module? The guest is not asked: every address is *solved* from the relocated words that it
 * wrote, the first use of a section or import giving its address. Nothing is believed by that: relocate.ts builds the module at the
 * solved addresses from the registered image, and every other use must come out byte for byte as in the guest.
 */
import { on } from '../base/defence-switch.ts';
import { joinAddress, PAGE_SIZE } from '../engine/contract.ts';
import { hex } from '../base/hex.ts';
import { RELOCATION } from './image.ts';
import type { ImageRelocation, ImageSource } from './image.ts';
import type { RefusalReason } from './reasons.ts';

/** Thrown while a module is placed, caught by the loader. Never leaves the monitor. */
export class Refusal extends Error {
  constructor(
    readonly reason: RefusalReason,
    readonly detail: string,
  ) {
    super(`${reason}: ${detail}`);
  }
}

/** Copies guest memory at a linear address, or undefined when a page of it is not mapped RAM. */
export type ReadGuest = (address: number, length: number) => Uint8Array | undefined;

export interface Solution {
  /** Address of each section of the image; NaN for one that nothing in the module refers to. */
  readonly bases: Float64Array;
  readonly imports: ReadonlyMap<string, number>;
  /** The guest's copy of the solved text, gate, constant and private sections. */
  readonly copies: readonly (Uint8Array | undefined)[];
}

/** Per-CPU data is addressed by small offsets, not by kernel addresses. */
const PER_CPU = '.data..percpu';
/** The upper half of the canonical addresses, where kernels live, less its last page so that sums cannot wrap. */
const LOWEST = -(2 ** 47);
const HIGHEST = -PAGE_SIZE;

export function solve(image: ImageSource, gateBase: number, read: ReadGuest): Solution {
  const { sections } = image;
  const bases = new Float64Array(sections.length).fill(Number.NaN);
  const imports = new Map<string, number>();
  const copies: (Uint8Array | undefined)[] = new Array(sections.length).fill(undefined);
  const pending: number[] = [];
  const deferred: number[] = []; // private memory: its guest copy is never compared, so it is asked last

  const place = (index: number, base: number) => {
    const section = sections[index];
    checkBase(section.name, base, section.size, section.align);
    bases[index] = base;
    if (section.role === 'private') deferred.push(index);
    else if (section.role !== 'data' && section.role !== 'metadata') pending.push(index);
  };
  place(image.gateSection, gateBase);

  for (let index = pending.pop() ?? deferred.pop(); index !== undefined; index = pending.pop() ?? deferred.pop()) {
    const section = sections[index];
    const base = bases[index];
    const copy = read(base, section.size);
    if (!copy) throw new Refusal('not-mapped', `${section.name} at ${hex(base)}, ${section.size} bytes`);
    copies[index] = copy;
    const words = new DataView(copy.buffer, copy.byteOffset, copy.byteLength);
    for (const relocation of section.relocations) {
      const known = relocation.section >= 0 ? !Number.isNaN(bases[relocation.section]) : imports.has(relocation.symbol);
      if (known) continue;
      const value = targetOf(relocation, words, base + relocation.offset) - relocation.addend;
      if (!Number.isSafeInteger(value)) {
        throw new Refusal('bad-address', `${section.name}+${hex(relocation.offset)} (${relocation.symbol}) holds no canonical address`);
      }
      if (relocation.section >= 0) place(relocation.section, value);
      else imports.set(relocation.symbol, value);
    }
  }
  return { bases, imports, copies };
}

function checkBase(name: string, base: number, size: number, align: number): void {
  if (name === PER_CPU || !on('section-addresses')) return;
  if (!(base >= LOWEST && base + size <= HIGHEST)) throw new Refusal('bad-address', `${name} at ${hex(base)} is not in the kernel's half`);
  if (base % align !== 0) throw new Refusal('bad-address', `${name} at ${hex(base)} is not aligned to ${align}`);
}

/** What a relocated field refers to (psABI table 4.9): S + A, or NaN where that is no canonical address. */
function targetOf(relocation: ImageRelocation, words: DataView, place: number): number {
  const { offset, type } = relocation;
  switch (type) {
    case RELOCATION.PC32:
    case RELOCATION.PLT32:
      return place + words.getInt32(offset, true);
    case RELOCATION.R32:
      return words.getUint32(offset, true);
    case RELOCATION.R32S:
      return words.getInt32(offset, true);
    case RELOCATION.R64:
      return joinAddress(words.getUint32(offset, true), words.getUint32(offset + 4, true));
    case RELOCATION.PC64: {
      const value = BigInt.asIntN(64, BigInt(place) + words.getBigInt64(offset, true));
      return value >= -(2n ** 47n) && value < 2n ** 47n ? Number(value) : Number.NaN;
    }
    default:
      return Number.NaN; // createImage lets no other type through
  }
}
