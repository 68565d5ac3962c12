/** 4-level page tables (Intel SDM vol. 3, 4.5) in the fake engine's guest memory: made by tests, walked by `translate`. */
import { PAGE_SIZE } from '../contract.ts';
import type { GuestMemory } from '../contract.ts';

const PRESENT = 1;
const WRITABLE = 2;
const LARGE = 0x80;
const FRAME_LOW = 0xffff_f000;
/** Bits 12 to 51 of an entry, as a number. */
const frameOf = (memory: GuestMemory, at: number) =>
  (memory.words[at / 4 + 1] & 0xf_ffff) * 0x1_0000_0000 + ((memory.words[at / 4] & FRAME_LOW) >>> 0);
/** Index of a linear address in the table of a level, 3 (top) to 0. */
const indexOf = (address: number, level: number) => Math.floor(address / (PAGE_SIZE * 512 ** level)) & 511;

/** Guest physical address of `address` by the tables at `root`, or -1. */
export function walk(memory: GuestMemory, root: number, address: number, write: boolean): number {
  if (!(address >= -(2 ** 47) && address < 2 ** 47)) return -1;
  let table = root;
  for (let level = 3; level >= 0; level--) {
    const at = table + 8 * indexOf(address, level);
    if (at + 8 > memory.size) return -1;
    const flags = memory.words[at / 4];
    if ((flags & PRESENT) === 0 || (write && (flags & WRITABLE) === 0)) return -1;
    const frame = frameOf(memory, at);
    const span = PAGE_SIZE * 512 ** level;
    if (level === 0 || (level < 3 && (flags & LARGE) !== 0)) return frame - (frame % span) + (address - Math.floor(address / span) * span);
    table = frame;
  }
  return -1;
}

/** Builds page tables in guest memory, taking table frames from `[next, end)`. */
export class PageTables {
  constructor(
    private readonly memory: GuestMemory,
    readonly root: number,
    private next: number,
    private readonly end: number,
  ) {}

  /** Maps the page at `address` to `gpa`, any earlier mapping replaced. */
  map(address: number, gpa: number, writable = true): void {
    let table = this.root;
    for (let level = 3; level > 0; level--) {
      const at = (table + 8 * indexOf(address, level)) / 4;
      if ((this.memory.words[at] & PRESENT) === 0) {
        if (this.next + PAGE_SIZE > this.end) throw new RangeError('fake engine: no room for page tables');
        this.memory.words[at] = this.next | PRESENT | WRITABLE;
        this.next += PAGE_SIZE;
      }
      table = (this.memory.words[at] & FRAME_LOW) >>> 0;
    }
    const at = (table + 8 * indexOf(address, 0)) / 4;
    this.memory.words[at] = (gpa | PRESENT | (writable ? WRITABLE : 0)) >>> 0;
  }

  unmap(address: number): void {
    let table = this.root;
    for (let level = 3; level > 0; level--) table = (this.memory.words[(table + 8 * indexOf(address, level)) / 4] & FRAME_LOW) >>> 0;
    this.memory.words[(table + 8 * indexOf(address, 0)) / 4] = 0;
  }
}
