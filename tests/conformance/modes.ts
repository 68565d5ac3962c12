/** Real-address mode, protected mode, the way into long mode, and compatibility mode. */

import { expect, test } from 'vitest';
import { CODE, GDT, Guest, HANDLER_PORT, PML4, SELECTOR, USER, USER_STACK } from './guest.ts';
import type { Boot } from './suite.ts';

/** Puts the CPU at 0:`ip` in real-address mode. */
function realMode(guest: Guest, ip: number): void {
  guest.cpu.reset('init');
  const system = guest.cpu.readSystem();
  system.segments[1] = { selector: 0, base: 0n, limit: 0xffff, attributes: 0x9b };
  guest.cpu.writeSystem(system);
  guest.set('rip', ip);
}

export function modeTests(boot: Boot): void {
  test('real mode: segments, 16-bit stack, interrupts through the vector table', () => {
    const guest = boot();
    realMode(guest, 0x600);
    guest.put(0x400 * 0, '00 00');
    guest.put(4 * 0x21, '00 07 00 00'); // vector 21h: 0000:0700
    guest.put(0x700, 'e6 f0 cf'); // out; iret
    guest.put(0x600, `
      b8 00 10            ; mov $0x1000,%ax
      8e d8               ; mov %ax,%ds
      8e d0               ; mov %ax,%ss
      bc 00 02            ; mov $0x200,%sp
      c6 06 34 00 5a      ; movb $0x5a,0x34
      cd 21               ; int $0x21
      e6 f1`);
    expect(guest.run()).toMatchObject({ kind: 'io', port: HANDLER_PORT });
    expect(guest.engine.memory.bytes[0x1_0034]).toBe(0x5a);
    expect(guest.get('rsp')).toBe(0x1fan);
    expect(guest.get32(0x1_01fa)).toBe(0x0611);
    guest.runToDone();
    expect(guest.get('rsp')).toBe(0x200n);
  });

  test('real mode to protected mode to long mode, as a boot trampoline does', () => {
    const guest = boot();
    realMode(guest, 0x600);
    guest.put64(0x500, (BigInt(GDT) << 16n) | 0xffn);
    guest.put(0x600, `
      0f 01 16 00 05      ; lgdtw 0x500
      0f 20 c0            ; mov %cr0,%eax
      66 83 c8 01         ; or $1,%eax
      0f 22 c0            ; mov %eax,%cr0
      66 ea 20 06 00 00 40 00 ; ljmpl $0x40,$0x620
      `);
    guest.put(0x620, `
      b8 10 00 00 00      ; mov $0x10,%eax
      8e d8 8e d0         ; mov %eax,%ds; mov %eax,%ss
      b8 20 00 00 00      ; mov $0x20,%eax
      0f 22 e0            ; mov %eax,%cr4 (PAE)
      b8 00 10 00 00      ; mov $PML4,%eax
      0f 22 d8            ; mov %eax,%cr3
      b9 80 00 00 c0      ; mov $0xc0000080,%ecx
      0f 32               ; rdmsr
      0d 00 01 00 00      ; or $0x100,%eax (LME)
      0f 30               ; wrmsr
      0f 20 c0            ; mov %cr0,%eax
      0d 00 00 00 80      ; or $0x80000000,%eax
      0f 22 c0            ; mov %eax,%cr0
      ea 70 06 00 00 08 00 ; ljmp $8,$0x670`);
    guest.put(0x670, '48 b8 ef cd ab 89 67 45 23 01 e6 f1'); // movabs $0x123456789abcdef,%rax; out
    guest.runToDone();
    expect(guest.get('rax')).toBe(0x0123456789abcdefn);
    const system = guest.cpu.readSystem();
    expect([system.efer, system.cr3, system.segments[1]?.selector]).toEqual([0x500n, BigInt(PML4), SELECTOR.code]);
  });

  test('compatibility mode: 32-bit code at CPL 3 under long mode', () => {
    const guest = boot();
    guest.user(SELECTOR.user32);
    guest.set('rax', 0xffffffff_00000000n);
    guest.put(USER, `
      8e d9               ; mov %ecx,%ds
      40                  ; inc %eax (a REX prefix in 64-bit mode)
      50                  ; push %eax: 4 bytes
      a1 00 00 03 00      ; mov 0x30000,%eax
      cd 80`);
    guest.set('rcx', SELECTOR.userData);
    guest.put(0x3_0000, '78 56 34 12');
    const frame = guest.runToHandler();
    expect(frame).toMatchObject({ vector: 0x80, rip: USER + 11, cs: SELECTOR.user32, rsp: USER_STACK - 4 });
    expect(guest.get('rax')).toBe(0x12345678n);
    expect(guest.get32(USER_STACK - 4)).toBe(1);
  });

  test('compatibility mode: limits of segments hold', () => {
    const guest = boot();
    guest.put64(GDT + 0x58, 0x0040f30000000fffn); // data, DPL 3, limit FFFh, 32-bit
    guest.user(SELECTOR.user32);
    guest.put(USER, `
      8e c1               ; mov %ecx,%es
      26 a0 ff 0f 00 00   ; mov %es:0xfff,%al
      26 66 a1 ff 0f 00 00 ; mov %es:0xfff,%ax`);
    guest.set('rcx', 0x5b);
    expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 0, rip: USER + 8 });
  });

  test('SYSENTER from compatibility mode, SYSEXIT back', () => {
    const guest = boot();
    guest.cpu.writeMsr(0x174, 0x08n);
    guest.cpu.writeMsr(0x175, 0x1_f000n);
    guest.cpu.writeMsr(0x176, BigInt(CODE));
    guest.put(CODE, 'e6 f1 0f 35');
    guest.user(SELECTOR.user32);
    guest.put(USER, '0f 34');
    guest.put(USER + 0x10, 'f4');
    guest.runToDone();
    expect([guest.get('rsp'), guest.cpu.privilegeLevel]).toEqual([0x1_f000n, 0]);
    guest.set('rdx', USER + 0x10);
    guest.set('rcx', USER_STACK);
    expect(guest.runToHandler()).toMatchObject({ vector: 13, rip: USER + 0x10, cs: 0x1b, ss: 0x23, rsp: USER_STACK });
  });

  test('a null selector: allowed in a data register, #GP when used in compatibility mode', () => {
    const guest = boot();
    guest.user(SELECTOR.user32);
    guest.set('rcx', 0);
    guest.put(USER, '8e c1 26 a0 00 00 00 00'); // mov %ecx,%es; mov %es:0,%al
    expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 0, rip: USER + 2 });
  });
}
