/** Device memory and ports: exits in the middle of instructions, and their completion. */

import { expect, test } from 'vitest';
import { CODE, DATA, SMALL } from './guest.ts';
import type { Boot } from './suite.ts';

const DEVICE = 0x4000_0000;

export function deviceTests(boot: Boot): void {
  test('a read exits, and the instruction finishes with the answer', () => {
    const guest = boot();
    guest.set('rbx', DEVICE + 8);
    guest.put(CODE, '03 03 e6 f1'); // add (%rbx),%eax; out
    guest.set('rax', 1);
    expect(guest.run()).toMatchObject({ kind: 'mmio', gpa: DEVICE + 8, size: 4, write: false, value: expect.any(Number), refused: false });
    expect(guest.get('rip')).toBe(BigInt(CODE));
    expect(guest.cpu.canInterrupt).toBe(false);
    guest.cpu.completeRead(0x41);
    guest.runToDone();
    expect(guest.get('rax')).toBe(0x42n);
    expect(guest.cpu.instructions).toBe(2);
  });

  test('a write exits once', () => {
    const guest = boot();
    guest.set('rbx', DEVICE);
    guest.set('rax', 0x1234);
    guest.put(CODE, '66 89 03 e6 f1'); // mov %ax,(%rbx)
    expect(guest.run()).toMatchObject({ kind: 'mmio', gpa: DEVICE, size: 2, write: true, value: 0x1234 });
    guest.runToDone();
  });

  test('read-modify-write and 8-byte accesses are several exits, in order, each once', () => {
    const guest = boot();
    guest.set('rbx', DEVICE + 0x10);
    guest.set('rcx', 0x0000_0002_0000_0001n);
    guest.put(CODE, '48 01 0b e6 f1'); // add %rcx,(%rbx)
    const seen: unknown[] = [];
    for (;;) {
      const exit = guest.run();
      if (exit.kind !== 'mmio') break;
      seen.push([exit.write, exit.gpa - DEVICE, exit.size, exit.write ? exit.value : 0]);
      if (!exit.write) guest.cpu.completeRead(exit.gpa === DEVICE + 0x10 ? 0xffffffff : 5);
    }
    expect(seen).toEqual([
      [false, 0x10, 4, 0],
      [false, 0x14, 4, 0],
      [true, 0x10, 4, 0],
      [true, 0x14, 4, 8],
    ]);
    expect(guest.get('rip')).toBe(BigInt(CODE + 5));
  });

  test('REP MOVSD from device memory reads each word once', () => {
    const guest = boot();
    guest.set('rsi', DEVICE);
    guest.set('rdi', DATA);
    guest.set('rcx', 3);
    guest.put(CODE, 'f3 a5 e6 f1');
    const addresses: number[] = [];
    for (let exit = guest.run(); exit.kind === 'mmio'; exit = guest.run()) {
      addresses.push(exit.gpa - DEVICE);
      guest.cpu.completeRead((exit.gpa & 0xff) | 0x700);
    }
    expect(addresses).toEqual([0, 4, 8]);
    expect([guest.get32(DATA), guest.get32(DATA + 4), guest.get32(DATA + 8)]).toEqual([0x700, 0x704, 0x708]);
    expect(guest.get('rcx')).toBe(0n);
  });

  test('an interrupt does not come between the accesses of one instruction', () => {
    const guest = boot();
    guest.set('rbx', DEVICE);
    guest.set('rflags', 0x202);
    guest.put(CODE, '48 8b 03 90 e6 f1');
    guest.run();
    guest.cpu.completeRead(1);
    guest.cpu.nmi();
    expect(guest.run()).toMatchObject({ kind: 'mmio', gpa: DEVICE + 4 });
    guest.cpu.completeRead(2);
    expect(guest.runToHandler()).toMatchObject({ vector: 2, rip: CODE + 3 });
    expect(guest.get('rax')).toBe(0x0000_0002_0000_0001n);
  });

  test('INS and OUTS exit for each element', () => {
    const guest = boot();
    guest.put(DATA, 'aa bb');
    guest.set('rsi', DATA);
    guest.set('rdi', DATA + 16);
    guest.set('rdx', 0x60);
    guest.set('rcx', 2);
    guest.put(CODE, 'f3 6e b1 02 66 f3 6d e6 f1'); // rep outsb; mov $2,%cl; rep insw; out
    const seen: unknown[] = [];
    let answer = 0x1110;
    for (;;) {
      const exit = guest.run();
      if (exit.kind !== 'io' || exit.port !== 0x60) break;
      seen.push([exit.write, exit.size, exit.write ? exit.value : 0]);
      if (!exit.write) guest.cpu.completeRead(answer++);
    }
    expect(seen).toEqual([
      [true, 1, 0xaa],
      [true, 1, 0xbb],
      [false, 2, 0],
      [false, 2, 0],
    ]);
    expect(guest.get32(DATA + 16)).toBe(0x11111110);
  });

  test('a page table entry that leads to a device is a device', () => {
    const guest = boot();
    guest.setPage(0, BigInt(DEVICE + 0x5000) | 7n);
    guest.set('rbx', SMALL + 0x24);
    guest.put(CODE, '8a 03 e6 f1');
    expect(guest.run()).toMatchObject({ kind: 'mmio', gpa: DEVICE + 0x5024, size: 1 });
  });

  test('hidden ranges are refused to views without a window', () => {
    const guest = boot();
    guest.engine.hide([{ start: DEVICE, end: DEVICE + 0x1000 }]);
    guest.set('rbx', DEVICE + 0xffe);
    guest.put(CODE, '8b 03 90 90');
    const view = guest.engine.createView('module');
    expect(guest.run()).toMatchObject({ kind: 'mmio', refused: true });
    guest.set('rbx', DEVICE + 0x1000);
    expect(guest.run()).toMatchObject({ kind: 'mmio', refused: false });
    expect(() => guest.engine.hide([{ start: 0, end: 4096 }])).toThrow(RangeError);
    expect(view.windows).toEqual([]);
  });

  test('the port bitmap of the TSS decides for CPL 3', () => {
    const guest = boot();
    guest.put(0x9066, '68 00'); // bitmap at 104
    guest.put(0x9068, 'fe ff ff'); // port 0 allowed
    const system = guest.cpu.readSystem();
    guest.cpu.writeSystem({ ...system, segments: system.segments.map((s, i) => (i === 6 ? { ...s, limit: 0x6b } : s)) });
    guest.user();
    guest.put(0x2_0000, 'e6 00 e6 01');
    expect(guest.run()).toMatchObject({ kind: 'io', port: 0 });
    expect(guest.runToHandler()).toMatchObject({ vector: 13, rip: 0x2_0002 });
  });
}
