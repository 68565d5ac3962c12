/** The table of instances answers as a search through all of them would. */
import { expect, test } from 'vitest';
import type { Instance } from './instance.ts';
import { InstanceTable, MAX_INSTANCES } from './instance-table.ts';

const BASE = -0x4000_0000;
/** An instance of two ranges, as one has while it loads. */
const fake = (slot: number, at = slot): Instance =>
  ({
    slot,
    ranges: [
      { start: BASE + at * 0x1_0000, end: BASE + at * 0x1_0000 + 0x3000 },
      { start: BASE + at * 0x1_0000 + 0x8000, end: BASE + at * 0x1_0000 + 0x9000 },
    ],
  }) as unknown as Instance;

test('P2 every address belongs to the instance whose range it lies in, also after others have come and gone', () => {
  const table = new InstanceTable();
  const order = Array.from({ length: 100 }, (_, index) => (index * 37) % 100);
  const instances = order.map((at, index) => fake(index + 1, at));
  for (const instance of instances) table.add(instance);
  for (const instance of instances.filter((_, index) => index % 3 === 0)) table.remove(instance);
  const searched = (address: number) => table.all.find(({ ranges }) => ranges.some(({ start, end }) => address >= start && address < end));
  for (let address = BASE - 0x2000; address < BASE + 101 * 0x1_0000; address += 0x800) expect(table.at(address)).toBe(searched(address));
  for (let start = BASE - 0x2000; start < BASE + 101 * 0x1_0000; start += 0xd00) {
    const end = start + 0x2800;
    const touched = table.all.some(({ ranges }) => ranges.some((range) => range.start < end && range.end > start));
    expect(table.clear(start, end)).toBe(!touched);
    expect(table.overlapping({ start, end }) !== undefined).toBe(touched);
  }
});

test('P11 slots run out at the limit, and come back', () => {
  const table = new InstanceTable();
  expect(table.at(BASE)).toBeUndefined();
  expect(table.clear(BASE, BASE + 1)).toBe(true);
  for (let count = 1; count <= MAX_INSTANCES; count++) {
    const slot = table.freeSlot();
    expect(slot).toBe(count);
    table.add(fake(slot));
  }
  expect(table.freeSlot()).toBe(0);
  const gone = table.bySlot(7) as Instance;
  table.remove(gone);
  expect(table.bySlot(7)).toBeUndefined();
  expect(table.freeSlot()).toBe(7);
});
