/** The watch must see each broken invariant in the engine's state, whatever the monitor believes (SECURITY.md, P1, P2, P3, P7). */
import { describe, expect, test } from 'vitest';
import { PERMISSION, REG, setRegisterAddress } from '../engine/contract.ts';
import type { FixedPage } from '../engine/contract.ts';
import { GATE_SIZE } from '../policy/manifest.ts';
import { CORE, ENTRY_RSP, G, type Guest, live, T } from '../privileges/testing.ts';
import { Watch } from './watch.ts';

const WINDOW = { start: 0xfebc_0000, end: 0xfebe_0000 };
const ALL = PERMISSION.read | PERMISSION.write | PERMISSION.execute;

/** A guest inside its module, with a watch that found nothing so far. */
function watched(): { guest: Guest; watch: Watch } {
  const guest = live();
  guest.engine.hide([WINDOW]);
  const watch = new Watch(guest.engine);
  expect(watch.crossed(guest.cpu)).toBeUndefined();
  guest.call(G.probe);
  guest.cpu.view.setWindows([WINDOW]);
  expect(watch.full(guest.cpu)).toBeUndefined();
  return { guest, watch };
}
const changePage = (guest: Guest, change: (page: FixedPage) => FixedPage) =>
  guest.cpu.view.setFixedPages(guest.cpu.view.fixedPages.map(change));
const frameOf = (guest: Guest, address: number) => guest.cpu.translate(address, false);

describe('P1: privileges', () => {
  test('a window of the untrusted view', () => {
    const { guest, watch } = watched();
    guest.engine.untrusted.setWindows([WINDOW]);
    expect(watch.full(guest.cpu)).toContain('the untrusted view has the window 0xfebc0000..0xfebe0000');
    guest.cpu.enter(guest.engine.untrusted);
    expect(watch.crossed(guest.cpu)).toContain('the untrusted view has the window');
  });
  test('an instruction, or a page, of the untrusted view', () => {
    const { guest, watch } = watched();
    guest.engine.untrusted.setAllowed(new Set(['monitor-mwait']));
    expect(watch.full(guest.cpu)).toContain('allows monitor-mwait');
    guest.engine.untrusted.setAllowed(new Set());
    guest.engine.untrusted.setFixedPages(guest.cpu.view.fixedPages.slice(0, 1));
    expect(watch.full(guest.cpu)).toContain('a page of its own at 0xffffffffc0100000');
  });
  test('a window that is hidden from nobody, or in part', () => {
    const { guest, watch } = watched();
    guest.engine.hide([{ start: WINDOW.start, end: WINDOW.end - 1 }]);
    expect(watch.full(guest.cpu)).toContain('is not hidden from everyone else');
    guest.engine.hide([
      { start: WINDOW.start + 0x1000, end: WINDOW.end },
      { start: WINDOW.start, end: WINDOW.start + 0x1000 },
    ]);
    expect(watch.full(guest.cpu)).toBeUndefined();
  });
});

test('P5: a view without its shadow stack', () => {
  const { guest, watch } = watched();
  const { view } = guest.cpu;
  guest.gate(G.kfunc);
  view.setShadowStack(false);
  expect(watch.full(guest.cpu)).toContain('has no shadow stack');
  const without = live({ shadowStacks: false });
  expect(new Watch(without.engine).full(without.cpu)).toBeUndefined(); // an engine that has none
});

describe('P2, P3: code', () => {
  test.each([
    ['writable', PERMISSION.write],
    ['executable', PERMISSION.execute],
  ])('text that is %s in the untrusted view', (word, permission) => {
    const { guest, watch } = watched();
    guest.engine.protect(frameOf(guest, CORE), PERMISSION.read | permission);
    expect(watch.full(guest.cpu)).toMatch(new RegExp(`text at 0xffffffffc0100000 .* is ${word} in the untrusted view`));
  });
  test.each([
    ['text', CORE, GATE_SIZE],
    ['the middle of a gate', CORE + 0x1000, 8],
  ])('a pointer that may lead into %s', (_, address, landing) => {
    const { guest, watch } = watched();
    const { view } = guest.cpu;
    view.setFixedPages(view.fixedPages.map((page) => (page.address === address ? { ...page, landing } : page)));
    expect(watch.full(guest.cpu)).toContain('may be entered by pointer elsewhere than at gates');
  });
  test('gates may be executed by all, and written by none', () => {
    const { guest, watch } = watched();
    expect(guest.engine.protection(frameOf(guest, CORE + 0x1000))).toBe(PERMISSION.read | PERMISSION.execute);
    guest.engine.protect(frameOf(guest, CORE + 0x1000), ALL);
    expect(watch.full(guest.cpu)).toContain('gates at 0xffffffffc0101000');
  });
  test("what the guest maps at the module's addresses later is its own affair; the frame of the text stays watched", () => {
    const { guest, watch } = watched();
    const frame = frameOf(guest, CORE);
    guest.tables.map(CORE, 0x60_0000);
    expect(watch.full(guest.cpu)).toBeUndefined();
    guest.engine.protect(frame, ALL);
    expect(watch.full(guest.cpu)).toContain('writable in the untrusted view');
  });
  test('a page that is writable and executable', () => {
    const { guest, watch } = watched();
    changePage(guest, (page) => (page.address === CORE ? { ...page, permission: ALL } : page));
    expect(watch.full(guest.cpu)).toContain('is writable and executable');
  });
  test('a CPU inside outside CPL 0, or outside the code, or in a view that is gone', () => {
    const { guest, watch } = watched();
    guest.cpu.privilegeLevel = 3;
    expect(watch.crossed(guest.cpu)).toContain('at CPL 3');
    guest.cpu.privilegeLevel = 0;
    for (const address of [CORE + 0x3000, CORE + 0x5000, ENTRY_RSP, 0x1000]) {
      setRegisterAddress(guest.cpu.registers, REG.rip, address);
      expect(watch.crossed(guest.cpu)).toContain('which is not its code');
    }
    setRegisterAddress(guest.cpu.registers, REG.rip, CORE + T.inner);
    expect(watch.crossed(guest.cpu)).toBeUndefined();
    guest.engine.views.delete(guest.cpu.view);
    expect(watch.crossed(guest.cpu)).toContain('which the engine does not have');
  });
});

describe('P7: host pages', () => {
  test('one page in two views', () => {
    const { guest, watch } = watched();
    const [, second] = guest.cpu.view.fixedPages;
    guest.engine.createView('other').setFixedPages([{ ...second, permission: PERMISSION.read }]);
    expect(watch.crossed(guest.cpu)).toMatch(/page 0x\w+ of view other is also page 0x\w+ of view tiny#1/);
  });
  test('a page in guest memory', () => {
    const { guest, watch } = watched();
    const [page] = guest.engine.allocateHostPages(1);
    Object.assign(page, { bytes: guest.engine.memory.bytes.subarray(0x1000, 0x2000) });
    guest.engine.createView('other').setFixedPages([{ address: CORE, page, permission: PERMISSION.read }]);
    expect(watch.full(guest.cpu)).toContain('lies in guest memory');
  });
});

test('a full look at load and unload and every so many crossings, short ones between', () => {
  const guest = live();
  const watch = new Watch(guest.engine, 10);
  expect(watch.crossed(guest.cpu)).toBeUndefined();
  expect(watch.checks).toEqual({ short: 1, full: 1 });
  for (let crossing = 2; crossing < 10; crossing++) watch.crossed(guest.cpu);
  expect(watch.checks).toEqual({ short: 9, full: 1 });
  watch.crossed(guest.cpu);
  expect(watch.checks).toEqual({ short: 10, full: 2 });
  guest.call(G.cleanup);
  guest.ret();
  watch.crossed(guest.cpu);
  expect(watch.checks).toEqual({ short: 11, full: 3 });
});
