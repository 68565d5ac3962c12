/**
 * Intel 82093AA I/O APIC (data sheet 290566-001; registers in section 3): 24 input pins, each with a redirection entry.
 * A pin is told "asserted", whatever voltage that is: the polarity bit is kept and has no further effect.
 */
import type { ApicMessage } from '../../apic-message.ts';
import type { RegisterBlock, Stateful } from '../../ports.ts';
import { readState } from '../../state.ts';

export const IOAPIC_PINS = 24;
const VERSION = 0x11 | ((IOAPIC_PINS - 1) << 16);

const SELECT = 0x00;
const WINDOW = 0x10;
const REGISTER = { id: 0, version: 1, arbitration: 2, redirection: 0x10 } as const;

/** Low word of a redirection entry (data sheet, 3.2.4). */
const ENTRY = { vector: 0xff, mode: 0x700, logical: 0x800, remoteIrr: 0x4000, level: 0x8000, mask: 0x1_0000 } as const;
/** Bits 12 (delivery status) and 14 (remote IRR) are read-only. */
const WRITABLE = 0x1_afff;

export class Ioapic implements RegisterBlock, Stateful {
  private select = 0;
  private id = 0;
  private readonly low = new Uint32Array(IOAPIC_PINS);
  private readonly high = new Uint32Array(IOAPIC_PINS);
  private lines = 0;

  constructor(private readonly deliver: (message: ApicMessage) => void) {
    this.reset();
  }

  reset(): void {
    this.select = 0;
    this.id = 0;
    this.low.fill(ENTRY.mask);
    this.high.fill(0);
  }

  read(offset: number, _size: number): number {
    if (offset === SELECT) return this.select;
    return offset === WINDOW ? this.readRegister(this.select) : 0;
  }

  write(offset: number, _size: number, value: number): void {
    if (offset === SELECT) this.select = value & 0xff;
    else if (offset === WINDOW) this.writeRegister(this.select, value);
  }

  private readRegister(index: number): number {
    if (index === REGISTER.id || index === REGISTER.arbitration) return this.id << 24;
    if (index === REGISTER.version) return VERSION;
    const pin = (index - REGISTER.redirection) >> 1;
    if (pin < 0 || pin >= IOAPIC_PINS) return 0;
    return index & 1 ? this.high[pin] : this.low[pin];
  }

  private writeRegister(index: number, value: number): void {
    if (index === REGISTER.id) this.id = (value >>> 24) & 0x0f;
    const pin = (index - REGISTER.redirection) >> 1;
    if (pin < 0 || pin >= IOAPIC_PINS) return;
    if (index & 1) {
      this.high[pin] = value & 0xff00_0000;
      return;
    }
    // An edge-triggered entry has no remote IRR: switching to edge and back is how software clears it on this version of the chip.
    const remoteIrr = value & ENTRY.level ? this.low[pin] & ENTRY.remoteIrr : 0;
    this.low[pin] = (value & WRITABLE) | remoteIrr;
    this.serveLevel(pin);
  }

  /** Asserts or releases a pin, 0..23. An edge on a masked pin is lost (data sheet, 3.2.4, "Interrupt Mask"). */
  setPin(pin: number, asserted: boolean): void {
    const bit = 1 << pin;
    const rising = asserted && !(this.lines & bit);
    this.lines = asserted ? this.lines | bit : this.lines & ~bit;
    if (this.low[pin] & ENTRY.level) this.serveLevel(pin);
    else if (rising && !(this.low[pin] & ENTRY.mask)) this.send(pin);
  }

  /** A local APIC finished a level-triggered interrupt: pins of this vector that are still asserted interrupt again. */
  endOfInterrupt(vector: number): void {
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      const entry = this.low[pin];
      if (!(entry & ENTRY.remoteIrr) || (entry & ENTRY.vector) !== vector) continue;
      this.low[pin] = entry & ~ENTRY.remoteIrr;
      this.serveLevel(pin);
    }
  }

  private serveLevel(pin: number): void {
    const entry = this.low[pin];
    if (!(entry & ENTRY.level) || entry & (ENTRY.mask | ENTRY.remoteIrr) || !(this.lines & (1 << pin))) return;
    this.low[pin] = entry | ENTRY.remoteIrr;
    this.send(pin);
  }

  private send(pin: number): void {
    const entry = this.low[pin];
    this.deliver({
      destination: this.high[pin] >>> 24,
      logical: (entry & ENTRY.logical) !== 0,
      mode: (entry & ENTRY.mode) >> 8,
      vector: entry & ENTRY.vector,
      level: (entry & ENTRY.level) !== 0,
    });
  }

  save(): unknown {
    return { select: this.select, id: this.id, lines: this.lines, low: [...this.low], high: [...this.high] };
  }

  load(state: unknown): void {
    const from = readState('ioapic', state);
    this.select = from.number('select', 0, 0xff);
    this.id = from.number('id', 0, 15);
    this.lines = from.number('lines', 0, 0xff_ffff);
    this.low.set(from.numbers('low', IOAPIC_PINS, 0, 0x1_ffff));
    this.high.set(from.numbers('high', IOAPIC_PINS, 0, 0xffff_ffff));
  }
}
