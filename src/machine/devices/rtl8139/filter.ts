/** Which frames the card takes (data sheet 6, RCR and MAR). */
import { isBroadcast } from '../network-card/network-card.ts';
import { RECEIVE_CONFIG } from './bits.ts';
import { OFFSET, type RegisterFile } from './registers.ts';
import type { Destination } from './statistics.ts';

/** What the frame's destination matched, or undefined for a frame that is not for this card. */
export function matchAddress(registers: RegisterFile, frame: Uint8Array): { destination: Destination; own: boolean } | undefined {
  const { bytes } = registers;
  const config = registers.get('RCR');
  if ((frame[0] & 1) === 0) {
    let own = true;
    for (let i = 0; i < 6; i++) if (frame[i] !== bytes[OFFSET.IDR0 + i]) own = false;
    const wanted = (config & RECEIVE_CONFIG.allPhysical) !== 0 || (own && (config & RECEIVE_CONFIG.physical) !== 0);
    return wanted ? { destination: 'physical', own } : undefined;
  }
  if (isBroadcast(frame)) {
    return (config & RECEIVE_CONFIG.broadcast) !== 0 ? { destination: 'broadcast', own: false } : undefined;
  }
  if ((config & RECEIVE_CONFIG.multicast) === 0) return undefined;
  const hash = multicastHash(frame);
  return (bytes[OFFSET.MAR0 + (hash >>> 3)] >>> (hash & 7)) & 1 ? { destination: 'multicast', own: false } : undefined;
}

/** The six most significant bits of the Ethernet CRC of the destination, most significant bit first, not inverted. */
export function multicastHash(frame: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (let i = 0; i < 6; i++) {
    for (let bit = 0; bit < 8; bit++) {
      const carry = (crc >>> 31) ^ ((frame[i] >>> bit) & 1);
      crc = (crc << 1) ^ (carry !== 0 ? 0x04c1_1db7 : 0);
    }
  }
  return crc >>> 26;
}
