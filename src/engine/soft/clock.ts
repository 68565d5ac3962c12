/**
 * The engine's time. Host: the monotonic clock. Instructions: advances with executed instructions only, and by jumps of an idle
 * machine.
 */

import type { ClockKind, EngineClock } from '../contract.ts';

export class SoftClock implements EngineClock {
  private readonly start = performance.now();
  /** Instructions clock: the present time, ns. CPUs advance it as they run; they take turns. */
  time = 0;

  /** What `now` said last, ns. */
  last = 0;

  constructor(readonly kind: ClockKind) {}

  now(): number {
    this.last = this.kind === 'host' ? (performance.now() - this.start) * 1e6 : this.time;
    return this.last;
  }

  skipTo(time: number): void {
    if (this.kind === 'instructions' && time > this.time) this.time = time;
  }
}
