/**
 * Runs several CPUs at the same time, as far as the engine can: here they take turns of a few instructions, of lengths drawn from a seed.
 * An engine that has a thread for each CPU would run them in those, and the tests would ask the same of it.
 */
import { DONE_PORT, type Guest } from './guest.ts';

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

/** Runs all to `out %al, $0xf1`. */
export function runTogether(guests: readonly Guest[], seed = 1): void {
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
