/** Real-address mode, protected mode, the way into long mode, and compatibility mode. */

import { describe, expect, test } from 'vitest';
import { CODE, GDT, type Guest, HANDLER_PORT, PML4, SELECTOR, USER, USER_STACK } from './guest.ts';
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
    guest.put(
      0x600,
      `
      b8 00 10            ; mov $0x1000,%ax
      8e d8               ; mov %ax,%ds
      8e d0               ; mov %ax,%ss
      bc 00 02            ; mov $0x200,%sp
      c6 06 34 00 5a      ; movb $0x5a,0x34
      cd 21               ; int $0x21
      e6 f1`,
    );
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
    guest.put(
      0x600,
      `
      0f 01 16 00 05      ; lgdtw 0x500
      0f 20 c0            ; mov %cr0,%eax
      66 83 c8 01         ; or $1,%eax
      0f 22 c0            ; mov %eax,%cr0
      66 ea 20 06 00 00 40 00 ; ljmpl $0x40,$0x620
      `,
    );
    guest.put(
      0x620,
      `
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
      ea 70 06 00 00 08 00 ; ljmp $8,$0x670`,
    );
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
    guest.put(
      USER,
      `
      8e d9               ; mov %ecx,%ds
      40                  ; inc %eax (a REX prefix in 64-bit mode)
      50                  ; push %eax: 4 bytes
      a1 00 00 03 00      ; mov 0x30000,%eax
      cd 80`,
    );
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
    guest.put(
      USER,
      `
      8e c1               ; mov %ecx,%es
      26 a0 ff 0f 00 00   ; mov %es:0xfff,%al
      26 66 a1 ff 0f 00 00 ; mov %es:0xfff,%ax`,
    );
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

  describe('32-bit protected mode without paging', () => {
    test('an interrupt gate goes to the inner stack, IRET returns', () => {
      const guest = protectedMode(boot());
      gate32(guest, 0x80, 0x8e00 | 0x6000, 0x08, 0x4000);
      guest.put(0x4000, 'e6 f1 cf'); // out; iret
      guest.put(CODE, 'cd 80 f4');
      guest.runToDone();
      expect(guest.cpu.privilegeLevel).toBe(0);
      expect(guest.get('rsp')).toBe(0x7_0000n - 20n);
      const frame = [0x6_ffec, 0x6_fff0, 0x6_fff8, 0x6_fffc].map((at) => guest.get32(at));
      expect(frame).toEqual([CODE + 2, 0x1b, 0x6_0000, 0x23]);
      gate32(guest, 13, 0x8e00, 0x08, 0x4010);
      guest.put(0x4010, 'e6 f1');
      guest.runToDone(); // HLT at CPL 3
      expect(guest.get32(Number(guest.get('rsp')) + 4)).toBe(CODE + 2);
    });

    test('a call gate copies parameters, RETF releases them on both stacks', () => {
      const guest = protectedMode(boot());
      guest.put64(GDT + 0x38, (0x4000n & 0xffffn) | (0x08n << 16n) | (2n << 32n) | (0xecn << 40n)); // 2 parameters, DPL 3
      guest.put(0x4000, '8b 44 24 08 8b 5c 24 0c e6 f1 ca 08 00'); // mov 8(%esp),%eax; mov 12(%esp),%ebx; out; lret $8
      guest.put(CODE, '68 22 22 00 00 68 11 11 00 00 9a 00 00 00 00 3b 00 90 f4');
      guest.runToDone();
      expect([guest.get('rax'), guest.get('rbx'), guest.get('rsp')]).toEqual([0x1111n, 0x2222n, 0x7_0000n - 24n]);
      gate32(guest, 13, 0x8e00, 0x08, 0x4020);
      guest.put(0x4020, 'e6 f1');
      guest.runToDone();
      const rsp = Number(guest.get('rsp'));
      expect([guest.get32(rsp + 4), guest.get32(rsp + 8), guest.get32(rsp + 16)]).toEqual([CODE + 18, 0x1b, 0x6_0000]);
    });

    test('a task gate switches tasks, IRET with NT switches back', () => {
      const guest = protectedMode(boot());
      const tss = 0x5_0000;
      guest.put64(GDT + 0x40, 0x0000_8905_0000_0067n);
      gate32(guest, 0x81, 0xe500, 0x40, 0);
      // EIP, EFLAGS, ESP, ES, CS, SS, DS
      for (const [offset, value] of [
        [32, 0x4100],
        [36, 2],
        [56, 0x7_1000],
        [72, 0x10],
        [76, 0x08],
        [80, 0x10],
        [84, 0x10],
      ] as const) {
        guest.engine.memory.words[(tss + offset) / 4] = value;
      }
      guest.put(0x4100, 'e6 f1 cf');
      guest.put(CODE, 'b8 07 00 00 00 cd 81 b8 09 00 00 00 cd 82');
      gate32(guest, 0x82, 0xee00, 0x08, 0x4200);
      guest.put(0x4200, 'e6 f1');
      guest.runToDone();
      expect([guest.cpu.privilegeLevel, guest.get('rsp'), guest.get('rflags') & 0x4000n]).toEqual([0, 0x7_1000n, 0x4000n]);
      expect(guest.cpu.readSystem().segments[6]?.selector).toBe(0x40);
      guest.runToDone();
      expect([guest.get('rax'), guest.cpu.readSystem().segments[6]?.selector]).toEqual([9n, 0x30]);
    });

    test('paging with 4-byte entries and with PAE', () => {
      for (const pae of [false, true]) {
        const guest = protectedMode(boot(), 0);
        if (pae) {
          guest.put64(0x4_0000, 0x4_1001n);
          guest.put64(0x4_1000, 0x83n); // 2 MiB
          guest.put64(0x4_1008, 0x4_2003n);
          guest.put64(0x4_2000, 0x3_0003n);
        } else {
          guest.put64(0x4_0000, 0x83n); // 4 MiB
          guest.put64(0x4_0004, 0x4_2003n);
          guest.put64(0x4_2000, 0x3_0003n);
        }
        const system = guest.cpu.readSystem();
        guest.cpu.writeSystem({ ...system, cr3: 0x4_0000n, cr4: pae ? 0x20n : 0x10n, cr0: system.cr0 | 0x8000_0000n });
        guest.put(0x3_0010, '78 56 34 12');
        guest.put(CODE, '8b 03 e6 f1'); // mov (%ebx),%eax
        guest.set('rbx', (pae ? 0x20_0000 : 0x40_0000) + 0x10);
        guest.runToDone();
        expect(guest.get('rax')).toBe(0x12345678n);
        expect(guest.get32(0x4_2000)).toBe(0x3_0023); // accessed
      }
    });
  });
}

/** 32-bit protected mode at CODE, CPL 3 (or `cpl`), with a 32-bit TSS (SS0:ESP0 = 10h:70000h) at 9000h and the IDT at 7000h. */
function protectedMode(guest: Guest, cpl: 0 | 3 = 3): Guest {
  const system = guest.cpu.readSystem();
  const flat = (selector: number, attributes: number) => ({ selector, base: 0n, limit: 0xffffffff, attributes });
  guest.put64(GDT + 0x08, 0x00cf9b000000ffffn);
  const data = cpl === 3 ? flat(0x23, 0xc0f3) : flat(0x10, 0xc093);
  system.segments = [
    data,
    cpl === 3 ? flat(0x1b, 0xc0fb) : flat(0x08, 0xc09b),
    data,
    data,
    data,
    data,
    { selector: 0x30, base: 0x9000n, limit: 0x67, attributes: 0x8b },
    { selector: 0, base: 0n, limit: 0, attributes: 0 },
  ];
  guest.put64(GDT + 0x30, 0x00008b0090000067n);
  guest.put64(0x9000, 0x7_0000n << 32n);
  guest.put64(0x9008, 0x10n);
  guest.cpu.writeSystem({ ...system, idtr: { base: 0x7000n, limit: 0x7ff }, cr0: 0x11n, cr3: 0n, cr4: 0n, efer: 0n });
  guest.set('rip', CODE);
  guest.set('rsp', 0x6_0000);
  guest.set('rflags', 2);
  return guest;
}

/** A 32-bit gate; `attributes`: the type, DPL and P bits in place (8 to 15). */
function gate32(guest: Guest, vector: number, attributes: number, selector: number, offset: number): void {
  const target = BigInt(offset & 0xffff) | (BigInt(offset >>> 16) << 48n);
  guest.put64(0x7000 + 8 * vector, target | (BigInt(selector) << 16n) | (BigInt(attributes) << 32n));
}
