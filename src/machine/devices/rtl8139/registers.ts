/**
 * The 256 bytes of registers of the RTL8139C+: one table of names, offsets, widths, reset values and writable bits (data sheet 6). Software
 * may access them as bytes, words or double words; registers that act get a hook from the part of the card that owns them, all the rest is
 * storage that the table alone describes.
 */

export const REGISTER_SPACE = 256;

type Width = 1 | 2 | 4;
/**
 * kept: survives the reset command, which leaves addresses and configuration (6, CR bit 4); locked: written in configuration mode only (6,
 * 9346CR); count: an array of registers, of which the name means the first.
 */
interface Traits {
  kept?: true;
  locked?: true;
  count?: number;
}
type Row = readonly [offset: number, width: Width, reset: number, writable: number, traits?: Traits];

const ALL = 0xffff_ffff;
const RING_LOW = 0xffff_ff00;

const TABLE = {
  IDR0: [0x00, 4, 0, ALL, { kept: true }], // station address
  IDR4: [0x04, 4, 0, 0xffff, { kept: true }],
  MAR0: [0x08, 4, 0, ALL, { kept: true }], // multicast hash
  MAR4: [0x0c, 4, 0, ALL, { kept: true }],
  // C mode: status of transmit descriptors 0 to 3. C+ mode: the first two are the dump tally counter command.
  TSD0: [0x10, 4, 0x2000, 0],
  TSD1: [0x14, 4, 0x2000, 0],
  TSD2: [0x18, 4, 0x2000, 0],
  TSD3: [0x1c, 4, 0x2000, 0],
  // C mode: addresses of transmit buffers 0 to 3. C+ mode: start of the normal ring, low and high, and of the high priority ring.
  TSAD0: [0x20, 4, 0, ALL],
  TSAD1: [0x24, 4, 0, ALL],
  TSAD2: [0x28, 4, 0, ALL],
  TSAD3: [0x2c, 4, 0, ALL],
  RBSTART: [0x30, 4, 0, ALL],
  CR: [0x37, 1, 0, 0x0c],
  CAPR: [0x38, 2, 0xfff0, 0xffff],
  CBR: [0x3a, 2, 0, 0],
  IMR: [0x3c, 2, 0, 0],
  ISR: [0x3e, 2, 0, 0],
  TCR: [0x40, 4, 0x0300_0700, 0x030f_07f0],
  RCR: [0x44, 4, 0x0000_e000, 0x0f03_ffbf],
  TCTR: [0x48, 4, 0, 0],
  MPC: [0x4c, 4, 0, 0],
  EECR: [0x50, 1, 0, 0],
  CONFIG0: [0x51, 1, 0x10, 0, { kept: true }], // medium: auto-detection; no boot ROM
  CONFIG1: [0x52, 1, 0x0d, 0xf3, { kept: true, locked: true }], // io and memory mapped, power management
  TIMERINT: [0x54, 4, 0, ALL],
  MSR: [0x58, 1, 0, 0],
  CONFIG3: [0x59, 1, 0x40, 0xf4, { kept: true, locked: true }],
  CONFIG4: [0x5a, 1, 0, 0xff, { kept: true, locked: true }],
  MULINT: [0x5c, 2, 0, 0x0fff],
  RERID: [0x5e, 1, 0, 0],
  TSAD: [0x60, 2, 0, 0],
  // Internal transceiver
  BMCR: [0x62, 2, 0, 0, { kept: true }],
  BMSR: [0x64, 2, 0, 0, { kept: true }],
  ANAR: [0x66, 2, 0, 0, { kept: true }],
  ANLPAR: [0x68, 2, 0, 0, { kept: true }],
  ANER: [0x6a, 2, 0, 0, { kept: true }],
  NWAYTR: [0x70, 2, 0x0004, 0x0080, { kept: true }],
  CSCR: [0x74, 2, 0, 0, { kept: true }],
  PHY1_PARM: [0x78, 4, 0x78fa_8388, ALL, { kept: true }],
  TW_PARM: [0x7c, 4, 0xcb38_de43, ALL, { kept: true }],
  PHY2_PARM: [0x80, 1, 0, 0xff, { kept: true }],
  TDOKLADDR: [0x82, 2, 0, 0],
  // Wake-up frames: storage only
  WAKEUP: [0x84, 4, 0, ALL, { kept: true, count: 20 }],
  CONFIG5: [0xd8, 1, 0, 0x7f, { kept: true }],
  TPPOLL: [0xd9, 1, 0, 0],
  CPCR: [0xe0, 2, 0, 0x007b],
  RDSAR0: [0xe4, 4, 0, RING_LOW],
  RDSAR4: [0xe8, 4, 0, ALL],
  ETTHR: [0xec, 1, 0, 0x3f],
} as const satisfies Record<string, Row>;

export type RegisterName = keyof typeof TABLE;
const ROWS = Object.entries(TABLE) as [RegisterName, Row][];

/** Byte offset of each register. */
export const OFFSET = Object.fromEntries(ROWS.map(([name, row]) => [name, row[0]])) as Record<RegisterName, number>;
/** Bytes of each register. */
export const WIDTH = Object.fromEntries(ROWS.map(([name, row]) => [name, row[1]])) as Record<RegisterName, Width>;

const reset = new Uint8Array(REGISTER_SPACE);
const writable = new Uint8Array(REGISTER_SPACE);
const kept = new Uint8Array(REGISTER_SPACE);
const locked = new Uint8Array(REGISTER_SPACE);
/** Which row a byte belongs to, or -1. */
const owner = new Int16Array(REGISTER_SPACE).fill(-1);
for (const [row, [, [offset, width, value, mask, traits]]] of ROWS.entries()) {
  const count = traits?.count ?? 1;
  for (let i = 0; i < width * count; i++) {
    const shift = (i % width) * 8;
    reset[offset + i] = value >>> shift;
    writable[offset + i] = mask >>> shift;
    kept[offset + i] = traits?.kept ? 1 : 0;
    locked[offset + i] = traits?.locked ? 1 : 0;
    if (count === 1) owner[offset + i] = row;
  }
}

/** `value`: what was written, in the register's place, zero where nothing was; `mask`: ones where something was. */
type Writer = (value: number, mask: number) => void;

export class RegisterFile {
  readonly bytes = new Uint8Array(REGISTER_SPACE);
  private readonly view = new DataView(this.bytes.buffer);
  private readonly readers: (undefined | (() => number))[] = new Array(ROWS.length).fill(undefined);
  private readonly writers: (undefined | Writer)[] = new Array(ROWS.length).fill(undefined);
  /** Configuration mode: locked registers may be written. */
  unlocked = false;

  constructor() {
    this.bytes.set(reset);
  }

  /** The value of a read comes from `reader` instead of storage. */
  onRead(name: RegisterName, reader: () => number): void {
    this.readers[rowOf(name)] = reader;
  }

  /** `writer` runs after the table's writable bits were stored. */
  onWrite(name: RegisterName, writer: Writer): void {
    this.writers[rowOf(name)] = writer;
  }

  /** What is stored, without hooks. */
  get(name: RegisterName): number {
    return getValue(this.view, OFFSET[name], WIDTH[name]);
  }

  set(name: RegisterName, value: number): void {
    setValue(this.view, OFFSET[name], WIDTH[name], value);
  }

  /** A pair of double words that holds an address; low first. */
  address(low: RegisterName): number {
    return this.view.getUint32(OFFSET[low] + 4, true) * 0x1_0000_0000 + this.view.getUint32(OFFSET[low], true);
  }

  /** 0 <= offset, offset + size <= 256. Bytes between registers read as zero. */
  read(offset: number, size: Width): number {
    for (let at = offset, last = -1; at < offset + size; at++) {
      const row = owner[at];
      if (row < 0 || row === last) continue;
      last = row;
      const reader = this.readers[row];
      if (reader !== undefined) setValue(this.view, ROWS[row][1][0], ROWS[row][1][1], reader());
    }
    return getValue(this.view, offset, size);
  }

  write(offset: number, size: Width, value: number): void {
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const mask = locked[at] === 0 || this.unlocked ? writable[at] : 0;
      this.bytes[at] = (this.bytes[at] & ~mask) | ((value >>> (8 * i)) & mask);
    }
    for (let at = offset, last = -1; at < offset + size; at++) {
      const row = owner[at];
      if (row < 0 || row === last) continue;
      last = row;
      this.act(row, offset, size, value);
    }
  }

  private act(row: number, offset: number, size: Width, value: number): void {
    const writer = this.writers[row];
    if (writer === undefined) return;
    const [start, width] = ROWS[row][1];
    let written = 0;
    let mask = 0;
    for (let i = 0; i < width; i++) {
      const lane = start + i - offset;
      if (lane < 0 || lane >= size) continue;
      written |= ((value >>> (8 * lane)) & 0xff) << (8 * i);
      mask |= 0xff << (8 * i);
    }
    writer(written >>> 0, mask >>> 0);
  }

  /** `hard`: power-up; else the reset command. */
  reset(hard: boolean): void {
    for (let i = 0; i < REGISTER_SPACE; i++) if (hard || kept[i] === 0) this.bytes[i] = reset[i];
    this.unlocked = false;
  }
}

function rowOf(name: RegisterName): number {
  return owner[OFFSET[name]];
}

function getValue(view: DataView, offset: number, width: Width): number {
  let value = 0;
  for (let i = width - 1; i >= 0; i--) value = value * 256 + view.getUint8(offset + i);
  return value;
}

function setValue(view: DataView, offset: number, width: Width, value: number): void {
  for (let i = 0; i < width; i++) view.setUint8(offset + i, value >>> (8 * i));
}
