/** MOV with device memory: complete after one exit and its answer, whatever the operand size, register and position in a block. */
import { describe, expect, test } from 'vitest';
import type { Exit } from '../contract.ts';
import { REG } from '../contract.ts';
import { createSoftEngine } from './engine.ts';

const CODE = 0x1000;
const TABLES = 0x10000;
const DEVICE = 0x3f00_0000;
const ENOUGH = Number.POSITIVE_INFINITY;

/** A CPU in 64-bit mode at `code`, which is hexadecimal, with RBX at the device and RAX full of ones. */
function machine(code: string) {
  const engine = createSoftEngine({ memorySize: 16 << 20, cpus: 1, clock: 'instructions' });
  const { words, bytes } = engine.memory;
  words[TABLES / 4] = (TABLES + 0x1000) | 3;
  words[(TABLES + 0x1000) / 4] = (TABLES + 0x2000) | 3;
  for (let i = 0; i < 512; i++) words[(TABLES + 0x2000) / 4 + 2 * i] = (i << 21) | 0x83;
  const cpu = engine.cpus[0]!;
  const system = cpu.readSystem();
  const segments = system.segments.map((segment, i) =>
    i >= 6 ? segment : { selector: i === 1 ? 8 : 16, base: 0n, limit: 0xffff_ffff, attributes: i === 1 ? 0xa09b : 0xc093 },
  );
  cpu.writeSystem({ ...system, segments, cr0: 0x8005_0033n, cr3: BigInt(TABLES), cr4: 0x620n, efer: 0x500n });
  bytes.set(Buffer.from(code.replaceAll(' ', ''), 'hex'), CODE);
  engine.memory.written(CODE, code.length);
  cpu.registers.words[REG.rip] = BigInt(CODE);
  cpu.registers.words[REG.rbx] = BigInt(DEVICE);
  cpu.registers.words[REG.rax] = 0xffff_ffff_ffff_ffffn;
  cpu.registers.words[REG.rflags] = 0x202n;
  return { cpu, register: (index: number) => cpu.registers.words[index], run: (): Exit => cpu.run(ENOUGH) };
}

describe('loads', () => {
  test.each([
    ['8a 03', 1, 0xffff_ffff_ffff_ff78n], // mov (%rbx),%al
    ['8a 23', 1, 0xffff_ffff_ffff_78ffn], // mov (%rbx),%ah
    ['66 8b 03', 2, 0xffff_ffff_ffff_5678n], // mov (%rbx),%ax
    ['8b 03', 4, 0x1234_5678n], // mov (%rbx),%eax
  ])('%s', (code, size, expected) => {
    const { cpu, register, run } = machine(`90 ${code} 90 f4`);
    expect(run()).toMatchObject({ kind: 'mmio', gpa: DEVICE, size, write: false });
    expect(register(REG.rip)).toBe(BigInt(CODE + 1));
    expect(cpu.canInterrupt).toBe(false);
    cpu.completeRead(0x1234_5678 % 2 ** (8 * size));
    expect(cpu.canInterrupt).toBe(true);
    expect(run().kind).toBe('halt');
    expect(register(REG.rax)).toBe(expected);
    expect(cpu.instructions).toBe(4);
  });

  test('an interrupt after the answer finds the load complete', () => {
    const { cpu, register, run } = machine('8b 03 f4');
    run();
    cpu.completeRead(7);
    expect([register(REG.rax), register(REG.rip)]).toEqual([7n, BigInt(CODE + 2)]);
  });

  test('an answer after a reset does not move the new start', () => {
    const { cpu, register, run } = machine('8b 03 f4');
    run();
    cpu.reset('power-up');
    const start = register(REG.rip);
    cpu.completeRead(7);
    expect(register(REG.rip)).toBe(start);
  });
});

describe('stores', () => {
  test.each([
    ['88 23', 1, 0x56], // mov %ah,(%rbx)
    ['66 89 03', 2, 0x5678], // mov %ax,(%rbx)
    ['89 03', 4, 0x1234_5678], // mov %eax,(%rbx)
    ['c7 03 ef be ad de', 4, 0xdead_beef], // movl $0xdeadbeef,(%rbx)
    ['c6 03 80', 1, 0x80], // movb $0x80,(%rbx)
  ])('%s', (code, size, value) => {
    const { cpu, register, run } = machine(`90 ${code} 90 f4`);
    cpu.registers.words[REG.rax] = 0xffff_ffff_1234_5678n;
    expect(run()).toMatchObject({ kind: 'mmio', gpa: DEVICE, size, write: true, value });
    expect(run().kind).toBe('halt');
    expect(register(REG.rax)).toBe(0xffff_ffff_1234_5678n);
    expect(cpu.instructions).toBe(4);
  });

  test('a single step over a store traps once, behind it', () => {
    const { cpu, register, run } = machine('89 03 90 f4');
    cpu.registers.words[REG.rflags] = 0x302n; // TF
    expect(run().kind).toBe('mmio');
    expect(run().kind).toBe('shutdown'); // no IDT: the trap is a triple fault
    expect(register(REG.rip)).toBe(BigInt(CODE + 2));
  });
});
