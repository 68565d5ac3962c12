import { describe, expect, test } from 'vitest';
import { checksumAdd, checksumFold } from '../../../base/internet-checksum.ts';
import { createBench, DATA, DEXT, EOP, frameTo, IDE, PEER, post, RS, startTransmit, TSE, TX_RING, VLE } from './testing.ts';

const BUFFER = 0x8000;

/** Ethernet, IPv4 and TCP headers with the pseudo header's sum in the checksum field, as Linux leaves them for segmentation. */
function tcpPacket(payload: number): Uint8Array {
  const packet = frameTo(PEER, 54 + payload, 0x0800);
  packet.fill(0, 14, 54);
  packet.set([0x45, 0], 14);
  new DataView(packet.buffer).setUint16(18, 0xfffe); // identification that wraps
  packet.set([64, 6], 22);
  packet.set([10, 0, 2, 15, 10, 0, 2, 2], 26);
  packet.set([0x80, 1, 0, 80, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x50, 0x19], 34);
  const pseudo = checksumFold(checksumAdd(6, packet, 26, 34));
  packet.set([pseudo >>> 8, pseudo & 0xff], 50);
  return packet;
}

const CONTEXT_IP = 14 | (24 << 8) | (33 << 16);
const CONTEXT_TCP = 34 | (50 << 8);
const contextTso = (mss: number, header = 54): readonly [number, number, number, number] => [
  CONTEXT_IP,
  CONTEXT_TCP,
  DEXT | TSE | 0x0300_0000,
  (mss << 16) | (header << 8),
];

const sumsAreRight = (frame: Uint8Array) => {
  const end = 14 + ((frame[16] << 8) | frame[17]);
  const ip = checksumFold(checksumAdd(0, frame, 14, 34));
  const tcp = checksumFold(checksumAdd(checksumAdd(6 + end - 34, frame, 26, 34), frame, 34, end));
  return ip === 0xffff && tcp === 0xffff;
};

describe('legacy descriptors', () => {
  test('a frame of two buffers is sent and reported', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.memory.set(frameTo(PEER, 100), BUFFER);
    post(bench, [BUFFER, 0, 40, 0], [BUFFER + 40, 0, 60 | EOP | RS, 0]);
    expect(bench.sent).toEqual([frameTo(PEER, 100)]);
    expect([bench.view.getUint8(TX_RING + 12), bench.view.getUint8(TX_RING + 28)]).toEqual([0, 1]);
    expect(bench.read('ICR')).toBe(3);
    expect([bench.read('GPTC'), bench.read('GPTC'), bench.read('GOTCL'), bench.read('PTC127')]).toEqual([1, 0, 104, 1]);
  });
  test('nothing moves while the transmitter is off', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.write('TCTL', 0);
    post(bench, [BUFFER, 0, 60 | EOP, 0]);
    expect(bench.sent).toHaveLength(0);
    bench.write('TCTL', 2);
    expect(bench.sent).toHaveLength(1);
  });
  test('short frames are padded when asked', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.write('TCTL', 0xa);
    bench.memory.set(frameTo(PEER, 42), BUFFER);
    post(bench, [BUFFER, 0, 42 | EOP, 0]);
    expect(bench.sent[0].length).toBe(60);
    expect(bench.sent[0].subarray(42)).toEqual(new Uint8Array(18));
  });
  test('the ring wraps', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.write('TDH', 63);
    bench.write('TDT', 63);
    bench.memory.set(frameTo(PEER, 60), BUFFER);
    post(bench, [BUFFER, 0, 60 | EOP, 0], [BUFFER, 0, 60 | EOP, 0]);
    expect(bench.sent).toHaveLength(2);
    expect(bench.read('TDH')).toBe(1);
  });
  test('inserts a checksum and a VLAN tag', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.write('CTRL', 1 << 30);
    const frame = frameTo(PEER, 64);
    frame.set([0, 0], 20);
    bench.memory.set(frame, BUFFER);
    post(bench, [BUFFER, 0, 64 | (20 << 16) | EOP | TSE | VLE, (14 << 8) | (0x2005 << 16)]);
    const [sent] = bench.sent;
    expect([...sent.subarray(12, 18)]).toEqual([0x81, 0, 0x20, 5, 0x88, 0xb5]);
    expect(checksumFold(checksumAdd(0, sent, 18, 68))).toBe(0xffff);
  });
  test('TIDV delays the interrupt of a descriptor with IDE, TADV bounds the delay', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.write('TIDV', 10);
    bench.write('TADV', 15);
    bench.write('IMS', 1);
    post(bench, [BUFFER, 0, 60 | EOP | RS | IDE, 0]);
    bench.advance(8_000);
    post(bench, [BUFFER, 0, 60 | EOP | RS | IDE, 0]);
    bench.advance(7_359);
    expect(bench.line.level).toBe(false);
    bench.advance(1);
    expect(bench.line.level).toBe(true);
  });
});

describe('context and data descriptors', () => {
  test('IP and TCP checksums are inserted', () => {
    const bench = createBench();
    startTransmit(bench);
    const packet = tcpPacket(1000);
    const view = new DataView(packet.buffer);
    view.setUint16(16, 1040);
    view.setUint16(50, checksumFold(checksumAdd(6 + 1020, packet, 26, 34)));
    bench.memory.set(packet, BUFFER);
    post(bench, [CONTEXT_IP, CONTEXT_TCP, DEXT | 0x0100_0000, 0], [BUFFER, 0, packet.length | DATA | DEXT | EOP | RS, 0x300]);
    expect(bench.sent).toHaveLength(1);
    expect(sumsAreRight(bench.sent[0])).toBe(true);
    expect(bench.sent[0].subarray(54)).toEqual(packet.subarray(54));
  });

  test.each([
    [4000, 1460, 3],
    [2920, 1460, 2],
    [100, 1460, 1],
    [5, 1, 5],
  ])('%i bytes in segments of %i are %i frames', (bytes, mss, frames) => {
    const bench = createBench();
    startTransmit(bench);
    const packet = tcpPacket(bytes);
    bench.memory.set(packet, BUFFER);
    const split = 54 + Math.floor(bytes / 3);
    post(
      bench,
      contextTso(mss),
      [BUFFER, 0, split | DATA | DEXT | TSE, 0x300],
      [BUFFER + split, 0, (packet.length - split) | DATA | DEXT | TSE | EOP | RS, 0],
    );
    expect(bench.sent).toHaveLength(frames);
    const payload = bench.sent.flatMap((frame) => [...frame.subarray(54)]);
    expect(Uint8Array.from(payload)).toEqual(packet.subarray(54));
    bench.sent.forEach((frame, i) => {
      const view = new DataView(frame.buffer);
      expect(sumsAreRight(frame)).toBe(true);
      expect(view.getUint16(16)).toBe(frame.length - 14);
      expect(view.getUint16(18)).toBe((0xfffe + i) & 0xffff);
      expect(view.getUint32(38)).toBe((0xffffff00 + i * mss) >>> 0);
      expect(view.getUint8(47)).toBe(i === frames - 1 ? 0x19 : 0x10);
    });
    expect(bench.read('TSCTC')).toBe(1);
  });

  test('IPv6 segments carry their payload length', () => {
    const bench = createBench();
    startTransmit(bench);
    const packet = frameTo(PEER, 74 + 2000, 0x86dd);
    bench.memory.set(packet, BUFFER);
    post(
      bench,
      [14, 54 | (70 << 8), DEXT | TSE | 0x0100_0000, (1440 << 16) | (74 << 8)],
      [BUFFER, 0, packet.length | DATA | DEXT | TSE | EOP, 0x200],
    );
    expect(bench.sent.map((frame) => new DataView(frame.buffer).getUint16(18))).toEqual([1460, 580]);
  });
});

describe('hostile rings and descriptors', () => {
  test('head or tail beyond the ring moves nothing', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.write('TDT', 0xffff);
    bench.write('TDLEN', 0);
    bench.write('TDT', 5);
    bench.write('TDH', 0xffff);
    bench.write('TDT', 6);
    expect(bench.sent).toHaveLength(0);
    expect(bench.card.statistics().badRings).toBe(3);
  });
  test('a ring outside memory, at the top of the address space, ends the walk', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.write('TDBAL', 0xfffffff0);
    bench.write('TDBAH', 0xffffffff);
    bench.write('TDT', 63);
    expect(bench.read('TDH')).toBe(0);
    expect(bench.card.statistics().badDescriptors).toBe(1);
  });
  test('buffers outside memory and frames that are too long are dropped and reported done', () => {
    const bench = createBench();
    startTransmit(bench);
    post(bench, [0xfffffff0, 0xffffffff, 60 | EOP | RS, 0]);
    post(bench, [0, 0, 0xffff, 0], [0, 0, 0xffff | EOP | RS, 0], [0, 0, 3 | EOP, 0]);
    expect(bench.sent).toHaveLength(0);
    expect(bench.read('TDH')).toBe(4);
    expect(bench.card.statistics().txDropped).toBe(3);
    post(bench, [BUFFER, 0, 60 | EOP, 0]);
    expect(bench.sent).toHaveLength(1);
  });
  test('segmentation without a segment size, or with headers that do not fit, sends nothing', () => {
    const bench = createBench();
    startTransmit(bench);
    for (const context of [contextTso(0), contextTso(1460, 0), contextTso(1460, 30), contextTso(0xffff)]) {
      post(bench, context, [BUFFER, 0, 4000 | DATA | DEXT | TSE | EOP, 0x300]);
    }
    expect(bench.sent).toHaveLength(0);
    expect(bench.card.statistics().txDropped).toBe(4);
  });
  test('a packet of a million one-byte segments is cut off', () => {
    const bench = createBench(0x20_0000);
    startTransmit(bench);
    post(bench, contextTso(1), [BUFFER, 0, 0xf_ffff | DATA | DEXT | TSE | EOP, 0x300]);
    expect(bench.sent.length).toBeLessThanOrEqual(1024);
    expect(bench.read('TDH')).toBe(2);
  });
  test('a context that changes within a packet does no harm', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.memory.set(tcpPacket(4000), BUFFER);
    post(
      bench,
      contextTso(1460),
      [BUFFER, 0, 1000 | DATA | DEXT | TSE, 0x300],
      contextTso(10, 20),
      [BUFFER, 0, 1000 | DATA | DEXT | TSE, 0x300],
      contextTso(0xffff, 255),
      [BUFFER, 0, 1000 | DATA | DEXT | TSE | EOP, 0x300],
    );
    expect(bench.read('TDH')).toBe(6);
    expect(bench.card.statistics().txDropped).toBe(1);
  });
  test('a full ring of the largest size is worked off in turns', () => {
    const bench = createBench(0x20_0000);
    bench.write('TDBAL', 0x10_0000);
    bench.write('TDLEN', 0x8000 * 16);
    bench.memory.set(frameTo(PEER, 60), BUFFER);
    for (let i = 0; i < 0x8000; i++) {
      bench.view.setUint32(0x10_0000 + i * 16, BUFFER, true);
      bench.view.setUint32(0x10_0008 + i * 16, 60 | EOP, true);
    }
    bench.write('TDT', 0x7fff);
    bench.write('TCTL', 2);
    const first = bench.sent.length;
    expect(first).toBeLessThanOrEqual(1024);
    bench.advance(1_000_000);
    expect(bench.sent).toHaveLength(0x7fff);
  });
  test('random descriptors never throw or hang', () => {
    const bench = createBench();
    let seed = 12345;
    const random = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed;
    };
    startTransmit(bench);
    for (let round = 0; round < 300; round++) {
      for (let i = 0; i < 64 * 4; i++) bench.view.setUint32(TX_RING + i * 4, random() >>> (i % 4 < 2 ? random() & 31 : 0), true);
      bench.write('TDH', random() & 63);
      bench.write('TDT', random() & 63);
      bench.advance(100_000);
      expect(bench.read('TDH')).toBe(bench.read('TDT'));
      bench.sent.length = 0;
    }
    expect(bench.card.statistics().txFrames).toBeGreaterThan(0);
  });
});
