/**
 * Interrupt causes, mask and moderation of the 82540EM (8254x manual 13.4.17 to 13.4.21, 13.4.30, 13.4.31, 13.4.44, 13.4.46).
 * The card raises causes; the line follows (ICR & IMS), no more often than ITR allows.
 */
import type { Clock, IrqLine, Timer } from '../../ports.ts';

const ITR_UNIT = 256;
/** Unit of RDTR, RADV, TIDV and TADV in ns. */
const DELAY_UNIT = 1024;
/** Every cause of 13.4.17. Bit 31, "interrupt asserted", came with later members of the family and stays clear. */
const CAUSES = 0x0001_ffff;

export class Interrupts {
  /** ITR, in units of 256 ns; 0 = no throttling. */
  throttle = 0;
  private causes = 0;
  private mask = 0;
  private asserted = false;
  private earliest = 0;
  private readonly timer: Timer;
  /** Assertions of the line since the start. */
  count = 0;

  constructor(
    private readonly line: IrqLine,
    private readonly clock: Clock,
  ) {
    this.timer = clock.timer(() => this.update());
  }

  raise(causes: number): void {
    this.causes |= causes & CAUSES;
    this.update();
  }

  /** ICR: a read clears every cause. */
  readCauses(): number {
    const causes = this.causes;
    this.causes = 0;
    this.update();
    return causes;
  }

  /** ICR: writing one to a bit clears it. */
  clearCauses(bits: number): void {
    this.causes &= ~bits;
    this.update();
  }

  readMask(): number {
    return this.mask;
  }

  setMask(bits: number): void {
    this.mask |= bits & CAUSES;
    this.update();
  }

  clearMask(bits: number): void {
    this.mask &= ~bits;
    this.update();
  }

  reset(): void {
    this.throttle = 0;
    this.causes = 0;
    this.mask = 0;
    this.earliest = 0;
    this.timer.arm(Number.POSITIVE_INFINITY);
    this.update();
  }

  save(): { causes: number; mask: number; wait: number } {
    return { causes: this.causes, mask: this.mask, wait: Math.max(0, this.earliest - this.clock.now()) };
  }

  load(state: unknown): void {
    const fields = state as { causes?: unknown; mask?: unknown; wait?: unknown } | null | undefined;
    if (typeof fields?.causes !== 'number' || typeof fields.mask !== 'number' || typeof fields.wait !== 'number') {
      throw new Error('e1000: interrupts: expected causes, mask and wait');
    }
    this.causes = fields.causes & CAUSES;
    this.mask = fields.mask & CAUSES;
    this.earliest = this.clock.now() + fields.wait;
    this.update();
  }

  private update(): void {
    if ((this.causes & this.mask) === 0) {
      if (this.asserted) {
        this.asserted = false;
        this.line.set(false);
      }
      return;
    }
    if (this.asserted) return;
    if (this.throttle !== 0 || this.earliest !== 0) {
      const now = this.clock.now();
      if (now < this.earliest) {
        this.timer.arm(this.earliest);
        return;
      }
      this.earliest = this.throttle === 0 ? 0 : now + this.throttle * ITR_UNIT;
    }
    this.asserted = true;
    this.count++;
    this.line.set(true);
  }
}

/** A packet timer (restarted by every event) bounded by an absolute timer (started by the first): RDTR with RADV, TIDV with TADV. */
export class DelayTimer {
  private packet = Number.POSITIVE_INFINITY;
  private absolute = Number.POSITIVE_INFINITY;
  private readonly timer: Timer;

  constructor(
    private readonly clock: Clock,
    private readonly expired: () => void,
  ) {
    this.timer = clock.timer(() => this.flush());
  }

  /** Delays in units of 1024 ns; an absolute delay of 0 means none. */
  start(packetDelay: number, absoluteDelay: number): void {
    const now = this.clock.now();
    this.packet = now + packetDelay * DELAY_UNIT;
    if (absoluteDelay !== 0 && this.absolute === Number.POSITIVE_INFINITY) this.absolute = now + absoluteDelay * DELAY_UNIT;
    this.timer.arm(Math.min(this.packet, this.absolute));
  }

  /** Acts now if an event is waiting. */
  flush(): void {
    if (this.packet === Number.POSITIVE_INFINITY) return;
    this.stop();
    this.expired();
  }

  stop(): void {
    this.packet = Number.POSITIVE_INFINITY;
    this.absolute = Number.POSITIVE_INFINITY;
    this.timer.arm(Number.POSITIVE_INFINITY);
  }

  /** ns until it fires, or -1. */
  save(): number {
    return this.packet === Number.POSITIVE_INFINITY ? -1 : Math.max(0, Math.min(this.packet, this.absolute) - this.clock.now());
  }

  load(remaining: number): void {
    this.stop();
    if (remaining < 0) return;
    this.packet = this.clock.now() + remaining;
    this.timer.arm(this.packet);
  }
}
