/** Instructions that show what the CPU is, its tables, its time and its randomness: none of them can be compared with a host. */

import { expect, test } from 'vitest';
import { CODE, DATA, SELECTOR } from './guest.ts';
import type { Boot } from './suite.ts';

const FSGSBASE = 1n << 16n;
const OSXSAVE = 1n << 18n;

export function identityTests(boot: Boot): void {
  test('STR, SLDT, SMSW, SGDT and SIDT show what the system registers hold', () => {
    const guest = boot();
    const { gdtr, idtr, cr0 } = guest.cpu.readSystem();
    guest.set('rdx', DATA);
    guest.put(
      CODE,
      `
      0f 00 c8            ; str %eax
      0f 00 c3            ; sldt %ebx
      0f 01 e1            ; smsw %ecx
      0f 01 02            ; sgdt (%rdx)
      0f 01 4a 10         ; sidt 16(%rdx)
      e6 f1`,
    );
    guest.runToDone();
    expect(guest.get('rax')).toBe(BigInt(SELECTOR.tss));
    expect(guest.get('rbx')).toBe(BigInt(guest.cpu.readSystem().segments[7]?.selector ?? -1));
    expect(guest.get('rcx') & 0xffffn).toBe(cr0 & 0xffffn);
    for (const [at, table] of [
      [DATA, gdtr],
      [DATA + 16, idtr],
    ] as const) {
      expect(guest.get64(at) & 0xffffn).toBe(BigInt(table.limit));
      expect(guest.get64(at + 2)).toBe(table.base);
    }
  });

  test('RDFSBASE and WRFSBASE: whole and half registers, and #UD while CR4 forbids them', () => {
    const guest = boot();
    guest.put(CODE, 'f3 48 0f ae c0'); // rdfsbase %rax
    expect(guest.runToHandler()).toMatchObject({ vector: 6, rip: CODE });
    const allowed = boot();
    const system = allowed.cpu.readSystem();
    allowed.cpu.writeSystem({ ...system, cr4: system.cr4 | FSGSBASE });
    allowed.set('rbx', 0xffff_8000_1234_5000n);
    allowed.put(
      CODE,
      `
      f3 48 0f ae d3      ; wrfsbase %rbx
      f3 48 0f ae c0      ; rdfsbase %rax
      f3 0f ae c1         ; rdfsbase %ecx
      f3 0f ae d3         ; wrfsbase %ebx
      f3 48 0f ae c2      ; rdfsbase %rdx
      e6 f1`,
    );
    allowed.runToDone();
    expect([allowed.get('rax'), allowed.get('rcx'), allowed.get('rdx')]).toEqual([0xffff_8000_1234_5000n, 0x1234_5000n, 0x1234_5000n]);
    expect(allowed.cpu.readMsr(0xc000_0100)).toBe(0x1234_5000n);
  });

  test('RDTSC, RDTSCP and RDPID: the counter never goes back, the identity is TSC_AUX', () => {
    const guest = boot();
    guest.cpu.writeMsr(0xc000_0103, 0x5aa5n);
    guest.put(
      CODE,
      `
      0f 31 89 c3         ; rdtsc; mov %eax,%ebx
      0f 01 f9            ; rdtscp
      f3 0f c7 fe         ; rdpid %rsi
      e6 f1`,
    );
    guest.runToDone();
    expect([guest.get('rcx'), guest.get('rsi')]).toEqual([0x5aa5n, 0x5aa5n]);
    expect(guest.get('rax')).toBeGreaterThan(guest.get('rbx'));
  });

  test('XGETBV reads XCR0, and is #GP(0) for another register, #UD without OSXSAVE', () => {
    const guest = boot();
    guest.put(CODE, '0f 01 d0');
    const system = guest.cpu.readSystem();
    guest.cpu.writeSystem({ ...system, cr4: system.cr4 & ~OSXSAVE });
    expect(guest.runToHandler()).toMatchObject({ vector: 6, rip: CODE });
    const allowed = boot();
    allowed.cpu.writeSystem({ ...system, cr4: system.cr4 | OSXSAVE });
    allowed.set('rcx', 0);
    allowed.put(CODE, '0f 01 d0 89 c3 b9 07 00 00 00 0f 01 d0'); // xgetbv; mov %eax,%ebx; mov $7,%ecx; xgetbv
    expect(allowed.runToHandler()).toMatchObject({ vector: 13, errorCode: 0, rip: CODE + 10 });
    expect(allowed.get('rbx') & ~3n).toBe(0n);
    expect(allowed.get('rbx') & 1n).toBe(1n);
  });

  test('RDPMC is #GP(0): there are no counters', () => {
    const guest = boot();
    guest.set('rcx', 0);
    guest.put(CODE, '0f 33');
    expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 0, rip: CODE });
  });

  test('INT1 is a trap to vector 1, whatever the gate privilege', () => {
    const guest = boot();
    guest.put(CODE, 'f1 e6 f1');
    expect(guest.runToHandler()).toMatchObject({ vector: 1, rip: CODE + 1 });
  });

  test('RDSEED gives a number in each size, and clears the other flags', () => {
    const guest = boot();
    guest.set('rflags', 0x8d7);
    guest.put(
      CODE,
      `
      48 0f c7 f8         ; rdseed %rax
      9c 5f               ; pushf; pop %rdi
      0f c7 fb            ; rdseed %ebx
      66 0f c7 f9         ; rdseed %cx
      e6 f1`,
    );
    guest.set('rcx', 0x1111_2222_3333_0000n);
    guest.runToDone();
    expect(guest.get('rdi') & 0x8d5n).toBe(1n);
    expect(guest.get('rbx') >> 32n).toBe(0n);
    expect(guest.get('rcx') >> 16n).toBe(0x1111_2222_3333n);
    expect(new Set([guest.get('rax'), guest.get('rbx'), guest.get('rcx') & 0xffffn]).size).toBe(3);
  });
}
