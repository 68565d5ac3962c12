/**
 * Interrupt status and mask of the RTL8139C+ and its general-purpose timer (data sheet 6: IMR, ISR, TCTR, TimerInt). The line follows
 * (ISR & IMR); the chip has no moderation of its own.
 */
import type { Clock, IrqLine, Timer } from '../../ports.ts';
import { readState } from '../../state.ts';

/** Every cause there is. */
const CAUSES = 0xe1ff;
/** The timer counts PCI clocks, of 30 ns at 33 MHz. */
const TICK = 30;
const WRAP = 0x1_0000_0000;

export class Interrupts {
  private causes = 0;
  private mask = 0;
  private asserted = false;
  /** Assertions of the line since the start. */
  count = 0;

  constructor(private readonly line: IrqLine) {}

  raise(causes: number): void {
    this.causes |= causes & CAUSES;
    this.update();
  }

  readCauses(): number {
    return this.causes;
  }

  /** Writing one to a bit clears it. */
  clearCauses(bits: number): void {
    this.causes &= ~bits;
    this.update();
  }

  readMask(): number {
    return this.mask;
  }

  setMask(value: number): void {
    this.mask = value & CAUSES;
    this.update();
  }

  reset(): void {
    this.causes = 0;
    this.mask = 0;
    this.update();
  }

  save(): unknown {
    return { causes: this.causes, mask: this.mask };
  }

  load(state: unknown): void {
    const from = readState('rtl8139 interrupts', state);
    this.causes = from.number('causes', 0, 0xffff) & CAUSES;
    this.mask = from.number('mask', 0, 0xffff) & CAUSES;
    this.update();
  }

  private update(): void {
    const wanted = (this.causes & this.mask) !== 0;
    if (wanted === this.asserted) return;
    this.asserted = wanted;
    if (wanted) this.count++;
    this.line.set(wanted);
  }
}

/** TCTR counts up from the last write to it; when it equals TimerInt, and that is not zero, `expired` runs. */
export class GeneralTimer {
  private start = 0;
  private target = 0;
  private readonly timer: Timer;

  constructor(
    private readonly clock: Clock,
    expired: () => void,
  ) {
    this.timer = clock.timer(() => {
      expired();
      this.arm();
    });
  }

  get count(): number {
    return this.ticks % WRAP;
  }

  restart(): void {
    this.start = this.clock.now();
    this.arm();
  }

  /** 32 bits; 0 = never. */
  setTarget(target: number): void {
    this.target = target;
    this.arm();
  }

  reset(): void {
    this.target = 0;
    this.restart();
  }

  save(): unknown {
    return { count: this.count, target: this.target };
  }

  load(state: unknown): void {
    const from = readState('rtl8139 timer', state);
    this.start = this.clock.now() - from.number('count', 0, WRAP - 1) * TICK;
    this.setTarget(from.number('target', 0, WRAP - 1));
  }

  private get ticks(): number {
    return Math.floor((this.clock.now() - this.start) / TICK);
  }

  private arm(): void {
    if (this.target === 0) {
      this.timer.arm(Number.POSITIVE_INFINITY);
      return;
    }
    const { ticks } = this;
    const wait = (this.target - (ticks % WRAP) + WRAP) % WRAP || WRAP;
    this.timer.arm(this.start + (ticks + wait) * TICK);
  }
}
