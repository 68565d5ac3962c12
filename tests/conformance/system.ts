/** Registers, privilege transfers and system instructions. */

import { expect, test } from 'vitest';
import { CODE, DATA, Guest, SELECTOR, STACK, USER, USER_STACK } from './guest.ts';
import type { Boot } from './suite.ts';

export function systemTests(boot: Boot): void {
  test('code runs, registers are shared words, exits carry the operands', () => {
    const guest = boot();
    guest.set('rcx', 5);
    guest.put(
      CODE,
      `
      b8 00 00 00 00      ; mov $0,%eax
      01 c8               ; 1: add %ecx,%eax
      ff c9               ; dec %ecx
      75 fa               ; jnz 1b
      66 ba 34 12         ; mov $0x1234,%dx
      ef                  ; out %eax,(%dx)`,
    );
    expect(guest.run()).toMatchObject({ kind: 'io', port: 0x1234, size: 4, write: true, value: 15, address: CODE + 15 });
    expect(guest.get('rax')).toBe(15n);
    expect(guest.get('rip')).toBe(BigInt(CODE + 16));
    expect(guest.cpu.instructions).toBe(1 + 15 + 2);
  });

  test('IN puts the answer into AL, AX or EAX', () => {
    const guest = boot();
    guest.set('rax', 0x1122334455667788n);
    guest.put(CODE, 'e4 10 66 e5 11 e5 12 f4'); // in $0x10,%al; in $0x11,%ax; in $0x12,%eax; hlt
    const seen: bigint[] = [];
    for (const value of [0xaa, 0xbbcc, 0xddeeff00]) {
      expect(guest.run()).toMatchObject({ kind: 'io', write: false });
      guest.cpu.completeRead(value);
      seen.push(guest.get('rax'));
    }
    expect(seen).toEqual([0x11223344556677aan, 0x112233445566bbccn, 0xddeeff00n]);
    expect(guest.run().kind).toBe('halt');
    expect(guest.get('rip')).toBe(BigInt(CODE + 8));
  });

  test('SYSCALL and SYSRET', () => {
    const guest = boot();
    guest.cpu.writeMsr(0xc0000081, (0x18n << 48n) | (8n << 32n)); // STAR
    guest.cpu.writeMsr(0xc0000082, BigInt(CODE)); // LSTAR
    guest.cpu.writeMsr(0xc0000084, 0x200n); // SFMASK: IF
    guest.user();
    guest.set('rflags', 0x202);
    guest.put(USER, '0f 05 e6 f2'); // syscall; out (not allowed at CPL 3)
    guest.put(CODE, 'e6 f1 48 0f 07'); // out; sysretq
    guest.runToDone();
    expect(guest.cpu.privilegeLevel).toBe(0);
    expect([guest.get('rcx'), guest.get('r11'), guest.get('rflags')]).toEqual([BigInt(USER + 2), 0x202n, 2n]);
    expect(guest.cpu.readSystem().segments[1]).toMatchObject({ selector: SELECTOR.code, attributes: 0xa09b });
    const back = guest.runToHandler();
    expect(back).toMatchObject({ vector: 13, errorCode: 0, rip: USER + 2, cs: SELECTOR.user, ss: SELECTOR.userData, rsp: USER_STACK });
    expect(back.rflags & 0x202).toBe(0x202);
  });

  test('SWAPGS, FSGSBASE and RDMSR see the same bases', () => {
    const guest = boot();
    const system = guest.cpu.readSystem();
    guest.cpu.writeSystem({ ...system, cr4: system.cr4 | (1n << 16n) });
    guest.cpu.writeMsr(0xc0000102, 0xffff800000001000n);
    guest.set('rbx', 0x5000);
    guest.put(
      CODE,
      `
      f3 48 0f ae db      ; wrgsbase %rbx
      0f 01 f8            ; swapgs
      f3 48 0f ae c9      ; rdgsbase %rcx
      e6 f1`,
    );
    guest.runToDone();
    expect(guest.get('rcx')).toBe(0xffff800000001000n);
    expect(guest.cpu.readMsr(0xc0000102)).toBe(0x5000n);
    expect(() => guest.cpu.writeMsr(0xc0000100, 0x8000_0000_0000n)).toThrow(RangeError);
  });

  test('an unknown MSR exits; refused it is #GP(0) at the instruction', () => {
    const guest = boot();
    guest.set('rcx', 0x6e0);
    guest.put(CODE, '0f 32 89 c3 0f 30 e6 f1'); // rdmsr; mov %eax,%ebx; wrmsr; out
    expect(guest.run()).toMatchObject({ kind: 'msr', write: false, index: 0x6e0 });
    guest.set('rax', 0x77);
    guest.set('rdx', 0);
    guest.cpu.completeMsr(true);
    expect(guest.run()).toMatchObject({ kind: 'msr', write: true, index: 0x6e0 });
    expect(guest.get('rbx')).toBe(0x77n);
    guest.cpu.completeMsr(false);
    expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 0, rip: CODE + 4 });
  });

  test('the time-stamp counter is the engine clock plus TSC_ADJUST', () => {
    const guest = boot();
    guest.cpu.writeMsr(0x3b, 1_000_000n);
    guest.put(CODE, '0f 31 e6 f1');
    guest.runToDone();
    const time = Number((guest.get('rdx') << 32n) | guest.get('rax'));
    expect(time - 1_000_000).toBeGreaterThanOrEqual(0);
    expect(time - 1_000_000).toBeLessThanOrEqual(guest.engine.clock.now());
    expect(guest.engine.tscFrequency).toBe(1e9);
  });

  test('skipTo moves the deterministic clock, budget ends at the time asked for', () => {
    const guest = boot();
    guest.put(CODE, 'eb fe'); // jmp .
    guest.engine.clock.skipTo(5_000_000);
    expect(guest.engine.clock.now()).toBe(5_000_000);
    expect(guest.cpu.run(5_000_400).kind).toBe('budget');
    expect(guest.engine.clock.now()).toBe(5_000_400);
    expect(guest.cpu.instructions).toBe(100);
  });

  test('kick makes the next run return', () => {
    const guest = boot();
    guest.put(CODE, 'eb fe');
    guest.cpu.kick();
    expect(guest.run().kind).toBe('budget');
    expect(guest.cpu.instructions).toBe(0);
  });

  test('privileged instructions are #GP(0) at CPL 3', () => {
    for (const bytes of ['f4', '0f 30', '0f 22 d8', '0f 01 f8', '0f 06', 'fa', 'e4 10', '0f 09', '0f 01 38']) {
      const guest = boot();
      guest.user();
      guest.put(USER, bytes);
      expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 0, rip: USER, stack: 0x1_f000 });
    }
  });

  test('far return and far call change the code segment', () => {
    const guest = boot();
    guest.put(
      CODE,
      `
      6a 40               ; push $0x40 (32-bit code)
      68 00 01 01 00      ; push $CODE+0x100
      48 cb               ; lretq`,
    );
    guest.put(CODE + 0x100, '40 9a 10 01 01 00 08 00'); // inc %eax (REX in 64-bit mode); lcall $8,$CODE+0x110
    guest.put(CODE + 0x110, 'e6 f1');
    guest.set('rax', 1);
    guest.runToDone();
    expect(guest.get('rax')).toBe(2n);
    expect(guest.get('rsp')).toBe(BigInt(STACK - 8));
    expect(guest.get32(STACK - 8)).toBe(CODE + 0x108);
    expect(guest.get32(STACK - 4)).toBe(SELECTOR.code32);
  });

  test('self-modifying code takes effect at the next instruction', () => {
    const guest = boot();
    guest.put(
      CODE,
      `
      b3 02               ; mov $2,%bl
      88 1d 01 00 00 00   ; mov %bl,1(%rip): the immediate below
      b0 01               ; mov $1,%al
      e6 f1`,
    );
    guest.runToDone();
    expect(guest.get('rax') & 0xffn).toBe(2n);
  });

  test('memory.written makes code written by a device run', () => {
    const guest = boot();
    guest.put(CODE, 'b0 01 e6 f1 eb fa'); // 1: mov $1,%al; out; jmp 1b
    guest.runToDone();
    guest.put(CODE + 1, '05');
    guest.runToDone();
    expect(guest.get('rax') & 0xffn).toBe(5n);
  });

  test('reset puts the CPU at FFFFFFF0h in real-address mode', () => {
    const guest = boot();
    guest.cpu.reset('init');
    expect(guest.get('rip')).toBe(0xfff0n);
    expect(guest.cpu.readSystem()).toMatchObject({ cr0: 0x10n, cr3: 0n, efer: 0n });
    expect(guest.cpu.readSystem().segments[1]).toMatchObject({ selector: 0xf000, base: 0xffff0000n });
  });

  test('translate follows page tables without side effects', () => {
    const guest = boot();
    guest.setPage(0, 0x20_0000n | 1n); // read-only, not accessed
    expect(guest.cpu.translate(0x20_0123, false)).toBe(0x20_0123);
    expect(guest.cpu.translate(0x20_0123, true)).toBe(-1);
    expect(guest.cpu.translate(0x20_1123, true)).toBe(0x20_1123);
    expect(guest.cpu.translate(-(2 ** 47) + 0x1234, true)).toBe(0x1234);
    expect(guest.cpu.translate(2 ** 40, false)).toBe(-1);
    expect(guest.cpu.translate(Number.NaN, false)).toBe(-1);
    expect(guest.get64(0x5000)).toBe(0x20_0001n);
  });

  test('the vector state goes out and in whole', () => {
    const guest = boot();
    guest.put(CODE, '66 48 0f 6e c0 e6 f1'); // movq %rax,%xmm0
    guest.set('rax', 0x0123456789abcdefn);
    guest.runToDone();
    const state = new Uint8Array(guest.cpu.vectorSize);
    guest.cpu.saveVector(state);
    expect(new DataView(state.buffer).getBigUint64(160, true)).toBe(0x0123456789abcdefn);
    state[160] = 0x55;
    guest.cpu.loadVector(state);
    guest.put(CODE + 7, `66 48 0f 7e c3 e6 f1`); // movq %xmm0,%rbx
    guest.runToDone();
    expect(guest.get('rbx')).toBe(0x0123456789abcd55n);
  });

  test('REP MOVSB between pages, and DATA is where it should be', () => {
    const guest = boot();
    guest.put(
      DATA + 0xff0,
      Uint8Array.from({ length: 64 }, (_, i) => i + 1),
    );
    guest.set('rsi', DATA + 0xff0);
    guest.set('rdi', DATA + 0x5ff8);
    guest.set('rcx', 64);
    guest.put(CODE, 'f3 a4 e6 f1');
    guest.runToDone();
    expect([...guest.engine.memory.bytes.subarray(DATA + 0x5ff8, DATA + 0x6038)]).toEqual(Array.from({ length: 64 }, (_, i) => i + 1));
    expect([guest.get('rcx'), guest.get('rsi')]).toEqual([0n, BigInt(DATA + 0x1030)]);
  });

  test('two CPUs share memory; code that one writes, the other runs', () => {
    const first = boot({ cpus: 2 });
    const second = new Guest(first.engine, 1).longMode();
    first.put(CODE, 'c6 03 07 e6 f1'); // movb $7,(%rbx); out
    second.put(CODE + 0x100, 'b0 01 e6 f1 eb fa');
    first.set('rbx', CODE + 0x101);
    second.set('rip', CODE + 0x100);
    second.runToDone();
    first.runToDone();
    second.runToDone();
    expect(second.get('rax') & 0xffn).toBe(7n);
    expect(second.cpu.index).toBe(1);
  });

  test('a page that became code on one CPU is watched on the other', () => {
    const first = boot({ cpus: 2 });
    const second = new Guest(first.engine, 1).longMode();
    first.put(CODE, 'c6 03 07 e6 f1 eb f9'); // 1: movb $7,(%rbx); out; jmp 1b
    first.set('rbx', DATA + 1);
    first.runToDone(); // the write is in the translation cache now
    second.put(DATA, 'b0 01 e6 f1 eb fa');
    second.set('rip', DATA);
    second.runToDone();
    first.runToDone();
    second.runToDone();
    expect(second.get('rax') & 0xffn).toBe(7n);
  });

  test('CPUID: the features announced are the ones there', () => {
    const guest = boot();
    const leaf = (eax: number, ecx = 0) => {
      guest.put(CODE, '0f a2 e6 f1');
      guest.set('rip', CODE);
      guest.set('rax', eax);
      guest.set('rcx', ecx);
      guest.runToDone();
      return (['rax', 'rbx', 'rcx', 'rdx'] as const).map((name) => Number(guest.get(name)));
    };
    const text = (...words: number[]) => Buffer.from(new Uint32Array(words).buffer).toString('latin1');
    const [, b = 0, c = 0, d = 0] = leaf(0);
    expect(text(b, d, c)).toBe('GenuineIntel');
    const [, hb = 0, hc = 0, hd = 0] = leaf(0x4000_0000);
    expect(text(hb, hc, hd)).toBe('PortcullisVM');
    const [, , features = 0] = leaf(1);
    expect(features & 8).toBe(0); // no MONITOR
    expect(features >>> 31).toBe(1); // a hypervisor
    const [denominator = 0, numerator = 0, crystal = 0] = leaf(0x15);
    expect((crystal * numerator) / denominator).toBe(guest.engine.tscFrequency);
  });

  test('RDRAND repeats under the deterministic clock', () => {
    const draw = () => {
      const guest = boot();
      guest.put(CODE, '48 0f c7 f0 e6 f1');
      guest.runToDone();
      return [guest.get('rax'), guest.get('rflags') & 1n];
    };
    expect(draw()).toEqual(draw());
    expect(draw()[1]).toBe(1n);
  });
}
