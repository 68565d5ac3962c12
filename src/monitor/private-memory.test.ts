/** Private stacks, the status, and private sections as privileges see them (SECURITY.md, P5 to P7). */
import { describe, expect, test } from 'vitest';
import { PAGE_SIZE, REG, setRegisterAddress } from '../engine/contract.ts';
import { STATUS, STATUS_MAGIC, STATUS_VERSION } from '../policy/private-memory.ts';
import {
  CORE,
  ENTRY_RSP,
  G,
  Guest,
  granted,
  insideInner,
  KERNEL_TEXT,
  live,
  reg,
  registered,
  returnFromInner,
  STACK_TOP,
  T,
  tinyImage,
  violations,
} from '../privileges/testing.ts';
import type { Attachment, Privilege, PrivilegeTarget } from './privilege.ts';

const PRIVATE = CORE + 0x3000;
const END = PRIVATE + PAGE_SIZE;
const withStack = () => live({ tiny: { privateName: '.portcullis.private.stack' } });

function page(guest: Guest): DataView {
  const { bytes } = guest.cpu.view.fixedPages.find(({ address }) => address === PRIVATE)!.page;
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** `inner` calls code that goes to the private stack: RSP and RBP are kept at its end. Gives the kernel stack pointer at the switch. */
function switchStack(guest: Guest): number {
  insideInner(guest);
  guest.within(CORE + T.innerAfterCall);
  const kernel = guest.rsp();
  page(guest).setBigInt64(PAGE_SIZE - 8, BigInt(kernel), true);
  page(guest).setBigInt64(8, BigInt(STACK_TOP - 0x40), true);
  setRegisterAddress(guest.cpu.registers, REG.rbp, 0x1234);
  guest.setRsp(END - 0x100);
  return kernel;
}

describe('private stacks', () => {
  test.each(['interrupt', 'nmi', 'exception'] as const)(
    'P6 an %s on one is delivered on the kernel stack behind it, and everything comes back',
    (type) => {
      const guest = withStack();
      const kernel = switchStack(guest);
      const { words } = guest.cpu.registers;
      words[REG.rax] = 0x5ec4e7n;
      const before = [...words];
      guest.handle(guest.cpu.event(CORE + T.faulting, { type, vector: 2 }));
      const [handler] = guest.cpu.delivered;
      expect(handler.view).toBe(guest.engine.untrusted);
      expect(BigInt.asIntN(64, handler.registers[REG.rsp])).toBe(BigInt(kernel));
      for (const index of [REG.rax, REG.rbp]) expect(handler.registers[index]).toBe(0n);
      for (let index = 0; index < 16; index++) words[index] = 0xbadn;
      guest.setRsp(kernel);
      guest.handle(guest.cpu.fetch(CORE + T.faulting));
      expect(guest.inside()).toBe(true);
      before[REG.rip] = BigInt.asUintN(64, BigInt(CORE + T.faulting));
      expect([...words]).toEqual(before);
      expect(violations(guest)).toEqual([]);
    },
  );

  test('P2 only the kernel stack pointer behind it resumes it, once', () => {
    for (const rsp of [END - 0x100, ENTRY_RSP]) {
      const guest = withStack();
      switchStack(guest);
      guest.handle(guest.cpu.event(CORE + T.faulting, { vector: 32 }));
      guest.setRsp(rsp);
      guest.handle(guest.cpu.fetch(CORE + T.faulting));
      expect(guest.inside()).toBe(false);
      expect(violations(guest)).toEqual(['text-fetch']);
    }
  });

  test('P5 return addresses on the kernel stack behind it are sealed', () => {
    for (const slot of [0, 16, 24 + 16]) {
      const guest = withStack();
      const kernel = switchStack(guest);
      guest.handle(guest.cpu.event(CORE + T.faulting, { vector: 32 }));
      guest.setWord(kernel + slot, CORE + T.bpAfterCall);
      guest.setRsp(kernel);
      guest.handle(guest.cpu.fetch(CORE + T.faulting));
      expect(guest.inside()).toBe(false);
      expect(violations(guest)).toEqual(['seal-broken']);
      expect([guest.rip(), guest.rsp(), reg(guest, REG.rax)]).toEqual([KERNEL_TEXT, ENTRY_RSP, -1]);
    }
  });

  test('an exception fixup goes on, on the private stack', () => {
    const guest = withStack();
    const kernel = switchStack(guest);
    guest.handle(guest.cpu.event(CORE + T.faulting, { type: 'exception', vector: 14, errorCode: 0 }));
    guest.setRsp(kernel);
    guest.handle(guest.cpu.fetch(CORE + T.fixup));
    expect(guest.inside()).toBe(true);
    expect([guest.rip(), guest.rsp(), reg(guest, REG.rdx)]).toEqual([CORE + T.fixup, END - 0x100, -14]);
  });

  test('P5 frames counted from RBP are found by the one kept at the switch', () => {
    for (const change of [false, true]) {
      const guest = withStack();
      guest.call(G.withBp);
      guest.push(STACK_TOP - 0x40); // push %rbp
      const frame = guest.rsp();
      guest.setRsp(frame - 32);
      guest.within(CORE + T.bpAfterCall);
      const kernel = guest.rsp();
      page(guest).setBigInt64(PAGE_SIZE - 8, BigInt(kernel), true);
      page(guest).setBigInt64(8, BigInt(frame), true);
      guest.setRsp(END - 8);
      guest.handle(guest.cpu.event(CORE + T.faulting, { vector: 32 }));
      expect(violations(guest)).toEqual([]);
      if (change) guest.setWord(frame + 8, CORE + T.bpAfterCall);
      guest.setRsp(kernel);
      guest.handle(guest.cpu.fetch(CORE + T.faulting));
      expect(violations(guest)).toEqual(change ? ['seal-broken'] : []);
    }
  });

  test('nested entries during the event, then the way back and out', () => {
    const guest = withStack();
    const kernel = switchStack(guest);
    guest.handle(guest.cpu.event(CORE + T.faulting, { vector: 32 }));
    guest.call(G.probe, kernel - 0x80);
    guest.ret();
    guest.setRsp(kernel);
    guest.handle(guest.cpu.fetch(CORE + T.faulting));
    expect(guest.rsp()).toBe(END - 0x100);
    guest.setRsp(kernel);
    expect(guest.cpu.ret()).toBe(CORE + T.innerAfterCall);
    returnFromInner(guest);
    guest.ret();
    expect([guest.rip(), guest.rsp(), guest.monitor.frames().live]).toEqual([KERNEL_TEXT, ENTRY_RSP, 0]);
    expect(violations(guest)).toEqual([]);
  });

  test('P12 a CPU that is taken out while on one finds itself on the kernel stack', () => {
    const guest = withStack();
    const kernel = switchStack(guest);
    guest.monitor.reset(guest.cpu);
    expect([guest.inside(), guest.rsp()]).toEqual([false, kernel]);
  });

  test('P12 the end of the module takes it back to the caller of its entry', () => {
    const guest = withStack();
    switchStack(guest);
    guest.monitor.end();
    expect([guest.inside(), guest.rip(), guest.rsp()]).toEqual([false, KERNEL_TEXT, ENTRY_RSP]); // as if the call had failed
  });

  test.each<[string, (guest: Guest) => unknown]>([
    ['a call by gate', (guest) => guest.callOut(CORE + T.innerAfterCall)],
    [
      'a call by pointer',
      (guest) => {
        guest.within(CORE + T.afterThunk);
        return guest.handle(guest.cpu.fetch(KERNEL_TEXT));
      },
    ],
  ])('P4 %s from a private stack is a violation, whatever the guest has put behind it', (_, leave) => {
    const guest = withStack();
    switchStack(guest);
    guest.setWord(END - 0x108, CORE + T.innerAfterCall); // the guest's own frame at that address
    leave(guest);
    expect(violations(guest)).toEqual(['bad-stack']);
    expect([guest.inside(), guest.rip(), guest.rsp()]).toEqual([false, KERNEL_TEXT, ENTRY_RSP]);
  });

  test.each<[string, (guest: Guest) => void]>([
    ['in private memory that is no stack', () => {}],
    ['on a private stack whose kernel stack pointer is none', (guest) => page(guest).setBigInt64(PAGE_SIZE - 8, 0x1234n, true)],
    [
      'on a private stack whose kernel stack pointer is private',
      (guest) => page(guest).setBigInt64(PAGE_SIZE - 8, BigInt(PRIVATE + 64), true),
    ],
  ])('P4 an event with the stack pointer %s is a violation', (name, spoil) => {
    const guest = name.startsWith('in') ? live() : withStack();
    switchStack(guest);
    spoil(guest);
    guest.handle(guest.cpu.event(CORE + T.faulting, { vector: 32 }));
    expect(violations(guest)).toEqual(['bad-stack']);
    expect(guest.inside()).toBe(false);
    expect(guest.cpu.delivered).toHaveLength(1);
  });
});

/** A privilege of a kind, which keeps its target. */
class Probe implements Privilege {
  readonly description = 'probe';
  target: PrivilegeTarget | undefined;
  constructor(readonly kind: string) {}
  attach(target: PrivilegeTarget): Attachment {
    this.target = target;
    return { passive: true, raise: () => {}, lower: () => {}, detach: () => {} };
  }
}

describe('what an instance is told', () => {
  const start = (privateName: string, privileges: Probe[], cpus = 2) => {
    const image = tinyImage({ privateName });
    const guest = new Guest([registered(image, granted({ privileges }))], { cpus });
    guest.start(image);
    guest.call(G.probe);
    return guest;
  };
  const words = (guest: Guest, ...offsets: number[]) => offsets.map((offset) => page(guest).getUint32(offset, true));

  test('the privileges it holds, and on which CPU they are usable', () => {
    const mwait = new Probe('mwait');
    const guest = start('.portcullis.private.status', [new Probe('pci-device'), mwait, new Probe('unknown')]);
    expect(words(guest, STATUS.magic, STATUS.version, STATUS.held, STATUS.cpus)).toEqual([STATUS_MAGIC, STATUS_VERSION, 3, 2]);
    expect(words(guest, STATUS.usable, STATUS.usable + 4, STATUS.usable + 8)).toEqual([3, 3, 0]);
    expect([STATUS.start, STATUS.end].map((offset) => Number(page(guest).getBigInt64(offset, true)))).toEqual([PRIVATE, END]);
    mwait.target?.setUsable('mwait', 1, false);
    mwait.target?.setUsable('mwait', 7, false);
    expect(words(guest, STATUS.usable, STATUS.usable + 4, STATUS.usable + 8)).toEqual([3, 1, 0]);
    mwait.target?.setUsable('mwait', 1, true);
    expect(words(guest, STATUS.usable + 4)).toEqual([3]);
    const view = page(guest);
    guest.push(0);
    guest.handle(guest.cpu.fetch(-0x7f00_0000)); // a wild jump: quarantined
    expect([view.getUint32(STATUS.held, true), view.getUint32(STATUS.usable, true)]).toEqual([0, 0]);
  });

  test('nothing where it has no status', () => {
    const guest = start('.portcullis.private.other', [new Probe('mwait')]);
    expect(words(guest, STATUS.magic, STATUS.usable)).toEqual([0, 0]);
  });

  test('P7 private sections: writes stay inside, the guest sees none of it, nothing after the end', () => {
    const probe = new Probe('secret');
    const guest = start('.portcullis.private.box', [probe]);
    const box = probe.target!.privateSection('.portcullis.private.box')!;
    expect(box.size).toBe(PAGE_SIZE);
    box.write(PAGE_SIZE - 4, Uint8Array.of(1, 2, 3, 4));
    expect(words(guest, PAGE_SIZE - 4)).toEqual([0x04030201]);
    expect(guest.peek(PRIVATE + PAGE_SIZE - 4)).toBe(0);
    expect(() => box.write(PAGE_SIZE - 3, Uint8Array.of(1, 2, 3, 4))).toThrow(RangeError);
    expect(() => box.write(-1, Uint8Array.of(1))).toThrow(RangeError);
    const view = page(guest);
    box.clear();
    expect(view.getUint32(PAGE_SIZE - 4, true)).toBe(0);
    for (const name of ['.data', '.rodata', '.portcullis.private.none']) expect(probe.target!.privateSection(name)).toBeUndefined();
    guest.ret();
    guest.call(G.cleanup);
    guest.ret();
    expect(probe.target!.privateSection('.portcullis.private.box')).toBeUndefined();
  });
});
