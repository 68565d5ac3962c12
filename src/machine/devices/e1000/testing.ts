/** A bench for the card's tests: register access as a driver does it, and rings. */
import { type CardBench, createCardBench } from '../network-card/testing.ts';
import { createE1000 } from './e1000.ts';
import { OFFSET, type RegisterName } from './registers.ts';

export { BROADCAST, frameTo, MAC, PEER } from '../network-card/testing.ts';

export interface Bench extends CardBench {
  read(name: RegisterName, index?: number): number;
  write(name: RegisterName, value: number, index?: number): void;
}

export function createBench(memorySize = 0x10_0000): Bench {
  const { bench, window } = createCardBench(createE1000, memorySize);
  return {
    ...bench,
    read: (name, index = 0) => window.read(OFFSET[name] + index * 4, 4),
    write: (name, value, index = 0) => window.write(OFFSET[name] + index * 4, 4, value >>> 0),
  };
}

export const TX_RING = 0x1000;
export const RX_RING = 0x2000;
export const RX_BUFFERS = 0x10_000;

/** A transmit ring of 64 descriptors, the transmitter on. */
export function startTransmit(bench: Bench): void {
  bench.write('TDBAL', TX_RING);
  bench.write('TDLEN', 64 * 16);
  bench.write('TDH', 0);
  bench.write('TDT', 0);
  bench.write('TCTL', 0x2);
}

/** A receive ring of 16 descriptors with buffers of 2048 bytes, all but one given to the card; broadcast accepted. */
export function startReceive(bench: Bench, control = 0x8002): void {
  bench.write('RDBAL', RX_RING);
  bench.write('RDLEN', 16 * 16);
  for (let i = 0; i < 16; i++) bench.view.setUint32(RX_RING + i * 16, RX_BUFFERS + i * 2048, true);
  bench.write('RDH', 0);
  bench.write('RDT', 15);
  bench.write('RCTL', control);
}

/** Puts the words of descriptors at the tail and moves it. */
export function post(bench: Bench, ...descriptors: readonly (readonly [number, number, number, number])[]): void {
  let tail = bench.read('TDT');
  const count = bench.read('TDLEN') / 16;
  for (const words of descriptors) {
    words.forEach((word, i) => {
      bench.view.setUint32(TX_RING + tail * 16 + i * 4, word >>> 0, true);
    });
    tail = (tail + 1) % count;
  }
  bench.write('TDT', tail);
}

export const EOP = 0x0100_0000;
export const RS = 0x0800_0000;
export const DEXT = 0x2000_0000;
export const DATA = 0x0010_0000;
export const TSE = 0x0400_0000;
export const VLE = 0x4000_0000;
export const IDE = 0x8000_0000;
