/** Several virtual CPUs at the border: an instance that ends or is quarantined takes out all that are inside; INIT finds a CPU anywhere. */
import { describe, expect, test } from 'vitest';
import { REG, setRegisterAddress } from '../engine/contract.ts';
import {
  CORE,
  ENTRY_RSP,
  G,
  granted,
  Guest,
  insideInner,
  KERNEL_TEXT,
  live,
  registered,
  STACK,
  status,
  T,
  tinyImage,
  violations,
} from '../privileges/testing.ts';

const STACKS = 0x10_0000;
/** Stack pointer of the kernel code that calls an entry, on the stack of the thread that CPU `index` runs. */
const entryRsp = (index: number) => ENTRY_RSP + index * STACKS;

function liveOn(cpus: number, policy: 'quarantine' | 'stop' | 'log' = 'quarantine'): Guest {
  const guest = live({ cpus, policy });
  for (let index = 1; index < cpus; index++) guest.stack(STACK + index * STACKS);
  return guest;
}

describe('quarantine', () => {
  test('P12 a violation on one CPU takes every other CPU out, each as if its call had failed', () => {
    const guest = liveOn(4);
    const [first, second, third, fourth] = guest.engine.cpus;
    for (const [index, cpu] of [first, second, third].entries()) insideInner(guest, cpu, entryRsp(index));
    for (const cpu of [second, third]) setRegisterAddress(cpu.registers, REG.r12, 0x5ec4e7);
    fourth.registers.words[REG.rip] = 0x1234n;
    guest.handle(first.fetch(0x1000)); // a wild jump
    expect(violations(guest)).toEqual(['wild-fetch']);
    expect(status(guest)).toBe('quarantined');
    for (const [index, cpu] of [first, second, third].entries()) {
      expect(guest.inside(cpu)).toBe(false);
      expect([guest.rip(cpu), guest.rsp(cpu)]).toEqual([KERNEL_TEXT, entryRsp(index)]);
      expect(cpu.registers.words[REG.rax]).toBe(0xffff_ffff_ffff_ffffn);
      expect(cpu.registers.words[REG.r12]).toBe(0n);
    }
    expect(fourth.registers.words[REG.rip]).toBe(0x1234n);
    expect(guest.monitor.frames().live).toBe(0);
  });

  test('P12 also when the violation happened outside: a thread blocked in a call-out comes back and is refused', () => {
    const guest = liveOn(3);
    const [first, second, third] = guest.engine.cpus;
    insideInner(guest, first, entryRsp(0));
    insideInner(guest, second, entryRsp(1));
    guest.callOut(CORE + T.innerAfterCall, G.kfunc, second);
    guest.setRsp(entryRsp(2), third);
    guest.gate(G.reentry, third); // no frame there
    expect(status(guest)).toBe('quarantined');
    expect(guest.inside(first)).toBe(false);
    expect(guest.rip(first)).toBe(KERNEL_TEXT);
    guest.ret(second);
    expect(guest.inside(second)).toBe(false);
    expect([guest.rip(second), guest.rsp(second)]).toEqual([KERNEL_TEXT, entryRsp(1)]);
  });

  test('with the policy log nobody is taken out', () => {
    const guest = liveOn(2, 'log');
    const [first, second] = guest.engine.cpus;
    insideInner(guest, first, entryRsp(0));
    insideInner(guest, second, entryRsp(1));
    guest.handle(first.fetch(0x1000));
    expect(guest.inside(second)).toBe(true);
  });

  test('init on one CPU and a violation by an early callback on another: the instance ends, both are in the kernel', () => {
    const image = tinyImage();
    const guest = new Guest([registered(image, granted())], { cpus: 2 });
    const [first, second] = guest.engine.cpus;
    guest.stack(STACK + STACKS);
    guest.load(image);
    guest.call(G.init);
    insideInner(guest, second, entryRsp(1));
    guest.handle(second.fetch(0x1000));
    for (const [index, cpu] of [first, second].entries()) {
      expect(guest.inside(cpu)).toBe(false);
      expect([guest.rip(cpu), guest.rsp(cpu)]).toEqual([KERNEL_TEXT, entryRsp(index)]);
    }
    expect(guest.monitor.modules()[0].instances).toEqual([]);
    expect(guest.engine.allocated).toBe(0);
  });
});

test('P12 an unload while another CPU is inside ends its call in the kernel', () => {
  const guest = liveOn(2);
  const [first, second] = guest.engine.cpus;
  insideInner(guest, second, entryRsp(1));
  guest.call(G.cleanup, entryRsp(0), first);
  guest.ret(first);
  expect(guest.inside(second)).toBe(false);
  expect([guest.rip(second), guest.rsp(second)]).toEqual([KERNEL_TEXT, entryRsp(1)]);
  expect(guest.engine.allocated).toBe(0);
});

describe('INIT', () => {
  test('P1 a CPU inside a module leaves it at INIT, with nothing of the module in its registers', () => {
    const guest = liveOn(2);
    const [first, second] = guest.engine.cpus;
    insideInner(guest, first, entryRsp(0));
    insideInner(guest, second, entryRsp(1));
    setRegisterAddress(second.registers, REG.rbx, 0x5ec4e7);
    guest.monitor.reset(second);
    expect(guest.inside(second)).toBe(false);
    expect(second.registers.words[REG.rbx]).toBe(0n);
    expect(guest.inside(first)).toBe(true);
    // The other goes on, and the instance can end.
    guest.callOut(CORE + T.innerAfterCall, G.kfunc, first);
    guest.ret(first);
    expect(guest.inside(first)).toBe(true);
    guest.monitor.end();
    expect(guest.engine.allocated).toBe(0);
  });

  test('a CPU in the kernel is left alone', () => {
    const guest = liveOn(2);
    const [, second] = guest.engine.cpus;
    second.registers.words[REG.rbx] = 7n;
    guest.monitor.reset(second);
    expect(second.registers.words[REG.rbx]).toBe(7n);
  });
});

test('P8 a thread that was interrupted on one CPU resumes on another, which then has the privilege alone', () => {
  const guest = liveOn(2);
  const [first, second] = guest.engine.cpus;
  insideInner(guest, first, entryRsp(0));
  setRegisterAddress(first.registers, REG.r12, 0x5ec4e7);
  const rsp = guest.rsp(first);
  guest.handle(first.event(CORE + T.inner + 1, { vector: 0x40 }), first);
  expect(first.registers.words[REG.r12]).toBe(0n);
  guest.setRsp(rsp, second);
  guest.handle(second.fetch(CORE + T.inner + 1), second);
  expect([guest.inside(first), guest.inside(second)]).toEqual([false, true]);
  expect(second.registers.words[REG.r12]).toBe(0x5ec4e7n);
  expect(guest.monitor.crossings).toMatchObject({ eventOut: 1, resume: 1 });
});
