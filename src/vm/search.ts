/** Looks for bytes in a machine's memory from outside: in guest RAM itself, and through the port by which devices read memory. */
import type { GuestMemory } from '../engine/contract.ts';
import { createDma } from '../machine/dma.ts';
import type { MemorySearch } from './config.ts';

const PIECE = 1 << 20;
/** What a device asks for beyond the end of RAM: where an engine may keep pages of its own. */
const BEYOND = 64 << 20;

export function searchMemory(memory: GuestMemory, needles: readonly Uint8Array[]): MemorySearch {
  const longest = Math.max(1, ...needles.map(({ length }) => length));
  const result: MemorySearch = { bytes: memory.size, memory: needles.map(() => 0), dmaBytes: 0, dma: needles.map(() => 0) };
  const ram = Buffer.from(memory.bytes.buffer, memory.bytes.byteOffset, memory.bytes.byteLength);
  for (const [index, needle] of needles.entries()) result.memory[index] = occurrences(ram, needle, ram.length);
  const dma = createDma(memory, () => true);
  const piece = Buffer.alloc(PIECE + longest - 1); // pieces overlap, so that nothing is cut in two
  for (let gpa = 0; gpa < memory.size + BEYOND; gpa += PIECE) {
    const length = gpa < memory.size ? Math.min(piece.length, memory.size - gpa) : piece.length;
    const part = piece.subarray(0, length);
    if (dma.read(gpa, part)) result.dmaBytes += Math.min(length, PIECE);
    for (const [index, needle] of needles.entries()) result.dma[index] += occurrences(part, needle, PIECE);
  }
  return result;
}

/** How often `needle` begins in the first `starts` bytes. */
function occurrences(bytes: Buffer, needle: Uint8Array, starts: number): number {
  let count = 0;
  if (needle.length === 0) return 0;
  for (let at = bytes.indexOf(needle); at >= 0 && at < starts; at = bytes.indexOf(needle, at + 1)) count += 1;
  return count;
}
