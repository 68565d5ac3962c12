/** Where the boot protocols put things in low memory, in one table. All are RAM below 640 KiB that the kernel takes over or copies early. */
export const BOOT_LAYOUT = {
  gdt: 0x500,
  startInfo: 0x600, // PVH hvm_start_info or Multiboot information
  moduleList: 0x680,
  multibootMap: 0x700,
  bootParams: 0x7000, // "zero page", 4 KiB
  stack: 0x8ff0,
  pageTables: 0x9000, // PML4, PDPT, four page directories
  commandLine: 0x20000,
  commandLineMax: 0x2000,
} as const;

/** The real-mode interrupt area and this table must not be overlapped by a kernel: images load at or above 1 MiB. */
export const LOWEST_LOAD_ADDRESS = 0x100000;
