/**
 * What the linker and the VMM agree on about a module's linked shadow stack: where its routines and records lie. The routines themselves stand in
 * linker/shadow-stack.ts; what the VMM does for them, in monitor/linked-shadow-stack.ts.
 */
import { PRIVATE_PREFIX } from './private-memory.ts';

/** The routines, then one stub of STUB_SIZE bytes for each function that begins with `call __fentry__`. */
export const SHADOW_TEXT = '.text.shadow';
/** Offsets in it. `enter` and `leave` are where the routines begin, `gone` is the last instruction of `leave`: the return address is in R11 and the stack pointer above it. */
export const SHADOW = { enter: 0, leave: 0x120, gone: 0x15c, stubs: 0x160 } as const;
/** Offsets of its `ud2`, by what the VMM shall do about it. */
export const SHADOW_TRAPS = { foreign: 0x29, full: 0x101, differs: 0x13d } as const;
export type ShadowTrap = keyof typeof SHADOW_TRAPS;
export const STUB_SIZE = 16;

/** One page of {u64 start + 5, u64 end}: sections that hold the module's own code, init ones last, then zeros. A return address in them lies in [start + 5, end]. */
export const SHADOW_RANGES = `${PRIVATE_PREFIX}.shadow`;
/** Bytes of `call rel32`. */
export const CALL_SIZE = 5;
export const RANGE_SIZE = 16;

/**
 * The records, {u64 stack pointer at the return address, u64 return address}, in buckets of whole 256 bytes. A record lies in the bucket of its stack pointer, and of
 * two with the same stack pointer the first is the valid one. A free record has 0 for a stack pointer; bit 63 alone says that it is being written.
 */
export const SHADOW_RECORDS = `${PRIVATE_PREFIX}.shadow.records`;
export const RECORD_SIZE = 16;
export const BUCKET_SIZE = 256;
export const SHADOW_RECORDS_SIZE = 1024 * BUCKET_SIZE;

/** Offset of a stack pointer's bucket: the top ten bits of its low half times 2^32 divided by the golden ratio, so that stacks at regular distances spread. */
export const recordBucket = (pointer: number): number => (Math.imul(pointer, 0x9e37_79b1) >>> 22) * BUCKET_SIZE;
