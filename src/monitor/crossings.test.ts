/** The six crossings, and what must hold at each (SECURITY.md, P1 to P8). */
import { describe, expect, test } from 'vitest';
import { PERMISSION, REG, registerAddress, setRegisterAddress } from '../engine/contract.ts';
import { CORE, G, granted, Guest, INIT, KERNEL, KERNEL_TEXT, registered, STACK, STACK_TOP, T, tinyImage } from './testing.ts';
import type { LoadOptions, TinyOptions } from './testing.ts';
import type { ViolationPolicy } from './monitor.ts';

function live(options: { tiny?: TinyOptions; policy?: ViolationPolicy; cpus?: number; load?: LoadOptions } = {}): Guest {
  const image = tinyImage(options.tiny);
  const guest = new Guest([registered(image, granted({ onViolation: options.policy ?? 'quarantine' }))], { cpus: options.cpus });
  guest.start(image, options.load);
  return guest;
}
const ENTRY_RSP = STACK_TOP - 0x100;

/** The kernel calls probe, which calls inner, which calls kfunc. */
function insideInner(guest: Guest, cpu = guest.cpu, rsp = ENTRY_RSP): void {
  guest.call(G.probe, rsp, cpu);
  guest.setRsp(guest.rsp(cpu) - 16, cpu);
  guest.push(CORE + T.afterInner, cpu);
  guest.push(0x77, cpu); // push %rbx
}
const returnFromInner = (guest: Guest) => {
  guest.setRsp(guest.rsp() + 8);
  expect(guest.pop()).toBe(CORE + T.afterInner);
  guest.setRsp(guest.rsp() + 16);
};
const status = (guest: Guest) => guest.monitor.modules()[0].instances[0]?.state;
const reg = (guest: Guest, index: number) => registerAddress(guest.cpu.registers, index);
const violations = (guest: Guest) => guest.monitor.violations().map(({ reason }) => reason);

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
    for (const index of [REG.rdi, REG.rsi, REG.rdx, REG.rcx, REG.r8, REG.r9, REG.rax, REG.r10, REG.r11]) setRegisterAddress(guest.cpu.registers, index, 0x100 + index);
    guest.callOut(CORE + T.innerAfterCall);
    expect(guest.inside()).toBe(false);
    expect(guest.rip()).toBe(KERNEL.kfunc);
    expect(guest.rsp()).toBe(before - 8);
    expect(guest.word(before - 8)).toBe(guest.gateAddress(G.reentry));
    for (const index of [REG.rdi, REG.rsi, REG.rdx, REG.rcx, REG.r8, REG.r9, REG.rax, REG.r10, REG.r11]) expect(reg(guest, index)).toBe(0x100 + index);
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
    guest.push(CORE + T.afterThunk);
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
    guest.push(CORE + T.afterThunk);
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
    guest.push(CORE + T.afterThunk);
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

  test.each([['call gate', G.kfunc], ['return gate', G.return]])('P2 a %s reached by the kernel gives nothing', (_, gate) => {
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
      expect(guest.cpu.delivered.at(-1)?.event).toMatchObject({ vector: 14, errorCode: 0x11 });
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

describe('P3: only the VMM\'s copy of the text is executable', () => {
  test('P3 the view holds the module, executable where the image says so', () => {
    const guest = live();
    guest.call(G.probe);
    const view = Object.fromEntries(guest.cpu.view.fixedPages.map(({ address, permission }) => [address, permission]));
    expect(view).toEqual({
      [CORE]: PERMISSION.read | PERMISSION.execute, [CORE + 0x1000]: PERMISSION.read | PERMISSION.execute,
      [CORE + 0x2000]: PERMISSION.read, [CORE + 0x3000]: PERMISSION.read | PERMISSION.write,
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

  test.each([['user memory', 0x40_0000], ['its own data', CORE + 0x4000]])('P3 a call into %s is a violation even with a return address', (_, target) => {
    const guest = live();
    insideInner(guest);
    guest.push(CORE + T.afterThunk);
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
    ['read-only', (guest) => {
      guest.tables.map(STACK + 0x3000, 0x90_0000, false);
      return ENTRY_RSP;
    }],
    ['in a device', (guest) => {
      guest.tables.map(STACK + 0x3000, 0xfeb0_0000);
      return ENTRY_RSP;
    }],
    ['in a protected frame', (guest) => {
      guest.tables.map(STACK + 0x3000, guest.cpu.translate(CORE, false));
      return ENTRY_RSP;
    }],
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

  test('P4 a return must find exactly the recorded stack pointer', () => {
    const guest = live({ policy: 'log' });
    guest.call(G.probe);
    guest.setRsp(guest.rsp() - 8);
    guest.setWord(guest.rsp(), guest.gateAddress(G.return));
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['no-frame']);
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

describe('P5: sealed return addresses', () => {
  const away = (guest: Guest) => {
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
  };
  // From the stack pointer at the call-out: return slot, %rbx, return into probe, 16 bytes of probe, return gate.
  test.each([['into probe', 16], ['of the entry', 40]])('P5 the return address %s changed during a call-out', (_, offset) => {
    for (const value of [CORE + T.innerAfterCall, KERNEL_TEXT, 0]) {
      const guest = live();
      away(guest);
      guest.setWord(guest.rsp() + offset, value);
      guest.ret();
      expect(guest.inside()).toBe(false);
      expect(violations(guest)).toEqual(['seal-broken']);
      expect(guest.rip()).toBe(KERNEL_TEXT);
      expect(guest.rsp()).toBe(ENTRY_RSP);
      expect(reg(guest, REG.rax)).toBe(-1);
    }
  });

  test('P5 locals may change, also where a stale return address lies', () => {
    const guest = live();
    guest.call(G.probe);
    guest.setRsp(guest.rsp() - 16);
    guest.setWord(guest.rsp() + 8, CORE + T.bpAfterCall); // left over in an uninitialised local
    guest.callOut(CORE + T.afterCall);
    guest.setWord(guest.rsp() + 16, 0x4141);
    guest.ret();
    expect(guest.inside()).toBe(true);
    expect(violations(guest)).toEqual([]);
  });

  test('P5 the return slot of the call itself is not read back', () => {
    const guest = live();
    away(guest);
    guest.setWord(guest.rsp(), CORE + T.bpAfterCall);
    guest.setRsp(guest.rsp() + 8);
    guest.gate(G.reentry);
    expect(guest.rip()).toBe(CORE + T.innerAfterCall);
  });

  test.each([['return address', 8], ['saved frame pointer', 0]])('P5 with a frame pointer: its %s is sealed', (_, offset) => {
    for (const change of [false, true]) {
      const guest = live();
      guest.call(G.withBp);
      guest.push(STACK_TOP - 0x40); // push %rbp
      const frame = guest.rsp();
      setRegisterAddress(guest.cpu.registers, REG.rbp, frame);
      guest.setRsp(frame - 32);
      guest.callOut(CORE + T.bpAfterCall);
      if (change) guest.setWord(frame + offset, STACK_TOP - 0x48);
      guest.ret();
      expect(violations(guest)).toEqual(change ? ['seal-broken'] : []);
      expect(guest.inside()).toBe(!change);
    }
  });

  test('P5 a return address changed before the exit is noticed at the exit', () => {
    const guest = live();
    insideInner(guest);
    guest.setWord(guest.rsp() + 8, KERNEL_TEXT); // by another CPU
    guest.callOut(CORE + T.innerAfterCall);
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['return-address']);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(guest.rsp()).toBe(ENTRY_RSP);
  });

  test('P5 calls without end cannot be sealed and are stopped', () => {
    const guest = live();
    guest.call(G.probe);
    for (let depth = 0; depth < 60; depth++) {
      guest.setRsp(guest.rsp() - 16);
      guest.push(CORE + T.afterInner);
    }
    guest.push(0);
    guest.callOut(CORE + T.innerAfterCall);
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['stack-depth']);
  });

  test('P5 seals hold across an event too', () => {
    const guest = live();
    insideInner(guest);
    guest.handle(guest.cpu.event(CORE + T.warn, { vector: 32 }));
    guest.setWord(guest.rsp() + 8, CORE + T.afterCall);
    guest.handle(guest.cpu.fetch(CORE + T.warn));
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['seal-broken']);
  });
});

describe('P6: registers', () => {
  const saved = [REG.rbx, REG.rbp, REG.r12, REG.r13, REG.r14, REG.r15];
  test('P6 callee-saved registers are restored at return-in, results are not touched', () => {
    const guest = live();
    insideInner(guest);
    for (const index of saved) setRegisterAddress(guest.cpu.registers, index, 0x100 + index);
    guest.callOut(CORE + T.innerAfterCall);
    for (const index of saved) setRegisterAddress(guest.cpu.registers, index, -1);
    setRegisterAddress(guest.cpu.registers, REG.rax, 0x4242);
    guest.ret();
    for (const index of saved) expect(reg(guest, index)).toBe(0x100 + index);
    expect(reg(guest, REG.rax)).toBe(0x4242);
  });

  test('P6 the kernel decides about the interrupt flag only; DF, TF, NT, AC, IOPL do not come in', () => {
    const guest = live();
    guest.cpu.registers.words[REG.rflags] = 0x4_7f02n; // AC, NT, IOPL, OF, DF, IF, TF
    guest.call(G.probe);
    expect(guest.cpu.registers.words[REG.rflags]).toBe(0xa02n);
    guest.setRsp(guest.rsp() - 16);
    guest.callOut(CORE + T.afterCall);
    guest.cpu.registers.words[REG.rflags] = 0x4_7d02n;
    guest.ret();
    expect(guest.cpu.registers.words[REG.rflags]).toBe(0x802n);
    guest.setRsp(guest.rsp() + 16);
    guest.ret();
    expect(guest.cpu.registers.words[REG.rflags] & 0x4_7000n).toBe(0x4_7000n); // the kernel's own come back
  });

  test.each(['interrupt', 'nmi', 'exception', 'software'] as const)('P6 an %s finds no register of the module, and everything comes back', (type) => {
    const guest = live();
    insideInner(guest);
    const rsp = guest.rsp();
    const { words } = guest.cpu.registers;
    for (let index = 0; index < 16; index++) if (index !== REG.rsp) words[index] = 0x5ec4_e700n + BigInt(index);
    words[REG.rflags] = 0x2d7n;
    const before = [...words];
    guest.handle(guest.cpu.event(CORE + T.warn, { type, vector: 2 }));
    const [handler] = guest.cpu.delivered;
    expect(handler.view).toBe(guest.engine.untrusted);
    for (let index = 0; index < 16; index++) if (index !== REG.rsp) expect(handler.registers[index]).toBe(0n);
    expect(handler.registers[REG.rip]).toBe(BigInt.asUintN(64, BigInt(CORE + T.warn)));
    expect(handler.registers[REG.rflags]).toBe(0x202n);
    for (let index = 0; index < 16; index++) words[index] = 0xbadn;
    guest.setRsp(rsp);
    words[REG.rflags] = 0x4_0702n;
    guest.handle(guest.cpu.fetch(CORE + T.warn));
    expect(guest.inside()).toBe(true);
    before[REG.rip] = BigInt.asUintN(64, BigInt(CORE + T.warn));
    expect([...words]).toEqual(before);
    expect(guest.monitor.crossings).toMatchObject({ eventOut: 1, resume: 1 });
  });

  test('P6 vector registers are saved and scrubbed inside an FPU section, and left alone outside', () => {
    const guest = live({ tiny: { vector: true } });
    guest.cpu.vector.fill(0x55);
    guest.call(G.probe);
    expect(guest.cpu.view.allowed.has('vector')).toBe(true);
    guest.handle(guest.cpu.event(CORE + T.probe, { vector: 32 }));
    expect(guest.cpu.delivered[0].vector.every((byte) => byte === 0x55)).toBe(true); // some process's registers
    guest.handle(guest.cpu.fetch(CORE + T.probe));
    guest.setRsp(guest.rsp() - 16);
    guest.callOut(CORE + T.afterCall, G.fpuBegin);
    guest.ret();
    guest.cpu.vector.fill(0x77);
    guest.handle(guest.cpu.event(CORE + T.afterCall, { vector: 32 }));
    expect(guest.cpu.delivered[1].vector.includes(0x77)).toBe(false);
    guest.cpu.vector.fill(0x11);
    guest.handle(guest.cpu.fetch(CORE + T.afterCall));
    expect(guest.cpu.vector.every((byte) => byte === 0x77)).toBe(true);
    guest.callOut(CORE + T.afterCall, G.fpuEnd);
    guest.ret();
    guest.cpu.vector.fill(0x22);
    guest.handle(guest.cpu.event(CORE + T.afterCall, { vector: 32 }));
    expect(guest.cpu.delivered[2].vector.every((byte) => byte === 0x22)).toBe(true);
  });

  test('P6 without a grant for it the vector unit is not allowed', () => {
    const guest = live();
    guest.call(G.probe);
    expect(guest.cpu.view.allowed.size).toBe(0);
  });

  test('P6 a WARN goes on behind its ud2; elsewhere, and for interrupts, RIP + 2 is a mismatch', () => {
    for (const [at, vector, type, ok] of [
      [T.warn, 6, 'exception', true], [T.warn, 6, 'interrupt', false], [T.warn, 13, 'exception', false], [T.faulting, 6, 'exception', false],
    ] as const) {
      const guest = live();
      insideInner(guest);
      guest.handle(guest.cpu.event(CORE + at, { vector, type }));
      guest.handle(guest.cpu.fetch(CORE + at + 2));
      expect(guest.inside()).toBe(ok);
      expect(violations(guest)).toEqual(ok ? [] : ['resume-mismatch']);
    }
  });

  test('P6 an exception fixup does what the image\'s table says, whatever the handler left in the registers', () => {
    const guest = live();
    insideInner(guest);
    setRegisterAddress(guest.cpu.registers, REG.rsi, 0x1234);
    guest.handle(guest.cpu.event(CORE + T.faulting, { vector: 14, type: 'exception', errorCode: 0, address: 0x10n }));
    expect(guest.cpu.delivered[0].event).toMatchObject({ vector: 14, address: 0x10n });
    setRegisterAddress(guest.cpu.registers, REG.rdx, 0x666);
    setRegisterAddress(guest.cpu.registers, REG.rsi, 0x666);
    guest.handle(guest.cpu.fetch(CORE + T.fixup));
    expect(guest.inside()).toBe(true);
    expect(guest.rip()).toBe(CORE + T.fixup);
    expect(reg(guest, REG.rdx)).toBe(-14);
    expect(reg(guest, REG.rsi)).toBe(0x1234);
  });

  test('P6 resume with another stack pointer, address or twice is refused', () => {
    const guest = live({ policy: 'log' });
    insideInner(guest);
    guest.handle(guest.cpu.event(CORE + T.warn, { vector: 32 }));
    const rsp = guest.rsp();
    for (const [pointer, address] of [[rsp - 8, T.warn], [rsp + 8, T.warn], [rsp, T.fixup], [rsp, T.warn + 2], [rsp, T.warn + 1]]) {
      guest.setRsp(pointer);
      guest.handle(guest.cpu.fetch(CORE + address));
      expect(guest.inside()).toBe(false);
    }
    guest.setRsp(rsp);
    guest.cpu.privilegeLevel = 3;
    guest.handle(guest.cpu.fetch(CORE + T.warn));
    expect(guest.inside()).toBe(false);
    guest.cpu.privilegeLevel = 0;
    guest.handle(guest.cpu.fetch(CORE + T.warn));
    expect(guest.inside()).toBe(true);
    returnFromInner(guest);
    guest.ret();
    guest.setRsp(rsp);
    guest.handle(guest.cpu.fetch(CORE + T.warn));
    expect(guest.inside()).toBe(false);
  });

  test.each([['call', G.kfunc, 0], ['return', G.return, 8]])('P6 an event at a %s gate resumes at the gate', (_, gate, popped) => {
    const guest = live();
    guest.call(G.probe);
    guest.setRsp(guest.rsp() + popped);
    setRegisterAddress(guest.cpu.registers, REG.rax, 0x42);
    guest.handle(guest.cpu.event(guest.gateAddress(gate), { vector: 32 }));
    expect(guest.inside()).toBe(false);
    expect(reg(guest, REG.rax)).toBe(0);
    guest.gate(gate); // iret: the gate page is executable for the kernel, so the instruction traps again
    expect(guest.inside()).toBe(true);
    expect(guest.rip()).toBe(guest.gateAddress(gate));
    expect(reg(guest, REG.rax)).toBe(0x42);
    expect(violations(guest)).toEqual([]);
  });

  test('P6 an event between a call by pointer and its target belongs to the kernel', () => {
    const guest = live();
    insideInner(guest);
    guest.push(CORE + T.afterThunk);
    setRegisterAddress(guest.cpu.registers, REG.rdi, 0x99);
    guest.handle(guest.cpu.event(KERNEL_TEXT, { vector: 32 }));
    expect(guest.cpu.delivered[0].view).toBe(guest.engine.untrusted);
    expect(guest.cpu.delivered[0].registers[REG.rdi]).toBe(0x99n); // an argument of the call
    expect(guest.monitor.crossings).toMatchObject({ callOut: 1, eventOut: 0 });
    guest.ret();
    expect(guest.rip()).toBe(CORE + T.afterThunk);
  });
});

describe('P7: private memory', () => {
  test('P7 is host memory with the image\'s contents, in the module view only', () => {
    const guest = live();
    guest.call(G.probe);
    const page = guest.cpu.view.fixedPages.find(({ address }) => address === CORE + 0x3000);
    expect(Buffer.from(page?.page.bytes.subarray(8, 14) ?? []).toString()).toBe('SECRET');
    expect(guest.engine.untrusted.fixedPages).toEqual([]);
    const bytes = page?.page.bytes;
    guest.ret();
    guest.call(G.cleanup);
    guest.ret();
    expect(bytes?.every((byte) => byte === 0)).toBe(true);
  });

  test('P7 per-CPU data cannot be aimed at it through the GS base', () => {
    const guest = live();
    guest.cpu.msrs.set(0xc000_0101, BigInt.asUintN(64, BigInt(CORE + 0x3010 - KERNEL.preempt_count)));
    guest.call(G.probe);
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['per-cpu-base']);
  });
});

describe('P8: frames', () => {
  test('P8 a thread blocks in a call-out, others enter, and it goes on on another CPU', () => {
    const guest = live({ cpus: 2 });
    const [first, second] = guest.engine.cpus;
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
    const rsp = guest.rsp();
    guest.stack(STACK + 0x10_0000);
    guest.call(G.probe, STACK_TOP + 0x10_0000 - 0x100, first);
    guest.setRsp(rsp, second);
    guest.ret(second);
    expect(guest.inside(second)).toBe(true);
    expect(guest.rip(second)).toBe(CORE + T.innerAfterCall);
    expect(guest.inside(first)).toBe(true);
  });

  test('P8 two CPUs race for one frame: one gets it', () => {
    const guest = live({ cpus: 2, policy: 'log' });
    const [first, second] = guest.engine.cpus;
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
    const rsp = guest.rsp();
    guest.ret(first);
    guest.setRsp(rsp, second);
    guest.setWord(rsp, guest.gateAddress(G.reentry));
    guest.ret(second);
    expect(guest.inside(first)).toBe(true);
    expect(guest.inside(second)).toBe(false);
    expect(violations(guest)).toEqual(['no-frame']);
  });

  test('P8 nothing comes back from a function that never returns', () => {
    const guest = live();
    insideInner(guest);
    const rsp = guest.rsp();
    guest.callOut(CORE + T.innerAfterCall, G.stackFail);
    expect(guest.rip()).toBe(KERNEL.__stack_chk_fail);
    guest.setRsp(rsp - 8);
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['no-frame']);
  });

  test('P8 returning to an older frame ends the newer ones', () => {
    const guest = live({ policy: 'log' });
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
    const outer = guest.rsp();
    insideInner(guest, guest.cpu, outer - 0x80);
    guest.callOut(CORE + T.innerAfterCall);
    const inner = guest.rsp();
    guest.setRsp(outer);
    guest.ret();
    expect(guest.inside()).toBe(true);
    guest.callOut(CORE + T.innerAfterCall);
    guest.setRsp(inner);
    guest.setWord(inner, guest.gateAddress(G.reentry));
    guest.ret();
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['no-frame']);
  });
});

describe('init memory', () => {
  test('is in the view during init only, and its frames are given back', () => {
    const image = tinyImage();
    const guest = new Guest([registered(image)]);
    guest.load(image);
    guest.call(G.init);
    expect(guest.rip()).toBe(INIT);
    expect(guest.cpu.view.fixedPages.some(({ address }) => address === INIT)).toBe(true);
    expect(guest.engine.protection(guest.cpu.translate(INIT, false))).toBe(PERMISSION.read);
    guest.callOut(INIT + T.initAfterCall);
    guest.ret();
    expect(guest.rip()).toBe(INIT + T.initAfterCall);
    setRegisterAddress(guest.cpu.registers, REG.rax, 0);
    guest.ret();
    expect(status(guest)).toBe('live');
    expect(guest.engine.protection(guest.cpu.translate(INIT, false))).toBe(7);
    guest.call(G.probe);
    expect(guest.cpu.view.fixedPages.some(({ address }) => address === INIT)).toBe(false);
  });

  test('a frame that would return into it after init is refused', () => {
    const image = tinyImage();
    const guest = new Guest([registered(image, granted({ onViolation: 'log' }))]);
    guest.stack(STACK + 0x10_0000);
    guest.load(image);
    guest.call(G.init);
    guest.callOut(INIT + T.initAfterCall);
    const blocked = guest.rsp();
    guest.call(G.probe, blocked - 0x40); // as if nested; then the kernel leaves init by another way
    guest.setRsp(STACK_TOP - 0x100 - 8);
    // The module's own return gate, reached with init's stack pointer.
    setRegisterAddress(guest.cpu.registers, REG.rax, 0);
    guest.ret();
    expect(status(guest)).toBe('live');
    guest.setRsp(blocked);
    guest.setWord(blocked, guest.gateAddress(G.reentry));
    guest.ret();
    expect(guest.inside()).toBe(false);
  });
});
