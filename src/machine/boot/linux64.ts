/** The Linux 64-bit boot protocol, entered at the kernel proper: the payload was unpacked on the host (Linux Documentation/arch/x86/boot.rst, zero-page.rst). */
import type { Cpu, GuestMemory } from '../../engine/contract.ts';
import { enterLongMode } from './cpu-state.ts';
import { loadCommandLine, loadInitramfs, loadSegments } from './image.ts';
import type { MemoryMapEntry } from '../memory-map.ts';
import { BOOT_LAYOUT } from './layout.ts';

/** Range types of a memory map, the same in E820, PVH and (1 alone) Multiboot (ACPI 15, table 15.2). */
export const E820_TYPE = { ram: 1, reserved: 2 } as const;

export interface BootInput {
  elf: Uint8Array;
  name: string;
  setupHeader?: Uint8Array;
  initramfs?: Uint8Array;
  commandLine: string;
  memoryMap: readonly MemoryMapEntry[];
  /** Physical address of the ACPI RSDP. */
  rsdp: number;
}

/** Offsets in boot_params. */
const PARAMS = {
  acpiRsdp: 0x070,
  e820Count: 0x1e8,
  header: 0x1f1,
  bootFlag: 0x1fe,
  magic: 0x202,
  loader: 0x210,
  loadFlags: 0x211,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  commandLine: 0x228,
  alignment: 0x230,
  initrdMax: 0x22c,
  e820: 0x2d0,
} as const;
const E820_MAX = 128;

export function bootLinux64(cpu: Cpu, memory: GuestMemory, input: BootInput): void {
  const { image, end } = loadSegments(memory, input.elf, input.name);
  const params = new DataView(memory.bytes.buffer, memory.bytes.byteOffset + BOOT_LAYOUT.bootParams, 4096);
  memory.bytes.fill(0, BOOT_LAYOUT.bootParams, BOOT_LAYOUT.bootParams + 4096);
  if (input.setupHeader) memory.bytes.set(input.setupHeader, BOOT_LAYOUT.bootParams + PARAMS.header);
  const initrdMax = input.setupHeader ? params.getUint32(PARAMS.initrdMax, true) : 0x7fffffff;
  params.setUint16(PARAMS.bootFlag, 0xaa55, true);
  params.setUint32(PARAMS.magic, 0x53726448, true);
  params.setUint8(PARAMS.loader, 0xff); // undefined loader
  params.setUint8(PARAMS.loadFlags, params.getUint8(PARAMS.loadFlags) | 0x01);
  if (!input.setupHeader) params.setUint32(PARAMS.alignment, 0x200000, true);
  const commandLine = loadCommandLine(memory, input.commandLine);
  params.setUint32(PARAMS.commandLine, commandLine.address, true);
  if (input.initramfs?.length) {
    const placed = loadInitramfs(memory, input.initramfs, end, initrdMax);
    params.setUint32(PARAMS.ramdiskImage, placed.start, true);
    params.setUint32(PARAMS.ramdiskSize, placed.size, true);
  }
  params.setBigUint64(PARAMS.acpiRsdp, BigInt(input.rsdp), true);
  const map = input.memoryMap.slice(0, E820_MAX);
  params.setUint8(PARAMS.e820Count, map.length);
  map.forEach((entry, index) => {
    const at = PARAMS.e820 + index * 20;
    params.setBigUint64(at, BigInt(entry.start), true);
    params.setBigUint64(at + 8, BigInt(entry.end - entry.start), true);
    params.setUint32(at + 16, E820_TYPE[entry.type], true);
  });
  enterLongMode(cpu, memory, Number(image.entry), { rsi: BOOT_LAYOUT.bootParams, rsp: BOOT_LAYOUT.stack });
}
