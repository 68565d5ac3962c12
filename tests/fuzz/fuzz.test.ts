/** Monitor and model agree on every decision (SECURITY.md, P1 to P6, P8, P11, P12), whatever the guest does. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Drive, NUMBERS } from './drive.ts';
import { runFuzz } from './random.ts';

/** Another seed than the fixed one, to replay what `npm run fuzz` or this test printed. */
const SEED = Number(process.env.PORTCULLIS_FUZZ_SEED ?? 1);
const STEPS = Number(process.env.PORTCULLIS_FUZZ_STEPS ?? 150_000);

test('P2 P4 P5 P6 P8 the monitor decides as the model does, and the run comes to every crossing and nearly every rule', {
  timeout: 120_000,
}, () => {
  const { crossings, reasons } = runFuzz(STEPS, SEED);
  for (const [crossing, count] of Object.entries(crossings)) expect(count, crossing).toBeGreaterThan(STEPS / 2000);
  expect([...reasons]).toEqual(
    expect.arrayContaining([
      'bad-stack',
      'per-cpu-base',
      'not-kernel-mode',
      'gate-misused',
      'no-frame',
      'return-address',
      'seal-broken',
      'shadow-stack',
      'wild-fetch',
      'text-fetch',
      'resume-mismatch',
      'text-write',
      'init-not-first',
      'not-registered',
      'init-again',
      'quarantined',
    ]),
  );
});

test('P2 P11 short lives by property: a difference shrinks to its shortest form', { timeout: 60_000 }, () => {
  const step = fc.array(fc.nat(0xf_ffff), { minLength: NUMBERS, maxLength: NUMBERS });
  fc.assert(
    fc.property(
      fc.constantFrom('log', 'quarantine'),
      fc.boolean(),
      fc.array(step, { minLength: 20, maxLength: 80 }),
      (policy, shadowStacks, steps) => {
        const drive = new Drive(policy, shadowStacks);
        for (const numbers of steps) drive.step(numbers);
      },
    ),
    { numRuns: 40 },
  );
});
