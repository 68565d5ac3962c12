// Locked memory operations. Naturally aligned operands in memory use WebAssembly's atomics, so that they are atomic between virtual CPUs in
// different threads. For those that cross their natural alignment, and for 16 bytes, the other CPUs stop. Device memory and data breakpoints
// are plain: a locked operation there is as many accesses as any other.
import { hostAddress, lockedAddress, lockedDone } from './memory';
import { writeMemory } from './operands';
import { letGo, parallel, stopOthers } from './together';

/** If the `size` bytes at `la` still hold `old`, writes `value`. The caller has read them with a rmw function, so nothing here faults. */
export function replace(la: u64, size: u32, old: u64, value: u64): bool {
  const aligned = (<u32>la & (size - 1)) == 0;
  if (!aligned && parallel()) return replaceSplit(la, size, old, value);
  const host = aligned ? hostAddress(la, true) : 0;
  if (host != 0) return exchanged(host, size, old, value);
  const noticed = aligned ? lockedAddress(la) : 0;
  if (noticed == 0) {
    writeMemory(la, size, value);
    return true;
  }
  if (!exchanged(noticed, size, old, value)) return false;
  lockedDone(noticed, size);
  return true;
}

function exchanged(host: usize, size: u32, old: u64, value: u64): bool {
  if (size == 8) return atomic.cmpxchg<u64>(host, old, value) == old;
  if (size == 4) return atomic.cmpxchg<u32>(host, <u32>old, <u32>value) == <u32>old;
  if (size == 2) return atomic.cmpxchg<u16>(host, <u16>old, <u16>value) == <u16>old;
  return atomic.cmpxchg<u8>(host, <u8>old, <u8>value) == <u8>old;
}

/** The same over a boundary of cache lines or pages. */
function replaceSplit(la: u64, size: u32, old: u64, value: u64): bool {
  const room: u32 = 0x1000 - (<u32>la & 0xfff);
  const here = size < room ? size : room;
  const first = lockedAddress(la);
  const second = here == size ? first + here : lockedAddress(la + here);
  if (first == 0 || second == 0) {
    writeMemory(la, size, value);
    return true;
  }
  stopOthers();
  let found: u64 = 0;
  for (let i: u32 = 0; i < size; i++) found |= <u64>load<u8>(i < here ? first + i : second + (i - here)) << (i << 3);
  if (found == old) for (let i: u32 = 0; i < size; i++) store<u8>(i < here ? first + i : second + (i - here), <u8>(value >> (i << 3)));
  letGo();
  if (found != old) return false;
  lockedDone(first, here);
  if (here < size) lockedDone(second, size - here);
  return true;
}

/**
 * If the 16 aligned bytes at `la` hold `low` and `high`, writes the new ones, and leaves the rest of the world no moment between. `locked`: with
 * the prefix. Returns what they held by `foundLow` and `foundHigh`. The caller has probed them for writing.
 */
export function replace16(la: u64, locked: bool, low: u64, high: u64, newLow: u64, newHigh: u64): bool {
  const host = lockedAddress(la);
  if (host == 0) return false;
  const stop = locked && parallel();
  if (stop) stopOthers();
  foundLow = load<u64>(host);
  foundHigh = load<u64>(host, 8);
  if (foundLow == low && foundHigh == high) {
    store<u64>(host, newLow);
    store<u64>(host, newHigh, 8);
  }
  if (stop) letGo();
  lockedDone(host, 16);
  return true;
}

export let foundLow: u64 = 0;
export let foundHigh: u64 = 0;
