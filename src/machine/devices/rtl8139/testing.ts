/** A bench for the card's tests: register access as a driver does it, rings, and packets. */
import { type CardBench, createCardBench, frameTo } from '../network-card/testing.ts';
import { OFFSET, type RegisterName, WIDTH } from './registers.ts';
import { createRtl8139, type Rtl8139Options } from './rtl8139.ts';

export { BROADCAST, frameTo, MAC, PEER } from '../network-card/testing.ts';

export interface Bench extends CardBench {
  read(name: RegisterName): number;
  write(name: RegisterName, value: number): void;
}

export function createBench(chip: Rtl8139Options['chip'] = 'c+', memorySize = 0x10_0000): Bench {
  const { bench, window } = createCardBench((ports, options) => createRtl8139(ports, { ...options, chip }), memorySize);
  return {
    ...bench,
    read: (name) => window.read(OFFSET[name], WIDTH[name]),
    write: (name, value) => window.write(OFFSET[name], WIDTH[name], value >>> 0),
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
