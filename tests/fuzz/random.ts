/** Long random runs of the driver from one seed, for the sized run of the suite and for `npm run fuzz`. */
import { Drive, NUMBERS, type Policy } from './drive.ts';

/** Steps after which a run starts over with fresh machines: what came before can be left out of a replay. */
export const LIFE = 5000;

/** 32-bit generator (Marsaglia, "Xorshift RNGs", 2003). */
function xorshift(seed: number): () => number {
  let state = (Math.imul(seed, 0x9e37_79b9) ^ 0x5bd1_e995) | 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

export interface Totals {
  steps: number;
  crossings: Record<string, number>;
  reasons: Set<string>;
}

/**
 * Runs `steps` steps in lives of LIFE; each life has its own seed, printed when it fails. `tick` is called after each life with the steps so far.
 * Throws with seed and step of the first difference.
 */
export function runFuzz(steps: number, seed: number, tick: (done: number) => void = () => {}): Totals {
  const totals: Totals = { steps: 0, crossings: {}, reasons: new Set() };
  for (let life = seed; totals.steps < steps; life++) {
    const policy: Policy = life % 4 === 0 ? 'quarantine' : 'log';
    const drive = new Drive(policy, life % 3 !== 0); // an engine with shadow stacks, and one without
    const next = xorshift(life);
    const count = Math.min(LIFE, steps - totals.steps);
    for (let step = 0; step < count; step++) {
      try {
        drive.step(Array.from({ length: NUMBERS }, () => next() >>> 12));
      } catch (error) {
        throw new Error(`seed ${life}, step ${step + 1}: ${(error as Error).message}`, { cause: error });
      }
    }
    totals.steps += count;
    for (const [name, number] of Object.entries(drive.crossings)) totals.crossings[name] = (totals.crossings[name] ?? 0) + number;
    for (const reason of drive.reasons) totals.reasons.add(reason);
    tick(totals.steps);
  }
  return totals;
}
