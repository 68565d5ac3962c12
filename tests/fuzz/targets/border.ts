/** The reference monitor beside the model of the borders (SECURITY.md, P1 to P6, P8, P11, P12): the same decision at every step, whatever the guest does. */
import { Drive, NUMBERS } from '../drive.ts';
import type { Target } from '../target.ts';

/** Steps of one case: long enough for every kind of trouble to build up, short enough to be repeated. */
const LIFE = 5000;

export const border: Target = {
  name: 'border',
  about:
    'random lives of a guest with a guarded module, monitor and model side by side: every decision, register, frame and stack word the same',
  unit: 'crossing tried',
  share: 1_000_000,
  reaches: [
    ...['callIn', 'returnOut', 'callOut', 'returnIn', 'eventOut', 'resume', 'internal', 'refused'],
    ...['bad-stack', 'per-cpu-base', 'not-kernel-mode', 'gate-misused', 'no-frame', 'return-address', 'seal-broken', 'wild-fetch'],
    ...['text-fetch', 'resume-mismatch', 'text-write', 'shadow-stack', 'init-not-first', 'not-registered', 'init-again', 'quarantined'],
  ],
  prepare() {
    const reached: Record<string, number> = {};
    return {
      reached,
      run(random) {
        const drive = new Drive(random.below(4) === 0 ? 'quarantine' : 'log', random.below(4) !== 3);
        let done = 0;
        try {
          for (const _ of random.steps(LIFE)) {
            done++;
            drive.step(Array.from({ length: NUMBERS }, () => random.next() >>> 12));
          }
        } catch (error) {
          throw new Error(`step ${done}: ${(error as Error).message}`, { cause: error });
        }
        for (const tally of [drive.crossings, drive.reasons])
          for (const [name, count] of Object.entries(tally)) reached[name] = (reached[name] ?? 0) + count;
        return done;
      },
    };
  },
};
