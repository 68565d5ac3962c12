import { expect, test } from 'vitest';
import { ENDINGS, explain, REFUSALS, VIOLATIONS } from '../monitor/reasons.ts';
import { ADVICE } from './advice.ts';

const reasons = Object.keys({ ...REFUSALS, ...VIOLATIONS, ...ENDINGS });

test.each(reasons)('%s has a meaning and says what to look at', (reason) => {
  expect(explain(reason)?.length).toBeGreaterThan(20);
  expect(ADVICE[reason as keyof typeof ADVICE].length).toBeGreaterThan(15);
});

test('nothing is explained that is no reason, and no word means two things', () => {
  expect(Object.keys(ADVICE).sort()).toEqual([...reasons].sort());
  expect(reasons.length).toBe(Object.keys(REFUSALS).length + Object.keys(VIOLATIONS).length + Object.keys(ENDINGS).length);
});
