/**
 * The built-in other end of the card's wire: a host at 10.0.2.2 that needs nothing from outside. It answers ARP, DHCP and ping, serves
 * HTTP on port 80, and is a source and sink of UDP packets for benchmarks. It runs in the card's thread, and its time is the
 * machine's, so a deterministic machine stays deterministic. All state is bounded: 64 connections, 64 leases, 1024 waiting frames.
 */
import { silentLog, type Log } from '../../base/log.ts';
import type { Clock, NetworkBackend, Timer } from '../ports.ts';
import {
  buildEthernet,
  buildUdp,
  ETHERTYPE,
  get16,
  get32,
  type Ipv4Packet,
  macAt,
  parseIpv4,
  PAYLOAD,
  PROTOCOL,
  put16,
  put32,
  putIpv4,
  putMac,
  putTransportChecksum,
  TCP,
  TCP_HEADER,
  transportChecksumOk,
  UDP_HEADER,
} from '../ethernet.ts';
import { checksumAdd, checksumFinish, checksumFold } from '../../base/internet-checksum.ts';
import { contentSha256 } from './content.ts';
import { DHCP_SERVER_PORT, DhcpServer } from './dhcp.ts';
import { Flood } from './flood.ts';
import { HttpExchange } from './http.ts';
import { FIRST_CLIENT_ADDRESS, PEER_ADDRESS, PEER_MAC, PORTS } from './identity.ts';
import { Connection, type TcpHost } from './tcp.ts';

const CONNECTIONS = 64;
const UPLOADS = 64;
/** Frames that wait for the card; replies beyond are lost, streams and floods stop at a few. */
const QUEUE = 1024;
const STREAM_QUEUE = 8;

export interface PeerOptions {
  clock: Clock;
  log?: Log;
}
export interface PeerUpload {
  bytes: number;
  sha256: string;
}
export interface Peer extends NetworkBackend {
  /** SHA-256 in hexadecimal of GET /file?bytes=N&seed=S. */
  expectedSha256(bytes: number, seed: number): string;
  /** The newest finished uploads, oldest first, at most 64. */
  readonly uploads: readonly PeerUpload[];
  /**
   * Sends `count` UDP datagrams of `size` payload bytes (4 to 1472) to `port` of the client that spoke last, as fast as the card takes
   * them. The first four bytes count up. False when no client has spoken yet. Replaces a flood that still runs.
   */
  flood(options: { port: number; count: number; size: number }): boolean;
  /** Datagrams and payload bytes that the guest sent to the discard port are `discardDatagrams` and `discardBytes`. */
  statistics(): Record<string, number>;
}

export function createPeer(options: PeerOptions): Peer {
  return new PeerHost(options);
}

class PeerHost implements Peer, TcpHost {
  receive: (frame: Uint8Array) => boolean = () => true;
  readonly mac = PEER_MAC;
  readonly address = PEER_ADDRESS;
  readonly uploads: PeerUpload[] = [];

  private readonly clock: Clock;
  private readonly log: Log;
  private readonly timer: Timer;
  private timerAt = Number.POSITIVE_INFINITY;
  private readonly dhcp = new DhcpServer(PEER_MAC, PEER_ADDRESS, FIRST_CLIENT_ADDRESS);
  private readonly connections = new Map<string, Connection>();
  private readonly queue: Uint8Array[] = [];
  private readonly packet: Ipv4Packet = { start: 0, end: 0, protocol: 0, source: 0, destination: 0 };
  private running: Flood | undefined;
  private client: { mac: number; address: number } | undefined;
  private sequence = 0;
  private draining = false;
  private closed = false;
  private readonly counters = {
    rxFrames: 0,
    txFrames: 0,
    txDropped: 0,
    badChecksums: 0,
    ignored: 0,
    connections: 0,
    connectionsRefused: 0,
    retransmissions: 0,
    discardDatagrams: 0,
    discardBytes: 0,
    floodDatagrams: 0,
    pings: 0,
  };

  constructor(options: PeerOptions) {
    this.clock = options.clock;
    this.log = options.log ?? silentLog;
    this.timer = this.clock.timer(() => this.tick());
  }

  expectedSha256(bytes: number, seed: number): string {
    return contentSha256(bytes, seed);
  }

  flood({ port, count, size }: { port: number; count: number; size: number }): boolean {
    if (this.client === undefined) return false;
    this.startFlood(this.client.mac, this.client.address, port, count, size);
    return true;
  }

  statistics(): Record<string, number> {
    let live = 0;
    for (const connection of this.connections.values()) live += connection.retransmissions;
    return { ...this.counters, retransmissions: this.counters.retransmissions + live, openConnections: this.connections.size };
  }

  send(frame: Uint8Array): void {
    if (this.closed || frame.length < 14) return;
    this.counters.rxFrames++;
    const type = get16(frame, 12);
    if (type === ETHERTYPE.ipv4) this.ipv4(frame);
    else if (type === ETHERTYPE.arp) this.arp(frame);
    else this.counters.ignored++;
  }

  ready(): void {
    // A frame that the card takes may make it call again; one drain at a time keeps the order.
    if (this.draining || this.closed) return;
    this.draining = true;
    try {
      this.drain();
    } finally {
      this.draining = false;
    }
  }

  close(): void {
    this.closed = true;
    this.timer.arm(Number.POSITIVE_INFINITY);
    this.connections.clear();
    this.queue.length = 0;
    this.running = undefined;
  }

  // What connections and the flood need.

  now(): number {
    return this.clock.now();
  }

  get canSend(): boolean {
    return this.queue.length < STREAM_QUEUE;
  }

  emit(frame: Uint8Array): void {
    if (this.queue.length === 0 && this.receive(frame)) {
      this.counters.txFrames++;
    } else if (this.queue.length < QUEUE) {
      this.queue.push(frame);
    } else {
      this.counters.txDropped++;
    }
  }

  schedule(time: number): void {
    if (time >= this.timerAt) return;
    this.timerAt = time;
    this.timer.arm(time);
  }

  private drain(): void {
    let sent = 0;
    while (sent < this.queue.length && this.receive(this.queue[sent])) sent++;
    this.counters.txFrames += sent;
    this.queue.splice(0, sent);
    if (this.queue.length > 0) return;
    for (const connection of this.connections.values()) {
      if (!this.canSend) return;
      connection.output();
    }
    this.continueFlood();
  }

  private tick(): void {
    this.timerAt = Number.POSITIVE_INFINITY;
    const now = this.clock.now();
    let next = Number.POSITIVE_INFINITY;
    for (const [key, connection] of this.connections) {
      if (connection.deadline <= now) {
        connection.expire();
        this.forgetClosed(key, connection);
      }
      if (connection.state !== 'closed') next = Math.min(next, connection.deadline);
    }
    this.continueFlood();
    this.schedule(next);
  }

  /** ARP (RFC 826): who has 10.0.2.2? */
  private arp(frame: Uint8Array): void {
    const request = frame.length >= 42 && get32(frame, 14) === 0x0001_0800 && get32(frame, 18) === 0x0604_0001;
    if (!request || get32(frame, 38) !== PEER_ADDRESS) return;
    const sender = macAt(frame, 22);
    const reply = buildEthernet(42, sender, PEER_MAC, ETHERTYPE.arp);
    put32(reply, 14, 0x0001_0800);
    put32(reply, 18, 0x0604_0002);
    putMac(reply, 22, PEER_MAC);
    put32(reply, 28, PEER_ADDRESS);
    putMac(reply, 32, sender);
    put32(reply, 38, get32(frame, 28));
    this.emit(reply);
  }

  private ipv4(frame: Uint8Array): void {
    const { packet } = this;
    if (!parseIpv4(frame, packet)) {
      this.counters.ignored++;
      return;
    }
    const { destination, protocol, source } = packet;
    const mine = destination === PEER_ADDRESS;
    if (!mine && destination !== 0xffff_ffff) {
      this.counters.ignored++;
      return;
    }
    if (mine && source !== 0) this.client = { mac: macAt(frame, 6), address: source };
    if (protocol === PROTOCOL.udp) this.udp(frame, mine);
    else if (protocol === PROTOCOL.tcp && mine) this.tcp(frame);
    else if (protocol === PROTOCOL.icmp && mine) this.icmp(frame);
    else this.counters.ignored++;
  }

  /** Echo (RFC 792): the request comes back with type 0. */
  private icmp(frame: Uint8Array): void {
    const { start, end, source } = this.packet;
    if (end - start < 8 || frame[start] !== 8 || frame[start + 1] !== 0) return;
    if (checksumFold(checksumAdd(0, frame, start, end)) !== 0xffff) {
      this.counters.badChecksums++;
      return;
    }
    this.counters.pings++;
    const reply = buildEthernet(PAYLOAD + end - start, macAt(frame, 6), PEER_MAC, ETHERTYPE.ipv4);
    putIpv4(reply, PROTOCOL.icmp, PEER_ADDRESS, source, 0);
    reply.set(frame.subarray(start, end), PAYLOAD);
    reply[PAYLOAD] = 0;
    put16(reply, PAYLOAD + 2, 0);
    put16(reply, PAYLOAD + 2, checksumFinish(checksumAdd(0, reply, PAYLOAD, reply.length)));
    this.emit(reply);
  }

  private udp(frame: Uint8Array, mine: boolean): void {
    const { packet } = this;
    const { start, source } = packet;
    const length = get16(frame, start + 4);
    if (packet.end - start < UDP_HEADER || length < UDP_HEADER || start + length > packet.end) {
      this.counters.ignored++;
      return;
    }
    packet.end = start + length;
    if (!transportChecksumOk(frame, packet)) {
      this.counters.badChecksums++;
      return;
    }
    const port = get16(frame, start + 2);
    const from = get16(frame, start);
    const payload = start + UDP_HEADER;
    if (port === DHCP_SERVER_PORT) {
      const answer = this.dhcp.answer(frame, payload, packet.end);
      if (answer !== undefined) this.emit(answer);
    } else if (!mine) {
      this.counters.ignored++;
    } else if (port === PORTS.discard) {
      this.counters.discardDatagrams++;
      this.counters.discardBytes += packet.end - payload;
    } else if (port === PORTS.echo) {
      this.emit(buildUdp(macAt(frame, 6), PEER_MAC, PEER_ADDRESS, port, source, from, frame.subarray(payload, packet.end)));
    } else if (port === PORTS.flood) {
      this.floodRequest(frame, payload, from);
    } else {
      this.unreachable(frame);
    }
  }

  /** `COUNT SIZE` as text asks for a flood to the port it came from. */
  private floodRequest(frame: Uint8Array, payload: number, port: number): void {
    const text = Buffer.from(frame.subarray(payload, Math.min(this.packet.end, payload + 64))).toString('latin1');
    const match = /^\s*(\d{1,9}) (\d{1,4})\s*$/.exec(text);
    if (match !== null) this.startFlood(macAt(frame, 6), this.packet.source, port, Number(match[1]), Number(match[2]));
  }

  private startFlood(mac: number, address: number, port: number, count: number, size: number): void {
    this.running = new Flood({ mac, address, port }, count, size);
    this.continueFlood();
  }

  private continueFlood(): void {
    if (this.running === undefined) return;
    const before = this.running.sent;
    const state = this.running.run(this);
    this.counters.floodDatagrams += this.running.sent - before;
    if (state === 'done') this.running = undefined;
    // A card that takes everything must not hold the machine: the rest goes on shortly.
    if (state === 'pause') this.schedule(this.clock.now() + 20_000);
  }

  /** ICMP port unreachable, so that a client (of DNS, say) need not wait for its timeout. */
  private unreachable(frame: Uint8Array): void {
    const quoted = Math.min(this.packet.start + 8, this.packet.end) - 14;
    const reply = buildEthernet(PAYLOAD + 8 + quoted, macAt(frame, 6), PEER_MAC, ETHERTYPE.ipv4);
    putIpv4(reply, PROTOCOL.icmp, PEER_ADDRESS, this.packet.source, 0);
    reply.set([3, 3], PAYLOAD);
    reply.set(frame.subarray(14, 14 + quoted), PAYLOAD + 8);
    put16(reply, PAYLOAD + 2, checksumFinish(checksumAdd(0, reply, PAYLOAD, reply.length)));
    this.emit(reply);
  }

  private tcp(frame: Uint8Array): void {
    const { packet } = this;
    const { start } = packet;
    const header = (frame[start + 12] >>> 4) * 4;
    if (packet.end - start < TCP_HEADER || header < TCP_HEADER || start + header > packet.end) {
      this.counters.ignored++;
      return;
    }
    if (!transportChecksumOk(frame, packet)) {
      this.counters.badChecksums++;
      return;
    }
    const endpoint = { mac: macAt(frame, 6), address: packet.source, port: get16(frame, start), localPort: get16(frame, start + 2) };
    const key = `${endpoint.address}:${endpoint.port}:${endpoint.localPort}`;
    let connection = this.connections.get(key);
    const flags = frame[start + 13];
    const opens = (flags & (TCP.syn | TCP.ack | TCP.rst | TCP.fin)) === TCP.syn;
    if (opens && connection?.state === 'time-wait') {
      this.connections.delete(key);
      connection = undefined;
    }
    if (connection !== undefined) {
      connection.segmentArrived(frame, packet);
      this.forgetClosed(key, connection);
    } else if (opens && endpoint.localPort === PORTS.http && this.makeRoom()) {
      this.counters.connections++;
      this.sequence = (this.sequence + 0x0012_3457) >>> 0;
      const exchange = new HttpExchange((bytes, sha256) => this.uploaded(bytes, sha256));
      this.connections.set(key, new Connection(this, endpoint, exchange, this.sequence, frame, packet));
    } else if ((flags & TCP.rst) === 0) {
      this.refuse(frame, endpoint.mac, header, flags);
    }
  }

  private uploaded(bytes: number, sha256: string): void {
    this.log.debug('upload finished', { bytes, sha256 });
    this.uploads.push({ bytes, sha256 });
    if (this.uploads.length > UPLOADS) this.uploads.shift();
  }

  /** At the limit, a connection that only waits for stragglers gives way. */
  private makeRoom(): boolean {
    if (this.connections.size < CONNECTIONS) return true;
    for (const [key, connection] of this.connections) {
      if (connection.state !== 'time-wait') continue;
      this.counters.retransmissions += connection.retransmissions;
      this.connections.delete(key);
      return true;
    }
    this.counters.connectionsRefused++;
    return false;
  }

  private forgetClosed(key: string, connection: Connection): void {
    if (connection.state !== 'closed') return;
    this.counters.retransmissions += connection.retransmissions;
    this.connections.delete(key);
  }

  /** RST for a segment that belongs to no connection (RFC 9293, 3.5.2). */
  private refuse(frame: Uint8Array, mac: number, header: number, flags: number): void {
    const { start, end, source } = this.packet;
    const reply = buildEthernet(PAYLOAD + TCP_HEADER, mac, PEER_MAC, ETHERTYPE.ipv4);
    putIpv4(reply, PROTOCOL.tcp, PEER_ADDRESS, source, 0);
    put16(reply, PAYLOAD, get16(frame, start + 2));
    put16(reply, PAYLOAD + 2, get16(frame, start));
    if ((flags & TCP.ack) !== 0) {
      put32(reply, PAYLOAD + 4, get32(frame, start + 8));
      reply[PAYLOAD + 13] = TCP.rst;
    } else {
      const length = end - start - header + (flags & TCP.syn ? 1 : 0) + (flags & TCP.fin ? 1 : 0);
      put32(reply, PAYLOAD + 8, (get32(frame, start + 4) + length) >>> 0);
      reply[PAYLOAD + 13] = TCP.rst | TCP.ack;
    }
    reply[PAYLOAD + 12] = 0x50;
    putTransportChecksum(reply, PAYLOAD + 16);
    this.emit(reply);
  }
}
