/**
 * Drives monitor and model through the same random life and compares every decision. A step is five numbers; what they mean depends on where the CPUs
 * are, so that most steps do something. Numbers shrink to simpler steps.
 */
import { joinAddress, PAGE_SIZE, PERMISSION, REG } from '../../src/engine/contract.ts';
import type { PendingEvent } from '../../src/engine/contract.ts';
import { CORE, G, granted, Guest, INIT, KERNEL, KERNEL_TEXT, registered, STACK, T, tinyImage } from '../../src/privileges/testing.ts';
import { canonical, Model, MOST_CALLS, type Region } from './model.ts';

export const NUMBERS = 5;
export type Step = readonly number[];
export type Policy = 'log' | 'quarantine';

const CPUS = 2;
const STACK_PAGES = 4;
const STACKS = [STACK, STACK + 0x1_0000];
const DATA = CORE + 0x4000;
const GATE_PAGE = CORE + 0x1000;
const GATE_COPY = 0x60_0000;
const USER_PAGE = 0x40_0000;
const USER_FRAME = 0x61_0000;
const ALIAS = KERNEL.kfunc + 0x10_0000;
const MSR_GS_BASE = 0xc000_0101;
/** With this GS base the kernel's preempt_count lies in the module's private page. */
const BAD_GS = BigInt.asUintN(64, BigInt(CORE + 0x3000 - KERNEL.preempt_count));
const CODE = [
  T.probe,
  4,
  T.afterInner,
  T.afterCall,
  T.inner,
  0x21,
  T.warn,
  T.warn + 2,
  T.faulting,
  T.fixup,
  T.withBp,
  0x44,
  T.bpAfterCall,
  T.cleanup,
].map((at) => CORE + at);
const PLACES = [
  ...CODE,
  CORE + 0x1000,
  CORE + 0x1010,
  CORE + 0x1070,
  INIT,
  INIT + T.initAfterCall,
  KERNEL.kfunc,
  KERNEL_TEXT,
  CORE + 0x3000,
  DATA,
  0x40_0000,
  -8,
  ALIAS,
  ALIAS + 9,
];
const VALUES = [
  KERNEL_TEXT,
  CORE + T.afterInner,
  CORE + T.afterCall,
  CORE + T.innerAfterCall,
  CORE + T.bpAfterCall,
  CORE + 0x1000,
  CORE + 0x1010,
  INIT + T.initAfterCall,
  0,
  STACK + 0x2000,
]
  .map((value) => BigInt.asUintN(64, BigInt(value)))
  .concat(0x8000_0000_0000n);
const HOSTILE_RSP = [
  0n,
  8n,
  0xffff_ffff_ffff_fff8n,
  0x8000_0000_0000n,
  0x40_0000n,
  ...[KERNEL_TEXT & ~0xfff, STACK + 0x3ff4, DATA + 0x800, STACK - 8, STACK + 0x4000].map((at) => BigInt.asUintN(64, BigInt(at))),
];
const EVENTS: readonly Pick<PendingEvent, 'type' | 'vector'>[] = [
  { type: 'interrupt', vector: 0x22 },
  { type: 'nmi', vector: 2 },
  { type: 'exception', vector: 6 },
  { type: 'exception', vector: 14 },
];
const FLAGS = [2n, 0x202n, 0x246n, 0x1_0402n];

const image = tinyImage();
const pick = <T>(list: readonly T[], number: number): T => list[number % list.length];

export class Drive {
  private readonly guest: Guest;
  private readonly model: Model;
  /** Two frames with the same gates in them: the guest maps now one, now the other. */
  private readonly gateFrames: readonly number[];
  private readonly regions: (Region & { readonly actual: Buffer; readonly frame: number })[];

  constructor(policy: Policy, shadowStacks: boolean) {
    this.guest = new Guest([registered(image, granted({ onViolation: policy }))], { cpus: CPUS, shadowStacks });
    const { guest } = this;
    guest.stack(STACKS[1]);
    guest.load(image);
    guest.tables.map(ALIAS, guest.cpu.translate(CORE, false));
    guest.tables.map(USER_PAGE, USER_FRAME); // memory that could serve as a stack, but for its address
    this.gateFrames = [guest.cpu.translate(GATE_PAGE, false), GATE_COPY];
    guest.engine.memory.bytes.copyWithin(GATE_COPY, this.gateFrames[0], this.gateFrames[0] + PAGE_SIZE);
    this.regions = [...STACKS.map((base) => [base, STACK_PAGES]), [DATA, 1]].map(([base, pages]) => {
      const frame = guest.cpu.translate(base, true);
      const { buffer } = guest.engine.memory.bytes;
      return {
        base,
        frame,
        words: new BigUint64Array(pages * 512),
        present: new Array(pages).fill(true),
        actual: Buffer.from(buffer as ArrayBuffer, frame, pages * PAGE_SIZE),
      };
    });
    this.model = new Model(CPUS, this.regions, policy, shadowStacks);
  }

  get crossings(): Record<string, number> {
    return this.model.crossings;
  }
  get reasons(): Record<string, number> {
    return { ...this.model.refusals, ...this.model.violations };
  }

  /** One step. Throws with what differs. */
  step(numbers: Step): void {
    const [what, which, a, b, c] = numbers;
    const cpu = which % CPUS;
    const ring = (which >> 4) % 16 === 15 ? 3 : 0;
    this.stir(cpu, a, b);
    const text = this.act(cpu, what, b, c, ring);
    if (text !== undefined) this.compare(text);
  }

  /** What the guest does to its own state between crossings. */
  private stir(cpu: number, a: number, b: number): void {
    const { model, guest } = this;
    const registers = model.registers[cpu];
    const setWord = (at: number, value: bigint) => {
      const slot = model.slot(at);
      if (!slot) return false;
      slot.set(value);
      guest.setWord(at, Number(BigInt.asIntN(64, value)));
      return true;
    };
    const random = () => {
      registers[REG.rsp] = BigInt.asUintN(64, BigInt(pick(STACKS, b >> 4) + 8 * (1 + (b % 2047))));
    };
    const calm = model.inside[cpu] && b % 8 !== 0; // the module's own code keeps its stack pointer
    switch (a % 32) {
      case 0:
      case 1:
        if (!calm) random();
        break;
      case 2:
      case 3:
      case 4:
      case 5: {
        // where some unfinished crossing ends
        if (calm) break;
        const frame = model.frames[(b >> 3) % (model.frames.length || 1)];
        if (frame) registers[REG.rsp] = BigInt.asUintN(64, BigInt(frame.key - (b % 8 === 7 ? 8 : 0)));
        else random();
        break;
      }
      case 6:
      case 7:
      case 8:
      case 16:
      case 17: {
        // push
        const value = !model.inside[cpu] && (a >> 5) % 4 !== 0 ? BigInt.asUintN(64, BigInt(KERNEL_TEXT)) : pick(VALUES, b);
        const at = canonical(registers[REG.rsp]) - 8;
        if (!setWord(at, value)) break;
        // In the module it is mostly a call that pushes.
        if (model.calls[cpu].length > 0 && model.calls[cpu].length < MOST_CALLS && b % 16 !== 15 && !Number.isNaN(canonical(value))) {
          guest.engine.cpus[cpu].registers.words.set(registers);
          guest.within(canonical(value), guest.engine.cpus[cpu]);
          model.calls[cpu].push({ back: canonical(value), slot: at });
        }
        registers[REG.rsp] = BigInt.asUintN(64, BigInt(at));
        break;
      }
      case 9:
        setWord(canonical(registers[REG.rsp]) + 8 * (b % 8), pick(VALUES, b >> 3));
        break; // poke near the stack pointer
      case 10:
        registers[REG.rsp] += BigInt(8 * ((b % 9) - 4));
        break;
      case 11:
        if (b % 4 === 0) registers[REG.rsp] = pick(HOSTILE_RSP, b >> 2);
        break;
      case 12: {
        // other registers
        for (const register of [REG.rax, REG.rbx, REG.r12, REG.r15, REG.rdx]) registers[register] = BigInt(b) * 0x1_0001_0001n;
        registers[REG.rflags] = pick(FLAGS, b);
        registers[REG.rbp] = b % 3 === 0 ? BigInt(b) : BigInt.asUintN(64, registers[REG.rsp] + BigInt(8 * (b % 5)));
        break;
      }
      case 13:
        if (b % 8 === 0) this.togglePage(b >> 3);
        break;
      case 14:
        if (b % 8 === 0) {
          model.badGs[cpu] = !model.badGs[cpu];
          guest.engine.cpus[cpu].writeMsr(MSR_GS_BASE, model.badGs[cpu] ? BAD_GS : 0n);
        }
        break;
      case 15:
        registers[REG.rax] = 0n;
        break; // as a function that went well
      default:
        break;
    }
    registers[REG.rsp] = BigInt.asUintN(64, registers[REG.rsp]);
    guest.engine.cpus[cpu].registers.words.set(registers);
  }

  /** The guest maps or unmaps a page of a stack, or has its gates elsewhere. */
  private togglePage(number: number): void {
    if (number % 16 === 15) {
      this.model.gatesMapped = 1 - this.model.gatesMapped;
      this.guest.tables.map(GATE_PAGE, this.gateFrames[this.model.gatesMapped]);
      return;
    }
    const region = this.regions[number % 2];
    const page = (number >> 1) % STACK_PAGES;
    region.present[page] = !region.present[page];
    const at = region.base + page * PAGE_SIZE;
    if (region.present[page]) this.guest.tables.map(at, region.frame + page * PAGE_SIZE);
    else this.guest.tables.unmap(at);
  }

  /** Makes one exit happen to both. Undefined when it cannot happen here, else what it was. */
  private act(index: number, what: number, b: number, c: number, ring: number): string | undefined {
    const { model, guest } = this;
    const cpu = guest.engine.cpus[index];
    const inside = model.inside[index];
    cpu.privilegeLevel = inside ? 0 : ring;
    cpu.delivered.length = 0;
    const gate = (number: number): string => {
      const at = guest.gateAddress(number);
      model.registers[index][REG.rip] = BigInt.asUintN(64, BigInt(at + 2));
      return this.same(`gate ${number}`, guest.handle(cpu.out(at, 0x5e), cpu), model.gate(index, number, cpu.privilegeLevel));
    };
    const fetch = (at: number): string | undefined => {
      if (!(at < 0) && !inside) return undefined;
      if (cpu.executable(at)) return undefined;
      model.registers[index][REG.rip] = BigInt.asUintN(64, BigInt(at));
      const verdict = guest.handle(cpu.fetch(at), cpu);
      return this.same(
        `fetch at ${at}`,
        verdict,
        at >= ALIAS && at < ALIAS + PAGE_SIZE && !inside ? model.fetchAlias() : model.fetch(index, at, cpu.privilegeLevel),
      );
    };
    switch (what % 8) {
      case 0:
        return gate(c % 13);
      case 1:
      case 2:
        return gate(
          model.state === 'absent'
            ? G.init
            : model.state === 'quarantined'
              ? pick([G.cleanup, G.reentry, G.probe], c)
              : inside
                ? pick([G.return, G.kfunc, G.fpuBegin], c)
                : pick([G.reentry, G.probe, G.withBp, G.inner], c),
        );
      case 3: {
        // ret, or a jump by what is on top of the stack
        const rsp = canonical(model.registers[index][REG.rsp]);
        const slot = model.slot(rsp);
        const to = slot ? canonical(slot.get()) : Number.NaN;
        const newest = model.calls[index].at(-1);
        if (inside && model.shadowStacks && slot && (newest?.back !== to || newest.slot !== rsp)) {
          const exit = cpu.ret();
          if (typeof exit === 'number') throw new Error(`a return to ${exit}, which no call said`);
          return this.same('a bad return', guest.handle(exit, cpu), model.badReturn(index));
        }
        if (Number.isNaN(to)) return undefined;
        if (inside && cpu.ret() !== to) throw new Error(`the return to ${to} did not happen`);
        model.calls[index].pop();
        model.registers[index][REG.rsp] = BigInt.asUintN(64, model.registers[index][REG.rsp] + 8n);
        cpu.registers.words.set(model.registers[index]);
        const number = (to - guest.gateAddress(0)) / 16;
        return Number.isInteger(number) && number >= 0 && number < 11 ? gate(number) : fetch(to);
      }
      case 4: {
        // back to where something was interrupted
        const events = model.frames.filter(({ kind }) => kind === 'event');
        const frame = events[(c >> 2) % (events.length || 1)];
        if (!frame || inside) return undefined;
        model.registers[index][REG.rsp] = BigInt.asUintN(64, BigInt(frame.key));
        cpu.registers.words.set(model.registers[index]);
        const at = frame.address + [0, 0, 2, T.fixup - T.faulting][c % 4];
        const number = (at - guest.gateAddress(0)) / 16;
        return Number.isInteger(number) && number >= 0 && number < 11 ? gate(number) : fetch(at);
      }
      case 5:
        return fetch(pick(PLACES, c));
      case 6: {
        if (!inside) return undefined;
        const at = b % 4 === 0 ? pick(PLACES, c) : pick(CODE, c);
        const event = pick(EVENTS, b >> 2);
        model.registers[index][REG.rip] = BigInt.asUintN(64, BigInt(at));
        const verdict = guest.handle(cpu.event(at, event), cpu);
        if (cpu.delivered.length !== 1 || cpu.delivered[0].view !== guest.engine.untrusted)
          throw new Error('the event was not delivered once, in the untrusted view');
        return this.same(`event ${event.vector} at ${at}`, verdict, model.event(index, at, event.type, event.vector));
      }
      default: {
        const gpa = cpu.translate(pick([CORE, CORE + 0x1000, INIT], c), false);
        if (c % 8 !== 0 || (guest.engine.protection(gpa) & PERMISSION.write) !== 0) return undefined;
        return this.same(
          'write',
          guest.handle({ kind: 'mmio', gpa: gpa + 8, size: 4, write: true, value: 0xcc, refused: false }, cpu),
          model.write(),
        );
      }
    }
  }

  private same(text: string, actual: unknown, expected: unknown): string {
    if (actual !== expected) throw new Error(`${text}: the monitor says ${String(actual)}, the model ${String(expected)}`);
    return text;
  }

  private compare(text: string): void {
    const { guest, model } = this;
    const differ = (what: string, actual: unknown, expected: unknown) => {
      const show = (value: unknown) =>
        JSON.stringify(value, (_, entry: unknown) => (typeof entry === 'bigint' ? `0x${entry.toString(16)}` : entry));
      throw new Error(`${text}: ${what}: the monitor has ${show(actual)}, the model ${show(expected)}`);
    };
    const counts = (what: string, list: readonly { reason: string; count: number }[], expected: Record<string, number>) => {
      if (list.length !== Object.keys(expected).length || list.some(({ reason, count }) => expected[reason] !== count))
        differ(what, list, expected);
    };
    counts('violations', guest.monitor.violations(), model.violations);
    counts('refusals', guest.monitor.refusals(), model.refusals);
    for (const [name, count] of Object.entries(guest.monitor.crossings))
      if (model.crossings[name] !== count) differ(`crossings ${name}`, count, model.crossings[name]);
    const state = guest.monitor.modules()[0].instances[0]?.state ?? 'absent';
    if (state !== model.state) differ('state', state, model.state);
    for (const [index, cpu] of guest.engine.cpus.entries()) {
      if (guest.inside(cpu) !== model.inside[index]) differ(`CPU ${index} inside`, guest.inside(cpu), model.inside[index]);
      const { words } = cpu.registers;
      const { halves, depth } = cpu.shadowStack;
      const calls = Array.from({ length: depth }, (_, entry) => ({
        back: joinAddress(halves[4 * entry], halves[4 * entry + 1]),
        slot: joinAddress(halves[4 * entry + 2], halves[4 * entry + 3]),
      }));
      if (JSON.stringify(calls) !== JSON.stringify(model.calls[index])) differ(`calls of CPU ${index}`, calls, model.calls[index]);
      if (model.registers[index].some((value, register) => words[register] !== value))
        differ(`registers of CPU ${index}`, [...words], model.registers[index]);
    }
    const { live } = guest.monitor.frames();
    if (live !== model.frames.length) differ('frames', live, model.frames.length);
    for (const { base, actual, words } of this.regions) {
      const expected = Buffer.from(words.buffer);
      if (!actual.equals(expected)) {
        const at = words.findIndex((value, index) => actual.readBigUInt64LE(8 * index) !== value);
        differ(`word ${base + 8 * at}`, actual.readBigUInt64LE(8 * at), words[at]);
      }
    }
  }
}
