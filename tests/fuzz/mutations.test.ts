/**
 * Does the fuzzer find bugs? Each rule of the borders (src/base/defences.ts) is taken out of the monitor in turn, and the run beside the model must come
 * to a difference within the steps that `npm test` makes from its fixed seed.
 */
import { expect, test, vi } from 'vitest';
import type { Defence } from '../../src/base/defences.ts';
import { CaseFailed, run } from './target.ts';
import { border } from './targets/border.ts';

const broken = vi.hoisted(() => ({ rule: '' }));
vi.mock('../../src/base/defence-switch.ts', () => ({ on: (defence: string) => defence !== broken.rule, withoutDefences: undefined }));

const STEPS = border.share / 2;
/** Those rules that the tiny guest of the border target can come to. */
const MUTATIONS: readonly Defence[] = [
  'stack-kernel-address',
  'stack-alignment',
  'stack-writable',
  'stack-clear-of-modules',
  'per-cpu-base',
  'frame-stack-pointer',
  'frame-single-use',
  'frame-nesting',
  'no-frame-for-no-return',
  'own-return-address',
  'shadow-stack',
  'return-address-seal',
  'callee-saved-restore',
  'control-flags',
  'register-scrub',
  'register-restore',
  'resume-address',
  'resume-privilege-level',
  'gate-privilege-level',
  'gate-page-frame',
  'init-first',
  'init-once',
  'init-gone',
  'call-target',
  'leave-view',
  'quarantine',
  'quarantine-every-cpu',
  'end-drops-frames',
  'text-protection',
];

test.each(MUTATIONS)('without "%s" the monitor and the model differ', { timeout: 300_000 }, async (rule) => {
  broken.rule = rule;
  let steps = 0;
  const found = await run(border, { steps: STEPS, seed: 1, shorten: false, tick: (done) => (steps = done) }).catch(
    (error: unknown) => error,
  );
  expect(found, `nothing found in ${steps} steps`).toBeInstanceOf(CaseFailed);
});
