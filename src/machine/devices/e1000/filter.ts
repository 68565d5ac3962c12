/** Which frames the card takes: station addresses, multicast hash, VLAN table (8254x manual 3.2.1, 13.5.1 to 13.5.3, 9.4). */
import { RCTL } from './bits.ts';
import { REGISTER } from './registers.ts';
import { isBroadcast } from '../network-card/network-card.ts';

const RAH_VALID = 0x8000_0000;
/** Which twelve bits of the last two address bytes index the multicast table, by RCTL.MO. */
const HASH_SHIFT = [4, 3, 2, 0] as const;

/** exact: by address, broadcast or promiscuity; inexact: by the multicast hash (sets PIF); no: not for this card. */
export type Match = 'exact' | 'inexact' | 'no';

export function matchAddress(words: Uint32Array, frame: Uint8Array): Match {
  const control = words[REGISTER.RCTL];
  if (isBroadcast(frame)) return (control & RCTL.bam) !== 0 ? 'exact' : matchExact(words, frame);
  const multicast = (frame[0] & 1) !== 0;
  if (multicast ? (control & RCTL.mpe) !== 0 : (control & RCTL.upe) !== 0) return 'exact';
  if (multicast && matchHash(words, frame, (control >>> RCTL.moShift) & 3)) return 'inexact';
  return matchExact(words, frame);
}

function matchExact(words: Uint32Array, frame: Uint8Array): Match {
  const low = (frame[0] | (frame[1] << 8) | (frame[2] << 16) | (frame[3] << 24)) >>> 0;
  const high = (RAH_VALID | (frame[5] << 8) | frame[4]) >>> 0;
  for (let i = REGISTER.RA; i < REGISTER.RA + 32; i += 2) {
    // The two address-select bits of RAH do not take part.
    if (words[i] === low && (words[i + 1] & 0x8000_ffff) >>> 0 === high) return 'exact';
  }
  return 'no';
}

function matchHash(words: Uint32Array, frame: Uint8Array, offset: number): boolean {
  const hash = (((frame[5] << 8) | frame[4]) >>> HASH_SHIFT[offset]) & 0xfff;
  return ((words[REGISTER.MTA + (hash >>> 5)] >>> (hash & 31)) & 1) !== 0;
}

/** For a tagged frame with tag control `tag`: does the VLAN filter let it in? */
export function matchVlan(words: Uint32Array, tag: number): boolean {
  const control = words[REGISTER.RCTL];
  if ((control & RCTL.vfe) === 0) return true;
  const id = tag & 0xfff;
  if (((words[REGISTER.VFTA + (id >>> 5)] >>> (id & 31)) & 1) === 0) return false;
  return (control & RCTL.cfien) === 0 || ((control & RCTL.cfi) !== 0) === ((tag & 0x1000) !== 0);
}
