/** For the peer's tests: a clock moved by hand and a small TCP client that can lose segments. */
import type { Clock } from '../ports.ts';
import {
  buildEthernet,
  ETHERTYPE,
  get16,
  get32,
  type Ipv4Packet,
  parseIpv4,
  PAYLOAD,
  PROTOCOL,
  put16,
  put32,
  putIpv4,
  putTransportChecksum,
  TCP,
  TCP_HEADER,
  transportChecksumOk,
} from '../ethernet.ts';
import { PEER_ADDRESS, PEER_MAC } from './identity.ts';

export const CLIENT_MAC = 0x5254_0012_3456;
export const CLIENT_ADDRESS = 0x0a00_020f;

export function manualClock(): Clock & { advance(ns: number): void } {
  let now = 0;
  const timers: { time: number; callback: () => void }[] = [];
  return {
    now: () => now,
    timer(callback) {
      const timer = { time: Number.POSITIVE_INFINITY, callback };
      timers.push(timer);
      return { arm: (time) => void (timer.time = time) };
    },
    advance(ns) {
      const end = now + ns;
      for (;;) {
        const next = timers.reduce((a, b) => (b.time < a.time ? b : a));
        if (next.time > end) break;
        now = Math.max(now, next.time);
        next.time = Number.POSITIVE_INFINITY;
        next.callback();
      }
      now = end;
    },
  };
}

export interface Segment {
  sequence: number;
  acknowledgement: number;
  flags: number;
  window: number;
  data: Uint8Array;
}

/** Takes a frame apart, or undefined if it is no TCP with good checksums. */
export function parseSegment(frame: Uint8Array): Segment | undefined {
  const packet: Ipv4Packet = { start: 0, end: 0, protocol: 0, source: 0, destination: 0 };
  if (get16(frame, 12) !== ETHERTYPE.ipv4 || !parseIpv4(frame, packet)) return undefined;
  if (packet.protocol !== PROTOCOL.tcp || !transportChecksumOk(frame, packet)) return undefined;
  const { start } = packet;
  return {
    sequence: get32(frame, start + 4),
    acknowledgement: get32(frame, start + 8),
    flags: frame[start + 13],
    window: get16(frame, start + 14),
    data: frame.slice(start + (frame[start + 12] >>> 4) * 4, packet.end),
  };
}

export function buildSegment(port: number, segment: Partial<Segment>, options: readonly number[] = [], serverPort = 80): Uint8Array {
  const { sequence = 0, acknowledgement = 0, flags = TCP.ack, window = 65535, data = new Uint8Array(0) } = segment;
  const frame = buildEthernet(PAYLOAD + TCP_HEADER + options.length + data.length, PEER_MAC, CLIENT_MAC, ETHERTYPE.ipv4);
  putIpv4(frame, PROTOCOL.tcp, CLIENT_ADDRESS, PEER_ADDRESS, 1);
  put16(frame, PAYLOAD, port);
  put16(frame, PAYLOAD + 2, serverPort);
  put32(frame, PAYLOAD + 4, sequence);
  put32(frame, PAYLOAD + 8, acknowledgement);
  frame[PAYLOAD + 12] = ((TCP_HEADER + options.length) / 4) << 4;
  frame[PAYLOAD + 13] = flags;
  put16(frame, PAYLOAD + 14, window);
  frame.set(options, PAYLOAD + TCP_HEADER);
  frame.set(data, PAYLOAD + TCP_HEADER + options.length);
  putTransportChecksum(frame, PAYLOAD + 16);
  return frame;
}

/** A client that keeps early segments and acknowledges each. Sequence numbers start close to their wrap. */
export class Client {
  readonly chunks: Uint8Array[] = [];
  next = 0xffff_ff00;
  expected = 0;
  window = 65535;
  established = false;
  finished = false;
  reset = false;
  received = 0;
  private readonly early = new Map<number, Segment>();

  constructor(
    private readonly send: (frame: Uint8Array) => void,
    readonly port: number,
  ) {}

  /** `options` are those of the SYN: a maximum segment size and a window scale by default. */
  connect(options: readonly number[] = [2, 4, 5, 180, 1, 3, 3, 0]): void {
    this.send(buildSegment(this.port, { sequence: this.next, flags: TCP.syn, window: this.window }, options));
    this.next = (this.next + 1) >>> 0;
  }

  write(text: string | Uint8Array): void {
    const data = typeof text === 'string' ? new TextEncoder().encode(text) : text;
    const sequence = this.next;
    this.next = (this.next + data.length) >>> 0;
    this.send(buildSegment(this.port, { sequence, acknowledgement: this.expected, flags: TCP.ack | TCP.psh, window: this.window, data }));
  }

  acknowledge(flags: number = TCP.ack): void {
    this.send(buildSegment(this.port, { sequence: this.next, acknowledgement: this.expected, flags, window: this.window }));
    if ((flags & TCP.fin) !== 0) this.next = (this.next + 1) >>> 0;
  }

  receive(segment: Segment): void {
    if ((segment.flags & TCP.rst) !== 0) {
      this.reset = true;
    } else if ((segment.flags & TCP.syn) !== 0) {
      this.expected = (segment.sequence + 1) >>> 0;
      this.established = true;
      this.acknowledge();
    } else if (segment.sequence === this.expected && (this.window > 0 || segment.data.length === 0)) {
      this.expected = (this.expected + segment.data.length) >>> 0;
      this.received += segment.data.length;
      if (segment.data.length > 0) this.chunks.push(segment.data);
      if ((segment.flags & TCP.fin) !== 0) {
        this.finished = true;
        this.expected = (this.expected + 1) >>> 0;
        this.acknowledge(TCP.fin | TCP.ack);
      } else if (segment.data.length > 0) {
        this.acknowledge();
      }
      const following = this.early.get(this.expected);
      this.early.delete(this.expected);
      if (following !== undefined) this.receive(following);
    } else if (segment.data.length > 0) {
      if (this.window > 0) this.early.set(segment.sequence, segment);
      this.acknowledge();
    }
  }

  /** Head and body of the answer. */
  answer(): { head: string; body: Buffer } {
    const all = Buffer.concat(this.chunks);
    const end = all.indexOf('\r\n\r\n');
    return { head: all.toString('latin1', 0, end), body: all.subarray(end + 4) };
  }
}
