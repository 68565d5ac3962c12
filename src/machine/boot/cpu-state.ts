/** Register states in which boot protocols enter a kernel. */
import { type Cpu, REG, SEG, type Segment, type SystemRegisters } from '../../engine/contract.ts';
import type { GuestMemory } from '../../engine/contract.ts';
import { BOOT_LAYOUT } from './layout.ts';

const CODE_SELECTOR = 0x10; // __BOOT_CS
const DATA_SELECTOR = 0x18; // __BOOT_DS

const flat = (selector: number, attributes: number): Segment => ({ selector, base: 0n, limit: 0xffffffff, attributes });
// attributes: type | S 0x10 | P 0x80 | L 0x2000 | D 0x4000 | G 0x8000
const CODE_64 = 0xa09b;
const CODE_32 = 0xc09b;
const DATA = 0xc093;
const TSS = 0x008b;
const UNUSABLE_LDT = 0x0082;

function writeGdt(memory: GuestMemory, code: bigint): void {
  const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset + BOOT_LAYOUT.gdt, 40);
  [0n, 0n, code, 0x00cf93000000ffffn, 0x00008b000000ffffn].forEach((entry, index) => {
    view.setBigUint64(index * 8, entry, true);
  });
}

function segments(code: number): Segment[] {
  const list: Segment[] = [];
  for (const index of [SEG.es, SEG.ss, SEG.ds, SEG.fs, SEG.gs]) list[index] = flat(DATA_SELECTOR, DATA);
  list[SEG.cs] = flat(CODE_SELECTOR, code);
  list[SEG.tr] = { selector: 0x20, base: 0n, limit: 0xffff, attributes: TSS };
  list[SEG.ldtr] = { selector: 0, base: 0n, limit: 0xffff, attributes: UNUSABLE_LDT };
  return list;
}

/** CR0 with PE, ET (and PG); CR4 with PAE; EFER with LME and LMA (Intel SDM vol. 3, 2.5 and 2.2.1). */
const CR0_PE_ET = 0x11n;
const CR0_PG = 0x80000000n;
const CR4_PAE = 0x20n;
const EFER_LME_LMA = 0x500n;

function enter(
  cpu: Cpu,
  system: Pick<SystemRegisters, 'cr0' | 'cr3' | 'cr4' | 'efer'>,
  code: number,
  entry: number,
  registers: Partial<Record<keyof typeof REG, number>>,
): void {
  cpu.writeSystem({
    segments: segments(code),
    gdtr: { base: BigInt(BOOT_LAYOUT.gdt), limit: 39 },
    idtr: { base: 0n, limit: 0 },
    cr2: 0n,
    cr8: 0n,
    ...system,
  });
  const { words } = cpu.registers;
  words.fill(0n);
  words[REG.rip] = BigInt(entry);
  words[REG.rflags] = 2n;
  for (const [name, value] of Object.entries(registers)) words[REG[name as keyof typeof REG]] = BigInt(value);
}

/** Long mode, the low 4 GiB identity-mapped by 2 MiB pages, interrupts off (Linux x86 boot protocol, "64-bit Boot Protocol"). */
export function enterLongMode(cpu: Cpu, memory: GuestMemory, entry: number, registers: Partial<Record<keyof typeof REG, number>>): void {
  writeGdt(memory, 0x00af9b000000ffffn);
  const tables = BOOT_LAYOUT.pageTables;
  const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset + tables, 6 * 4096);
  view.setBigUint64(0, BigInt(tables + 0x1000) | 3n, true);
  for (let gigabyte = 0; gigabyte < 4; gigabyte++) {
    view.setBigUint64(0x1000 + gigabyte * 8, BigInt(tables + 0x2000 + gigabyte * 0x1000) | 3n, true);
    for (let index = 0; index < 512; index++) {
      const page = gigabyte * 0x40000000 + index * 0x200000;
      view.setBigUint64(0x2000 + gigabyte * 0x1000 + index * 8, BigInt(page) | 0x83n, true);
    }
  }
  memory.written(0, tables + 6 * 4096);
  enter(cpu, { cr0: CR0_PE_ET | CR0_PG, cr3: BigInt(tables), cr4: CR4_PAE, efer: EFER_LME_LMA }, CODE_64, entry, registers);
}

/** 32-bit protected mode, no paging, flat segments (PVH and Multiboot entries). */
export function enterProtectedMode(
  cpu: Cpu,
  memory: GuestMemory,
  entry: number,
  registers: Partial<Record<keyof typeof REG, number>>,
): void {
  writeGdt(memory, 0x00cf9b000000ffffn);
  memory.written(0, 0x1000);
  enter(cpu, { cr0: CR0_PE_ET, cr3: 0n, cr4: 0n, efer: 0n }, CODE_32, entry, registers);
}
