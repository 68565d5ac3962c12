/** The shadow stack of a view: CALL and RET keep it, nothing that the guest can write reaches it, and everybody else's CALL and RET know nothing of it. */

import { describe, expect, test } from 'vitest';
import { type HostPage, joinAddress, PERMISSION, SHADOW_STACK_DEPTH, type View } from '../../src/engine/contract.ts';
import { CODE, code, type Guest, HIGH, SELECTOR, SMALL, STACK } from './guest.ts';
import type { Boot } from './suite.ts';

const TEXT = -0x4000_0000;
const PRIVATE = TEXT + 0x2000;
const STACK_TOP = HIGH + STACK;
const { read, write, execute } = PERMISSION;
const PAGE = 4096;

interface Module {
  guest: Guest;
  view: View;
  pages: HostPage[];
}

/**
 * A view with a shadow stack, two pages of text at TEXT, of which `bytes` are the first or lie at `at`, and a page of data behind them. Indirect branches
 * may land in the text at multiples of `landing`.
 */
function load(boot: Boot, bytes: string, at = 0, landing: number | undefined = 1): Module {
  const guest = boot();
  const pages = guest.engine.allocateHostPages(3);
  const text = code(bytes);
  for (const [index, byte] of text.entries()) (pages[(at + index) >> 12] as HostPage).bytes[(at + index) & 0xfff] = byte;
  const view = guest.engine.createView('module');
  view.setShadowStack(true);
  view.setFixedPages(
    pages.map((page, index) => ({
      address: TEXT + index * PAGE,
      page,
      ...(index < 2 ? { permission: read | execute, landing } : { permission: read | write }),
    })),
  );
  guest.cpu.enter(view);
  guest.set('rip', TEXT + at);
  guest.set('rsp', STACK_TOP);
  return { guest, view, pages };
}

/** Entries of the shadow stack: return address and slot. */
const entries = ({ cpu: { shadowStack: shadow } }: Guest) =>
  Array.from({ length: shadow.depth }, (_, index) => {
    const [low, high, slotLow, slotHigh] = shadow.halves.subarray(4 * index) as unknown as [number, number, number, number];
    return [joinAddress(low, high), joinAddress(slotLow, slotHigh)];
  });
const rip = (guest: Guest) => Number(BigInt.asIntN(64, guest.get('rip')));
const rsp = (guest: Guest) => Number(BigInt.asIntN(64, guest.get('rsp')));
/** Another CPU, or a device, writes a word of the guest's memory. */
const rewrite = (guest: Guest, address: number, value: number) => guest.put64(address - HIGH, BigInt(value));

export function shadowStackTests(boot: Boot): void {
  if (!boot().engine.shadowStacks) {
    test('an engine without shadow stacks says so', () => {
      const { engine } = boot();
      const view = engine.createView('module');
      expect(() => view.setShadowStack(true)).toThrow(RangeError);
      expect(view.shadowStack).toBe(false);
    });
    return;
  }

  // 0: call 7; 5: out; 7: out $f2 (the callee is looked at); 9: ret
  const CALL = 'e8 02 00 00 00 e6 f1 e6 f2 c3';
  const toCallee = (guest: Guest) => expect(guest.run()).toMatchObject({ kind: 'io', port: 0xf2 });

  test('a call is written down with its slot, a return takes it off', () => {
    const { guest, view } = load(boot, CALL);
    expect(view.shadowStack).toBe(true);
    expect(entries(guest)).toEqual([]);
    toCallee(guest);
    expect(entries(guest)).toEqual([[TEXT + 5, STACK_TOP - 8]]);
    guest.runToDone();
    expect(entries(guest)).toEqual([]);
    expect(rsp(guest)).toBe(STACK_TOP);
  });

  test.each([
    ['another place in the same text', TEXT + 7],
    ['a function of the module', TEXT],
    ['a kernel address', HIGH + CODE],
    ['nothing canonical', 2 ** 50],
    ['zero', 0],
  ])('a return address rewritten to %s: no return happens', (_, value) => {
    const { guest } = load(boot, CALL);
    toCallee(guest);
    rewrite(guest, STACK_TOP - 8, value);
    expect(guest.run()).toEqual(
      expect.objectContaining({ kind: 'shadow-stack', reason: 'mismatch', found: value === 2 ** 50 ? Number.NaN : value }),
    );
    expect(rip(guest)).toBe(TEXT + 9);
    expect(rsp(guest)).toBe(STACK_TOP - 8);
    expect(entries(guest)).toEqual([[TEXT + 5, STACK_TOP - 8]]);
    // The embedder may let it go on once the word is right again.
    rewrite(guest, STACK_TOP - 8, TEXT + 5);
    guest.runToDone();
  });

  test('the right address in the wrong place is no return either', () => {
    const { guest } = load(boot, CALL);
    toCallee(guest);
    rewrite(guest, STACK_TOP - 64, TEXT + 5);
    guest.set('rsp', STACK_TOP - 64);
    expect(guest.run()).toMatchObject({ kind: 'shadow-stack', reason: 'mismatch', found: TEXT + 5 });
  });

  test('a return without a call', () => {
    const { guest } = load(boot, 'c3');
    rewrite(guest, STACK_TOP, TEXT);
    expect(guest.run()).toMatchObject({ kind: 'shadow-stack', reason: 'mismatch', found: TEXT });
    expect(rsp(guest)).toBe(STACK_TOP);
  });

  test.each([
    ['call *%rax', 'ff d0'],
    ['call *(%rdi)', 'ff 17'],
    ['rex.W call *%rax', '48 ff d0'],
    ['operand-size call *%rax', '66 ff d0'],
  ])('%s', (_, bytes) => {
    const length = bytes.split(' ').length;
    const { guest } = load(boot, `${bytes} e6 f1 e6 f2 c3`);
    guest.set('rax', TEXT + length + 2);
    guest.set('rdi', STACK_TOP - 128);
    rewrite(guest, STACK_TOP - 128, TEXT + length + 2);
    toCallee(guest);
    expect(entries(guest)).toEqual([[TEXT + length, STACK_TOP - 8]]);
    guest.runToDone();
  });

  describe.each([
    ['call *%rax', 'ff d0'],
    ['call *(%rdi)', 'ff 17'],
    ['jmp *%rax', 'ff e0'],
    ['jmp *%r8', '41 ff e0'],
    ['jmp *(%rdi)', 'ff 27'],
    ['rex.W jmp *%rax', '48 ff e0'],
    ['operand-size jmp *%rax', '66 ff e0'],
  ])('%s', (_, bytes) => {
    const to = (target: number, landing?: number) => {
      const module = load(boot, bytes, 0, landing);
      const text = code('e6 f1');
      for (const offset of [0x20, 0x28, 0x1010]) (module.pages[offset >> 12] as HostPage).bytes.set(text, offset & 0xfff);
      module.guest.set('rax', target);
      module.guest.set('r8', target);
      module.guest.set('rdi', STACK_TOP - 128);
      rewrite(module.guest, STACK_TOP - 128, target);
      return module.guest;
    };

    test('lands where the page says', () => {
      for (const [target, landing] of [
        [TEXT + 0x20, 16],
        [TEXT + 0x1010, 16],
        [TEXT + 0x28, 8],
        [TEXT + 0x28, 1],
      ] as const)
        to(target, landing).runToDone();
    });

    test.each([
      ['between landing places', TEXT + 0x28, 16],
      ['one byte off', TEXT + 0x21, 16],
      ['in a page without any', TEXT + 0x20, undefined],
    ])('is stopped %s, and nothing has happened', (__, target, landing) => {
      const guest = to(target, landing ?? undefined);
      if (landing === undefined) guest.cpu.view.setFixedPages(guest.cpu.view.fixedPages.map(({ landing: ___, ...page }) => page));
      expect(guest.run()).toMatchObject({ kind: 'shadow-stack', reason: 'landing', found: target });
      expect(rip(guest)).toBe(TEXT);
      expect(rsp(guest)).toBe(STACK_TOP);
      expect(entries(guest)).toEqual([]);
    });

    test('elsewhere a fetch says whether it may', () => {
      expect(to(HIGH + CODE, undefined).run()).toMatchObject({ kind: 'fetch', address: HIGH + CODE });
      expect(to(PRIVATE, undefined).run()).toMatchObject({ kind: 'fetch', address: PRIVATE });
    });
  });

  test('direct branches need no landing place', () => {
    // 0: jmp 4; 4: call 10; 9: out; 11: ret
    const { guest, view } = load(boot, 'eb 02 cc cc e8 02 00 00 00 e6 f1 c3');
    view.setFixedPages(view.fixedPages.map(({ landing: _, ...page }) => page));
    guest.runToDone();
  });

  test('a landing place is a power of two', () => {
    const { view } = load(boot, 'c3');
    for (const landing of [0, 3, 8192])
      expect(() => view.setFixedPages(view.fixedPages.map((page) => ({ ...page, landing })))).toThrow(RangeError);
  });

  test('ret $imm takes its arguments off too', () => {
    const { guest } = load(boot, 'e8 02 00 00 00 e6 f1 c2 10 00');
    guest.set('rsp', STACK_TOP - 16);
    guest.runToDone();
    expect(rsp(guest)).toBe(STACK_TOP);
    expect(entries(guest)).toEqual([]);
  });

  test('a tail call leaves it alone; nested calls end in order', () => {
    // 0: call a; out. 7 a: call b; jmp c. 14 b: out $f2; ret. 17 c: ret
    const { guest } = load(boot, 'e8 02 00 00 00 e6 f1 e8 02 00 00 00 eb 03 e6 f2 c3 c3');
    toCallee(guest);
    expect(entries(guest)).toEqual([
      [TEXT + 5, STACK_TOP - 8],
      [TEXT + 12, STACK_TOP - 16],
    ]);
    guest.runToDone();
    expect(entries(guest)).toEqual([]);
  });

  test('an instruction that runs over the end of its page', () => {
    const { guest } = load(boot, CALL, 0xffd);
    toCallee(guest);
    expect(entries(guest)).toEqual([[TEXT + 0x1002, STACK_TOP - 8]]);
    guest.runToDone();
  });

  test('calls without end fill it and are stopped before they push', () => {
    const { guest } = load(boot, 'e8 fb ff ff ff'); // 1: call 1b
    expect(guest.run()).toMatchObject({ kind: 'shadow-stack', reason: 'full' });
    expect(guest.cpu.shadowStack.depth).toBe(SHADOW_STACK_DEPTH);
    expect(rsp(guest)).toBe(STACK_TOP - 8 * SHADOW_STACK_DEPTH);
    expect(rip(guest)).toBe(TEXT);
  });

  test.each([
    ['iretq', '48 cf'],
    ['lretq', '48 cb'],
    ['lretq $8', '48 ca 08 00'],
  ])('%s is stopped', (_, bytes) => {
    const { guest } = load(boot, bytes);
    for (const [index, value] of [TEXT, SELECTOR.code, 2, STACK_TOP, SELECTOR.data].entries()) rewrite(guest, STACK_TOP + 8 * index, value);
    expect(guest.run()).toMatchObject({ kind: 'shadow-stack', reason: 'far' });
    expect(rip(guest)).toBe(TEXT);
  });

  describe('faults', () => {
    test('a call whose push faults has not happened, and happens once when it is tried again', () => {
      const { guest } = load(boot, CALL);
      guest.setPage(1, 0n);
      guest.set('rsp', SMALL + 2 * PAGE);
      const exit = guest.run();
      expect(exit).toMatchObject({ kind: 'event', event: { type: 'exception', vector: 14 } });
      expect(entries(guest)).toEqual([]);
      guest.setPage(1, BigInt(SMALL + PAGE) | 3n);
      toCallee(guest);
      expect(entries(guest)).toEqual([[TEXT + 5, SMALL + 2 * PAGE - 8]]);
      guest.runToDone();
    });

    test('a return whose read faults has not happened either', () => {
      const { guest } = load(boot, CALL);
      guest.set('rsp', SMALL + 2 * PAGE);
      toCallee(guest);
      const system = guest.cpu.readSystem();
      guest.setPage(1, 0n);
      guest.cpu.writeSystem(system); // forgets translations
      expect(guest.run()).toMatchObject({ kind: 'event', event: { vector: 14 } });
      expect(entries(guest)).toHaveLength(1);
      guest.setPage(1, BigInt(SMALL + PAGE) | 3n);
      guest.runToDone();
      expect(entries(guest)).toEqual([]);
    });

    test('a call to a non-canonical address', () => {
      const { guest } = load(boot, 'ff d0');
      guest.set('rax', 1n << 50n);
      expect(guest.run()).toMatchObject({ kind: 'event', event: { vector: 13 } });
      expect(entries(guest)).toEqual([]);
      expect(rsp(guest)).toBe(STACK_TOP);
    });
  });

  test('step by step it is the same', () => {
    const { guest } = load(boot, CALL);
    const depths: number[] = [];
    for (let step = 0; step < 4; step++) {
      guest.set('rflags', 0x102);
      const exit = guest.run();
      if (exit.kind === 'io') continue;
      expect(exit).toMatchObject({ kind: 'event', event: { vector: 1 } });
      depths.push(guest.cpu.shadowStack.depth);
    }
    expect(depths).toContain(1);
    expect(guest.cpu.shadowStack.depth).toBe(0);
    const other = load(boot, CALL);
    toCallee(other.guest);
    other.guest.set('rflags', 0x102);
    rewrite(other.guest, STACK_TOP - 8, TEXT);
    for (let exit = other.guest.run(); ; exit = other.guest.run()) {
      if (exit.kind === 'event') continue; // the trap of the step that was in flight
      expect(exit).toMatchObject({ kind: 'shadow-stack' });
      break;
    }
  });

  test('the embedder empties and restores it: two threads, one inside the other', () => {
    const { guest, view } = load(boot, CALL);
    toCallee(guest);
    const { shadowStack, registers } = guest.cpu;
    const kept = { halves: shadowStack.halves.slice(0, 4 * shadowStack.depth), depth: shadowStack.depth, words: registers.words.slice() };
    guest.cpu.enter(guest.engine.untrusted);
    shadowStack.depth = 0;
    guest.cpu.enter(view);
    guest.set('rip', TEXT);
    guest.set('rsp', STACK_TOP - 0x400);
    toCallee(guest);
    guest.runToDone();
    shadowStack.halves.set(kept.halves);
    shadowStack.depth = kept.depth;
    registers.words.set(kept.words);
    guest.runToDone();
    expect(rsp(guest)).toBe(STACK_TOP);
  });

  test('other views do not have it, also for the same text and after both have run it', () => {
    const { guest, view, pages } = load(boot, CALL);
    const plain = guest.engine.createView('plain');
    plain.setFixedPages(view.fixedPages);
    expect(plain.shadowStack).toBe(false);
    const round = (next: View, expected: 'io' | 'shadow-stack') => {
      guest.cpu.enter(next);
      guest.cpu.shadowStack.depth = 0;
      guest.set('rip', TEXT);
      guest.set('rsp', STACK_TOP);
      toCallee(guest);
      expect(guest.cpu.shadowStack.depth).toBe(next.shadowStack ? 1 : 0);
      rewrite(guest, STACK_TOP - 8, TEXT + 7);
      const exit = guest.run();
      expect(exit.kind).toBe(expected);
    };
    for (let times = 0; times < 3; times++) {
      round(view, 'shadow-stack');
      round(plain, 'io');
    }
    guest.cpu.enter(guest.engine.untrusted);
    plain.setShadowStack(true);
    view.setShadowStack(false);
    round(view, 'io');
    round(plain, 'shadow-stack');
    expect(pages).toHaveLength(3);
  });

  test('the untrusted view never has one', () => {
    const guest = boot();
    expect(() => guest.engine.untrusted.setShadowStack(true)).toThrow(RangeError);
    expect(guest.engine.untrusted.shadowStack).toBe(false);
    guest.put(CODE, CALL);
    guest.set('rip', CODE);
    toCallee(guest);
    expect(guest.cpu.shadowStack.depth).toBe(0);
    guest.put64(STACK - 8, BigInt(CODE + 7));
    toCallee(guest);
  });

  test('reset and INIT empty it', () => {
    for (const kind of ['init', 'power-up'] as const) {
      const { guest } = load(boot, CALL);
      toCallee(guest);
      guest.cpu.enter(guest.engine.untrusted);
      guest.cpu.reset(kind);
      expect(guest.cpu.shadowStack.depth).toBe(0);
    }
  });

  test('private memory as a stack, and recursion to the limit and back', () => {
    // dec %ecx; jz 1f; call 0; 1: ret
    const { guest } = load(boot, 'ff c9 74 05 e8 f7 ff ff ff c3 e8 f1 ff ff ff e6 f1');
    guest.set('rip', TEXT + 10);
    guest.set('rsp', PRIVATE + PAGE);
    guest.set('rcx', SHADOW_STACK_DEPTH);
    guest.runToDone();
    expect(guest.cpu.shadowStack.depth).toBe(0);
    guest.set('rip', TEXT + 10);
    guest.set('rcx', SHADOW_STACK_DEPTH + 1);
    expect(guest.run()).toMatchObject({ kind: 'shadow-stack', reason: 'full' });
  });
}
