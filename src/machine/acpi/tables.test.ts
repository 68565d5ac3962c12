import { describe, expect, test } from 'vitest';
import { device, integer, list, method, name, resources } from './aml.ts';
import { buildAcpiTables } from './tables.ts';

const ADDRESS = 0xe0000;
const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0) & 0xff;

/** Reads tables as an operating system does: from the RSDP along the addresses. */
function walk(cpus: number) {
  const { address, bytes } = buildAcpiTables({ cpus, address: ADDRESS });
  const view = new DataView(bytes.buffer);
  const at = (gpa: number) => gpa - address;
  const tableAt = (gpa: number) => bytes.subarray(at(gpa), at(gpa) + view.getUint32(at(gpa) + 4, true));
  const signature = (table: Uint8Array) => String.fromCharCode(...table.subarray(0, 4));
  const entries = (root: Uint8Array, width: number) => {
    const rootView = new DataView(root.buffer, root.byteOffset, root.length);
    return Array.from({ length: (root.length - 36) / width }, (_, i) => tableAt(rootView.getUint32(36 + i * width, true)));
  };
  const rsdt = tableAt(view.getUint32(16, true));
  const xsdt = tableAt(Number(view.getBigUint64(24, true)));
  const find = (wanted: string) => entries(xsdt, 8).find((table) => signature(table) === wanted) as Uint8Array;
  return { bytes, view, rsdt, xsdt, entries, signature, find, tableAt };
}

describe('ACPI tables', () => {
  test('the RSDP is where a scan finds it, with both checksums', () => {
    const { bytes } = walk(1);
    expect(String.fromCharCode(...bytes.subarray(0, 8))).toBe('RSD PTR ');
    expect(sum(bytes.subarray(0, 20))).toBe(0);
    expect(sum(bytes.subarray(0, 36))).toBe(0);
    expect(bytes.length).toBeLessThan(0x2_0000);
  });

  test('RSDT and XSDT name the same tables, all with right checksums', () => {
    const { rsdt, xsdt, entries, signature } = walk(4);
    expect([signature(rsdt), signature(xsdt)]).toEqual(['RSDT', 'XSDT']);
    expect(entries(rsdt, 4).map(signature)).toEqual(['FACP', 'APIC']);
    expect(entries(xsdt, 8).map(signature)).toEqual(['FACP', 'APIC']);
    for (const table of [rsdt, xsdt, ...entries(xsdt, 8)]) expect(sum(table)).toBe(0);
  });

  test('the FADT leads to a FACS and a DSDT and names ports', () => {
    const { find, tableAt, signature } = walk(1);
    const fadt = find('FACP');
    const view = new DataView(fadt.buffer, fadt.byteOffset, fadt.length);
    expect(fadt.length).toBe(244);
    expect(signature(tableAt(view.getUint32(36, true)))).toBe('FACS');
    expect(view.getUint32(36, true) % 64).toBe(0);
    const dsdt = tableAt(view.getUint32(40, true));
    expect(signature(dsdt)).toBe('DSDT');
    expect(sum(dsdt)).toBe(0);
    expect(view.getUint32(140, true)).toBe(view.getUint32(40, true));
    expect([view.getUint32(56, true), view.getUint32(64, true), view.getUint32(76, true)]).toEqual([0x600, 0x604, 0x608]);
    expect([view.getUint32(120, true), fadt[128]]).toEqual([0xcf9, 6]);
  });

  test('the MADT lists CPUs, the I/O APIC and the overrides', () => {
    const { find } = walk(3);
    const madt = find('APIC');
    const found: number[][] = [];
    for (let at = 44; at < madt.length; at += madt[at + 1]) found.push([...madt.subarray(at, at + madt[at + 1])]);
    expect(found.filter(([type]) => type === 0).map((entry) => entry[3])).toEqual([0, 1, 2]);
    expect(found.filter(([type]) => type === 1)).toEqual([[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]]);
    expect(found.filter(([type]) => type === 2)).toEqual([
      [2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
      [2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0],
    ]);
  });

  test('refuses what does not fit', () => {
    expect(() => buildAcpiTables({ cpus: 0, address: ADDRESS })).toThrow(RangeError);
    expect(() => buildAcpiTables({ cpus: 1, address: ADDRESS + 8 })).toThrow(RangeError);
  });
});

describe('AML', () => {
  test('integers take the shortest form', () => {
    expect([...integer(1)]).toEqual([1]);
    expect([...integer(0xff)]).toEqual([0x0a, 0xff]);
    expect([...integer(0x1234)]).toEqual([0x0b, 0x34, 0x12]);
    expect([...integer(0xfedc_ba98)]).toEqual([0x0c, 0x98, 0xba, 0xdc, 0xfe]);
  });

  test('package lengths count themselves, over the one- and two-byte limits', () => {
    expect([...method('ABC', 0)]).toEqual([0x14, 0x06, 0x41, 0x42, 0x43, 0x5f, 0x00]);
    for (const count of [20, 30, 31, 100, 250]) {
      const made = list(...new Array(count).fill(integer(0x55)));
      const bytes = made[1] >> 6;
      const length = bytes === 0 ? made[1] : (made[1] & 15) + made[2] * 16 + (bytes > 1 ? made[3] * 4096 : 0);
      expect(length).toBe(made.length - 1);
    }
  });

  test('names are checked', () => {
    expect([...name('\\_S5')]).toEqual([0x5c, 0x5f, 0x53, 0x35, 0x5f]);
    expect(() => device('TOOLONG')).toThrow(RangeError);
    expect(() => name('5AB')).toThrow(RangeError);
  });

  test('a resource template ends with its tag', () => {
    expect([...resources(Uint8Array.of(0x22, 0x10, 0x00))]).toEqual([0x11, 0x08, 0x0a, 0x05, 0x22, 0x10, 0x00, 0x79, 0x00]);
  });
});
