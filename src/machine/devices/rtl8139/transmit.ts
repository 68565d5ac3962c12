/**
 * The transmit unit: in C+ mode two descriptor rings, normal and high priority, started by TPPoll (data sheet 9.1); in C mode four
 * descriptors in registers (6, TSD and TSAD). A C+ packet is sent when all of its descriptors are the card's, so nothing of a half-given
 * packet is kept.
 */
import type { Clock, Dma, Timer } from '../../ports.ts';
import { readState } from '../../state.ts';
import {
  CAUSE,
  COMMAND,
  DESCRIPTOR,
  MINIMUM_FRAME,
  PLUS,
  POLL,
  RING_LIMIT,
  STATUS,
  TRANSMIT,
  TRANSMIT_LIMIT,
  TRANSMIT_TAG,
} from './bits.ts';
import { DescriptorChain } from './chain.ts';
import type { Interrupts } from './interrupts.ts';
import { insertChecksums, segment } from './offload.ts';
import type { RegisterFile, RegisterName } from './registers.ts';
import type { Statistics } from './statistics.ts';

/** Descriptors and frames handled before the guest gets its turn again, and how long it gets (ns). */
const WORK = 1024;
const PAUSE = 10_000;
/** Large send: an IPv4 packet with Ethernet header and VLAN tag. */
const LARGE_LIMIT = 65_535 + 18;
/** C mode: the largest frame that the chip takes (6, TSD). */
const LEGACY_LIMIT = 1792;
const STATUS_REGISTERS = ['TSD0', 'TSD1', 'TSD2', 'TSD3'] as const;
const ADDRESS_REGISTERS = ['TSAD0', 'TSAD1', 'TSAD2', 'TSAD3'] as const;

interface Ring {
  readonly base: RegisterName;
  readonly poll: number;
  index: number;
}

export class Transmitter {
  private readonly high: Ring = { base: 'TSAD2', poll: POLL.high, index: 0 };
  private readonly normal: Ring = { base: 'TSAD0', poll: POLL.normal, index: 0 };
  /** Which rings were asked to be sent and are not empty yet. */
  private polled = 0;
  /** C mode: the descriptor to send next. */
  private next = 0;
  private readonly chain: DescriptorChain;
  private readonly statusBytes = new Uint8Array(4);
  private readonly status = new Uint32Array(this.statusBytes.buffer);
  private readonly packet = new Uint8Array(LARGE_LIMIT);
  private running = false;
  private readonly continuation: Timer;

  /** `emit` takes a finished frame; `allowed` says whether the card may do DMA. */
  constructor(
    private readonly registers: RegisterFile,
    private readonly dma: Dma,
    private readonly clock: Clock,
    private readonly interrupts: Interrupts,
    private readonly statistics: Statistics,
    private readonly allowed: () => boolean,
    private readonly emit: (frame: Uint8Array) => void,
  ) {
    this.chain = new DescriptorChain(dma);
    this.continuation = clock.timer(() => this.run());
  }

  /** TPPoll as it reads: the rings that are not empty yet. */
  get polling(): number {
    return this.polled;
  }

  /** TPPoll: bits of the rings to send. */
  poll(rings: number): void {
    this.polled |= rings & (POLL.high | POLL.normal);
    this.run();
  }

  /** A ring lies elsewhere, and begins at its first descriptor. */
  moved(ring: 'normal' | 'high'): void {
    this[ring].index = 0;
  }

  /** The transmitter was turned on: everything begins at its first descriptor. */
  restart(): void {
    this.high.index = 0;
    this.normal.index = 0;
    this.next = 0;
  }

  reset(): void {
    this.restart();
    this.polled = 0;
    this.continuation.arm(Number.POSITIVE_INFINITY);
  }

  /** Sends what there is. Called when the driver asks and when something that held it back goes away. */
  run(): void {
    if (this.running) return;
    this.running = true;
    try {
      if ((this.registers.get('CPCR') & PLUS.transmit) !== 0) this.drainRings();
      else this.drainLegacy();
    } finally {
      this.running = false;
    }
  }

  private get on(): boolean {
    return (this.registers.get('CR') & COMMAND.transmit) !== 0 && this.allowed();
  }

  private drainRings(): void {
    const { totals } = this.statistics;
    let causes = 0;
    let work = WORK;
    while (this.on && this.polled !== 0) {
      if (work <= 0) {
        this.continuation.arm(this.clock.now() + PAUSE);
        break;
      }
      const ring = (this.polled & POLL.high) !== 0 ? this.high : this.normal;
      if (!this.collect(ring)) {
        this.polled &= ~ring.poll;
        causes |= CAUSE.transmitUnavailable;
        continue;
      }
      const before = totals.txFrames;
      const sent = this.sendPacket();
      this.release(sent);
      causes |= sent ? CAUSE.transmitOk : CAUSE.transmitError;
      work -= this.chain.count + totals.txFrames - before;
    }
    if (causes !== 0) this.interrupts.raise(causes);
  }

  /** Reads the descriptors of the ring's next packet and steps over them. False: there is none, or not all of it yet. */
  private collect(ring: Ring): boolean {
    const { chain } = this;
    chain.begin(this.registers.address(ring.base), ring.index);
    for (;;) {
      const step = chain.step();
      if (step === 'driver') return false;
      if (step === 'bad') {
        this.statistics.totals.badRings++;
        return false;
      }
      // A ring without an end of packet is given back as an error.
      if (step === 'end' || (chain.commands[chain.count - 1] & DESCRIPTOR.last) !== 0) {
        ring.index = chain.index;
        return true;
      }
    }
  }

  /** Gathers the packet and sends it. False if it is malformed: nothing was sent. */
  private sendPacket(): boolean {
    const { commands, buffers, count } = this.chain;
    const [command] = commands;
    const large = (command & TRANSMIT.largeSend) !== 0;
    const limit = large ? LARGE_LIMIT : TRANSMIT_LIMIT;
    if ((command & DESCRIPTOR.first) === 0 || (commands[count - 1] & DESCRIPTOR.last) === 0) return this.fail();
    let size = 0;
    for (let i = 0; i < count; i++) {
      const length = commands[i] & TRANSMIT.length;
      if (size + length > limit || !this.dma.read(buffers[i], this.packet.subarray(size, size + length))) return this.fail();
      size += length;
    }
    if (size < 14) return this.fail();
    if (large) {
      const mss = (command >>> TRANSMIT.segmentShift) & TRANSMIT.segmentMask;
      return segment(this.packet, size, mss, (frame) => this.send(frame)) || this.fail();
    }
    insertChecksums(this.packet, size, command);
    this.send(this.packet.subarray(0, size));
    return true;
  }

  private fail(): false {
    this.statistics.totals.badDescriptors++;
    this.drop();
    return false;
  }

  private drop(): void {
    this.statistics.totals.txDropped++;
    this.statistics.count('txError');
  }

  /** Tags and pads a frame, which is copied, and hands it on. */
  private send(frame: Uint8Array): void {
    const { tag } = this.chain;
    const tagged = (tag & TRANSMIT_TAG) !== 0;
    const out = new Uint8Array(Math.max(frame.length + (tagged ? 4 : 0), MINIMUM_FRAME));
    if (tagged) {
      out.set(frame.subarray(0, 12));
      // The tag stands in the descriptor as on the wire, first byte first.
      out.set([0x81, 0x00, tag & 0xff, (tag >>> 8) & 0xff], 12);
      out.set(frame.subarray(12), 16);
    } else {
      out.set(frame);
    }
    this.finish(out);
  }

  private finish(frame: Uint8Array): void {
    this.statistics.transmitted(frame.length);
    this.statistics.count('txOk');
    this.emit(frame);
  }

  /** Gives the packet's descriptors back to the driver. */
  private release(sent: boolean): void {
    const { commands, places, count } = this.chain;
    for (let i = 0; i < count; i++) {
      this.status[0] = (commands[i] & TRANSMIT.kept) | (!sent && i === count - 1 ? TRANSMIT.error : 0);
      this.dma.write(places[i], this.statusBytes);
    }
    this.registers.set('TDOKLADDR', places[count - 1] % 0x1_0000);
  }

  /** C mode: in turn, each descriptor whose OWN bit the driver cleared. Frames are not padded. */
  private drainLegacy(): void {
    let causes = 0;
    while (this.on) {
      const register = STATUS_REGISTERS[this.next];
      const status = this.registers.get(register);
      if ((status & STATUS.own) !== 0) break;
      const sent = this.sendLegacy(this.registers.get(ADDRESS_REGISTERS[this.next]), status & STATUS.size);
      this.registers.set(register, (status | STATUS.own | (sent ? STATUS.ok : STATUS.aborted)) >>> 0);
      causes |= sent ? CAUSE.transmitOk : CAUSE.transmitError;
      this.next = (this.next + 1) & 3;
    }
    if (causes !== 0) this.interrupts.raise(causes);
  }

  private sendLegacy(address: number, size: number): boolean {
    const frame = new Uint8Array(Math.min(size, LEGACY_LIMIT));
    if (size >= 14 && size <= LEGACY_LIMIT && this.dma.read(address, frame)) {
      this.finish(frame);
      return true;
    }
    this.drop();
    this.statistics.count('txAborted');
    return false;
  }

  /** TSAD at 0x60: for each C mode descriptor sent, aborted, and the driver's (6). */
  legacySummary(): number {
    return STATUS_REGISTERS.reduce((summary, register, i) => {
      const status = this.registers.get(register);
      const sent = (status & STATUS.ok) !== 0 ? 0x1000 : 0;
      const aborted = (status & STATUS.aborted) !== 0 ? 0x0010 : 0;
      const own = (status & STATUS.own) !== 0 ? 0x0001 : 0;
      return summary | ((sent | aborted | own) << i);
    }, 0);
  }

  save(): unknown {
    return { high: this.high.index, normal: this.normal.index, next: this.next, polled: this.polled };
  }

  load(state: unknown): void {
    const from = readState('rtl8139 transmit', state);
    this.high.index = from.number('high', 0, RING_LIMIT - 1);
    this.normal.index = from.number('normal', 0, RING_LIMIT - 1);
    this.next = from.number('next', 0, 3);
    this.polled = from.number('polled', 0, 0xff) & (POLL.high | POLL.normal);
    // What the work limit had cut short goes on.
    this.continuation.arm(this.clock.now() + PAUSE);
  }
}
