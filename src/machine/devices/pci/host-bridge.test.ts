import { describe, expect, test } from 'vitest';
import { createLog, type LogRecord } from '../../../base/log.ts';
import { createMemoryBus, createPortBus } from '../../bus.ts';
import type { PciFunction, RegisterBlock } from '../../ports.ts';
import { createProbe } from '../../testing.ts';
import { PciHostBridge } from './host-bridge.ts';

const registersOf = (value: number): RegisterBlock => ({ read: () => value, write: () => {} });

function card(value: number, more: Partial<PciFunction> = {}): PciFunction & { mastering: boolean; resets: number } {
  return {
    name: `card ${value}`,
    vendor: 0x8086,
    device: 0x100e,
    subsystemVendor: 0x1af4,
    subsystem: 0x1100,
    revision: 3,
    classCode: 0x020000,
    interruptPin: 1,
    bars: [
      { kind: 'memory', size: 0x2_0000, registers: registersOf(value) },
      { kind: 'io', size: 64, registers: registersOf(value + 0x100) },
    ],
    mastering: false,
    resets: 0,
    setBusMaster(enabled) {
      this.mastering = enabled;
    },
    reset() {
      this.resets++;
    },
    ...more,
  } as PciFunction & { mastering: boolean; resets: number };
}

function setUp() {
  const records: LogRecord[] = [];
  const log = createLog('pci', (record) => records.push(record));
  const memory = createMemoryBus(log);
  const io = createPortBus(log);
  const narrow: string[] = [];
  const bridge = new PciHostBridge({ memory, io, log });
  io.claim({
    name: 'pci',
    start: 0xcf8,
    size: 8,
    registers: bridge.registers({ read: () => 0x77, write: (offset, size) => narrow.push(`w${size}@${offset}`) }),
  });
  const select = (slot: number, offset: number) => io.write(0xcf8, 4, 0x8000_0000 + slot * 0x800 + (offset & 0xfc));
  const read = (slot: number, offset: number, size: 1 | 2 | 4) => {
    select(slot, offset);
    return io.read(0xcfc + (offset & 3), size);
  };
  const write = (slot: number, offset: number, size: 1 | 2 | 4, value: number) => {
    select(slot, offset);
    io.write(0xcfc + (offset & 3), size, value);
  };
  return { bridge, memory, io, records, narrow, select, read, write };
}

describe('configuration mechanism #1', () => {
  test('is found as Linux probes it', () => {
    const { io, narrow, select, read } = setUp();
    io.write(0xcfb, 1, 1);
    expect(narrow).toEqual(['w1@3']);
    select(0, 0);
    expect(io.read(0xcf8, 4)).toBe(0x8000_0000);
    expect(read(0, 0, 4)).toBe(0x1237_8086);
    expect(read(0, 0x0a, 2)).toBe(0x0600);
    expect(io.read(0xcf9, 1)).toBe(0x77);
  });

  test('absent slots, functions and buses give all ones', () => {
    const { io, read } = setUp();
    expect(read(5, 0, 4)).toBe(0xffff_ffff);
    expect(read(5, 0, 2)).toBe(0xffff);
    for (const address of [0x8000_0100, 0x8001_0000, 0x0000_0000]) {
      io.write(0xcf8, 4, address);
      expect(io.read(0xcfc, 4)).toBe(0xffff_ffff);
      io.write(0xcfc, 4, 0);
    }
  });

  test('header of a function, in all sizes', () => {
    const { bridge, read } = setUp();
    bridge.add(3, card(1), createProbe());
    expect(read(3, 0, 4)).toBe(0x100e_8086);
    expect(read(3, 2, 2)).toBe(0x100e);
    expect(read(3, 8, 4)).toBe(0x0200_0003);
    expect(read(3, 0x0b, 1)).toBe(0x02);
    expect(read(3, 0x0e, 1)).toBe(0);
    expect(read(3, 0x2c, 4)).toBe(0x1100_1af4);
    expect(read(3, 0x3d, 1)).toBe(1);
    expect(read(3, 0x3c, 1)).toBe(11);
  });

  test('identity is read-only', () => {
    const { bridge, read, write } = setUp();
    bridge.add(3, card(1), createProbe());
    for (const offset of [0, 8, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30]) {
      const before = read(3, offset, 4);
      write(3, offset, 4, 0xffff_ffff);
      expect(read(3, offset, 4)).toBe(before);
    }
  });

  test('capabilities are chained', () => {
    const { bridge, read, write } = setUp();
    const capabilities = [
      { id: 1, body: Uint8Array.of(2, 0, 0, 0, 0, 0), writable: Uint8Array.of(0, 0, 3, 0, 0, 0) },
      { id: 9, body: Uint8Array.of(4), writable: Uint8Array.of(0) },
    ];
    bridge.add(3, card(1, { capabilities }), createProbe());
    expect(read(3, 6, 2) & 0x10).toBe(0x10);
    expect(read(3, 0x34, 1)).toBe(0x40);
    expect(read(3, 0x40, 4)).toBe(0x0002_4801);
    expect(read(3, 0x48, 4)).toBe(0x0004_0009);
    write(3, 0x44, 4, 0xffff_ffff);
    expect(read(3, 0x44, 4)).toBe(3);
  });
});

describe('base address registers', () => {
  test('firmware has placed and enabled them', () => {
    const { bridge, memory, io } = setUp();
    bridge.add(3, card(1), createProbe());
    bridge.add(4, card(2), createProbe());
    const bars = [3, 4].flatMap((slot) => bridge.barsOf(slot));
    expect(bars.every((bar) => bar.decoded && bar.start % bar.size === 0)).toBe(true);
    expect(memory.read(bars[0].start, 4)).toBe(1);
    expect(io.read(bars[1].start + 60, 4)).toBe(0x101);
    expect(memory.read(bars[2].start + 0x1_fffc, 4)).toBe(2);
    expect(bridge.ownerOf('memory', bars[2].start + 5)).toEqual({ slot: 4, bar: 0 });
    expect(bridge.ownerOf('io', bars[3].start)).toEqual({ slot: 4, bar: 1 });
    expect(bridge.ownerOf('io', 0xcf8)).toBeUndefined();
    expect(bridge.isBusMaster(3)).toBe(false);
  });

  test('sizing', () => {
    const { bridge, read, write } = setUp();
    bridge.add(3, card(1), createProbe());
    write(3, 4, 2, 0);
    write(3, 0x10, 4, 0xffff_ffff);
    write(3, 0x14, 4, 0xffff_ffff);
    write(3, 0x18, 4, 0xffff_ffff);
    expect([read(3, 0x10, 4), read(3, 0x14, 4), read(3, 0x18, 4)]).toEqual([0xfffe_0000, 0xffff_ffc1, 0]);
  });

  test('moving and disabling follow at once, and are told', () => {
    const { bridge, memory, write } = setUp();
    bridge.add(3, card(1), createProbe());
    const changes: number[] = [];
    bridge.onBarChange((slot) => changes.push(slot));
    const old = bridge.barsOf(3)[0].start;
    write(3, 0x10, 4, 0xf000_0000);
    expect(memory.read(0xf000_0000, 4)).toBe(1);
    expect(memory.read(old, 4)).toBe(0xffff_ffff);
    write(3, 4, 2, 0x0001);
    expect(memory.read(0xf000_0000, 4)).toBe(0xffff_ffff);
    expect(bridge.barsOf(3).map((bar) => bar.decoded)).toEqual([false, true]);
    write(3, 0x3c, 1, 5);
    expect(changes).toEqual([3, 3]);
  });

  test.each([
    ['RAM', 0x0010_0000],
    ['the I/O APIC', 0xfec0_0000],
    ['the local APIC', 0xfee0_0000],
  ])('over %s is not decoded, and logged once', (_name, address) => {
    const { bridge, memory, write, records } = setUp();
    bridge.add(3, card(1), createProbe());
    write(3, 0x10, 4, address);
    expect(memory.ownerOf(address)).toBeUndefined();
    write(3, 0x10, 4, address + 0x4_0000);
    expect(bridge.barsOf(3)[0].decoded).toBe(false);
    expect(records.filter((record) => record.message.includes('not decoded')).length).toBe(1);
    write(3, 0x10, 4, 0xf000_0000);
    expect(bridge.barsOf(3)[0].decoded).toBe(true);
  });

  test('one function cannot take the addresses of another', () => {
    const { bridge, memory, write } = setUp();
    bridge.add(3, card(1), createProbe());
    bridge.add(4, card(2), createProbe());
    const victim = bridge.barsOf(3)[0].start;
    write(4, 0x10, 4, victim);
    expect(memory.read(victim, 4)).toBe(1);
    expect(bridge.barsOf(4)[0].decoded).toBe(false);
  });
});

describe('bus mastering, interrupts, reset, state', () => {
  test('the command register tells the function', () => {
    const { bridge, write } = setUp();
    const device = card(1);
    bridge.add(3, device, createProbe());
    write(3, 4, 2, 0x0007);
    expect([device.mastering, bridge.isBusMaster(3)]).toEqual([true, true]);
    write(3, 4, 1, 0x03);
    expect(device.mastering).toBe(false);
  });

  test('INTA shows in status and is gated by interrupt disable', () => {
    const { bridge, read, write } = setUp();
    const wire = createProbe();
    bridge.add(3, card(1), wire);
    const irq = bridge.interrupt(3);
    irq.set(true);
    expect(wire.level).toBe(true);
    expect(read(3, 6, 2) & 8).toBe(8);
    write(3, 4, 2, 0x0403);
    expect(wire.level).toBe(false);
    write(3, 4, 2, 0x0003);
    expect(wire.level).toBe(true);
    irq.set(false);
    expect(wire.level).toBe(false);
  });

  test('reset puts everything back', () => {
    const { bridge, write } = setUp();
    const device = card(1);
    const wire = createProbe();
    bridge.add(3, device, wire);
    const before = bridge.barsOf(3);
    bridge.interrupt(3).set(true);
    write(3, 4, 2, 7);
    write(3, 0x10, 4, 0xf000_0000);
    bridge.reset();
    expect(bridge.barsOf(3)).toEqual(before);
    expect([device.resets, device.mastering, wire.level]).toEqual([1, false, false]);
  });

  test('one function reset: its interrupt falls, its configuration stays', () => {
    const { bridge, write } = setUp();
    const [device, other] = [card(1), card(1)];
    const wire = createProbe();
    bridge.add(3, device, wire);
    bridge.add(4, other, createProbe());
    write(3, 4, 2, 7);
    const before = bridge.barsOf(3);
    bridge.interrupt(3).set(true);
    expect(wire.level).toBe(true);
    bridge.resetFunction(3);
    expect([device.resets, other.resets, device.mastering, wire.level]).toEqual([1, 0, true, false]);
    expect(bridge.barsOf(3)).toEqual(before);
    bridge.resetFunction(9); // nothing there
  });

  test('state survives save and load', () => {
    const a = setUp();
    a.bridge.add(3, card(1), createProbe());
    a.bridge.add(4, card(2), createProbe());
    const [first, second] = [3, 4].map((slot) => a.bridge.barsOf(slot)[0].start);
    a.write(3, 4, 2, 6);
    a.write(4, 4, 2, 0);
    a.write(4, 0x10, 4, first + 0x100_0000);
    a.write(3, 0x10, 4, second);
    a.write(4, 0x10, 4, first);
    a.write(4, 4, 2, 3);
    const b = setUp();
    const device = card(1);
    b.bridge.add(3, device, createProbe());
    b.bridge.add(4, card(2), createProbe());
    b.bridge.load(JSON.parse(JSON.stringify(a.bridge.save())));
    expect(b.bridge.barsOf(3)).toEqual(a.bridge.barsOf(3));
    expect(b.bridge.barsOf(4)).toEqual(a.bridge.barsOf(4));
    expect([b.memory.read(first, 4), b.memory.read(second, 4)]).toEqual([2, 1]);
    expect(device.mastering).toBe(true);
    expect(() => setUp().bridge.load(a.bridge.save())).toThrow('slot 3');
  });

  test('a slot is taken once', () => {
    const { bridge } = setUp();
    bridge.add(3, card(1), createProbe());
    for (const slot of [0, 3, 32, 1.5]) expect(() => bridge.add(slot, card(2), createProbe())).toThrow(RangeError);
  });
});
