import { describe, expect, test } from 'vitest';
import { checksumAdd, checksumFinish } from '../../../base/internet-checksum.ts';
import { type Bench, createBench, frameTo, MAC, RX_BUFFERS, RX_RING, startReceive } from './testing.ts';

const BROADCAST = new Uint8Array(6).fill(0xff);
const GROUP = Uint8Array.of(0x01, 0x00, 0x5e, 0x00, 0x12, 0x34);
const OTHER = Uint8Array.of(2, 0, 0, 0, 0, 9);

const descriptor = (bench: Bench, index: number) => ({
  length: bench.view.getUint16(RX_RING + index * 16 + 8, true),
  sum: bench.view.getUint16(RX_RING + index * 16 + 10, true),
  status: bench.view.getUint8(RX_RING + index * 16 + 12),
  errors: bench.view.getUint8(RX_RING + index * 16 + 13),
  special: bench.view.getUint16(RX_RING + index * 16 + 14, true),
});
const accepted = (bench: Bench, frame: Uint8Array) => {
  const before = bench.card.statistics().rxFrames;
  expect(bench.backend.receive(frame)).toBe(true);
  return bench.card.statistics().rxFrames > before;
};

function tagged(tag: number): Uint8Array {
  const frame = frameTo(MAC, 100);
  frame.set([0x81, 0x00, tag >>> 8, tag & 0xff, 0x88, 0xb5], 12);
  return frame;
}

function udp(): Uint8Array {
  const frame = frameTo(MAC, 143, 0x0800); // odd length
  const view = new DataView(frame.buffer);
  frame.set([0x45, 0, 0, 129, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15, 0, 7, 0, 9, 0, 109, 0, 0], 14);
  view.setUint16(24, checksumFinish(checksumAdd(0, frame, 14, 34)));
  view.setUint16(40, checksumFinish(checksumAdd(checksumAdd(17 + 109, frame, 26, 34), frame, 34, 143)));
  return frame;
}

describe('receive', () => {
  test('a frame lands in its buffer with length, status, interrupt and counters', () => {
    const bench = createBench();
    startReceive(bench);
    bench.write('IMS', 0x80);
    const frame = frameTo(MAC, 1514);
    expect(accepted(bench, frame)).toBe(true);
    expect(bench.memory.subarray(RX_BUFFERS, RX_BUFFERS + 1514)).toEqual(frame);
    expect(descriptor(bench, 0)).toEqual({ length: 1518, sum: 0, status: 7, errors: 0, special: 0 });
    expect([bench.read('RDH'), bench.line.level, bench.read('ICR')]).toEqual([1, true, 0x80]);
    expect([bench.read('GPRC'), bench.read('PRC1522'), bench.read('GORCL'), bench.read('GORCH'), bench.read('GORCL')]).toEqual([
      1, 1, 1518, 0, 0,
    ]);
  });
  test('the FCS is left out of the length when it is stripped; runts are padded', () => {
    const bench = createBench();
    startReceive(bench, 0x0400_8002);
    bench.memory.fill(0xee, RX_BUFFERS, RX_BUFFERS + 100);
    accepted(bench, frameTo(BROADCAST, 42));
    expect(descriptor(bench, 0).length).toBe(60);
    expect(bench.memory.subarray(RX_BUFFERS + 42, RX_BUFFERS + 61)).toEqual(Uint8Array.of(...new Array(18).fill(0), 0xee));
  });
  test.each([
    [0x8002, 2048],
    [0x1_8002, 1024],
    [0x2_8002, 512],
    [0x3_8002, 256],
    [0x203_8002, 4096],
  ])('RCTL %i means buffers of %i bytes', (control, size) => {
    const bench = createBench();
    startReceive(bench, control | 0x0400_0020);
    const frame = frameTo(MAC, 3000);
    for (let i = 0; i < 16; i++) bench.view.setUint32(RX_RING + i * 16, RX_BUFFERS + i * size, true);
    expect(accepted(bench, frame)).toBe(true);
    expect(bench.memory.subarray(RX_BUFFERS, RX_BUFFERS + 3000)).toEqual(frame);
    const count = Math.ceil(3000 / size);
    expect(bench.read('RDH')).toBe(count);
    for (let i = 0; i < count; i++) {
      expect(descriptor(bench, i).status & 3).toBe(i === count - 1 ? 3 : 1);
      expect(descriptor(bench, i).length).toBe(i === count - 1 ? 3000 - size * i : size);
    }
  });
  test('frames over 1522 bytes need long packet enable', () => {
    const bench = createBench();
    startReceive(bench);
    expect(accepted(bench, frameTo(MAC, 1519))).toBe(false);
    expect(bench.read('ROC')).toBe(1);
    expect(accepted(bench, frameTo(MAC, 1518))).toBe(true);
  });
  test('a full ring refuses, and the tail calls the back end again', () => {
    const bench = createBench();
    startReceive(bench);
    for (let i = 0; i < 15; i++) expect(accepted(bench, frameTo(MAC, 60))).toBe(true);
    expect(bench.backend.receive(frameTo(MAC, 60))).toBe(false);
    expect(bench.backend.receive(frameTo(MAC, 60))).toBe(false);
    expect([bench.backend.readyCalls, bench.read('RNBC')]).toEqual([0, 1]);
    bench.write('RDT', 3);
    expect(bench.backend.readyCalls).toBe(1);
    bench.write('RDT', 4);
    expect(bench.backend.readyCalls).toBe(1);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(true);
  });
  test('a disabled receiver drops, and frees a back end that waits', () => {
    const bench = createBench();
    startReceive(bench);
    while (bench.backend.receive(frameTo(MAC, 60)));
    bench.write('RCTL', 0);
    expect(bench.backend.readyCalls).toBe(1);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(false);
  });
  test('the minimum threshold raises RXDMT0 once', () => {
    const bench = createBench();
    startReceive(bench, 0x8102); // a quarter of 16
    const causes: number[] = [];
    for (let i = 0; i < 13; i++) {
      accepted(bench, frameTo(MAC, 60));
      causes.push(bench.read('ICR') & 0x10);
    }
    expect(causes.map((cause, i) => (cause === 0 ? -1 : i)).filter((i) => i >= 0)).toEqual([10]);
  });
  test('RDTR gathers frames into one interrupt, RADV bounds the wait', () => {
    const bench = createBench();
    startReceive(bench);
    bench.write('RDTR', 10);
    bench.write('RADV', 15);
    bench.write('IMS', 0x80);
    accepted(bench, frameTo(MAC, 60));
    bench.advance(9_000);
    accepted(bench, frameTo(MAC, 60));
    bench.advance(6_359);
    expect(bench.line.level).toBe(false);
    bench.advance(1);
    expect(bench.line.level).toBe(true);
    bench.read('ICR');
    accepted(bench, frameTo(MAC, 60));
    bench.write('RDTR', 0x8000_000a);
    expect(bench.line.level).toBe(true);
  });
});

describe('filters', () => {
  test('own address, broadcast, others', () => {
    const bench = createBench();
    startReceive(bench, 2);
    expect([MAC, BROADCAST, GROUP, OTHER].map((to) => accepted(bench, frameTo(to, 60)))).toEqual([true, false, false, false]);
    bench.write('RCTL', 0x8002);
    expect(accepted(bench, frameTo(BROADCAST, 60))).toBe(true);
    bench.write('RCTL', 0x000a);
    expect([accepted(bench, frameTo(OTHER, 60)), accepted(bench, frameTo(GROUP, 60))]).toEqual([true, false]);
    bench.write('RCTL', 0x0012);
    expect([accepted(bench, frameTo(OTHER, 60)), accepted(bench, frameTo(GROUP, 60))]).toEqual([false, true]);
  });
  test('further receive addresses', () => {
    const bench = createBench();
    startReceive(bench, 2);
    bench.write('RA', 0x0000_0002, 30);
    bench.write('RA', 0x0000_0900, 31);
    expect(accepted(bench, frameTo(OTHER, 60))).toBe(false);
    bench.write('RA', 0x8000_0900, 31);
    expect(accepted(bench, frameTo(OTHER, 60))).toBe(true);
  });
  test.each([
    [0, 4],
    [1, 3],
    [2, 2],
    [3, 0],
  ])('multicast hash with offset %i', (offset, shift) => {
    const bench = createBench();
    startReceive(bench, 2 | (offset << 12));
    const hash = (0x3412 >>> shift) & 0xfff;
    bench.write('MTA', 2 ** (hash & 31), hash >>> 5);
    expect(accepted(bench, frameTo(GROUP, 60))).toBe(true);
    expect(descriptor(bench, 0).status & 0x80).toBe(0x80);
    expect(accepted(bench, frameTo(Uint8Array.of(1, 0, 0x5e, 0, 0x77, 0x11), 60))).toBe(false);
  });
  test('VLAN filter and tag stripping', () => {
    const bench = createBench();
    startReceive(bench, 0x4_8002);
    bench.write('VFTA', 1 << (100 & 31), 100 >>> 5);
    expect([accepted(bench, tagged(101)), accepted(bench, tagged(0x6064))]).toEqual([false, true]);
    expect([descriptor(bench, 0).status & 8, descriptor(bench, 0).length]).toEqual([0, 104]);
    bench.write('CTRL', 0x4000_0000);
    expect(accepted(bench, tagged(0x6064))).toBe(true);
    expect(descriptor(bench, 1)).toMatchObject({ length: 100, special: 0x6064, status: 0x0f });
    expect([...bench.memory.subarray(RX_BUFFERS + 2048 + 6, RX_BUFFERS + 2048 + 16)]).toEqual([
      ...tagged(0).subarray(6, 12),
      0x88,
      0xb5,
      18,
      19,
    ]);
  });
});

describe('checksum offload', () => {
  const verdict = (change: (frame: Uint8Array) => void, control = 0x300) => {
    const bench = createBench();
    startReceive(bench);
    bench.write('RXCSUM', control);
    const frame = udp();
    change(frame);
    accepted(bench, frame);
    const { status, errors } = descriptor(bench, 0);
    return [status & 0x64, errors];
  };
  test('good sums are reported as checked', () => expect(verdict(() => {})).toEqual([0x60, 0]));
  test('a bad payload', () => expect(verdict((frame) => void (frame[142] ^= 1))).toEqual([0x60, 0x20]));
  test('a bad header', () => expect(verdict((frame) => void (frame[22] = 1))).toEqual([0x60, 0x40]));
  test('no UDP sum', () => expect(verdict((frame) => frame.fill(0, 40, 42))).toEqual([0x40, 0]));
  test('a fragment', () => expect(verdict((frame) => void (frame[20] = 0x20))).toEqual([0x40, 0x40]));
  test('a length beyond the frame', () => expect(verdict((frame) => void (frame[16] = 0xff))).toEqual([4, 0]));
  test('not asked for', () => expect(verdict(() => {}, 0)).toEqual([4, 0]));
  test('the packet checksum starts at PCSS', () => {
    const bench = createBench();
    startReceive(bench);
    bench.write('RXCSUM', 14);
    const frame = frameTo(MAC, 60);
    accepted(bench, frame);
    expect(descriptor(bench, 0).sum).toBe(checksumFinish(checksumAdd(0, frame, 14, 60)));
  });
});

describe('hostile rings', () => {
  test('head, tail and length that do not fit drop the frame', () => {
    const bench = createBench();
    startReceive(bench);
    for (const [name, value] of [
      ['RDT', 0xffff],
      ['RDH', 0xffff],
      ['RDLEN', 0],
    ] as const) {
      startReceive(bench);
      bench.write(name, value);
      expect([name, accepted(bench, frameTo(MAC, 60))]).toEqual([name, false]);
    }
  });
  test('a frame that can never fit is dropped, not kept for ever', () => {
    const bench = createBench();
    startReceive(bench, 0x3_8022);
    expect(accepted(bench, frameTo(MAC, 9000))).toBe(false);
  });
  test('rings and buffers outside memory write nothing', () => {
    const bench = createBench();
    startReceive(bench);
    bench.view.setUint32(RX_RING + 4, 0xffffffff, true);
    const before = bench.memory.slice(RX_BUFFERS);
    accepted(bench, frameTo(MAC, 60));
    expect(Buffer.compare(bench.memory.subarray(RX_BUFFERS), before)).toBe(0);
    bench.write('RDBAH', 0xffffffff);
    expect(accepted(bench, frameTo(MAC, 60))).toBe(false);
  });
});
