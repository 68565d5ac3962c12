/**
 * The engine's linear memory and who lives where in it: the core's own data, the shared block, view descriptors and their fixed
 * pages, one byte for each page of linear memory, the CPUs' blocks and code areas, host pages, and guest RAM at the end.
 */

import { PAGE_SIZE } from '../contract.ts';
import {
  CODE_AREA,
  CODE_AREA_SIZE,
  CPU_INDEX,
  DROPPED,
  DROPPED_ALL,
  DROPPED_MAX,
  EVENT_DROP,
  EVENTS,
  FIXED_SIZE,
  FRAME_CODE,
  FRAME_CODE_SETTLED,
  FRAME_MONITORED,
  FRAME_MONITORED_SETTLED,
  FRAME_NOTICED,
  MONITOR_LINE,
  MONITOR_LINE_SIZE,
  SET_HEADER,
  SHARED,
  SHARED_CLOCK,
  SHARED_CPU_COUNT,
  SHARED_CPUS,
  SHARED_FRAMES,
  SHARED_RAM,
  SHARED_RAM_SIZE,
  SHARED_RANDOM,
  SYSTEM_SIZE,
  TLB_SET_SIZE,
  TLB_SETS,
  TLB_SETS_AT,
  VIEW_SIZE,
} from './core/layout.ts';

/** The core's static data ends below this. */
const FIRST = 0x20_0000;
export const MAX_VIEWS = 256;
export const MAX_CPUS = 64;
const WASM_PAGE = 0x1_0000;
/** Pages of 4 GiB. */
const FRAME_COUNT = 0x10_0000;
const LARGE = 0x20_0000;
/** Decoded code of one CPU: about 700,000 instructions. */
const CODE_BYTES = 0x200_0000;
/** With many CPUs each gets less. */
const CODE_BYTES_TOTAL = 0x800_0000;

export interface Space {
  readonly memory: WebAssembly.Memory;
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly doubles: Float64Array;
  readonly shared: number;
  readonly views: number;
  readonly fixed: number;
  /** Entries at `fixed`. */
  readonly fixedMax: number;
  readonly frames: number;
  /** A page for passing data to the core. */
  readonly scratch: number;
  readonly cpus: readonly number[];
  readonly hostPages: number;
  readonly ram: number;
  readonly ramSize: number;
}

export interface SpaceOptions {
  readonly memorySize: number;
  readonly cpus: number;
  readonly hostPages: number;
  readonly deterministic: boolean;
}

/** Lays out and allocates. Throws RangeError when it does not fit 4 GiB. */
export function createSpace(options: SpaceOptions): Space {
  let next = FIRST;
  const take = (bytes: number, align = PAGE_SIZE): number => {
    const at = Math.ceil(next / align) * align;
    next = at + bytes;
    return at;
  };
  const shared = take(PAGE_SIZE);
  const views = take(MAX_VIEWS * VIEW_SIZE);
  const fixedMax = 4096 + 4 * options.hostPages;
  const fixed = take(fixedMax * FIXED_SIZE);
  const frames = take(FRAME_COUNT);
  const scratch = take(PAGE_SIZE);
  const codeBytes = Math.max(0x40_0000, Math.min(CODE_BYTES, Math.floor(CODE_BYTES_TOTAL / options.cpus / PAGE_SIZE) * PAGE_SIZE));
  const cpus = Array.from({ length: options.cpus }, () => take(SYSTEM_SIZE + codeBytes));
  const hostPages = take(options.hostPages * PAGE_SIZE);
  const ram = take(options.memorySize, LARGE);
  const pages = Math.max(1024, Math.ceil(next / WASM_PAGE));
  if (pages > 65536) {
    throw new RangeError(`guest memory, host pages and ${options.cpus} CPUs need ${pages} pages of 64 KiB; at most 65536 exist`);
  }
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const space: Space = {
    memory,
    shared,
    views,
    fixed,
    fixedMax,
    frames,
    scratch,
    cpus,
    hostPages,
    ram,
    ramSize: options.memorySize,
    bytes: new Uint8Array(memory.buffer),
    words: new Uint32Array(memory.buffer),
    doubles: new Float64Array(memory.buffer),
  };
  fillShared(space, options);
  cpus.forEach((block, index) => {
    prepareCpu(space, block, index, codeBytes);
  });
  return space;
}

function fillShared(space: Space, options: SpaceOptions): void {
  const put = (offset: number, value: number) => {
    space.words[(space.shared + offset) >>> 2] = value;
  };
  put(SHARED_RAM, space.ram);
  put(SHARED_RAM_SIZE, space.ramSize);
  put(SHARED_FRAMES, space.frames);
  put(SHARED_CPU_COUNT, options.cpus);
  put(SHARED_CLOCK, options.deterministic ? 1 : 0);
  put(SHARED_RANDOM, 0x9e3779b9);
  space.cpus.forEach((block, index) => {
    put(SHARED_CPUS + 4 * index, block);
  });
}

function prepareCpu(space: Space, block: number, index: number, codeBytes: number): void {
  const put = (offset: number, value: number) => {
    space.words[(block + offset) >>> 2] = value;
  };
  put(SHARED, space.shared);
  put(CPU_INDEX, index);
  put(CODE_AREA, block + SYSTEM_SIZE);
  put(CODE_AREA_SIZE, codeBytes);
  // A tag of all ones matches no page.
  for (let set = 0; set < TLB_SETS; set++) {
    const at = block + TLB_SETS_AT + set * TLB_SET_SIZE;
    space.bytes.fill(0xff, at + SET_HEADER, at + TLB_SET_SIZE);
  }
}

/** Sets event bits of a CPU; from any thread. */
export function setEvents(space: Space, block: number, bits: number): void {
  Atomics.or(space.words, (block + EVENTS) >>> 2, bits);
}

/** Clears all event bits of a CPU but these. */
export function keepEvents(space: Space, block: number, bits: number): void {
  Atomics.and(space.words, (block + EVENTS) >>> 2, bits);
}

/** Tells all CPUs that [address, address + length) in linear memory was written: who has decoded code there drops it, who monitors a line there wakes. */
export function written(space: Space, address: number, length: number): void {
  const end = address + length;
  for (let page = address - (address % PAGE_SIZE); page < end; page += PAGE_SIZE) {
    // A locked look: a CPU that marks the page after it reads what was written.
    const frame = Atomics.or(space.bytes, space.frames + page / PAGE_SIZE, 0);
    if (!(frame & FRAME_NOTICED)) continue;
    if (frame & FRAME_CODE) pageWritten(space, page);
    if (frame & FRAME_MONITORED) linesStored(space, address, end);
  }
}

/** Ends the waits for lines in [start, end), as `lineStored` of core/monitor.ts does for the CPUs' own stores. */
function linesStored(space: Space, start: number, end: number): void {
  for (const block of space.cpus) {
    const at = (block + MONITOR_LINE) >>> 2;
    const line = Atomics.load(space.words, at);
    if (line !== 0 && line < end && line + MONITOR_LINE_SIZE > start) Atomics.compareExchange(space.words, at, line, 0);
  }
}

/** No view allows MONITOR any more: pages that were used with it are as others again. No CPU is running. */
export function forgetMonitored(space: Space): void {
  for (let frame = space.frames; frame < space.frames + FRAME_COUNT; frame++) {
    if ((space.bytes[frame] ?? 0) & FRAME_MONITORED) Atomics.and(space.bytes, frame, ~(FRAME_MONITORED | FRAME_MONITORED_SETTLED));
  }
}

/** Tells all CPUs to drop what code they have decoded of the page of linear memory at `page`. */
export function pageWritten(space: Space, page: number): void {
  const frame = space.frames + page / PAGE_SIZE;
  if (!((space.bytes[frame] ?? 0) & FRAME_CODE)) return;
  Atomics.and(space.bytes, frame, ~(FRAME_CODE | FRAME_CODE_SETTLED));
  for (const block of space.cpus) {
    const first = (block + DROPPED) >>> 2;
    let slot = 0;
    while (slot < DROPPED_MAX && Atomics.compareExchange(space.words, first + slot, 0, page) !== 0) slot++;
    if (slot === DROPPED_MAX) Atomics.store(space.words, (block + DROPPED_ALL) >>> 2, 1);
    setEvents(space, block, EVENT_DROP);
  }
}
