/**
 * ACPI fixed hardware (ACPI 6.4, 4.8.3): PM1a event and control blocks, the 3.579545 MHz timer, and the reset register. Power-off is
 * SLP_TYP 5 with SLP_EN; the power button is the fixed one.
 */
import type { Clock, IrqLine, RegisterBlock, Stateful, Timer } from '../../ports.ts';
import { readState } from '../../state.ts';

export interface AcpiPmPorts {
  /** SCI, level-triggered. */
  irq: IrqLine;
  clock: Clock;
  powerOff(): void;
  reset(): void;
}

/** Byte offsets in the block; ACPI tables name them too. */
export const PM_BLOCK = { status: 0, enable: 2, control: 4, timer: 8 } as const;
/** SLP_TYP of the soft-off state, as the DSDT's \_S5 says. */
export const SLEEP_TYPE_OFF = 5;
/** The reset control register of Intel chip sets, and the value that resets (82371 data sheet, 4.2.2). */
export const RESET_PORT = 0xcf9;
export const RESET_VALUE = 0x06;

const EVENT = { timer: 0x0001, globalLock: 0x0020, powerButton: 0x0100, sleepButton: 0x0200, rtc: 0x0400 } as const;
/** All status bits, with bus master, and wake. */
const STATUS_BITS = 0x8731;
const ENABLE_BITS = EVENT.timer | EVENT.globalLock | EVENT.powerButton | EVENT.sleepButton | EVENT.rtc;
const CONTROL = { sciEnable: 0x0001, sleepType: 0x1c00, sleepEnable: 0x2000 } as const;

const TIMER_FREQUENCY = 3_579_545;
/** The timer's status bit is set when its top bit changes. */
const HALF_RANGE = 2 ** 31;

export class AcpiPm implements RegisterBlock, Stateful {
  private status = 0;
  private enable = 0;
  private control = 0;
  private halvesSeen = 0;
  private resetControl = 0;
  private readonly carry: Timer;

  constructor(private readonly ports: AcpiPmPorts) {
    this.carry = ports.clock.timer(() => this.update());
  }

  reset(): void {
    this.status = 0;
    this.enable = 0;
    this.control = 0;
    this.resetControl = 0;
    this.halvesSeen = this.halves();
    this.update();
  }

  /** Presses the power button: the guest gets an SCI and usually shuts down. */
  pressPowerButton(): void {
    this.status |= EVENT.powerButton;
    this.update();
  }

  read(offset: number, size: 1 | 2 | 4): number {
    this.collect();
    const word = this.word(offset & ~3);
    const value = word >>> (8 * (offset & 3));
    return size === 4 ? value >>> 0 : size === 2 ? value & 0xffff : value & 0xff;
  }

  private word(offset: number): number {
    if (offset === PM_BLOCK.status) return (this.status | (this.enable << 16)) >>> 0;
    return offset === PM_BLOCK.control ? this.control | CONTROL.sciEnable : this.ticks() % 0x1_0000_0000;
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    this.collect();
    for (let i = 0; i < size; i++) this.writeByte(offset + i, (value >>> (8 * i)) & 0xff);
    this.update();
  }

  private writeByte(offset: number, value: number): void {
    const shift = 8 * (offset & 1);
    switch (offset & ~1) {
      case PM_BLOCK.status: // bits are cleared by writing ones
        this.status &= ~(value << shift);
        break;
      case PM_BLOCK.enable:
        this.enable = ((this.enable & ~(0xff << shift)) | (value << shift)) & ENABLE_BITS;
        break;
      case PM_BLOCK.control:
        this.control = ((this.control & ~(0xff << shift)) | (value << shift)) & CONTROL.sleepType;
        // SLP_EN is write-only and lies in the high byte with SLP_TYP.
        if (shift === 8 && (value << 8) & CONTROL.sleepEnable && this.control >> 10 === SLEEP_TYPE_OFF) this.ports.powerOff();
        break;
      default: // the timer is read-only
        break;
    }
  }

  /** The reset control register at RESET_PORT: bit 2 going from 0 to 1 resets. */
  readonly resetPort: RegisterBlock = {
    read: () => this.resetControl,
    write: (_offset, _size, value) => {
      const rising = value & ~this.resetControl & 0x04;
      this.resetControl = value & 0x0e;
      if (rising) this.ports.reset();
    },
  };

  private ticks(): number {
    return Math.floor((this.ports.clock.now() * TIMER_FREQUENCY) / 1e9);
  }

  private halves(): number {
    return Math.floor(this.ticks() / HALF_RANGE);
  }

  private collect(): void {
    const halves = this.halves();
    if (halves !== this.halvesSeen) this.status |= EVENT.timer;
    this.halvesSeen = halves;
  }

  private update(): void {
    this.collect();
    this.status &= STATUS_BITS;
    this.ports.irq.set((this.status & this.enable & ENABLE_BITS) !== 0);
    const next = Math.ceil(((this.halvesSeen + 1) * HALF_RANGE * 1e9) / TIMER_FREQUENCY) + 1;
    this.carry.arm(this.enable & EVENT.timer ? next : Number.POSITIVE_INFINITY);
  }

  save(): unknown {
    const { status, enable, control, halvesSeen, resetControl } = this;
    return { status, enable, control, halvesSeen, resetControl };
  }

  load(state: unknown): void {
    const from = readState('acpi-pm', state);
    this.status = from.number('status', 0, 0xffff);
    this.enable = from.number('enable', 0, 0xffff);
    this.control = from.number('control', 0, 0xffff);
    this.halvesSeen = from.number('halvesSeen', 0, Number.MAX_SAFE_INTEGER);
    this.resetControl = from.number('resetControl', 0, 0xff);
    this.update();
  }
}
