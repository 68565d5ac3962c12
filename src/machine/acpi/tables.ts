/**
 * ACPI tables (ACPI 6.4, 5.2): RSDP, RSDT, XSDT, FADT, FACS, MADT and DSDT, laid out from one address that firmware would have used.
 */
import { PM_BLOCK, RESET_PORT, RESET_VALUE, SLEEP_TYPE_OFF } from '../devices/acpi-pm/acpi-pm.ts';
import { ioapicPinOfIsa, ISA_IRQ, MEMORY, PORTS } from '../memory-map.ts';
import { dsdtBody } from './dsdt.ts';

export interface AcpiOptions {
  /** CPUs; APIC IDs are 0 to cpus - 1. */
  cpus: number;
  /** Where the tables go: a multiple of 64 in the BIOS area, or anywhere if the RSDP's address is passed on. */
  address: number;
}

const HEADER = 36;
const FADT_SIZE = 244;
const FACS_SIZE = 64;

/** IA-PC boot architecture flags (5.2.9.3): ISA devices there; no 8042 with a keyboard, no VGA, no MSI, no ASPM. */
const BOOT_ARCHITECTURE = { legacyDevices: 0x01, noVga: 0x04, noMsi: 0x08, noAspm: 0x10 } as const;
/** Fixed feature flags (5.2.9, table 5.10). */
const FEATURE = { wbinvd: 1, c1: 1 << 2, noSleepButton: 1 << 5, noRtcWake: 1 << 6, timer32: 1 << 8, resetRegister: 1 << 10 } as const;

function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}

function text(into: Uint8Array, at: number, value: string): void {
  for (let i = 0; i < value.length; i++) into[at + i] = value.charCodeAt(i);
}

/** A table with its header and checksum (5.2.6). */
function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER + body.length);
  const view = new DataView(bytes.buffer);
  text(bytes, 0, signature);
  view.setUint32(4, bytes.length, true);
  bytes[8] = revision;
  text(bytes, 10, 'PORTCL');
  text(bytes, 16, 'PORTCLVM');
  view.setUint32(24, 1, true);
  text(bytes, 28, 'PCLS');
  view.setUint32(32, 1, true);
  bytes.set(body, HEADER);
  bytes[9] = checksum(bytes);
  return bytes;
}

/** RSDT or XSDT: addresses of the others. */
function directory(signature: 'RSDT' | 'XSDT', addresses: readonly number[]): Uint8Array {
  const width = signature === 'XSDT' ? 8 : 4;
  const body = new Uint8Array(addresses.length * width);
  const view = new DataView(body.buffer);
  for (const [i, address] of addresses.entries()) view.setUint32(i * width, address, true);
  return table(signature, 1, body);
}

/** Root pointer, revision 2 (5.2.5.3). */
function rootPointer(rsdt: number, xsdt: number): Uint8Array {
  const bytes = new Uint8Array(36);
  const view = new DataView(bytes.buffer);
  text(bytes, 0, 'RSD PTR ');
  text(bytes, 9, 'PORTCL');
  bytes[15] = 2;
  view.setUint32(16, rsdt, true);
  view.setUint32(20, bytes.length, true);
  view.setUint32(24, xsdt, true);
  bytes[8] = checksum(bytes.subarray(0, 20));
  bytes[32] = checksum(bytes);
  return bytes;
}

/** Firmware control structure (5.2.10): where the global lock is. */
function facs(): Uint8Array {
  const bytes = new Uint8Array(FACS_SIZE);
  text(bytes, 0, 'FACS');
  bytes[4] = FACS_SIZE;
  bytes[32] = 2;
  return bytes;
}

/** Fixed description table, revision 4 (5.2.9). Offsets are from the start of the table. */
function fadt(facsAddress: number, dsdtAddress: number): Uint8Array {
  const whole = new Uint8Array(FADT_SIZE);
  const view = new DataView(whole.buffer);
  const pm = PORTS.acpiPm.start;
  const u16 = (at: number, value: number) => view.setUint16(at, value, true);
  const u32 = (at: number, value: number) => view.setUint32(at, value >>> 0, true);
  /** Generic address in system I/O space (5.2.3.2). */
  const port = (at: number, address: number, bits: number, access: number) => {
    whole.set([1, bits, 0, access], at);
    u32(at + 4, address);
  };
  u32(36, facsAddress);
  u32(40, dsdtAddress);
  u16(46, ISA_IRQ.sci);
  u32(56, pm + PM_BLOCK.status);
  u32(64, pm + PM_BLOCK.control);
  u32(76, pm + PM_BLOCK.timer);
  whole[88] = 4; // PM1_EVT_LEN
  whole[89] = 2; // PM1_CNT_LEN
  whole[91] = 4; // PM_TMR_LEN
  u16(96, 0xffff); // no C2
  u16(98, 0xffff); // no C3
  whole[108] = 0x32; // century register of the clock
  u16(109, BOOT_ARCHITECTURE.legacyDevices | BOOT_ARCHITECTURE.noVga | BOOT_ARCHITECTURE.noMsi | BOOT_ARCHITECTURE.noAspm);
  u32(112, FEATURE.wbinvd | FEATURE.c1 | FEATURE.noSleepButton | FEATURE.noRtcWake | FEATURE.timer32 | FEATURE.resetRegister);
  port(116, RESET_PORT, 8, 1);
  whole[128] = RESET_VALUE;
  u32(140, dsdtAddress); // X_DSDT; of FIRMWARE_CTRL and X_FIRMWARE_CTRL only one may be set
  port(148, pm + PM_BLOCK.status, 32, 2);
  port(172, pm + PM_BLOCK.control, 16, 2);
  port(208, pm + PM_BLOCK.timer, 32, 3);
  return table('FACP', 4, whole.subarray(HEADER));
}

/** Interrupt controllers (5.2.12): local APICs, the I/O APIC, where ISA interrupts differ from their pins, LINT1 as NMI. */
function madt(cpus: number): Uint8Array {
  const word = (value: number) => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
  const body = [...word(MEMORY.lapic.start), ...word(1)]; // 1: a pair of 8259s is there too
  for (let cpu = 0; cpu < cpus; cpu++) body.push(0, 8, cpu, cpu, ...word(1));
  body.push(1, 12, 0, 0, ...word(MEMORY.ioapic.start), ...word(0));
  // Type 2: bus ISA, source, global interrupt, flags (0: as ISA; 0x0d: level-triggered, active high).
  body.push(2, 10, 0, ISA_IRQ.pit, ...word(ioapicPinOfIsa(ISA_IRQ.pit)), 0, 0);
  body.push(2, 10, 0, ISA_IRQ.sci, ...word(ioapicPinOfIsa(ISA_IRQ.sci)), 0x0d, 0);
  body.push(4, 6, 0xff, 0, 0, 1); // all CPUs, LINT1
  return table('APIC', 4, Uint8Array.from(body));
}

/** All tables as one block for `address`; the RSDP comes first. Throws RangeError for an address or number of CPUs that does not fit. */
export function buildAcpiTables(options: AcpiOptions): { address: number; bytes: Uint8Array } {
  const { address, cpus } = options;
  if (!Number.isInteger(address) || address % 64 !== 0) throw new RangeError(`ACPI tables at ${address}: not a multiple of 64`);
  if (!(Number.isInteger(cpus) && cpus >= 1 && cpus <= 254)) throw new RangeError(`${cpus} CPUs do not fit in a MADT`);
  const parts: { at: number; bytes: Uint8Array }[] = [];
  let end = address + 64; // the RSDP
  const place = (bytes: Uint8Array): number => {
    const at = end;
    parts.push({ at, bytes });
    end = Math.ceil((at + bytes.length) / 64) * 64;
    return at;
  };
  const facsAddress = place(facs());
  const dsdtAddress = place(table('DSDT', 2, dsdtBody(SLEEP_TYPE_OFF)));
  const described = [place(fadt(facsAddress, dsdtAddress)), place(madt(cpus))];
  const rsdt = place(directory('RSDT', described));
  const xsdt = place(directory('XSDT', described));
  parts.push({ at: address, bytes: rootPointer(rsdt, xsdt) });
  const bytes = new Uint8Array(end - address);
  for (const part of parts) bytes.set(part.bytes, part.at - address);
  return { address, bytes };
}
