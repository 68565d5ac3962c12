import { describe, expect, test } from 'vitest';
import { createManualClock, createProbe } from '../../testing.ts';
import { PIT_FREQUENCY } from './counter.ts';
import { Pit8254 } from './pit8254.ts';

const TICK = 1e9 / PIT_FREQUENCY;

function setUp() {
  const clock = createManualClock();
  const irq = createProbe();
  const pit = new Pit8254({ irq, clock });
  const program = (counter: number, control: number, count: number) => {
    pit.write(3, 1, (counter << 6) | control);
    pit.write(counter, 1, count & 0xff);
    pit.write(counter, 1, count >> 8);
  };
  const count = (counter: number) => {
    pit.write(3, 1, counter << 6);
    return pit.read(counter) | (pit.read(counter) << 8);
  };
  const speaker = (value: number) => pit.speakerPort.write(0, 1, value);
  const port61 = () => pit.speakerPort.read(0, 1);
  return { clock, irq, pit, program, count, speaker, port61 };
}

describe('8254', () => {
  test.each([
    ['rate generator', 0x34],
    ['square wave', 0x36],
  ])('mode %s interrupts at its rate', (_name, control) => {
    const { clock, irq, program } = setUp();
    program(0, control, 11932); // 100 Hz
    clock.advance(1e9);
    expect(irq.edges).toBeGreaterThanOrEqual(99);
    expect(irq.edges).toBeLessThanOrEqual(101);
  });

  test('one-shot mode 0 raises OUT once at terminal count', () => {
    const { clock, irq, program } = setUp();
    program(0, 0x30, 1000);
    expect(irq.level).toBe(false);
    clock.advance(999 * TICK);
    expect(irq.level).toBe(false);
    clock.advance(2 * TICK);
    expect(irq.level).toBe(true);
    clock.advance(1e9);
    expect(irq.edges).toBe(1);
    program(0, 0x30, 1000);
    expect(irq.level).toBe(false);
    clock.advance(1e9);
    expect(irq.edges).toBe(2);
  });

  test('mode 4 strobes once', () => {
    const { clock, irq, program } = setUp();
    program(0, 0x38, 500);
    const before = irq.edges;
    clock.advance(1e9);
    expect(irq.edges).toBe(before + 1);
  });

  test('a late host gives one interrupt for many periods, and the next in time', () => {
    const { clock, irq, program } = setUp();
    program(0, 0x34, 1193);
    const before = irq.edges;
    clock.jump(50e6);
    clock.runDue();
    expect(irq.edges).toBe(before + 1);
    clock.advance(2e6);
    expect(irq.edges).toBeGreaterThanOrEqual(before + 2);
  });

  test('the shortest period does not storm', () => {
    const { clock, irq, program } = setUp();
    program(0, 0x34, 2);
    clock.advance(10e6);
    expect(irq.edges).toBeGreaterThan(100);
    expect(irq.edges).toBeLessThanOrEqual(502);
  });

  test('counts down in machine time; a latch holds its value', () => {
    const { clock, pit, program, count } = setUp();
    program(0, 0x34, 0);
    clock.advance(1000 * TICK + 1);
    expect(count(0)).toBe(0x1_0000 - 1000);
    pit.write(3, 1, 0x00);
    clock.advance(1000 * TICK);
    expect(pit.read(0) | (pit.read(0) << 8)).toBe(0x1_0000 - 1000);
    expect(count(0)).toBe(0x1_0000 - 2000);
  });

  test('BCD counting', () => {
    const { clock, program, count } = setUp();
    program(0, 0x31, 0x1000);
    clock.advance(1 * TICK + 1);
    expect(count(0)).toBe(0x0999);
  });

  test('counter 2 is gated by port 0x61 and shows OUT there: the calibration loop of Linux ends', () => {
    const { clock, program, speaker, port61 } = setUp();
    speaker(0x00);
    program(2, 0x30, 11932);
    clock.advance(1e9);
    expect(port61() & 0x20).toBe(0);
    speaker(0x01);
    clock.advance(9.9e6);
    expect(port61() & 0x21).toBe(0x01);
    clock.advance(0.2e6);
    expect(port61() & 0x21).toBe(0x21);
  });

  test('the gate stops and resumes mode 0', () => {
    const { clock, program, speaker, count } = setUp();
    speaker(1);
    program(2, 0x30, 10_000);
    clock.advance(4000 * TICK + 1);
    speaker(0);
    clock.advance(1e9);
    expect(count(2)).toBe(6000);
    speaker(1);
    clock.advance(1000 * TICK + 1);
    expect(count(2)).toBe(5000);
  });

  test('the refresh bit toggles', () => {
    const { clock, port61 } = setUp();
    const seen = new Set<number>();
    for (let i = 0; i < 4; i++, clock.advance(15_085)) seen.add(port61() & 0x10);
    expect(seen.size).toBe(2);
  });

  test('read-back gives status, then count', () => {
    const { clock, pit, program } = setUp();
    pit.write(3, 1, 0x34);
    pit.write(3, 1, 0xe2); // status only, counter 0
    expect(pit.read(0) & 0x7f).toBe(0x74); // null count, both bytes, mode 2
    program(0, 0x34, 0x1234);
    clock.advance(TICK * 0x34 + 1);
    pit.write(3, 1, 0xc2);
    expect(pit.read(0)).toBe(0xb4);
    expect(pit.read(0) | (pit.read(0) << 8)).toBe(0x1200);
  });

  test('low-byte and high-byte access', () => {
    const { clock, pit } = setUp();
    pit.write(3, 1, 0x14);
    pit.write(0, 1, 200);
    clock.advance(50 * TICK + 1);
    expect(pit.read(0)).toBe(150);
    pit.write(3, 1, 0x24);
    pit.write(0, 1, 2);
    expect(pit.read(0)).toBe(2);
  });

  test('a reset leaves nothing of a former count', () => {
    const { pit, program, clock } = setUp();
    const fresh = JSON.stringify(pit.save());
    program(2, 0x34, 0x1234);
    clock.advance(1000 * TICK);
    pit.reset();
    expect(JSON.stringify(pit.save())).toBe(fresh);
  });

  test('state survives save and load', () => {
    const a = setUp();
    a.program(0, 0x34, 11932);
    a.clock.advance(25e6);
    const b = setUp();
    b.clock.advance(25e6);
    b.pit.load(JSON.parse(JSON.stringify(a.pit.save())));
    expect(b.count(0)).toBe(a.count(0));
    expect(b.clock.nextDeadline()).toBe(a.clock.nextDeadline());
    expect(() => b.pit.load({ counters: [] })).toThrow('counters');
  });
});
