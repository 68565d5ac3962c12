/** What network cards of all models have in common: what they get, what they are to the machine, and what they count. */
import type { Log } from '../../../base/log.ts';
import type { Clock, Dma, IrqLine, NetworkBackend, PciFunction, Stateful } from '../../ports.ts';

export interface NetworkCardPorts {
  irq: IrqLine;
  dma: Dma;
  clock: Clock;
  log: Log;
}

export interface NetworkCardOptions {
  /** Station address, six bytes, not multicast. */
  mac: Uint8Array;
  backend: NetworkBackend;
}

export interface NetworkCard extends PciFunction, Stateful {
  /** Counters since the VM started, by name. */
  statistics(): Record<string, number>;
  /** Plugs the cable in or out. */
  setLink(up: boolean): void;
}

/** PCI class "network controller, Ethernet" (PCI Local Bus 3.0, appendix D). */
export const ETHERNET_CLASS = 0x02_0000;

/** Throws RangeError when `mac` is not a unicast address of six bytes. */
export function checkStationAddress(card: string, mac: Uint8Array): void {
  if (mac.length !== 6 || (mac[0] & 1) !== 0) throw new RangeError(`${card}: mac must be six bytes and not multicast`);
}

/** Whole numbers since the VM started, never cleared by the guest. */
export const createTotals = () => ({
  rxFrames: 0,
  rxBytes: 0,
  rxFiltered: 0,
  rxDropped: 0,
  rxStalls: 0,
  txFrames: 0,
  txBytes: 0,
  txDropped: 0,
  badDescriptors: 0,
  badRings: 0,
});

/** True for a frame to everybody. */
export function isBroadcast(frame: Uint8Array): boolean {
  return (frame[0] & frame[1] & frame[2] & frame[3] & frame[4] & frame[5]) === 0xff;
}
