/** A bench for the card's tests: memory, a clock that is moved by hand, a wire that records, and register access as a driver does it. */
import { silentLog } from '../../../base/log.ts';
import type { Clock, NetworkBackend } from '../../ports.ts';
import { createE1000, type E1000 } from './e1000.ts';
import { OFFSET, type RegisterName } from './registers.ts';

export const MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);
export const PEER = Uint8Array.of(0x52, 0x55, 0x0a, 0x00, 0x02, 0x02);

export interface Bench {
  card: E1000;
  memory: Uint8Array;
  view: DataView;
  sent: Uint8Array[];
  backend: NetworkBackend & { readyCalls: number };
  line(): boolean;
  dmaAccesses(): number;
  /** Moves the clock and runs the timers that fall due. */
  advance(ns: number): void;
  read(name: RegisterName, index?: number): number;
  write(name: RegisterName, value: number, index?: number): void;
}

export function createBench(memorySize = 0x10_0000): Bench {
  const memory = new Uint8Array(memorySize);
  const inside = (gpa: number, length: number) => gpa >= 0 && gpa + length <= memorySize;
  let now = 0;
  let asserted = false;
  let accesses = 0;
  const timers: { time: number; callback: () => void }[] = [];
  const clock: Clock = {
    now: () => now,
    timer(callback) {
      const timer = { time: Number.POSITIVE_INFINITY, callback };
      timers.push(timer);
      return { arm: (time) => void (timer.time = time) };
    },
  };
  const sent: Uint8Array[] = [];
  const backend = {
    readyCalls: 0,
    send: (frame: Uint8Array) => void sent.push(frame),
    receive: (): boolean => true,
    ready: () => void backend.readyCalls++,
    close: () => {},
  };
  const card = createE1000(
    {
      irq: { set: (level) => void (asserted = level) },
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
    { mac: MAC, backend },
  );
  const bar = card.bars[0];
  if (bar === undefined) throw new Error('no memory window');
  card.setBusMaster(true);
  return {
    card,
    memory,
    sent,
    backend,
    view: new DataView(memory.buffer),
    line: () => asserted,
    dmaAccesses: () => accesses,
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
    read: (name, index = 0) => bar.registers.read(OFFSET[name] + index * 4, 4),
    write: (name, value, index = 0) => bar.registers.write(OFFSET[name] + index * 4, 4, value >>> 0),
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

/** An Ethernet frame of `length` bytes with a counting payload. */
export function frameTo(destination: Uint8Array, length: number, type = 0x88b5): Uint8Array {
  const frame = Uint8Array.from({ length }, (_, i) => i & 0xff);
  frame.set(destination);
  frame.set(PEER, 6);
  frame[12] = type >>> 8;
  frame[13] = type & 0xff;
  return frame;
}
