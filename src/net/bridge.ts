/**
 * Joins a card in a worker with a back end on another thread: two rings of frames in shared memory, one writer and one reader each,
 * without locks. The writer wakes a sleeping reader by Atomics.notify on the ring's signal word; where the reader cannot sleep there, it is
 * told by a message instead (`wake`). A full ring drops and counts, as a wire would.
 */
import type { NetworkBackend } from './ports.ts';
import { MAXIMUM_FRAME, MINIMUM_FRAME } from './ethernet.ts';
import { ReceiveQueue } from './queue.ts';

/** Words in front of each ring's bytes. Head and tail count bytes and wrap at 2^32. */
const WORD = { head: 0, tail: 1, dropped: 2, signal: 3 } as const;
const HEADER = 64;
const PREFIX = 4;
const HELD = 64;

/** Memory for a bridge; `size` is the bytes of each direction's ring, a power of two, 128 KiB to 64 MiB. */
export function createBridgeMemory(size = 1024 * 1024): SharedArrayBuffer {
  if (!Number.isInteger(Math.log2(size)) || size < 0x2_0000 || size > 0x400_0000) {
    throw new RangeError('a bridge ring is a power of two from 128 KiB to 64 MiB');
  }
  return new SharedArrayBuffer(2 * (HEADER + size));
}

/** One direction. */
class Ring {
  readonly words: Int32Array;
  private readonly bytes: Uint8Array;
  private readonly mask: number;

  constructor(memory: SharedArrayBuffer, index: 0 | 1) {
    const size = memory.byteLength / 2 - HEADER;
    const start = index * (HEADER + size);
    this.words = new Int32Array(memory, start, HEADER / 4);
    this.bytes = new Uint8Array(memory, start + HEADER, size);
    this.mask = size - 1;
  }

  get dropped(): number {
    return Atomics.load(this.words, WORD.dropped) >>> 0;
  }

  /** Writer's side. False: no room, counted. */
  push(frame: Uint8Array): boolean {
    const tail = Atomics.load(this.words, WORD.tail);
    const used = (tail - Atomics.load(this.words, WORD.head)) >>> 0;
    const needed = (PREFIX + frame.length + 3) & ~3;
    if (frame.length < MINIMUM_FRAME || frame.length > MAXIMUM_FRAME || used + needed > this.bytes.length) {
      Atomics.add(this.words, WORD.dropped, 1);
      return false;
    }
    const at = tail & this.mask;
    // Records are multiples of four bytes, so the length never wraps.
    this.bytes[at] = frame.length;
    this.bytes[at + 1] = frame.length >>> 8;
    this.bytes[at + 2] = 0;
    this.bytes[at + 3] = 0;
    const from = (at + PREFIX) & this.mask;
    const first = Math.min(frame.length, this.bytes.length - from);
    this.bytes.set(first === frame.length ? frame : frame.subarray(0, first), from);
    if (first < frame.length) this.bytes.set(frame.subarray(first), 0);
    Atomics.store(this.words, WORD.tail, (tail + needed) | 0);
    return true;
  }

  /** Wakes the reader. */
  notify(): void {
    Atomics.add(this.words, WORD.signal, 1);
    Atomics.notify(this.words, WORD.signal);
  }

  /** Reader's side. The next frame in its own memory, or undefined. */
  shift(): Uint8Array | undefined {
    const head = Atomics.load(this.words, WORD.head);
    const used = (Atomics.load(this.words, WORD.tail) - head) >>> 0;
    if (used === 0) return undefined;
    const at = head & this.mask;
    const length = this.bytes[at] | (this.bytes[at + 1] << 8) | (this.bytes[at + 2] << 16) | (this.bytes[at + 3] << 24);
    const needed = (PREFIX + length + 3) & ~3;
    if (length < MINIMUM_FRAME || length > MAXIMUM_FRAME || needed > used || used > this.bytes.length) {
      // The other side wrote nonsense: nothing behind it can be trusted either.
      Atomics.add(this.words, WORD.dropped, 1);
      Atomics.store(this.words, WORD.head, Atomics.load(this.words, WORD.tail));
      return undefined;
    }
    const frame = new Uint8Array(length);
    const from = (at + PREFIX) & this.mask;
    const first = Math.min(length, this.bytes.length - from);
    frame.set(this.bytes.subarray(from, from + first));
    if (first < length) frame.set(this.bytes.subarray(0, length - first), first);
    Atomics.store(this.words, WORD.head, (head + needed) | 0);
    return frame;
  }
}

export interface BridgeOptions {
  /** Tells the other thread that a frame is there, if it does not sleep on the signal word: posts a message, say. */
  wake?: () => void;
}

export interface CardSide extends NetworkBackend {
  /** Hands waiting frames to the card. Call when woken and now and then. */
  poll(): void;
  /** Word to sleep on with Atomics.wait: it changes with each frame from the network. */
  readonly signal: { readonly words: Int32Array; readonly index: number };
  statistics(): Record<string, number>;
}

export interface NetworkSide {
  /** Moves waiting frames to the back end. */
  poll(): void;
  statistics(): Record<string, number>;
  close(): void;
}

/** The end in the card's thread. Closing it closes no back end: the other end does that. */
export function bridgeCard(memory: SharedArrayBuffer, options: BridgeOptions = {}): CardSide {
  const out = new Ring(memory, 0);
  const into = new Ring(memory, 1);
  const queue = new ReceiveQueue((frame) => side.receive(frame), HELD);
  const side: CardSide = {
    receive: () => true,
    signal: { words: into.words, index: WORD.signal },
    send(frame) {
      if (!out.push(frame)) return;
      out.notify();
      options.wake?.();
    },
    poll() {
      while (queue.drain()) {
        const frame = into.shift();
        if (frame === undefined) return;
        queue.push(frame);
      }
    },
    ready: () => side.poll(),
    close: () => queue.clear(),
    statistics: () => ({ txDropped: out.dropped, rxDropped: into.dropped + queue.dropped }),
  };
  return side;
}

/** Node has Atomics.waitAsync (ECMAScript 2024), the type library for ES2023 does not. */
interface AsyncAtomics {
  waitAsync(words: Int32Array, index: number, value: number): { async: boolean; value: string | Promise<string> };
}

/** The end in the back end's thread. It wakes itself by the signal word, without blocking the thread. */
export function bridgeNetwork(memory: SharedArrayBuffer, backend: NetworkBackend, options: BridgeOptions = {}): NetworkSide {
  const into = new Ring(memory, 0);
  const out = new Ring(memory, 1);
  let closed = false;
  backend.receive = (frame) => {
    // Full: dropped and counted. Holding it back would need a wake-up in the other direction for no gain over a lossy wire.
    if (out.push(frame)) {
      out.notify();
      options.wake?.();
    }
    return true;
  };
  const side: NetworkSide = {
    poll() {
      for (let frame = into.shift(); frame !== undefined && !closed; frame = into.shift()) backend.send(frame);
    },
    statistics: () => ({ txDropped: into.dropped, rxDropped: out.dropped }),
    close() {
      closed = true;
      into.notify();
      backend.close();
    },
  };
  const watch = async () => {
    while (!closed) {
      const seen = Atomics.load(into.words, WORD.signal);
      side.poll();
      const wait = (Atomics as unknown as AsyncAtomics).waitAsync(into.words, WORD.signal, seen);
      // 'not-equal' comes at once; a turn of the event loop keeps a busy card from starving the thread.
      if (wait.async) await wait.value;
      else await new Promise((resolve) => setImmediate(resolve));
    }
  };
  void watch();
  return side;
}
