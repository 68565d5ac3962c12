/** Multiboot 1 (Multiboot Specification 0.6.96): for bare-metal test kernels. ELF images only; the a.out fields of the header are not used. */
import type { Cpu, GuestMemory } from '../../engine/contract.ts';
import { enterProtectedMode } from './cpu-state.ts';
import { loadCommandLine, loadInitramfs, loadSegments } from './image.ts';
import { BOOT_LAYOUT } from './layout.ts';
import { type BootInput, E820_TYPE } from './linux64.ts';

const HEADER_MAGIC = 0x1badb002;
const LOADER_MAGIC = 0x2badb002;
const SEARCH = 8192; // 3.1: the header lies in the first 8192 bytes, 32-bit aligned
const INFO = { memory: 0x001, commandLine: 0x004, modules: 0x008, map: 0x040 } as const;
const MAP_ENTRY_SIZE = 24;

/** True when the file has a Multiboot 1 header whose checksum holds. */
export function hasMultibootHeader(file: Uint8Array): boolean {
  const view = new DataView(file.buffer, file.byteOffset, Math.min(file.length, SEARCH));
  for (let at = 0; at + 12 <= view.byteLength; at += 4) {
    if (view.getUint32(at, true) !== HEADER_MAGIC) continue;
    if ((HEADER_MAGIC + view.getUint32(at + 4, true) + view.getUint32(at + 8, true)) >>> 0 === 0) return true;
  }
  return false;
}

export function bootMultiboot(cpu: Cpu, memory: GuestMemory, input: BootInput): void {
  const { image, end } = loadSegments(memory, input.elf, input.name);
  const commandLine = loadCommandLine(memory, input.commandLine);
  const base = memory.bytes.byteOffset;
  const info = new DataView(memory.bytes.buffer, base + BOOT_LAYOUT.startInfo, 88);
  let flags = INFO.memory | INFO.commandLine | INFO.map;
  info.setUint32(4, 640, true); // KiB below 1 MiB
  info.setUint32(8, (memory.size - 0x100000) / 1024, true); // KiB above
  info.setUint32(16, commandLine.address, true);
  if (input.initramfs?.length) {
    const placed = loadInitramfs(memory, input.initramfs, end, 0x7fffffff);
    const list = new DataView(memory.bytes.buffer, base + BOOT_LAYOUT.moduleList, 16);
    list.setUint32(0, placed.start, true);
    list.setUint32(4, placed.start + placed.size, true);
    flags |= INFO.modules;
    info.setUint32(20, 1, true);
    info.setUint32(24, BOOT_LAYOUT.moduleList, true);
  }
  info.setUint32(0, flags, true);
  info.setUint32(44, input.memoryMap.length * MAP_ENTRY_SIZE, true);
  info.setUint32(48, BOOT_LAYOUT.multibootMap, true);
  const map = new DataView(memory.bytes.buffer, base + BOOT_LAYOUT.multibootMap, input.memoryMap.length * MAP_ENTRY_SIZE);
  input.memoryMap.forEach((range, index) => {
    const at = index * MAP_ENTRY_SIZE;
    map.setUint32(at, MAP_ENTRY_SIZE - 4, true);
    map.setBigUint64(at + 4, BigInt(range.start), true);
    map.setBigUint64(at + 12, BigInt(range.end - range.start), true);
    map.setUint32(at + 20, E820_TYPE[range.type], true);
  });
  enterProtectedMode(cpu, memory, Number(image.entry), { rax: LOADER_MAGIC, rbx: BOOT_LAYOUT.startInfo });
}
