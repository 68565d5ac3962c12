/** Reading guest memory by linear address, for the loader. Not a hot path. */
import { PAGE_SIZE } from '../engine/contract.ts';
import type { Cpu, GuestMemory } from '../engine/contract.ts';
import type { ReadGuest } from './solve.ts';

/** Longest single read: the largest section that an image may hold. */
const LIMIT = 16 << 20;

/** Guest physical address of a mapped RAM page, or -1. */
export function ramPage(cpu: Cpu, memory: GuestMemory, address: number): number {
  const gpa = cpu.translate(address - (address & (PAGE_SIZE - 1)), false);
  return gpa >= 0 && gpa + PAGE_SIZE <= memory.size ? gpa : -1;
}

export function guestReader(cpu: Cpu, memory: GuestMemory): ReadGuest {
  return (address, length) => {
    if (!(length >= 0 && length <= LIMIT)) return undefined;
    const out = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const offset = (address + done) & (PAGE_SIZE - 1);
      const page = ramPage(cpu, memory, address + done);
      if (page < 0) return undefined;
      const count = Math.min(PAGE_SIZE - offset, length - done);
      out.set(memory.bytes.subarray(page + offset, page + offset + count), done);
      done += count;
    }
    return out;
  };
}
