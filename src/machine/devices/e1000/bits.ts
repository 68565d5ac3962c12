/** Bits of the 82540EM's registers and descriptors that more than one file needs (8254x manual, sections as noted). */

/** Device control, 13.4.1. */
export const CTRL = { slu: 1 << 6, rst: 1 << 26, vme: 1 << 30, phyRst: 0x8000_0000 } as const;
/** Extended device control, 13.4.6. */
export const CTRL_EXT = { eeRst: 1 << 13 } as const;
/** Device status, 13.4.2: full duplex, link up, speed 1000 and the speed that was detected. */
export const STATUS = { fd: 1, lu: 2, txoff: 1 << 4, speed1000: 0x80, asdv1000: 0x200 } as const;

/** Interrupt causes, 13.4.17. */
export const CAUSE = {
  txdw: 1 << 0,
  txqe: 1 << 1,
  lsc: 1 << 2,
  rxseq: 1 << 3,
  rxdmt0: 1 << 4,
  rxo: 1 << 6,
  rxt0: 1 << 7,
  mdac: 1 << 9,
  phyint: 1 << 12,
  txdLow: 1 << 15,
  srpd: 1 << 16,
} as const;

/** Receive control, 13.4.22. */
export const RCTL = {
  en: 1 << 1,
  upe: 1 << 3,
  mpe: 1 << 4,
  lpe: 1 << 5,
  lbm: 3 << 6,
  rdmtsShift: 8,
  moShift: 12,
  bam: 1 << 15,
  bsizeShift: 16,
  vfe: 1 << 18,
  cfien: 1 << 19,
  cfi: 1 << 20,
  bsex: 1 << 25,
  secrc: 1 << 26,
} as const;
/** Receive checksum control, 13.5.1. */
export const RXCSUM = { pcss: 0xff, ipofl: 1 << 8, tuofl: 1 << 9 } as const;
/** Receive descriptor status and errors, 3.2.3.1 and 3.2.3.2. */
export const RXD = { dd: 1, eop: 2, ixsm: 4, vp: 8, tcpcs: 0x20, ipcs: 0x40, pif: 0x80 } as const;
export const RXE = { tcpe: 0x20, ipe: 0x40 } as const;

/** Transmit control, 13.4.33. */
export const TCTL = { en: 1 << 1, psp: 1 << 3 } as const;
/** Third word of a transmit descriptor, 3.3.3 to 3.3.7. Bit 26 is IC in legacy and TSE in data and context descriptors. */
export const TXD = {
  eop: 1 << 24,
  ifcs: 1 << 25,
  ic: 1 << 26,
  tse: 1 << 26,
  rs: 1 << 27,
  rps: 1 << 28,
  dext: 1 << 29,
  vle: 1 << 30,
  ide: 0x8000_0000,
  typeShift: 20,
  tucmdTcp: 1 << 24,
  tucmdIp: 1 << 25,
} as const;
/** Packet options of a data descriptor, 3.3.7.3. */
export const POPTS = { ixsm: 1, txsm: 2 } as const;

export const MINIMUM_FRAME = 60;
export const FCS = 4;
/** Largest frame the card sends or receives, without FCS (13.4.22, LPE: 16384 bytes with everything). */
export const MAXIMUM_FRAME = 16384 - FCS;
