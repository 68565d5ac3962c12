/** Page permissions, accessed and dirty bits, address-space switches, INVLPG (Intel SDM vol. 3, chapter 4). */

import { expect, test } from 'vitest';
import { CODE, PML4, PT, SMALL, USER } from './guest.ts';
import type { Boot } from './suite.ts';

const P = 1n;
const W = 2n;
const U = 4n;
const NX = 1n << 63n;
const PAGE = BigInt(SMALL);
const READ = '48 8b 03 e6 f1'; // mov (%rbx),%rax; out
const WRITE = '48 89 03 e6 f1'; // mov %rax,(%rbx); out

export function pagingTests(boot: Boot): void {
  const faults: [string, bigint, { user?: boolean; cr4?: bigint; ac?: boolean; code: string }, number][] = [
    ['not present', 0n, { code: READ }, 0],
    ['not present, write', 0n, { code: WRITE }, 2],
    ['supervisor page read by user', PAGE | P | W, { user: true, code: READ }, 5],
    ['read-only page written by user', PAGE | P | U, { user: true, code: WRITE }, 7],
    ['read-only page written by supervisor with CR0.WP', PAGE | P, { code: WRITE }, 3],
    ['reserved bit', PAGE | P | W | (1n << 45n), { code: READ }, 9],
    ['user page read under SMAP', PAGE | P | W | U, { cr4: 1n << 21n, code: READ }, 1],
  ];
  for (const [name, entry, { user = false, cr4 = 0n, code }, errorCode] of faults) {
    test(`#PF: ${name}`, () => {
      const guest = boot();
      guest.setPage(0, entry);
      // SMAP and SMEP need supervisor pages for the code: run it in the upper half.
      if (cr4) {
        const system = guest.cpu.readSystem();
        const high = (low: bigint, limit: number) => ({ base: 0xffff_8000_0000_0000n | low, limit });
        guest.cpu.writeSystem({ ...system, cr4: system.cr4 | cr4, gdtr: high(0x6000n, 0xff), idtr: high(0x7000n, 0xfff) });
      }
      if (user) guest.user();
      const at = user ? USER : CODE;
      guest.put(at, code);
      if (cr4) {
        guest.set('rip', -(2 ** 47) + CODE);
        guest.set('rsp', -(2 ** 47) + 0x1c000);
        for (let v = 0; v < 32; v++) guest.gate(v, -(2 ** 47) + 0x8000 + 16 * v);
      }
      guest.set('rbx', SMALL + 0x10);
      const exit = guest.run();
      expect(exit).toMatchObject({ kind: 'io', port: 0xf0 });
      const rsp = Number(BigInt.asUintN(32, guest.get('rsp')));
      expect([Number(guest.get64(rsp)), Number(guest.get64(rsp + 8))]).toEqual([14, errorCode]);
      expect(guest.cpu.readSystem().cr2).toBe(BigInt(SMALL + 0x10));
    });
  }

  test('#PF: fetch from a no-execute page, and from a user page under SMEP', () => {
    const guest = boot();
    guest.setPage(0, PAGE | P | W | U | NX);
    guest.put(CODE, 'ff e3'); // jmp *%rbx
    guest.set('rbx', SMALL + 4);
    expect(guest.runToHandler()).toMatchObject({ vector: 14, errorCode: 0x11, rip: SMALL + 4 });
    const smep = boot();
    smep.cpu.writeSystem({ ...smep.cpu.readSystem(), cr4: smep.cpu.readSystem().cr4 | (1n << 20n) });
    for (let v = 0; v < 32; v++) smep.gate(v, -(2 ** 47) + 0x8000 + 16 * v);
    smep.set('rip', -(2 ** 47) + CODE);
    smep.put(CODE, 'ff e3');
    smep.set('rbx', SMALL);
    expect(smep.runToHandler()).toMatchObject({ vector: 14, errorCode: 0x11, rip: SMALL });
  });

  test('an access over two pages faults on the second with nothing written', () => {
    const guest = boot();
    guest.setPage(1, 0n);
    guest.put(CODE, WRITE);
    guest.set('rax', -1n);
    guest.set('rbx', SMALL + 0xffc);
    expect(guest.runToHandler()).toMatchObject({ vector: 14, errorCode: 2 });
    expect(guest.cpu.readSystem().cr2).toBe(BigInt(SMALL + 0x1000));
    expect(guest.get32(SMALL + 0xffc)).toBe(0);
  });

  test('accessed and dirty bits', () => {
    const guest = boot();
    guest.put(CODE, `48 8b 03 e6 f1 48 89 03 e6 f1`);
    guest.set('rbx', SMALL);
    guest.runToDone();
    expect(guest.get64(PT) & 0x60n).toBe(0x20n);
    guest.runToDone();
    expect(guest.get64(PT) & 0x60n).toBe(0x60n);
    expect(guest.get64(PML4) & 0x20n).toBe(0x20n);
  });

  test('a changed entry counts after INVLPG', () => {
    const guest = boot();
    guest.engine.memory.bytes[SMALL] = 1;
    guest.engine.memory.bytes[SMALL + 0x1000] = 2;
    guest.put(
      CODE,
      `
      8a 03               ; mov (%rbx),%al
      48 89 11            ; mov %rdx,(%rcx)
      0f 01 3b            ; invlpg (%rbx)
      8a 23               ; mov (%rbx),%ah
      e6 f1`,
    );
    guest.set('rbx', SMALL);
    guest.set('rcx', PT);
    guest.set('rdx', BigInt(SMALL + 0x1000) | P | W | U);
    guest.runToDone();
    expect(guest.get('rax') & 0xffffn).toBe(0x0201n);
  });

  test('INVLPG of one address forgets the whole large page', () => {
    const guest = boot();
    guest.engine.memory.bytes[0x40_0000] = 1;
    guest.engine.memory.bytes[0x60_0000] = 2;
    guest.put(
      CODE,
      `
      8a 03               ; mov (%rbx),%al
      48 89 11            ; mov %rdx,(%rcx)
      0f 01 bb 00 50 00 00 ; invlpg 0x5000(%rbx)
      8a 23               ; mov (%rbx),%ah
      e6 f1`,
    );
    guest.set('rbx', 0x40_0000);
    guest.set('rcx', 0x3000 + 16);
    guest.set('rdx', 0x60_0000n | 0x87n);
    guest.runToDone();
    expect(guest.get('rax') & 0xffffn).toBe(0x0201n);
  });

  test('code follows a change of CR3, and PCIDs keep their translations apart', () => {
    const guest = boot();
    // A second address space: the same tables but another page table for 2..4 MiB.
    const [pml4, pdpt, pd, pt] = [0x50000, 0x51000, 0x52000, 0x53000];
    const { bytes } = guest.engine.memory;
    bytes.copyWithin(pml4, PML4, PML4 + 4096);
    bytes.copyWithin(pdpt, 0x2000, 0x3000);
    bytes.copyWithin(pd, 0x3000, 0x4000);
    guest.put64(pml4, BigInt(pdpt) | 7n);
    guest.put64(pdpt, BigInt(pd) | 7n);
    guest.put64(pd + 8, BigInt(pt) | 7n);
    guest.put64(pt, BigInt(SMALL + 0x1000) | 7n);
    guest.put(SMALL, 'b0 01 c3');
    guest.put(SMALL + 0x1000, 'b0 02 c3');
    guest.put(
      CODE,
      `
      ff d3 88 c5         ; call *%rbx; mov %al,%ch
      0f 22 da            ; mov %rdx,%cr3
      ff d3 88 c1         ; call *%rbx; mov %al,%cl
      0f 22 de            ; mov %rsi,%cr3
      ff d3               ; call *%rbx
      e6 f1`,
    );
    guest.cpu.writeSystem({ ...guest.cpu.readSystem(), cr4: guest.cpu.readSystem().cr4 | (1n << 17n) });
    guest.set('rbx', SMALL);
    guest.set('rdx', BigInt(pml4) | 1n);
    guest.set('rsi', BigInt(PML4) | (1n << 63n));
    guest.runToDone();
    expect([guest.get('rcx') & 0xffffn, guest.get('rax') & 0xffn]).toEqual([0x0102n, 1n]);
  });

  test('a non-canonical address is #GP(0)', () => {
    const guest = boot();
    guest.put(CODE, READ);
    guest.set('rbx', 1n << 47n);
    expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 0, rip: CODE });
  });
}
