/** What the kernel may change and see while the module is away: return addresses and registers (SECURITY.md, P5 and P6). */
import { describe, expect, test } from 'vitest';
import { REG, setRegisterAddress } from '../engine/contract.ts';
import {
  CORE,
  ENTRY_RSP,
  G,
  type Guest,
  insideInner,
  KERNEL_TEXT,
  live,
  reg,
  returnFromInner,
  STACK_TOP,
  T,
  violations,
} from '../privileges/testing.ts';

// The seals hold by themselves where an engine has no shadow stacks, and say the same where it has.
describe.each([true, false])('P5: sealed return addresses, shadow stacks: %s', (shadowStacks) => {
  const away = (guest: Guest) => {
    insideInner(guest);
    guest.callOut(CORE + T.innerAfterCall);
  };
  // From the stack pointer at the call-out: return slot, %rbx, return into probe, 16 bytes of probe, return gate.
  test.each([
    ['into probe', 16],
    ['of the entry', 40],
  ])('P5 the return address %s changed during a call-out', (_, offset) => {
    for (const value of [CORE + T.innerAfterCall, KERNEL_TEXT, 0]) {
      const guest = live({ shadowStacks });
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
    const guest = live({ shadowStacks });
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
    const guest = live({ shadowStacks });
    away(guest);
    guest.setWord(guest.rsp(), CORE + T.bpAfterCall);
    guest.setRsp(guest.rsp() + 8);
    guest.gate(G.reentry);
    expect(guest.rip()).toBe(CORE + T.innerAfterCall);
  });

  test.each([
    ['return address', 8],
    ['saved frame pointer', 0],
  ])('P5 with a frame pointer: its %s is sealed', (_, offset) => {
    for (const change of [false, true]) {
      const guest = live({ shadowStacks });
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
    const guest = live({ shadowStacks });
    insideInner(guest);
    guest.setWord(guest.rsp() + 8, KERNEL_TEXT); // by another CPU
    guest.callOut(CORE + T.innerAfterCall);
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['return-address']);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(guest.rsp()).toBe(ENTRY_RSP);
  });

  test('P5 calls without end cannot be sealed and are stopped', () => {
    const guest = live({ shadowStacks });
    guest.call(G.probe);
    for (let depth = 0; depth < 60 && guest.inside(); depth++) {
      guest.setRsp(guest.rsp() - 16);
      guest.within(CORE + T.afterInner);
    }
    guest.push(0);
    guest.callOut(CORE + T.innerAfterCall);
    expect(guest.inside()).toBe(false);
    expect(violations(guest)).toEqual(['stack-depth']);
  });

  test('P5 seals hold across an event too', () => {
    const guest = live({ shadowStacks });
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

  test.each(['interrupt', 'nmi', 'exception', 'software'] as const)(
    'P6 an %s finds no register of the module, and everything comes back',
    (type) => {
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
    },
  );

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

  test.each(['log', 'quarantine'] as const)(
    'P6 what broke a rule as it left comes back once, to its end: the call in the kernel gets -1 (policy %s)',
    (policy) => {
      const guest = live({ policy });
      insideInner(guest);
      const rsp = guest.rsp();
      guest.setWord(rsp + 8, KERNEL_TEXT); // another CPU writes over inner's return address
      guest.handle(guest.cpu.event(CORE + T.warn, { vector: 32 }));
      expect(guest.cpu.delivered[0].event.vector).toBe(32);
      expect(guest.inside()).toBe(false);
      expect(violations(guest)).toEqual(['return-address']);
      expect(guest.handle(guest.cpu.fetch(CORE + T.warn))).toBe('handled');
      expect([guest.inside(), guest.rip(), guest.rsp()]).toEqual([false, KERNEL_TEXT, ENTRY_RSP]);
      expect(reg(guest, REG.rax)).toBe(-1);
      expect(guest.monitor.violations()).toMatchObject([{ reason: 'return-address', count: 1 }]);
      expect(guest.cpu.delivered).toHaveLength(1); // no page fault, which the kernel would take for a spurious one and come back, for ever
      expect(guest.monitor.frames().live).toBe(0);
    },
  );

  test('P6 a WARN goes on behind its ud2; elsewhere, and for interrupts, RIP + 2 is a mismatch', () => {
    for (const [at, vector, type, ok] of [
      [T.warn, 6, 'exception', true],
      [T.warn, 6, 'interrupt', false],
      [T.warn, 13, 'exception', false],
      [T.faulting, 6, 'exception', false],
    ] as const) {
      const guest = live();
      insideInner(guest);
      guest.handle(guest.cpu.event(CORE + at, { vector, type }));
      guest.handle(guest.cpu.fetch(CORE + at + 2));
      expect(guest.inside()).toBe(ok);
      expect(violations(guest)).toEqual(ok ? [] : ['resume-mismatch']);
    }
  });

  test("P6 an exception fixup does what the image's table says, whatever the handler left in the registers", () => {
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

  test('P6 resume with another stack pointer, at another privilege level or twice is refused', () => {
    const guest = live({ policy: 'log' });
    insideInner(guest);
    guest.handle(guest.cpu.event(CORE + T.warn, { vector: 32 }));
    const rsp = guest.rsp();
    for (const pointer of [rsp - 8, rsp + 8]) {
      guest.setRsp(pointer);
      guest.handle(guest.cpu.fetch(CORE + T.warn));
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
    expect(violations(guest)).toEqual(['text-fetch']);
  });

  test.each([T.fixup, T.warn + 2, T.warn + 1])(
    'P6 resume at another address (%i) is refused, and ends the call in the kernel with -1',
    (address) => {
      const guest = live({ policy: 'log' });
      insideInner(guest);
      guest.handle(guest.cpu.event(CORE + T.warn, { vector: 32 }));
      guest.handle(guest.cpu.fetch(CORE + address));
      expect(violations(guest)).toEqual(['resume-mismatch']);
      expect([guest.inside(), guest.rip(), guest.rsp(), reg(guest, REG.rax)]).toEqual([false, KERNEL_TEXT, ENTRY_RSP, -1]);
      expect(guest.cpu.delivered).toHaveLength(1);
      expect(guest.monitor.frames().live).toBe(0);
    },
  );

  test.each([
    ['call', G.kfunc, 0],
    ['return', G.return, 8],
  ])('P6 an event at a %s gate resumes at the gate', (_, gate, popped) => {
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
    guest.within(CORE + T.afterThunk);
    setRegisterAddress(guest.cpu.registers, REG.rdi, 0x99);
    guest.handle(guest.cpu.event(KERNEL_TEXT, { vector: 32 }));
    expect(guest.cpu.delivered[0].view).toBe(guest.engine.untrusted);
    expect(guest.cpu.delivered[0].registers[REG.rdi]).toBe(0x99n); // an argument of the call
    expect(guest.monitor.crossings).toMatchObject({ callOut: 1, eventOut: 0 });
    guest.ret();
    expect(guest.rip()).toBe(CORE + T.afterThunk);
  });
});
