import { describe, expect, test } from 'vitest';
import { type ApicMessage, DELIVERY, routeMessage } from '../../apic-message.ts';
import { createManualClock } from '../../testing.ts';
import { Lapic } from './lapic.ts';

const R = {
  id: 0x20,
  version: 0x30,
  tpr: 0x80,
  ppr: 0xa0,
  eoi: 0xb0,
  ldr: 0xd0,
  dfr: 0xe0,
  svr: 0xf0,
  isr: 0x100,
  tmr: 0x180,
  irr: 0x200,
  esr: 0x280,
  icr: 0x300,
  icr2: 0x310,
  timer: 0x320,
  lint0: 0x350,
  lint1: 0x360,
  error: 0x370,
  initial: 0x380,
  current: 0x390,
  divide: 0x3e0,
};
const DEADLINE = 0x6e0;

function setUp(cpus = 1, tscFrequency = 1e9) {
  const clock = createManualClock();
  const ended: number[] = [];
  let wakes = 0;
  const lapics: Lapic[] = [];
  for (let cpu = 0; cpu < cpus; cpu++) {
    lapics.push(
      new Lapic(cpu, {
        clock,
        tscFrequency,
        tscAdjust: () => 0,
        send: (message, shorthand) => routeMessage(lapics, message, shorthand, cpu),
        endOfInterrupt: (vector) => ended.push(vector),
        wake: () => wakes++,
      }),
    );
    lapics[cpu].writeRegister(R.svr, 0x1ff);
  }
  const lapic = lapics[0];
  const read = (register: number) => lapic.readRegister(register);
  const write = (register: number, value: number) => lapic.writeRegister(register, value);
  return { clock, ended, lapics, lapic, wakes: () => wakes, read, write };
}
const fixed = (vector: number, level = false): ApicMessage => ({ destination: 0, logical: false, mode: DELIVERY.fixed, vector, level });

/** Takes and ends all pending interrupts. */
function drain(lapic: Lapic): number[] {
  const vectors: number[] = [];
  for (let vector = lapic.pendingVector(); vector >= 0; vector = lapic.pendingVector()) {
    vectors.push(vector);
    lapic.acknowledge(vector);
    lapic.writeRegister(R.eoi, 0);
  }
  return vectors;
}

describe('local APIC', () => {
  test('identity and power-up state', () => {
    const { lapics } = setUp(2);
    const fresh = lapics[1];
    fresh.reset();
    expect(fresh.readRegister(R.id)).toBe(0x0100_0000);
    expect(fresh.readRegister(R.version)).toBe(0x0005_0014);
    expect(fresh.readRegister(R.svr)).toBe(0xff);
    expect(fresh.readRegister(R.dfr)).toBe(0xffff_ffff);
    for (let r = R.timer; r <= R.error; r += 0x10) expect(fresh.readRegister(r)).toBe(0x1_0000);
    fresh.accept(fixed(0x40));
    expect(fresh.pendingVector()).toBe(-1);
  });

  test('delivers the highest vector, nests by priority class, ends in order', () => {
    const { lapic, read, write, wakes } = setUp();
    lapic.accept(fixed(0x41));
    lapic.accept(fixed(0x55));
    expect(wakes()).toBeGreaterThan(0);
    expect(lapic.pendingVector()).toBe(0x55);
    lapic.acknowledge(0x55);
    expect(read(R.ppr)).toBe(0x50);
    expect(read(R.isr + 0x20)).toBe(1 << 0x15);
    lapic.accept(fixed(0x5f));
    expect(lapic.pendingVector()).toBe(-1);
    lapic.accept(fixed(0x60));
    expect(lapic.pendingVector()).toBe(0x60);
    lapic.acknowledge(0x60);
    write(R.eoi, 0);
    write(R.eoi, 0);
    expect(drain(lapic)).toEqual([0x5f, 0x41]);
    expect(read(R.isr + 0x20)).toBe(0);
  });

  test('the task priority holds interrupts back', () => {
    const { lapic, write } = setUp();
    lapic.accept(fixed(0x41));
    write(R.tpr, 0x40);
    expect(lapic.pendingVector()).toBe(-1);
    lapic.taskPriority = 0x3f;
    expect(lapic.pendingVector()).toBe(0x41);
  });

  test('a level-triggered interrupt sets TMR and its EOI is broadcast', () => {
    const { lapic, read, ended } = setUp();
    lapic.accept(fixed(0x70, true));
    expect(read(R.tmr + 0x30)).toBe(1 << 0x10);
    drain(lapic);
    expect(ended).toEqual([0x70]);
    lapic.accept(fixed(0x70));
    expect(read(R.tmr + 0x30)).toBe(0);
    drain(lapic);
    expect(ended).toEqual([0x70]);
  });

  test('EOI with nothing in service does nothing', () => {
    const { write, ended } = setUp();
    write(R.eoi, 0);
    expect(ended).toEqual([]);
  });

  test('an illegal vector is an error that a write to ESR shows', () => {
    const { lapic, read, write } = setUp();
    write(R.error, 0x33);
    lapic.accept(fixed(5));
    expect(read(R.esr)).toBe(0);
    write(R.esr, 0);
    expect(read(R.esr)).toBe(0x40);
    expect(drain(lapic)).toEqual([0x33]);
    write(R.esr, 0);
    expect(read(R.esr)).toBe(0);
    write(R.icr, 0x0000_0005);
    write(R.esr, 0);
    expect(read(R.esr)).toBe(0x20);
  });

  test('an error vector that is itself illegal does not recurse', () => {
    const { read, write } = setUp();
    write(R.error, 0x00);
    expect(read(0x3f0)).toBe(0);
    write(R.esr, 0);
    expect(read(R.esr)).toBe(0x80);
  });

  test('software disable masks the local vectors and stops interrupts', () => {
    const { lapic, read, write } = setUp();
    write(R.lint0, 0x700);
    write(R.svr, 0xff);
    expect(read(R.lint0)).toBe(0x1_0700);
    write(R.lint0, 0x700);
    expect(read(R.lint0)).toBe(0x1_0700);
    lapic.accept(fixed(0x40));
    expect(lapic.pendingVector()).toBe(-1);
  });
});

describe('inter-processor interrupts', () => {
  test('physical, self, all and all but self', () => {
    const { lapics, write } = setUp(3);
    write(R.icr2, 0x0200_0000);
    write(R.icr, 0x0000_4040);
    expect(lapics.map(drain)).toEqual([[], [], [0x40]]);
    write(R.icr, 0x0004_4041);
    expect(lapics.map(drain)).toEqual([[0x41], [], []]);
    write(R.icr, 0x0008_4042);
    expect(lapics.map(drain)).toEqual([[0x42], [0x42], [0x42]]);
    write(R.icr, 0x000c_4043);
    expect(lapics.map(drain)).toEqual([[], [0x43], [0x43]]);
  });

  test('logical destinations, flat and cluster', () => {
    const { lapics, write } = setUp(3);
    for (const [cpu, lapic] of lapics.entries()) lapic.writeRegister(R.ldr, 2 ** (24 + cpu));
    write(R.icr2, 0x0600_0000);
    write(R.icr, 0x0000_4850);
    expect(lapics.map(drain)).toEqual([[], [0x50], [0x50]]);
    for (const [cpu, lapic] of lapics.entries()) {
      lapic.writeRegister(R.dfr, 0);
      lapic.writeRegister(R.ldr, ((cpu === 2 ? 0x20 : 0x10) + 2 ** cpu) * 2 ** 24);
    }
    write(R.icr2, 0x1f00_0000);
    write(R.icr, 0x0000_4851);
    expect(lapics.map(drain)).toEqual([[0x51], [0x51], []]);
  });

  test('lowest priority goes to one CPU, the least busy', () => {
    const { lapics } = setUp(3);
    lapics[0].taskPriority = 0x80;
    lapics[1].taskPriority = 0x20;
    lapics[2].taskPriority = 0x30;
    routeMessage(lapics, { destination: 0xff, logical: true, mode: DELIVERY.lowest, vector: 0x90, level: false }, 0, -1);
    expect(lapics.map((lapic) => lapic.pendingVector())).toEqual([-1, 0x90, -1]);
  });

  test('INIT, start-up and NMI are events of the target; de-assert is nothing', () => {
    const { lapics, write } = setUp(2);
    lapics[1].writeRegister(R.tpr, 0x20);
    write(R.icr2, 0x0100_0000);
    write(R.icr, 0x0000_c500);
    write(R.icr, 0x0000_8500);
    write(R.icr, 0x0000_0609);
    expect(lapics[1].takeEvent()).toEqual({ kind: 'init' });
    expect(lapics[1].taskPriority).toBe(0);
    expect(lapics[1].takeEvent()).toEqual({ kind: 'startup', vector: 9 });
    expect(lapics[1].eventPending).toBe(false);
    write(R.icr, 0x0000_4400);
    expect(lapics[1].takeEvent()).toEqual({ kind: 'nmi' });
    expect(lapics[1].takeEvent()).toBeUndefined();
    expect(lapics[0].eventPending).toBe(false);
  });
});

describe('local interrupt pins', () => {
  test('LINT0 hands over the 8259s as ExtINT, also with the APIC off', () => {
    const { lapic, write } = setUp();
    lapic.setLint(0, true);
    expect(lapic.externalRequested).toBe(false);
    write(R.lint0, 0x700);
    expect(lapic.externalRequested).toBe(true);
    write(R.lint0, 0x1_0700);
    expect(lapic.externalRequested).toBe(false);
    expect(lapic.writeMsr(0x1b, 0xfee0_0100, 0)).toBe(true);
    expect(lapic.page).toBe(-1);
    expect(lapic.externalRequested).toBe(true);
  });

  test('LINT1 as NMI, LINT0 as a fixed level interrupt', () => {
    const { lapic, write, ended } = setUp();
    write(R.lint1, 0x400);
    lapic.setLint(1, true);
    expect(lapic.takeEvent()).toEqual({ kind: 'nmi' });
    write(R.lint0, 0x8044);
    lapic.setLint(0, true);
    expect(lapic.pendingVector()).toBe(0x44);
    lapic.acknowledge(0x44);
    write(R.eoi, 0);
    expect(lapic.pendingVector()).toBe(0x44);
    expect(ended).toEqual([0x44]);
    lapic.setLint(0, false);
    expect(drain(lapic)).toEqual([0x44]);
  });
});

describe('timer', () => {
  test('one-shot counts down in ns through the divider', () => {
    const { clock, lapic, read, write } = setUp();
    write(R.divide, 0x03); // by 16
    write(R.timer, 0x30);
    write(R.initial, 1000);
    clock.advance(8000);
    expect(read(R.current)).toBe(500);
    clock.advance(7999);
    expect(lapic.pendingVector()).toBe(-1);
    clock.advance(1);
    expect(lapic.pendingVector()).toBe(0x30);
    expect(read(R.current)).toBe(0);
    drain(lapic);
    clock.advance(1e9);
    expect(lapic.pendingVector()).toBe(-1);
  });

  test('all divisors', () => {
    const { clock, read, write } = setUp();
    for (const [code, divisor] of [
      [0, 2],
      [1, 4],
      [2, 8],
      [3, 16],
      [8, 32],
      [9, 64],
      [10, 128],
      [11, 1],
    ]) {
      write(R.divide, code);
      write(R.initial, 10_000);
      clock.advance(divisor * 100);
      expect(read(R.current)).toBe(9900);
    }
  });

  test('periodic keeps its pace, and skips what a late host missed', () => {
    const { clock, lapic, write } = setUp();
    write(R.divide, 0x0b);
    write(R.timer, 0x2_0030);
    write(R.initial, 1_000_000);
    let count = 0;
    for (let i = 0; i < 100; i++, clock.advance(1e6)) count += drain(lapic).length;
    expect(count).toBe(99);
    drain(lapic);
    clock.jump(10.5e6);
    clock.runDue();
    expect(drain(lapic)).toEqual([0x30]);
    expect(clock.nextDeadline() % 1e6).toBe(0);
    write(R.initial, 0);
    expect(clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
  });

  test('a period of a nanosecond does not storm', () => {
    const { clock, lapic, write } = setUp();
    write(R.divide, 0x0b);
    write(R.timer, 0x2_0030);
    write(R.initial, 1);
    const start = clock.now();
    let fired = 0;
    while (clock.now() < start + 1e6) {
      clock.advanceTo(clock.nextDeadline());
      fired += drain(lapic).length;
    }
    expect(fired).toBeLessThanOrEqual(52);
    expect(fired).toBeGreaterThan(10);
  });

  test('a masked timer does not interrupt', () => {
    const { clock, lapic, write } = setUp();
    write(R.timer, 0x1_0030);
    write(R.initial, 100);
    clock.advance(1000);
    expect(lapic.pendingVector()).toBe(-1);
  });

  test('TSC deadline fires at its time and clears itself', () => {
    const { clock, lapic, write } = setUp(1, 2e9);
    const words = new Uint32Array(2);
    expect(lapic.writeMsr(DEADLINE, 1000, 0)).toBe(true);
    expect(clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY); // not in deadline mode
    write(R.timer, 0x4_0030);
    lapic.writeMsr(DEADLINE, 0, 1); // 2^32 ticks of 0.5 ns
    expect(clock.nextDeadline()).toBe(2 ** 31);
    lapic.readMsr(DEADLINE, words);
    expect([...words]).toEqual([0, 1]);
    clock.advanceTo(2 ** 31);
    expect(drain(lapic)).toEqual([0x30]);
    lapic.readMsr(DEADLINE, words);
    expect([...words]).toEqual([0, 0]);
    lapic.writeMsr(DEADLINE, 5, 0); // in the past
    clock.runDue();
    expect(drain(lapic)).toEqual([0x30]);
    lapic.writeMsr(DEADLINE, 0xffff_ffff, 0xffff_ffff);
    expect(clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
    lapic.writeMsr(DEADLINE, 0, 0);
    clock.advance(1e9);
    expect(lapic.pendingVector()).toBe(-1);
  });
});

describe('MSRs and state', () => {
  test('IA32_APIC_BASE: bootstrap flag stays, reserved bits and x2APIC are refused', () => {
    const { lapics } = setUp(2);
    const words = new Uint32Array(2);
    expect(lapics[0].readMsr(0x1b, words)).toBe(true);
    expect([...words]).toEqual([0xfee0_0900, 0]);
    lapics[1].readMsr(0x1b, words);
    expect(words[0]).toBe(0xfee0_0800);
    expect(lapics[0].writeMsr(0x1b, 0xfee0_0d00, 0)).toBe(false);
    expect(lapics[0].writeMsr(0x1b, 0xfee0_0801, 0)).toBe(false);
    expect(lapics[0].writeMsr(0x1b, 0xfee0_0900, 1)).toBe(false);
    expect(lapics[0].writeMsr(0x1b, 0xfed0_0800, 0)).toBe(true);
    expect(lapics[0].page).toBe(0xfed0_0000);
    lapics[0].readMsr(0x1b, words);
    expect(words[0]).toBe(0xfed0_0900);
    expect(lapics[0].readMsr(0x10, words)).toBe(false);
    expect(lapics[0].writeMsr(0x10, 0, 0)).toBe(false);
  });

  test('every offset can be read and written', () => {
    const { lapic } = setUp();
    for (let offset = 0; offset < 4096; offset++) {
      lapic.writeRegister(offset, 0xffff_ffff);
      const value = lapic.readRegister(offset);
      expect(value >= 0 && value <= 0xffff_ffff).toBe(true);
    }
  });

  test('state survives save and load', () => {
    const a = setUp();
    a.write(R.timer, 0x2_0030);
    a.write(R.initial, 500_000);
    a.lapic.accept(fixed(0x41, true));
    a.lapic.accept(fixed(0x55));
    a.lapic.acknowledge(0x55);
    const b = setUp();
    b.lapic.load(JSON.parse(JSON.stringify(a.lapic.save())));
    expect(b.lapic.save()).toEqual(a.lapic.save());
    expect(b.clock.nextDeadline()).toBe(a.clock.nextDeadline());
    b.write(R.eoi, 0);
    expect(drain(b.lapic)).toEqual([0x41]);
    expect(b.ended).toEqual([0x41]);
    expect(() => b.lapic.load({ ...(a.lapic.save() as object), lvt: 5 })).toThrow('lapic: lvt');
  });
});
