/** A refused module says why in the guest's own log (guest-log.ts), and the guest goes on as if it had not. */
import { describe, expect, test } from 'vitest';
import { REG, registerAddress } from '../engine/contract.ts';
import { CORE, ENTRY_RSP, G, Guest, insideInner, KERNEL, KERNEL_TEXT, live, registered, STACK, tinyImage } from '../privileges/testing.ts';

const image = tinyImage({ prints: true });
const LINK_WORD = CORE + 0x1000 + 11 * 16 + 8;

/** The text that the print function was given, where the guest is sent to it. */
function printed(guest: Guest): string {
  expect(guest.rip()).toBe(KERNEL._printk);
  expect(guest.inside()).toBe(false);
  expect(guest.rsp() & 15).toBe(8);
  const at = registerAddress(guest.cpu.registers, REG.rdi);
  let text = '';
  for (let index = 0; guest.peek(at + index) !== 0; index++) text += String.fromCharCode(guest.peek(at + index));
  return text;
}
/** The print function returns. */
function goesOn(guest: Guest, rsp = ENTRY_RSP): void {
  expect(guest.ret()).toBe('handled');
  expect(guest.rip()).toBe(KERNEL_TEXT);
  expect(guest.rsp()).toBe(rsp);
  expect(registerAddress(guest.cpu.registers, REG.rax)).toBe(-1);
  expect(guest.monitor.frames().live).toBe(0);
}

describe('P11: refusals are logged, also for the guest', () => {
  test('P11 a module without a grant, once', () => {
    const guest = new Guest([registered(image, { granted: false, reason: 'a % secret of the host' })]);
    guest.load(image);
    guest.call(G.init);
    expect(printed(guest)).toBe(
      '\x013portcullis: tiny: refused, no-grant: the image is registered, but no valid grant names it for this virtual machine\n',
    );
    goesOn(guest);
    guest.call(G.init);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(guest.monitor.refusals()).toMatchObject([{ reason: 'no-grant', count: 2 }]);
  });

  test('P11 a module that breaks a rule, at once and on the way of its own caller', () => {
    const guest = live({ tiny: { prints: true } });
    insideInner(guest);
    guest.handle(guest.cpu.fetch(0x1000));
    expect(printed(guest)).toMatch(/^\x013portcullis: tiny: quarantined, wild-fetch: /);
    goesOn(guest);
    guest.call(G.probe);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(guest.reasons('module.refused')).toEqual(['quarantined']);
  });

  test('P11 a module that cannot print does it by the gate of one that can', () => {
    const mute = tinyImage({ module: 'mute' });
    const guest = new Guest([registered(image), registered(mute, { granted: false, reason: '' })]);
    guest.start(image);
    guest.load(mute, { shift: 0x10_0000, frames: 0x60_0000 });
    guest.call(G.init, ENTRY_RSP, guest.cpu, 0x10_0000);
    expect(printed(guest)).toMatch(/: mute: refused, no-grant: /);
    goesOn(guest);
    expect(guest.reasons('guard.violation')).toEqual([]);
    guest.call(G.probe);
    expect(guest.inside()).toBe(true);
  });

  test.each([
    ['no address of the kernel', (guest: Guest) => guest.setWord(LINK_WORD, 0x1234)],
    ['a stack that ends just below', (guest: Guest) => guest.tables.unmap(STACK)],
  ])('P11 with %s it is refused without a word', (_, spoil) => {
    const guest = new Guest([registered(image, { granted: false, reason: '' })]);
    guest.load(image);
    spoil(guest);
    guest.call(G.init, STACK + 0x1000 + 0x40);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(guest.monitor.frames().live).toBe(0);
  });

  test('P11 a guest that has itself refused for ever is told a bounded number of times', () => {
    const guest = new Guest([registered(image)]);
    let lines = 0;
    for (let round = 0; round < 80; round++) {
      guest.start(image);
      insideInner(guest);
      guest.handle(guest.cpu.fetch(0x1000));
      if (guest.rip() === KERNEL._printk) {
        lines += 1;
        goesOn(guest);
      }
      guest.call(G.cleanup);
    }
    expect(lines).toBe(64);
  });

  test('P2 returning there without having printed gives nothing', () => {
    const guest = live({ tiny: { prints: true }, policy: 'log' });
    guest.setRsp(ENTRY_RSP);
    guest.gate(G.reentry);
    expect(guest.inside()).toBe(false);
    expect(guest.reasons('guard.violation')).toEqual(['no-frame']);
  });
});
