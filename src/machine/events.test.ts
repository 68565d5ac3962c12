import { describe, expect, test } from 'vitest';
import { createManualClock } from './testing.ts';

describe('event clock', () => {
  test('runs timers in order of time and only once', () => {
    const clock = createManualClock();
    const seen: string[] = [];
    const a = clock.timer(() => seen.push(`a${clock.now()}`));
    const b = clock.timer(() => seen.push(`b${clock.now()}`));
    a.arm(200);
    b.arm(100);
    expect(clock.nextDeadline()).toBe(100);
    clock.advanceTo(1000);
    expect(seen).toEqual(['b100', 'a200']);
    expect(clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
  });

  test('arming again replaces the former time, Infinity and NaN disarm', () => {
    const clock = createManualClock();
    let count = 0;
    const timer = clock.timer(() => count++);
    timer.arm(10);
    timer.arm(50);
    expect(clock.nextDeadline()).toBe(50);
    timer.arm(Number.POSITIVE_INFINITY);
    clock.advanceTo(100);
    timer.arm(Number.NaN);
    clock.advanceTo(200);
    expect(count).toBe(0);
    expect(clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
  });

  test('a timer that always arms in the past does not hold the machine', () => {
    const clock = createManualClock(1000);
    let count = 0;
    const timer = clock.timer(() => {
      count++;
      timer.arm(0);
    });
    timer.arm(0);
    clock.runDue();
    expect(count).toBeGreaterThan(0);
    expect(count).toBeLessThan(1000);
    expect(clock.nextDeadline()).toBe(0);
  });
});
