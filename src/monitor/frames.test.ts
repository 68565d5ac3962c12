/** Private memory, frames of blocked threads, and init memory (SECURITY.md, P7 and P8). */
import { describe, expect, test } from 'vitest';
import { PERMISSION, REG, setRegisterAddress } from '../engine/contract.ts';
import { FRAME, Frames } from './frames.ts';
import {
  CORE,
  G,
  granted,
  Guest,
  INIT,
  insideInner,
  KERNEL,
  KERNEL_TEXT,
  live,
  registered,
  STACK,
  STACK_TOP,
  status,
  T,
  tinyImage,
  violations,
} from '../privileges/testing.ts';

describe('P7: private memory', () => {
  test("P7 is host memory with the image's contents, in the module view only", () => {
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

  test('P8 the frames of a stack go with its thread, those of other stacks stay', () => {
    const frames = new Frames(16);
    const all = () => true;
    for (const [instance, key] of [
      [1, STACK_TOP - 0x80],
      [2, STACK_TOP - 0x180],
      [1, STACK_TOP - 0x280],
      [1, STACK_TOP + 0x280],
    ])
      frames.push(FRAME.callIn, instance, key, KERNEL_TEXT, 0, all);
    frames.dropStack(STACK_TOP - 0x280, all);
    expect(frames.live).toBe(1);
    expect(frames.find(FRAME.callIn, 1, STACK_TOP + 0x280)).toBeGreaterThanOrEqual(0);
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
    const guest = new Guest([registered(image, granted({ onViolation: 'log' }))], { shadowStacks: false }); // with them, the return below is none
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
