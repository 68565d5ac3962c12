// What a virtual machine's process holds in memory beside its guest's own pages.
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { createSoftEngine } from '../dist/engine/soft/engine.js';

const PAGE = 4096;
const MIB = 2 ** 20;

/** The same for a process of ours with `size` bytes of guest RAM. Where that begins in the engine's memory is alike in every process with as many CPUs. */
export function residentOverGuest(pid, size, cpus = 1) {
  const memory = createSoftEngine({ memorySize: size, cpus, clock: 'host' }).memory.bytes;
  const whole = memory.buffer.byteLength;
  return residentOver(pid, {
    size,
    isMapping: (mapping) => mapping.size >= whole && mapping.size < whole + MIB,
    offset: memory.byteOffset,
  });
}

/**
 * Bytes resident in a process (`resident`), of them in `size` bytes of guest RAM at `offset` in the mapping chosen by `isMapping` (`guest`), the
 * rest (`own`), and of that what lies outside the mapping (`beside`).
 */
export function residentOver(pid, { size, isMapping, offset }) {
  const resident = Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))[1]) * 1024;
  const mappings = readFileSync(`/proc/${pid}/maps`, 'latin1')
    .split('\n')
    .flatMap((line) => {
      const match = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line);
      return match ? [{ start: Number.parseInt(match[1], 16), size: Number.parseInt(match[2], 16) - Number.parseInt(match[1], 16) }] : [];
    });
  const memory = mappings.filter(isMapping);
  if (memory.length !== 1) throw new Error(`expected one mapping that holds guest RAM, found ${memory.length}`);
  const guest = presentPages(pid, memory[0].start + offset, size) * PAGE;
  const mapped = presentPages(pid, memory[0].start, memory[0].size) * PAGE;
  return { resident, guest, own: resident - guest, beside: resident - mapped };
}

/** proc(5), /proc/PID/pagemap: 8 bytes a page, bit 63 = present. */
function presentPages(pid, start, size) {
  const entries = Buffer.alloc((size / PAGE) * 8);
  const file = openSync(`/proc/${pid}/pagemap`, 'r');
  const length = readSync(file, entries, 0, entries.length, (start / PAGE) * 8);
  closeSync(file);
  let present = 0;
  for (let at = 7; at < length; at += 8) present += entries[at] >>> 7;
  return present;
}
