/** Views: what a virtual CPU can reach in each, and how it leaves. */

import { expect, test } from 'vitest';
import { type Exit, type HostPage, PERMISSION, type View } from '../../src/engine/contract.ts';
import { CODE, code, DATA, type Guest, HIGH, SMALL } from './guest.ts';
import type { Boot } from './suite.ts';

const TEXT = -0x4000_0000; // upper half, not mapped by the guest
const PRIVATE = TEXT + 0x1000;
const { read, write, execute } = PERMISSION;

interface Module {
  guest: Guest;
  view: View;
  text: HostPage;
  data: HostPage;
}

/** A module view with one page of text at TEXT and one private page behind it. */
function load(boot: Boot, bytes: string): Module {
  const guest = boot();
  const [text, data] = guest.engine.allocateHostPages(2) as [HostPage, HostPage];
  text.bytes.set(code(bytes));
  const view = guest.engine.createView('module');
  view.setFixedPages([
    { address: TEXT, page: text, permission: read | execute },
    { address: PRIVATE, page: data, permission: read | write },
  ]);
  guest.set('rip', TEXT);
  return { guest, view, text, data };
}

const event = (exit: Exit) => {
  if (exit.kind !== 'event') throw new Error(`expected an event, got ${exit.kind}`);
  return exit.event;
};

export function viewTests(boot: Boot): void {
  test('fixed pages exist in their view only', () => {
    const { guest, view, data } = load(
      boot,
      `
      48 89 05 f9 0f 00 00 ; mov %rax,0xff9(%rip): PRIVATE
      48 8b 1d f2 0f 00 00 ; mov 0xff2(%rip),%rbx
      e6 f1`,
    );
    guest.set('rax', 0x1122334455667788n);
    guest.cpu.enter(view);
    expect(guest.cpu.view).toBe(view);
    guest.runToDone();
    expect(guest.get('rbx')).toBe(0x1122334455667788n);
    expect(data.bytes[0]).toBe(0x88);
    guest.cpu.enter(guest.engine.untrusted);
    guest.set('rip', CODE);
    guest.put(CODE, '48 8b 05 00 00 00 00');
    guest.set('rip', CODE);
    guest.put(CODE, '48 8b 03');
    guest.set('rbx', PRIVATE);
    expect(guest.runToHandler()).toMatchObject({ vector: 14, errorCode: 0 });
  });

  test('fixed pages override the guest page tables', () => {
    const guest = boot();
    const [page] = guest.engine.allocateHostPages(1) as [HostPage];
    page.bytes.set(code('b0 02 e6 f1'));
    guest.put(DATA, 'b0 01 e6 f1');
    const view = guest.engine.createView('module');
    view.setFixedPages([{ address: HIGH + DATA, page, permission: read | execute }]);
    const results: bigint[] = [];
    for (const next of [guest.engine.untrusted, view, guest.engine.untrusted, view]) {
      guest.cpu.enter(next);
      guest.set('rip', HIGH + DATA);
      guest.runToDone();
      results.push(guest.get('rax') & 0xffn);
    }
    expect(results).toEqual([1n, 2n, 1n, 2n]);
  });

  test('permissions of fixed pages: writing text and fetching data do not happen', () => {
    const { guest, view } = load(boot, '88 05 00 00 00 00'); // mov %al,0(%rip): the text itself
    guest.cpu.enter(view);
    const address = BigInt.asUintN(64, BigInt(TEXT + 6));
    expect(event(guest.run())).toMatchObject({ type: 'exception', vector: 14, errorCode: 3, address });
    guest.set('rip', PRIVATE);
    expect(guest.run()).toMatchObject({ kind: 'fetch', address: PRIVATE });
  });

  test('a fetch anywhere else exits before anything runs', () => {
    const { guest, view } = load(boot, 'ff e3'); // jmp *%rbx
    guest.cpu.enter(view);
    for (const target of [CODE, HIGH + CODE, TEXT + 0x5000]) {
      guest.set('rip', TEXT);
      guest.set('rbx', target);
      expect(guest.run()).toMatchObject({ kind: 'fetch', address: target });
      expect(guest.get('rip')).toBe(BigInt.asUintN(64, BigInt(target)));
      expect(guest.cpu.instructions).toBeGreaterThan(0);
    }
  });

  test('code that ran in the untrusted view does not run in the module view', () => {
    const { guest, view } = load(boot, 'ff e3');
    guest.put(CODE, 'e6 f1');
    guest.set('rip', CODE);
    guest.runToDone();
    guest.cpu.enter(view);
    guest.set('rip', CODE);
    expect(guest.run()).toMatchObject({ kind: 'fetch', address: CODE });
  });

  test('protected frames: read, write and execute in the untrusted view, write in every view', () => {
    const guest = boot();
    guest.put(SMALL, 'c3');
    guest.put(CODE, '8a 03 88 03 ff e3'); // mov (%rbx),%al; mov %al,(%rbx); jmp *%rbx
    guest.set('rbx', SMALL);
    guest.engine.protect(SMALL, read);
    expect(guest.engine.protection(SMALL)).toBe(read);
    expect(guest.run()).toMatchObject({ kind: 'mmio', gpa: SMALL, write: true, value: 0xc3, size: 1 });
    expect(guest.run()).toMatchObject({ kind: 'fetch', address: SMALL });
    guest.engine.protect(SMALL, read | write | execute);
    guest.set('rip', CODE + 4);
    guest.put(SMALL, 'e6 f1');
    guest.runToDone();
    guest.engine.protect(SMALL, 0);
    guest.set('rip', CODE);
    expect(guest.run()).toMatchObject({ kind: 'mmio', gpa: SMALL, write: false, refused: true });
    expect(() => guest.engine.protect(SMALL + 1, read)).toThrow(RangeError);
  });

  test('protect counts at once, also where code and data were used before', () => {
    const guest = boot();
    guest.put(CODE, '88 03 ff d1 e6 f1 eb f8'); // 1: mov %al,(%rbx); call *%rcx; out; jmp 1b
    guest.put(SMALL, 'c3');
    guest.set('rbx', SMALL + 0x1000);
    guest.set('rcx', SMALL);
    guest.runToDone();
    guest.engine.protect(SMALL + 0x1000, read | execute);
    expect(guest.run()).toMatchObject({ kind: 'mmio', write: true });
    guest.engine.protect(SMALL, read | write);
    expect(guest.run()).toMatchObject({ kind: 'fetch', address: SMALL });
  });

  test('in a module view frames are readable whatever protect says, but unwritable stays unwritable', () => {
    const { guest, view } = load(boot, '8a 03 88 03 e6 f1');
    guest.engine.memory.bytes[DATA] = 7;
    guest.engine.protect(DATA, 0);
    guest.set('rbx', DATA);
    guest.cpu.enter(view);
    expect(guest.run()).toMatchObject({ kind: 'mmio', gpa: DATA, write: true, value: 7 });
    guest.runToDone();
  });

  test('interrupts, NMIs, exceptions and INT exit from a module view undelivered', () => {
    const { guest, view } = load(boot, '90 0f 0b cd 80 8a 04 25 00 00 00 03');
    guest.set('rflags', 0x202);
    guest.cpu.enter(view);
    const rsp = guest.get('rsp');
    guest.cpu.inject(0x33);
    expect(event(guest.run())).toEqual({ type: 'interrupt', vector: 0x33, errorCode: -1, address: 0n });
    guest.cpu.nmi();
    expect(event(guest.run())).toMatchObject({ type: 'nmi', vector: 2 });
    expect(event(guest.run())).toMatchObject({ type: 'exception', vector: 6, errorCode: -1 });
    expect(guest.get('rip')).toBe(BigInt.asUintN(64, BigInt(TEXT + 1)));
    guest.set('rip', TEXT + 3);
    expect(event(guest.run())).toMatchObject({ type: 'software', vector: 0x80 });
    expect(guest.get('rip')).toBe(BigInt.asUintN(64, BigInt(TEXT + 5)));
    expect(event(guest.run())).toMatchObject({ type: 'exception', vector: 14, errorCode: 0, address: 0x300_0000n });
    expect([guest.get('rsp'), guest.cpu.readSystem().cr2]).toEqual([rsp, 0n]);
  });

  test('deliver delivers after leaving the view, #PF with CR2', () => {
    const { guest, view } = load(boot, '8a 04 25 00 00 00 03');
    guest.cpu.enter(view);
    const exit = guest.run();
    guest.cpu.enter(guest.engine.untrusted);
    guest.cpu.deliver(event(exit));
    expect(guest.runToHandler()).toMatchObject({ vector: 14, errorCode: 0, rip: TEXT });
    expect(guest.cpu.readSystem().cr2).toBe(0x300_0000n);
  });

  test('IRET into module text from the untrusted view exits with fetch', () => {
    const guest = boot();
    guest.engine.protect(SMALL, read);
    guest.put(CODE, '6a 10 41 54 9c 6a 08 53 48 cf'); // push $0x10; push %r12; pushfq; push $8; push %rbx; iretq
    guest.set('r12', 0x1_8000);
    guest.set('rbx', SMALL + 0x10);
    expect(guest.run()).toMatchObject({ kind: 'fetch', address: SMALL + 0x10 });
    expect([guest.get('rip'), guest.get('rsp')]).toEqual([BigInt(SMALL + 0x10), 0x1_8000n]);
  });

  test('vector instructions exit with vector 7 unless allowed', () => {
    const { guest, view } = load(boot, '66 0f ef c0 e6 f1'); // pxor %xmm0,%xmm0
    guest.cpu.enter(view);
    expect(event(guest.run())).toMatchObject({ type: 'exception', vector: 7 });
    view.setAllowed(new Set(['vector'] as const));
    guest.runToDone();
  });

  test('windows open a hidden range to their view alone', () => {
    const { guest, view } = load(boot, '8b 03 90 e6 f1');
    guest.engine.hide([{ start: 0x4000_0000, end: 0x4002_0000 }]);
    view.setWindows([{ start: 0x4001_0000, end: 0x4002_0000 }]);
    guest.cpu.enter(view);
    guest.set('rbx', 0x4000_fffc);
    expect(guest.run()).toMatchObject({ kind: 'mmio', refused: true });
    guest.set('rbx', 0x4001_0000);
    expect(guest.run()).toMatchObject({ kind: 'mmio', refused: false });
    view.setWindows([]);
    expect(guest.run()).toMatchObject({ kind: 'mmio', refused: true });
  });

  test('changing views forgets no translation', () => {
    const { guest, view } = load(boot, '8a 03 e6 f1 eb fa'); // 1: mov (%rbx),%al; out; jmp 1b
    guest.put(CODE, '8a 03 e6 f1 eb fa');
    guest.set('rbx', DATA);
    const step = (next: View, rip: number) => {
      guest.cpu.enter(next);
      guest.set('rip', rip);
      guest.runToDone();
    };
    const round = () => {
      step(view, TEXT);
      step(guest.engine.untrusted, CODE);
    };
    round();
    round();
    const before = guest.engine.statistics();
    for (let i = 0; i < 50; i++) round();
    const after = guest.engine.statistics();
    expect(after['translation fills']).toBe(before['translation fills']);
    expect(after['translation flushes']).toBe(before['translation flushes']);
  });

  test('fixed pages that change are changed for the CPU in the view', () => {
    const { guest, view, text } = load(boot, 'b0 01 e6 f1 eb fa');
    guest.cpu.enter(view);
    guest.runToDone();
    const [other] = guest.engine.allocateHostPages(1) as [HostPage];
    other.bytes.set(code('b0 09 e6 f1 eb fa'));
    view.setFixedPages([{ address: TEXT, page: other, permission: read | execute }]);
    guest.set('rip', TEXT);
    guest.runToDone();
    expect(guest.get('rax') & 0xffn).toBe(9n);
    expect(view.fixedPages).toEqual([{ address: TEXT, page: other, permission: read | execute }]);
    view.setFixedPages([]);
    guest.set('rip', TEXT);
    expect(guest.run()).toMatchObject({ kind: 'fetch', address: TEXT });
    guest.engine.freeHostPages([text]);
    expect(text.bytes.every((byte) => byte === 0)).toBe(true);
  });

  test('a view in use cannot be destroyed, a mapped page not freed, pages run out', () => {
    const { guest, view, text } = load(boot, '90');
    guest.cpu.enter(view);
    expect(() => {
      guest.engine.destroyView(view);
    }).toThrow(RangeError);
    expect(() => {
      guest.engine.freeHostPages([text]);
    }).toThrow(RangeError);
    expect(() => guest.engine.allocateHostPages(63)).toThrow(RangeError);
    expect(() => {
      view.setFixedPages([{ address: 0x1000, page: text, permission: read }]);
    }).toThrow(RangeError);
    guest.cpu.enter(guest.engine.untrusted);
    guest.engine.destroyView(view);
    guest.engine.freeHostPages([text]);
    expect(guest.engine.allocateHostPages(63)).toHaveLength(63);
  });

  test('a single-step trap in a module view is an event, with RIP at the next instruction', () => {
    const { guest, view } = load(boot, '90 90');
    guest.cpu.enter(view);
    guest.set('rflags', 0x102);
    expect(event(guest.run())).toMatchObject({ type: 'exception', vector: 1 });
    expect(guest.get('rip')).toBe(BigInt.asUintN(64, BigInt(TEXT + 1)));
  });
}
