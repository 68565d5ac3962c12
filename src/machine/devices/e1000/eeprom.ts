/**
 * The 64-word Microwire EEPROM of the 82540EM, read bit by bit through EECD or word by word through EERD
 * (8254x manual 5.4 to 5.6, 13.4.3 and 13.4.4).
 */
import { MICROWIRE_WORDS, Microwire } from '../microwire.ts';

/** The sum of all words (5.6.35). */
const CHECKSUM = 0xbaba;

/** EECD bits, 13.4.3. */
const EECD = { sk: 1, cs: 2, di: 4, do: 8, req: 0x40, gnt: 0x80, pres: 0x100 } as const;
const EECD_WRITABLE = EECD.sk | EECD.cs | EECD.di | EECD.req | 0x30;
/** EERD bits of the 82540EM, 13.4.4. */
const EERD = { start: 1, done: 0x10 } as const;

/** Initial contents: address, identification and a valid checksum; words that mean nothing here are as erased. */
export function eepromContents(mac: Uint8Array): Uint16Array {
  const words = new Uint16Array(MICROWIRE_WORDS).fill(0xffff);
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
  private readonly part: Microwire;
  private eecd = 0;
  private eerd = 0;

  constructor(mac: Uint8Array) {
    this.part = new Microwire(eepromContents(mac));
  }

  get words(): Uint16Array {
    return this.part.words;
  }

  /** Ends any transfer; the contents stay, as they are not volatile. */
  reset(): void {
    this.eecd = 0;
    this.eerd = 0;
    this.part.reset();
  }

  readEecd(): number {
    const grant = (this.eecd & EECD.req) !== 0 ? EECD.gnt : 0;
    return this.eecd | grant | EECD.pres | (this.part.output !== 0 ? EECD.do : 0);
  }

  writeEecd(value: number): void {
    this.eecd = value & EECD_WRITABLE;
    this.part.drive((value & EECD.cs) !== 0, (value & EECD.sk) !== 0, (value & EECD.di) !== 0);
  }

  readEerd(): number {
    return this.eerd;
  }

  writeEerd(value: number): void {
    if ((value & EERD.start) === 0) {
      this.eerd = value & 0xff00;
      return;
    }
    const word = this.words[(value >>> 8) % MICROWIRE_WORDS];
    this.eerd = ((word << 16) | (value & 0xff00) | EERD.done) >>> 0;
  }

  save(): number[] {
    return this.part.save();
  }

  load(state: unknown): void {
    this.part.load(state, 'e1000');
    this.reset();
  }
}
