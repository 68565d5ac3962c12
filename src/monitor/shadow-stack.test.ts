/** The calls of the module itself (SECURITY.md, P5): what is on the stack does not matter, whoever writes to it and when. */
import { describe, expect, test } from 'vitest';
import { SHADOW_STACK_DEPTH } from '../engine/contract.ts';
import {
  CORE,
  ENTRY_RSP,
  G,
  type Guest,
  insideInner,
  KERNEL_TEXT,
  live,
  returnFromInner,
  STACK,
  STACK_TOP,
  status,
  T,
  violations,
} from '../privileges/testing.ts';
import { SEALS } from './frames.ts';

const depth = (guest: Guest, cpu = guest.cpu) => cpu.shadowStack.depth;
const OTHER_STACK = STACK + 0x10_0000;
const twoStacks = (cpus = 1) => {
  const guest = live({ cpus });
  guest.stack(OTHER_STACK);
  return guest;
};

test('P5 an entry begins with the return gate, and its last return empties it', () => {
  const guest = live();
  expect(depth(guest)).toBe(0);
  guest.call(G.probe);
  expect(guest.cpu.view.shadowStack).toBe(true);
  expect(depth(guest)).toBe(1);
  guest.ret();
  expect([guest.rip(), depth(guest), violations(guest)]).toEqual([KERNEL_TEXT, 0, []]);
});

describe('P5 rewritten while the module runs', () => {
  test.each([
    ["inner's return address, to another call site of the module", 8, CORE + T.bpAfterCall],
    ["inner's return address, to a kernel function", 8, KERNEL_TEXT],
    ["inner's return address, to the return gate", 8, CORE + 0x1000],
    ["inner's return address, to the re-entry gate", 8, CORE + 0x1010],
  ])('%s', (_, offset, value) => {
    const guest = live();
    insideInner(guest);
    guest.setWord(guest.rsp() + offset, value);
    guest.setRsp(guest.rsp() + 8); // pop %rbx
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['shadow-stack']);
    expect(status(guest)).toBe('quarantined');
    expect([guest.rip(), guest.rsp()]).toEqual([KERNEL_TEXT, ENTRY_RSP]); // the kernel's call returns -1
    expect(depth(guest)).toBe(0);
    const [violation] = guest.events.filter(({ event }) => event === 'guard.violation');
    expect(violation).toMatchObject({ reason: 'shadow-stack', cpu: 0 });
  });

  test('the return into the kernel', () => {
    for (const value of [CORE + T.afterCall, KERNEL_TEXT + 4, 0]) {
      const guest = live();
      guest.call(G.probe);
      guest.setWord(guest.rsp(), value);
      guest.ret();
      expect([guest.inside(), guest.rip(), violations(guest)]).toEqual([false, KERNEL_TEXT, ['shadow-stack']]);
    }
  });

  test.each([
    ['a call by gate', (guest: Guest) => guest.gate(G.kfunc)],
    ['a call by pointer', (guest: Guest) => guest.handle(guest.cpu.fetch(KERNEL_TEXT))],
    ['an event behind a call by pointer', (guest: Guest) => guest.handle(guest.cpu.event(KERNEL_TEXT, { vector: 32 }))],
    ['a call that never returns', (guest: Guest) => guest.gate(G.stackFail)],
  ])('the return address of %s, between the call and its exit: it would come back elsewhere', (_, leave) => {
    for (const shadowStacks of [true, false]) {
      const guest = live({ shadowStacks });
      insideInner(guest);
      guest.within(CORE + T.innerAfterCall);
      guest.setWord(guest.rsp(), CORE + T.afterThunk); // a return address in a frame of the same size: the seals have nothing to say against it
      leave(guest);
      expect(violations(guest)).toEqual(shadowStacks ? ['shadow-stack'] : []);
      expect(status(guest)).toBe(shadowStacks ? 'quarantined' : 'live');
    }
  });

  test('the return address that a tail call into the kernel leaves on top', () => {
    const guest = live();
    insideInner(guest);
    guest.setRsp(guest.rsp() + 8);
    guest.setWord(guest.rsp(), CORE + T.bpAfterCall);
    guest.gate(G.kfunc); // jmp
    expect(violations(guest)).toEqual(['shadow-stack']);
  });

  test('a stack pointer that the module took from the stack: the address alone is not enough', () => {
    const guest = live();
    insideInner(guest);
    const elsewhere = guest.rsp() - 0x200;
    guest.setWord(elsewhere, CORE + T.afterInner);
    guest.setRsp(elsewhere); // leave, or lea -8(%r10), %rsp, of what was spilled
    guest.ret();
    expect(violations(guest)).toEqual(['shadow-stack']);
  });

  test('the return gate with calls open: a jump by pointer that the kernel chose', () => {
    const guest = live({ policy: 'log' });
    guest.call(G.probe);
    const top = guest.rsp();
    guest.setRsp(top - 16);
    guest.within(CORE + T.afterInner);
    guest.setRsp(top + 8);
    guest.gate(G.return);
    expect(violations(guest)).toEqual(['shadow-stack']);
    expect([guest.inside(), guest.rip()]).toEqual([false, KERNEL_TEXT]);
  });
});

test('P5 what returns as it should is left alone: tail calls, calls of its own entries, an exit at every step', () => {
  const guest = live();
  guest.call(G.probe);
  guest.setRsp(guest.rsp() - 16);
  guest.within(CORE + T.afterInner);
  guest.gate(G.inner); // by pointer, through its own entry gate
  guest.push(0x77);
  for (const back of [T.innerAfterCall, T.afterThunk]) {
    guest.callOut(CORE + back);
    expect(depth(guest)).toBe(0);
    guest.ret();
    expect([guest.rip(), depth(guest)]).toEqual([CORE + back, 2]);
    guest.handle(guest.cpu.event(CORE + back, { vector: 32 }));
    expect(depth(guest)).toBe(0);
    guest.handle(guest.cpu.fetch(CORE + back));
    expect(depth(guest)).toBe(2);
  }
  guest.setRsp(guest.rsp() + 8);
  guest.gate(G.kfunc); // inner ends by a jump into the kernel
  guest.ret();
  expect([guest.rip(), depth(guest)]).toEqual([CORE + T.afterInner, 1]);
  guest.setRsp(guest.rsp() + 16);
  guest.gate(G.kfunc); // and so does probe
  guest.ret();
  expect([guest.rip(), depth(guest)]).toEqual([guest.gateAddress(G.return), 0]);
  guest.gate(G.return);
  expect([guest.rip(), violations(guest)]).toEqual([KERNEL_TEXT, []]);
});

test('P5 a WARN and an exception fixup go on with the calls they had', () => {
  const guest = live();
  insideInner(guest);
  guest.handle(guest.cpu.event(CORE + T.warn, { type: 'exception', vector: 6 }));
  guest.handle(guest.cpu.fetch(CORE + T.warn + 2));
  guest.handle(guest.cpu.event(CORE + T.faulting, { type: 'exception', vector: 14 }));
  guest.handle(guest.cpu.fetch(CORE + T.fixup));
  expect(depth(guest)).toBe(2);
  returnFromInner(guest);
  guest.ret();
  expect([guest.rip(), violations(guest)]).toEqual([KERNEL_TEXT, []]);
});

describe('P8 every frame has its own calls', () => {
  test('a thread sleeps in a call-out, another enters on the same CPU, deeper; each returns by its own', () => {
    const guest = twoStacks();
    guest.call(G.probe);
    guest.setRsp(guest.rsp() - 16);
    guest.callOut(CORE + T.afterCall);
    const sleeping = guest.rsp();
    insideInner(guest, guest.cpu, OTHER_STACK + 0x3f00);
    expect(depth(guest)).toBe(2);
    guest.callOut(CORE + T.innerAfterCall);
    const other = guest.rsp();
    guest.setRsp(sleeping);
    guest.ret();
    expect([guest.rip(), depth(guest)]).toEqual([CORE + T.afterCall, 1]);
    guest.setRsp(guest.rsp() + 16);
    guest.ret();
    expect(guest.rip()).toBe(KERNEL_TEXT);
    guest.setRsp(other);
    guest.ret();
    expect(depth(guest)).toBe(2);
    returnFromInner(guest);
    guest.ret();
    expect([guest.rip(), violations(guest)]).toEqual([KERNEL_TEXT, []]);
  });

  test('an interrupt in the module enters it again on the same stack, and again; all come back', () => {
    const guest = live();
    insideInner(guest);
    const levels: number[] = [];
    for (let level = 0; level < 4; level++) {
      levels.push(guest.rsp());
      guest.handle(guest.cpu.event(CORE + T.warn, { vector: 32 + level }));
      insideInner(guest, guest.cpu, guest.rsp() - 0x80);
      expect(depth(guest)).toBe(2);
    }
    for (const rsp of levels.reverse()) {
      returnFromInner(guest);
      guest.ret();
      expect(guest.rip()).toBe(KERNEL_TEXT);
      guest.setRsp(rsp);
      guest.handle(guest.cpu.fetch(CORE + T.warn));
      expect(depth(guest)).toBe(2);
    }
    returnFromInner(guest);
    guest.ret();
    expect(violations(guest)).toEqual([]);
  });

  test.each(['call-out', 'event'] as const)('a thread that left by %s goes on on another CPU with its calls', (way) => {
    const guest = live({ cpus: 2 });
    const [, second] = guest.engine.cpus;
    insideInner(guest);
    if (way === 'call-out') guest.callOut(CORE + T.innerAfterCall);
    else guest.handle(guest.cpu.event(CORE + T.warn, { vector: 32 }));
    guest.setRsp(guest.rsp(), second);
    if (way === 'call-out') guest.ret(second);
    else guest.handle(second.fetch(CORE + T.warn), second);
    expect([depth(guest), depth(guest, second)]).toEqual([0, 2]);
    guest.setRsp(guest.rsp(second) + 8, second);
    expect(second.ret()).toBe(CORE + T.afterInner);
    // On the first CPU nothing is left of it.
    insideInner(guest, guest.cpu, STACK_TOP - 0x400);
    expect(depth(guest)).toBe(2);
    expect(violations(guest)).toEqual([]);
  });

  test('two CPUs in the module at once: what one calls, the other does not return from', () => {
    const guest = twoStacks(2);
    const [first, second] = guest.engine.cpus;
    insideInner(guest, first);
    guest.call(G.probe, OTHER_STACK + 0x3f00, second);
    guest.setWord(guest.rsp(second), CORE + T.afterInner); // the return address of the other CPU's call
    guest.ret(second);
    expect(violations(guest)).toEqual(['shadow-stack']);
    expect([guest.inside(first), guest.inside(second)]).toEqual([false, false]);
    expect([depth(guest, first), depth(guest, second)]).toEqual([0, 0]);
  });

  test('a return to an older frame, past newer ones that were given up, has that frame and no other', () => {
    const guest = live();
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
    const older = guest.rsp();
    guest.call(G.probe, older - 0x100);
    guest.setRsp(guest.rsp() - 16);
    guest.callOut(CORE + T.afterCall);
    guest.setRsp(older);
    guest.ret();
    expect([guest.rip(), depth(guest)]).toEqual([CORE + T.innerAfterCall, 2]);
    returnFromInner(guest);
    guest.ret();
    expect(violations(guest)).toEqual([]);
  });
});

describe('P11 the shadow stack is bounded', () => {
  test('calls without end, with no exit between them', () => {
    const guest = live();
    guest.call(G.probe);
    let calls = 0;
    while (guest.within(CORE + T.afterInner) === undefined) calls += 1;
    expect(calls).toBe(SHADOW_STACK_DEPTH - 1);
    expect(violations(guest)).toEqual(['stack-depth']);
    expect([guest.inside(), guest.rip()]).toEqual([false, KERNEL_TEXT]);
  });

  test('a frame holds as many calls as a shadow stack does', () => {
    const guest = live();
    guest.call(G.probe);
    for (let call = 0; call < SEALS - 2; call++) {
      guest.setRsp(guest.rsp() - 16);
      guest.within(CORE + T.afterInner);
    }
    guest.push(0x77);
    guest.callOut(CORE + T.innerAfterCall);
    guest.ret();
    expect([depth(guest), violations(guest)]).toEqual([SEALS - 1, []]);
    guest.setRsp(guest.rsp() + 8);
    for (let call = 0; call < SEALS - 2; call++) {
      expect(guest.cpu.ret()).toBe(CORE + T.afterInner);
      guest.setRsp(guest.rsp() + 16);
    }
    guest.ret();
    expect([guest.rip(), violations(guest)]).toEqual([KERNEL_TEXT, []]);
  });
});

test('P12 a quarantine, an end, INIT: nothing of the calls stays on the CPU', () => {
  for (const end of [
    (guest: Guest) => guest.monitor.end(),
    (guest: Guest) => guest.monitor.reset(guest.cpu),
    (guest: Guest) => guest.gate(G.reentry),
  ]) {
    const guest = live();
    insideInner(guest);
    end(guest);
    expect([guest.inside(), depth(guest)]).toEqual([false, 0]);
  }
});

test('a far return in the module', () => {
  const guest = live();
  guest.call(G.probe);
  guest.handle({ kind: 'shadow-stack', reason: 'far', found: 0 });
  expect([guest.inside(), violations(guest)]).toEqual([false, ['shadow-stack']]);
  expect(guest.handle({ kind: 'shadow-stack', reason: 'far', found: 0 })).toBe('not-mine'); // no engine does that
});
