/** Bus-master access to guest RAM: bounds are checked here, once for all devices, and decoded code under a write is dropped. */
import type { GuestMemory } from '../engine/contract.ts';
import type { Dma } from './ports.ts';

/** `allowed` is asked before every access: a device without bus mastering reads ones and writes nothing. */
export function createDma(memory: GuestMemory, allowed: () => boolean): Dma {
  const inside = (gpa: number, length: number) => Number.isInteger(gpa) && gpa >= 0 && gpa + length <= memory.size && allowed();
  return {
    read(gpa, into) {
      if (!inside(gpa, into.length)) {
        into.fill(0xff);
        return false;
      }
      into.set(memory.bytes.subarray(gpa, gpa + into.length));
      return true;
    },
    write(gpa, from) {
      if (!inside(gpa, from.length)) return false;
      if (from.length === 0) return true;
      memory.bytes.set(from, gpa);
      memory.written(gpa, from.length);
      return true;
    },
  };
}
