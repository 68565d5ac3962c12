/**
 * Contents of the 93C46 beside the chip (data sheet 7): the signature, PCI identification and station address, of which the chip loads the
 * address at power-up and on "auto-load". Words that mean nothing here are 0.
 */
import { MICROWIRE_WORDS } from '../microwire.ts';

/** Says to the chip, and to drivers, that the EEPROM is programmed. */
const SIGNATURE = 0x8129;
/** First word of the station address. */
export const ADDRESS_WORD = 7;

export interface Identity {
  readonly vendor: number;
  readonly device: number;
  readonly subsystemVendor: number;
  readonly subsystem: number;
}

export function eepromContents(mac: Uint8Array, { vendor, device, subsystemVendor, subsystem }: Identity): Uint16Array {
  const words = new Uint16Array(MICROWIRE_WORDS);
  words.set([SIGNATURE, vendor, device, subsystemVendor, subsystem]);
  for (let i = 0; i < 3; i++) words[ADDRESS_WORD + i] = mac[2 * i] | (mac[2 * i + 1] << 8);
  return words;
}
