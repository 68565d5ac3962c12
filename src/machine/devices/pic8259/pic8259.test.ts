import { describe, expect, test } from 'vitest';
import { Pic8259 } from './pic8259.ts';

function setUp({ icw4 = 0x01 } = {}) {
  let asserted = false;
  const pic = new Pic8259((level) => {
    asserted = level;
  });
  const master = (offset: number, value: number) => pic.masterPorts.write(offset, 1, value);
  const slave = (offset: number, value: number) => pic.slavePorts.write(offset, 1, value);
  for (const [write, base, wiring] of [
    [master, 0x30, 4],
    [slave, 0x38, 2],
  ] as const) {
    write(0, 0x11);
    write(1, base);
    write(1, wiring);
    write(1, icw4);
    write(1, 0);
  }
  const inService = () => {
    master(0, 0x0b);
    return pic.masterPorts.read(0, 1);
  };
  return { pic, master, slave, intr: () => asserted, inService };
}

describe('8259 pair', () => {
  test('interrupts nobody after reset, and keeps its mask', () => {
    let asserted = false;
    const pic = new Pic8259((level) => {
      asserted = level;
    });
    pic.setLine(0, true);
    expect(asserted).toBe(false);
    pic.masterPorts.write(1, 1, 0xa5);
    expect(pic.masterPorts.read(1, 1)).toBe(0xa5);
  });

  test('an edge interrupts once, in order of priority, until EOI', () => {
    const { pic, master, intr } = setUp();
    pic.setLine(4, true);
    pic.setLine(1, true);
    expect(intr()).toBe(true);
    expect(pic.peek()).toBe(0x31);
    expect(pic.acknowledge()).toBe(0x31);
    expect(intr()).toBe(false);
    master(0, 0x20);
    expect(pic.acknowledge()).toBe(0x34);
    master(0, 0x20);
    expect(intr()).toBe(false);
    pic.setLine(4, false);
    pic.setLine(4, true);
    expect(intr()).toBe(true);
  });

  test('a higher one nests, a lower one waits', () => {
    const { pic, master, intr } = setUp();
    pic.setLine(3, true);
    pic.acknowledge();
    pic.setLine(5, true);
    expect(intr()).toBe(false);
    pic.setLine(0, true);
    expect(pic.acknowledge()).toBe(0x30);
    master(0, 0x20);
    expect(intr()).toBe(false);
    master(0, 0x20);
    expect(pic.acknowledge()).toBe(0x35);
  });

  test('the slave interrupts through input 2 and needs two EOIs', () => {
    const { pic, master, slave, intr } = setUp();
    pic.setLine(12, true);
    expect(pic.peek()).toBe(0x3c);
    expect(pic.acknowledge()).toBe(0x3c);
    pic.setLine(12, false);
    pic.setLine(12, true);
    expect(intr()).toBe(false);
    slave(0, 0x20);
    master(0, 0x20);
    expect(pic.acknowledge()).toBe(0x3c);
  });

  test('a level input interrupts again while it is asserted; ELCR protects the fixed edge inputs', () => {
    const { pic, slave, master, intr } = setUp();
    pic.triggerPorts.write(0, 1, 0xff);
    pic.triggerPorts.write(1, 1, 0xff);
    expect([pic.triggerPorts.read(0, 1), pic.triggerPorts.read(1, 1)]).toEqual([0xf8, 0xde]);
    pic.setLine(10, true);
    for (let i = 0; i < 2; i++) {
      expect(pic.acknowledge()).toBe(0x3a);
      slave(0, 0x20);
      master(0, 0x20);
    }
    expect(intr()).toBe(true);
    pic.setLine(10, false);
    expect(intr()).toBe(false);
  });

  test('masks, and shows IRR and ISR', () => {
    const { pic, master, intr, inService } = setUp();
    master(1, 0x10);
    pic.setLine(4, true);
    expect(intr()).toBe(false);
    master(0, 0x0a);
    expect(pic.masterPorts.read(0, 1)).toBe(0x10);
    master(1, 0);
    pic.acknowledge();
    expect(inService()).toBe(0x10);
    expect(pic.masterPorts.read(1, 1)).toBe(0);
  });

  test('a request that went away is spurious, input 7, and not in service', () => {
    const { pic, inService } = setUp();
    pic.setLine(3, true);
    pic.setLine(3, false);
    expect(pic.acknowledge()).toBe(0x37);
    expect(inService()).toBe(0);
  });

  test('specific EOI, rotation and set priority', () => {
    const { pic, master, inService } = setUp();
    pic.setLine(3, true);
    pic.acknowledge();
    master(0, 0x63);
    expect(inService()).toBe(0);
    master(0, 0xc4); // input 4 lowest, 5 highest
    pic.setLine(1, true);
    pic.setLine(6, true);
    expect(pic.acknowledge()).toBe(0x36);
    master(0, 0xa0); // rotate on non-specific EOI: 6 lowest
    pic.setLine(7, true);
    expect(pic.acknowledge()).toBe(0x37);
  });

  test('special mask mode lets lower inputs through', () => {
    const { pic, master, intr } = setUp();
    pic.setLine(1, true);
    pic.acknowledge();
    pic.setLine(5, true);
    expect(intr()).toBe(false);
    master(1, 0x02);
    master(0, 0x68);
    expect(intr()).toBe(true);
    expect(pic.peek()).toBe(0x35);
  });

  test('automatic EOI leaves nothing in service', () => {
    const { pic, inService } = setUp({ icw4: 0x03 });
    pic.setLine(4, true);
    pic.acknowledge();
    expect(inService()).toBe(0);
  });

  test('poll acknowledges on read', () => {
    const { pic, master, intr } = setUp();
    pic.setLine(4, true);
    master(0, 0x0c);
    expect(pic.masterPorts.read(0, 1)).toBe(0x84);
    expect(intr()).toBe(false);
    master(0, 0x20);
    master(0, 0x0c);
    expect(pic.masterPorts.read(0, 1)).toBe(0);
  });

  test('state survives save and load', () => {
    const a = setUp();
    a.pic.setLine(9, true);
    a.pic.setLine(4, true);
    a.pic.acknowledge();
    const b = setUp();
    b.pic.load(JSON.parse(JSON.stringify(a.pic.save())));
    expect(b.pic.save()).toEqual(a.pic.save());
    expect(b.intr()).toBe(a.intr());
    expect(() => b.pic.load({ master: {}, slave: {} })).toThrow('pic8259: request');
  });
});
