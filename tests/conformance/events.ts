/** Exceptions, interrupts, debug traps: delivery and priority (Intel SDM vol. 3, chapters 6 and 18). */

import { expect, test } from 'vitest';
import { CODE, IST1, PT, RSP0, SELECTOR, SMALL, STACK, USER, USER_STACK } from './guest.ts';
import type { Boot } from './suite.ts';

export function eventTests(boot: Boot): void {
  test('a fault is delivered with the address of the instruction, at the same level', () => {
    const guest = boot();
    guest.put(CODE, '90 0f 0b'); // nop; ud2
    const frame = guest.runToHandler();
    expect(frame).toMatchObject({ vector: 6, rip: CODE + 1, cs: SELECTOR.code, rsp: STACK, ss: SELECTOR.data, stack: STACK });
    expect(frame.rflags & 0x10000).toBe(0x10000); // RF
  });

  test('from CPL 3 the stack comes from the TSS, and IRET goes back', () => {
    const guest = boot();
    guest.user();
    guest.put(USER, 'cd 80 90 f4'); // int $0x80; nop; hlt
    expect(guest.runToHandler()).toMatchObject({
      vector: 0x80,
      rip: USER + 2,
      cs: SELECTOR.user,
      rsp: USER_STACK,
      ss: SELECTOR.userData,
      stack: RSP0,
    });
    expect(guest.cpu.privilegeLevel).toBe(0);
    expect(guest.runToHandler()).toMatchObject({ vector: 13, rip: USER + 3, rsp: USER_STACK });
  });

  test('IST switches the stack at the same level', () => {
    const guest = boot();
    guest.gate(6, 0x8060, { ist: 1 });
    guest.put(CODE, '0f 0b');
    expect(guest.runToHandler()).toMatchObject({ vector: 6, rsp: STACK, stack: IST1 });
  });

  test('the gate privilege is checked for software interrupts only', () => {
    const guest = boot();
    guest.gate(0x81, 0x8000 + 16 * 0x81, { dpl: 0 });
    guest.user();
    guest.put(USER, 'cd 81');
    expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 0x81 * 8 + 2, rip: USER });
  });

  test('INT3 is a trap', () => {
    const guest = boot();
    guest.put(CODE, 'cc');
    expect(guest.runToHandler()).toMatchObject({ vector: 3, rip: CODE + 1 });
  });

  test('division by zero, and its operands unchanged', () => {
    const guest = boot();
    guest.set('rax', 7);
    guest.put(CODE, '31 c9 f7 f1'); // xor %ecx,%ecx; div %ecx
    expect(guest.runToHandler()).toMatchObject({ vector: 0, rip: CODE + 2 });
    expect(guest.get('rax')).toBe(7n);
  });

  test('a missing gate is #GP, a fault in delivering #PF is a double fault, a fault in that a shutdown', () => {
    const guest = boot();
    guest.put64(0x7000 + 16 * 6, 0n);
    guest.put(CODE, '0f 0b');
    expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 6 * 8 + 3, rip: CODE });
    const double = boot();
    double.put64(0x7000 + 16 * 14, 0n);
    double.put64(PT, 0n);
    double.put(CODE, '8a 04 25 00 00 20 00'); // mov 0x200000,%al
    expect(double.runToHandler()).toMatchObject({ vector: 8, errorCode: 0, rip: CODE });
    const triple = boot();
    triple.cpu.writeSystem({ ...triple.cpu.readSystem(), idtr: { base: 0n, limit: 0 } });
    triple.put(CODE, '0f 0b');
    expect(triple.run().kind).toBe('shutdown');
  });

  test('an injected interrupt comes before the next instruction', () => {
    const guest = boot();
    guest.set('rflags', 0x202);
    guest.put(CODE, '90 90 f4');
    expect(guest.cpu.canInterrupt).toBe(true);
    guest.cpu.inject(0x40);
    expect(guest.cpu.canInterrupt).toBe(false);
    const frame = guest.runToHandler();
    expect(frame).toMatchObject({ vector: 0x40, rip: CODE });
    expect(frame.rflags).toBe(0x202);
    expect(guest.get('rflags') & 0x200n).toBe(0n);
    expect(guest.run().kind).toBe('halt');
  });

  test('interrupt window: at once, after STI and its shadow, and not after MOV SS', () => {
    const guest = boot();
    guest.put(
      CODE,
      `
      90 fb 90 90         ; nop; sti; nop; nop
      fa                  ; cli
      fb                  ; sti
      8e d0               ; mov %eax,%ss
      90 f4`,
    );
    guest.set('rax', SELECTOR.data);
    guest.cpu.requestInterruptWindow();
    expect(guest.cpu.canInterrupt).toBe(false);
    expect(guest.run().kind).toBe('window');
    expect(guest.get('rip')).toBe(BigInt(CODE + 3));
    expect(guest.cpu.canInterrupt).toBe(true);
    guest.cpu.inject(0x41);
    expect(guest.runToHandler()).toMatchObject({ vector: 0x41, rip: CODE + 3 });
    guest.cpu.requestInterruptWindow();
    expect(guest.run().kind).toBe('window');
    expect(guest.get('rip')).toBe(BigInt(CODE + 3)); // after IRET
    guest.set('rip', CODE + 5);
    guest.set('rflags', 2);
    guest.cpu.requestInterruptWindow();
    expect(guest.run().kind).toBe('window');
    expect(guest.get('rip')).toBe(BigInt(CODE + 9)); // STI shadow, MOV SS shadow, NOP
  });

  test('HLT after STI can be interrupted', () => {
    const guest = boot();
    guest.put(CODE, 'fb f4');
    expect(guest.run().kind).toBe('halt');
    expect(guest.cpu.canInterrupt).toBe(true);
    guest.cpu.inject(0x50);
    expect(guest.runToHandler()).toMatchObject({ vector: 0x50, rip: CODE + 2 });
  });

  test('HLT does not sleep over an NMI that waits in the shadow of STI, nor over a single-step trap', () => {
    const guest = boot();
    guest.put(CODE, 'fb f4 90'); // sti; hlt; nop
    expect(guest.run(4).kind).toBe('budget');
    expect(guest.get('rip')).toBe(BigInt(CODE + 1));
    guest.cpu.nmi();
    expect(guest.runToHandler()).toMatchObject({ vector: 2, rip: CODE + 2 });
    const stepped = boot();
    stepped.put(CODE, 'f4');
    stepped.set('rflags', 0x102);
    expect(stepped.runToHandler()).toMatchObject({ vector: 1, rip: CODE + 1 });
  });

  test('an NMI needs no IF, and a second waits for IRET', () => {
    const guest = boot();
    guest.put(CODE, '90 90 f4');
    guest.cpu.nmi();
    expect(guest.runToHandler()).toMatchObject({ vector: 2, rip: CODE });
    guest.cpu.nmi();
    expect(guest.runToHandler()).toMatchObject({ vector: 2, rip: CODE });
    expect(guest.run().kind).toBe('halt');
  });

  test('single step: #DB after each instruction, with DR6.BS', () => {
    const guest = boot();
    guest.put(
      CODE,
      `
      9c                  ; pushfq
      81 0c 24 00 01 00 00 ; orl $0x100,(%rsp)
      9d                  ; popfq
      90                  ; nop: the first trap comes after it
      40 b0 07            ; mov $7,%al
      f4`,
    );
    const first = guest.runToHandler();
    expect(first).toMatchObject({ vector: 1, rip: CODE + 10 });
    expect(first.rflags & 0x100).toBe(0x100);
    guest.put(0x9100, '0f 21 f0 e6 f1'); // mov %dr6,%rax; out
    expect(guest.runToHandler()).toMatchObject({ vector: 1, rip: CODE + 13 });
    guest.set('rip', 0x9100);
    guest.runToDone();
    expect(guest.get('rax') & 0x4000n).toBe(0x4000n);
  });

  test('a code breakpoint faults before, a data breakpoint traps after', () => {
    const guest = boot();
    guest.put(
      CODE,
      `
      0f 23 c3            ; mov %rbx,%dr0
      0f 23 c9            ; mov %rcx,%dr1
      0f 23 fa            ; mov %rdx,%dr7
      90                  ; nop
      c6 01 05            ; movb $5,(%rcx)
      90 f4`,
    );
    guest.set('rbx', CODE + 9);
    guest.set('rcx', SMALL + 0x20);
    guest.set('rdx', (0x1_0000_0000n >> 32n) | 0x5n | (1n << 20n)); // DR0 execute, DR1 write, 1 byte
    const first = guest.runToHandler();
    expect(first).toMatchObject({ vector: 1, rip: CODE + 9 });
    // The handler must set RF in the frame to get past the breakpoint.
    guest.put64(first.stack - 24, BigInt(first.rflags | 0x10000));
    expect(guest.runToHandler()).toMatchObject({ vector: 1, rip: CODE + 13 });
    expect(guest.engine.memory.bytes[SMALL + 0x20]).toBe(5);
    expect(guest.run().kind).toBe('halt');
  });

  test('STI; an interrupt that waits comes after one more instruction', () => {
    const guest = boot();
    guest.put(CODE, 'fb 90 90 f4');
    guest.cpu.requestInterruptWindow();
    expect(guest.run().kind).toBe('window');
    expect(guest.get('rip')).toBe(BigInt(CODE + 2));
  });

  test('a REP string instruction is interrupted between iterations and goes on', () => {
    const guest = boot();
    guest.put64(PT + 8, 0n);
    guest.set('rdi', SMALL + 0xff0);
    guest.set('rcx', 0x20);
    guest.set('rax', 0x11);
    guest.put(CODE, 'f3 aa e6 f1');
    expect(guest.runToHandler()).toMatchObject({ vector: 14, errorCode: 2, rip: CODE });
    expect([guest.get('rcx'), guest.get('rdi')]).toEqual([0x10n, BigInt(SMALL + 0x1000)]);
    guest.put64(PT + 8, BigInt(SMALL + 0x1000) | 7n);
    guest.set('rsp', guest.get('rsp') + 8n); // the handler's IRETQ expects the error code gone
    guest.runToDone();
    expect(guest.get('rcx')).toBe(0n);
    expect(guest.engine.memory.bytes[SMALL + 0x100f]).toBe(0x11);
  });

  test('a handler that faults before its first instruction ends in the budget, not in a hang', () => {
    const guest = boot();
    guest.gate(14, SMALL, { ist: 1 });
    guest.put64(PT, 0n);
    guest.put(CODE, 'ff 20'); // jmp *(%rax)
    guest.set('rax', SMALL);
    expect(guest.run(100_000).kind).toBe('budget');
  });

  test('a stack in device memory swallows what is pushed', () => {
    const guest = boot();
    guest.set('rsp', 0x4000_1000);
    guest.put(CODE, 'cc');
    expect(guest.run()).toMatchObject({ kind: 'mmio', write: true }); // the handler's own push
    expect(guest.get('rip')).toBe(BigInt(0x8000 + 16 * 3));
  });

  test('a non-canonical stack pointer is #SS(0)', () => {
    const guest = boot();
    guest.gate(12, 0x8000 + 16 * 12, { ist: 1 });
    guest.set('rsp', 1n << 50n);
    guest.put(CODE, '50');
    expect(guest.runToHandler()).toMatchObject({ vector: 12, errorCode: 0, rip: CODE });
  });
}
