/**
 * The timer of a local APIC (Intel SDM vol. 3, 10.5.4): one-shot, periodic, TSC deadline. Its input clock is 1 GHz: a tick before the
 * divider is a nanosecond of machine time.
 */
import type { Clock, Timer } from '../../ports.ts';
import { readState, saveTime } from '../../state.ts';

export interface ApicTimerPorts {
  clock: Clock;
  /** The timer's interrupt. */
  fire(): void;
  /** Guest time-stamp counter frequency, Hz. */
  tscFrequency: number;
  /** IA32_TSC_ADJUST, as a number of ticks. */
  tscAdjust(): number;
}

export type ApicTimerMode = 'one-shot' | 'periodic' | 'deadline';
const MODES = ['one-shot', 'periodic', 'deadline'] as const;

/** Shortest time between two periodic interrupts that we serve, ns. */
const LEAST_PERIOD = 20_000;
/** Deadlines beyond this many ns (36 years) never come. */
const FAR = 2 ** 60;

export class ApicTimer {
  mode: ApicTimerMode = 'one-shot';
  /** Divide configuration register. */
  private divide = 0;
  private initial = 0;
  /** When counting began (one-shot) or the current period did. */
  private start = 0;
  private deadlineLow = 0;
  private deadlineHigh = 0;
  private readonly timer: Timer;
  private armed = Number.POSITIVE_INFINITY;

  constructor(private readonly ports: ApicTimerPorts) {
    this.timer = ports.clock.timer(() => this.due());
  }

  reset(): void {
    this.mode = 'one-shot';
    this.divide = 0;
    this.stop();
  }

  /** Switching to or from deadline mode disarms the timer (SDM 10.5.4.1). */
  setMode(mode: ApicTimerMode): void {
    if (mode === this.mode) return;
    const disarm = mode === 'deadline' || this.mode === 'deadline';
    this.mode = mode;
    if (disarm) this.stop();
  }

  private stop(): void {
    this.initial = 0;
    this.deadlineLow = 0;
    this.deadlineHigh = 0;
    this.arm(Number.POSITIVE_INFINITY);
  }

  private arm(time: number): void {
    this.armed = time;
    this.timer.arm(time);
  }

  get divideConfiguration(): number {
    return this.divide;
  }

  set divideConfiguration(value: number) {
    const left = this.currentCount;
    this.divide = value & 0x0b;
    // Counting goes on from where it is, at the new rate.
    if (this.initial === 0 || this.mode === 'deadline') return;
    this.start = this.ports.clock.now() - (this.initial - left) * this.divisor;
    if (this.armed !== Number.POSITIVE_INFINITY) this.arm(this.start + this.initial * this.divisor);
  }

  /** Bits 3, 1, 0 encode 2, 4, .. 128, 1 (SDM figure 10-10). */
  private get divisor(): number {
    const code = ((this.divide & 8) >> 1) | (this.divide & 3);
    return code === 7 ? 1 : 2 << code;
  }

  get initialCount(): number {
    return this.initial;
  }

  set initialCount(value: number) {
    if (this.mode === 'deadline') return; // ignored (SDM 10.5.4.1)
    this.initial = value >>> 0;
    this.start = this.ports.clock.now();
    this.arm(this.initial === 0 ? Number.POSITIVE_INFINITY : this.start + this.initial * this.divisor);
  }

  get currentCount(): number {
    if (this.initial === 0 || this.mode === 'deadline') return 0;
    const passed = Math.floor((this.ports.clock.now() - this.start) / this.divisor);
    if (this.mode === 'periodic') return this.initial - (passed % this.initial);
    return Math.max(0, this.initial - passed);
  }

  private due(): void {
    const now = this.ports.clock.now();
    this.armed = Number.POSITIVE_INFINITY;
    if (this.mode === 'periodic' && this.initial > 0) {
      const period = this.initial * this.divisor;
      // Periods that a late host missed are gone: one interrupt tells of them all.
      this.start += Math.floor((now - this.start) / period) * period;
      this.arm(Math.max(this.start + period, now + LEAST_PERIOD));
    }
    this.deadlineLow = 0;
    this.deadlineHigh = 0;
    this.ports.fire();
  }

  /** IA32_TSC_DEADLINE; 0 disarms. Writes in another mode are ignored, reads give 0 (SDM 10.5.4.1). */
  setDeadline(low: number, high: number): void {
    if (this.mode !== 'deadline') return;
    this.deadlineLow = low >>> 0;
    this.deadlineHigh = high >>> 0;
    this.armDeadline();
  }

  readDeadline(into: Uint32Array): void {
    into[0] = this.deadlineLow;
    into[1] = this.deadlineHigh;
  }

  private armDeadline(): void {
    const tsc = this.deadlineHigh * 0x1_0000_0000 + this.deadlineLow;
    const time = Math.ceil((tsc - this.ports.tscAdjust()) * (1e9 / this.ports.tscFrequency));
    this.arm(tsc === 0 || time > FAR ? Number.POSITIVE_INFINITY : time);
  }

  save(): unknown {
    return {
      mode: MODES.indexOf(this.mode),
      divide: this.divide,
      initial: this.initial,
      start: this.start,
      armed: saveTime(this.armed),
      deadlineLow: this.deadlineLow,
      deadlineHigh: this.deadlineHigh,
    };
  }

  load(state: unknown): void {
    const from = readState('lapic timer', state);
    this.mode = MODES[from.number('mode', 0, 2)];
    this.divide = from.number('divide', 0, 0x0b);
    this.initial = from.number('initial', 0, 0xffff_ffff);
    this.start = from.time('start');
    this.deadlineLow = from.number('deadlineLow', 0, 0xffff_ffff);
    this.deadlineHigh = from.number('deadlineHigh', 0, 0xffff_ffff);
    this.arm(from.time('armed'));
  }
}
