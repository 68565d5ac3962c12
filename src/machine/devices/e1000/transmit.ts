/**
 * The transmit unit: walks the descriptor ring, gathers frames, inserts checksums and VLAN tags, and cuts TCP segments
 * (8254x manual 3.3 to 3.5). Descriptors are hostile: lengths, offsets and addresses may be anything. Work is bounded by
 * `WORK` for each doorbell, the rest goes on from a timer, so that a vast ring cannot hold the machine.
 */
import { checksumAdd, checksumFinish } from '../../../base/internet-checksum.ts';
import type { Clock, Dma, Timer } from '../../ports.ts';
import { CAUSE, CTRL, MAXIMUM_FRAME, MINIMUM_FRAME, POPTS, TCTL, TXD } from './bits.ts';
import { DelayTimer, type Interrupts } from './interrupts.ts';
import { REGISTER, type RegisterFile } from './registers.ts';
import { isBroadcast } from '../network-card/network-card.ts';
import type { Statistics } from './statistics.ts';

/** Descriptors and frames handled before the guest gets its turn again, and how long it gets (ns). */
const WORK = 1024;
const PAUSE = 10_000;
/** Segments cut from one packet: 64 KiB in segments of 64 bytes. */
const MAXIMUM_SEGMENTS = 1024;
/** Only IPv4 and IPv6 headers with TCP or UDP fit a segmentation context; HDRLEN has 8 bits (3.5.5). */
const MAXIMUM_HEADER = 255;
const DESCRIPTOR = 16;

/** Offsets for the checksum unit: start, where to insert, last byte (0 = end of the packet). */
interface ChecksumRange {
  start: number;
  insert: number;
  end: number;
}
/** A context descriptor (3.3.6). The card keeps one for segmentation and one for plain offload. */
interface Context {
  ip: ChecksumRange;
  payload: ChecksumRange;
  headerLength: number;
  mss: number;
  tcp: boolean;
  ipv4: boolean;
}

const emptyContext = (): Context => ({
  ip: { start: 0, insert: 0, end: 0 },
  payload: { start: 0, insert: 0, end: 0 },
  headerLength: 0,
  mss: 0,
  tcp: false,
  ipv4: false,
});

export class Transmitter {
  private readonly words: Uint32Array;
  private readonly descriptorBytes = new Uint8Array(DESCRIPTOR);
  private readonly descriptor = new Uint32Array(this.descriptorBytes.buffer);
  private readonly status = new Uint8Array(4);
  /** The frame being gathered; for segmentation, the header and the payload of one segment. */
  private readonly buffer = new Uint8Array(MAXIMUM_FRAME);
  private readonly header = new Uint8Array(MAXIMUM_HEADER);
  private size = 0;
  private segments = 0;
  /** A packet is under way: the first of its data descriptors was seen. */
  private started = false;
  /** The packet under way is malformed: skip to its end. */
  private discard = false;
  private segmenting = false;
  private options = 0;
  /** VLAN tag control to insert, or -1. */
  private tag = -1;
  private plain = emptyContext();
  private segmentation = emptyContext();
  private running = false;
  private readonly continuation: Timer;
  readonly delay: DelayTimer;

  /** `emit` takes a finished frame; `allowed` says whether the card may do DMA. */
  constructor(
    registers: RegisterFile,
    private readonly dma: Dma,
    private readonly clock: Clock,
    private readonly interrupts: Interrupts,
    private readonly statistics: Statistics,
    private readonly allowed: () => boolean,
    private readonly emit: (frame: Uint8Array) => void,
  ) {
    this.words = registers.words;
    this.continuation = clock.timer(() => this.run());
    this.delay = new DelayTimer(clock, () => interrupts.raise(CAUSE.txdw));
  }

  reset(): void {
    this.endPacket();
    this.options = 0;
    this.header.fill(0);
    this.plain = emptyContext();
    this.segmentation = emptyContext();
    this.delay.stop();
    this.continuation.arm(Number.POSITIVE_INFINITY);
  }

  /** Sends what lies between head and tail. Called when the tail moves and when something that held it back goes away. */
  run(): void {
    if (this.running) return;
    this.running = true;
    try {
      this.drain();
    } finally {
      this.running = false;
    }
  }

  private drain(): void {
    const { words } = this;
    let causes = 0;
    let delayed = false;
    let work = WORK;
    const { totals } = this.statistics;
    while (this.allowed() && (words[REGISTER.TCTL] & TCTL.en) !== 0 && words[REGISTER.TDH] !== words[REGISTER.TDT]) {
      const count = words[REGISTER.TDLEN] >>> 4;
      const head = words[REGISTER.TDH];
      if (head >= count || words[REGISTER.TDT] >= count) {
        totals.badRings++;
        break;
      }
      if (work <= 0) {
        this.continuation.arm(this.clock.now() + PAUSE);
        break;
      }
      const framesBefore = totals.txFrames;
      const address = words[REGISTER.TDBAH] * 0x1_0000_0000 + words[REGISTER.TDBAL] + head * DESCRIPTOR;
      if (!this.dma.read(address, this.descriptorBytes)) {
        // A master abort: the card cannot know what was asked. The ring stays as it is until the driver resets or moves the tail.
        totals.badDescriptors++;
        break;
      }
      const command = this.descriptor[2];
      this.perform(command, this.descriptor[3]);
      if ((command & (TXD.rs | TXD.rps)) !== 0) {
        this.writeBack(address);
        if ((command & TXD.ide) !== 0 && words[REGISTER.TIDV] !== 0) delayed = true;
        else causes |= CAUSE.txdw;
      }
      words[REGISTER.TDH] = head + 1 === count ? 0 : head + 1;
      if (words[REGISTER.TDH] === words[REGISTER.TDT]) causes |= CAUSE.txqe;
      work -= 1 + totals.txFrames - framesBefore;
    }
    if ((causes & CAUSE.txdw) !== 0) this.delay.stop();
    else if (delayed) this.delay.start(words[REGISTER.TIDV], words[REGISTER.TADV]);
    if (causes !== 0) this.interrupts.raise(causes);
  }

  /** Sets descriptor done in the status byte and leaves the rest of that word (3.3.3.2). */
  private writeBack(address: number): void {
    this.status.set(this.descriptorBytes.subarray(12));
    this.status[0] = (this.status[0] & 0xf0) | 1;
    this.dma.write(address + 12, this.status);
  }

  private perform(command: number, upper: number): void {
    if ((command & TXD.dext) === 0) {
      this.gatherLegacy(command, upper);
      return;
    }
    const type = (command >>> TXD.typeShift) & 15;
    if (type === 0) this.setContext(command, upper);
    else if (type === 1) this.gatherData(command, upper);
    else this.statistics.totals.badDescriptors++;
  }

  private setContext(command: number, upper: number): void {
    const [ip, payload] = this.descriptor;
    const context: Context = {
      ip: { start: ip & 0xff, insert: (ip >>> 8) & 0xff, end: ip >>> 16 },
      payload: { start: payload & 0xff, insert: (payload >>> 8) & 0xff, end: payload >>> 16 },
      headerLength: (upper >>> 8) & 0xff,
      mss: upper >>> 16,
      tcp: (command & TXD.tucmdTcp) !== 0,
      ipv4: (command & TXD.tucmdIp) !== 0,
    };
    if ((command & TXD.tse) !== 0) this.segmentation = context;
    else this.plain = context;
  }

  private gatherLegacy(command: number, upper: number): void {
    if (!this.started) this.startPacket(false, 0);
    this.gather(command & 0xffff);
    this.takeTag(command, upper);
    if ((command & TXD.eop) === 0) return;
    if (!this.discard && (command & TXD.ic) !== 0) {
      this.insertChecksum({ start: (upper >>> 8) & 0xff, insert: (command >>> 16) & 0xff, end: 0 }, false);
    }
    this.finishPacket();
  }

  private gatherData(command: number, upper: number): void {
    if (!this.started) this.startPacket((command & TXD.tse) !== 0, (upper >>> 8) & 0xff);
    const length = command & 0xf_ffff;
    if (this.segmenting) this.gatherSegments(length);
    else this.gather(length);
    this.takeTag(command, upper);
    if ((command & TXD.eop) !== 0) this.finishPacket();
  }

  private startPacket(segmenting: boolean, options: number): void {
    this.started = true;
    this.segmenting = segmenting;
    this.options = options;
    if (!segmenting) return;
    const { headerLength, mss, payload, ip, tcp } = this.segmentation;
    const reach = Math.max(payload.start + (tcp ? 14 : 6), ip.start + 6);
    if (mss === 0 || headerLength < 14 || reach > headerLength || headerLength + mss > MAXIMUM_FRAME) this.discard = true;
  }

  private takeTag(command: number, upper: number): void {
    if ((command & TXD.vle) !== 0 && (this.words[REGISTER.CTRL] & CTRL.vme) !== 0) this.tag = upper >>> 16;
  }

  private get bufferAddress(): number {
    return this.descriptor[1] * 0x1_0000_0000 + this.descriptor[0];
  }

  private gather(length: number): void {
    if (this.discard || length === 0) return;
    if (this.size + length > MAXIMUM_FRAME) this.discard = true;
    else this.fetch(this.bufferAddress, length);
  }

  /** Fills segment after segment; a full one leaves when more payload follows, since the last differs in its flags. */
  private gatherSegments(length: number): void {
    const { headerLength, mss } = this.segmentation;
    const full = headerLength + mss;
    let address = this.bufferAddress;
    let left = length;
    while (left > 0 && !this.discard) {
      if (this.size === full) this.emitSegment(false);
      // A context that changed within the packet can leave the buffer fuller than a segment.
      const part = Math.min(full - this.size, left);
      if (part <= 0 || this.segments >= MAXIMUM_SEGMENTS || full > MAXIMUM_FRAME) {
        this.discard = true;
        return;
      }
      const before = this.size;
      this.fetch(address, part);
      if (before < headerLength && this.size >= headerLength) this.header.set(this.buffer.subarray(0, headerLength));
      address += part;
      left -= part;
    }
  }

  private fetch(address: number, length: number): void {
    if (!this.dma.read(address, this.buffer.subarray(this.size, this.size + length))) this.discard = true;
    this.size += length;
  }

  private finishPacket(): void {
    if (this.discard) this.statistics.totals.txDropped++;
    else if (this.segmenting) this.finishSegments();
    else {
      this.insertOffload(this.plain);
      this.send();
    }
    this.endPacket();
  }

  private finishSegments(): void {
    if (this.size < this.segmentation.headerLength) {
      this.statistics.totals.txDropped++;
      return;
    }
    this.emitSegment(true);
    this.statistics.bump(REGISTER.TSCTC);
  }

  private endPacket(): void {
    this.size = 0;
    this.segments = 0;
    this.started = false;
    this.discard = false;
    this.segmenting = false;
    this.tag = -1;
  }

  /** Makes the headers those of this segment (3.5.7 to 3.5.9), sends it, and puts the template back for the next. */
  private emitSegment(last: boolean): void {
    const { buffer, segmentation } = this;
    const { ip, payload, headerLength, mss, tcp, ipv4 } = segmentation;
    if (ipv4) {
      put16(buffer, ip.start + 2, this.size - ip.start);
      put16(buffer, ip.start + 4, get16(buffer, ip.start + 4) + this.segments);
    } else {
      put16(buffer, ip.start + 4, this.size - ip.start - 40);
    }
    const length = this.size - payload.start;
    if (tcp) {
      const sequence = get16(buffer, payload.start + 4) * 0x10000 + get16(buffer, payload.start + 6) + this.segments * mss;
      put16(buffer, payload.start + 4, Math.floor(sequence / 0x10000));
      put16(buffer, payload.start + 6, sequence);
      if (!last) buffer[payload.start + 13] &= ~0x09; // FIN and PSH belong to the last segment
    } else {
      put16(buffer, payload.start + 4, length);
    }
    if ((this.options & POPTS.txsm) !== 0 && payload.insert + 2 <= headerLength) {
      // The driver left the pseudo header's sum without the length there.
      const sum = get16(buffer, payload.insert) + length;
      put16(buffer, payload.insert, (sum & 0xffff) + (sum >>> 16));
    }
    this.insertOffload(segmentation);
    this.send();
    this.segments++;
    buffer.set(this.header.subarray(0, headerLength));
    this.size = headerLength;
  }

  private insertOffload(context: Context): void {
    if ((this.options & POPTS.txsm) !== 0) this.insertChecksum(context.payload, !context.tcp);
    if ((this.options & POPTS.ixsm) !== 0) this.insertChecksum(context.ip, false);
  }

  /** UDP sends a sum of zero as all ones (RFC 768). */
  private insertChecksum(range: ChecksumRange, udp: boolean): void {
    const end = range.end === 0 ? this.size : Math.min(range.end + 1, this.size);
    if (range.start >= end || range.insert + 2 > this.size) return;
    const sum = checksumFinish(checksumAdd(0, this.buffer, range.start, end));
    put16(this.buffer, range.insert, udp && sum === 0 ? 0xffff : sum);
  }

  /** Hands the frame in the buffer on, tagged and padded as asked. */
  private send(): void {
    const tagged = this.tag >= 0 && this.size >= 14;
    const size = this.size + (tagged ? 4 : 0);
    const padded = (this.words[REGISTER.TCTL] & TCTL.psp) !== 0 ? Math.max(size, MINIMUM_FRAME) : size;
    if (size < 14) {
      this.statistics.totals.txDropped++;
      return;
    }
    const frame = new Uint8Array(padded);
    if (tagged) {
      frame.set(this.buffer.subarray(0, 12));
      put16(frame, 12, this.words[REGISTER.VET]);
      put16(frame, 14, this.tag);
      frame.set(this.buffer.subarray(12, this.size), 16);
    } else {
      frame.set(this.buffer.subarray(0, this.size));
    }
    this.statistics.transmitted(padded, frame[0], isBroadcast(frame));
    this.emit(frame);
  }

  save(): unknown {
    const { started, discard, segmenting, options, tag, size, segments, plain, segmentation } = this;
    return {
      started,
      discard,
      segmenting,
      options,
      tag,
      segments,
      plain,
      segmentation,
      buffer: Buffer.from(this.buffer.subarray(0, size)).toString('base64'),
      header: Buffer.from(this.header).toString('base64'),
      delay: this.delay.save(),
    };
  }

  load(state: unknown): void {
    const fields = state as Record<string, unknown>;
    const buffer = Buffer.from(String(fields?.buffer), 'base64');
    const header = Buffer.from(String(fields?.header), 'base64');
    if (buffer.length > MAXIMUM_FRAME || header.length !== MAXIMUM_HEADER) throw new Error('e1000: transmit.buffer: does not fit');
    this.reset();
    this.buffer.set(buffer);
    this.header.set(header);
    this.size = buffer.length;
    this.started = fields.started === true;
    this.discard = fields.discard === true;
    this.segmenting = fields.segmenting === true;
    this.options = integer(fields.options, 'options') & 0xff;
    this.tag = integer(fields.tag, 'tag');
    this.segments = integer(fields.segments, 'segments');
    this.plain = loadContext(fields.plain, 'plain');
    this.segmentation = loadContext(fields.segmentation, 'segmentation');
    this.delay.load(integer(fields.delay, 'delay'));
    // What the work limit had cut short goes on.
    this.continuation.arm(this.clock.now() + PAUSE);
  }
}

function integer(value: unknown, name: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw new Error(`e1000: transmit.${name}: expected a number`);
  return value;
}

function loadContext(state: unknown, name: string): Context {
  const context = state as Context;
  const ranges = [context?.ip, context?.payload];
  const numbers = [...ranges.flatMap((range) => [range?.start, range?.insert, range?.end]), context?.headerLength, context?.mss];
  if (!numbers.every((value) => Number.isInteger(value) && value >= 0 && value <= 0xffff)) {
    throw new Error(`e1000: transmit.${name}: expected a context of 16-bit numbers`);
  }
  return structuredClone(context);
}

function get16(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1];
}

function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = (value >>> 8) & 0xff;
  bytes[at + 1] = value & 0xff;
}
