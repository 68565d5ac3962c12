/**
 * Bits of the RTL8139C+'s registers and descriptors that more than one file needs. Sections are those of Realtek's RTL8139C(L)+ data sheet
 * 1.6: chapter 6, registers by offset; chapter 9, C+ descriptors.
 */

/** Command, offset 0x37. */
export const COMMAND = { bufferEmpty: 0x01, transmit: 0x04, receive: 0x08, reset: 0x10 } as const;

/** Interrupt mask and status, offsets 0x3c and 0x3e. */
export const CAUSE = {
  receiveOk: 1 << 0,
  receiveError: 1 << 1,
  transmitOk: 1 << 2,
  transmitError: 1 << 3,
  receiveUnavailable: 1 << 4,
  linkChange: 1 << 5,
  fifoOverflow: 1 << 6,
  transmitUnavailable: 1 << 7,
  software: 1 << 8,
  cableLength: 1 << 13,
  timeout: 1 << 14,
  systemError: 1 << 15,
} as const;

/** Transmit configuration, offset 0x40. */
export const TRANSMIT_CONFIG = { loopback: 3 << 17 } as const;

/** Receive configuration, offset 0x44. */
export const RECEIVE_CONFIG = {
  allPhysical: 1 << 0,
  physical: 1 << 1,
  multicast: 1 << 2,
  broadcast: 1 << 3,
  noWrap: 1 << 7,
  lengthShift: 11,
} as const;

/** EEPROM command, offset 0x50: operating mode in bits 7 and 6, pins below. */
export const EEPROM = { mode: 0xc0, autoLoad: 0x40, program: 0x80, unlock: 0xc0, select: 8, clock: 4, dataIn: 2, dataOut: 1 } as const;

/** C+ command, offset 0xe0. */
export const PLUS = { transmit: 1 << 0, receive: 1 << 1, checksum: 1 << 5, vlan: 1 << 6 } as const;

/** Transmit priority polling, offset 0xd9. */
export const POLL = { high: 0x80, normal: 0x40, software: 0x01 } as const;

/** Transmit status of a C mode descriptor, offsets 0x10 to 0x1c. */
export const STATUS = { size: 0x1fff, own: 1 << 13, ok: 1 << 15, aborted: 1 << 30 } as const;

/** First word of a C+ descriptor, either way (9.1, 9.2). */
export const DESCRIPTOR = { own: 0x8000_0000, end: 1 << 30, first: 1 << 29, last: 1 << 28 } as const;
/** First word of a transmit descriptor: command before, status after sending (9.1). */
export const TRANSMIT = {
  largeSend: 1 << 27,
  segmentShift: 16,
  segmentMask: 0x7ff,
  ipChecksum: 1 << 18,
  udpChecksum: 1 << 17,
  tcpChecksum: 1 << 16,
  length: 0xffff,
  /** What a finished descriptor keeps. */
  kept: 0x7000_ffff,
  error: 1 << 23,
} as const;
/** Second word of a transmit descriptor: insert the tag in bits 0 to 15. */
export const TRANSMIT_TAG = 1 << 17;
/** First word of a receive descriptor: buffer size before, status after receiving (9.2). */
export const RECEIVE = {
  size: 0x1fff,
  multicast: 1 << 26,
  physical: 1 << 25,
  broadcast: 1 << 24,
  protocolShift: 16,
  ipFailed: 1 << 15,
  udpFailed: 1 << 14,
  tcpFailed: 1 << 13,
} as const;
/** Second word of a receive descriptor: a tag was taken out. */
export const RECEIVE_TAG = 1 << 16;

export const DESCRIPTOR_SIZE = 16;
/** A ring has at most this many descriptors, whether one says "end of ring" or not (9). */
export const RING_LIMIT = 64;
export const MINIMUM_FRAME = 60;
export const FCS = 4;
/** Largest frame that is received, with FCS (9.2, receive watchdog). */
export const RECEIVE_LIMIT = 4096;
/** Largest frame that is sent, without FCS: what a receiver of the same kind could count (13 bits of length). */
export const TRANSMIT_LIMIT = 0x1fff - FCS;
