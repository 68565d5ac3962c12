/**
 * The register file of the 82540EM: one table of names, offsets, access, reset values and writable bits, by the 8254x Family
 * Software Developer's Manual, chapter 13 (order of its table 13-2). Registers that act on a read or write get a hook from
 * the part of the card that owns them; all the rest is storage that the table alone describes.
 */

/** Bytes of register space with anything in it. Beyond lie only wake-up filter tables and the packet buffer's diagnostic window. */
export const REGISTER_SPACE = 0x6000;

/**
 * rw: storage under `writable`; ro: writes are ignored; rc: a statistics counter, cleared by a read (13.7);
 * rc-high: upper half of a counter pair, whose read clears both halves; wo: reads as zero.
 */
type Access = 'rw' | 'ro' | 'rc' | 'rc-high' | 'wo';
type Row = readonly [offset: number, access: Access, reset?: number, writable?: number, count?: number];

/** TDLEN and RDLEN: bytes in multiples of 128, so bits 7 to 19 (13.4.27, 13.4.38). */
const RING_LENGTH = 0x000f_ff80;
const RING_BASE_LOW = 0xffff_fff0;
const HALF = 0xffff;

const TABLE = {
  // General (13.4.1 to 13.4.14)
  CTRL: [0x0000, 'rw', 0x0000_0241],
  STATUS: [0x0008, 'ro', 0x0000_0281],
  EECD: [0x0010, 'rw', 0, 0],
  EERD: [0x0014, 'rw', 0, 0],
  CTRL_EXT: [0x0018, 'rw', 0, 0x00ff_ffff],
  FLA: [0x001c, 'rw'],
  MDIC: [0x0020, 'rw', 0x1000_0000],
  FCAL: [0x0028, 'rw', 0x00c2_8001],
  FCAH: [0x002c, 'rw', 0x0000_0100, HALF],
  FCT: [0x0030, 'rw', 0x0000_8808, HALF],
  VET: [0x0038, 'rw', 0x0000_8100, HALF],
  FCTTV: [0x0170, 'rw', 0, HALF],
  TXCW: [0x0178, 'rw', 0, 0xc000_ffff],
  RXCW: [0x0180, 'ro'],
  LEDCTL: [0x0e00, 'rw', 0x0706_8302],
  PBA: [0x1000, 'rw', 0x0010_0030, HALF],
  // Interrupts (13.4.17 to 13.4.21)
  ICR: [0x00c0, 'ro'],
  ITR: [0x00c4, 'rw', 0, HALF],
  ICS: [0x00c8, 'wo'],
  IMS: [0x00d0, 'ro'],
  IMC: [0x00d8, 'wo'],
  // Receive (13.4.22 to 13.4.31, 13.5)
  RCTL: [0x0100, 'rw'],
  FCRTL: [0x2160, 'rw', 0, 0x8000_fff8],
  FCRTH: [0x2168, 'rw', 0, 0x0000_fff8],
  RDFH: [0x2410, 'rw', 0, 0x1fff],
  RDFT: [0x2418, 'rw', 0, 0x1fff],
  RDFHS: [0x2420, 'rw', 0, 0x1fff],
  RDFTS: [0x2428, 'rw', 0, 0x1fff],
  RDFPC: [0x2430, 'rw', 0, 0x1fff],
  RDBAL: [0x2800, 'rw', 0, RING_BASE_LOW],
  RDBAH: [0x2804, 'rw'],
  RDLEN: [0x2808, 'rw', 0, RING_LENGTH],
  RDH: [0x2810, 'rw', 0, HALF],
  RDT: [0x2818, 'rw', 0, HALF],
  RDTR: [0x2820, 'rw', 0, HALF],
  RXDCTL: [0x2828, 'rw', 0x0101_0000],
  RADV: [0x282c, 'rw', 0, HALF],
  RSRPD: [0x2c00, 'rw', 0, 0xfff],
  RXCSUM: [0x5000, 'rw', 0, 0x7ff],
  MTA: [0x5200, 'rw', 0, 0xffff_ffff, 128],
  RA: [0x5400, 'rw', 0, 0xffff_ffff, 32],
  VFTA: [0x5600, 'rw', 0, 0xffff_ffff, 128],
  // Transmit (13.4.32 to 13.4.47)
  TCTL: [0x0400, 'rw', 0, 0x07ff_ffff],
  TIPG: [0x0410, 'rw', 0, 0x3fff_ffff],
  TBT: [0x0448, 'rw'],
  AIT: [0x0458, 'rw', 0, HALF],
  TXDMAC: [0x3000, 'rw'],
  TDFH: [0x3410, 'rw', 0, 0x1fff],
  TDFT: [0x3418, 'rw', 0, 0x1fff],
  TDFHS: [0x3420, 'rw', 0, 0x1fff],
  TDFTS: [0x3428, 'rw', 0, 0x1fff],
  TDFPC: [0x3430, 'rw', 0, 0x1fff],
  TDBAL: [0x3800, 'rw', 0, RING_BASE_LOW],
  TDBAH: [0x3804, 'rw'],
  TDLEN: [0x3808, 'rw', 0, RING_LENGTH],
  TDH: [0x3810, 'rw', 0, HALF],
  TDT: [0x3818, 'rw', 0, HALF],
  TIDV: [0x3820, 'rw', 0, HALF],
  TXDCTL: [0x3828, 'rw'],
  TADV: [0x382c, 'rw', 0, HALF],
  TSPMT: [0x3830, 'rw'],
  // Wake-up and manageability (13.6): storage only
  WUC: [0x5800, 'rw'],
  WUFC: [0x5808, 'rw'],
  WUS: [0x5810, 'rw'],
  MANC: [0x5820, 'rw'],
  IPAV: [0x5838, 'rw'],
  IP4AT: [0x5840, 'rw', 0, 0xffff_ffff, 8],
  IP6AT: [0x5880, 'rw', 0, 0xffff_ffff, 4],
  WUPL: [0x5900, 'rw'],
  WUPM: [0x5a00, 'rw', 0, 0xffff_ffff, 32],
  FFLT: [0x5f00, 'rw', 0, 0xffff_ffff, 8],
  // Statistics (13.7), all cleared by a read
  CRCERRS: [0x4000, 'rc'],
  ALGNERRC: [0x4004, 'rc'],
  SYMERRS: [0x4008, 'rc'],
  RXERRC: [0x400c, 'rc'],
  MPC: [0x4010, 'rc'],
  SCC: [0x4014, 'rc'],
  ECOL: [0x4018, 'rc'],
  MCC: [0x401c, 'rc'],
  LATECOL: [0x4020, 'rc'],
  COLC: [0x4028, 'rc'],
  DC: [0x4030, 'rc'],
  TNCRS: [0x4034, 'rc'],
  SEC: [0x4038, 'rc'],
  CEXTERR: [0x403c, 'rc'],
  RLEC: [0x4040, 'rc'],
  XONRXC: [0x4048, 'rc'],
  XONTXC: [0x404c, 'rc'],
  XOFFRXC: [0x4050, 'rc'],
  XOFFTXC: [0x4054, 'rc'],
  FCRUC: [0x4058, 'rc'],
  PRC64: [0x405c, 'rc'],
  PRC127: [0x4060, 'rc'],
  PRC255: [0x4064, 'rc'],
  PRC511: [0x4068, 'rc'],
  PRC1023: [0x406c, 'rc'],
  PRC1522: [0x4070, 'rc'],
  GPRC: [0x4074, 'rc'],
  BPRC: [0x4078, 'rc'],
  MPRC: [0x407c, 'rc'],
  GPTC: [0x4080, 'rc'],
  GORCL: [0x4088, 'ro'],
  GORCH: [0x408c, 'rc-high'],
  GOTCL: [0x4090, 'ro'],
  GOTCH: [0x4094, 'rc-high'],
  RNBC: [0x40a0, 'rc'],
  RUC: [0x40a4, 'rc'],
  RFC: [0x40a8, 'rc'],
  ROC: [0x40ac, 'rc'],
  RJC: [0x40b0, 'rc'],
  MGTPRC: [0x40b4, 'rc'],
  MGTPDC: [0x40b8, 'rc'],
  MGTPTC: [0x40bc, 'rc'],
  TORL: [0x40c0, 'ro'],
  TORH: [0x40c4, 'rc-high'],
  TOTL: [0x40c8, 'ro'],
  TOTH: [0x40cc, 'rc-high'],
  TPR: [0x40d0, 'rc'],
  TPT: [0x40d4, 'rc'],
  PTC64: [0x40d8, 'rc'],
  PTC127: [0x40dc, 'rc'],
  PTC255: [0x40e0, 'rc'],
  PTC511: [0x40e4, 'rc'],
  PTC1023: [0x40e8, 'rc'],
  PTC1522: [0x40ec, 'rc'],
  MPTC: [0x40f0, 'rc'],
  BPTC: [0x40f4, 'rc'],
  TSCTC: [0x40f8, 'rc'],
  TSCTFC: [0x40fc, 'rc'],
} as const satisfies Record<string, Row>;

export type RegisterName = keyof typeof TABLE;
const ROWS = Object.entries(TABLE) as [RegisterName, Row][];

/** Byte offset of each register. */
export const OFFSET = Object.fromEntries(ROWS.map(([name, row]) => [name, row[0]])) as Record<RegisterName, number>;
/** Index of each register (the first, for arrays) in `RegisterFile.words`. */
export const REGISTER = Object.fromEntries(ROWS.map(([name, row]) => [name, row[0] >>> 2])) as Record<RegisterName, number>;

const WORDS = REGISTER_SPACE >>> 2;
const CLEAR_NONE = 0;
const CLEAR_SELF = 1;
const CLEAR_PAIR = 2;
const onRead = new Uint8Array(WORDS);
const writable = new Uint32Array(WORDS);
const reset = new Uint32Array(WORDS);
for (const [, [offset, access, resetValue = 0, mask = 0xffff_ffff, count = 1]] of ROWS) {
  const index = offset >>> 2;
  reset.fill(resetValue, index, index + count);
  if (access === 'rw') writable.fill(mask, index, index + count);
  if (access === 'rc') onRead[index] = CLEAR_SELF;
  if (access === 'rc-high') onRead[index] = CLEAR_PAIR;
}
// Receive address high: address bits, select and valid (13.5.2).
for (let i = 1; i < 32; i += 2) writable[REGISTER.RA + i] = 0x8003_ffff;

/** The words of the register space and what happens on access. Indices are byte offset / 4, 0 <= index < 0x1800. */
export class RegisterFile {
  readonly words = new Uint32Array(WORDS);
  private readonly readers: (undefined | (() => number))[] = new Array(WORDS).fill(undefined);
  private readonly writers: (undefined | ((value: number) => void))[] = new Array(WORDS).fill(undefined);

  constructor() {
    this.reset();
  }

  /** The value of a read comes from `reader` instead of storage. */
  onRead(name: RegisterName, reader: () => number): void {
    this.readers[REGISTER[name]] = reader;
  }

  /** `writer` runs after the table's writable bits were stored, with the whole value that was written. */
  onWrite(name: RegisterName, writer: (value: number) => void): void {
    this.writers[REGISTER[name]] = writer;
  }

  read(index: number): number {
    const reader = this.readers[index];
    if (reader !== undefined) return reader();
    const value = this.words[index];
    const clear = onRead[index];
    if (clear !== CLEAR_NONE) {
      this.words[index] = 0;
      if (clear === CLEAR_PAIR) this.words[index - 1] = 0;
    }
    return value;
  }

  write(index: number, value: number): void {
    const mask = writable[index];
    this.words[index] = (this.words[index] & ~mask) | (value & mask);
    this.writers[index]?.(value);
  }

  reset(): void {
    this.words.set(reset);
  }

  /** [byte offset, value] of every register that is not zero. */
  save(): [number, number][] {
    const state: [number, number][] = [];
    this.words.forEach((value, index) => {
      if (value !== 0) state.push([index * 4, value]);
    });
    return state;
  }

  load(state: unknown): void {
    if (!Array.isArray(state) || state.length > WORDS) throw new Error('e1000: registers: expected a list of [offset, value]');
    const words = new Uint32Array(WORDS);
    for (const entry of state) {
      const [offset, value] = Array.isArray(entry) ? entry : [];
      if (!Number.isInteger(offset) || offset < 0 || offset >= REGISTER_SPACE || offset % 4 !== 0) {
        throw new Error(`e1000: registers: ${String(offset)} is no register offset`);
      }
      if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) {
        throw new Error(`e1000: registers: value at ${offset} is not 32 bits`);
      }
      words[offset >>> 2] = value;
    }
    this.words.set(words);
  }
}
