import { describe, expect, test } from 'vitest';
import type { Cpu, CpuThread, Exit } from '../engine/contract.ts';
import { type Movable, ThreadedScheduler } from './threaded-scheduler.ts';

const US = 1000;
const BUDGET: Exit = { kind: 'budget' };

/** Virtual CPUs that compute, or exit at once; a thread that comes back when told to. */
function setUp(count: number, threadCount = 1) {
  let time = 0;
  const here: number[] = [];
  const answered: [number, Exit['kind']][] = [];
  const cpus = Array.from({ length: count }, (_, index) => ({
    cpu: {
      index,
      kick: () => {
        for (const thread of threads) if (thread.cpu?.index === index) thread.returned = true;
      },
    },
    exits: 0,
    busy: true,
    computing: true,
    noticed: false,
    mayLeave: true,
    get runnable() {
      return this.busy || this.noticed;
    },
    run(until: number, _yields: boolean) {
      here.push(index);
      if (this.computing) time = Math.max(time, until);
      else {
        time += US;
        this.exits += 1;
      }
      return false;
    },
    prepare() {
      this.noticed = false;
      return this.busy;
    },
    answer(exit: Exit) {
      answered.push([index, exit.kind]);
    },
    leave(thread: CpuThread, until: number, yields: boolean) {
      thread.start(this.cpu as unknown as Cpu, until, yields);
    },
  }));
  const threads = Array.from({ length: threadCount }, () => ({
    cpu: undefined as Cpu | undefined,
    returned: false,
    exit: BUDGET,
    start(cpu: Cpu) {
      this.cpu = cpu;
      this.returned = false;
    },
    finish(): Exit {
      const { exit } = this;
      this.cpu = undefined;
      this.returned = false;
      this.exit = BUDGET;
      return exit;
    },
  }));
  const scheduler = new ThreadedScheduler({ cpus: cpus as Movable[], cores: count, now: () => time, threads: { all: threads } });
  const steps = (times: number) => {
    for (let step = 0; step < times; step++) scheduler.step(time + 1000 * US);
  };
  return { scheduler, cpus, threads, here, answered, steps };
}

describe('who leaves the machine thread', () => {
  test('of two that compute one does, and the other stays', () => {
    const { threads, steps, scheduler, here } = setUp(2);
    steps(60);
    expect(threads[0].cpu).toBeDefined();
    expect(scheduler.handovers.reduce((sum, times) => sum + times)).toBeGreaterThan(0);
    expect(new Set(here).size).toBe(2); // each had its turn here first
  });

  test('nor does one leave for the sake of another that is soon done', () => {
    const { scheduler, cpus, steps } = setUp(2);
    for (let round = 0; round < 50; round++) {
      cpus[1].busy = true;
      steps(30); // 1.5 ms
      cpus[1].busy = false;
      steps(1);
    }
    expect(scheduler.handovers).toEqual([0, 0]);
  });

  test('one that is alone does not', () => {
    const { cpus, threads, steps, scheduler } = setUp(2);
    cpus[1].busy = false;
    steps(50);
    expect(threads[0].cpu).toBeUndefined();
    expect(scheduler.handovers).toEqual([0, 0]);
  });

  test('those that do nothing but exits do not', () => {
    const { cpus, steps, scheduler } = setUp(3, 2);
    for (const cpu of cpus) cpu.computing = false;
    steps(2000);
    expect(scheduler.handovers).toEqual([0, 0, 0]);
  });

  test('one in a module view does not', () => {
    const { cpus, steps, scheduler } = setUp(2);
    cpus[0].mayLeave = false;
    steps(100);
    expect(scheduler.handovers[0]).toBe(0);
    expect(scheduler.handovers[1]).toBeGreaterThan(0);
  });

  test('short company is no reason', () => {
    const { cpus, steps, scheduler } = setUp(2);
    cpus[1].computing = false;
    cpus[1].busy = false;
    for (let round = 0; round < 50; round++) {
      steps(3);
      cpus[1].busy = true;
      steps(1);
      cpus[1].busy = false;
    }
    expect(scheduler.handovers).toEqual([0, 0]);
  });
});

describe('who comes back', () => {
  test('one with an exit: it is answered, and runs here', () => {
    const { threads, steps, answered, here } = setUp(2);
    steps(60);
    const index = threads[0].cpu?.index as number;
    threads[0].exit = { kind: 'halt' };
    threads[0].returned = true;
    here.length = 0;
    steps(3);
    expect(answered).toContainEqual([index, 'halt']);
    expect(here).toContain(index);
  });

  test('one for whom something arrived', () => {
    const { cpus, threads, steps, answered } = setUp(2);
    steps(60);
    const index = threads[0].cpu?.index as number;
    cpus[index].noticed = true;
    steps(2);
    expect(answered).toContainEqual([index, 'budget']);
  });

  test('the only one left to run: this thread does not sleep beside it', () => {
    const { cpus, threads, steps, here } = setUp(2);
    steps(60);
    const index = threads[0].cpu?.index as number;
    cpus[1 - index].busy = false;
    here.length = 0;
    steps(2);
    expect(threads[0].cpu).toBeUndefined();
    expect(here).toEqual([index, index]);
  });

  test('all that are runnable get their turns, more of them than threads', () => {
    const { steps, here } = setUp(4);
    steps(200);
    expect(new Set(here).size).toBe(4);
  });
});
