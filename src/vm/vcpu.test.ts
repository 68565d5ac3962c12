/** A virtual CPU on the scripted engine, with a real board: start-up, halting, waking, INIT, NMI. */
import { describe, expect, test } from 'vitest';
import { silentLog } from '../base/log.ts';
import { type Exit, REG, SEG } from '../engine/contract.ts';
import { FakeEngine } from '../engine/fake/engine.ts';
import { createBoard } from '../machine/board.ts';
import type { Outcome } from './config.ts';
import { Vcpu } from './vcpu.ts';

const LAPIC = 0xfee0_0000;
const ICR_LOW = 0x300;
const ICR_HIGH = 0x310;
const SPURIOUS = 0xf0;
const INTERRUPT_FLAG = 0x200n;
/** Interrupt command register: delivery modes, level assert (SDM figure 10-12). */
const FIXED = 0x4000;
const NMI = 0x4400;
const INIT = 0x4500;
const STARTUP = 0x4600;
const ALL_BUT_SELF = 0xc_0000;

const write = (gpa: number, value: number): Exit => ({ kind: 'mmio', gpa, size: 4, write: true, value, refused: false });

function setUp(cpus = 2) {
  const engine = new FakeEngine({ cpus });
  const ends: Outcome[] = [];
  const resets: number[] = [];
  const refused: number[] = [];
  const vcpus: Vcpu[] = [];
  const board = createBoard({
    memory: engine.memory,
    now: () => engine.time,
    cpus,
    tscFrequency: 1e9,
    serial: { write: () => {} },
    wallClock: () => 0,
    log: silentLog,
    onPower: () => {},
    onInterrupt: (cpu) => vcpus[cpu]?.notify(),
  });
  const guard = {
    handle: () => 'not-mine' as const,
    portRefused: () => false,
    windowRefused: () => {},
    msrAccess: () => false,
    mwaitRefused: ({ index }: { index: number }) => {
      refused.push(index);
    },
    reset: ({ index }: { index: number }) => {
      resets.push(index);
    },
  };
  for (const cpu of engine.cpus) vcpus.push(new Vcpu(cpu, { engine, board, guard, log: silentLog, end: (outcome) => ends.push(outcome) }));
  /** The CPU executes these exits, one a turn. */
  const perform = (cpu: number, ...exits: Exit[]) => {
    engine.cpus[cpu].script.push(...exits);
    for (const _ of exits) vcpus[cpu].run(1e6, false);
  };
  const send = (to: number, command: number) => perform(0, write(LAPIC + ICR_HIGH, to << 24), write(LAPIC + ICR_LOW, command));
  const start = (cpu: number, vector = 0x10) => {
    send(cpu, INIT);
    vcpus[cpu].run(1e6, false);
    send(cpu, STARTUP | vector);
    vcpus[cpu].run(1e6, false);
  };
  const enableApic = (cpu: number) => perform(cpu, write(LAPIC + SPURIOUS, 0x1ff));
  return { engine, board, vcpus, ends, resets, refused, perform, send, start, enableApic };
}
const HALT: Exit = { kind: 'halt' };

describe('start-up', () => {
  test('only the bootstrap processor runs at power-up', () => {
    const { vcpus } = setUp(3);
    expect(vcpus.map(({ state }) => state)).toEqual(['running', 'waiting', 'waiting']);
    expect(vcpus.map(({ runnable }) => runnable)).toEqual([true, false, false]);
  });

  test('a start-up message starts a waiting CPU in real mode at its page; a second one is ignored', () => {
    const { engine, vcpus, send } = setUp();
    const [, cpu] = engine.cpus;
    const segments: unknown[] = [];
    cpu.writeSystem = (system) => {
      segments.push(system.segments[SEG.cs]);
    };
    send(1, INIT);
    expect(vcpus[1].runnable).toBe(true);
    vcpus[1].run(1e6, false);
    expect(vcpus[1].state).toBe('waiting');
    send(1, STARTUP | 0x9a);
    cpu.registers.words[REG.rip] = 0xfff0n;
    vcpus[1].run(1e6, false);
    expect(vcpus[1].state).toBe('running');
    expect(segments).toMatchObject([{ selector: 0x9a00, base: 0x9a000n }]);
    expect(cpu.registers.words[REG.rip]).toBe(0n);
    cpu.registers.words[REG.rip] = 0x1234n;
    send(1, STARTUP | 0x55);
    vcpus[1].run(1e6, false);
    expect(cpu.registers.words[REG.rip]).toBe(0x1234n);
    expect(segments).toHaveLength(1);
  });

  test('one message to all but the sender starts them all', () => {
    const { vcpus, send } = setUp(4);
    send(0, INIT | ALL_BUT_SELF);
    send(0, STARTUP | 0x08 | ALL_BUT_SELF);
    for (const vcpu of vcpus) vcpu.run(1e6, false);
    expect(vcpus.map(({ state }) => state)).toEqual(['running', 'running', 'running', 'running']);
  });

  test('interrupts and NMIs do not start a waiting CPU', () => {
    const { engine, vcpus, send } = setUp();
    let nmis = 0;
    engine.cpus[1].nmi = () => {
      nmis += 1;
    };
    send(1, NMI);
    send(1, FIXED | 0x40);
    vcpus[1].run(1e6, false);
    expect([vcpus[1].state, nmis, engine.cpus[1].delivered.length]).toEqual(['waiting', 0, 0]);
    expect(vcpus[1].runnable).toBe(false);
  });
});

describe('INIT', () => {
  test('a running CPU is reset, leaves the module it may be in, and waits', () => {
    const { engine, vcpus, resets, send, start } = setUp();
    start(1);
    const kinds: string[] = [];
    engine.cpus[1].reset = (kind?: string) => {
      kinds.push(kind ?? '');
    };
    send(1, INIT);
    vcpus[1].run(1e6, false);
    expect([vcpus[1].state, kinds]).toEqual(['waiting', ['init']]);
    expect(resets).toEqual([1, 1]);
  });

  test('the bootstrap processor starts the machine over', () => {
    const { ends, vcpus, perform, start } = setUp();
    start(1);
    perform(1, write(LAPIC + ICR_HIGH, 0), write(LAPIC + ICR_LOW, INIT));
    vcpus[0].run(1e6, false);
    expect(ends).toEqual([{ kind: 'reset' }]);
  });
});

describe('halting', () => {
  test('a halted CPU is not runnable until an interrupt comes, which it then takes', () => {
    const { engine, vcpus, perform, start, send, enableApic } = setUp();
    start(1);
    enableApic(1);
    engine.cpus[1].registers.words[REG.rflags] |= INTERRUPT_FLAG;
    perform(1, HALT);
    vcpus[1].run(1e6, false); // what came before it halted would wake it now
    expect([vcpus[1].state, vcpus[1].runnable, vcpus[1].stuck]).toEqual(['halted', false, false]);
    send(1, FIXED | 0x41);
    expect(vcpus[1].runnable).toBe(true);
    vcpus[1].run(1e6, false);
    expect(vcpus[1].state).toBe('running');
    expect(engine.cpus[1].delivered.map(({ event }) => event.vector)).toEqual([0x41]);
  });

  test('with interrupts off it sleeps on, and is stuck; an NMI wakes it', () => {
    const { engine, vcpus, perform, start, send, enableApic } = setUp();
    start(1);
    enableApic(1);
    engine.cpus[1].canInterrupt = false;
    perform(1, HALT);
    send(1, FIXED | 0x41);
    vcpus[1].run(1e6, false);
    expect([vcpus[1].state, vcpus[1].runnable, vcpus[1].stuck]).toEqual(['halted', false, true]);
    let nmis = 0;
    engine.cpus[1].nmi = () => {
      nmis += 1;
    };
    send(1, NMI);
    vcpus[1].run(1e6, false);
    expect([vcpus[1].state, nmis]).toEqual(['running', 1]);
  });

  test('an interrupt that waits as it halts wakes it at once', () => {
    const { engine, vcpus, perform, send, start, enableApic } = setUp();
    start(1);
    enableApic(1);
    engine.cpus[1].canInterrupt = false; // the shadow of STI
    send(1, FIXED | 0x41);
    perform(1, HALT);
    expect(vcpus[1].runnable).toBe(true);
    engine.cpus[1].canInterrupt = true;
    vcpus[1].run(1e6, false);
    expect(engine.cpus[1].delivered).toHaveLength(1);
  });

  test('counts are by CPU', () => {
    const { vcpus, perform, start, engine } = setUp();
    start(1);
    engine.cpus[1].instructions = 7;
    perform(1, HALT);
    expect(vcpus.map((vcpu) => vcpu.report())).toEqual([
      { cpu: 0, instructions: 0, halts: 0, waits: 0, refusedWaits: 0, crossings: 0 },
      { cpu: 1, instructions: 7, halts: 1, waits: 0, refusedWaits: 0, crossings: 0 },
    ]);
  });
});

describe('MWAIT', () => {
  const mwait = (extensions = 0, refused = false): Exit => ({ kind: 'mwait', hints: 0, extensions, refused });
  /** CPU 1 waits, with interrupts on or masked. */
  const waiting = (masked: boolean, extensions = 0) => {
    const found = setUp();
    const { engine, vcpus, perform, start, enableApic } = found;
    start(1);
    enableApic(1);
    const cpu = engine.cpus[1];
    cpu.canInterrupt = !masked;
    cpu.monitoring = true;
    perform(1, mwait(extensions));
    vcpus[1].run(1e6, false); // what came before would wake it now
    return { ...found, cpu, vcpu: vcpus[1] };
  };

  test('it waits until its line is stored to', () => {
    const { cpu, vcpu } = waiting(true);
    expect([vcpu.state, vcpu.runnable, vcpu.stuck]).toEqual(['monitoring', false, false]);
    cpu.monitoring = false;
    expect(vcpu.runnable).toBe(true);
    vcpu.run(1e6, false);
    expect(vcpu.state).toBe('running');
    expect(vcpu.report()).toMatchObject({ halts: 0, waits: 1, refusedWaits: 0 });
  });

  test('an interrupt that can be taken is taken', () => {
    const { cpu, vcpu, send } = waiting(false);
    send(1, FIXED | 0x41);
    vcpu.run(1e6, false);
    expect(vcpu.state).toBe('running');
    expect(cpu.delivered.map(({ event }) => event.vector)).toEqual([0x41]);
  });

  test('one that is masked ends the wait with the extension, and stays pending; without it the CPU sleeps on', () => {
    for (const [extensions, state] of [
      [1, 'running'],
      [0, 'monitoring'],
    ] as const) {
      const { cpu, vcpu, send, board } = waiting(true, extensions);
      send(1, FIXED | 0x41);
      vcpu.run(1e6, false);
      expect(vcpu.state).toBe(state);
      expect(cpu.delivered).toEqual([]);
      expect(board.interruptFor(1)).toBe(0x41);
    }
  });

  test('an NMI ends it, and so does whoever may end it at any time', () => {
    const { vcpu, send } = waiting(true);
    send(1, NMI);
    vcpu.run(1e6, false);
    expect(vcpu.state).toBe('running');
    const other = waiting(true).vcpu;
    other.wake();
    expect(other.runnable).toBe(true);
  });

  test('what ends no MWAIT ends no HLT either', () => {
    const { vcpus, perform, start } = setUp();
    start(1);
    perform(1, HALT);
    vcpus[1].run(1e6, false);
    vcpus[1].wake();
    expect(vcpus[1].state).toBe('halted');
  });

  test('refused, it goes on at once and is recorded', () => {
    const { vcpus, perform, start, refused } = setUp();
    start(1);
    perform(1, mwait(1, true));
    expect(vcpus[1].state).toBe('running');
    expect(refused).toEqual([1]);
    expect(vcpus[1].report()).toMatchObject({ waits: 0, refusedWaits: 1 });
  });
});

describe('exits', () => {
  test('a turn is given up when the engine comes back before its time', () => {
    const { engine, vcpus } = setUp();
    expect(vcpus[0].run(1e6, true)).toBe(true); // the scripted engine comes back at once
    engine.time = 1e6;
    expect(vcpus[0].run(1e6, true)).toBe(false);
  });

  test('a CPU reads the registers of its own local APIC', () => {
    const { engine, perform, start } = setUp();
    start(1);
    const read: Exit = { kind: 'mmio', gpa: LAPIC + 0x20, size: 4, write: false, value: 0, refused: false };
    perform(0, read);
    perform(1, read);
    expect(engine.cpus.map((cpu) => cpu.takeAnswer())).toEqual([0, 0x0100_0000]);
  });

  test('an exit that belongs to a module, with no module there, ends the machine', () => {
    const { ends, perform } = setUp();
    perform(0, { kind: 'fetch', address: -4096 });
    expect(ends).toMatchObject([{ kind: 'failed' }]);
  });
});
