/**
 * The machine's time: timers over one `now()`. There are a dozen timers, so a scan of them is cheaper than a heap,
 * and the earliest deadline, which the run loop asks for all the time, is kept.
 */
import type { Clock, Timer } from './ports.ts';

/** Callbacks that one `runDue` runs at most: a device that always arms in the past must not hold the machine. */
const BURST = 64;

export interface EventClock extends Clock {
  /** Earliest armed time in ns, `Infinity` if none. */
  nextDeadline(): number;
  /** Runs what is due at `now()`, earliest first; with equal times the timer made first goes first. */
  runDue(): void;
}

/** `now` gives ns since the machine started and never goes back. */
export function createEventClock(now: () => number): EventClock {
  const times: number[] = [];
  const callbacks: (() => void)[] = [];
  let next = Number.POSITIVE_INFINITY;
  let first = -1;

  function scan(): void {
    next = Number.POSITIVE_INFINITY;
    first = -1;
    for (let i = 0; i < times.length; i++) {
      if (times[i] < next) {
        next = times[i];
        first = i;
      }
    }
  }

  function timer(callback: () => void): Timer {
    const index = times.length;
    times.push(Number.POSITIVE_INFINITY);
    callbacks.push(callback);
    return {
      arm(time: number): void {
        times[index] = Number.isNaN(time) ? Number.POSITIVE_INFINITY : time;
        if (index === first || times[index] <= next) scan();
      },
    };
  }

  function runDue(): void {
    if (next === Number.POSITIVE_INFINITY) return;
    const time = now();
    for (let count = 0; count < BURST && next <= time; count++) {
      const due = first;
      times[due] = Number.POSITIVE_INFINITY;
      scan();
      callbacks[due]();
    }
  }

  return { now, timer, runDue, nextDeadline: () => next };
}
