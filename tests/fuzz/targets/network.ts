/**
 * The guest and the far end against the network's host side: frames of every kind into the peer, any bytes into a stream, random traffic through a hub
 * and a capture. Nothing throws, nothing grows, and what comes out is well-formed.
 */
import { EventEmitter } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checksumAdd, checksumFinish, checksumFold } from '../../../src/base/internet-checksum.ts';
import { silentLog } from '../../../src/base/log.ts';
import { createManualClock } from '../../../src/machine/testing.ts';
import {
  buildEthernet,
  buildUdp,
  ETHERTYPE,
  get16,
  macAt,
  MAXIMUM_FRAME,
  MINIMUM_FRAME,
  parseIpv4,
  PAYLOAD,
  PROTOCOL,
  put16,
  put32,
  putIpv4,
  putMac,
  TCP,
  transportChecksumOk,
} from '../../../src/net/ethernet.ts';
import { createHub } from '../../../src/net/hub.ts';
import { withPcap } from '../../../src/net/pcap.ts';
import { PEER_ADDRESS, PEER_MAC, PORTS } from '../../../src/net/peer/identity.ts';
import { createPeer } from '../../../src/net/peer/peer.ts';
import { buildSegment, CLIENT_ADDRESS, CLIENT_MAC, parseSegment } from '../../../src/net/peer/testing.ts';
import type { NetworkBackend } from '../../../src/net/ports.ts';
import { streamOver } from '../../../src/net/stream.ts';
import { mutate } from '../mutate.ts';
import type { Random } from '../random.ts';
import { places, type Target } from '../target.ts';

const REQUESTS = [
  'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
  'GET /file?bytes=3000&seed=7 HTTP/1.0\r\n\r\n',
  'GET /file?bytes=99999999999999999999&seed=-1 HTTP/1.1\r\n\r\n',
  'POST /upload HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello',
  'PUT /upload HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n',
  'POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n',
  'HEAD / HTTP/1.1\r\n\r\n',
] as const;

/** What the client side of one TCP connection knows. */
interface Session {
  port: number;
  next: number;
  expected: number;
}

const newSession = (random: Random): Session => ({
  port: 1024 + random.below(200),
  next: random.once(4) ? 0xffff_ff00 : random.word(),
  expected: 0,
});

function segmentOf(random: Random, session: Session): Uint8Array {
  const opening = session.expected === 0 && !random.once(8);
  const flags = opening
    ? TCP.syn
    : random.pick([
        TCP.ack,
        TCP.ack | TCP.psh,
        TCP.syn,
        TCP.ack,
        TCP.ack,
        TCP.ack | TCP.psh,
        TCP.ack | TCP.fin,
        TCP.rst,
        TCP.syn | TCP.fin,
        random.below(64),
      ]);
  const text = !opening && random.once(2) ? Buffer.from(random.pick(REQUESTS)) : Buffer.alloc(0);
  const cut = random.once(4) ? text.subarray(random.below(text.length + 1)) : text;
  const data = !opening && random.once(10) ? random.bytes(random.below(1400)) : cut;
  const shift = random.once(12) ? random.word() : 0;
  const options = random.once(3) ? [2, 4, random.below(256), random.below(256), 1, 3, 3, random.below(256)] : [];
  if (random.once(10)) options.push(random.below(256), random.below(4), 0, 0);
  const frame = buildSegment(
    session.port,
    {
      sequence: (session.next + shift) >>> 0,
      acknowledgement: (session.expected + (random.once(12) ? random.word() : 0)) >>> 0,
      flags,
      window: random.pick([0, 1, 100, 1460, 65535, random.below(65536)]),
      data,
    },
    options,
    random.once(16) ? random.below(65536) : 80,
  );
  if (shift === 0) session.next = (session.next + data.length + (flags & (TCP.syn | TCP.fin) ? 1 : 0)) >>> 0;
  return frame;
}

function dhcp(random: Random): Uint8Array {
  const message = new Uint8Array(240 + 40);
  message.set([1, 1, 6, 0]);
  putMac(message, 28, CLIENT_MAC + random.below(100));
  put32(message, 236, 0x6382_5363);
  message.set([53, 1, random.below(10), 50, 4, 10, 0, 2, random.below(256), 54, 4, 10, 0, 2, 2, random.pick([255, 0, 12])], 240);
  if (random.once(3)) message.set(random.bytes(30), 240);
  return buildUdp(PEER_MAC, CLIENT_MAC, CLIENT_ADDRESS, 68, PEER_ADDRESS, 67, message.subarray(0, 240 + random.below(41)));
}

function arp(random: Random): Uint8Array {
  const frame = buildEthernet(42 + random.below(20), 0xffff_ffff_ffff, CLIENT_MAC, ETHERTYPE.arp);
  put32(frame, 14, 0x0001_0800);
  put32(frame, 18, 0x0604_0001);
  putMac(frame, 22, CLIENT_MAC);
  put32(frame, 28, CLIENT_ADDRESS);
  put32(frame, 38, PEER_ADDRESS);
  return frame;
}

function ping(random: Random): Uint8Array {
  const frame = buildEthernet(PAYLOAD + 8 + random.below(1400), PEER_MAC, CLIENT_MAC, ETHERTYPE.ipv4);
  putIpv4(frame, PROTOCOL.icmp, CLIENT_ADDRESS, PEER_ADDRESS, random.below(65536));
  frame[PAYLOAD] = 8;
  put16(frame, PAYLOAD + 2, checksumFinish(checksumAdd(0, frame, PAYLOAD, frame.length)));
  return frame;
}

function datagram(random: Random): Uint8Array {
  const port = random.pick([PORTS.echo, PORTS.discard, PORTS.flood, PORTS.flood, random.below(65536)]);
  const text = Buffer.from(random.pick(['10 100', '999999999 9999', '0 0', `${random.word()} 5`, 'x']));
  const payload = random.once(2) ? text : random.bytes(random.below(1473));
  return buildUdp(PEER_MAC, CLIENT_MAC, CLIENT_ADDRESS, random.below(65536), PEER_ADDRESS, port, payload);
}

/** Checksums made right again after a change, so that it gets past them: IPv4 header, then TCP, UDP or ICMP. */
function repair(frame: Uint8Array): void {
  const header = (frame[14] & 15) * 4;
  const end = 14 + get16(frame, 16);
  if (frame.length < PAYLOAD + 20 || get16(frame, 12) !== ETHERTYPE.ipv4 || header < 20 || end > frame.length || end < 14 + header + 8)
    return;
  put16(frame, 24, 0);
  put16(frame, 24, checksumFinish(checksumAdd(0, frame, 14, 14 + header)));
  const start = 14 + header;
  const field = { [PROTOCOL.tcp]: 16, [PROTOCOL.udp]: 6, [PROTOCOL.icmp]: 2 }[frame[23]];
  if (field === undefined || start + field + 2 > end) return;
  put16(frame, start + field, 0);
  const pseudo = frame[23] === PROTOCOL.icmp ? 0 : checksumAdd(frame[23] + end - start, frame, 26, 34);
  put16(frame, start + field, checksumFinish(checksumAdd(pseudo, frame, start, end)));
}

function anyFrame(random: Random, sessions: Session[]): Uint8Array {
  const session = random.pick(sessions);
  const frame = random.pick([() => segmentOf(random, session), () => segmentOf(random, session), arp, ping, datagram, dhcp])(random);
  if (!random.once(3)) return frame;
  const changed = random.once(12) ? random.bytes(random.below(200)) : mutate(random, frame, [[12, 60]]);
  if (random.once(2)) repair(changed);
  return changed;
}

/** What the peer sends is what a host may send: whole, addressed, with checksums that are right. */
function checkFrame(frame: Uint8Array): void {
  if (frame.length < MINIMUM_FRAME || frame.length > MAXIMUM_FRAME) throw new Error(`the peer sends a frame of ${frame.length} bytes`);
  if (macAt(frame, 6) !== PEER_MAC) throw new Error('the peer sends with a foreign address');
  const type = get16(frame, 12);
  if (type === ETHERTYPE.arp) return;
  const packet = { start: 0, end: 0, protocol: 0, source: 0, destination: 0 };
  if (type !== ETHERTYPE.ipv4 || !parseIpv4(frame, packet)) throw new Error('the peer sends a broken IPv4 packet');
  if (packet.source !== PEER_ADDRESS) throw new Error('the peer sends with a foreign IPv4 address');
  if (packet.end !== frame.length) throw new Error(`an IPv4 packet ends at ${packet.end} of ${frame.length}`);
  const good =
    packet.protocol === PROTOCOL.icmp
      ? checksumFold(checksumAdd(0, frame, packet.start, packet.end)) === 0xffff
      : transportChecksumOk(frame, packet);
  if (!good) throw new Error(`the peer sends protocol ${packet.protocol} with a wrong checksum`);
}

const MOST_SENT = 2000;
const FRAMES = 200;

const peer: Target = {
  name: 'peer',
  about: 'frames of every kind, half right and half wrong, into the built-in host: bounded answers, every one well-formed',
  unit: 'frame',
  share: 60_000,
  reaches: ['sent', 'ping', 'connection', 'segment', 'data', 'upload', 'reset', 'flood', 'full card', 'time'],
  prepare() {
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const clock = createManualClock();
        const host = createPeer({ clock });
        const sessions = Array.from({ length: 1 + random.below(4) }, () => newSession(random));
        let room = true;
        let sent = 0;
        host.receive = (frame) => {
          if (!room) return false;
          sent++;
          checkFrame(frame);
          const segment = parseSegment(frame);
          if (!segment) return true;
          const session = sessions.find(({ port }) => port === get16(frame, PAYLOAD + 2));
          at((segment.flags & TCP.rst) !== 0 ? 'reset' : segment.data.length > 0 ? 'data' : 'segment');
          if (session && (segment.flags & TCP.syn) !== 0) session.expected = (segment.sequence + 1) >>> 0;
          else if (session?.expected === segment.sequence)
            session.expected = (session.expected + segment.data.length + (segment.flags & TCP.fin ? 1 : 0)) >>> 0;
          return true;
        };
        let done = 0;
        for (const _ of random.steps(FRAMES)) {
          const before = sent;
          done++;
          switch (random.below(12)) {
            case 0:
              room = !room;
              if (!room) at('full card');
              if (room) host.ready();
              break;
            case 1:
              // A host that was held up: the timers run late, each a few times. A flood of seconds would be billions of frames.
              clock.jump(random.pick([1000, 1e6, 1e8, 5e9, 1e11]) * random.below(4));
              for (let run = 0; run < 4; run++) clock.runDue();
              at('time');
              continue; // a flood goes on with the time
            case 2:
              if (random.once(4)) sessions[random.below(sessions.length)] = newSession(random);
              else host.flood({ port: 9, count: random.word(), size: random.below(3000) });
              break;
            default:
              host.send(anyFrame(random, sessions));
          }
          if (sent - before > MOST_SENT) throw new Error(`one frame is answered by ${sent - before}`);
          const { openConnections } = host.statistics();
          if (openConnections > 64 || host.uploads.length > 64) throw new Error(`${openConnections} connections are open`);
        }
        const totals = host.statistics();
        at('sent', sent);
        at('ping', totals.pings);
        at('connection', totals.connections);
        at('flood', totals.floodDatagrams);
        at('upload', host.uploads.length);
        host.close();
        if (clock.nextDeadline() !== Number.POSITIVE_INFINITY) throw new Error('a closed peer has a timer running');
        return done;
      },
    };
  },
};

/** What a stream needs of a socket. */
class FakeSocket extends EventEmitter {
  writable = true;
  writableLength = 0;
  destroyed = false;
  paused = false;
  written: Buffer[] = [];
  setNoDelay(): void {}
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
  write(bytes: Buffer): boolean {
    this.written.push(Buffer.from(bytes));
    return true;
  }
  destroy(): void {
    this.destroyed = true;
    this.writable = false;
  }
}

/** The framing of QEMU's stream back end, by itself: frames up to the first impossible length, or what is whole so far. */
function framesOf(bytes: Buffer): { frames: Buffer[]; broken: boolean } {
  const frames: Buffer[] = [];
  for (let at = 0; at + 4 <= bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    if (length === 0 || length > MAXIMUM_FRAME) return { frames, broken: true };
    if (at + 4 + length > bytes.length) break;
    if (length >= MINIMUM_FRAME) frames.push(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return { frames, broken: false };
}

const stream: Target = {
  name: 'stream',
  about:
    'any bytes in any pieces from the far end of a stream, a card with and without room: exactly the frames that were framed, or closed',
  unit: 'piece',
  share: 30_000,
  reaches: ['frame', 'broken', 'held back', 'sent'],
  prepare() {
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const socket = new FakeSocket();
        const backend = streamOver(socket as unknown as Socket, { log: silentLog });
        const got: Uint8Array[] = [];
        let room = true;
        backend.receive = (frame) => {
          if (room) got.push(frame);
          else at('held back');
          return room;
        };
        const parts: Buffer[] = [];
        for (const _ of random.steps(random.below(12))) {
          const length = random.once(20) ? random.word() : random.pick([1, 13, 14, 60, 1514, random.below(3000), 65535]);
          const prefix = Buffer.alloc(4);
          prefix.writeUInt32BE(length);
          parts.push(prefix, Buffer.from(random.bytes(Math.min(length, random.once(10) ? random.below(70_000) : length, 70_000))));
        }
        const all = Buffer.concat(parts);
        let done = 0;
        let position = 0;
        while (position < all.length && !socket.destroyed && done < 3000) {
          const piece = 1 + random.below(random.pick([4, 60, 3000, 70_000]));
          socket.emit('data', Buffer.from(all.subarray(position, position + piece)));
          position += piece;
          done++;
          if (random.once(6)) room = !room;
          if (room) backend.ready();
          if (socket.paused && room && !socket.destroyed) throw new Error('the socket stays paused though the card has room');
        }
        room = true;
        backend.ready();
        const { frames, broken } = framesOf(all.subarray(0, position));
        at('frame', frames.length);
        if (broken) at('broken');
        if (broken !== socket.destroyed)
          throw new Error(`the connection is ${socket.destroyed ? 'closed' : 'open'} after a ${broken ? 'bad' : 'good'} length`);
        if (got.length !== frames.length || got.some((frame, index) => !frames[index].equals(frame)))
          throw new Error(`${got.length} frames arrive, ${frames.length} were sent`);
        const frame = random.bytes(14 + random.below(100));
        backend.send(frame);
        if (!broken) {
          at('sent');
          const { frames: back } = framesOf(Buffer.concat(socket.written));
          if (back.length !== 1 || !back[0].equals(frame)) throw new Error('the frame that was sent is not what arrives');
        }
        backend.close();
        return Math.max(1, done);
      },
    };
  },
};

const hub: Target = {
  name: 'hub',
  about:
    'random traffic between cards of a hub, with a capture on one: every frame to whom it is for, bounded memory, the capture has what passed',
  unit: 'frame',
  share: 30_000,
  reaches: ['delivered', 'flooded', 'captured', 'full card'],
  prepare() {
    const folder = mkdtempSync(join(tmpdir(), 'fuzz-hub-'));
    const file = join(folder, 'capture.pcap');
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const fd = openSync(file, 'w');
        const joined = createHub();
        const passed: Uint8Array[] = [];
        const count = 2 + random.below(4);
        const room = new Array<boolean>(count).fill(true);
        const got: number[] = new Array(count).fill(0);
        let time = random.pick([0, 1.7e18, 2 ** 32 * 1e9]);
        const cards: NetworkBackend[] = Array.from({ length: count }, (_, index) => {
          const port = joined.attach();
          return index === 0 ? withPcap(port, { to: fd, log: silentLog, now: () => (time += random.below(2 ** 31)) }) : port;
        });
        for (const [index, card] of cards.entries())
          card.receive = (frame) => {
            if (!room[index]) return false;
            got[index]++;
            if (index === 0) passed.push(frame.slice());
            return true;
          };
        let done = 0;
        for (const _ of random.steps(60)) {
          done++;
          const from = random.below(count);
          if (random.once(8)) {
            room[from] = !room[from];
            if (room[from]) cards[from].ready();
            else at('full card');
            continue;
          }
          const frame = random.bytes(random.once(10) ? random.below(70) : 14 + random.below(1600));
          if (frame.length >= 14) {
            frame.set([2, 0, 0, 0, 0, random.once(4) ? random.below(256) : random.below(count)], 6);
            frame.set(random.once(3) ? [255, 255, 255, 255, 255, 255] : [2, 0, 0, 0, 0, random.below(count)]);
          }
          if (from === 0) passed.push(frame.slice());
          const before = [...got];
          cards[from].send(frame);
          if (got[from] !== before[from]) throw new Error('a frame comes back to who sent it');
        }
        const statistics = joined.statistics();
        if (statistics.addresses > 1024) throw new Error(`${statistics.addresses} addresses are kept`);
        at(
          'delivered',
          got.reduce((sum, number) => sum + number, 0),
        );
        at('flooded', statistics.flooded);
        for (const card of cards) card.close();
        closeSync(fd);
        checkCapture(readFileSync(file), passed);
        at('captured', passed.length);
        return done;
      },
      close: () => rmSync(folder, { recursive: true }),
    };
  },
};

/** Reads a capture by the format's definition (draft-ietf-opsawg-pcap, 4 and 5). */
function checkCapture(file: Buffer, frames: readonly Uint8Array[]): void {
  if (file.readUInt32LE(0) !== 0xa1b2_3c4d || file.readUInt32LE(20) !== 1) throw new Error('the capture has a wrong header');
  let at = 24;
  for (const [index, frame] of frames.entries()) {
    const [nanoseconds, kept, length] = [4, 8, 12].map((offset) => file.readUInt32LE(at + offset));
    if (nanoseconds >= 1e9) throw new Error(`record ${index} has ${nanoseconds} ns`);
    if (kept !== frame.length || length !== frame.length)
      throw new Error(`record ${index} has ${kept} of ${length} bytes, sent were ${frame.length}`);
    if (!file.subarray(at + 16, at + 16 + kept).equals(frame)) throw new Error(`record ${index} is another frame`);
    at += 16 + kept;
  }
  if (at !== file.length) throw new Error(`the capture has ${file.length - at} bytes too many`);
}

export const NETWORK_TARGETS: readonly Target[] = [peer, stream, hub];
