/**
 * One TCP connection of the peer's server (RFC 9293; windows RFC 7323; retransmission timer RFC 6298; congestion RFC 5681 with the partial
 * acknowledgements of RFC 6582). Data to send is not buffered: the application makes any part of its stream again. Segments that come
 * early are kept, within the window, until the gap before them is filled.
 */
import {
  buildEthernet,
  ETHERTYPE,
  get16,
  get32,
  type Ipv4Packet,
  PAYLOAD,
  PROTOCOL,
  put16,
  put32,
  putIpv4,
  putTransportChecksum,
  TCP,
  TCP_HEADER,
} from '../ethernet.ts';

/** What speaks over a connection: takes bytes in order, then offers an answer of `length` bytes once `finished`. */
export interface Application {
  receive(data: Uint8Array): void;
  readonly finished: boolean;
  readonly length: number;
  fill(target: Uint8Array, at: number, position: number, length: number): void;
}

/** What a connection needs from the peer. */
export interface TcpHost {
  readonly mac: number;
  readonly address: number;
  now(): number;
  /** No more than a few frames can wait; ask before sending data. */
  readonly canSend: boolean;
  emit(frame: Uint8Array): void;
  /** Wants `Connection.expire` to be called at `time` (ns) or later. */
  schedule(time: number): void;
}

export interface Endpoint {
  mac: number;
  address: number;
  port: number;
  localPort: number;
}

const MS = 1_000_000;
const MAXIMUM_SEGMENT = 1460;
/** Our window: 1 MiB, announced as 8192 << 7. The application takes everything at once. */
const WINDOW_SHIFT = 7;
const WINDOW = 8192;
const INITIAL_TIMEOUT = 1000 * MS;
const MINIMUM_TIMEOUT = 200 * MS;
const MAXIMUM_TIMEOUT = 60_000 * MS;
const RETRIES = 8;
const DELAYED_ACK = 20 * MS;
/** A connection on which nothing comes is given up; the other end may be gone without a word. */
const IDLE = 120_000 * MS;
const TIME_WAIT = 1000 * MS;
const INITIAL_WINDOW = 10;
/** Segments that may wait for a gap to be filled; with the window that bounds the memory of a connection to about 1 MiB. */
const EARLY_SEGMENTS = 1024;
const WINDOW_BYTES = WINDOW * 2 ** WINDOW_SHIFT;
const NEVER = Number.POSITIVE_INFINITY;

/** a - b in sequence space: negative when a is before b. */
const distance = (a: number, b: number): number => (a - b) | 0;

/** The states of RFC 9293 figure 5 that a server reaches; `closed` connections are forgotten by the peer. */
type State = 'syn-received' | 'established' | 'close-wait' | 'fin-wait-1' | 'fin-wait-2' | 'closing' | 'last-ack' | 'time-wait' | 'closed';

export class Connection {
  state: State = 'syn-received';
  retransmissions = 0;
  private receiveNext: number;
  private sendWindow: number;
  private sendShift = 0;
  private scaling = false;
  private segment = 536;
  /** Positions in the answer's stream: acknowledged, next to send, and the highest sent. FIN counts as one byte behind the end. */
  private acknowledged = 0;
  private next = 0;
  private highest = 0;
  private congestion = 0;
  private threshold = NEVER;
  private duplicates = 0;
  /** During fast recovery: the position whose acknowledgement ends it. */
  private recover = -1;
  private smoothed = 0;
  private variation = 0;
  private timeout = INITIAL_TIMEOUT;
  private retries = 0;
  private retransmitAt = NEVER;
  private acknowledgeAt = NEVER;
  private unacknowledged = 0;
  private measured = -1;
  private measuredAt = 0;
  private lastHeard: number;
  private peerClosed = false;
  /** Segments beyond a gap, by sequence number. */
  private readonly early = new Map<number, Uint8Array>();

  /** `initial` is our initial sequence number; `frame` holds the client's SYN. */
  constructor(
    private readonly host: TcpHost,
    readonly endpoint: Endpoint,
    private readonly application: Application,
    private readonly initial: number,
    frame: Uint8Array,
    packet: Ipv4Packet,
  ) {
    this.receiveNext = (get32(frame, packet.start + 4) + 1) >>> 0;
    this.sendWindow = get16(frame, packet.start + 14);
    this.lastHeard = host.now();
    this.readOptions(frame, packet.start + TCP_HEADER, packet.start + (frame[packet.start + 12] >>> 4) * 4);
    this.congestion = INITIAL_WINDOW * this.segment;
    this.sendSyn();
    this.armRetransmit();
  }

  /** Time of the next thing to do, ns. */
  get deadline(): number {
    return Math.min(this.retransmitAt, this.acknowledgeAt, this.lastHeard + (this.state === 'time-wait' ? TIME_WAIT : IDLE));
  }

  /** A checked segment for this connection. */
  segmentArrived(frame: Uint8Array, packet: Ipv4Packet): void {
    const { start } = packet;
    const flags = frame[start + 13];
    const sequence = get32(frame, start + 4);
    const offset = distance(sequence, this.receiveNext);
    if ((flags & TCP.rst) !== 0) {
      // Only an exact match ends the connection (RFC 5961, 3.2).
      if (offset === 0) this.state = 'closed';
      return;
    }
    this.lastHeard = this.host.now();
    if ((flags & TCP.syn) !== 0) {
      if (this.state === 'syn-received') this.sendSyn();
      else this.acknowledge();
      return;
    }
    if ((flags & TCP.ack) === 0) return;
    const data = start + (frame[start + 12] >>> 4) * 4;
    const length = packet.end - data;
    const useful = offset + length > 0 || (offset + length === 0 && length === 0);
    if (offset > 0 || !useful) {
      // Old, or ahead of a gap: say what is expected.
      const ahead = offset > 0 && length > 0 && offset + length <= WINDOW_BYTES;
      if (ahead && this.state !== 'syn-received') this.keepEarly(sequence, frame.slice(data, packet.end));
      this.acknowledge();
      if (offset > 0 || offset + length < 0) return;
    }
    if (!this.acknowledgement(get32(frame, start + 8), get16(frame, start + 14), length)) return;
    if (offset + length > 0) this.take(frame.subarray(data - offset, packet.end), flags);
    if ((flags & TCP.fin) !== 0 && distance((sequence + length) >>> 0, this.receiveNext) === 0) this.finArrived();
    this.output();
  }

  /** Sends what windows and the card allow. */
  output(): void {
    if (this.state === 'syn-received' || this.state === 'time-wait' || this.state === 'closed' || !this.application.finished) return;
    const { length } = this.application;
    while (this.next < length && this.host.canSend) {
      const window = Math.min(this.congestion, this.sendWindow) - (this.next - this.acknowledged);
      const size = Math.min(this.segment, length - this.next);
      // Whole segments only, unless it is all there is to send (RFC 9293, 3.8.6.2.1).
      if (window < size) break;
      this.sendData(this.next, size);
      this.advance(this.next + size);
    }
    if (this.next === length) this.sendFin();
    // A closed window is probed by the retransmission timer.
    if (this.retransmitAt === NEVER && this.acknowledged < length && this.host.canSend) this.armRetransmit();
  }

  /** Timers: delayed acknowledgement, retransmission, giving up. */
  expire(): void {
    const now = this.host.now();
    if (now >= this.lastHeard + (this.state === 'time-wait' ? TIME_WAIT : IDLE)) {
      if (this.state !== 'time-wait') this.send(TCP.rst | TCP.ack, this.next, 0);
      this.state = 'closed';
      return;
    }
    if (now >= this.acknowledgeAt) this.acknowledge();
    if (now >= this.retransmitAt) this.timedOut();
    this.host.schedule(this.deadline);
  }

  private readOptions(frame: Uint8Array, from: number, end: number): void {
    let at = from;
    while (at < end) {
      const kind = frame[at];
      if (kind === 0) return;
      if (kind === 1) {
        at++;
        continue;
      }
      const length = frame[at + 1];
      if (length < 2 || at + length > end) return;
      if (kind === 2 && length === 4) this.segment = Math.min(MAXIMUM_SEGMENT, Math.max(64, get16(frame, at + 2)));
      if (kind === 3 && length === 3) {
        this.scaling = true;
        this.sendShift = Math.min(14, frame[at + 2]);
      }
      at += length;
    }
  }

  /** False: the segment must not be used further. */
  private acknowledgement(number: number, window: number, length: number): boolean {
    // Stream position that the number stands for; the SYN takes the first sequence number.
    const position = this.acknowledged + distance(number, this.sequence(this.acknowledged));
    if (this.state === 'syn-received' && position !== 0) {
      this.reset(number);
      return false;
    }
    if (position < this.acknowledged) return true;
    if (position > this.highest) {
      this.acknowledge();
      return false;
    }
    if (this.state === 'syn-received') {
      this.state = 'established';
      this.settle();
    }
    const scaled = window * 2 ** (this.scaling ? this.sendShift : 0);
    if (position > this.acknowledged) this.progress(position);
    else if (scaled === 0)
      this.retries = 0; // a closed window is no failure
    else if (this.sendWindow === 0)
      this.next = this.acknowledged; // it opened: what probes carried may be lost
    else if (length === 0 && scaled === this.sendWindow && this.highest > this.acknowledged) this.duplicate();
    this.sendWindow = scaled;
    return true;
  }

  private progress(position: number): void {
    const bytes = position - this.acknowledged;
    this.acknowledged = position;
    if (this.next < position) this.next = position;
    this.duplicates = 0;
    if (this.measured >= 0 && position >= this.measured) this.measure(this.host.now() - this.measuredAt);
    if (this.recover >= 0) {
      if (position >= this.recover) {
        this.recover = -1;
        this.congestion = this.threshold;
      } else {
        this.repeat();
      }
    } else if (this.congestion < this.threshold) {
      this.congestion += Math.min(bytes, 2 * this.segment);
    } else {
      this.congestion += Math.max(1, (this.segment * bytes) / this.congestion);
    }
    this.congestion = Math.min(this.congestion, 2 ** 24);
    this.settle();
    if (this.finSent && position > this.application.length) this.finAcknowledged();
  }

  /** Something was acknowledged: the timer starts over, or stops when nothing is out. */
  private settle(): void {
    this.retries = 0;
    this.retransmitAt = NEVER;
    if (this.highest > this.acknowledged) this.armRetransmit();
  }

  private duplicate(): void {
    this.duplicates++;
    if (this.duplicates !== 3 || this.recover >= 0) return;
    this.threshold = Math.max((this.highest - this.acknowledged) / 2, 2 * this.segment);
    this.congestion = this.threshold;
    this.recover = this.highest;
    this.repeat();
  }

  /** Sends the first unacknowledged segment again. */
  private repeat(): void {
    this.retransmissions++;
    this.measured = -1;
    const size = Math.min(this.segment, this.application.length - this.acknowledged);
    if (size > 0) this.sendData(this.acknowledged, size);
    else this.send(TCP.fin | TCP.ack, this.acknowledged, 0);
    this.armRetransmit();
  }

  private timedOut(): void {
    this.retransmitAt = NEVER;
    if (++this.retries > RETRIES) {
      this.send(TCP.rst | TCP.ack, this.next, 0);
      this.state = 'closed';
      return;
    }
    this.timeout = Math.min(MAXIMUM_TIMEOUT, this.timeout * 2);
    this.measured = -1;
    if (this.state === 'syn-received') {
      this.sendSyn();
    } else if (this.highest === this.acknowledged) {
      // Nothing is out: the window is closed. One byte asks for news of it.
      if (this.application.finished && this.acknowledged < this.application.length) {
        this.sendData(this.acknowledged, 1);
        this.advance(this.acknowledged + 1);
      }
    } else {
      this.retransmissions++;
      this.threshold = Math.max((this.highest - this.acknowledged) / 2, 2 * this.segment);
      this.congestion = this.segment;
      this.recover = -1;
      this.duplicates = 0;
      this.next = this.acknowledged;
      const size = Math.min(this.sendWindow === 0 ? 1 : this.segment, this.application.length - this.acknowledged);
      if (size > 0) {
        this.sendData(this.acknowledged, size);
        this.next = this.acknowledged + size;
      } else {
        this.send(TCP.fin | TCP.ack, this.acknowledged, 0);
        this.next = this.application.length + 1;
      }
    }
    this.armRetransmit();
  }

  private measure(sample: number): void {
    this.measured = -1;
    if (this.smoothed === 0) {
      this.smoothed = sample;
      this.variation = sample / 2;
    } else {
      this.variation = 0.75 * this.variation + 0.25 * Math.abs(this.smoothed - sample);
      this.smoothed = 0.875 * this.smoothed + 0.125 * sample;
    }
    this.timeout = Math.max(MINIMUM_TIMEOUT, this.smoothed + 4 * this.variation);
  }

  /** Payload from receiveNext on. */
  private take(data: Uint8Array, flags: number): void {
    if (data.length === 0 || this.peerClosed) return;
    this.accept(data);
    if (this.early.size > 0) {
      this.fillGaps();
      this.acknowledge();
    } else if (++this.unacknowledged >= 2 || (flags & TCP.psh) !== 0) {
      this.acknowledge();
    } else if (this.acknowledgeAt === NEVER) {
      this.acknowledgeAt = this.host.now() + DELAYED_ACK;
      this.host.schedule(this.acknowledgeAt);
    }
  }

  private accept(data: Uint8Array): void {
    this.receiveNext = (this.receiveNext + data.length) >>> 0;
    this.application.receive(data);
  }

  private keepEarly(sequence: number, data: Uint8Array): void {
    if (this.early.size < EARLY_SEGMENTS && !this.early.has(sequence)) this.early.set(sequence, data);
  }

  /** Takes kept segments that now follow, until none does. */
  private fillGaps(): void {
    for (let progress = true; progress; ) {
      progress = false;
      for (const [sequence, data] of this.early) {
        const offset = distance(sequence, this.receiveNext);
        if (offset > 0) continue;
        this.early.delete(sequence);
        if (offset + data.length <= 0) continue;
        this.accept(data.subarray(-offset));
        progress = true;
      }
    }
  }

  private finArrived(): void {
    if (!this.peerClosed) {
      this.peerClosed = true;
      this.receiveNext = (this.receiveNext + 1) >>> 0;
      if (this.state === 'established') this.state = 'close-wait';
      else if (this.state === 'fin-wait-1') this.state = 'closing';
      else if (this.state === 'fin-wait-2') this.enterTimeWait();
    }
    this.acknowledge();
    // A client that closes before its request is complete gets no answer.
    if (this.state === 'close-wait' && !this.application.finished) {
      this.send(TCP.rst | TCP.ack, this.next, 0);
      this.state = 'closed';
    }
  }

  private get finSent(): boolean {
    return this.state === 'fin-wait-1' || this.state === 'closing' || this.state === 'last-ack';
  }

  private sendFin(): void {
    this.send(TCP.fin | TCP.ack, this.next, 0);
    this.advance(this.next + 1);
    if (this.state === 'established') this.state = 'fin-wait-1';
    else if (this.state === 'close-wait') this.state = 'last-ack';
  }

  private finAcknowledged(): void {
    if (this.state === 'fin-wait-1') this.state = 'fin-wait-2';
    else if (this.state === 'closing') this.enterTimeWait();
    else if (this.state === 'last-ack') this.state = 'closed';
  }

  private enterTimeWait(): void {
    this.state = 'time-wait';
    this.retransmitAt = NEVER;
    this.lastHeard = this.host.now();
    this.host.schedule(this.deadline);
  }

  private advance(position: number): void {
    this.next = position;
    if (position > this.highest) {
      this.highest = position;
      if (this.measured < 0) {
        this.measured = position;
        this.measuredAt = this.host.now();
      }
    }
    if (this.retransmitAt === NEVER) this.armRetransmit();
  }

  private armRetransmit(): void {
    this.retransmitAt = this.host.now() + this.timeout;
    this.host.schedule(this.retransmitAt);
  }

  private sequence(position: number): number {
    return (this.initial + 1 + (position % 0x1_0000_0000)) >>> 0;
  }

  private acknowledge(): void {
    this.send(TCP.ack, this.next, 0);
  }

  private reset(sequence: number): void {
    const frame = this.build(TCP.rst, 0, 0, 0);
    put32(frame, PAYLOAD + 4, sequence);
    this.finish(frame);
  }

  private sendData(position: number, length: number): void {
    this.send(position + length === this.application.length ? TCP.psh | TCP.ack : TCP.ack, position, length);
  }

  /** SYN and ACK with our maximum segment size, and our window scale if the client offered one. */
  private sendSyn(): void {
    const frame = this.build(TCP.syn | TCP.ack, -1, 0, this.scaling ? 8 : 4);
    const options = PAYLOAD + TCP_HEADER;
    frame.set([2, 4, MAXIMUM_SEGMENT >>> 8, MAXIMUM_SEGMENT & 0xff], options);
    if (this.scaling) frame.set([1, 3, 3, WINDOW_SHIFT], options + 4);
    put16(frame, PAYLOAD + 14, 0xffff);
    this.finish(frame);
  }

  private send(flags: number, position: number, length: number): void {
    const frame = this.build(flags, position, length, 0);
    if (length > 0) this.application.fill(frame, PAYLOAD + TCP_HEADER, position, length);
    this.finish(frame);
  }

  private build(flags: number, position: number, length: number, options: number): Uint8Array {
    const { endpoint, host } = this;
    const frame = buildEthernet(PAYLOAD + TCP_HEADER + options + length, endpoint.mac, host.mac, ETHERTYPE.ipv4);
    putIpv4(frame, PROTOCOL.tcp, host.address, endpoint.address, 0);
    put16(frame, PAYLOAD, endpoint.localPort);
    put16(frame, PAYLOAD + 2, endpoint.port);
    put32(frame, PAYLOAD + 4, this.sequence(position));
    put32(frame, PAYLOAD + 8, (flags & TCP.ack) !== 0 ? this.receiveNext : 0);
    frame[PAYLOAD + 12] = ((TCP_HEADER + options) / 4) << 4;
    frame[PAYLOAD + 13] = flags;
    put16(frame, PAYLOAD + 14, this.scaling ? WINDOW : 0xffff);
    return frame;
  }

  /** Every segment carries the newest acknowledgement. */
  private finish(frame: Uint8Array): void {
    this.unacknowledged = 0;
    this.acknowledgeAt = NEVER;
    putTransportChecksum(frame, PAYLOAD + 16);
    this.host.emit(frame);
  }
}
