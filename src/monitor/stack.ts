/** The guest's kernel stacks (P4): which addresses may serve as one, and their words, read and written where the guest mapped them. */
import { on } from '../base/defence-switch.ts';
import { joinAddress, PAGE_SIZE } from '../engine/contract.ts';
import type { Cpu, GuestMemory } from '../engine/contract.ts';
import { STACK_SIZE } from './frames.ts';
import type { InstanceTable } from './instance-table.ts';

export class StackAccess {
  private cpu: Cpu | undefined;
  private page = Number.NaN;
  private frame = -1;

  /** `owners`: per guest frame, 0 or the instance slot whose text or gates it holds. */
  constructor(
    private readonly memory: GuestMemory,
    private readonly owners: Uint8Array,
  ) {}

  /** Forgets the translation of the crossing before: the guest may have changed its page tables since. */
  begin(cpu: Cpu): void {
    this.cpu = cpu;
    this.page = Number.NaN;
  }

  /** Guest physical address of the 8-byte word at `address`, or -1: not a kernel address, misaligned, not mapped writable, not RAM, or module text. */
  locate(address: number): number {
    if ((!(address < 0) && (on('stack-kernel-address') || Number.isNaN(address))) || ((address & 7) !== 0 && on('stack-alignment')))
      return -1;
    const offset = address & (PAGE_SIZE - 1);
    const page = address - offset;
    if (page !== this.page) {
      const gpa = this.cpu === undefined ? -1 : this.cpu.translate(page, on('stack-writable'));
      if (!(gpa >= 0 && gpa < this.memory.size)) return -1;
      if (this.owners[Math.floor(gpa / PAGE_SIZE)] !== 0 && on('stack-not-text')) return -1;
      this.page = page;
      this.frame = gpa;
    }
    return this.frame + offset;
  }

  /** The word at a located place as a linear address, NaN if it is none. */
  load(gpa: number): number {
    const word = gpa >>> 2;
    return joinAddress(this.memory.words[word], this.memory.words[word + 1]);
  }

  store(gpa: number, address: number): void {
    const word = gpa >>> 2;
    this.memory.words[word] = address >>> 0;
    this.memory.words[word + 1] = Math.floor(address / 0x1_0000_0000) >>> 0;
    this.memory.written(gpa, 8);
  }

  /** True if what a thread may use of the stack at `pointer` stays clear of these instances: module views map their own pages there. */
  clearOf(pointer: number, instances: InstanceTable): boolean {
    return instances.clear(pointer - 2 * STACK_SIZE, pointer + STACK_SIZE);
  }

  /** See `SameStack`: every page between the two is mapped. */
  readonly same = (low: number, high: number): boolean => {
    for (let page = low - (low & (PAGE_SIZE - 1)); page < high; page += PAGE_SIZE) {
      if (this.cpu === undefined || this.cpu.translate(page, true) < 0) return false;
    }
    return true;
  };
}
