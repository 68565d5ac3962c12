/** A bench for the card's tests: memory, a clock that is moved by hand, a wire that records, and register access as a driver does it. */
import { silentLog } from '../../../base/log.ts';
import type { NetworkBackend } from '../../ports.ts';
import { createManualClock, createProbe } from '../../testing.ts';
import { OFFSET, type RegisterName, WIDTH } from './registers.ts';
import { createRtl8139, type Rtl8139, type Rtl8139Options } from './rtl8139.ts';

export const MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);
export const PEER = Uint8Array.of(0x52, 0x55, 0x0a, 0x00, 0x02, 0x02);
export const BROADCAST = new Uint8Array(6).fill(0xff);

export interface Bench {
  card: Rtl8139;
  memory: Uint8Array;
  view: DataView;
  sent: Uint8Array[];
  backend: NetworkBackend & { readyCalls: number };
  line: { level: boolean; edges: number };
  dmaAccesses(): number;
  /** Moves the clock and runs the timers that fall due. */
  advance(ns: number): void;
  read(name: RegisterName): number;
  write(name: RegisterName, value: number): void;
}

export function createBench(chip: Rtl8139Options['chip'] = 'c+', memorySize = 0x10_0000): Bench {
  const memory = new Uint8Array(memorySize);
  const inside = (gpa: number, length: number) => gpa >= 0 && gpa + length <= memorySize;
  const clock = createManualClock();
  const line = createProbe();
  const sent: Uint8Array[] = [];
  let accesses = 0;
  const backend = {
    readyCalls: 0,
    send: (frame: Uint8Array) => void sent.push(frame),
    receive: (): boolean => true,
    ready: () => void backend.readyCalls++,
    close: () => {},
  };
  const card = createRtl8139(
    {
      irq: line,
      dma: {
        read(gpa, into) {
          accesses++;
          if (!inside(gpa, into.length)) {
            into.fill(0xff);
            return false;
          }
          into.set(memory.subarray(gpa, gpa + into.length));
          return true;
        },
        write(gpa, from) {
          accesses++;
          if (!inside(gpa, from.length)) return false;
          memory.set(from, gpa);
          return true;
        },
      },
      clock,
      log: silentLog,
    },
    { mac: MAC, backend, chip },
  );
  const bar = card.bars[1];
  if (bar === undefined) throw new Error('no memory window');
  card.setBusMaster(true);
  return {
    card,
    memory,
    sent,
    backend,
    line,
    view: new DataView(memory.buffer),
    dmaAccesses: () => accesses,
    advance: (ns) => clock.advance(ns),
    read: (name) => bar.registers.read(OFFSET[name], WIDTH[name]),
    write: (name, value) => bar.registers.write(OFFSET[name], WIDTH[name], value >>> 0),
  };
}

export const TX_RING = 0x1000;
export const HIGH_RING = 0x1800;
export const RX_RING = 0x2000;
export const RX_BUFFERS = 0x10_000;
export const RX_BUFFER_SIZE = 1536;
export const RING_SIZE = 8;

export const OWN = 0x8000_0000;
export const END = 0x4000_0000;
export const FIRST = 0x2000_0000;
export const LAST = 0x1000_0000;

/** C+ mode, both ways, rings of eight descriptors; `plus` adds bits to the C+ command, `accept` is RCR's low byte. */
export function startPlus(bench: Bench, plus = 0, accept = 0x0a): void {
  bench.write('CPCR', 0x03 | plus);
  bench.write('TSAD2', HIGH_RING);
  bench.write('TSAD3', 0);
  bench.write('RDSAR0', RX_RING);
  bench.write('RDSAR4', 0);
  bench.write('TSAD0', TX_RING);
  bench.write('TSAD1', 0);
  for (let i = 0; i < RING_SIZE; i++) give(bench, i);
  bench.write('CR', 0x0c);
  bench.write('RCR', 0xb400 | accept);
}

/** Gives receive descriptor `index` to the card. */
export function give(bench: Bench, index: number, size = RX_BUFFER_SIZE): void {
  const at = RX_RING + index * 16;
  bench.view.setUint32(at, (OWN | (index === RING_SIZE - 1 ? END : 0) | size) >>> 0, true);
  bench.view.setUint32(at + 4, 0, true);
  bench.view.setUint32(at + 8, RX_BUFFERS + index * RX_BUFFER_SIZE, true);
  bench.view.setUint32(at + 12, 0, true);
}

/** First and second word of a descriptor. */
export function words(bench: Bench, ring: number, index: number): [number, number] {
  return [bench.view.getUint32(ring + index * 16, true), bench.view.getUint32(ring + index * 16 + 4, true)];
}

/** Writes transmit descriptors from `index` on, without telling the card: [command, tag word, buffer]. */
export function put(bench: Bench, ring: number, index: number, ...descriptors: readonly (readonly [number, number, number])[]): void {
  for (const [i, [command, tag, buffer]] of descriptors.entries()) {
    const at = ring + (index + i) * 16;
    bench.view.setUint32(at, command >>> 0, true);
    bench.view.setUint32(at + 4, tag >>> 0, true);
    bench.view.setUint32(at + 8, buffer, true);
    bench.view.setUint32(at + 12, 0, true);
  }
}

/** An Ethernet frame of `length` bytes with a counting payload. */
export function frameTo(destination: Uint8Array, length: number, type = 0x88b5): Uint8Array {
  const frame = Uint8Array.from({ length }, (_, i) => i & 0xff);
  frame.set(destination);
  frame.set(PEER, 6);
  frame[12] = type >>> 8;
  frame[13] = type & 0xff;
  return frame;
}

/** Ethernet, IPv4 and TCP or UDP headers with `payload` bytes behind; checksums are zero. */
export function packetTo(destination: Uint8Array, protocol: 6 | 17, payload: number): Uint8Array {
  const header = protocol === 6 ? 54 : 42;
  const packet = frameTo(destination, header + payload, 0x0800);
  packet.fill(0, 14, header);
  const view = new DataView(packet.buffer);
  packet[14] = 0x45;
  view.setUint16(16, packet.length - 14);
  view.setUint16(18, 0xfffe); // identification that wraps
  packet.set([64, protocol, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2], 22);
  if (protocol === 6) packet.set([0x80, 1, 0, 80, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x50, 0x19, 0x20, 0], 34);
  else packet.set([0x80, 1, 0, 80, (8 + payload) >> 8, (8 + payload) & 0xff], 34);
  return packet;
}
