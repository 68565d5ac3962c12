/**
 * Motorola MC146818A real-time clock and its RAM, behind the index and data ports 0x70 and 0x71 (data sheet MC146818A/D; register
 * numbers as there). The time of day is the host's when the machine starts and goes on in machine time from there, so that a
 * deterministic run sees the same dates every time.
 */
import type { Clock, IrqLine, RegisterBlock, Stateful, Timer } from '../../ports.ts';
import { readState, saveBytes } from '../../state.ts';

export interface CmosPorts {
  irq: IrqLine;
  clock: Clock;
  /** Milliseconds since 1970-01-01 UTC; asked once at the start. */
  wallClock(): number;
}

const REGISTER = {
  seconds: 0,
  secondsAlarm: 1,
  minutes: 2,
  minutesAlarm: 3,
  hours: 4,
  hoursAlarm: 5,
  weekday: 6,
  day: 7,
  month: 8,
  year: 9,
  a: 10,
  b: 11,
  c: 12,
  d: 13,
  century: 0x32,
} as const;
const TIME_REGISTERS: readonly number[] = [0, 2, 4, 6, 7, 8, 9, REGISTER.century];
const A = { updating: 0x80, rate: 0x0f, divider: 0x70, running: 0x20 } as const;
const B = { set: 0x80, periodic: 0x40, alarm: 0x20, update: 0x10, binary: 0x04, hours24: 0x02 } as const;
const C = { irq: 0x80, periodic: 0x40, alarm: 0x20, update: 0x10 } as const;
const D_VALID = 0x80;

const SECOND = 1e9;
/** "Update in progress" precedes the update by 244 µs (data sheet, "Update cycle"). */
const UPDATE_NOTICE = 244_000;

export class Cmos implements RegisterBlock, Stateful {
  private index = 0;
  private readonly ram = new Uint8Array(128);
  /** ms since 1970 at machine time 0. */
  private epoch: number;
  private secondSeen = 0;
  private periodSeen = 0;
  private readonly secondTimer: Timer;
  private readonly periodTimer: Timer;

  constructor(private readonly ports: CmosPorts) {
    this.epoch = Math.floor(ports.wallClock()) - ports.clock.now() / 1e6;
    this.secondTimer = ports.clock.timer(() => this.poll());
    this.periodTimer = ports.clock.timer(() => this.poll());
    this.reset();
  }

  /** RESET leaves time and RAM alone and clears the interrupt bits (data sheet, "RESET"). */
  reset(): void {
    this.index = 0;
    this.ram[REGISTER.a] = 0x26;
    this.ram[REGISTER.b] = B.hours24;
    this.ram[REGISTER.c] = 0;
    this.ram[REGISTER.d] = D_VALID;
    this.secondSeen = this.second();
    this.periodSeen = this.periods();
    this.update();
    this.schedule();
  }

  read(offset: number): number {
    return offset === 0 ? 0xff : this.readRegister(this.index); // the index cannot be read back
  }

  write(offset: number, _size: number, value: number): void {
    if (offset === 0)
      this.index = value & 0x7f; // bit 7 masks NMI on a PC; we have no source of it
    else this.writeRegister(this.index, value);
  }

  private readRegister(index: number): number {
    switch (index) {
      case REGISTER.a:
        return (this.ram[index] & ~A.updating) | (this.updating() ? A.updating : 0);
      case REGISTER.c: {
        this.collect();
        const value = this.ram[index];
        this.ram[index] = 0;
        this.update();
        return value;
      }
      default:
        if (!TIME_REGISTERS.includes(index) || this.holding) return this.ram[index];
        return this.encode(index, new Date(this.milliseconds()));
    }
  }

  private writeRegister(index: number, value: number): void {
    switch (index) {
      case REGISTER.a:
        this.collect();
        this.ram[index] = value & ~A.updating;
        this.periodSeen = this.periods();
        break;
      case REGISTER.b:
        this.writeControl(value);
        break;
      case REGISTER.c:
      case REGISTER.d:
        return;
      default:
        if (TIME_REGISTERS.includes(index) && !this.holding) {
          this.hold();
          this.ram[index] = value;
          this.moveTo(this.decode());
        } else {
          this.ram[index] = value;
        }
        break;
    }
    this.update();
    this.schedule();
  }

  private writeControl(value: number): void {
    this.collect();
    const before = this.ram[REGISTER.b];
    const setting = (value & B.set) !== 0;
    if (setting && !(before & B.set)) this.hold();
    if (!setting && before & B.set) this.moveTo(this.decode());
    // Setting the SET bit clears the update-ended interrupt enable (data sheet, "Register B").
    this.ram[REGISTER.b] = setting ? value & ~B.update : value;
  }

  /** Copies the time into the RAM cells, where the guest edits it field by field. */
  private hold(): void {
    const date = new Date(this.milliseconds());
    for (const index of TIME_REGISTERS) this.ram[index] = this.encode(index, date);
  }

  private moveTo(milliseconds: number): void {
    this.epoch = milliseconds - this.ports.clock.now() / 1e6;
    this.secondSeen = this.second();
  }

  private get holding(): boolean {
    return (this.ram[REGISTER.b] & B.set) !== 0;
  }

  private milliseconds(): number {
    return this.epoch + this.ports.clock.now() / 1e6;
  }

  /** Seconds since 1970, running even while the guest sets the time: they pace the interrupts. */
  private second(): number {
    return Math.floor(this.milliseconds() / 1000);
  }

  private updating(): boolean {
    const within = (((this.milliseconds() % 1000) + 1000) % 1000) * 1e6;
    return !this.holding && within >= SECOND - UPDATE_NOTICE;
  }

  private encode(index: number, date: Date): number {
    switch (index) {
      case REGISTER.seconds:
        return this.digits(date.getUTCSeconds());
      case REGISTER.minutes:
        return this.digits(date.getUTCMinutes());
      case REGISTER.hours: {
        const hours = date.getUTCHours();
        if (this.ram[REGISTER.b] & B.hours24) return this.digits(hours);
        return this.digits(hours % 12 === 0 ? 12 : hours % 12) | (hours >= 12 ? 0x80 : 0);
      }
      case REGISTER.weekday:
        return date.getUTCDay() + 1;
      case REGISTER.day:
        return this.digits(date.getUTCDate());
      case REGISTER.month:
        return this.digits(date.getUTCMonth() + 1);
      case REGISTER.year:
        return this.digits(date.getUTCFullYear() % 100);
      default:
        return this.digits(Math.floor(date.getUTCFullYear() / 100));
    }
  }

  /** The RAM cells as a time; a field out of range carries over. At most the year 16599: far within what Date can hold. */
  private decode(): number {
    const field = (index: number) => this.number(this.ram[index]);
    const date = new Date(0);
    date.setUTCFullYear(field(REGISTER.century) * 100 + field(REGISTER.year), field(REGISTER.month) - 1, field(REGISTER.day));
    date.setUTCHours(this.hours(this.ram[REGISTER.hours]), field(REGISTER.minutes), field(REGISTER.seconds));
    return date.getTime();
  }

  private hours(value: number): number {
    if (this.ram[REGISTER.b] & B.hours24) return this.number(value);
    return (this.number(value & 0x7f) % 12) + (value & 0x80 ? 12 : 0);
  }

  private digits(value: number): number {
    return this.ram[REGISTER.b] & B.binary ? value : (Math.floor(value / 10) << 4) | (value % 10);
  }

  private number(value: number): number {
    return this.ram[REGISTER.b] & B.binary ? value : (value >> 4) * 10 + (value & 15);
  }

  /** Nanoseconds between periodic interrupts, `Infinity` when off (data sheet, table 5, 32768 Hz time base). */
  private period(): number {
    const rate = this.ram[REGISTER.a] & A.rate;
    if (rate === 0 || (this.ram[REGISTER.a] & A.divider) !== A.running) return Number.POSITIVE_INFINITY;
    return ((1 << ((rate < 3 ? rate + 7 : rate) - 1)) * SECOND) / 32768;
  }

  private periods(): number {
    const period = this.period();
    return Number.isFinite(period) ? Math.floor(this.ports.clock.now() / period) : 0;
  }

  /** Sets the flags of register C for what happened since the last look. */
  private collect(): void {
    const second = this.second();
    if (second !== this.secondSeen && !this.holding) {
      this.ram[REGISTER.c] |= C.update;
      if (this.alarmMatches()) this.ram[REGISTER.c] |= C.alarm;
    }
    this.secondSeen = second;
    const periods = this.periods();
    if (periods !== this.periodSeen) this.ram[REGISTER.c] |= C.periodic;
    this.periodSeen = periods;
  }

  /** Compared once a second while the alarm is enabled. Codes with the two top bits set match anything. */
  private alarmMatches(): boolean {
    const now = new Date(this.milliseconds());
    const matches = (alarm: number, time: number) => (this.ram[alarm] & 0xc0) === 0xc0 || this.ram[alarm] === this.encode(time, now);
    return (
      matches(REGISTER.secondsAlarm, REGISTER.seconds) &&
      matches(REGISTER.minutesAlarm, REGISTER.minutes) &&
      matches(REGISTER.hoursAlarm, REGISTER.hours)
    );
  }

  private poll(): void {
    this.collect();
    this.update();
    this.schedule();
  }

  private update(): void {
    const waiting = this.ram[REGISTER.c] & this.ram[REGISTER.b] & (C.periodic | C.alarm | C.update);
    if (waiting) this.ram[REGISTER.c] |= C.irq;
    else this.ram[REGISTER.c] &= ~C.irq;
    this.ports.irq.set(waiting !== 0);
  }

  private schedule(): void {
    const enabled = this.ram[REGISTER.b];
    const seconds = enabled & (B.alarm | B.update) && !this.holding;
    // Milliseconds since 1970 are exact to a quarter microsecond only; a timer that is early must not be armed for now again.
    const next = Math.max(Math.ceil(((this.second() + 1) * 1000 - this.epoch) * 1e6), this.ports.clock.now() + 1000);
    this.secondTimer.arm(seconds ? next : Number.POSITIVE_INFINITY);
    const period = this.period();
    const periodic = enabled & B.periodic && Number.isFinite(period);
    this.periodTimer.arm(periodic ? Math.ceil((this.periods() + 1) * period) : Number.POSITIVE_INFINITY);
  }

  save(): unknown {
    return { index: this.index, ram: saveBytes(this.ram), epoch: this.epoch, secondSeen: this.secondSeen, periodSeen: this.periodSeen };
  }

  load(state: unknown): void {
    const from = readState('cmos', state);
    this.index = from.number('index', 0, 0x7f);
    this.ram.set(from.bytes('ram', 128, true));
    this.epoch = from.time('epoch');
    this.secondSeen = from.number('secondSeen', -8.64e12, 8.64e12);
    this.periodSeen = from.number('periodSeen', 0, Number.MAX_SAFE_INTEGER);
    this.update();
    this.schedule();
  }
}
