import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checksumAdd, checksumFinish } from '../../../base/internet-checksum.ts';
import { multicastHash } from './filter.ts';
import { REGISTER_SPACE } from './registers.ts';
import {
  type Bench,
  BROADCAST,
  createBench,
  END,
  FIRST,
  frameTo,
  give,
  LAST,
  MAC,
  OWN,
  packetTo,
  RING_SIZE,
  RX_BUFFER_SIZE,
  RX_BUFFERS,
  RX_RING,
  startPlus,
  words,
} from './testing.ts';

const GROUP = Uint8Array.of(0x01, 0x00, 0x5e, 0x00, 0x12, 0x34);
const OTHER = Uint8Array.of(2, 0, 0, 0, 0, 9);

const accepted = (bench: Bench, frame: Uint8Array) => {
  const before = bench.card.statistics().rxFrames;
  expect(bench.backend.receive(frame)).toBe(true);
  return bench.card.statistics().rxFrames > before;
};
const started = (plus = 0, accept = 0x0a) => {
  const bench = createBench();
  startPlus(bench, plus, accept);
  return bench;
};
const buffer = (bench: Bench, index: number, length: number) =>
  bench.memory.subarray(RX_BUFFERS + index * RX_BUFFER_SIZE).subarray(0, length);

describe('C+ ring', () => {
  test('a frame lands in its buffer with length, status and interrupt', () => {
    const bench = started();
    bench.write('IMR', 1);
    const frame = frameTo(MAC, 1514);
    expect(accepted(bench, frame)).toBe(true);
    expect(buffer(bench, 0, 1514)).toEqual(frame);
    expect(words(bench, RX_RING, 0)).toEqual([FIRST | LAST | 0x0200_0000 | 1518, 0]);
    expect([bench.line.level, bench.read('ISR')]).toEqual([true, 1]);
  });
  test('runts are padded, and bytes behind the frame are left alone', () => {
    const bench = started();
    bench.memory.fill(0xee, RX_BUFFERS, RX_BUFFERS + 100);
    accepted(bench, frameTo(BROADCAST, 42));
    expect(words(bench, RX_RING, 0)[0]).toBe(FIRST | LAST | 0x0100_0000 | 64);
    expect([...buffer(bench, 0, 61).subarray(42)]).toEqual([...new Array(18).fill(0), 0xee]);
  });
  test('a frame is spread over small buffers', () => {
    const bench = started();
    for (let i = 0; i < RING_SIZE; i++) give(bench, i, 512);
    const frame = frameTo(MAC, 1514);
    expect(accepted(bench, frame)).toBe(true);
    expect([0, 1, 2].map((i) => words(bench, RX_RING, i)[0])).toEqual([FIRST | 512, 512, LAST | 0x0200_0000 | 1518]);
    expect(Buffer.concat([buffer(bench, 0, 512), buffer(bench, 1, 512), buffer(bench, 2, 490)])).toEqual(Buffer.from(frame));
    expect(words(bench, RX_RING, 3)[0] >>> 31).toBe(1);
  });
  test('the ring wraps, keeping its end mark', () => {
    const bench = started();
    for (let i = 0; i < RING_SIZE; i++) accepted(bench, frameTo(MAC, 60 + i));
    expect(words(bench, RX_RING, RING_SIZE - 1)[0]).toBe(END | FIRST | LAST | 0x0200_0000 | (64 + RING_SIZE - 1));
    give(bench, 0);
    expect(accepted(bench, frameTo(MAC, 99))).toBe(true);
    expect(words(bench, RX_RING, 0)[0] & 0x1fff).toBe(103);
  });
  test('a full ring refuses and says so; unmasking interrupts calls the back end again', () => {
    const bench = started();
    for (let i = 0; i < RING_SIZE; i++) accepted(bench, frameTo(MAC, 60));
    bench.write('ISR', 0xffff);
    expect(bench.backend.receive(frameTo(MAC, 60))).toBe(false);
    expect(bench.backend.receive(frameTo(MAC, 60))).toBe(false);
    expect([bench.read('ISR'), bench.backend.readyCalls, bench.card.statistics().rxStalls]).toEqual([0x10, 0, 1]);
    give(bench, 0);
    bench.write('IMR', 0x11);
    expect(bench.backend.readyCalls).toBe(1);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(true);
  });
  test('the card also looks by itself, less and less often', () => {
    const bench = started();
    bench.backend.ready = () => {
      bench.backend.readyCalls++;
      bench.backend.receive(frameTo(MAC, 60));
    };
    for (let i = 0; i <= RING_SIZE; i++) bench.backend.receive(frameTo(MAC, 60));
    bench.advance(50_000);
    expect(bench.backend.readyCalls).toBe(1);
    bench.advance(1_000_000_000);
    expect(bench.backend.readyCalls).toBeGreaterThan(50);
    expect(bench.backend.readyCalls).toBeLessThan(150);
    give(bench, 0);
    bench.advance(10_000_000);
    expect(bench.card.statistics().rxFrames).toBe(RING_SIZE + 1);
    const calls = bench.backend.readyCalls;
    bench.advance(1_000_000_000);
    expect(bench.backend.readyCalls).toBe(calls);
  });
  test('a receiver that is turned off drops, frees a back end that waits, and begins anew', () => {
    const bench = started();
    while (bench.backend.receive(frameTo(MAC, 60)));
    bench.write('CR', 0x04);
    expect(bench.backend.readyCalls).toBe(1);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(false);
    give(bench, 0);
    bench.write('CR', 0x0c);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(true);
  });
  test('frames over 4096 bytes are dropped as errors', () => {
    const bench = started();
    expect([accepted(bench, frameTo(MAC, 4093)), accepted(bench, frameTo(MAC, 4092))]).toEqual([false, true]);
  });
  test('a VLAN tag is taken out when asked', () => {
    const frame = frameTo(MAC, 100);
    frame.set([0x81, 0x00, 0x60, 0x05, 0x88, 0xb5], 12);
    const bench = started(0x40);
    accepted(bench, frame);
    expect(words(bench, RX_RING, 0)).toEqual([FIRST | LAST | 0x0200_0000 | 100, 0x1_0560]);
    expect([...buffer(bench, 0, 16).subarray(10)]).toEqual([0x02, 0x02, 0x88, 0xb5, 18, 19]);
    const plain = started();
    accepted(plain, frame);
    expect([words(plain, RX_RING, 0)[1], words(plain, RX_RING, 0)[0] & 0x1fff]).toEqual([0, 104]);
  });
});

describe('filters', () => {
  const takes = (accept: number, ...addresses: Uint8Array[]) => {
    const bench = started(0, accept);
    return addresses.map((to) => accepted(bench, frameTo(to, 60)));
  };
  test('own address, broadcast, all physical', () => {
    expect(takes(0x00, MAC, BROADCAST, GROUP, OTHER)).toEqual([false, false, false, false]);
    expect(takes(0x02, MAC, BROADCAST, GROUP, OTHER)).toEqual([true, false, false, false]);
    expect(takes(0x08, MAC, BROADCAST, GROUP, OTHER)).toEqual([false, true, false, false]);
    expect(takes(0x01, MAC, BROADCAST, GROUP, OTHER)).toEqual([true, false, false, true]);
  });
  test('the hash is that of Linux: the CRC of 01:00:5e:00:00:01 picks bit 31', () => {
    expect(multicastHash(Uint8Array.of(0x01, 0x00, 0x5e, 0x00, 0x00, 0x01))).toBe(31);
  });
  test('multicast by hash', () => {
    const bench = started(0, 0x04);
    expect(accepted(bench, frameTo(GROUP, 60))).toBe(false);
    const hash = multicastHash(GROUP);
    bench.write(hash < 32 ? 'MAR0' : 'MAR4', 2 ** (hash & 31));
    expect(accepted(bench, frameTo(GROUP, 60))).toBe(true);
    expect(words(bench, RX_RING, 0)[0] & 0x0700_0000).toBe(0x0400_0000);
    expect(accepted(bench, frameTo(Uint8Array.of(1, 0, 0x5e, 0, 0, 1), 60))).toBe(false);
  });
  test('a changed station address', () => {
    const bench = started();
    bench.write('IDR0', 0x0000_0002);
    bench.write('IDR4', 0x0900);
    expect([accepted(bench, frameTo(MAC, 60)), accepted(bench, frameTo(OTHER, 60))]).toEqual([false, true]);
  });
});

describe('checksum offload', () => {
  const verdict = (protocol: 6 | 17, change: (frame: Uint8Array) => void = () => {}, plus = 0x20) => {
    const bench = started(plus);
    const frame = packetTo(MAC, protocol, 101);
    const view = new DataView(frame.buffer);
    view.setUint16(24, checksumFinish(checksumAdd(0, frame, 14, 34)));
    const pseudo = checksumAdd(protocol + frame.length - 34, frame, 26, 34);
    view.setUint16(protocol === 6 ? 50 : 40, checksumFinish(checksumAdd(pseudo, frame, 34, frame.length)));
    change(frame);
    accepted(bench, frame);
    const [status] = words(bench, RX_RING, 0);
    return [(status >>> 16) & 3, (status >>> 13) & 7];
  };
  test('good sums', () =>
    expect([verdict(6), verdict(17)]).toEqual([
      [1, 0],
      [2, 0],
    ]));
  test('a bad payload', () => {
    const change = (frame: Uint8Array) => void (frame[100] ^= 1);
    expect([verdict(6, change), verdict(17, change)]).toEqual([
      [1, 1],
      [2, 2],
    ]);
  });
  test('a bad header', () => expect(verdict(6, (frame) => void (frame[22] = 1))).toEqual([1, 4]));
  test('no UDP sum is not claimed to be checked', () => expect(verdict(17, (frame) => frame.fill(0, 40, 42))).toEqual([3, 0]));
  test('a fragment is not claimed to be checked', () => expect(verdict(6, (frame) => void (frame[20] = 0x20))[0]).toBe(3));
  test('a length beyond the frame, or short of the header', () => {
    expect([verdict(6, (frame) => void (frame[16] = 0xff)), verdict(6, (frame) => frame.set([0, 10], 16))]).toEqual([
      [0, 0],
      [0, 0],
    ]);
  });
  test('a transport header that does not fit', () => expect(verdict(6, (frame) => frame.set([0, 39], 16))[0]).toBe(3));
  test('not asked for', () => expect(verdict(6, () => {}, 0)).toEqual([0, 0]));
});

describe('C mode buffer', () => {
  const START = 0x2_0000;
  const begin = (config: number) => {
    const bench = createBench('c');
    bench.write('RBSTART', START);
    bench.write('CR', 0x0c);
    bench.write('RCR', 0x0a | config);
    return bench;
  };
  /** Reads as the driver does: header, frame, then CAPR. */
  const take = (bench: Bench, at: number) => {
    const length = bench.view.getUint16(START + at + 2, true);
    const next = (at + length + 7) & ~3;
    bench.write('CAPR', (next - 16) & 0xffff);
    return { status: bench.view.getUint16(START + at, true), length, next };
  };
  test('frames lie behind one another, each with its header', () => {
    const bench = begin(0);
    bench.write('IMR', 1);
    expect(bench.read('CR') & 1).toBe(1);
    accepted(bench, frameTo(MAC, 61));
    accepted(bench, frameTo(BROADCAST, 70));
    expect([bench.read('CR') & 1, bench.read('CBR'), bench.line.level]).toEqual([0, 72 + 80, true]);
    const first = take(bench, 0);
    expect(first).toEqual({ status: 0x4001, length: 65, next: 72 });
    expect(bench.memory.subarray(START + 4, START + 65)).toEqual(frameTo(MAC, 61));
    const second = take(bench, first.next);
    expect(second).toEqual({ status: 0x2001, length: 74, next: 152 });
    expect(bench.read('CR') & 1).toBe(1);
  });
  test('a full buffer refuses, and CAPR calls the back end again', () => {
    const bench = begin(0);
    let count = 0;
    while (bench.backend.receive(frameTo(MAC, 1514))) count++;
    expect([count, bench.read('CBR'), bench.backend.readyCalls]).toEqual([5, 5 * 1524, 0]);
    take(bench, 0);
    expect(bench.backend.readyCalls).toBe(1);
    expect(accepted(bench, frameTo(MAC, 1514))).toBe(true);
  });
  test('acknowledging while frames are left says so again', () => {
    const bench = begin(0);
    bench.write('IMR', 1);
    accepted(bench, frameTo(MAC, 60));
    bench.write('ISR', 1);
    expect([bench.read('ISR'), bench.line.level]).toEqual([1, true]);
    take(bench, 0);
    bench.write('ISR', 1);
    expect([bench.read('ISR'), bench.line.level]).toEqual([0, false]);
  });
  test.each([
    [0, 8192],
    [1, 16_384],
    [2, 32_768],
    [3, 65_536],
  ])('length %i wraps at %i', (length, size) => {
    const bench = begin(length << 11);
    let at = 0;
    let frames = 0;
    const expected = frameTo(MAC, 1514);
    const limit = Math.ceil(size / 1524);
    for (; frames < limit; frames++) {
      accepted(bench, expected);
      if (frames < limit - 1) at = take(bench, at).next;
    }
    const tail = size - at - 4;
    const got = Buffer.concat([bench.memory.subarray(START + at + 4, START + size), bench.memory.subarray(START, START + 1514 - tail)]);
    expect(got).toEqual(Buffer.from(expected));
    expect(bench.read('CBR')).toBe((at + 1524) % size);
  });
  test('with room behind the buffer the last frame stays in one piece', () => {
    const bench = begin(0x80);
    let at = 0;
    for (let i = 0; i < 6; i++) {
      accepted(bench, frameTo(MAC, 1514));
      if (i < 5) at = take(bench, at).next;
    }
    expect(bench.memory.subarray(START + at + 4, START + at + 1518)).toEqual(frameTo(MAC, 1514));
    expect(bench.read('CBR')).toBe(at + 1524 - 8192);
  });
  test('turning the receiver off and on empties the buffer', () => {
    const bench = begin(0);
    accepted(bench, frameTo(MAC, 60));
    bench.write('CR', 0x04);
    bench.write('CR', 0x0c);
    expect([bench.read('CBR'), bench.read('CAPR'), bench.read('CR') & 1]).toEqual([0, 0xfff0, 1]);
  });
});

describe('hostile rings', () => {
  test('buffers of no size, and rings too small, drop the frame and count it', () => {
    const bench = started();
    for (let i = 0; i < RING_SIZE; i++) give(bench, i, 0);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(false);
    for (let i = 0; i < RING_SIZE; i++) give(bench, i, 8);
    expect(accepted(bench, frameTo(MAC, 1000))).toBe(false);
    expect([bench.read('MPC'), bench.card.statistics().badRings]).toEqual([2, 2]);
    bench.write('MPC', 5);
    expect(bench.read('MPC')).toBe(0);
  });
  test('a ring whose end moves behind the card, with buffers of no size', () => {
    const bench = started();
    for (let i = 0; i < 5; i++) accepted(bench, frameTo(MAC, 60));
    for (let i = 0; i < 64; i++) bench.view.setUint32(RX_RING + i * 16, (OWN | (i === 1 ? END : 0)) >>> 0, true);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(false);
  });
  test('a frame that overwrites the ring it is stored in', () => {
    const bench = started();
    for (let i = 0; i < RING_SIZE; i++) {
      give(bench, i, 256);
      bench.view.setUint32(RX_RING + i * 16 + 8, RX_RING, true);
    }
    const frame = frameTo(MAC, 1200);
    frame.fill(0x80, 14);
    expect(accepted(bench, frame)).toBe(true);
  });
  test('rings and buffers outside memory write nothing', () => {
    const bench = started();
    bench.view.setUint32(RX_RING + 12, 0xffff_ffff, true);
    const before = bench.memory.slice(RX_BUFFERS);
    accepted(bench, frameTo(MAC, 60));
    expect(Buffer.compare(bench.memory.subarray(RX_BUFFERS), before)).toBe(0);
    bench.write('RDSAR4', 0xffff_ffff);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(false);
    const legacy = createBench('c');
    legacy.write('RBSTART', 0xffff_fff0);
    legacy.write('CR', 0x08);
    legacy.write('RCR', 0x0a);
    expect(accepted(legacy, frameTo(MAC, 60))).toBe(false);
  });
  test('any CAPR leaves the buffer within its bounds', () => {
    const bench = createBench('c');
    bench.write('RBSTART', 0x2_0000);
    bench.write('CR', 0x08);
    bench.write('RCR', 0x0a);
    const outside = bench.memory.slice(0x2_2000);
    for (let i = 0; i < 2000; i++) {
      bench.write('CAPR', (i * 7919) & 0xffff);
      bench.backend.receive(frameTo(MAC, 60 + (i % 1400)));
    }
    expect(Buffer.compare(bench.memory.subarray(0x2_2000), outside)).toBe(0);
  });
  test('any sequence of register accesses, frames and time ends', () => {
    const offset = fc.nat(REGISTER_SPACE - 4);
    const access = fc.record({ offset, size: fc.constantFrom(1, 2, 4), value: fc.nat(0xffff_ffff), write: fc.boolean() });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 60 }), fc.uint8Array({ minLength: 4096, maxLength: 4096 }), (accesses, memory) => {
        const bench = createBench();
        bench.memory.set(memory);
        startPlus(bench, 0, 0x0f);
        const registers = bench.card.bars[0]?.registers;
        for (const { offset, size, value, write } of accesses) {
          if (write) registers?.write(offset, size as 4, value % 2 ** (8 * size));
          else expect(registers?.read(offset, size as 4)).toBeLessThan(2 ** (8 * size));
          bench.backend.receive(frameTo(MAC, 60 + (value % 1400)));
          registers?.write(0xd9, 1, 0xc1);
          bench.advance(value % 100_000);
        }
      }),
      { numRuns: 200, seed: 8139 },
    );
  });
});
