/**
 * The 64-word Microwire EEPROM of the 82540EM, read bit by bit through EECD or word by word through EERD
 * (8254x manual 5.4 to 5.6, 13.4.3 and 13.4.4; instructions of the 93C46 part).
 */

export const EEPROM_WORDS = 64;
/** The sum of all words (5.6.35). */
const CHECKSUM = 0xbaba;

/** EECD bits, 13.4.3. */
const EECD = { sk: 1, cs: 2, di: 4, do: 8, req: 0x40, gnt: 0x80, pres: 0x100 } as const;
const EECD_WRITABLE = EECD.sk | EECD.cs | EECD.di | EECD.req | 0x30;
/** EERD bits of the 82540EM, 13.4.4. */
const EERD = { start: 1, done: 0x10 } as const;

/** Start bit, two opcode bits and six address bits. */
const COMMAND_BITS = 9;

/** Initial contents: address, identification and a valid checksum; words that mean nothing here are as erased. */
export function eepromContents(mac: Uint8Array): Uint16Array {
  const words = new Uint16Array(EEPROM_WORDS).fill(0xffff);
  for (let i = 0; i < 3; i++) words[i] = mac[2 * i] | (mac[2 * i + 1] << 8);
  words.fill(0, 0x03, 0x08); // compatibility bits: plain adapter, copper
  words[0x0a] = 0x6403; // initialization control 1: load the identification below
  words[0x0b] = 0x001e; // subsystem
  words[0x0c] = 0x8086;
  words[0x0d] = 0x100e; // device
  words[0x0e] = 0x8086;
  words[0x0f] = 0x3040; // initialization control 2
  words[0x24] = 0x0000; // initialization control 3: no wake on LAN
  words[0x3f] = 0;
  words[0x3f] = CHECKSUM - words.reduce((sum, word) => sum + word, 0);
  return words;
}

export class Eeprom {
  readonly words: Uint16Array;
  private eecd = 0;
  private eerd = 0;
  private shift = 0;
  private bits = 0;
  private address = 0;
  private mode: 'command' | 'read' | 'write' | 'ignore' = 'command';
  private writeEnabled = false;
  private out = 1;

  constructor(mac: Uint8Array) {
    this.words = eepromContents(mac);
  }

  /** Ends any transfer; the contents stay, as they are not volatile. */
  reset(): void {
    this.eecd = 0;
    this.eerd = 0;
    this.deselect();
    this.writeEnabled = false;
  }

  readEecd(): number {
    const grant = (this.eecd & EECD.req) !== 0 ? EECD.gnt : 0;
    return this.eecd | grant | EECD.pres | (this.out !== 0 ? EECD.do : 0);
  }

  writeEecd(value: number): void {
    const before = this.eecd;
    this.eecd = value & EECD_WRITABLE;
    if ((value & EECD.cs) === 0) this.deselect();
    else if ((before & EECD.sk) === 0 && (value & EECD.sk) !== 0) this.clock((value & EECD.di) !== 0 ? 1 : 0);
  }

  readEerd(): number {
    return this.eerd;
  }

  writeEerd(value: number): void {
    if ((value & EERD.start) === 0) {
      this.eerd = value & 0xff00;
      return;
    }
    const word = this.words[(value >>> 8) & (EEPROM_WORDS - 1)];
    this.eerd = ((word << 16) | (value & 0xff00) | EERD.done) >>> 0;
  }

  save(): number[] {
    return [...this.words];
  }

  load(state: unknown): void {
    const good = Array.isArray(state) && state.length === EEPROM_WORDS
      && state.every((word) => Number.isInteger(word) && word >= 0 && word <= 0xffff);
    if (!good) throw new Error('e1000: eeprom: expected 64 words of 16 bits');
    this.words.set(state as number[]);
    this.reset();
  }

  /** Chip select low ends an instruction; the data output idles high, which also says "write finished". */
  private deselect(): void {
    this.shift = 0;
    this.bits = 0;
    this.mode = 'command';
    this.out = 1;
  }

  /** Rising clock edge. */
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
        const word = this.words[(this.address + (position >>> 4)) & (EEPROM_WORDS - 1)];
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
    this.address = this.shift & (EEPROM_WORDS - 1);
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
