/**
 * The receive unit: filters frames and hands them to the ring of the mode that is on. It has no queue of its own: a frame with no room is
 * refused and the back end keeps it. In C mode the driver says by CAPR that there is room again. In C+ mode it only writes memory, so the
 * card looks again when the driver unmasks interrupts, and from time to time.
 */
import type { Clock, Dma, Timer } from '../../ports.ts';
import { readState } from '../../state.ts';
import { CAUSE, COMMAND, FCS, MINIMUM_FRAME, PLUS, RECEIVE, RECEIVE_LIMIT, RECEIVE_TAG } from './bits.ts';
import { matchAddress } from './filter.ts';
import type { Interrupts } from './interrupts.ts';
import { checkReceived } from './offload.ts';
import { RingBuffer } from './receive-buffer.ts';
import { DescriptorRing, type Stored } from './receive-ring.ts';
import type { RegisterFile } from './registers.ts';
import type { Destination, Statistics } from './statistics.ts';

const TAG = 4;
/** The first look at a ring that had no room, and the longest pause between two (ns). */
const SOON = 50_000;
const SELDOM = 10_000_000;

export class Receiver {
  private readonly ring: DescriptorRing;
  private readonly buffer: RingBuffer;
  /** For frames that are padded or lose their tag. */
  private readonly scratch = new Uint8Array(RECEIVE_LIMIT);
  private refused = false;
  private pause = SOON;
  private readonly timer: Timer;

  /** `allowed` says whether the card may do DMA; `ready` tells the back end that a refused frame may come again. */
  constructor(
    private readonly registers: RegisterFile,
    dma: Dma,
    private readonly clock: Clock,
    private readonly interrupts: Interrupts,
    private readonly statistics: Statistics,
    private readonly allowed: () => boolean,
    private readonly ready: () => void,
  ) {
    this.ring = new DescriptorRing(registers, dma, statistics);
    this.buffer = new RingBuffer(registers, dma, statistics);
    this.timer = clock.timer(() => this.retry());
  }

  private get on(): boolean {
    return (this.registers.get('CR') & COMMAND.receive) !== 0 && this.allowed();
  }

  /** C+ mode. */
  private get plus(): boolean {
    return (this.registers.get('CPCR') & PLUS.receive) !== 0;
  }

  /** CR.BUFE. */
  get empty(): boolean {
    return this.buffer.empty;
  }

  /** Room was made, or the receiver was turned off and frames would be dropped: let the back end go on. */
  retry(): void {
    if (!this.refused) return;
    this.refused = false;
    this.timer.arm(Number.POSITIVE_INFINITY);
    this.ready();
  }

  /**
   * C mode: what is left in the buffer counts as received anew when the driver clears the cause. The driver of Linux clears it after each
   * frame and stops at a limit; on a wire the next frame would wake it, but here that may be one that waits for the driver.
   */
  remind(): void {
    if (this.on && !this.plus && !this.empty) this.interrupts.raise(CAUSE.receiveOk);
  }

  /** Both rings begin anew: the receiver was turned on, or the ring lies elsewhere. */
  restart(): void {
    this.ring.index = 0;
    this.buffer.reset();
    this.retry();
  }

  reset(): void {
    this.restart();
    this.pause = SOON;
  }

  /** False: no room now. A frame that the card does not want is taken and dropped. */
  receive(frame: Uint8Array): boolean {
    const { statistics } = this;
    if (!this.on || frame.length < 14) {
      statistics.totals.rxDropped++;
      return true;
    }
    const match = matchAddress(this.registers, frame);
    if (match === undefined) {
      statistics.totals.rxFiltered++;
      return true;
    }
    if (frame.length + FCS > RECEIVE_LIMIT) {
      statistics.totals.rxDropped++;
      statistics.count('rxError');
      return true;
    }
    const { destination, own } = match;
    const stored = this.plus ? this.storeInRing(frame, destination, own) : this.buffer.store(this.pad(frame), destination, own);
    if (stored === 'later') return this.refuse();
    if (stored === 'never') {
      statistics.miss();
      return true;
    }
    this.pause = SOON;
    statistics.received(frame.length, destination);
    this.interrupts.raise(CAUSE.receiveOk);
    return true;
  }

  /** The frame is not lost, so nothing overflows; in C+ mode the driver is told that it has no descriptor left. */
  private refuse(): false {
    if (this.refused) return false;
    this.refused = true;
    this.statistics.totals.rxStalls++;
    if (this.plus) {
      this.timer.arm(this.clock.now() + this.pause);
      this.pause = Math.min(this.pause * 2, SELDOM);
      this.interrupts.raise(CAUSE.receiveUnavailable);
    }
    return false;
  }

  private storeInRing(frame: Uint8Array, destination: Destination, own: boolean): Stored {
    const control = this.registers.get('CPCR');
    const tagged = (control & PLUS.vlan) !== 0 && frame.length >= 14 + TAG && frame[12] === 0x81 && frame[13] === 0x00;
    const checks = (control & PLUS.checksum) !== 0 ? checkReceived(frame) : 0;
    const address = destination === 'physical' ? (own ? RECEIVE.physical : 0) : RECEIVE[destination];
    // The tag stands in the descriptor as on the wire, first byte first.
    const tag = tagged ? RECEIVE_TAG | frame[14] | (frame[15] << 8) : 0;
    return this.ring.store(tagged ? this.strip(frame) : this.pad(frame), checks | address, tag);
  }

  /** The back end's bytes are not changed: it may offer them again, or to others. */
  private pad(frame: Uint8Array): Uint8Array {
    if (frame.length >= MINIMUM_FRAME) return frame;
    this.scratch.fill(0, frame.length, MINIMUM_FRAME).set(frame);
    return this.scratch.subarray(0, MINIMUM_FRAME);
  }

  private strip(frame: Uint8Array): Uint8Array {
    const { scratch } = this;
    const length = Math.max(frame.length - TAG, MINIMUM_FRAME);
    scratch.fill(0, frame.length - TAG, length);
    scratch.set(frame.subarray(0, 12));
    scratch.set(frame.subarray(12 + TAG), 12);
    return scratch.subarray(0, length);
  }

  save(): unknown {
    return { index: this.ring.index };
  }

  load(state: unknown): void {
    this.ring.index = readState('rtl8139 receive', state).number('index', 0, 63);
    this.pause = SOON;
    // The back end is another one after a restore; it may offer frames at once.
    this.refused = true;
  }
}
