/** A linked shadow stack under the real monitor on the engine `soft`: an interrupt between any two instructions, and another CPU's writes seen at the border. */
import { expect, test } from 'vitest';
import { type Cpu, type Engine, type Exit, REG, registerAddress } from '../../src/engine/contract.ts';
import type { Monitor } from '../../src/monitor/monitor.ts';
import { GATE_PORT } from '../../src/policy/manifest.ts';

interface TinyGuest {
  engine: Engine;
  cpu: Cpu;
  monitor: Monitor;
  prepare(name: string, times: number, entry: string, argument?: number): void;
}
const { tinyGuest, DONE_PORT } = (await import('../../bench/tiny-guest.mjs' as string)) as {
  tinyGuest(count: number, policy: object): TinyGuest;
  DONE_PORT: number;
};

const TRAP_FLAG = 0x100n;
const RFLAGS = REG.rflags;

/** Runs to the kernel's end, with `steps` one instruction of the module at a time. Gives the addresses at which the module was interrupted. */
function drive({ engine, cpu, monitor }: TinyGuest, steps = false): Set<number> {
  const seen = new Set<number>();
  const { words } = cpu.registers;
  const rip = () => registerAddress(cpu.registers, REG.rip);
  const gates = Number(BigInt.asIntN(64, BigInt(monitor.modules()[0]?.instances[0]?.base ?? 0)));
  for (let turns = 0; turns < 10_000; turns++) {
    // A trap behind a gate would be the kernel's.
    if (steps && cpu.view !== engine.untrusted && !(rip() >= gates && rip() < gates + 4096))
      words[RFLAGS] = (words[RFLAGS] as bigint) | TRAP_FLAG;
    const exit = cpu.run(engine.clock.now() + 1e9);
    if (exit.kind === 'io' && exit.port === DONE_PORT && exit.port !== GATE_PORT) return seen;
    words[RFLAGS] = (words[RFLAGS] as bigint) & ~TRAP_FLAG;
    if (exit.kind === 'event') seen.add(rip());
    expect(monitor.handle(cpu, exit)).toBe('handled');
  }
  throw new Error('the guest does not end');
}

const LINKED = { shadowStack: true };
const live = (policy: object) => {
  const guest = tinyGuest(1, policy);
  guest.prepare('call', 1, 'init_module');
  drive(guest);
  return guest;
};

test.each([
  ['with', LINKED, 40],
  ['without', {}, 10],
])('an event after every instruction, %s a linked shadow stack: the module goes on as if nothing had happened', (_, policy, least) => {
  const guest = live(policy);
  for (const [entry, argument] of [
    ['empty', 0],
    ['calls', 3],
    ['outer', 2],
  ] as const) {
    guest.prepare('call', 2, entry, argument);
    const seen = drive(guest, true);
    if (entry === 'outer') expect(seen.size).toBeGreaterThan(least);
  }
  expect(guest.monitor.violations()).toEqual([]);
  expect(guest.monitor.frames().live).toBe(0);
  const { eventOut, resume, callIn, returnOut, callOut, returnIn } = guest.monitor.crossings;
  expect([eventOut, callIn, callOut]).toEqual([resume, returnOut, returnIn]);
  expect(callOut).toBe(1 + 2 * 2); // init_module prints
});

/** Runs to the exit at which the module calls the kernel from `inner`. */
function toCallOut(guest: TinyGuest): Exit {
  guest.prepare('call', 1, 'outer', 1);
  expect(guest.monitor.handle(guest.cpu, guest.cpu.run(guest.engine.clock.now() + 1e9))).toBe('handled');
  return guest.cpu.run(guest.engine.clock.now() + 1e9);
}

/** The word of the kernel's stack, `above` bytes above the stack pointer, in guest memory. */
function stackWord({ engine, cpu }: TinyGuest, above = 0): BigInt64Array {
  const { bytes } = engine.memory;
  return new BigInt64Array(bytes.buffer, bytes.byteOffset + cpu.translate(registerAddress(cpu.registers, REG.rsp) + above, true), 1);
}

test('another CPU changes the return address of a call of the kernel before the monitor looks at it', () => {
  const guest = live(LINKED);
  const exit = toCallOut(guest);
  const [slot, outers] = [stackWord(guest), stackWord(guest, 16)];
  slot.set(outers); // a return address of the module's own, in a frame of the same size
  expect(guest.monitor.handle(guest.cpu, exit)).toMatchObject({ stop: expect.stringContaining('kfunc') });
  expect(guest.monitor.violations().map(({ reason }) => reason)).toEqual(['shadow-stack']);
});

test('another CPU makes a return address further up none at all: the walk at the border finds it', () => {
  const guest = live(LINKED);
  const exit = toCallOut(guest);
  const outers = stackWord(guest, 16);
  outers[0] = (outers[0] as bigint) - 5n;
  expect(guest.monitor.handle(guest.cpu, exit)).toMatchObject({ stop: expect.stringContaining('kfunc') });
  expect(guest.monitor.violations().map(({ reason }) => reason)).toEqual(['return-address']);
});

test('a return that does not find its address is reported as what it is, and the entry ends', () => {
  const guest = live(LINKED);
  const exit = toCallOut(guest);
  const outers = stackWord(guest, 16);
  expect(guest.monitor.handle(guest.cpu, exit)).toBe('handled');
  const back = guest.cpu.run(guest.engine.clock.now() + 1e9); // the kernel's function returns
  expect(guest.monitor.handle(guest.cpu, back)).toBe('handled');
  outers[0] = (outers[0] as bigint) - 5n;
  const trap = guest.cpu.run(guest.engine.clock.now() + 1e9);
  expect(trap).toMatchObject({ kind: 'event', event: { vector: 6 } });
  expect(guest.monitor.handle(guest.cpu, trap)).toMatchObject({ stop: expect.stringContaining('did not find the address of its call') });
  expect(guest.monitor.violations().map(({ reason }) => reason)).toEqual(['shadow-stack']);
  expect(guest.cpu.view).toBe(guest.engine.untrusted);
});
