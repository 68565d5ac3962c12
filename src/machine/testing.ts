/** What the tests of the machine share: a clock moved by hand, and a wire that remembers. */
import { createEventClock, type EventClock } from './events.ts';

export interface ManualClock extends EventClock {
  /** Runs timers in their order up to `time`, each at its own time. */
  advanceTo(time: number): void;
  advance(by: number): void;
  /** Moves the time without running anything: a host that was held up. */
  jump(by: number): void;
}

export function createManualClock(start = 0): ManualClock {
  let now = start;
  const clock = createEventClock(() => now);
  const advanceTo = (time: number): void => {
    while (clock.nextDeadline() <= time) {
      now = Math.max(now, clock.nextDeadline());
      clock.runDue();
    }
    now = time;
  };
  return {
    ...clock,
    advanceTo,
    advance: (by) => advanceTo(now + by),
    jump: (by) => {
      now += by;
    },
  };
}

/** A wire that remembers its level and its rising edges. */
export function createProbe(): { set(asserted: boolean): void; level: boolean; edges: number } {
  const probe = {
    level: false,
    edges: 0,
    set(asserted: boolean) {
      if (asserted && !probe.level) probe.edges++;
      probe.level = asserted;
    },
  };
  return probe;
}
