/**
 * Frames: the record of every unfinished crossing (P8). Keyed by {stack pointer, kind}, newest first on each kernel stack, because
 * threads block in call-outs and go on elsewhere. All storage is typed arrays of fixed size: nothing a guest does makes it grow,
 * nothing is allocated at a crossing, and it can lie in shared memory when several threads run CPUs.
 */
import { on } from '../base/defence-switch.ts';
import { REGISTER_COUNT, SHADOW_STACK_DEPTH } from '../engine/contract.ts';

/** print: a refused call that prints first (guest-log.ts). */
export const FRAME = { callIn: 1, callOut: 2, event: 3, print: 4 } as const;
export type FrameKind = (typeof FRAME)[keyof typeof FRAME];

/** Linux kernel stacks are 16 KiB, aligned to their size (arch/x86/include/asm/page_64_types.h: THREAD_SIZE_ORDER 2). */
export const STACK_SIZE = 16384;
/** Return addresses that one frame can seal: module calls nested within one entry. */
export const SEALS = 48;
/** Room of one frame for the shadow stack's entries, as in `ShadowStack.halves`. */
export const SHADOW_HALVES = 4 * SHADOW_STACK_DEPTH;
const REGISTER_HALVES = 2 * REGISTER_COUNT;
/** A few stacks each, also with ten thousand threads inside. */
const BUCKETS = 4096;

/** Bucket of a stack. The key is the stack pointer after a return: the slot below it is surely on the stack, the key may be its end. */
const bucketOf = (key: number) => ((key - 8) >>> 14) & (BUCKETS - 1);
const stackOf = (key: number) => Math.floor((key - 8) / STACK_SIZE);

/** Tells whether two addresses on the same 16 KiB lie on one stack: stacks that are not aligned have an unmapped guard page between them. */
export type SameStack = (low: number, high: number) => boolean;

export class Frames {
  readonly kind: Uint8Array;
  /** Serial number of the instance. */
  readonly instance: Float64Array;
  /** Stack pointer with which the crossing ends. */
  readonly key: Float64Array;
  /** Where the crossing ends: return address, or the interrupted RIP. */
  readonly address: Float64Array;
  /** call-in, call-out: gate index, -1 for an indirect call. event: vector, less 256 unless an exception. */
  readonly detail: Int32Array;
  /** Saved register halves, REGISTER_HALVES per frame, as in `Registers.halves`. */
  readonly registers: Uint32Array;
  readonly sealCount: Uint8Array;
  /** SEALS per frame: address of the slot, and the return address that it holds. */
  readonly sealSlot: Float64Array;
  readonly sealValue: Float64Array;
  /** call-out, event: the module's calls that had not returned, by shadow-stack.ts. */
  readonly shadowDepth: Uint8Array;
  readonly shadow: Uint32Array;
  private readonly next: Int32Array;
  private readonly born: Float64Array;
  private readonly heads = new Int32Array(BUCKETS).fill(-1);
  private free = 0;
  private clock = 0;
  /** Frames in use, and how often the oldest had to go to make room. */
  live = 0;
  evicted = 0;

  constructor(readonly capacity: number) {
    this.kind = new Uint8Array(capacity);
    this.instance = new Float64Array(capacity);
    this.key = new Float64Array(capacity);
    this.address = new Float64Array(capacity);
    this.detail = new Int32Array(capacity);
    this.registers = new Uint32Array(capacity * REGISTER_HALVES);
    this.sealCount = new Uint8Array(capacity);
    this.sealSlot = new Float64Array(capacity * SEALS);
    this.sealValue = new Float64Array(capacity * SEALS);
    this.shadowDepth = new Uint8Array(capacity);
    this.shadow = new Uint32Array(capacity * SHADOW_HALVES);
    this.next = Int32Array.from({ length: capacity }, (_, index) => (index + 1 < capacity ? index + 1 : -1));
    this.born = new Float64Array(capacity);
  }

  registersAt(frame: number): number {
    return frame * REGISTER_HALVES;
  }

  /**
   * A new frame, newest on its stack, with no seals. Frames of the same stack below `key` can never end any more (their code was
   * abandoned: functions that do not return, killed threads) and are dropped; when all are in use, the oldest of all goes.
   */
  push(kind: FrameKind, instance: number, key: number, address: number, detail: number, same: SameStack): number {
    const bucket = bucketOf(key);
    const stack = stackOf(key);
    let before = -1;
    for (let frame = this.heads[bucket]; frame >= 0; ) {
      const next = this.next[frame];
      const other = this.key[frame];
      if (on('frame-nesting') && other < key && stackOf(other) === stack && same(other, key)) this.unlink(bucket, before, frame);
      else before = frame;
      frame = next;
    }
    if (this.free < 0) this.evictOldest();
    const frame = this.free;
    this.free = this.next[frame];
    this.next[frame] = this.heads[bucket];
    this.heads[bucket] = frame;
    this.kind[frame] = kind;
    this.instance[frame] = instance;
    this.key[frame] = key;
    this.address[frame] = address;
    this.detail[frame] = detail;
    this.sealCount[frame] = 0;
    this.shadowDepth[frame] = 0;
    this.born[frame] = this.clock++;
    this.live += 1;
    return frame;
  }

  /** The newest frame with this key and kind of this instance, or -1. */
  find(kind: FrameKind, instance: number, key: number): number {
    for (let frame = this.heads[bucketOf(key)]; frame >= 0; frame = this.next[frame]) {
      if (this.kind[frame] !== kind || (this.key[frame] !== key && on('frame-stack-pointer'))) continue;
      if (this.instance[frame] === instance || !on('frame-instance')) return frame;
    }
    return -1;
  }

  /** The newest frame of this kind and instance on the stack that holds `pointer`, at or above it, or -1. */
  newestOnStack(kind: FrameKind, instance: number, pointer: number, same: SameStack): number {
    const stack = stackOf(pointer + 8);
    for (let frame = this.heads[bucketOf(pointer + 8)]; frame >= 0; frame = this.next[frame]) {
      const key = this.key[frame];
      if (this.kind[frame] !== kind || this.instance[frame] !== instance || key < pointer || stackOf(key) !== stack) continue;
      if (same(pointer, key)) return frame;
    }
    return -1;
  }

  /**
   * Uses a frame up: it and all newer ones of its stack are gone (what they stood for was nested in it and is abandoned).
   * Its fields stay readable until the next `push`.
   */
  take(frame: number, same: SameStack): void {
    if (!on('frame-single-use')) return;
    const key = this.key[frame];
    const bucket = bucketOf(key);
    const stack = stackOf(key);
    let before = -1;
    for (let other = this.heads[bucket]; other !== frame; ) {
      const next = this.next[other];
      const low = this.key[other];
      if (stackOf(low) === stack && same(Math.min(low, key), Math.max(low, key))) this.unlink(bucket, before, other);
      else before = other;
      other = next;
    }
    this.unlink(bucket, before, frame);
  }

  /** Drops every frame of the stack that holds `pointer`, whose thread ends. */
  dropStack(pointer: number, same: SameStack): void {
    const bucket = bucketOf(pointer);
    const stack = stackOf(pointer);
    let before = -1;
    for (let frame = this.heads[bucket]; frame >= 0; ) {
      const next = this.next[frame];
      const key = this.key[frame];
      if (stackOf(key) === stack && same(Math.min(key, pointer), Math.max(key, pointer))) this.unlink(bucket, before, frame);
      else before = frame;
      frame = next;
    }
  }

  /** Stack pointers with which the unfinished crossings of this kind and instance end, sorted. Looks at all frames. */
  keysOf(kind: FrameKind, instance: number): Float64Array {
    const keys: number[] = [];
    for (const head of this.heads) {
      for (let frame = head; frame >= 0; frame = this.next[frame])
        if (this.kind[frame] === kind && this.instance[frame] === instance) keys.push(this.key[frame]);
    }
    return Float64Array.from(keys).sort();
  }

  /** Drops every frame of an instance; gives how many it had. */
  dropInstance(instance: number): number {
    const before = this.live;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      let former = -1;
      for (let frame = this.heads[bucket]; frame >= 0; ) {
        const next = this.next[frame];
        if (this.instance[frame] === instance) this.unlink(bucket, former, frame);
        else former = frame;
        frame = next;
      }
    }
    return before - this.live;
  }

  private unlink(bucket: number, before: number, frame: number): void {
    if (before < 0) this.heads[bucket] = this.next[frame];
    else this.next[before] = this.next[frame];
    this.next[frame] = this.free;
    this.free = frame;
    this.live -= 1;
  }

  private evictOldest(): void {
    let oldest = 0;
    for (let frame = 1; frame < this.capacity; frame++) if (this.born[frame] < this.born[oldest]) oldest = frame;
    const bucket = bucketOf(this.key[oldest]);
    let before = -1;
    for (let frame = this.heads[bucket]; frame !== oldest; frame = this.next[frame]) before = frame;
    this.unlink(bucket, before, oldest);
    this.evicted += 1;
  }
}
