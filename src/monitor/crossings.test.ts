/** The six crossings, where the module view may be entered, and on which stack (SECURITY.md, P1 to P4). */
import { describe, expect, test } from 'vitest';
import { PERMISSION, REG, setRegisterAddress } from '../engine/contract.ts';
import {
  CORE,
  ENTRY_RSP,
  G,
  Guest,
  insideInner,
  KERNEL,
  KERNEL_TEXT,
  live,
  reg,
  registered,
  returnFromInner,
  STACK,
  STACK_TOP,
  status,
  T,
  tinyImage,
  violations,
} from '../privileges/testing.ts';

describe('the six crossings', () => {
  test('call-in enters the function in the module view, return-out goes back to the caller', () => {
    const guest = live();
    guest.call(G.probe);
    expect(guest.inside()).toBe(true);
    expect(guest.rip()).toBe(CORE + T.probe);
    expect(guest.rsp()).toBe(ENTRY_RSP - 8);
    expect(guest.word(guest.rsp())).toBe(guest.gateAddress(G.return));
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(guest.rsp()).toBe(ENTRY_RSP);
    expect(guest.monitor.crossings).toMatchObject({ callIn: 2, returnOut: 2 });
    expect(guest.monitor.frames().live).toBe(0);
  });

  test('call-out leaves registers and stack arguments in place; return-in goes on behind the call', () => {
    const guest = live();
    insideInner(guest);
    const before = guest.rsp();
    for (const index of [REG.rdi, REG.rsi, REG.rdx, REG.rcx, REG.r8, REG.r9, REG.rax, REG.r10, REG.r11])
      setRegisterAddress(guest.cpu.registers, index, 0x100 + index);
    guest.callOut(CORE + T.innerAfterCall);
    expect(guest.inside()).toBe(false);
    expect(guest.rip()).toBe(KERNEL.kfunc);
    expect(guest.rsp()).toBe(before - 8);
    expect(guest.word(before - 8)).toBe(guest.gateAddress(G.reentry));
    for (const index of [REG.rdi, REG.rsi, REG.rdx, REG.rcx, REG.r8, REG.r9, REG.rax, REG.r10, REG.r11])
      expect(reg(guest, index)).toBe(0x100 + index);
    guest.ret();
    expect(guest.inside()).toBe(true);
    expect(guest.rip()).toBe(CORE + T.innerAfterCall);
    expect(guest.rsp()).toBe(before);
    returnFromInner(guest);
    guest.ret();
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(guest.monitor.crossings).toMatchObject({ callOut: 1, returnIn: 1 });
    expect(guest.monitor.modules()[0].callOuts).toEqual([{ symbol: 'kfunc', count: 1 }]);
  });

  test('a tail call leaves the return gate for the way back', () => {
    const guest = live();
    guest.call(G.probe);
    guest.gate(G.kfunc); // jmp, the slot still holds the return gate
    expect(guest.rip()).toBe(KERNEL.kfunc);
    expect(guest.word(guest.rsp())).toBe(guest.gateAddress(G.reentry));
    expect(guest.monitor.frames().live).toBe(2); // same stack pointer, two kinds
    guest.ret();
    expect(guest.inside()).toBe(true);
    expect(guest.rip()).toBe(guest.gateAddress(G.return));
    guest.gate(G.return);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(guest.rsp()).toBe(ENTRY_RSP);
    expect(guest.monitor.frames().live).toBe(0);
  });

  test('a call by pointer arrives as a fetch and goes on as a call-out', () => {
    const guest = live();
    insideInner(guest);
    guest.within(CORE + T.afterThunk);
    guest.handle(guest.cpu.fetch(KERNEL_TEXT + 0x40));
    expect(guest.inside()).toBe(false);
    expect(guest.rip()).toBe(KERNEL_TEXT + 0x40);
    guest.ret();
    expect(guest.inside()).toBe(true);
    expect(guest.rip()).toBe(CORE + T.afterThunk);
    expect(guest.monitor.modules()[0].callOuts).toEqual([{ symbol: '(by pointer)', count: 1 }]);
  });

  test('the module calling its own entry by pointer is a jump, no crossing', () => {
    const guest = live();
    insideInner(guest);
    guest.within(CORE + T.afterThunk);
    guest.gate(G.withBp);
    expect(guest.inside()).toBe(true);
    expect(guest.rip()).toBe(CORE + T.withBp);
    expect(guest.monitor.crossings).toMatchObject({ internal: 1, callIn: 2 });
  });

  test('a guarded module that calls another one leaves its own view first', () => {
    const [a, b] = [tinyImage({ module: 'a' }), tinyImage({ module: 'b', version: 2 })];
    const guest = new Guest([registered(a), registered(b)]);
    guest.start(a);
    guest.start(b, { shift: 0x40_0000, frames: 0x50_0000 });
    expect(guest.monitor.modules().map(({ instances }) => instances[0]?.state)).toEqual(['live', 'live']);
    insideInner(guest);
    const viewA = guest.cpu.view;
    guest.within(CORE + T.afterThunk);
    guest.handle(guest.cpu.fetch(guest.gateAddress(G.probe, 0x40_0000)));
    expect(guest.cpu.view).toBe(guest.engine.untrusted); // between the two nobody has anything
    guest.gate(G.probe, guest.cpu, 0x40_0000);
    expect(guest.inside()).toBe(true);
    expect(guest.cpu.view).not.toBe(viewA);
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(guest.rip()).toBe(guest.gateAddress(G.reentry));
    guest.gate(G.reentry);
    expect(guest.cpu.view).toBe(viewA);
    expect(guest.rip()).toBe(CORE + T.afterThunk);
  });
});

describe('P1: privilege only on the CPU that is inside', () => {
  test('P1 another CPU stays in the untrusted view throughout', () => {
    const guest = live({ cpus: 2 });
    insideInner(guest);
    expect(guest.inside(guest.engine.cpus[0])).toBe(true);
    expect(guest.inside(guest.engine.cpus[1])).toBe(false);
    guest.stack(STACK + 0x10_0000);
    guest.call(G.probe, STACK_TOP + 0x10_0000 - 0x100, guest.engine.cpus[1]);
    expect(guest.inside(guest.engine.cpus[1])).toBe(true);
    guest.callOut(CORE + T.innerAfterCall);
    expect(guest.inside(guest.engine.cpus[0])).toBe(false);
    expect(guest.inside(guest.engine.cpus[1])).toBe(true);
  });

  test('P1 nested callbacks leave and enter at every step, two threads interleaved', () => {
    const guest = live();
    guest.stack(STACK + 0x10_0000);
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
    const first = guest.rsp();
    insideInner(guest, guest.cpu, STACK_TOP + 0x10_0000 - 0x80); // another thread
    expect(guest.inside()).toBe(true);
    guest.callOut(CORE + T.innerAfterCall);
    const second = guest.rsp();
    expect(guest.inside()).toBe(false);
    insideInner(guest, guest.cpu, first - 0x80); // callback on the first thread
    expect(guest.inside()).toBe(true);
    returnFromInner(guest);
    guest.ret();
    expect(guest.inside()).toBe(false);
    guest.setRsp(first);
    guest.ret();
    expect(guest.rip()).toBe(CORE + T.innerAfterCall);
    expect(guest.inside()).toBe(true);
    returnFromInner(guest);
    guest.ret();
    expect(guest.inside()).toBe(false);
    guest.setRsp(second);
    guest.ret();
    expect(guest.inside()).toBe(true);
    expect(violations(guest)).toEqual([]);
  });
});

describe('P2: the module view is entered only at gates', () => {
  test('P2 return-in without a frame, and twice with one', () => {
    const guest = live({ policy: 'log' });
    guest.setRsp(ENTRY_RSP);
    expect(guest.gate(G.reentry)).toBe('handled');
    expect(guest.inside()).toBe(false);
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
    const rsp = guest.rsp();
    guest.ret();
    expect(guest.inside()).toBe(true);
    guest.callOut(CORE + T.innerAfterCall);
    guest.ret();
    returnFromInner(guest);
    guest.ret();
    guest.setRsp(rsp);
    guest.setWord(rsp, guest.gateAddress(G.reentry));
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['no-frame']);
  });

  test.each([
    ['call gate', G.kfunc],
    ['return gate', G.return],
  ])('P2 a %s reached by the kernel gives nothing', (_, gate) => {
    const guest = live();
    guest.setRsp(ENTRY_RSP);
    guest.gate(gate);
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['gate-misused']);
    expect(guest.rip()).toBe(guest.gateAddress(gate) + 2); // the int3 behind it answers
  });

  test('P2 gates outside CPL 0 give nothing', () => {
    const guest = live({ policy: 'log' });
    guest.cpu.privilegeLevel = 3;
    for (let gate = 0; gate < 11; gate++) {
      guest.setRsp(ENTRY_RSP);
      guest.gate(gate);
      expect(guest.inside()).toBe(false);
    }
    expect(violations(guest)).toEqual(['not-kernel-mode']);
  });

  test('P2 every byte of the gate section but the entry gates gives nothing', () => {
    const guest = live({ policy: 'log' });
    const entries = new Set<number>([G.probe, G.withBp, G.inner, G.cleanup]);
    for (let offset = 0; offset < 0x1000; offset++) {
      if (offset % 16 === 0 && entries.has(offset / 16)) continue;
      guest.setRsp(ENTRY_RSP - 8);
      guest.handle(guest.cpu.out(CORE + 0x1000 + offset, 0x5e));
      expect(guest.inside(), `offset ${offset}`).toBe(false);
    }
  });

  test('P2 a jump past the gates is a violation and a page fault for the guest', () => {
    const guest = live({ policy: 'log' });
    for (const at of [T.probe, T.innerAfterCall, T.afterThunk, 1]) {
      guest.setRsp(ENTRY_RSP);
      guest.handle(guest.cpu.fetch(CORE + at));
      expect(guest.inside()).toBe(false);
      expect(guest.cpu.delivered.at(-1)?.event).toMatchObject({ vector: 14, errorCode: 0x10 });
    }
    expect(violations(guest)).toEqual(['text-fetch']);
  });

  test('P2 text frames are not executable through another mapping either', () => {
    const guest = live({ policy: 'log' });
    const alias = -0x7700_0000_0000;
    guest.tables.map(alias, guest.cpu.translate(CORE, false));
    guest.setRsp(ENTRY_RSP);
    guest.handle(guest.cpu.fetch(alias + T.probe));
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['text-fetch']);
  });
});

describe("P3: only the VMM's copy of the text is executable", () => {
  test('P3 the view holds the module, executable where the image says so', () => {
    const guest = live();
    guest.call(G.probe);
    const view = Object.fromEntries(guest.cpu.view.fixedPages.map(({ address, permission }) => [address, permission]));
    expect(view).toEqual({
      [CORE]: PERMISSION.read | PERMISSION.execute,
      [CORE + 0x1000]: PERMISSION.read | PERMISSION.execute,
      [CORE + 0x2000]: PERMISSION.read,
      [CORE + 0x3000]: PERMISSION.read | PERMISSION.write,
    });
    expect(guest.cpu.executable(KERNEL.kfunc)).toBe(false);
    expect(guest.cpu.executable(CORE)).toBe(true);
  });

  test('P3 a wild jump leaves the view and ends the entry with an error', () => {
    const guest = live();
    insideInner(guest);
    guest.push(0x1234);
    setRegisterAddress(guest.cpu.registers, REG.rbx, 0x5ec4e7);
    guest.handle(guest.cpu.fetch(KERNEL_TEXT));
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['wild-fetch']);
    expect(guest.rip()).toBe(KERNEL_TEXT); // returned to the caller of the entry
    expect(guest.rsp()).toBe(ENTRY_RSP);
    expect(reg(guest, REG.rax)).toBe(-1);
    expect(reg(guest, REG.rbx)).toBe(0);
    expect(status(guest)).toBe('quarantined');
  });

  test.each([
    ['user memory', 0x40_0000],
    ['its own data', CORE + 0x4000],
  ])('P3 a call into %s is a violation even with a return address', (_, target) => {
    const guest = live();
    insideInner(guest);
    guest.within(CORE + T.afterThunk);
    guest.handle(guest.cpu.fetch(target));
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['wild-fetch']);
  });
});

describe('P4: valid stack', () => {
  const bad: [string, (guest: Guest) => number][] = [
    ['in user space', () => 0x7000_0000],
    ['not mapped', () => STACK - 0x2000],
    ['misaligned', () => ENTRY_RSP - 4],
    ['in module text', () => CORE + 0x100],
    ['in module data', () => CORE + 0x4080],
    ['in private memory', () => CORE + 0x3f80],
    ['right above private memory', () => CORE + 0x5000 + 0x40],
    [
      'read-only',
      (guest) => {
        guest.tables.map(STACK + 0x3000, 0x90_0000, false);
        return ENTRY_RSP;
      },
    ],
    [
      'in a device',
      (guest) => {
        guest.tables.map(STACK + 0x3000, 0xfeb0_0000);
        return ENTRY_RSP;
      },
    ],
    [
      'in a protected frame',
      (guest) => {
        guest.tables.map(STACK + 0x3000, guest.cpu.translate(CORE, false));
        return ENTRY_RSP;
      },
    ],
  ];
  test.each(bad)('P4 a stack %s is refused', (_, prepare) => {
    const guest = live({ policy: 'log' });
    guest.tables.map(CORE + 0x5000, 0x91_0000);
    const rsp = prepare(guest);
    guest.setRsp(rsp);
    guest.gate(G.probe);
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['bad-stack']);
  });

  test('P4 a non-canonical or wrapping stack pointer is refused', () => {
    const guest = live({ policy: 'log' });
    for (const value of [0x8000_0000_0000n, 0xffff_7fff_ffff_fff8n, 0xffff_ffff_ffff_ffffn, 0xffff_ffff_ffff_fff8n, 0n]) {
      guest.cpu.registers.words[REG.rsp] = value;
      guest.gate(G.probe);
      expect(guest.inside()).toBe(false);
    }
    expect(violations(guest)).toEqual(['bad-stack']);
  });

  test('P4 an entry above an unfinished one ends it: the older frame cannot be used any more', () => {
    const guest = live({ policy: 'log' });
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
    const rsp = guest.rsp();
    guest.call(G.probe, ENTRY_RSP + 0x40);
    guest.ret();
    guest.setRsp(rsp);
    guest.setWord(rsp, guest.gateAddress(G.reentry));
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['no-frame']);
  });

  test.each([
    [true, 'shadow-stack'],
    [false, 'no-frame'],
  ])('P4 a return must find exactly the recorded stack pointer (shadow stacks: %s)', (shadowStacks, reason) => {
    const guest = live({ policy: 'log', shadowStacks });
    guest.call(G.probe);
    guest.setRsp(guest.rsp() - 8);
    guest.setWord(guest.rsp(), guest.gateAddress(G.return));
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual([reason]);
  });

  test('P4 two stacks with a guard page between them do not end each other', () => {
    const guest = live();
    const base = STACK + 0x20_0000; // one 16 KiB bucket: a page, a hole, two pages
    guest.tables.map(base, 0xa0_0000);
    guest.tables.map(base + 0x2000, 0xa1_0000);
    guest.tables.map(base + 0x3000, 0xa2_0000);
    insideInner(guest, guest.cpu, base + 0xf00);
    guest.callOut(CORE + T.innerAfterCall);
    const low = guest.rsp();
    guest.call(G.probe, base + 0x3f00);
    guest.ret();
    guest.setRsp(low);
    guest.ret();
    expect(guest.inside()).toBe(true);
    expect(violations(guest)).toEqual([]);
  });
});

test('P3 the module reaches the gate of its init function after init: there is nothing behind it', () => {
  const guest = live();
  guest.call(G.probe);
  guest.gate(G.init);
  expect(guest.inside()).toBe(false);
  expect(violations(guest)).toEqual(['wild-fetch']);
  expect(guest.rip()).toBe(KERNEL_TEXT);
});
