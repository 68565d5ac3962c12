/** Whatever a guest does at the border: the VMM lives, nothing grows, nothing is given (SECURITY.md, P2, P11). */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { REG } from '../engine/contract.ts';
import type { Exit } from '../engine/contract.ts';
import { Audit } from './audit.ts';
import type { AuditEvent } from './audit.ts';
import { FRAME_CAPACITY } from './border.ts';
import { FRAME, Frames } from './frames.ts';
import { CORE, G, granted, Guest, INIT, KERNEL_TEXT, registered, STACK, STACK_TOP, T, tinyImage } from '../privileges/testing.ts';

const image = tinyImage();

describe('P11: before a module is loaded, and after', () => {
  test('P11 every gate action before load and after unload gives nothing', () => {
    const guest = new Guest([registered(image)]);
    const everything = () => {
      for (let gate = 0; gate < 11; gate++) {
        if (gate === G.init) continue;
        guest.setRsp(STACK_TOP - 0x100);
        guest.gate(gate);
        expect(guest.inside()).toBe(false);
      }
      for (const exit of [
        { kind: 'fetch', address: CORE },
        { kind: 'fetch', address: -1 },
        { kind: 'event', event: { type: 'nmi', vector: 2, errorCode: -1, address: 0n } },
        { kind: 'mmio', gpa: 0x1000, size: 4, write: true, value: 0, refused: false },
        { kind: 'halt' },
        { kind: 'shutdown' },
      ] satisfies Exit[])
        expect(guest.handle(exit)).toBe('not-mine');
    };
    everything();
    guest.load(image);
    everything();
    guest.start(image);
    guest.call(G.cleanup);
    guest.ret();
    everything();
  });
});

describe('P11: frames are bounded', () => {
  test('P11 calls in and out without end keep within the frames there are', () => {
    const guest = new Guest([registered(image, granted({ onViolation: 'log' }))]);
    guest.start(image);
    const STACKS = 24;
    for (let stack = 0; stack < STACKS; stack++) guest.stack(STACK + 0x100_0000 + stack * 0x8000);
    // Every stack deeper and deeper: entry, call-out, entry, ...
    for (let depth = 0; depth < 400; depth++) {
      for (let stack = 0; stack < STACKS; stack++) {
        guest.call(G.probe, STACK + 0x100_4000 + stack * 0x8000 - 0x20 * depth);
        guest.gate(G.kfunc);
      }
    }
    expect(guest.monitor.frames().live).toBe(FRAME_CAPACITY);
    expect(guest.monitor.frames().evicted).toBeGreaterThan(1000);
    guest.call(G.probe);
    expect(guest.inside()).toBe(true);
    guest.ret();
    expect(guest.rip()).toBe(KERNEL_TEXT);
  });

  test('frames: newest first by key and kind; older same-stack frames below a new one are dropped', () => {
    const frames = new Frames(8);
    const same = () => true;
    const a = frames.push(FRAME.callIn, 1, STACK_TOP - 0x100, -1, 0, same);
    const b = frames.push(FRAME.callOut, 1, STACK_TOP - 0x100, -2, 0, same);
    const c = frames.push(FRAME.callOut, 1, STACK_TOP - 0x100, -3, 0, same);
    expect(frames.find(FRAME.callIn, 1, STACK_TOP - 0x100)).toBe(a);
    expect(frames.find(FRAME.callOut, 1, STACK_TOP - 0x100)).toBe(c);
    expect(frames.find(FRAME.callOut, 2, STACK_TOP - 0x100)).toBe(-1);
    frames.take(c, same);
    expect(frames.find(FRAME.callOut, 1, STACK_TOP - 0x100)).toBe(b);
    frames.push(FRAME.callIn, 2, STACK_TOP - 0x200, -4, 0, same);
    frames.push(FRAME.callIn, 2, STACK_TOP - 0x180, -5, 0, same); // above: the one at -0x200 is gone
    expect(frames.find(FRAME.callIn, 2, STACK_TOP - 0x200)).toBe(-1);
    expect(frames.live).toBe(3);
    frames.take(a, same); // all newer ones of the stack go with it
    expect(frames.live).toBe(0);
    for (let index = 0; index < 20; index++) frames.push(FRAME.event, 1, STACK - index * 0x4000, -1, 0, same);
    expect(frames.live).toBe(8);
    expect(frames.evicted).toBe(12);
    expect(frames.find(FRAME.event, 1, STACK)).toBe(-1);
    expect(frames.find(FRAME.event, 1, STACK - 19 * 0x4000)).toBeGreaterThanOrEqual(0);
    frames.dropInstance(1);
    expect(frames.live).toBe(0);
  });
});

describe('P11: the audit stream is limited', () => {
  const refused = { event: 'module.refused', module: 'x', reason: 'no-grant', detail: '' } as const;
  const flooded = () => {
    const stream = { out: [] as AuditEvent[], now: 0 };
    const audit = new Audit(
      (event) => stream.out.push(event),
      () => stream.now,
    );
    for (let index = 0; index < 10_000; index++) audit.emit(refused);
    return { stream, audit };
  };

  test('P11 a flood is held back and counted', () => {
    const { stream, audit } = flooded();
    expect(stream.out).toHaveLength(100);
    stream.now = 1e9;
    expect(audit.emit(refused)).toBe(true);
    expect(stream.out.at(-1)?.suppressed).toBe(9900);
  });

  test.each<Parameters<Audit['emit']>[0]>([
    { ...refused, reason: 'text-differs' },
    { ...refused, module: 'y' },
    { event: 'guard.violation', module: 'x', instance: 1, reason: 'text-write', detail: '', cpu: 0, count: 1 },
    { event: 'module.quarantined', module: 'x', instance: 1, reason: 'text-write' },
  ])('P11 and hides nothing of another kind: $event $module $reason', (other) => {
    const { stream, audit } = flooded();
    expect(audit.emit(other)).toBe(true);
    expect(stream.out.at(-1)).toEqual({ ...other, time: 0 });
  });

  test('P11 what was held back last is told at the end', () => {
    const { stream, audit } = flooded();
    audit.end();
    const [last] = stream.out.slice(100);
    expect(last).toEqual({ event: 'audit.suppressed', of: 'module.refused', module: 'x', reason: 'no-grant', count: 9900, time: 0 });
    audit.end();
    expect(stream.out).toHaveLength(101);
  });

  test('P11 a quarantine that the stream held back is known all the same', () => {
    const guest = new Guest([registered(image)]);
    for (let round = 0; round < 150; round++) {
      guest.start(image);
      const gpa = guest.cpu.translate(CORE, false);
      guest.handle({ kind: 'mmio', gpa, size: 4, write: true, value: 0, refused: false });
      guest.call(G.cleanup);
    }
    expect(guest.reasons('module.quarantined')).toHaveLength(100);
    expect(guest.monitor.modules()[0].quarantined).toBe(true);
    expect(guest.monitor.violations()).toMatchObject([{ reason: 'text-write', count: 150 }]);
    expect(guest.monitor.refusals()).toMatchObject([{ module: 'tiny', reason: 'quarantined', count: 150 }]);
  });
});

/** One hostile step: a gate, fetch, event or write with any stack pointer, at any place, on either CPU. */
const step = fc.record({
  cpu: fc.constantFrom(0, 1),
  action: fc.constantFrom('gate', 'fetch', 'event', 'write', 'call', 'ret', 'poke'),
  gate: fc.integer({ min: 0, max: 12 }),
  at: fc.constantFrom(
    CORE,
    CORE + T.warn,
    CORE + T.warn + 2,
    CORE + T.fixup,
    CORE + 0x1000,
    CORE + 0x3000,
    CORE + 0x4000,
    INIT,
    KERNEL_TEXT,
    0x40_0000,
    -8,
  ),
  rsp: fc.oneof(
    fc.integer({ min: 0, max: 0x7ff }).map((slot) => BigInt.asUintN(64, BigInt(STACK_TOP - 8 * slot))),
    fc.constantFrom(
      0n,
      8n,
      0xffff_ffff_ffff_fff8n,
      0x8000_0000_0000n,
      BigInt.asUintN(64, BigInt(CORE + 0x3800)),
      BigInt.asUintN(64, BigInt(CORE + 0x1008)),
    ),
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  ),
  keep: fc.boolean(),
  value: fc.constantFrom(0, KERNEL_TEXT, CORE + T.innerAfterCall, CORE + T.afterInner, CORE + 0x1000, CORE + 0x1010),
  ring: fc.constantFrom(0, 0, 0, 0, 3),
});

test.each([true, false])(
  'P11 random border actions: nothing crashes, nothing grows, and no CPU is inside but by a gate or a resume (shadow stacks: %s)',
  (shadowStacks) => {
    const guest = new Guest([registered(image, granted({ onViolation: 'log' }))], { cpus: 2, shadowStacks }); // each run loads the module anew
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 60 }), (steps) => {
        guest.monitor.end(); // what a failed run left
        for (const cpu of guest.engine.cpus) {
          cpu.privilegeLevel = 0;
          cpu.registers.words.fill(0n);
          cpu.registers.words[REG.rflags] = 2n;
          cpu.delivered.length = 0;
        }
        for (let slot = 8; slot <= 0x4000; slot += 8) guest.setWord(STACK_TOP - slot, 0);
        guest.start(image);
        expect(guest.monitor.modules()[0].instances).toHaveLength(1);
        const pages = guest.engine.allocated + 1; // and the init text, should the module be loaded again
        for (const { cpu: index, action, gate, at, rsp, keep, value, ring } of steps) {
          const cpu = guest.engine.cpus[index];
          const inside = guest.inside(cpu);
          cpu.privilegeLevel = inside ? 0 : ring;
          if (!keep) cpu.registers.words[REG.rsp] = rsp;
          const before = { ...guest.monitor.crossings };
          const other = guest.inside(guest.engine.cpus[1 - index]);
          const called = action === 'call' && cpu.writable(guest.rsp(cpu) - 8) ? guest.within(value, cpu) : undefined;
          if (action === 'gate' || (action === 'call' && called === undefined)) guest.gate(gate, cpu);
          else if (action === 'ret' && cpu.translate(guest.rsp(cpu), true) >= 0) {
            const to = cpu.ret();
            if (typeof to === 'object') guest.handle(to, cpu);
            else guest.handle(inside && !cpu.executable(to) ? cpu.fetch(to) : cpu.out(to, 0x5e), cpu);
          } else if (action === 'poke' && cpu.writable(guest.rsp(cpu))) guest.setWord(guest.rsp(cpu), value);
          else if (action === 'fetch' && !cpu.executable(at)) guest.handle(cpu.fetch(at), cpu);
          else if (action === 'event' && inside) guest.handle(cpu.event(at, { vector: 6, type: 'exception' }), cpu);
          else if (action === 'write')
            guest.handle({ kind: 'mmio', gpa: Math.max(0, cpu.translate(at, false)), size: 4, write: true, value: 0, refused: false }, cpu);
          const after = guest.monitor.crossings;
          if (!inside && guest.inside(cpu)) {
            expect(ring).toBe(0);
            expect(after.callIn + after.returnIn + after.resume).toBe(before.callIn + before.returnIn + before.resume + 1);
            // In its text or gates; in init text when the module was ended and is being loaded again.
            const rip = guest.rip(cpu);
            expect((rip >= CORE && rip < CORE + 0x2000) || (rip >= INIT && rip < INIT + 0x1000), `RIP ${rip}`).toBe(true);
          }
          if (guest.monitor.modules()[0].instances.length > 0) expect(guest.inside(guest.engine.cpus[1 - index]), action).toBe(other);
          expect(guest.monitor.frames().live).toBeLessThanOrEqual(60);
          expect(guest.engine.allocated).toBeLessThanOrEqual(pages);
        }
        guest.monitor.end();
        expect(guest.engine.allocated).toBe(0);
        expect(guest.engine.protectedFrames).toBe(0);
        expect(guest.monitor.frames().live).toBe(0);
        for (const cpu of guest.engine.cpus) expect(guest.inside(cpu)).toBe(false);
      }),
      { numRuns: 300 },
    );
  },
);
