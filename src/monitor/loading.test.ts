/** Recognising and verifying a module (SECURITY.md, P9), and its end (P12). */
import { describe, expect, test } from 'vitest';
import { REG, registerAddress, setRegisterAddress } from '../engine/contract.ts';
import type { FakeEngine } from '../engine/fake/engine.ts';
import { CORE, FAR, G, granted, Guest, INIT, KERNEL, KERNEL_TEXT, registered, S, STACK_TOP, T, tinyImage } from '../privileges/testing.ts';
import type { LoadOptions } from '../privileges/testing.ts';
import type { Privilege } from './privilege.ts';
import { REFUSALS, VIOLATIONS } from './reasons.ts';

const image = tinyImage();
const refusals = (guest: Guest) => guest.monitor.refusals().map(({ reason }) => reason);
const instances = (guest: Guest) => guest.monitor.modules().flatMap((module) => module.instances);

/** Loads, lets `tamper` work on guest memory, and enters init. */
function attempt(tamper: (guest: Guest) => void = () => {}, options: LoadOptions = {}, hostPages?: number): Guest {
  const guest = new Guest([registered(image)], { hostPages });
  guest.load(image, options);
  tamper(guest);
  guest.call(G.init);
  return guest;
}

function expectNothing(guest: Guest): void {
  expect(guest.inside()).toBe(false);
  expect(instances(guest)).toEqual([]);
  expect(guest.engine.views.size).toBe(0);
  expect(guest.engine.allocated).toBe(0);
  expect(guest.engine.protectedFrames).toBe(0);
  // The call has returned -EPERM.
  expect(guest.rip()).toBe(KERNEL_TEXT);
  expect(guest.rsp()).toBe(STACK_TOP - 0x100);
  expect(registerAddress(guest.cpu.registers, REG.rax)).toBe(-1);
}

describe('P9: the code is what was granted', () => {
  test("P9 an unchanged module is solved, and its view holds the VMM's relocated copy", () => {
    const guest = attempt();
    expect(guest.inside()).toBe(true);
    for (const { address, page } of guest.cpu.view.fixedPages) {
      if (address === CORE + 0x3000) continue; // private
      for (const section of [S.text, S.thunks, S.gates, S.rodata, S.init]) {
        const base = [CORE, CORE + 0xa0, CORE + 0x1000, CORE + 0x2000, INIT][
          [S.text, S.thunks, S.gates, S.rodata, S.init].indexOf(section)
        ];
        for (let byte = 0; byte < image.sections[section].size; byte++) {
          const at = base + byte;
          if (at >= address && at < address + 4096) expect(page.bytes[at - address], `${section}+${byte}`).toBe(guest.peek(at));
        }
      }
    }
    expect(guest.monitor.modules()[0].instances[0]).toMatchObject({
      state: 'loading',
      base: '0xffffffffc0101000',
      textPages: 2,
      privatePages: 1,
    });
  });

  test('P9 every single changed byte of text, thunks, gates, init text and constants is noticed', () => {
    const missed: string[] = [];
    const guest = new Guest([registered(image)]);
    guest.load(image);
    for (const [name, base, size] of [
      ['text', CORE, 0xa4],
      ['gates', CORE + 0x1000, 0xb0],
      ['init', INIT, 6],
      ['rodata', CORE + 0x2000, 64],
    ] as const) {
      for (let offset = 0; offset < size; offset++) {
        const flip = () => guest.poke(base + offset, guest.peek(base + offset) ^ 0x40);
        flip();
        guest.call(G.init);
        if (guest.inside()) missed.push(`${name}+${offset}`);
        else expect(instances(guest)).toEqual([]);
        guest.monitor.end();
        flip();
      }
    }
    // What may change unnoticed is only where the guest says that a kernel symbol lies, and only where one place alone says it.
    const importWords = [
      ...[G.stackFail, G.fpuBegin, G.fpuEnd, G.kfunc].flatMap((gate) =>
        Array.from({ length: 8 }, (_, byte) => `gates+${gate * 16 + 8 + byte}`),
      ),
      ...Array.from({ length: 8 }, (_, byte) => `rodata+${16 + byte}`), // eth_validate_addr
      ...Array.from({ length: 4 }, (_, byte) => `text+${0x74 + byte}`), // preempt_count
      ...Array.from({ length: 4 }, (_, byte) => `text+${0x68 + byte}`), // address of .data
    ];
    expect(missed.filter((place) => !importWords.includes(place))).toEqual([]);
  });

  test('P9 the refusal names section and offset', () => {
    const guest = attempt((g) => g.poke(CORE + T.cleanup, 0x90));
    expectNothing(guest);
    expect(guest.monitor.refusals()).toEqual([
      {
        module: 'tiny',
        reason: 'text-differs',
        count: 1,
        explanation: REFUSALS['text-differs'],
        detail: '.text+0x80: the guest holds 0x90, the image 0xc3',
      },
    ]);
    expect(guest.reasons('module.refused')).toEqual(['text-differs']);
  });

  test('P9 code hidden in the gap of a text page is noticed', () => {
    const guest = attempt((g) => g.poke(CORE + 0x800, 0xc3));
    expectNothing(guest);
    expect(refusals(guest)).toEqual(['text-differs']);
  });

  test('P9 permuted text pages are noticed', () => {
    const guest = attempt((g) => {
      const [text, init] = [g.cpu.translate(CORE, false), g.cpu.translate(INIT, false)];
      g.tables.map(CORE, init);
      g.tables.map(INIT, text);
    });
    expectNothing(guest);
  });

  test('P9 one frame behind two text pages is refused', () => {
    // Text and init text in one frame: both sections fit, at different offsets, with the gaps zero on neither side.
    const guest = attempt((g) => g.tables.map(INIT, g.cpu.translate(CORE, false)));
    expectNothing(guest);
  });

  test.each<[string, LoadOptions, string]>([
    ['an import inside the text', { imports: { jiffies: CORE + 0x10 } }, 'import-inside'],
    ['an import inside private memory', { imports: { jiffies: CORE + 0x3010 } }, 'import-inside'],
    ['an import that reaches into private memory', { imports: { jiffies: CORE + 0x3010 - FAR } }, 'import-inside'],
    ['an import right below the module', { imports: { kfunc: CORE - 4 } }, 'import-inside'],
    ['a call target that is no address', { imports: { __stack_chk_fail: 2 ** 50 } }, 'bad-address'],
    ['data over private memory', { bases: { data: CORE + 0x3800 } }, 'sections-overlap'],
    ['data in the text page', { bases: { data: CORE + 0x800 } }, 'sections-overlap'],
    ['constants over data', { bases: { rodata: CORE + 0x4020 } }, 'sections-overlap'],
    ['text in user space', { bases: { init: 0x40_0000 } }, 'bad-address'],
    ['misaligned constants', { bases: { rodata: CORE + 0x2008 } }, 'bad-address'],
    ['misaligned private memory', { bases: { private: CORE + 0x3010 } }, 'bad-address'],
    ['init text at the end of the address space', { bases: { init: -0x800 } }, 'bad-address'],
    ['text that is not mapped', { bases: { init: INIT + 0x1_0000 } }, 'not-mapped'],
  ])('P9 %s is refused', (_, options, reason) => {
    const guest = attempt(() => {}, options);
    expectNothing(guest);
    expect(refusals(guest)).toEqual([reason]);
  });

  test('P9 a module of another version, or of nobody, gets nothing; so does one without a grant', () => {
    const other = new Guest([registered(image)]);
    other.load(tinyImage({ version: 2 }));
    other.call(G.init);
    expectNothing(other);
    expect(refusals(other)).toEqual(['text-differs']);

    const none = new Guest([]);
    none.load(image);
    none.call(G.init);
    expectNothing(none);
    expect(refusals(none)).toEqual(['not-registered']);

    const refused = new Guest([registered(image, { granted: false, reason: 'the grant has expired' })]);
    refused.load(image);
    refused.call(G.init);
    expectNothing(refused);
    expect(refused.monitor.refusals()[0]).toMatchObject({ reason: 'no-grant', module: 'tiny', detail: 'the grant has expired' });
  });

  test('P9 of two versions the right one is found', () => {
    const guest = new Guest([registered(tinyImage({ version: 2 })), registered(image)]);
    guest.start(image);
    expect(guest.monitor.modules().map((module) => module.instances.length)).toEqual([0, 1]);
  });

  test('P9 a module is entered first at its init, once', () => {
    const guest = new Guest([registered(image)]);
    guest.load(image);
    guest.call(G.probe);
    expectNothing(guest);
    guest.call(G.init);
    expect(guest.inside()).toBe(true);
    guest.callOut(INIT + T.initAfterCall);
    guest.call(G.init, guest.rsp() - 0x40);
    expect(guest.inside()).toBe(false);
    expect(refusals(guest)).toEqual(['init-not-first', 'init-again']);
  });

  test('P9 the setter of a parameter may be entered before init, and nothing else', () => {
    const tiny = tinyImage({ setter: true });
    const guest = new Guest([registered(tiny)]);
    guest.load(tiny);
    guest.call(G.withBp);
    expectNothing(guest);
    guest.call(G.probe);
    expect(guest.inside()).toBe(true);
    guest.ret();
    guest.call(G.withBp);
    guest.call(G.cleanup);
    expect(guest.inside()).toBe(false);
    expect(refusals(guest)).toEqual(['init-not-first']);
    expect(guest.monitor.crossings.refused).toBe(3);
    guest.call(G.init);
    expect(guest.inside()).toBe(true);
    setRegisterAddress(guest.cpu.registers, REG.rax, 0);
    guest.ret();
    expect(guest.events.filter(({ event }) => event === 'module.loaded').length).toBe(1);
    guest.call(G.withBp);
    expect(guest.inside()).toBe(true);
  });

  test('P9 forged gates: the port alone, an odd address, user code', () => {
    const guest = new Guest([registered(image)]);
    guest.load(image);
    expect(guest.handle(guest.cpu.out(KERNEL_TEXT, 0x5e))).toBe('not-mine');
    expect(guest.handle(guest.cpu.out(CORE + 0x1000 + 0x21, 0x5e))).toBe('not-mine');
    expect(guest.handle(guest.cpu.out(0x40_0000, 0x5e))).toBe('not-mine');
    expect(guest.handle(guest.cpu.out(CORE + 0x1020, 0x5f))).toBe('not-mine');
    guest.cpu.privilegeLevel = 3;
    guest.setRsp(STACK_TOP - 0x100);
    expect(guest.gate(G.init)).toBe('not-mine');
    expect(guest.engine.views.size).toBe(0);
  });

  test('P9 too few host pages: refused, nothing is left behind', () => {
    const guest = attempt(() => {}, {}, 3);
    expectNothing(guest);
    expect(refusals(guest)).toEqual(['out-of-host-pages']);
  });

  test('P9 writes to text and gates of the loaded module are dropped and reported', () => {
    const guest = new Guest([registered(image, granted({ onViolation: 'log' }))]);
    guest.start(image);
    for (const at of [CORE + 0x10, CORE + 0x1008]) {
      const gpa = guest.cpu.translate(at, false);
      const before = guest.engine.memory.bytes[gpa];
      expect(guest.handle({ kind: 'mmio', gpa, size: 4, write: true, value: 0x9090_9090, refused: false })).toBe('handled');
      expect(guest.engine.memory.bytes[gpa]).toBe(before);
    }
    expect(guest.monitor.violations()).toEqual([{ reason: 'text-write', count: 2, explanation: VIOLATIONS['text-write'] }]);
    expect(guest.handle({ kind: 'mmio', gpa: 0xfeb0_0000, size: 4, write: true, value: 0, refused: false })).toBe('not-mine');
  });
});

/** A privilege that records what happens to it. */
function recording(trace: string[]): (engine: FakeEngine) => Privilege {
  return () => ({
    kind: 'test',
    description: 'a test privilege',
    attach: (target) => {
      trace.push('attach');
      target.setAllowed(trace, ['monitor-mwait']);
      return { passive: false, raise: () => trace.push('raise'), lower: () => trace.push('lower'), detach: () => trace.push('detach') };
    },
  });
}

describe('P12: the end', () => {
  const expectClean = (guest: Guest) => {
    expect(instances(guest)).toEqual([]);
    expect(guest.engine.views.size).toBe(0);
    expect(guest.engine.allocated).toBe(0);
    expect(guest.engine.protectedFrames).toBe(0);
    expect(guest.monitor.frames().live).toBe(0);
    expect(guest.cpu.view).toBe(guest.engine.untrusted);
  };

  test('P12 privileges are attached at load, raised and lowered at every border, detached at unload', () => {
    const trace: string[] = [];
    const guest = new Guest((engine) => [registered(image, granted({ privileges: [recording(trace)(engine)] }))]);
    guest.load(image);
    guest.call(G.init);
    expect(guest.cpu.view.allowed.has('monitor-mwait')).toBe(true);
    guest.callOut(INIT + T.initAfterCall);
    guest.ret();
    guest.handle(guest.cpu.event(INIT + T.initAfterCall, { vector: 32 }));
    guest.handle(guest.cpu.fetch(INIT + T.initAfterCall));
    setRegisterAddress(guest.cpu.registers, REG.rax, 0);
    guest.ret();
    guest.call(G.cleanup);
    guest.ret();
    expect(trace).toEqual(['attach', 'raise', 'lower', 'raise', 'lower', 'raise', 'lower', 'raise', 'lower', 'detach']);
    expectClean(guest);
    expect(guest.events.map(({ event }) => event)).toEqual([
      'module.registered',
      'module.loaded',
      'privilege.attached',
      'module.live',
      'privilege.detached',
      'module.ended',
    ]);
  });

  test('P12 failed init', () => {
    const guest = new Guest([registered(image)]);
    guest.start(image, {}, -12);
    expectClean(guest);
    expect(guest.reasons('module.ended')).toEqual(['init-failed']);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(registerAddress(guest.cpu.registers, REG.rax)).toBe(-12);
  });

  test('P12 load and unload 1,000 times', () => {
    const guest = new Guest([registered(image)]);
    guest.load(image); // the same bytes each time; only the monitor's work is repeated
    for (let round = 0; round < 1000; round++) {
      guest.call(G.init);
      setRegisterAddress(guest.cpu.registers, REG.rax, 0);
      guest.ret();
      guest.call(G.cleanup);
      guest.ret();
    }
    expectClean(guest);
    expect(guest.monitor.crossings).toMatchObject({ callIn: 2000, returnOut: 2000, refused: 0 });
    expect(guest.events.length).toBeLessThan(400); // and the stream is limited: loaded, live and ended are kinds of their own
    expect(guest.monitor.modules()[0].callIns).toEqual([
      { symbol: 'init_module', count: 1000 },
      { symbol: 'cleanup_module', count: 1000 },
    ]);
  });

  test('P12 memory freed without a word: the next write or entry ends the instance', () => {
    const guest = new Guest([registered(image)]);
    guest.start(image);
    const gpa = guest.cpu.translate(CORE, false);
    guest.tables.unmap(CORE);
    guest.tables.unmap(CORE + 0x1000);
    expect(guest.handle({ kind: 'mmio', gpa: gpa + 4, size: 2, write: true, value: 0x1234, refused: false })).toBe('handled');
    expect(guest.engine.memory.bytes.subarray(gpa + 4, gpa + 6)).toEqual(Uint8Array.of(0x34, 0x12));
    expect(guest.engine.announced.at(-1)).toEqual({ gpa: gpa + 4, length: 2 });
    expectClean(guest);
    expect(guest.reasons('module.ended')).toEqual(['memory-reused']);

    guest.start(image);
    guest.tables.map(CORE + 0x1000, 0xb0_0000); // another page behind the gates
    guest.call(G.probe);
    expect(guest.inside()).toBe(false);
    expectClean(guest);
  });

  test('P12 memory freed without a word: an idle kernel is looked at, a busy or unfinished one is not', () => {
    const guest = new Guest([registered(image)]);
    guest.start(image);
    guest.tables.unmap(CORE + 0x1000);
    guest.cpu.privilegeLevel = 3; // with page tables of user space, perhaps
    expect(guest.handle({ kind: 'halt' })).toBe('not-mine');
    expect(instances(guest).length).toBe(1);
    guest.cpu.privilegeLevel = 0;
    expect(guest.handle({ kind: 'halt' })).toBe('not-mine');
    expectClean(guest);
    expect(guest.reasons('module.ended')).toEqual(['memory-reused']);
  });

  test('P12 the end while CPUs are inside takes them out, registers scrubbed', () => {
    const guest = new Guest([registered(image)], { cpus: 2 });
    const [first, second] = guest.engine.cpus;
    guest.start(image);
    guest.call(G.cleanup);
    guest.stack(STACK_TOP + 0x10_0000);
    guest.call(G.probe, STACK_TOP + 0x10_0000 + 0x2000, second);
    setRegisterAddress(second.registers, REG.rbx, 0x5ec4e7);
    guest.ret(first);
    expectClean(guest);
    expect(guest.inside(second)).toBe(false);
    expect(second.registers.words[REG.rbx]).toBe(0n);
  });

  test('P12 the machine stops', () => {
    const guest = new Guest([registered(image)]);
    guest.start(image);
    guest.call(G.probe);
    guest.monitor.end();
    expectClean(guest);
    expect(guest.reasons('module.ended')).toEqual(['stopped']);
  });

  test('P12 quarantine takes the privileges for good; unloading still works', () => {
    const trace: string[] = [];
    const guest = new Guest((engine) => [registered(image, granted({ privileges: [recording(trace)(engine)] }))]);
    guest.start(image);
    guest.call(G.probe);
    const view = guest.cpu.view;
    guest.setRsp(guest.rsp() - 16);
    guest.callOut(CORE + T.afterCall); // blocks
    const blocked = guest.rsp();
    guest.call(G.probe, blocked - 0x40);
    guest.push(0);
    guest.handle(guest.cpu.fetch(KERNEL.jiffies));
    expect(trace.at(-1)).toBe('detach');
    expect(view.allowed.size).toBe(0);
    guest.setRsp(blocked);
    guest.ret(); // the blocked thread comes back: its entry ends with an error
    expect(guest.inside()).toBe(false);
    expect(guest.rip()).toBe(KERNEL_TEXT);
    expect(registerAddress(guest.cpu.registers, REG.rax)).toBe(-1);
    guest.call(G.probe);
    expect(guest.inside()).toBe(false);
    expect(refusals(guest)).toEqual(['quarantined']);
    guest.call(G.cleanup);
    expectClean(guest);
    guest.start(image);
    guest.call(G.probe);
    expect(guest.inside()).toBe(true); // a new instance starts anew
  });
});

describe('on-violation', () => {
  const violate = (policy: 'quarantine' | 'stop' | 'log') => {
    const guest = new Guest([registered(image, granted({ onViolation: policy }))]);
    guest.start(image);
    guest.call(G.probe);
    guest.push(0);
    return { guest, verdict: guest.handle(guest.cpu.fetch(KERNEL_TEXT)) };
  };
  test('quarantine: the guest lives on', () => expect(violate('quarantine').verdict).toBe('handled'));
  test('stop: the machine is told to stop, and why', () => {
    expect(violate('stop').verdict).toEqual({ stop: expect.stringContaining('tiny: the module jumped out of its text') });
  });
  test('log: the entry fails, the module goes on', () => {
    const { guest, verdict } = violate('log');
    expect(verdict).toBe('handled');
    expect(guest.inside()).toBe(false);
    guest.call(G.probe);
    expect(guest.inside()).toBe(true);
    expect(guest.reasons('guard.violation')).toEqual(['wild-fetch']);
  });
});

describe('several modules', () => {
  test('the same image loaded twice: two views, the end of one leaves the other', () => {
    const guest = new Guest([registered(image)]);
    guest.start(image);
    guest.start(image, { shift: 0x40_0000, frames: 0x50_0000 });
    expect(instances(guest)).toHaveLength(2);
    guest.call(G.cleanup);
    guest.ret();
    expect(instances(guest)).toHaveLength(1);
    guest.call(G.probe, STACK_TOP - 0x100, guest.cpu, 0x40_0000);
    expect(guest.inside()).toBe(true);
  });

  test('a second mapping of a loaded module is no second module', () => {
    const guest = new Guest([registered(image)]);
    guest.start(image);
    guest.tables.map(CORE + 0x40_1000, guest.cpu.translate(CORE + 0x1000, false)); // an alias of the gates
    guest.call(G.init, STACK_TOP - 0x100, guest.cpu, 0x40_0000);
    expect(guest.inside()).toBe(false);
    expect(refusals(guest)).toEqual(['text-differs']);
    expect(instances(guest)).toHaveLength(1);
  });

  test('init memory given back may hold another guarded module, and be called by the first', () => {
    const other = tinyImage({ module: 'other', version: 2 });
    const guest = new Guest([registered(image), registered(other)]);
    guest.start(image);
    guest.start(other, { shift: INIT - CORE, frames: 0x50_0000 });
    expect(guest.monitor.modules().map(({ instances: [only] }) => only?.state)).toEqual(['live', 'live']);
    guest.call(G.probe);
    guest.setRsp(guest.rsp() - 16);
    guest.within(CORE + T.afterInner);
    guest.push(0);
    guest.within(CORE + T.afterThunk);
    guest.handle(guest.cpu.fetch(guest.gateAddress(G.probe, INIT - CORE)));
    expect(guest.monitor.violations()).toEqual([]);
    guest.gate(G.probe, guest.cpu, INIT - CORE);
    expect(guest.rip()).toBe(INIT + T.probe);
  });

  test('P11 two machines with the same module share nothing', () => {
    const [one, two] = [new Guest([registered(image)]), new Guest([registered(image)])];
    one.start(image);
    two.load(image);
    one.call(G.probe);
    expect(two.inside()).toBe(false);
    two.setRsp(one.rsp());
    two.gate(G.reentry);
    expect(two.inside()).toBe(false);
    one.ret();
    expect(instances(two)).toEqual([]);
  });
});
