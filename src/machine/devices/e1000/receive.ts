/**
 * The receive unit: filters frames, spreads them over descriptors, and reports checksums (8254x manual 3.2). It has no queue of its
 * own: a frame with no room is refused, and the back end is told when the driver has added buffers.
 */
import { checksumAdd, checksumFinish, checksumFold } from '../../../base/internet-checksum.ts';
import type { Clock, Dma } from '../../ports.ts';
import { CAUSE, CTRL, FCS, MAXIMUM_FRAME, MINIMUM_FRAME, RCTL, RXCSUM, RXD, RXE } from './bits.ts';
import { matchAddress, matchVlan } from './filter.ts';
import { DelayTimer, type Interrupts } from './interrupts.ts';
import { REGISTER, type RegisterFile } from './registers.ts';
import { isBroadcast } from '../network-card/network-card.ts';
import type { Statistics } from './statistics.ts';

const DESCRIPTOR = 16;
const TAG = 4;
/** Largest frame without long packet enable, with FCS: 1518 and a VLAN tag. */
const ORDINARY_FRAME = 1522;

export class Receiver {
  private readonly words: Uint32Array;
  private readonly descriptorBytes = new Uint8Array(DESCRIPTOR);
  private readonly descriptor = new Uint32Array(this.descriptorBytes.buffer);
  /** Second half of the descriptor, written in one piece so that length and status appear together. */
  private readonly written = this.descriptorBytes.subarray(8);
  /** For frames that are padded or lose their tag. */
  private readonly scratch = new Uint8Array(MAXIMUM_FRAME);
  private refused = false;
  readonly delay: DelayTimer;

  /** `allowed` says whether the card may do DMA; `ready` tells the back end that a refused frame may come again. */
  constructor(
    registers: RegisterFile,
    private readonly dma: Dma,
    clock: Clock,
    private readonly interrupts: Interrupts,
    private readonly statistics: Statistics,
    private readonly allowed: () => boolean,
    private readonly ready: () => void,
  ) {
    this.words = registers.words;
    this.delay = new DelayTimer(clock, () => interrupts.raise(CAUSE.rxt0));
  }

  /** Room was made, or the receiver was turned off and frames would be dropped: let the back end go on. */
  retry(): void {
    if (!this.refused) return;
    this.refused = false;
    this.ready();
  }

  reset(): void {
    this.delay.stop();
    this.retry();
  }

  /** False: no room now. A frame that the card does not want is taken and dropped. */
  receive(frame: Uint8Array): boolean {
    const { words, statistics } = this;
    const control = words[REGISTER.RCTL];
    if ((control & RCTL.en) === 0 || !this.allowed() || frame.length < 14 || frame.length > MAXIMUM_FRAME) return this.drop(frame.length);
    if ((control & RCTL.lpe) === 0 && frame.length + FCS > ORDINARY_FRAME) {
      statistics.bump(REGISTER.ROC);
      return this.drop(frame.length);
    }
    const match = matchAddress(words, frame);
    const tagged = frame.length >= 14 + TAG && ((frame[12] << 8) | frame[13]) === words[REGISTER.VET];
    const tag = tagged ? (frame[14] << 8) | frame[15] : 0;
    if (match === 'no' || (tagged && !matchVlan(words, tag))) {
      statistics.seen(frame.length);
      statistics.totals.rxFiltered++;
      return true;
    }
    const strip = tagged && (words[REGISTER.CTRL] & CTRL.vme) !== 0;
    const bare = this.prepare(frame, strip);
    const stored = this.store(bare, (strip ? RXD.vp : 0) | (match === 'inexact' ? RXD.pif : 0), strip ? tag : 0);
    if (stored === 'later') return false;
    if (stored === 'never') return this.drop(frame.length);
    statistics.seen(frame.length);
    statistics.received(frame.length, frame[0], isBroadcast(frame));
    this.announce(bare.length);
    return true;
  }

  /** RDTR: writing bit 31 flushes a waiting interrupt (13.4.30). */
  flush(value: number): void {
    if ((value & 0x8000_0000) !== 0) this.delay.flush();
  }

  private drop(length: number): true {
    this.statistics.seen(length);
    this.statistics.totals.rxDropped++;
    return true;
  }

  /** The frame as it goes to memory. The back end's bytes are not changed: it may offer them again, or to others. */
  private prepare(frame: Uint8Array, strip: boolean): Uint8Array {
    const length = frame.length - (strip ? TAG : 0);
    if (!strip && length >= MINIMUM_FRAME) return frame;
    const { scratch } = this;
    if (strip) {
      scratch.set(frame.subarray(0, 12));
      scratch.set(frame.subarray(12 + TAG), 12);
    } else {
      scratch.set(frame);
    }
    if (length < MINIMUM_FRAME) scratch.fill(0, length, MINIMUM_FRAME);
    return scratch.subarray(0, Math.max(length, MINIMUM_FRAME));
  }

  private get bufferSize(): number {
    const control = this.words[REGISTER.RCTL];
    const size = (control >>> RCTL.bsizeShift) & 3;
    // 2048, 1024, 512, 256; extended: reserved, 16384, 8192, 4096 (13.4.22).
    return (control & RCTL.bsex) !== 0 && size !== 0 ? 32768 >>> size : 2048 >>> size;
  }

  private store(frame: Uint8Array, status: number, tag: number): 'stored' | 'later' | 'never' {
    const { words } = this;
    const count = words[REGISTER.RDLEN] >>> 4;
    const tail = words[REGISTER.RDT];
    let head = words[REGISTER.RDH];
    const size = this.bufferSize;
    const total = frame.length + ((words[REGISTER.RCTL] & RCTL.secrc) !== 0 ? 0 : FCS);
    const needed = Math.ceil(total / size);
    if (head >= count || tail >= count || needed >= count) {
      this.statistics.totals.badRings++;
      return 'never';
    }
    if ((tail - head + count) % count < needed) {
      if (!this.refused) {
        this.refused = true;
        this.statistics.totals.rxStalls++;
        this.statistics.bump(REGISTER.RNBC);
      }
      return 'later';
    }
    const base = words[REGISTER.RDBAH] * 0x1_0000_0000 + words[REGISTER.RDBAL];
    for (let at = 0; at < total; at += size) {
      const address = base + head * DESCRIPTOR;
      if (!this.dma.read(address, this.descriptorBytes)) {
        this.statistics.totals.badDescriptors++;
        return 'never';
      }
      const buffer = this.descriptor[1] * 0x1_0000_0000 + this.descriptor[0];
      // The FCS counts in the length, but its bytes are left as they are.
      if (at < frame.length) this.dma.write(buffer, at === 0 && frame.length <= size ? frame : frame.subarray(at, at + size));
      this.finish(frame, Math.min(size, total - at), at + size >= total, status, tag);
      this.dma.write(address + 8, this.written);
      head = head + 1 === count ? 0 : head + 1;
    }
    words[REGISTER.RDH] = head;
    const threshold = count >>> (1 + ((words[REGISTER.RCTL] >>> RCTL.rdmtsShift) & 3));
    if ((tail - head + count) % count === threshold) this.interrupts.raise(CAUSE.rxdmt0);
    return 'stored';
  }

  /** Length and packet checksum, then status, errors and tag (3.2.3). */
  private finish(frame: Uint8Array, length: number, last: boolean, status: number, tag: number): void {
    if (!last) {
      this.descriptor[2] = length;
      this.descriptor[3] = RXD.dd;
      return;
    }
    const start = this.words[REGISTER.RXCSUM] & RXCSUM.pcss;
    // Without PCSS nobody uses the packet checksum, and summing every byte twice would cost as much as the copy.
    const sum = start === 0 ? 0 : checksumFinish(checksumAdd(0, frame, start, frame.length));
    const verdict = checkSums(frame, this.words[REGISTER.RXCSUM]);
    this.descriptor[2] = (length | (sum << 16)) >>> 0;
    this.descriptor[3] = (RXD.dd | RXD.eop | status | verdict | (tag << 16)) >>> 0;
  }

  private announce(length: number): void {
    const { words } = this;
    if (words[REGISTER.RSRPD] !== 0 && length <= words[REGISTER.RSRPD]) this.interrupts.raise(CAUSE.srpd);
    if (words[REGISTER.RDTR] === 0) this.interrupts.raise(CAUSE.rxt0);
    else this.delay.start(words[REGISTER.RDTR], words[REGISTER.RADV]);
  }

  save(): unknown {
    return { refused: this.refused, delay: this.delay.save() };
  }

  load(state: unknown): void {
    const fields = state as { refused?: unknown; delay?: unknown };
    if (typeof fields?.delay !== 'number') throw new Error('e1000: receive.delay: expected a number');
    this.delay.load(fields.delay);
    // The back end is another one after a restore; it may offer frames at once.
    this.refused = true;
  }
}

/** Status bits, and error bits shifted by eight, for the checksums that the card is asked to check (3.2.9). */
function checkSums(frame: Uint8Array, control: number): number {
  const ipOffload = (control & RXCSUM.ipofl) !== 0;
  const payloadOffload = (control & RXCSUM.tuofl) !== 0;
  if (!ipOffload && !payloadOffload) return RXD.ixsm;
  // Ethernet II with IPv4, whole header present.
  if (frame.length < 34 || frame[12] !== 0x08 || frame[13] !== 0x00 || frame[14] >>> 4 !== 4) return RXD.ixsm;
  const start = 14 + (frame[14] & 15) * 4;
  const end = 14 + ((frame[16] << 8) | frame[17]);
  if (start < 34 || start > end || end > frame.length) return RXD.ixsm;
  let verdict = 0;
  if (ipOffload) {
    verdict |= RXD.ipcs;
    if (checksumFold(checksumAdd(0, frame, 14, start)) !== 0xffff) verdict |= RXE.ipe << 8;
  }
  const fragment = (frame[20] & 0x3f) !== 0 || frame[21] !== 0;
  const protocol = frame[23];
  if (payloadOffload && !fragment && (protocol === 6 || protocol === 17)) {
    // A UDP sum of zero means that the sender made none.
    if (protocol === 17 && start + 8 <= end && frame[start + 6] === 0 && frame[start + 7] === 0) return verdict === 0 ? RXD.ixsm : verdict;
    verdict |= RXD.tcpcs;
    const pseudo = checksumAdd(protocol + end - start, frame, 26, 34);
    if (checksumFold(checksumAdd(pseudo, frame, start, end)) !== 0xffff) verdict |= RXE.tcpe << 8;
  }
  return verdict === 0 ? RXD.ixsm : verdict;
}
