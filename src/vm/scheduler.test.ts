import { describe, expect, test } from 'vitest';
import { type Schedulable, Scheduler, type SchedulerOptions } from './scheduler.ts';

/** Virtual CPUs that use up every turn, unless told otherwise, over a clock that they alone move. */
function setUp(count: number, options: Partial<SchedulerOptions> = {}) {
  let now = 0;
  const turns: number[] = [];
  const moves: [number, number, number][] = [];
  const cpus = Array.from({ length: count }, (_, index) => {
    const cpu = {
      runnable: true,
      used: 0,
      yielded: 0,
      /** Gives up its turns after so many ns. */
      waits: Number.POSITIVE_INFINITY,
      run(until: number, yields: boolean): boolean {
        const time = Math.max(0, Math.min(until - now, yields ? cpu.waits : Number.POSITIVE_INFINITY));
        turns.push(index);
        now += time;
        cpu.used += time;
        if (now >= until) return false;
        cpu.yielded += 1;
        return true;
      },
    };
    return cpu satisfies Schedulable;
  });
  const scheduler = new Scheduler({ cpus, cores: count, now: () => now, moved: (...move) => moves.push(move), ...options });
  const runFor = (time: number) => {
    const end = now + time;
    while (now < end && scheduler.step(end));
  };
  const skip = (time: number) => {
    now += time;
  };
  return { cpus, scheduler, turns, moves, runFor, skip, now: () => now };
}
const MS = 1e6;
const shares = (cpus: readonly { used: number }[]) => {
  const total = cpus.reduce((sum, { used }) => sum + used, 0);
  return cpus.map(({ used }) => Math.round((100 * used) / total));
};

describe('turns', () => {
  test('those that can run share the thread alike; those that cannot get nothing', () => {
    const { cpus, runFor } = setUp(4);
    cpus[2].runnable = false;
    runFor(30 * MS);
    expect(shares(cpus)).toEqual([33, 33, 0, 33]);
  });

  test('one alone runs long stretches; as soon as another can run, turns are short', () => {
    const { cpus, scheduler, turns, now } = setUp(2);
    cpus[1].runnable = false;
    scheduler.step(100 * MS);
    expect(now()).toBe(MS);
    cpus[1].runnable = true;
    scheduler.step(100 * MS);
    scheduler.step(100 * MS);
    expect(turns).toEqual([0, 1, 0]); // the first has had more than its turn
    expect(now()).toBeLessThanOrEqual(MS + 200_000);
  });

  test('nothing to run is said, and nothing is run', () => {
    const { cpus, scheduler, turns } = setUp(2);
    for (const cpu of cpus) cpu.runnable = false;
    expect(scheduler.step(MS)).toBe(false);
    expect(turns).toEqual([]);
    cpus[1].runnable = true;
    expect(scheduler.step(MS)).toBe(true);
    expect(turns).toEqual([1]);
  });

  test('no turn goes beyond the limit, and goes on afterwards', () => {
    const { scheduler, turns, now } = setUp(2);
    scheduler.step(1000);
    expect(now()).toBe(1000);
    scheduler.step(2000);
    expect([turns, now()]).toEqual([[0, 0], 2000]);
  });

  test('a busy wait gives its turn to those with work, and keeps it when nobody waits', () => {
    const { cpus, runFor } = setUp(2);
    cpus[0].waits = 100;
    runFor(10 * MS);
    expect(cpus[0].yielded).toBeGreaterThan(100);
    expect(shares(cpus)[1]).toBeGreaterThan(98);
    cpus[1].runnable = false;
    const { yielded, used } = cpus[0];
    runFor(10 * MS);
    expect(cpus[0].yielded).toBe(yielded);
    expect(cpus[0].used - used).toBe(10 * MS);
  });

  test('two busy waits alternate: neither keeps the thread', () => {
    const { cpus, runFor } = setUp(2);
    for (const cpu of cpus) cpu.waits = 100;
    runFor(MS);
    expect(shares(cpus)).toEqual([50, 50]);
  });
});

describe('cores', () => {
  test('a virtual CPU alone on its core gets as much as all that share another', () => {
    const { cpus, runFor } = setUp(3, {
      cores: 2,
      pins: new Map([
        [0, 0],
        [1, 1],
        [2, 1],
      ]),
    });
    runFor(40 * MS);
    expect(shares(cpus)).toEqual([50, 25, 25]);
  });

  test('CPUs are spread over the cores at first; pins come before that', () => {
    const { scheduler } = setUp(5, {
      cores: 2,
      pins: new Map([
        [0, 1],
        [3, 0],
      ]),
    });
    expect([0, 1, 2, 3, 4].map((cpu) => scheduler.coreOf(cpu))).toEqual([1, 1, 0, 0, 0]);
  });

  test('when one core has too much, one of its CPUs moves, once', () => {
    const { cpus, scheduler, moves, runFor } = setUp(4, { cores: 2 });
    cpus[1].runnable = cpus[3].runnable = false; // all the work is on core 0
    runFor(200 * MS);
    expect(moves).toEqual([[0, 0, 1]]);
    expect(scheduler.coreOf(0)).toBe(1);
    expect(shares([cpus[0], cpus[2]])).toEqual([50, 50]);
  });

  test('what is even stays where it is, also with one more CPU than cores', () => {
    const { moves, runFor } = setUp(5, { cores: 2 });
    runFor(200 * MS);
    expect(moves).toEqual([]);
  });

  test('pinned CPUs never move', () => {
    const { moves, runFor } = setUp(2, {
      cores: 2,
      pins: new Map([
        [0, 0],
        [1, 0],
      ]),
    });
    runFor(200 * MS);
    expect(moves).toEqual([]);
  });

  test('a pin moves its CPU at once; without it the balance decides again', () => {
    const { scheduler, moves, runFor } = setUp(2, { cores: 2, pins: new Map([[0, 0]]) });
    scheduler.pin(1, 0);
    expect(scheduler.coreOf(1)).toBe(0);
    runFor(100 * MS);
    expect(moves).toEqual([[1, 1, 0]]);
    scheduler.pin(1, undefined);
    runFor(100 * MS);
    expect(moves).toEqual([
      [1, 1, 0],
      [1, 0, 1],
    ]);
  });

  test('idle time is no demand: what ran little before a long sleep is not moved for it', () => {
    const { cpus, scheduler, moves, skip } = setUp(3, { cores: 2 });
    for (let round = 0; round < 20; round++) {
      for (const cpu of cpus) cpu.runnable = true;
      for (let step = 0; step < 3; step++) scheduler.step(Number.POSITIVE_INFINITY);
      for (const cpu of cpus) cpu.runnable = false;
      scheduler.step(Number.POSITIVE_INFINITY);
      skip(100 * MS);
    }
    expect(moves).toEqual([]);
  });

  test.each([[-1], [2], [1.5]])('there is no core %s of two', (core) => {
    expect(() => setUp(2, { pins: new Map([[0, core]]) })).toThrow(RangeError);
  });

  test('there is no CPU 2 of two', () => {
    expect(() => setUp(2, { pins: new Map([[2, 0]]) })).toThrow(/virtual CPU 2/);
  });
});

describe('alone on a core', () => {
  const setUpAlone = (count: number, options: Partial<SchedulerOptions>) => {
    const told: [number, boolean][] = [];
    const found = setUp(count, { alone: (cpu, alone) => told.push([cpu, alone]), ...options });
    return { ...found, told, take: () => told.splice(0) };
  };

  test('is told at the start, and at every change, to those concerned and no one else', () => {
    const { scheduler, take } = setUpAlone(4, { cores: 3 });
    expect(take()).toEqual([
      [1, true],
      [2, true],
    ]);
    scheduler.pin(2, 1);
    expect(take()).toEqual([
      [1, false],
      [2, false],
    ]);
    scheduler.pin(3, 1); // the third there; CPU 0 is left by it
    expect(take()).toEqual([[0, true]]);
    scheduler.pin(2, 2);
    expect(take()).toEqual([[2, true]]);
    scheduler.pin(3, 0);
    expect(take()).toEqual([
      [0, false],
      [1, true],
    ]);
    scheduler.pin(3, 0);
    expect(take()).toEqual([]);
  });

  test('what the balance moves is told too', () => {
    const { scheduler, runFor, take, moves } = setUpAlone(2, {
      cores: 2,
      pins: new Map([
        [0, 0],
        [1, 0],
      ]),
    });
    expect(take()).toEqual([]);
    scheduler.pin(1, undefined);
    runFor(100 * MS);
    expect(moves).toHaveLength(1);
    expect(take()).toEqual([
      [1, true],
      [0, true],
    ]);
  });
});

describe('seed', () => {
  const run = (seed: number | undefined) => {
    const { turns, scheduler, now } = setUp(3, { cores: 2, seed });
    const ends: number[] = [];
    for (let step = 0; step < 200; step++) {
      scheduler.step(Number.POSITIVE_INFINITY);
      ends.push(now());
    }
    return { turns, ends };
  };

  test('the same seed gives the same turns, another gives others', () => {
    expect(run(7)).toEqual(run(7));
    expect(run(7).ends).not.toEqual(run(8).ends);
  });

  test.each([0, 1, 0x9e37_79b9, 0xffff_ffff])('turns drawn by seed %s differ in length, within bounds', (seed) => {
    const { ends } = run(seed);
    const lengths = ends.map((end, index) => end - (ends[index - 1] ?? 0));
    expect(new Set(lengths).size).toBeGreaterThan(150);
    expect(Math.min(...lengths)).toBeGreaterThanOrEqual(10_000);
    expect(Math.max(...lengths)).toBeLessThanOrEqual(90_000);
  });

  test('without a seed all turns are alike', () => {
    const { ends } = run(undefined);
    expect(new Set(ends.map((end, index) => end - (ends[index - 1] ?? 0))).size).toBe(1);
  });
});
