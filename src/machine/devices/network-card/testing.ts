/** What the cards' test benches share: memory with DMA that counts, a clock that is moved by hand, a wire that records, a line with its edges. */
import { silentLog } from '../../../base/log.ts';
import type { Dma, NetworkBackend, PciBar } from '../../ports.ts';
import { createManualClock, createProbe } from '../../testing.ts';
import type { NetworkCard, NetworkCardOptions, NetworkCardPorts } from './network-card.ts';

export const MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);
export const PEER = Uint8Array.of(0x52, 0x55, 0x0a, 0x00, 0x02, 0x02);
export const BROADCAST = new Uint8Array(6).fill(0xff);

export interface CardBench {
  card: NetworkCard;
  memory: Uint8Array;
  view: DataView;
  sent: Uint8Array[];
  backend: NetworkBackend & { readyCalls: number };
  line: { level: boolean; edges: number };
  dmaAccesses(): number;
  /** Moves the clock and runs the timers that fall due, ns. */
  advance(ns: number): void;
}

/** A card with bus mastering on, and its memory window. */
export function createCardBench(
  create: (ports: NetworkCardPorts, options: NetworkCardOptions) => NetworkCard,
  memorySize: number,
): { bench: CardBench; window: PciBar['registers'] } {
  const memory = new Uint8Array(memorySize);
  const inside = (gpa: number, length: number) => gpa >= 0 && gpa + length <= memorySize;
  const clock = createManualClock();
  const line = createProbe();
  const sent: Uint8Array[] = [];
  let accesses = 0;
  const dma: Dma = {
    read(gpa, into) {
      accesses++;
      if (inside(gpa, into.length)) into.set(memory.subarray(gpa, gpa + into.length));
      else into.fill(0xff);
      return inside(gpa, into.length);
    },
    write(gpa, from) {
      accesses++;
      if (inside(gpa, from.length)) memory.set(from, gpa);
      return inside(gpa, from.length);
    },
  };
  const backend = {
    readyCalls: 0,
    send: (frame: Uint8Array) => void sent.push(frame),
    receive: (): boolean => true,
    ready: () => void backend.readyCalls++,
    close: () => {},
  };
  const card = create({ irq: line, dma, clock, log: silentLog }, { mac: MAC, backend });
  const bar = card.bars.find((candidate) => candidate?.kind === 'memory');
  if (bar === undefined) throw new Error('no memory window');
  card.setBusMaster(true);
  return {
    bench: {
      card,
      memory,
      sent,
      backend,
      line,
      view: new DataView(memory.buffer),
      dmaAccesses: () => accesses,
      advance: (ns) => clock.advance(ns),
    },
    window: bar.registers,
  };
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
