/** The reference monitor beside the model of the borders (SECURITY.md, P1 to P8, P11, P12): the same decision at every step, whatever the guest does. */
import { Drive, NUMBERS } from '../border/drive.ts';
import type { Target } from '../target.ts';

/** Steps of one case: long enough for every kind of trouble to build up, short enough to be repeated. */
const LIFE = 10_000;

export const border: Target = {
  name: 'border',
  about:
    'random lives of a guest with three guarded modules, monitor and model side by side: every decision, register, frame, privilege and word of memory the same',
  unit: 'crossing tried',
  share: 1_000_000,
  reaches: [
    ...['callIn', 'returnOut', 'callOut', 'returnIn', 'eventOut', 'resume', 'internal', 'refused'],
    ...['bad-stack', 'per-cpu-base', 'not-kernel-mode', 'gate-misused', 'no-frame', 'return-address', 'seal-broken', 'wild-fetch'],
    ...['text-fetch', 'resume-mismatch', 'text-write', 'shadow-stack', 'init-not-first', 'not-registered', 'init-again', 'quarantined'],
    ...['sections-overlap', 'a module calls another', 'a module returns to another', 'a gate where another module is to return'],
    ...['two CPUs in one module', 'two CPUs in two modules', 'two modules on one stack', 'an entry beside a quarantined module'],
    ...['a stack near another module', "a stack in another module's memory", 'INIT in a module', 'INIT on a private stack'],
    ...[
      'an event on a private stack',
      'an event on a private stack that leads nowhere',
      'a resume on a private stack',
      'a call from a private stack',
    ],
    'a module freed without a word',
  ],
  prepare() {
    const reached: Record<string, number> = {};
    return {
      reached,
      run(random) {
        const policies = [0, 1, 2].map(() => (random.below(4) === 0 ? 'quarantine' : 'log'));
        const drive = new Drive({ policies, shadowStacks: random.below(4) !== 3, calm: random.pick([0, 4, 6, 7]) });
        let done = 0;
        try {
          for (const _ of random.steps(LIFE)) {
            done++;
            drive.step(Array.from({ length: NUMBERS }, () => random.next() >>> 12));
          }
          drive.end();
        } catch (error) {
          throw new Error(`step ${done}: ${(error as Error).message}`, { cause: error });
        }
        for (const tally of drive.tallies) for (const [name, count] of Object.entries(tally)) reached[name] = (reached[name] ?? 0) + count;
        return done;
      },
    };
  },
};
