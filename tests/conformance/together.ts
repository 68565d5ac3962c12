/** Runs several CPUs together: in turns of a few instructions, of lengths drawn from a seed, or at the same time in threads. */
import type { CpuThreads, Engine, Exit } from '../../src/engine/contract.ts';
import { DONE_PORT, type Guest } from './guest.ts';

/** How a test is to run its CPUs, and how much of it is worth while. */
export interface Together {
  /** Rounds of a litmus test in one pass, passes, and rounds from one barrier to the next (a power of 2). */
  readonly rounds: number;
  passes(cpus: number): number;
  batch(cpus: number): number;
  /** Repetitions of what the others do. */
  readonly count: number;
  /** Runs all to `out %al, $0xf1`. */
  run(guests: readonly Guest[]): Promise<void>;
}

const NS_PER_INSTRUCTION = 4;
/** Turns before a test that does not end is given up. */
const MOST_TURNS = 2_000_000;

/** Numbers from 0 to `below` - 1. */
export function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0; // Numerical Recipes, "An Even Quicker Generator"
    return Math.floor((state / 2 ** 32) * below);
  };
}

export const inTurns: Together = {
  rounds: 1500,
  passes: () => 1,
  batch: () => 1,
  count: 600,
  run: async (guests) => runInTurns(guests),
};

/** The deterministic clock's engine has no threads: boot with the host's. */
export const inThreads: Together = {
  rounds: 32_768,
  // With more CPUs than the host has, a barrier waits for the host's scheduler.
  passes: (cpus) => (cpus > 2 ? 2 : 8),
  batch: (cpus) => (cpus > 2 ? 4096 : 256),
  count: 3000,
  run: runInThreads,
};

const threadsOf = new WeakMap<Engine, CpuThreads>();

async function runInThreads(guests: readonly Guest[]): Promise<void> {
  const [{ engine }] = guests as [Guest];
  const threads = threadsOf.get(engine) ?? (await engine.startThreads(engine.cpus.length));
  if (threads === undefined) throw new Error('this engine has no threads here');
  threadsOf.set(engine, threads);
  guests.forEach(({ cpu }, index) => {
    threads.all[index]?.start(cpu, Number.MAX_VALUE, false);
  });
  const exits = guests.map((_, index) => awaitExit(threads, index));
  exits.forEach((exit, index) => {
    if (exit.kind !== 'io' || exit.port !== DONE_PORT) throw new Error(`CPU ${index} came back with ${JSON.stringify(exit)}`);
  });
}

/** Waits until the thread comes back by itself. */
function awaitExit(threads: CpuThreads, index: number): Exit {
  const thread = threads.all[index];
  if (thread === undefined) throw new Error(`no thread ${index}`);
  const nobody = new Int32Array(new SharedArrayBuffer(4));
  while (!thread.returned) Atomics.wait(nobody, 0, 0, 1);
  return thread.finish();
}

function runInTurns(guests: readonly Guest[], seed = 1): void {
  const random = seeded(seed);
  const running = [...guests];
  for (let turn = 0; running.length > 0; turn++) {
    if (turn > MOST_TURNS) throw new Error(`${running.length} CPUs do not come to an end`);
    const at = random(running.length);
    const guest = running[at] as Guest;
    const exit = guest.run(NS_PER_INSTRUCTION * (1 + random(24)));
    if (exit.kind === 'io' && exit.port === DONE_PORT) running.splice(at, 1);
    else if (exit.kind !== 'budget') throw new Error(`CPU ${guest.index} came back with ${exit.kind}`);
  }
}
