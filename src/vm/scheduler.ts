/**
 * Which virtual CPU runs next. A *core* stands for a physical core: it has a queue of virtual CPUs that take turns on it, in slices. One
 * thread takes the cores in turn, so that a virtual CPU alone on its core gets as much as all that share another one.
 *
 * A virtual CPU is pinned to a core, or moved when another core has less to do. Everything depends on the engine's clock and the seed
 * alone: under the deterministic clock the same run has the same turns.
 */

/** What the scheduler knows of a virtual CPU. */
export interface Schedulable {
  /** It has something to do: to execute, or to look at what arrived for it. */
  readonly runnable: boolean;
  /**
   * Executes until `until` (ns) at most. With `yields`, a busy wait gives up the turn. True if the turn was given up.
   */
  run(until: number, yields: boolean): boolean;
}

export interface SchedulerOptions {
  readonly cpus: readonly Schedulable[];
  /** 1 or more. */
  readonly cores: number;
  /** CPU to core. */
  readonly pins?: ReadonlyMap<number, number>;
  /** ns. */
  now(): number;
  /** Draws the lengths of slices; all are alike without it. */
  readonly seed?: number;
  /** A virtual CPU was moved. */
  moved?(cpu: number, from: number, to: number): void;
  /** A virtual CPU is alone on its core from now on, or no longer. At the start, for each that is. */
  alone?(cpu: number, alone: boolean): void;
}

/** A turn while others wait, ns. */
export const SLICE = 50_000;
const LEAST_SLICE = 10_000;
const MOST_SLICE = 90_000;
/** Longest stretch of execution without a look at the outside, ns. */
export const ALONE = 1_000_000;
/** Time between two looks at the balance, ns, and the part of it that must be gained for a move. */
export const BALANCE_PERIOD = 20_000_000;
const BALANCE_GAIN = 0.25;

class Core {
  /** Virtual CPUs placed here; the first one's turn comes next. */
  readonly queue: number[] = [];

  constructor(private readonly cpus: readonly Schedulable[]) {}

  /** The next that can run and that `suits`, which goes to the end of the queue; -1 if none can. */
  next(suits = (_cpu: number) => true): number {
    const at = this.queue.findIndex((cpu) => this.cpus[cpu].runnable && suits(cpu));
    if (at < 0) return -1;
    const [cpu] = this.queue.splice(at, 1);
    this.queue.push(cpu);
    return cpu;
  }
}

export class Scheduler {
  /** How often each virtual CPU was handed to another thread. */
  readonly handovers: readonly number[];
  private readonly cpus: readonly Schedulable[];
  protected readonly cores: readonly Core[];
  private readonly pins: Map<number, number>;
  protected readonly place: number[];
  private readonly solitary: boolean[];
  private readonly random: () => number;
  /** Whose turn it is, -1 for nobody's, and when it ends for those who wait. */
  private current = -1;
  private sliceEnd = 0;
  private lastCore: number;
  /** Time that each could have run, since the last look at the balance. */
  private readonly demand: Float64Array;
  private accounted: number;
  protected balanced: number;

  /** Throws RangeError for a pin to a CPU or core that does not exist. */
  constructor(protected readonly options: SchedulerOptions) {
    const { cpus, cores, pins, seed } = options;
    if (!(Number.isInteger(cores) && cores >= 1)) throw new RangeError(`${cores} cores: expected 1 or more`);
    this.cpus = cpus;
    this.cores = Array.from({ length: cores }, () => new Core(cpus));
    this.lastCore = cores - 1;
    this.pins = new Map(pins);
    for (const [cpu, core] of this.pins) this.check(cpu, core);
    this.place = cpus.map((_, cpu) => this.pins.get(cpu) ?? cpu % cores);
    this.place.forEach((core, cpu) => {
      this.cores[core].queue.push(cpu);
    });
    this.solitary = cpus.map(() => false);
    for (const core of this.cores) this.company(core);
    this.handovers = cpus.map(() => 0);
    this.random = seed === undefined ? () => 0 : generator(seed);
    this.demand = new Float64Array(cpus.length);
    this.accounted = this.balanced = options.now();
  }

  coreOf(cpu: number): number {
    return this.place[cpu];
  }

  /** Keeps a virtual CPU on a core from now on, or with undefined lets it move. Throws RangeError. */
  pin(cpu: number, core: number | undefined): void {
    this.check(cpu, core ?? 0);
    if (core === undefined) this.pins.delete(cpu);
    else {
      this.pins.set(cpu, core);
      this.move(cpu, core);
    }
  }

  /** Runs one virtual CPU once, until `limit` (ns) at most. False if none can run. */
  step(limit: number): boolean {
    const now = this.options.now();
    const idle = this.current < 0 || !this.cpus[this.current].runnable;
    if (idle || (now >= this.sliceEnd && this.othersWait())) this.choose(now);
    const { current } = this;
    if (current < 0) return false;
    const contended = this.othersWait();
    const end = contended ? this.sliceEnd : now + ALONE;
    if (this.cpus[current].run(Math.min(limit, end), contended)) this.current = -1;
    return true;
  }

  private othersWait(): boolean {
    for (let cpu = 0; cpu < this.cpus.length; cpu++) if (cpu !== this.current && this.cpus[cpu].runnable) return true;
    return false;
  }

  private choose(now: number): void {
    this.account(now);
    if (now - this.balanced >= BALANCE_PERIOD) this.balance(now);
    this.current = -1;
    for (let count = 0; count < this.cores.length && this.current < 0; count++) {
      this.lastCore = (this.lastCore + 1) % this.cores.length;
      this.current = this.cores[this.lastCore].next();
    }
    this.sliceEnd = now + (this.options.seed === undefined ? SLICE : LEAST_SLICE + this.random() * (MOST_SLICE - LEAST_SLICE));
  }

  /** Those that can run now could have run since the last turn began. A turn that nobody waited for tells nothing of the others. */
  protected account(now: number): void {
    const elapsed = Math.min(now - this.accounted, MOST_SLICE);
    this.accounted = now;
    for (let cpu = 0; cpu < this.cpus.length; cpu++) if (cpu === this.current || this.cpus[cpu].runnable) this.demand[cpu] += elapsed;
  }

  /** Moves at most one virtual CPU, from the core with the most to do to that with the least, if that evens them out. */
  protected balance(now: number): void {
    const load = this.cores.map(({ queue }) => queue.reduce((sum, cpu) => sum + this.demand[cpu], 0));
    const from = load.indexOf(Math.max(...load));
    const to = load.indexOf(Math.min(...load));
    const difference = load[from] - load[to];
    // Afterwards the difference is |difference - 2 * demand|.
    const after = (cpu: number) => Math.abs(difference - 2 * this.demand[cpu]);
    const movable = this.cores[from].queue.filter((cpu) => !this.pins.has(cpu) && this.canMove(cpu));
    const best = movable.reduce((found, cpu) => (found < 0 || after(cpu) < after(found) ? cpu : found), -1);
    if (best >= 0 && difference - after(best) >= BALANCE_GAIN * (now - this.balanced)) this.move(best, to);
    this.balanced = now;
    this.demand.fill(0);
  }

  /** False while it must stay where it is. */
  protected canMove(_cpu: number): boolean {
    return true;
  }

  private move(cpu: number, to: number): void {
    const from = this.place[cpu];
    if (from === to) return;
    const { queue } = this.cores[from];
    queue.splice(queue.indexOf(cpu), 1);
    this.cores[to].queue.push(cpu);
    this.place[cpu] = to;
    this.company(this.cores[to]);
    this.company(this.cores[from]);
    this.options.moved?.(cpu, from, to);
  }

  /** Tells who is alone on a core now and was not, or the other way round. */
  private company({ queue }: Core): void {
    const alone = queue.length === 1;
    for (const cpu of queue) {
      if (this.solitary[cpu] === alone) continue;
      this.solitary[cpu] = alone;
      this.options.alone?.(cpu, alone);
    }
  }

  private check(cpu: number, core: number): void {
    const { cpus, cores } = this;
    if (!(cpu in cpus)) throw new RangeError(`virtual CPU ${cpu} cannot be pinned: there are ${cpus.length}, counted from 0`);
    if (!(core in cores)) throw new RangeError(`no core ${core} to pin virtual CPU ${cpu} to: there are ${cores.length}, counted from 0`);
  }
}

/** Numbers in [0, 1) that depend on the seed alone: xorshift32 (Marsaglia, "Xorshift RNGs", 2003). */
function generator(seed: number): () => number {
  let state = (seed ^ 0x9e37_79b9) | 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
