/** Memory that can serve as a stack, as the kernel sees it: which pages the guest maps writable, what they hold, which pointers are on one stack. */
import { PAGE } from './guarded-module.ts';

/** Kernel stacks are 16 KiB, aligned to that. */
const STACK_SIZE = 4 * PAGE;

/** Pages in a row, which the guest may unmap. */
export interface Region {
  readonly base: number;
  readonly words: BigUint64Array;
  readonly present: boolean[];
}

export class Stacks {
  constructor(private readonly regions: readonly Region[]) {}

  /** The word at an address that may be part of a stack; undefined where there is none. */
  get(address: number): bigint | undefined {
    const region = address % 8 === 0 ? this.at(address) : undefined;
    return region?.words[(address - region.base) / 8];
  }
  /** Where there is a word. */
  set(address: number, value: bigint): void {
    const region = this.at(address);
    if (region) region.words[(address - region.base) / 8] = value;
  }
  private at(address: number): Region | undefined {
    for (const region of this.regions)
      if (address >= region.base && region.present[Math.floor((address - region.base) / PAGE)]) return region;
    return undefined;
  }

  /** Two stack pointers after a return are on one stack: in the same 16 KiB, with every page between them mapped. */
  same(a: number, b: number): boolean {
    return stackOf(a) === stackOf(b) && this.joined(Math.min(a, b), Math.max(a, b));
  }
  /** A thread that is at `pointer` can come up to the stack pointer `key` by returns. */
  leads(pointer: number, key: number): boolean {
    return key >= pointer && stackOf(key) === stackOf(pointer + 8) && this.joined(pointer, key);
  }
  private joined(low: number, high: number): boolean {
    for (let page = Math.floor(low / PAGE) * PAGE; page < high; page += PAGE) if (!this.at(page)) return false;
    return true;
  }
}

/** All that a thread at `pointer` could come to: its own stack and those around it. */
export const reach = (pointer: number) => ({ start: pointer - 2 * STACK_SIZE, end: pointer + STACK_SIZE });

const stackOf = (key: number) => Math.floor((key - 8) / STACK_SIZE);
