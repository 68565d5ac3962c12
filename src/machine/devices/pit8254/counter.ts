/**
 * One counter of an Intel 8254 (data sheet 231164-005), computed from machine time instead of being clocked: it knows when counting
 * began, and derives count and output from the ticks since. Modes 0, 2, 3 and 4 exactly; 1 and 5 (started by the gate) likewise.
 * Binary and BCD counting.
 */
import { readState } from '../../state.ts';

/** Input clock of a PC's PIT, Hz. */
export const PIT_FREQUENCY = 1_193_182;

export function ticksToNs(ticks: number): number {
  return Math.ceil((ticks * 1e9) / PIT_FREQUENCY);
}

type Mode = 0 | 1 | 2 | 3 | 4 | 5;

export class Counter {
  private mode: Mode = 0;
  private access = 3;
  private bcd = false;
  private initial = 0x1_0000;
  /** Machine time when counting began, or when it was resumed by the gate. */
  private start = 0;
  /** Ticks that had passed when the gate stopped counting (modes 0 and 4), else -1. */
  private stopped = -1;
  /** False until a count has been written (and, in modes 1 and 5, the gate has risen). */
  private running = false;
  private loaded = false;
  private nullCount = true;
  private gate: boolean;
  private writeLow = -1;
  private readHigh = false;
  private latched: number[] = [];
  private latchedStatus = -1;

  constructor(
    private readonly now: () => number,
    gate: boolean,
  ) {
    this.gate = gate;
  }

  /** Ticks since counting began; the first count is loaded at tick 0. */
  private ticks(): number {
    if (this.stopped >= 0) return this.stopped;
    return Math.max(0, Math.floor(((this.now() - this.start) * PIT_FREQUENCY) / 1e9));
  }

  /** The control word's part for this counter (data sheet, figure 7), not a latch command. */
  control(value: number): void {
    const mode = (value >> 1) & 7;
    this.mode = (mode > 5 ? mode & 3 : mode) as Mode;
    this.access = (value >> 4) & 3;
    this.bcd = (value & 1) !== 0;
    this.running = false;
    this.loaded = false;
    this.stopped = -1;
    this.nullCount = true;
    this.writeLow = -1;
    this.readHigh = false;
    this.latched = [];
    this.latchedStatus = -1;
  }

  /** As at power-up, whatever was counted before. */
  reset(gate: boolean): void {
    this.control(0x30);
    this.initial = 0x1_0000;
    this.start = 0;
    this.gate = gate;
  }

  setGate(high: boolean): void {
    if (high === this.gate) return;
    const ticks = this.ticks();
    this.gate = high;
    switch (this.mode) {
      case 0:
      case 4: // the gate stops and resumes counting
        if (!this.running) break;
        if (high) {
          this.start = this.now() - Math.floor((ticks * 1e9) / PIT_FREQUENCY);
          this.stopped = -1;
        } else {
          this.stopped = ticks;
        }
        break;
      case 2:
      case 3: // a rising gate reloads
        if (high && this.loaded) this.begin();
        break;
      case 1:
      case 5: // a rising gate triggers
        if (high && this.loaded) this.begin();
        break;
    }
  }

  private begin(): void {
    this.start = this.now();
    this.running = true;
    this.nullCount = false;
    this.stopped = !this.gate && (this.mode === 0 || this.mode === 4) ? 0 : -1;
  }

  write(value: number): void {
    switch (this.access) {
      case 1:
        this.load(value);
        break;
      case 2:
        this.load(value << 8);
        break;
      default:
        if (this.writeLow < 0) {
          this.writeLow = value;
        } else {
          const low = this.writeLow;
          this.writeLow = -1;
          this.load(low | (value << 8));
        }
        break;
    }
  }

  private load(value: number): void {
    const count = this.bcd ? fromBcd(value) : value;
    this.initial = count === 0 ? (this.bcd ? 10_000 : 0x1_0000) : count;
    const rewrite = this.loaded;
    this.loaded = true;
    this.nullCount = true;
    if (this.mode === 1 || this.mode === 5) return;
    // In modes 2 and 3 a new count is taken at the end of the period; we restart instead when it is written over a running one: no
    // operating system depends on the rest of the old period.
    if (rewrite || this.gate || this.mode === 0 || this.mode === 4) this.begin();
  }

  /** The counting element's value now. */
  private count(): number {
    const modulus = this.bcd ? 10_000 : 0x1_0000;
    if (!this.running) return this.initial % modulus;
    const ticks = this.ticks();
    switch (this.mode) {
      case 2:
        return this.gate ? (this.initial - (ticks % this.initial)) % modulus : this.initial % modulus;
      case 3:
        // Counts down by two, twice a period.
        return this.gate ? ((this.initial - ((2 * ticks) % this.initial)) % modulus) & ~1 : this.initial % modulus;
      default:
        return (((this.initial - ticks) % modulus) + modulus) % modulus;
    }
  }

  /** Level of the OUT pin. */
  output(): boolean {
    if (!this.running) return this.mode !== 0;
    const ticks = this.ticks();
    switch (this.mode) {
      case 0:
      case 1:
        return ticks >= this.initial;
      case 2:
        return !this.gate || ticks % this.initial !== this.initial - 1;
      case 3:
        return !this.gate || ticks % this.initial < Math.ceil(this.initial / 2);
      case 4:
      case 5:
        return ticks !== this.initial;
    }
  }

  /** Rising edges of OUT since counting began. */
  edges(): number {
    if (!this.running || (!this.gate && (this.mode === 2 || this.mode === 3))) return 0;
    const ticks = this.ticks();
    switch (this.mode) {
      case 0:
      case 1:
        return ticks >= this.initial ? 1 : 0;
      case 2:
      case 3:
        return Math.floor(ticks / this.initial);
      case 4:
      case 5:
        return ticks > this.initial ? 1 : 0;
    }
  }

  /** Machine time of the next rising edge of OUT, or `Infinity`. */
  nextEdge(): number {
    if (!this.running || this.stopped >= 0) return Number.POSITIVE_INFINITY;
    const ticks = this.ticks();
    switch (this.mode) {
      case 0:
      case 1:
        return ticks < this.initial ? this.start + ticksToNs(this.initial) : Number.POSITIVE_INFINITY;
      case 2:
      case 3:
        return this.gate ? this.start + ticksToNs((Math.floor(ticks / this.initial) + 1) * this.initial) : Number.POSITIVE_INFINITY;
      case 4:
      case 5:
        return ticks <= this.initial ? this.start + ticksToNs(this.initial + 1) : Number.POSITIVE_INFINITY;
    }
  }

  latchCount(): void {
    if (this.latched.length > 0) return;
    const count = this.readable();
    this.latched = this.access === 1 ? [count & 0xff] : this.access === 2 ? [count >> 8] : [count & 0xff, count >> 8];
  }

  /** Status byte of the read-back command (data sheet, figure 11). */
  latchStatus(): void {
    if (this.latchedStatus >= 0) return;
    const state = (this.output() ? 0x80 : 0) | (this.nullCount ? 0x40 : 0);
    this.latchedStatus = state | (this.access << 4) | (this.mode << 1) | (this.bcd ? 1 : 0);
  }

  private readable(): number {
    return this.bcd ? toBcd(this.count()) : this.count();
  }

  read(): number {
    if (this.latchedStatus >= 0) {
      const status = this.latchedStatus;
      this.latchedStatus = -1;
      return status;
    }
    const latched = this.latched.shift();
    if (latched !== undefined) return latched;
    const count = this.readable();
    if (this.access === 1) return count & 0xff;
    if (this.access === 2) return count >> 8;
    this.readHigh = !this.readHigh;
    return this.readHigh ? count & 0xff : count >> 8;
  }

  save(): unknown {
    return {
      mode: this.mode,
      access: this.access,
      bcd: this.bcd,
      initial: this.initial,
      start: this.start,
      stopped: this.stopped,
      running: this.running,
      loaded: this.loaded,
      nullCount: this.nullCount,
      gate: this.gate,
      writeLow: this.writeLow,
      readHigh: this.readHigh,
      latched: [...this.latched],
      latchedCount: this.latched.length,
      latchedStatus: this.latchedStatus,
    };
  }

  restore(state: unknown): void {
    const from = readState('pit8254', state);
    this.mode = from.number('mode', 0, 5) as Mode;
    this.access = from.number('access', 0, 3);
    this.bcd = from.boolean('bcd');
    this.initial = from.number('initial', 1, 0x1_0000);
    this.start = from.time('start');
    this.stopped = from.number('stopped', -1, Number.MAX_SAFE_INTEGER);
    this.running = from.boolean('running');
    this.loaded = from.boolean('loaded');
    this.nullCount = from.boolean('nullCount');
    this.gate = from.boolean('gate');
    this.writeLow = from.number('writeLow', -1, 0xff);
    this.readHigh = from.boolean('readHigh');
    this.latched = from.numbers('latched', from.number('latchedCount', 0, 2), 0, 0xff);
    this.latchedStatus = from.number('latchedStatus', -1, 0xff);
  }
}

function fromBcd(value: number): number {
  let result = 0;
  for (let shift = 12; shift >= 0; shift -= 4) result = result * 10 + Math.min(9, (value >> shift) & 15);
  return result;
}

function toBcd(value: number): number {
  let result = 0;
  for (let shift = 0, rest = value; shift < 16; shift += 4, rest = Math.floor(rest / 10)) result |= (rest % 10) << shift;
  return result;
}
