/**
 * Does the fuzzer find bugs? Each rule of the borders is taken out of the monitor in turn, and the run beside the model must come to a difference within
 * the steps that `npm test` makes from its fixed seed. Most rules have a switch (src/base/defences.ts); of the others the code that holds them up is replaced.
 */
import { expect, test, vi } from 'vitest';
import type { Defence } from '../../src/base/defences.ts';
import type { Instance } from '../../src/monitor/instance.ts';
import { CaseFailed, run } from './target.ts';
import { border } from './targets/border.ts';

const broken = vi.hoisted(() => ({ rule: '' }));
vi.mock('../../src/base/defence-switch.ts', () => ({ on: (defence: string) => defence !== broken.rule, withoutDefences: undefined }));

/** Rules without a switch. */
const REPLACED = {
  'privileges-lowered': 'privileges are lowered whenever a CPU leaves a module',
  'stack-clear-of-every-module': 'a stack stays clear of the other modules too',
  'private-stack-switch': "an event on a private stack is delivered on the kernel's",
  'private-stack-only': 'in other private memory no event is delivered',
  'private-stack-frame-pointer': 'frames counted from RBP are found by the one kept at the switch of stacks',
  'private-stack-seals': 'the return addresses behind a private stack are sealed',
} as const;
const without = (rule: keyof typeof REPLACED) => broken.rule === rule;

vi.mock('../../src/monitor/border.ts', async (original) => {
  const real = await original<typeof import('../../src/monitor/border.ts')>();
  class Border extends real.Border {
    override leave(...[cpu, instance]: Parameters<InstanceType<typeof real.Border>['leave']>): void {
      super.leave(cpu, without('privileges-lowered') ? ({ active: [] } as unknown as Instance) : instance);
    }
  }
  return { ...real, Border };
});
vi.mock('../../src/monitor/instance-table.ts', async (original) => {
  const real = await original<typeof import('../../src/monitor/instance-table.ts')>();
  class InstanceTable extends real.InstanceTable {
    override clear(start: number, end: number): boolean {
      if (!without('stack-clear-of-every-module')) return super.clear(start, end);
      return !this.all[0].ranges.some((range) => range.start < end && range.end > start);
    }
  }
  return { ...real, InstanceTable };
});
vi.mock('../../src/monitor/private-memory.ts', async (original) => {
  const real = await original<typeof import('../../src/monitor/private-memory.ts')>();
  class PrivateMemory extends real.PrivateMemory {
    override kernelPointer(rsp: number): number {
      const kernel = super.kernelPointer(rsp);
      return without('private-stack-switch') || (Number.isNaN(kernel) && without('private-stack-only')) ? rsp : kernel;
    }
    override kernelFrame(rsp: number, rbp: number): number {
      return without('private-stack-frame-pointer') ? rbp : super.kernelFrame(rsp, rbp);
    }
  }
  return { ...real, PrivateMemory };
});
vi.mock('../../src/monitor/seal.ts', async (original) => {
  const real = await original<typeof import('../../src/monitor/seal.ts')>();
  class Seals extends real.Seals {
    override sealSwitch(...args: Parameters<InstanceType<typeof real.Seals>['sealSwitch']>) {
      return without('private-stack-seals') ? null : super.sealSwitch(...args);
    }
  }
  return { ...real, Seals };
});

const STEPS = border.share / 2;
/** Those rules with a switch that the guest of the border target can come to. */
const SWITCHED: readonly Defence[] = [
  'stack-kernel-address',
  'stack-alignment',
  'stack-writable',
  'stack-clear-of-modules',
  'private-stack-exit',
  'per-cpu-base',
  'frame-stack-pointer',
  'frame-instance',
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
  'broken-event-ends',
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
  'reset-leaves-module',
  'end-drops-frames',
  'modules-apart',
  'text-protection',
  'privilege-follows-view',
];

test.each([...SWITCHED, ...Object.keys(REPLACED)])('without "%s" the monitor and the model differ', { timeout: 300_000 }, async (rule) => {
  broken.rule = rule;
  let steps = 0;
  const found = await run(border, { steps: STEPS, seed: 1, shorten: false, tick: (done) => (steps = done) }).catch(
    (error: unknown) => error,
  );
  expect(found, `nothing found in ${steps} steps`).toBeInstanceOf(CaseFailed);
});
