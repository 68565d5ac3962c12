// Memory of the VMM over the guest's own: resident pages of the process less resident pages of guest RAM, some seconds after the guest is up,
// when what only the start needed has been given back.
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { createSoftEngine } from '../dist/engine/soft/engine.js';
import { makeGuest, MEMORY_MIB, portcullis, qemu } from './guests.mjs';
import { runGuest } from './process.mjs';

export const title = "Memory of the program over the guest's own";
const PAGE = 4096;
const MIB = 2 ** 20;
const GUEST = MEMORY_MIB * MIB;

const SCRIPT = `
dd if=/dev/urandom of=/tmp/file bs=1M count=4 2>/dev/null
gzip -c /tmp/file | sha256sum > /dev/null
sleep 4
echo "@@ up"
sleep 1`;

export async function measure() {
  const guest = await makeGuest('memory', SCRIPT);
  // Where guest RAM begins in the engine's memory is the same in every process.
  const ram = createSoftEngine({ memorySize: GUEST, cpus: 1, clock: 'host' }).memory.bytes.byteOffset;
  const here = await sample(portcullis(guest), ({ size }) => size >= ram + GUEST && size < ram + GUEST + MIB, ram);
  const others = qemu(guest);
  const beside = others && (await sample(others, ({ size }) => size === GUEST, 0));
  const row = (what, key, aim) => ({
    what,
    value: here[key] / MIB,
    unit: 'MiB',
    ...(beside && { beside: { name: 'QEMU TCG', value: beside[key] / MIB }, ratio: here[key] / beside[key] }),
    aim,
  });
  return [row("over the guest's own", 'own', 'under 300 MB'), row('guest RAM touched', 'guest'), row('whole process', 'resident')];
}

async function sample(command, isMemory, offset) {
  let result;
  await runGuest(command, {
    onSample: ({ name }, pid) => {
      if (name === 'up') result = resident(pid, isMemory, offset);
    },
  });
  return result;
}

/** Bytes resident in a process, and of them in `GUEST` bytes at `offset` in the mapping chosen by `isMemory`. */
function resident(pid, isMemory, offset) {
  const whole = Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))[1]) * 1024;
  const mappings = readFileSync(`/proc/${pid}/maps`, 'latin1')
    .split('\n')
    .flatMap((line) => {
      const match = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line);
      return match ? [{ start: Number.parseInt(match[1], 16), size: Number.parseInt(match[2], 16) - Number.parseInt(match[1], 16) }] : [];
    });
  const memory = mappings.filter(isMemory);
  if (memory.length !== 1) throw new Error(`expected one mapping that holds guest RAM, found ${memory.length}`);
  const guest = presentPages(pid, memory[0].start + offset, GUEST) * PAGE;
  return { resident: whole, guest, own: whole - guest };
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
