/**
 * The private memory of one instance (P7) as the VMM uses it: sections by name, for secrets and the status, and the private stacks. What
 * code on a private stack spills never lies where the kernel can see it; the price is that an event there must be delivered on the kernel
 * stack that the module came from, and that is found here.
 */
import { joinAddress, PAGE_SIZE } from '../engine/contract.ts';
import { STACK, STACK_SECTION } from '../policy/private-memory.ts';
import type { ImageSource } from './image.ts';
import { mergeRanges } from './relocate.ts';
import type { LinearRange } from './relocate.ts';

/** One private section. Offsets are in bytes from its start. */
export interface PrivateSection {
  readonly size: number;
  /** Throws RangeError outside the section. */
  write(offset: number, bytes: Uint8Array): void;
  writeWord(offset: number, value: number): void;
  /** Zeroes all of it. */
  clear(): void;
}

/** Memory of one page, by the address that the module knows it at. */
export interface PrivatePage {
  readonly address: number;
  readonly bytes: Uint8Array;
}

interface PrivateStack {
  readonly start: number;
  readonly end: number;
  readonly first: DataView;
  readonly last: DataView;
}

export class PrivateMemory {
  /** Where its pages lie. */
  readonly ranges: readonly LinearRange[];
  private readonly pages: ReadonlyMap<number, Uint8Array>;
  private readonly stacks: readonly PrivateStack[];

  constructor(
    private readonly image: ImageSource,
    private readonly bases: Float64Array,
    pages: readonly PrivatePage[],
  ) {
    this.pages = new Map(pages.map(({ address, bytes }) => [address, bytes]));
    this.ranges = mergeRanges(pages.map(({ address }) => ({ start: address, end: address + PAGE_SIZE })));
    this.stacks = image.sections.flatMap(({ name, role, size }, index) => {
      const start = bases[index];
      const end = start + size;
      const first = this.pages.get(start);
      const last = this.pages.get(end - PAGE_SIZE);
      return role === 'private' && name.startsWith(STACK_SECTION) && first && last
        ? [{ start, end, first: viewOf(first), last: viewOf(last) }]
        : [];
    });
  }

  /** The section of that name; undefined when the image has no such private section, or its code never refers to it. */
  section(name: string): PrivateSection | undefined {
    const index = this.image.sections.findIndex((section) => section.name === name && section.role === 'private');
    if (index < 0 || Number.isNaN(this.bases[index])) return undefined;
    const base = this.bases[index];
    const { size } = this.image.sections[index];
    const write = (offset: number, bytes: Uint8Array) => {
      if (!(offset >= 0 && offset + bytes.length <= size))
        throw new RangeError(`${bytes.length} bytes at ${offset} of ${name}, which has ${size}`);
      for (let done = 0; done < bytes.length; ) {
        const at = (offset + done) % PAGE_SIZE;
        const part = bytes.subarray(done, done + PAGE_SIZE - at);
        this.pages.get(base + offset + done - at)?.set(part, at); // sections begin at pages
        done += part.length;
      }
    };
    return {
      size,
      write,
      writeWord(offset, value) {
        const word = new Uint8Array(4);
        new DataView(word.buffer).setUint32(0, value, true);
        write(offset, word);
      },
      clear: () => write(0, new Uint8Array(size)),
    };
  }

  /** The pages of the private section of that name, in order; none if there is none. */
  pagesOf(name: string): Uint8Array[] {
    const index = this.image.sections.findIndex((section) => section.name === name && section.role === 'private');
    const base = index < 0 ? Number.NaN : this.bases[index];
    return Number.isNaN(base)
      ? []
      : Array.from({ length: this.image.sections[index].size / PAGE_SIZE }, (_, page) => this.pages.get(base + page * PAGE_SIZE)).filter(
          (page) => page !== undefined,
        );
  }

  holds(address: number): boolean {
    for (const { start, end } of this.ranges) if (address >= start && address < end) return true;
    return false;
  }

  /** The kernel stack pointer behind a stack pointer: itself, or the one kept by the private stack that it is on; NaN in other private memory. */
  kernelPointer(rsp: number): number {
    if (!this.holds(rsp)) return rsp;
    const stack = this.stackAt(rsp);
    const kernel = stack ? wordAt(stack.last, PAGE_SIZE - STACK.kernelFromEnd) : Number.NaN;
    return this.holds(kernel) ? Number.NaN : kernel;
  }

  /** RBP at the switch to the private stack that `rsp` is on; `rbp` is the present one. */
  kernelFrame(rsp: number, rbp: number): number {
    const stack = this.stackAt(rsp);
    return stack ? wordAt(stack.first, STACK.rbp) : rbp;
  }

  private stackAt(rsp: number): PrivateStack | undefined {
    return this.stacks.find(({ start, end }) => rsp >= start && rsp <= end - STACK.kernelFromEnd);
  }
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const wordAt = (page: DataView, offset: number) => joinAddress(page.getUint32(offset, true), page.getUint32(offset + 4, true));
