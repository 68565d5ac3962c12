/**
 * The engine's time. Host: the monotonic clock. Instructions: advances with executed instructions only, and by jumps of an idle
 * machine.
 */

import type { ClockKind, EngineClock } from '../contract.ts';

/** A reading of `process.hrtime`: unlike `performance.now` it counts from the same moment in every thread. */
export type HostTime = readonly [seconds: number, nanoseconds: number];

export class SoftClock implements EngineClock {
  private readonly seconds: number;
  private readonly nanoseconds: number;
  /** Instructions clock: the present time, ns. CPUs advance it as they run; they take turns. */
  time = 0;

  /** What `now` said last, ns. */
  last = 0;

  /** `origin`: when the virtual machine started. */
  constructor(
    readonly kind: ClockKind,
    readonly origin: HostTime = process.hrtime(),
  ) {
    [this.seconds, this.nanoseconds] = origin;
  }

  now(): number {
    if (this.kind === 'instructions') this.last = this.time;
    else {
      const [seconds, nanoseconds] = process.hrtime();
      this.last = (seconds - this.seconds) * 1e9 + (nanoseconds - this.nanoseconds);
    }
    return this.last;
  }

  skipTo(time: number): void {
    if (this.kind === 'instructions' && time > this.time) this.time = time;
  }
}
