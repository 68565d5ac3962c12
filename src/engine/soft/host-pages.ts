/** The pool of VMM-owned pages, which no guest physical address reaches. */

import { type HostPage, PAGE_SIZE } from '../contract.ts';
import { pageWritten, type Space } from './space.ts';

export class HostPages {
  private readonly pages: HostPage[];
  private readonly free: HostPage[];

  constructor(
    private readonly space: Space,
    count: number,
  ) {
    this.pages = Array.from({ length: count }, (_, id) => ({
      id,
      bytes: new Uint8Array(space.memory.buffer, space.hostPages + id * PAGE_SIZE, PAGE_SIZE),
    }));
    this.free = this.pages.toReversed();
  }

  allocate(count: number): HostPage[] {
    if (!Number.isInteger(count) || count < 0 || count > this.free.length) {
      throw new RangeError(`${count} host pages asked for, ${this.free.length} of ${this.pages.length} free`);
    }
    const pages = this.free.splice(this.free.length - count, count).toReversed();
    for (const page of pages) page.bytes.fill(0);
    return pages;
  }

  release(pages: readonly HostPage[]): void {
    for (const page of pages) {
      if (this.pages[page.id] !== page || this.free.includes(page)) throw new RangeError(`host page ${page.id} is not allocated`);
      page.bytes.fill(0);
      pageWritten(this.space, page.bytes.byteOffset);
      this.free.push(page);
    }
  }

  /** The page at an address in linear memory. */
  at(address: number): HostPage {
    const page = this.pages[(address - this.space.hostPages) / PAGE_SIZE];
    if (!page) throw new RangeError(`no host page at ${address}`);
    return page;
  }
}
