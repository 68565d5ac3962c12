// Locked memory operations. Naturally aligned operands in memory use WebAssembly's atomics, so that they are atomic between virtual CPUs in
// different threads. Others (split locks, device memory, data breakpoints) are plain: correct on one virtual CPU.
import { hostAddress, lockedAddress, lockedDone } from './memory';
import { writeMemory } from './operands';

/** If the `size` bytes at `la` still hold `old`, writes `value`. The caller has read them with a rmw function, so nothing here faults. */
export function replace(la: u64, size: u32, old: u64, value: u64): bool {
  const aligned = (<u32>la & (size - 1)) == 0;
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
