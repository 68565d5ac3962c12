/**
 * The 93C46 serial EEPROM: 64 words of 16 bits behind chip select, clock, data in and data out ("Microwire"). Network cards keep their
 * station address in one, and let the driver drive its pins bit by bit. Instructions by the 93C46 data sheet: start bit, two opcode bits,
 * six address bits.
 */

export const MICROWIRE_WORDS = 64;
const COMMAND_BITS = 9;

export class Microwire {
  private clockHigh = false;
  private shift = 0;
  private bits = 0;
  private address = 0;
  private mode: 'command' | 'read' | 'write' | 'ignore' = 'command';
  private writeEnabled = false;
  private out = 1;

  /** `words`: the contents, exactly `MICROWIRE_WORDS`; kept and changed in place. */
  constructor(readonly words: Uint16Array) {
    if (words.length !== MICROWIRE_WORDS) throw new RangeError(`a 93C46 has ${MICROWIRE_WORDS} words, not ${words.length}`);
  }

  /** The data output pin, 0 or 1. It idles high, which also says "write finished". */
  get output(): number {
    return this.out;
  }

  /** Power-up: ends any transfer; the contents stay, as they are not volatile. */
  reset(): void {
    this.drive(false, false, false);
    this.writeEnabled = false;
  }

  /** Sets the input pins. Bits move on the rising edge of the clock; chip select low ends an instruction. */
  drive(select: boolean, clock: boolean, data: boolean): void {
    const rising = clock && !this.clockHigh;
    this.clockHigh = clock;
    if (!select) this.deselect();
    else if (rising) this.clock(data ? 1 : 0);
  }

  save(): number[] {
    return [...this.words];
  }

  /** Throws Error `<device>: eeprom: ...` for anything but 64 words of 16 bits. */
  load(state: unknown, device: string): void {
    const good =
      Array.isArray(state) &&
      state.length === MICROWIRE_WORDS &&
      state.every((word) => Number.isInteger(word) && word >= 0 && word <= 0xffff);
    if (!good) throw new Error(`${device}: eeprom: expected ${MICROWIRE_WORDS} words of 16 bits`);
    this.words.set(state as number[]);
    this.reset();
  }

  private deselect(): void {
    this.shift = 0;
    this.bits = 0;
    this.mode = 'command';
    this.out = 1;
  }

  private clock(bit: number): void {
    switch (this.mode) {
      case 'command':
        // Zeros before the start bit are idle clocks.
        if (this.bits === 0 && bit === 0) return;
        this.shift = (this.shift << 1) | bit;
        if (++this.bits === COMMAND_BITS) this.command();
        return;
      case 'read': {
        const position = this.bits++;
        const word = this.words[(this.address + (position >>> 4)) % MICROWIRE_WORDS];
        this.out = (word >>> (15 - (position & 15))) & 1;
        this.bits &= 0x3ff; // sequential read wraps after the last word
        return;
      }
      case 'write':
        this.shift = ((this.shift << 1) | bit) & 0xffff;
        if (++this.bits < 16) return;
        if (this.writeEnabled) this.words[this.address] = this.shift;
        this.mode = 'ignore';
        return;
      case 'ignore':
    }
  }

  private command(): void {
    const operation = (this.shift >>> 6) & 3;
    this.address = this.shift % MICROWIRE_WORDS;
    this.shift = 0;
    this.bits = 0;
    this.mode = 'ignore';
    if (operation === 2) {
      this.mode = 'read';
      this.out = 0; // the dummy bit before the data
    } else if (operation === 1) {
      this.mode = 'write';
    } else if (operation === 3) {
      if (this.writeEnabled) this.words[this.address] = 0xffff;
    } else if (this.address >>> 4 === 3) {
      this.writeEnabled = true;
    } else if (this.address >>> 4 === 0) {
      this.writeEnabled = false;
    }
  }
}
