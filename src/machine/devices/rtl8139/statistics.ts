/** The card's packet counters, and the block of tally counters that it writes to memory when asked (data sheet 6, DTCCR). */
import { createTotals } from '../network-card/network-card.ts';
import { readState } from '../../state.ts';

export const TALLY_SIZE = 64;
/** Tally counters that a virtual card ever counts: [name, offset, bytes]. Collisions, alignment and underrun errors do not happen here. */
const TALLIES = [
  ['txOk', 0, 8],
  ['rxOk', 8, 8],
  ['txError', 16, 8],
  ['rxError', 24, 4],
  ['rxMissed', 28, 2],
  ['rxOkPhysical', 40, 8],
  ['rxOkBroadcast', 48, 8],
  ['rxOkMulticast', 56, 4],
  ['txAborted', 60, 2],
] as const;
export type Tally = (typeof TALLIES)[number][0];

export type Destination = 'physical' | 'broadcast' | 'multicast';

export class Statistics {
  readonly totals = createTotals();
  /** Since power-up. */
  private readonly tallies = Object.fromEntries(TALLIES.map(([name]) => [name, 0])) as Record<Tally, number>;
  /** MPC: 24 bits, cleared by a write. */
  missed = 0;

  count(name: Tally): void {
    this.tallies[name]++;
  }

  received(length: number, destination: Destination): void {
    this.totals.rxFrames++;
    this.totals.rxBytes += length;
    this.count('rxOk');
    this.count(destination === 'physical' ? 'rxOkPhysical' : destination === 'broadcast' ? 'rxOkBroadcast' : 'rxOkMulticast');
  }

  transmitted(length: number): void {
    this.totals.txFrames++;
    this.totals.txBytes += length;
  }

  /** A frame for this card that found no place. */
  miss(): void {
    this.totals.rxDropped++;
    this.missed = (this.missed + 1) & 0xff_ffff;
    this.count('rxMissed');
    this.count('rxError');
  }

  /** The block as it goes to memory; counters wrap at their width. */
  dump(): Uint8Array {
    const block = new Uint8Array(TALLY_SIZE);
    for (const [name, offset, bytes] of TALLIES) {
      let value = this.tallies[name];
      for (let i = 0; i < bytes; i++) {
        block[offset + i] = value % 256;
        value = Math.floor(value / 256);
      }
    }
    return block;
  }

  reset(): void {
    for (const [name] of TALLIES) this.tallies[name] = 0;
    this.missed = 0;
  }

  save(): unknown {
    return { ...this.tallies, missed: this.missed };
  }

  load(state: unknown): void {
    const from = readState('rtl8139 statistics', state);
    for (const [name] of TALLIES) this.tallies[name] = from.number(name, 0, Number.MAX_SAFE_INTEGER);
    this.missed = from.number('missed', 0, 0xff_ffff);
  }
}
