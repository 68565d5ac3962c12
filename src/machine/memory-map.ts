/**
 * Every address of the machine in one place: the board wires by this table, ACPI describes it to the guest, the boot protocol hands it on.
 * Ranges are [start, end) in bytes. The layout below 4 GiB is that of a PC (Intel 440FX/ICH).
 */
import { UserError } from '../base/errors.ts';

export const MEMORY = {
  /** Conventional memory ends here; above are the video hole and the BIOS area, reserved although RAM answers there. */
  lowEnd: 0xa0000,
  /** Where ACPI tables are put; inside the area that an operating system scans for the RSDP (ACPI 5.2.5.1). */
  acpi: { start: 0xe0000, end: 0x100000 },
  biosEnd: 0x100000,
  pciMemory: { start: 0xe000_0000, end: 0xfec0_0000 },
  ioapic: { start: 0xfec0_0000, end: 0xfec0_1000 },
  lapic: { start: 0xfee0_0000, end: 0xfee0_1000 },
} as const;

/** Largest RAM: it ends where PCI memory space may begin. */
export const RAM_LIMIT = 0xc000_0000;
export const RAM_LEAST = 0x10_0000;

/** First port of each device on the port bus, with the number of ports. */
export const PORTS = {
  picMaster: { start: 0x20, size: 2 },
  picSlave: { start: 0xa0, size: 2 },
  picTrigger: { start: 0x4d0, size: 2 },
  pit: { start: 0x40, size: 4 },
  speaker: { start: 0x61, size: 1 },
  keyboardData: { start: 0x60, size: 1 },
  keyboardCommand: { start: 0x64, size: 1 },
  cmos: { start: 0x70, size: 2 },
  post: { start: 0x80, size: 1 },
  serial: { start: 0x3f8, size: 8 },
  acpiPm: { start: 0x600, size: 12 },
  pciConfig: { start: 0xcf8, size: 8 },
  pciIo: { start: 0x1000, size: 0xf000 },
} as const;

/** ISA interrupt numbers. */
export const ISA_IRQ = { pit: 0, cascade: 2, serial: 4, cmos: 8, sci: 9 } as const;

/** I/O APIC pin of an ISA interrupt: the PIT's is on pin 2, as the MADT says; the others keep their number. */
export function ioapicPinOfIsa(irq: number): number {
  return irq === ISA_IRQ.pit ? 2 : irq;
}

/** First of the four I/O APIC pins of the PCI interrupt wires. */
export const PCI_FIRST_PIN = 16;
/** ISA interrupts of the same four wires, for a guest that uses the 8259s. */
export const PCI_ISA_IRQS = [10, 11, 10, 11] as const;

/** Which of the four wires INTA of a slot drives: the swizzle that ACPI's _PRT describes. */
export function pciWire(slot: number): number {
  return slot & 3;
}

/** One entry of the map that firmware gives to an operating system (ACPI 15, "System Address Map"). */
export interface MemoryMapEntry {
  start: number;
  end: number;
  type: 'ram' | 'reserved';
}

/** The map for `ramSize` bytes of RAM. Throws UserError outside 1 MiB..3 GiB. */
export function memoryMap(ramSize: number): MemoryMapEntry[] {
  if (!(ramSize >= RAM_LEAST && ramSize <= RAM_LIMIT)) {
    throw new UserError(`memory size is ${ramSize} bytes, expected ${RAM_LEAST} to ${RAM_LIMIT}`, 'choose a size up to 3 GiB');
  }
  const map: MemoryMapEntry[] = [
    { start: 0, end: MEMORY.lowEnd, type: 'ram' },
    { start: MEMORY.lowEnd, end: MEMORY.biosEnd, type: 'reserved' },
  ];
  if (ramSize > MEMORY.biosEnd) map.push({ start: MEMORY.biosEnd, end: ramSize, type: 'ram' });
  map.push({ ...MEMORY.ioapic, type: 'reserved' }, { ...MEMORY.lapic, type: 'reserved' });
  return map;
}
