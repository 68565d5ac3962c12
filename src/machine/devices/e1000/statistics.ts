/** The card's packet counters (8254x manual 13.7): 32-bit counters stick at their maximum, octet pairs are 64 bits wide. */
import { createTotals } from '../network-card/network-card.ts';
import { FCS } from './bits.ts';
import { REGISTER } from './registers.ts';

/** Upper limits of the size classes of PRC64.. and PTC64.., with FCS; the last class has no limit. */
const CLASSES = [64, 127, 255, 511, 1023] as const;

export class Statistics {
  readonly totals = createTotals();

  constructor(private readonly words: Uint32Array) {}

  bump(index: number): void {
    if (this.words[index] !== 0xffff_ffff) this.words[index]++;
  }

  /** A frame of `length` bytes without FCS that went into memory. `first` is the first byte of its destination. */
  received(length: number, first: number, broadcast: boolean): void {
    this.totals.rxFrames++;
    this.totals.rxBytes += length;
    this.bump(REGISTER.PRC64 + sizeClass(length + FCS));
    this.bump(REGISTER.GPRC);
    if (broadcast) this.bump(REGISTER.BPRC);
    else if ((first & 1) !== 0) this.bump(REGISTER.MPRC);
    this.addPair(REGISTER.GORCL, length + FCS);
  }

  /** Any frame that reached the card, accepted or not. */
  seen(length: number): void {
    this.bump(REGISTER.TPR);
    this.addPair(REGISTER.TORL, length + FCS);
  }

  transmitted(length: number, first: number, broadcast: boolean): void {
    this.totals.txFrames++;
    this.totals.txBytes += length;
    this.bump(REGISTER.PTC64 + sizeClass(length + FCS));
    this.bump(REGISTER.GPTC);
    this.bump(REGISTER.TPT);
    if (broadcast) this.bump(REGISTER.BPTC);
    else if ((first & 1) !== 0) this.bump(REGISTER.MPTC);
    this.addPair(REGISTER.GOTCL, length + FCS);
    this.addPair(REGISTER.TOTL, length + FCS);
  }

  private addPair(low: number, amount: number): void {
    const sum = this.words[low] + amount;
    this.words[low] = sum;
    if (sum > 0xffff_ffff) this.words[low + 1]++;
  }
}

function sizeClass(size: number): number {
  let index = 0;
  while (index < CLASSES.length && size > CLASSES[index]) index++;
  return index;
}
