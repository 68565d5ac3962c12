import { describe, expect, test } from 'vitest';
import type { ApicMessage } from '../../apic-message.ts';
import { Ioapic } from './ioapic.ts';

function setUp() {
  const sent: ApicMessage[] = [];
  const ioapic = new Ioapic((message) => sent.push(message));
  const write = (index: number, value: number) => {
    ioapic.write(0x00, 4, index);
    ioapic.write(0x10, 4, value);
  };
  const read = (index: number) => {
    ioapic.write(0x00, 4, index);
    return ioapic.read(0x10, 4) >>> 0;
  };
  return { sent, ioapic, write, read };
}
const entry = (pin: number) => 0x10 + 2 * pin;

describe('82093AA', () => {
  test('version, ID, and every pin masked', () => {
    const { write, read } = setUp();
    expect(read(1)).toBe(0x0017_0011);
    write(0, 0xff00_0000);
    expect(read(0)).toBe(0x0f00_0000);
    for (let pin = 0; pin < 24; pin++) expect(read(entry(pin))).toBe(0x1_0000);
    expect(read(entry(24))).toBe(0);
  });

  test('an edge sends one message as the entry says', () => {
    const { sent, ioapic, write } = setUp();
    write(entry(4) + 1, 0x0300_0000);
    write(entry(4), 0x0000_0931);
    ioapic.setPin(4, true);
    ioapic.setPin(4, true);
    expect(sent).toEqual([{ destination: 3, logical: true, mode: 1, vector: 0x31, level: false }]);
    ioapic.setPin(4, false);
    ioapic.setPin(4, true);
    expect(sent.length).toBe(2);
  });

  test('an edge on a masked pin is lost', () => {
    const { sent, ioapic, write } = setUp();
    ioapic.setPin(4, true);
    write(entry(4), 0x31);
    expect(sent).toEqual([]);
  });

  test('a level holds remote IRR until EOI and then interrupts again', () => {
    const { sent, ioapic, write, read } = setUp();
    write(entry(16), 0x0000_a040);
    ioapic.setPin(16, true);
    expect(sent.length).toBe(1);
    expect(sent[0].level).toBe(true);
    expect(read(entry(16)) & 0x4000).toBe(0x4000);
    ioapic.endOfInterrupt(0x41);
    expect(sent.length).toBe(1);
    ioapic.endOfInterrupt(0x40);
    expect(sent.length).toBe(2);
    ioapic.setPin(16, false);
    ioapic.endOfInterrupt(0x40);
    expect(sent.length).toBe(2);
    expect(read(entry(16)) & 0x4000).toBe(0);
  });

  test('a masked level interrupts when unmasked', () => {
    const { sent, ioapic, write } = setUp();
    write(entry(17), 0x0001_8050);
    ioapic.setPin(17, true);
    expect(sent.length).toBe(0);
    write(entry(17), 0x0000_8050);
    expect(sent.length).toBe(1);
  });

  test('remote IRR cannot be written, and a switch to edge clears it', () => {
    const { ioapic, write, read } = setUp();
    write(entry(16), 0x0001_c040);
    expect(read(entry(16)) & 0x4000).toBe(0);
    write(entry(16), 0x0000_8040);
    ioapic.setPin(16, true);
    write(entry(16), 0x0001_8040);
    expect(read(entry(16)) & 0x4000).toBe(0x4000);
    write(entry(16), 0x0001_0040);
    write(entry(16), 0x0001_8040);
    expect(read(entry(16)) & 0x4000).toBe(0);
  });

  test('any register index and offset is survived', () => {
    const { ioapic, write, read } = setUp();
    for (let index = 0; index < 256; index++) {
      write(index, 0xffff_ffff);
      expect(read(index)).toBeGreaterThanOrEqual(0);
    }
    expect(ioapic.read(0x20, 4)).toBe(0);
  });

  test('state survives save and load', () => {
    const a = setUp();
    a.write(entry(16), 0x0000_a040);
    a.write(entry(16) + 1, 0xff00_0000);
    a.ioapic.setPin(16, true);
    const b = setUp();
    b.ioapic.load(JSON.parse(JSON.stringify(a.ioapic.save())));
    expect(b.ioapic.save()).toEqual(a.ioapic.save());
    expect(b.sent).toEqual([]);
    b.ioapic.endOfInterrupt(0x40);
    expect(b.sent.length).toBe(1);
    expect(() => b.ioapic.load({ ...(a.ioapic.save() as object), low: [1] })).toThrow('ioapic: low');
  });
});
