/**
 * The copper transceiver in the 82540EM (M88E1011), reached through MDIC (8254x manual 13.4.7, registers in 13.3 and IEEE 802.3
 * clause 22). The cable is either in or out; with it in, auto-negotiation has always just finished with 1000 Mb/s full duplex.
 */

const PHY_ADDRESS = 1;
const READY = 1 << 28;
const ERROR = 1 << 30;
const OP_WRITE = 1;
const OP_READ = 2;

const BMCR = { reset: 0x8000, loopback: 0x4000, powerDown: 0x0800, restart: 0x0200 } as const;
const BMSR = { link: 0x0004, complete: 0x0020 } as const;

/** [register, reset value, writable bits]. */
const REGISTERS: readonly (readonly [number, number, number])[] = [
  [0, 0x1140, 0x7fc0], // control: auto-negotiation, full duplex, 1000
  [1, 0x7949, 0], // status: all 10/100 abilities, extended status
  [2, 0x0141, 0], // identifier: M88E1011
  [3, 0x0c20, 0],
  [4, 0x0de1, 0xffff], // advertisement
  [5, 0x4de1, 0], // partner: acknowledged, 10/100 both ways, pause
  [6, 0x000d, 0], // expansion: partner negotiates, next page able
  [7, 0x2001, 0xffff],
  [9, 0x0e00, 0xffff], // 1000BASE-T control
  [10, 0x7c00, 0], // 1000BASE-T status: partner does 1000 both ways, receivers fine
  [15, 0x3000, 0], // extended status: 1000BASE-T both ways
  [16, 0x0360, 0xffff], // M88 specific control
  [17, 0x0000, 0], // M88 specific status, made on read
  [18, 0x0000, 0xffff], // M88 interrupt enable
  [19, 0x0000, 0], // M88 interrupt status
  [20, 0x0d60, 0xffff], // M88 extended specific control
  [21, 0x0000, 0], // receive errors
  [29, 0x0000, 0xffff], // M88 page and its window
  [30, 0x0000, 0xffff],
];

/** M88 specific status (register 17): 1000 Mb/s, full duplex, resolved, link. */
const M88_UP = 0xac00;

export class Phy {
  private readonly values = new Uint16Array(32);
  private readonly writable = new Uint16Array(32);
  /** Register 1 latches a lost link until it is read (IEEE 802.3, 22.2.4.2.13). */
  private lost = false;

  /** `linkChanged` runs when the link goes up or down. */
  constructor(
    private cable: boolean,
    private readonly linkChanged: () => void,
  ) {
    for (const [index, , mask] of REGISTERS) this.writable[index] = mask;
    this.restoreDefaults();
  }

  get link(): boolean {
    return this.cable && (this.values[0] & BMCR.powerDown) === 0;
  }

  get loopback(): boolean {
    return (this.values[0] & BMCR.loopback) !== 0;
  }

  setCable(connected: boolean): void {
    this.change(() => {
      this.cable = connected;
    });
  }

  reset(): void {
    this.change(() => this.restoreDefaults());
  }

  /** Carries out what was written to MDIC and gives the value to read back. */
  mdic(value: number): number {
    const register = (value >>> 16) & 31;
    const operation = (value >>> 26) & 3;
    const request = value & 0x2fff_ffff;
    if (((value >>> 21) & 31) !== PHY_ADDRESS || (operation !== OP_READ && operation !== OP_WRITE)) return (request | READY | ERROR) >>> 0;
    if (operation === OP_READ) return ((request & 0x2fff_0000) | this.read(register) | READY) >>> 0;
    this.write(register, value & 0xffff);
    return (request | READY) >>> 0;
  }

  save(): { registers: number[]; cable: boolean; lost: boolean } {
    return { registers: [...this.values], cable: this.cable, lost: this.lost };
  }

  load(state: unknown): void {
    const fields = state as { registers?: unknown; cable?: unknown; lost?: unknown } | null | undefined;
    const registers = fields?.registers;
    if (!Array.isArray(registers) || registers.length !== 32 || !registers.every((value) => Number.isInteger(value))) {
      throw new Error('e1000: phy.registers: expected 32 numbers');
    }
    this.values.set(registers);
    this.cable = fields?.cable === true;
    this.lost = fields?.lost === true;
  }

  private restoreDefaults(): void {
    this.values.fill(0);
    for (const [index, value] of REGISTERS) this.values[index] = value;
  }

  private read(register: number): number {
    if (register === 1) {
      const up = this.link && !this.lost;
      this.lost = false;
      return this.values[1] | (up ? BMSR.link | BMSR.complete : 0);
    }
    if (register === 17) return this.link ? M88_UP : 0;
    return this.values[register];
  }

  private write(register: number, value: number): void {
    if (register !== 0) {
      const mask = this.writable[register];
      this.values[register] = (this.values[register] & ~mask) | (value & mask);
    } else if ((value & BMCR.reset) !== 0) {
      this.reset();
    } else {
      // Restart of auto-negotiation clears itself and is over at once.
      this.change(() => {
        this.values[0] = value & this.writable[0] & ~BMCR.restart;
      });
    }
  }

  private change(action: () => void): void {
    const before = this.link;
    action();
    if (this.link === before) return;
    if (before) this.lost = true;
    this.linkChanged();
  }
}
