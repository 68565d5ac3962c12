import { describe, expect, test } from 'vitest';
import { createManualClock, createProbe } from '../../testing.ts';
import { Cmos } from './cmos.ts';

const NOON = Date.UTC(2024, 1, 29, 12, 34, 56);

function setUp(wall = NOON) {
  const clock = createManualClock();
  const irq = createProbe();
  const cmos = new Cmos({ irq, clock, wallClock: () => wall });
  const read = (index: number) => {
    cmos.write(0, 1, index);
    return cmos.read(1);
  };
  const write = (index: number, value: number) => {
    cmos.write(0, 1, index);
    cmos.write(1, 1, value);
  };
  const digits = (index: number) => read(index).toString(16).padStart(2, '0');
  const time = () => [0x32, 9, 8, 7, 4, 2, 0].map(digits).join(' ');
  return { clock, irq, cmos, read, write, time };
}

describe('MC146818', () => {
  test('gives the time in BCD, 24 hours, and goes on in machine time', () => {
    const { clock, time, read } = setUp();
    expect(time()).toBe('20 24 02 29 12 34 56');
    expect(read(6)).toBe(5); // a Thursday
    clock.advance(5e9);
    expect(time()).toBe('20 24 02 29 12 35 01');
    clock.advance(12 * 3600e9);
    expect(time()).toBe('20 24 03 01 00 35 01');
    expect(read(0x0d)).toBe(0x80);
  });

  test('binary and 12-hour modes', () => {
    const { clock, write, read } = setUp();
    write(0x0b, 0x04);
    expect([read(4), read(2), read(0)]).toEqual([0x8c, 34, 56]);
    clock.advance(3600e9);
    expect(read(4)).toBe(0x81);
    write(0x0b, 0x00);
    clock.advance(11 * 3600e9);
    expect(read(4)).toBe(0x12);
  });

  test('the date is set field by field under SET, whatever it passes through', () => {
    const { clock, write, time } = setUp(Date.UTC(2024, 0, 31, 1, 2, 3));
    write(0x0b, 0x82);
    for (const [index, value] of [
      [9, 0x23],
      [8, 0x02],
      [7, 0x10],
      [4, 0x23],
      [2, 0x59],
      [0, 0x58],
      [0x32, 0x20],
    ])
      write(index, value);
    clock.advance(10e9);
    expect(time()).toBe('20 23 02 10 23 59 58');
    write(0x0b, 0x02);
    clock.advance(3e9);
    expect(time()).toBe('20 23 02 11 00 00 01');
  });

  test('any bytes as a date are survived', () => {
    const { clock, write, time } = setUp();
    for (let i = 0; i < 2000; i++) write([0, 2, 4, 6, 7, 8, 9, 0x32][i % 8], (i * 37) & 0xff);
    clock.advance(2e9);
    expect(time()).not.toContain('NaN');
  });

  test('update in progress shows just before the second changes', () => {
    const { clock, read } = setUp();
    clock.advance(0.5e9);
    expect(read(0x0a) & 0x80).toBe(0);
    clock.advance(0.4999e9);
    expect(read(0x0a) & 0x80).toBe(0x80);
    clock.advance(0.0002e9);
    expect(read(0x0a) & 0x80).toBe(0);
  });

  test('update interrupts come once a second and end by reading C', () => {
    const { clock, irq, write, read } = setUp();
    write(0x0b, 0x12);
    clock.advance(0.9e9);
    expect(irq.level).toBe(false);
    clock.advance(0.2e9);
    expect(irq.level).toBe(true);
    expect(read(0x0c) & 0xb0).toBe(0x90);
    expect(irq.level).toBe(false);
    clock.advance(3e9);
    expect(irq.edges).toBe(2);
  });

  test('periodic interrupts at 1024 Hz', () => {
    const { clock, irq, write, read } = setUp();
    write(0x0b, 0x42);
    for (let i = 0; i < 1000; i++) {
      clock.advance(1e6);
      if (irq.level) read(0x0c);
    }
    expect(irq.edges).toBeGreaterThan(950);
    expect(irq.edges).toBeLessThanOrEqual(1001);
  });

  test('the alarm comes at its time, and every minute with wildcards', () => {
    const { clock, irq, write, read } = setUp();
    write(1, 0x10);
    write(3, 0x36);
    write(5, 0x12);
    write(0x0b, 0x22);
    clock.advance(73e9);
    expect(irq.level).toBe(false);
    clock.advance(2e9);
    expect(irq.level).toBe(true);
    expect(read(0x0c) & 0xa0).toBe(0xa0);
    write(3, 0xc0);
    write(5, 0xff);
    clock.advance(60e9);
    expect(irq.edges).toBe(2);
  });

  test('RAM keeps bytes; C and D are read-only', () => {
    const { write, read } = setUp();
    write(0x40, 0xab);
    write(0x0d, 0);
    expect([read(0x40), read(0x0d)]).toEqual([0xab, 0x80]);
  });

  test('state survives save and load', () => {
    const a = setUp();
    a.write(0x0b, 0x12);
    a.clock.advance(1.5e9);
    const b = setUp(0);
    b.clock.advance(1.5e9);
    b.cmos.load(JSON.parse(JSON.stringify(a.cmos.save())));
    expect(b.time()).toBe(a.time());
    expect(b.irq.level).toBe(true);
    expect(b.clock.nextDeadline()).toBe(a.clock.nextDeadline());
    expect(() => b.cmos.load({ ...(a.cmos.save() as object), ram: 'AA==' })).toThrow('cmos: ram');
  });
});
