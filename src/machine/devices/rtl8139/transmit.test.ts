import { describe, expect, test } from 'vitest';
import { checksumAdd, checksumFold } from '../../../base/internet-checksum.ts';
import {
  type Bench,
  createBench,
  END,
  FIRST,
  frameTo,
  HIGH_RING,
  LAST,
  OWN,
  packetTo,
  PEER,
  put,
  startPlus,
  TX_RING,
  words,
} from './testing.ts';

const BUFFER = 0x8000;
const LARGE = 0x0800_0000;
const SUMS = { ip: 1 << 18, udp: 1 << 17, tcp: 1 << 16 };
const NORMAL = 0x40;
const HIGH = 0x80;

function sendOne(bench: Bench, frame: Uint8Array, command = 0, tag = 0, index = 0): void {
  bench.memory.set(frame, BUFFER);
  put(bench, TX_RING, index, [OWN | FIRST | LAST | command | frame.length, tag, BUFFER]);
  bench.write('TPPOLL', NORMAL);
}

const started = () => {
  const bench = createBench();
  startPlus(bench);
  return bench;
};

const sumsAreRight = (frame: Uint8Array, start = 14) => {
  const end = start + ((frame[start + 2] << 8) | frame[start + 3]);
  const ip = checksumFold(checksumAdd(0, frame, start, start + 20));
  const pseudo = checksumAdd(frame[start + 9] + end - start - 20, frame, start + 12, start + 20);
  return [ip === 0xffff, checksumFold(checksumAdd(pseudo, frame, start + 20, end)) === 0xffff];
};

describe('C+ rings', () => {
  test('a frame of two buffers is sent and given back', () => {
    const bench = started();
    bench.write('IMR', 0x04);
    bench.memory.set(frameTo(PEER, 100), BUFFER);
    put(bench, TX_RING, 0, [OWN | FIRST | 40, 0, BUFFER], [OWN | LAST | 60, 0, BUFFER + 40]);
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent).toEqual([frameTo(PEER, 100)]);
    expect([words(bench, TX_RING, 0)[0], words(bench, TX_RING, 1)[0]]).toEqual([FIRST | 40, LAST | 60]);
    expect([bench.line.level, bench.read('ISR'), bench.read('TPPOLL'), bench.read('TDOKLADDR')]).toEqual([true, 0x84, 0, TX_RING + 16]);
  });
  test('nothing of a packet is touched before all of it is there', () => {
    const bench = started();
    bench.memory.set(frameTo(PEER, 100), BUFFER);
    put(bench, TX_RING, 0, [OWN | FIRST | 40, 0, BUFFER], [LAST | 60, 0, BUFFER + 40]);
    bench.write('TPPOLL', NORMAL);
    expect([bench.sent.length, words(bench, TX_RING, 0)[0] >>> 31]).toEqual([0, 1]);
    put(bench, TX_RING, 1, [OWN | LAST | 60, 0, BUFFER + 40]);
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent).toHaveLength(1);
  });
  test('the ring wraps at "end of ring", and a packet may lie across it', () => {
    const bench = started();
    bench.memory.set(frameTo(PEER, 100), BUFFER);
    const frame = (end = 0): [number, number, number] => [OWN | FIRST | LAST | end | 100, 0, BUFFER];
    put(bench, TX_RING, 0, frame(), frame(), [OWN | END | FIRST | 50, 0, BUFFER]);
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent).toHaveLength(2);
    put(bench, TX_RING, 0, [OWN | LAST | 50, 0, BUFFER + 50]);
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent[2]).toEqual(frameTo(PEER, 100));
    put(bench, TX_RING, 1, frame());
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent).toHaveLength(4);
  });
  test('the high priority ring goes first', () => {
    const bench = started();
    bench.memory.set(frameTo(PEER, 60), BUFFER);
    bench.memory.set(frameTo(PEER, 61), BUFFER + 0x100);
    put(bench, TX_RING, 0, [OWN | FIRST | LAST | 60, 0, BUFFER]);
    put(bench, HIGH_RING, 0, [OWN | FIRST | LAST | 61, 0, BUFFER + 0x100]);
    bench.write('TPPOLL', NORMAL | HIGH);
    expect(bench.sent.map((frame) => frame.length)).toEqual([61, 60]);
  });
  test('nothing moves while the transmitter is off; turning it on starts at the first descriptor', () => {
    const bench = started();
    bench.memory.set(frameTo(PEER, 60), BUFFER);
    sendOne(bench, frameTo(PEER, 60));
    bench.write('CR', 0);
    sendOne(bench, frameTo(PEER, 60));
    expect(bench.sent).toHaveLength(1);
    bench.write('CR', 0x0c);
    expect(bench.sent).toHaveLength(2);
  });
  test('short frames are padded with zeros', () => {
    const bench = started();
    bench.memory.fill(0xee, BUFFER, BUFFER + 100);
    sendOne(bench, frameTo(PEER, 42));
    expect([bench.sent[0].length, bench.sent[0].subarray(42).every((byte) => byte === 0)]).toEqual([60, true]);
  });
  test('a VLAN tag goes in as it stands', () => {
    const bench = started();
    sendOne(bench, frameTo(PEER, 64), 0, (1 << 17) | 0x0520); // tag control 0x2005
    expect([...bench.sent[0].subarray(10, 18)]).toEqual([0x02, 0x02, 0x81, 0x00, 0x20, 0x05, 0x88, 0xb5]);
    expect(bench.sent[0].length).toBe(68);
  });
});

describe('offload', () => {
  test.each([6, 17] as const)('checksums of protocol %i', (protocol) => {
    const bench = started();
    sendOne(bench, packetTo(PEER, protocol, 101), SUMS.ip | SUMS.tcp | SUMS.udp);
    expect(sumsAreRight(bench.sent[0])).toEqual([true, true]);
  });
  test('what a driver left in the checksum fields does not matter', () => {
    const bench = started();
    const packet = packetTo(PEER, 6, 10);
    packet.set([0xde, 0xad], 50);
    sendOne(bench, packet, SUMS.ip | SUMS.tcp);
    expect(sumsAreRight(bench.sent[0])).toEqual([true, true]);
  });
  test('only what is asked for', () => {
    const bench = started();
    sendOne(bench, packetTo(PEER, 6, 10), SUMS.ip);
    expect(sumsAreRight(bench.sent[0])).toEqual([true, false]);
  });
  test('behind a VLAN tag of the software', () => {
    const bench = started();
    const packet = packetTo(PEER, 6, 10);
    const tagged = new Uint8Array(packet.length + 4);
    tagged.set(packet.subarray(0, 12));
    tagged.set([0x81, 0, 0, 7], 12);
    tagged.set(packet.subarray(12), 16);
    sendOne(bench, tagged, SUMS.ip | SUMS.tcp);
    expect(sumsAreRight(bench.sent[0], 18)).toEqual([true, true]);
  });
  test('a UDP sum of zero goes out as all ones', () => {
    const bench = started();
    const packet = packetTo(PEER, 17, 2);
    packet.fill(0, 42);
    sendOne(bench, packet, SUMS.udp);
    const sum = bench.sent[0].subarray(40, 42);
    packet.set(sum, 42); // a payload word equal to the sum makes the sum zero
    sendOne(bench, packet, SUMS.udp, 0, 1);
    expect([...bench.sent[1].subarray(40, 44)]).toEqual([0xff, 0xff, ...sum]);
  });
  test('large send cuts, counts and sums', () => {
    const bench = started();
    const packet = packetTo(PEER, 6, 2500);
    bench.memory.set(packet, BUFFER);
    const command = OWN | LARGE | (1000 << 16);
    put(bench, TX_RING, 0, [command | FIRST | 54, 1 << 17, BUFFER], [command | LAST | 2500, 1 << 17, BUFFER + 54]);
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent.map((frame) => frame.length)).toEqual([1058, 1058, 558]);
    for (const [i, frame] of bench.sent.entries()) {
      expect(sumsAreRight(frame, 18)).toEqual([true, true]);
      const view = new DataView(frame.buffer);
      expect(view.getUint16(22)).toBe((0xfffe + i) & 0xffff);
      expect(view.getUint32(42)).toBe((0xffff_ff00 + 1000 * i) >>> 0);
      expect(frame[51]).toBe(i === 2 ? 0x19 : 0x10);
      expect(frame.subarray(58)).toEqual(packet.subarray(54 + 1000 * i, 54 + Math.min(2500, 1000 * (i + 1))));
    }
    // The size field overlaps error bits: a finished descriptor must not show one.
    expect([words(bench, TX_RING, 0)[0], words(bench, TX_RING, 1)[0]]).toEqual([FIRST | 54, LAST | 2500]);
  });
  test('a largest packet', () => {
    const bench = createBench('c+', 0x20_0000);
    startPlus(bench);
    bench.memory.set(packetTo(PEER, 6, 65_000), 0x10_0000);
    put(bench, TX_RING, 0, [OWN | FIRST | LAST | LARGE | (1460 << 16) | 65_054, 0, 0x10_0000]);
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent).toHaveLength(45);
    expect(bench.sent.every((frame) => sumsAreRight(frame).every(Boolean))).toBe(true);
  });
});

describe('C mode', () => {
  test('four descriptors in turn', () => {
    const bench = createBench('c');
    bench.write('CR', 0x0c);
    bench.write('IMR', 0x04);
    for (let i = 0; i < 6; i++) {
      bench.memory.set(frameTo(PEER, 60 + i), BUFFER + i * 0x100);
      const address = (['TSAD0', 'TSAD1', 'TSAD2', 'TSAD3'] as const)[i & 3];
      const status = (['TSD0', 'TSD1', 'TSD2', 'TSD3'] as const)[i & 3];
      bench.write(address, BUFFER + i * 0x100);
      bench.write(status, 0x0008_0000 | (60 + i));
      expect(bench.read(status)).toBe((0x0008_a000 | (60 + i)) >>> 0);
    }
    expect(bench.sent).toEqual(Array.from({ length: 6 }, (_, i) => frameTo(PEER, 60 + i)));
    expect([bench.line.level, bench.read('ISR'), bench.read('TSAD')]).toEqual([true, 4, 0xf00f]);
  });
  test('a descriptor out of turn waits', () => {
    const bench = createBench();
    bench.write('CR', 0x04);
    bench.write('TSAD1', BUFFER);
    bench.write('TSD1', 60);
    expect([bench.sent.length, bench.read('TSD1')]).toEqual([0, 60]);
    bench.write('TSD0', 60);
    expect([bench.sent.length, bench.read('TSD1')]).toEqual([2, 0xa000 | 60]);
  });
  test('a size that the chip does not take, or a buffer outside memory, is an abort', () => {
    const bench = createBench();
    bench.write('CR', 0x04);
    bench.write('TSD0', 1793);
    bench.write('TSAD1', 0xffff_fff0);
    bench.write('TSD1', 60);
    bench.write('TSD2', 0);
    for (const name of ['TSD0', 'TSD1', 'TSD2'] as const) expect([name, bench.read(name) & 0x4000_a000]).toEqual([name, 0x4000_2000]);
    expect([bench.sent.length, bench.read('ISR'), bench.card.statistics().txDropped]).toEqual([0, 8, 3]);
    bench.write('TSD3', 60);
    expect(bench.sent).toHaveLength(1);
  });
  test('narrow writes to a status register do nothing', () => {
    const bench = createBench();
    bench.write('CR', 0x04);
    bench.card.bars[1]?.registers.write(0x10, 2, 60);
    expect([bench.sent.length, bench.read('TSD0')]).toEqual([0, 0x2000]);
  });
});

describe('hostile rings', () => {
  const errorOf = (bench: Bench, index = 0) => words(bench, TX_RING, index)[0] & 0x0080_0000;
  const large = (mss: number) => LARGE | (mss << 16);
  test.each([
    ['no first', OWN | LAST | 60],
    ['too short', OWN | FIRST | LAST | 13],
    ['too long', OWN | FIRST | LAST | 9000],
    ['large send without a size', OWN | FIRST | LAST | large(0) | 1000],
    ['large send of what is not TCP', OWN | FIRST | LAST | large(100) | 1000],
  ])('%s is given back as an error', (_, command) => {
    const bench = started();
    put(bench, TX_RING, 0, [command, 0, BUFFER]);
    bench.write('TPPOLL', NORMAL);
    expect([bench.sent.length, errorOf(bench), words(bench, TX_RING, 0)[0] >>> 31, bench.read('ISR') & 8]).toEqual([0, 0x0080_0000, 0, 8]);
  });
  test.each([
    [
      'header beyond the packet',
      (packet: Uint8Array) => {
        packet[14] = 0x4f;
      },
      60,
    ],
    [
      'TCP header beyond the packet',
      (packet: Uint8Array) => {
        packet[46] = 0xf0;
      },
      74,
    ],
    [
      'TCP header too small',
      (packet: Uint8Array) => {
        packet[46] = 0x10;
      },
      74,
    ],
    [
      'a fragment',
      (packet: Uint8Array) => {
        packet[20] = 0x20;
      },
      74,
    ],
    ['too many segments', () => {}, 5000],
  ])('large send with %s', (_, change, size) => {
    const bench = started();
    const packet = packetTo(PEER, 6, size - 54);
    change(packet);
    sendOne(bench, packet, large(size === 5000 ? 1 : 100));
    expect([bench.sent.length, errorOf(bench)]).toEqual([0, 0x0080_0000]);
  });
  test('checksums of headers that do not fit are left alone', () => {
    for (const change of [
      [14, 0x4f],
      [14, 0x41],
      [16, 0xff],
      [20, 0x20],
      [17, 21],
    ] as const) {
      const bench = started();
      const packet = packetTo(PEER, 6, 6);
      packet[change[0]] = change[1];
      sendOne(bench, packet, SUMS.tcp);
      expect(bench.sent[0].subarray(34, 60)).toEqual(packet.subarray(34, 60));
    }
  });
  test('a ring of one descriptor without an end, and one without any end', () => {
    const bench = started();
    put(bench, TX_RING, 0, [OWN | END | FIRST | 60, 0, BUFFER]);
    bench.write('TPPOLL', NORMAL);
    expect([bench.sent.length, errorOf(bench)]).toEqual([0, 0x0080_0000]);
    const other = started();
    put(other, TX_RING, 0, ...Array.from({ length: 70 }, (): [number, number, number] => [OWN | FIRST | 60, 0, BUFFER]));
    other.write('TPPOLL', NORMAL);
    expect([other.sent.length, words(other, TX_RING, 63)[0] >>> 31, words(other, TX_RING, 64)[0] >>> 31]).toEqual([0, 0, 1]);
  });
  test('an end of ring before the place where the card stands', () => {
    const bench = started();
    bench.memory.set(frameTo(PEER, 60), BUFFER);
    const frame: [number, number, number] = [OWN | FIRST | LAST | 60, 0, BUFFER];
    put(bench, TX_RING, 0, frame, frame, frame);
    bench.write('TPPOLL', NORMAL);
    const stray = (i: number): [number, number, number] => [OWN | FIRST | (i === 1 ? END : 0) | 1, 0, BUFFER];
    put(bench, TX_RING, 0, ...Array.from({ length: 64 }, (_, i) => stray(i)));
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent).toHaveLength(3);
    expect(bench.read('TPPOLL')).toBe(0);
  });
  test('rings and buffers outside memory', () => {
    const bench = started();
    bench.write('TSAD1', 0xffff_ffff);
    bench.write('TPPOLL', NORMAL);
    expect([bench.sent.length, bench.read('TPPOLL'), bench.card.statistics().badRings]).toEqual([0, 0, 1]);
    bench.write('TSAD1', 0);
    put(bench, TX_RING, 0, [OWN | FIRST | LAST | 60, 0, 0xffff_0000]);
    bench.write('TPPOLL', NORMAL);
    expect([bench.sent.length, errorOf(bench)]).toEqual([0, 0x0080_0000]);
  });
  test('a guest that gives descriptors back as fast as they are sent does not hold the card', () => {
    const bench = started();
    const own = () => put(bench, TX_RING, 0, [OWN | FIRST | LAST | 60, 0, BUFFER], [OWN | END | FIRST | LAST | 60, 0, BUFFER]);
    let sent = 0;
    bench.backend.send = () => {
      sent++;
      own();
    };
    own();
    bench.write('TPPOLL', NORMAL);
    expect(sent).toBeLessThan(1100);
    expect(bench.read('TPPOLL')).toBe(NORMAL);
    const before = sent;
    bench.advance(10_000);
    expect(sent).toBeGreaterThan(before);
  });
  test('a full ring of largest packets is worked off in turns', () => {
    const bench = createBench('c+', 0x20_0000);
    startPlus(bench);
    bench.memory.set(packetTo(PEER, 6, 60_000), 0x10_0000);
    const largest = (i: number): [number, number, number] => [OWN | FIRST | LAST | (i === 7 ? END : 0) | large(100) | 60_054, 0, 0x10_0000];
    put(bench, TX_RING, 0, ...Array.from({ length: 8 }, (_, i) => largest(i)));
    bench.write('TPPOLL', NORMAL);
    expect(bench.sent.length).toBeLessThan(2000);
    expect(bench.read('TPPOLL')).toBe(NORMAL);
    bench.advance(1_000_000);
    expect([bench.sent.length, bench.read('TPPOLL')]).toEqual([4800, 0]);
  });
});
