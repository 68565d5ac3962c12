/**
 * The loaded instances by address and by slot. Every crossing begins with "whose gate is this?", so the answer must cost the same with one module
 * loaded and with hundreds.
 */
import type { Instance } from './instance.ts';
import type { LinearRange } from './relocate.ts';

/** Slots of the frame owner map are bytes, and 0 is nobody's. */
export const MAX_INSTANCES = 255;

interface Occupied extends LinearRange {
  readonly instance: Instance;
}

export class InstanceTable {
  private readonly slots: (Instance | undefined)[] = new Array(MAX_INSTANCES + 1).fill(undefined);
  private list: readonly Instance[] = [];
  /** Address ranges of all instances, sorted; they never overlap. */
  private occupied: readonly Occupied[] = [];
  private starts = new Float64Array(0);

  get all(): readonly Instance[] {
    return this.list;
  }

  /** A slot for one more, 1 to MAX_INSTANCES, or 0: there is none. */
  freeSlot(): number {
    return Math.max(0, this.slots.indexOf(undefined, 1));
  }

  add(instance: Instance): void {
    this.slots[instance.slot] = instance;
    this.list = [...this.list, instance];
    this.changed();
  }

  remove(instance: Instance): void {
    this.slots[instance.slot] = undefined;
    this.list = this.list.filter((other) => other !== instance);
    this.changed();
  }

  /** An instance occupies other addresses than before. */
  changed(): void {
    this.occupied = this.list
      .flatMap((instance) => instance.ranges.map(({ start, end }) => ({ start, end, instance })))
      .sort((a, b) => a.start - b.start);
    this.starts = Float64Array.from(this.occupied, ({ start }) => start);
  }

  bySlot(slot: number): Instance | undefined {
    return this.slots[slot];
  }

  /** The instance at an address. */
  at(address: number): Instance | undefined {
    const last = this.occupied[this.lastBelow(address + 1)];
    return last !== undefined && address < last.end ? last.instance : undefined;
  }

  /** An instance that occupies something of [start, end). */
  overlapping({ start, end }: LinearRange): Instance | undefined {
    const last = this.occupied[this.lastBelow(end)];
    return last !== undefined && last.end > start ? last.instance : undefined;
  }

  /** True if nothing of [start, end) belongs to a module. */
  clear(start: number, end: number): boolean {
    const last = this.lastBelow(end);
    return last < 0 || this.occupied[last].end <= start;
  }

  /** Index of the last range that starts below `address`, or -1. Since ranges are disjoint, it is also the one that ends last. */
  private lastBelow(address: number): number {
    const { starts } = this;
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[middle] < address) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}
