/**
 * Executes one virtual CPU: drives an instance of the core in slices, and lets it finish what was unwound. All that outlives a run lies in linear
 * memory, so a CPU may have an executor in each of several threads; one of them runs at a time.
 */

import type { SoftClock } from './clock.ts';
import { type Core, UNWIND } from './core.ts';
import { BUDGET, COUNT, EXIT_BUDGET, NS_PER_INSTRUCTION, RUNNING, TIME_OFFSET } from './core/layout.ts';

/** What `run` returns after a failure of the core; `failure` says more. */
export const EXIT_FAILED = -1;

/** Instructions between looks at the host clock; also how often V8 gets the chance to replace the loop by its optimised code. */
const SLICE = 100_000;
/** Fewer are not worth the look. */
const LEAST_SLICE = 500;
/** How many runs in a row may go by a reading of the clock that somebody else took: a caller that never reads it comes to an end all the same. */
const TRUSTED_RUNS = 16;
const WORD = 2 ** 32;

export class Executor {
  failure = '';
  /** Runs that may still go by `clock.last`. */
  private trusted = 0;

  /** `words`: linear memory; `block`: the CPU's address in it. */
  constructor(
    readonly core: Core,
    private readonly words: Uint32Array,
    private readonly block: number,
    private readonly clock: SoftClock,
  ) {}

  /** Executes until `until` (ns) or an exit; EXIT_* or EXIT_FAILED. */
  run(until: number): number {
    return this.clock.kind === 'instructions' ? this.runCounted(until) : this.runTimed(until);
  }

  private put(offset: number, value: number): void {
    this.words[(this.block + offset) >>> 2] = value;
  }
  private getLong(offset: number): number {
    const at = (this.block + offset) >>> 2;
    return (this.words[at + 1] as number) * WORD + (this.words[at] as number);
  }
  /** `value`: 0 .. 2^53. */
  private putLong(offset: number, value: number): void {
    this.put(offset, value >>> 0);
    this.put(offset + 4, Math.floor(value / WORD));
  }

  private readClock(): number {
    if (--this.trusted > 0) return this.clock.last;
    this.trusted = TRUSTED_RUNS;
    return this.clock.now();
  }

  private runTimed(until: number): number {
    // Asking the host's clock costs as much as half an exit. Whoever calls has mostly just done so to find `until`.
    for (let left = until - this.readClock(); left > 0; left = until - this.clock.now()) {
      // A short run must not take the time of a long one: other CPUs or a timer wait for its end.
      const code = this.slice(Math.min(SLICE, Math.max(LEAST_SLICE, Math.ceil(left / NS_PER_INSTRUCTION))));
      if (code !== EXIT_BUDGET) return code;
    }
    return EXIT_BUDGET;
  }

  private runCounted(until: number): number {
    const { clock } = this;
    while (clock.time < until) {
      this.putLong(TIME_OFFSET, clock.time - this.getLong(COUNT) * NS_PER_INSTRUCTION);
      const code = this.slice(Math.min(SLICE, Math.ceil((until - clock.time) / NS_PER_INSTRUCTION)));
      clock.time = this.getLong(TIME_OFFSET) + this.getLong(COUNT) * NS_PER_INSTRUCTION;
      if (code !== EXIT_BUDGET) return code;
    }
    return EXIT_BUDGET;
  }

  /** Executes up to about `instructions`. */
  private slice(instructions: number): number {
    this.put(BUDGET, instructions);
    this.put(BUDGET + 4, 0);
    try {
      return this.core.resume();
    } catch (thrown) {
      return this.unwound(thrown);
    }
  }

  /** An instruction was abandoned: lets the core finish it, and goes on. */
  private unwound(first: unknown): number {
    let thrown = first;
    for (;;) {
      if (thrown !== UNWIND) {
        this.failure = `the core failed: ${thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)}`;
        Atomics.store(this.words, (this.block + RUNNING) >>> 2, 0);
        return EXIT_FAILED;
      }
      try {
        const code = this.core.unwound();
        return code !== 0 ? code : this.core.carryOn();
      } catch (again) {
        thrown = again;
      }
    }
  }
}
