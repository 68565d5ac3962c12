/**
 * The transceiver inside the RTL8139C+, whose registers lie among the chip's own (data sheet 6: BMCR to ANER, CSCR; their meaning is IEEE
 * 802.3 clause 22). The cable is either in or out; with it in, auto-negotiation has always just finished with 100 Mb/s full duplex.
 */
import { readState } from '../../state.ts';

const BMCR = { reset: 0x8000, restart: 0x0200, default: 0x3100, free: 0x0200, locked: 0x3100 } as const;
/** All 10 and 100 Mb/s abilities, auto-negotiation, extended registers; then what comes with a link. */
const BMSR = { abilities: 0x7809, complete: 0x0020, link: 0x0004 } as const;
const ANAR_DEFAULT = 0x01e1;
/** The partner: acknowledged, flow control, 100 and 10 both ways. */
const ANLPAR = 0x45e1;
/** Partner negotiates, and its page has come. */
const ANER = 0x0003;
/**
 * Medium: descrambler and link detection on. "Connected" is bit 3. Bits 10 and 11, link and link changed, are not in the data sheet; the
 * driver of the C mode asks for them when it gets a link interrupt.
 */
const CSCR = { base: 0x0005, connected: 0x0008, link: 0x0400, changed: 0x0800 } as const;
/** Media status, offset 0x58: auxiliary power is there; bit 2 says "no link", bit 3 would say 10 Mb/s. */
const MSR = { auxiliary: 0x10, noLink: 0x04 } as const;

export class Phy {
  private control: number = BMCR.default;
  private advertisement = ANAR_DEFAULT;
  /** BMSR latches a lost link until it is read (IEEE 802.3, 22.2.4.2.13). */
  private lost = false;
  private changed = false;

  /** `linkChanged` runs when the link goes up or down. */
  constructor(
    private cable: boolean,
    private readonly linkChanged: () => void,
  ) {}

  get link(): boolean {
    return this.cable;
  }

  setCable(connected: boolean): void {
    if (this.cable === connected) return;
    this.cable = connected;
    this.lost ||= !connected;
    this.changed = true;
    this.linkChanged();
  }

  reset(): void {
    this.control = BMCR.default;
    this.advertisement = ANAR_DEFAULT;
  }

  readControl(): number {
    return this.control;
  }

  /** `unlocked`: configuration mode, without which speed, negotiation and duplex stay. A restart is over at once. */
  writeControl(value: number, unlocked: boolean): void {
    if ((value & BMCR.reset) !== 0) {
      this.reset();
      return;
    }
    const mask = unlocked ? BMCR.locked | BMCR.free : BMCR.free;
    this.control = ((this.control & ~mask) | (value & mask)) & ~BMCR.restart;
  }

  readStatus(): number {
    const up = this.cable && !this.lost;
    this.lost = false;
    return BMSR.abilities | (up ? BMSR.complete | BMSR.link : 0);
  }

  readAdvertisement(): number {
    return this.advertisement;
  }

  writeAdvertisement(value: number): void {
    this.advertisement = (value & 0xbfff) | 1;
  }

  readPartner(): number {
    return this.cable ? ANLPAR : 0;
  }

  readExpansion(): number {
    return this.cable ? ANER : 0;
  }

  readMedium(): number {
    const changed = this.changed ? CSCR.changed : 0;
    this.changed = false;
    return CSCR.base | changed | (this.cable ? CSCR.connected | CSCR.link : 0);
  }

  readMedia(): number {
    return MSR.auxiliary | (this.cable ? 0 : MSR.noLink);
  }

  save(): unknown {
    const { control, advertisement, cable, lost, changed } = this;
    return { control, advertisement, cable, lost, changed };
  }

  load(state: unknown): void {
    const from = readState('rtl8139 phy', state);
    this.control = from.number('control', 0, 0xffff) & (BMCR.locked | BMCR.free) & ~BMCR.restart;
    this.writeAdvertisement(from.number('advertisement', 0, 0xffff));
    this.cable = from.boolean('cable');
    this.lost = from.boolean('lost');
    this.changed = from.boolean('changed');
  }
}
