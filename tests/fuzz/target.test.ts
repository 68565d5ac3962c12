/** The fuzzer itself: a failure comes with what repeats it, made as short as it goes. */
import { expect, test } from 'vitest';
import { CaseFailed, packCase, repeat, run, type Target, unpackCase } from './target.ts';
import { TARGETS } from './targets/index.ts';

/** Fails once three of its steps were above nine tenths. */
const broken: Target = {
  name: 'broken',
  about: 'a target with a defect',
  unit: 'step',
  share: 1,
  reaches: [],
  prepare: () => ({
    reached: {},
    run(random) {
      let high = 0;
      for (const step of random.steps(100)) {
        if (random.below(100) >= 90 && ++high === 3) throw new Error(`the third one came at step ${step}`);
      }
      return 100;
    },
  }),
};

test('a failing case is found, made short, and fails again from its text', async () => {
  const failed = await run(broken, { steps: 10_000, seed: 5 }).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(failed).toBeInstanceOf(CaseFailed);
  const { message, seed, numbers } = failed as CaseFailed;
  expect(numbers).toHaveLength(3);
  expect(message).toContain(`npm run fuzz -- --target broken --seed ${seed} --steps 1`);
  const text = /--case (\S+)/.exec(message)?.[1] ?? '';
  expect(unpackCase(text)).toEqual(numbers);
  await expect(repeat(broken, unpackCase(text))).rejects.toThrow('the third one came at step 2');
  await expect(run(broken, { steps: 1, seed })).rejects.toThrow('the third one');
});

test('any numbers survive being written as text', () => {
  for (const numbers of [[], [0], [0xffff_ffff, 0, 127, 128], [1, 0, 0]]) expect(unpackCase(packCase(numbers))).toEqual(numbers);
});

test('every target has a name of its own', () => {
  expect(new Set(TARGETS.map(({ name }) => name)).size).toBe(TARGETS.length);
});
