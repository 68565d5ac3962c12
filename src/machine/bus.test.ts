import { describe, expect, test } from 'vitest';
import { silentLog } from '../base/log.ts';
import { type Bus, createMemoryBus, createPortBus } from './bus.ts';
import type { RegisterBlock } from './ports.ts';

function recorder(bytes: number): RegisterBlock & { log: string[]; data: Uint8Array } {
  const data = new Uint8Array(bytes);
  const log: string[] = [];
  return {
    data,
    log,
    read(offset, size) {
      log.push(`r${size}@${offset}`);
      let value = 0;
      for (let i = size - 1; i >= 0; i--) value = value * 256 + data[offset + i];
      return value;
    },
    write(offset, size, value) {
      log.push(`w${size}@${offset}=${value}`);
      for (let i = 0; i < size; i++) data[offset + i] = value >>> (8 * i);
    },
  };
}

describe.each([
  ['port', createPortBus, 0x1000],
  ['memory', createMemoryBus, 0xe000_0000],
] as [string, typeof createPortBus, number][])('%s bus', (_name, create, base) => {
  const made = (): Bus => create(silentLog);

  test('unclaimed reads are all ones of the size, and are counted', () => {
    const bus = made();
    expect([bus.read(base, 1), bus.read(base, 2), bus.read(base, 4)]).toEqual([0xff, 0xffff, 0xffff_ffff]);
    bus.write(base, 4, 5);
    expect(bus.unclaimed).toBe(4);
  });

  test('gives offset, size and value to the owner', () => {
    const bus = made();
    const block = recorder(16);
    expect(bus.claim({ name: 'x', start: base, size: 16, registers: block })).toBe(true);
    bus.write(base + 4, 4, 0xdead_beef);
    expect(bus.read(base + 4, 4)).toBe(0xdead_beef);
    expect(bus.read(base + 6, 2)).toBe(0xdead);
    expect(block.log).toEqual([`w4@4=${0xdead_beef}`, 'r4@4', 'r2@6']);
    expect(bus.unclaimed).toBe(0);
  });

  test('splits what is too wide', () => {
    const bus = made();
    const narrow = recorder(4);
    bus.claim({ name: 'narrow', start: base, size: 4, registers: narrow, widest: 1 });
    bus.write(base, 2, 0x1234);
    expect(narrow.log).toEqual([`w1@0=${0x34}`, `w1@1=${0x12}`]);
    expect(bus.read(base, 4)).toBe(0x0000_1234);
  });

  test('an access over an edge stays with the block it begins in', () => {
    const bus = made();
    const left = recorder(4);
    const right = recorder(4);
    bus.claim({ name: 'left', start: base, size: 4, registers: left });
    bus.claim({ name: 'right', start: base + 4, size: 4, registers: right });
    bus.write(base + 2, 4, 0x0403_0201);
    expect([...left.data]).toEqual([0, 0, 1, 2]);
    expect(bus.read(base + 2, 4)).toBe(0xffff_0201);
    expect(bus.read(base - 1, 4)).toBe(0xffff_ffff);
    bus.write(base - 1, 4, 0);
    expect(right.log).toEqual([]);
    expect([...left.data]).toEqual([0, 0, 1, 2]);
  });

  test('an overlapping claim is refused, a released one is gone', () => {
    const bus = made();
    const claim = { name: 'a', start: base, size: 8, registers: recorder(8) };
    bus.claim(claim);
    bus.read(base, 1);
    expect(bus.claim({ name: 'b', start: base + 7, size: 8, registers: recorder(8) })).toBe(false);
    expect(bus.ownerOf(base + 7)).toBe(claim);
    bus.release(claim);
    expect(bus.ownerOf(base)).toBeUndefined();
    expect(bus.read(base, 1)).toBe(0xff);
    expect(bus.claim({ name: 'b', start: base + 7, size: 8, registers: recorder(8) })).toBe(true);
  });

  test('a claim off the bus is refused', () => {
    const bus = made();
    for (const [start, size] of [
      [-1, 4],
      [base, 0],
      [2 ** 60, 4],
      [Number.NaN, 4],
    ]) {
      expect(bus.claim({ name: 'x', start, size, registers: recorder(1) })).toBe(false);
    }
  });
});

test('an access at the last port stays on the bus', () => {
  const bus = createPortBus(silentLog);
  bus.write(0xffff, 4, 0x1122_3344);
  expect(bus.read(0xffff, 4)).toBe(0xffff_ffff);
});

test('a device that answers more than it was asked is cut to the size', () => {
  const bus = createMemoryBus(silentLog);
  bus.claim({ name: 'x', start: 0, size: 4, registers: { read: () => 0x1234_5678, write: () => {} } });
  expect([bus.read(0, 1), bus.read(0, 2), bus.read(0, 4)]).toEqual([0x78, 0x5678, 0x1234_5678]);
});
