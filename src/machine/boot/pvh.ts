/** PVH direct boot: an ELF image with a XEN_ELFNOTE_PHYS32_ENTRY note (Xen docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h). */
import type { Cpu, GuestMemory } from '../../engine/contract.ts';
import { enterProtectedMode } from './cpu-state.ts';
import { loadCommandLine, loadInitramfs, loadSegments } from './image.ts';
import { BOOT_LAYOUT } from './layout.ts';
import { type BootInput, E820_TYPE } from './linux64.ts';

const START_MAGIC = 0x336ec578;
const MAP_ENTRY_SIZE = 24;

export function bootPvh(cpu: Cpu, memory: GuestMemory, input: BootInput, entry: number): void {
  const { end } = loadSegments(memory, input.elf, input.name);
  const commandLine = loadCommandLine(memory, input.commandLine);
  const base = memory.bytes.byteOffset;
  const info = new DataView(memory.bytes.buffer, base + BOOT_LAYOUT.startInfo, 56);
  info.setUint32(0, START_MAGIC, true);
  info.setUint32(4, 1, true); // version 1: has a memory map
  info.setUint32(8, 0, true);
  if (input.initramfs?.length) {
    const placed = loadInitramfs(memory, input.initramfs, end, 0x7fffffff);
    const list = new DataView(memory.bytes.buffer, base + BOOT_LAYOUT.moduleList, 32);
    list.setBigUint64(0, BigInt(placed.start), true);
    list.setBigUint64(8, BigInt(placed.size), true);
    info.setUint32(12, 1, true);
    info.setBigUint64(16, BigInt(BOOT_LAYOUT.moduleList), true);
  }
  info.setBigUint64(24, BigInt(commandLine.address), true);
  info.setBigUint64(32, BigInt(input.rsdp), true);
  info.setBigUint64(40, BigInt(BOOT_LAYOUT.multibootMap), true);
  info.setUint32(48, input.memoryMap.length, true);
  const map = new DataView(memory.bytes.buffer, base + BOOT_LAYOUT.multibootMap, input.memoryMap.length * MAP_ENTRY_SIZE);
  input.memoryMap.forEach((range, index) => {
    map.setBigUint64(index * MAP_ENTRY_SIZE, BigInt(range.start), true);
    map.setBigUint64(index * MAP_ENTRY_SIZE + 8, BigInt(range.end - range.start), true);
    map.setUint32(index * MAP_ENTRY_SIZE + 16, E820_TYPE[range.type], true);
  });
  enterProtectedMode(cpu, memory, entry, { rbx: BOOT_LAYOUT.startInfo });
}
