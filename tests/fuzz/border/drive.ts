/**
 * Drives monitor and model through the same random life and compares every decision. A step is five numbers; what they mean depends on where the CPU
 * is, so that most steps do something. Numbers shrink to simpler steps.
 */
import { hex } from '../../../src/base/hex.ts';
import type { PendingEvent } from '../../../src/engine/contract.ts';
import { G, KERNEL, KERNEL_TEXT, T } from '../../../src/privileges/testing.ts';
import { Comparison } from './compare.ts';
import type { Frame } from './frames.ts';
import { ALIAS, CPUS, Machine, PLACINGS } from './machine.ts';
import { Model } from './model.ts';
import { Module, PAGE } from './guarded-module.ts';
import { Exits } from './exits.ts';
import { Places } from './places.ts';
import { Stacks } from './stacks.ts';
import { State } from './state.ts';
import { Stir } from './stir.ts';
import { canonical, RIP, word } from './words.ts';

export const NUMBERS = 5;
export type Step = readonly number[];
export interface Life {
  /** Of each module. */
  readonly policies: readonly ('log' | 'quarantine')[];
  readonly shadowStacks: boolean;
  /** Of eight steps, so many are such as a kernel and modules without bad intent would take. */
  readonly calm: number;
}
/** What a CPU can do next. What is named more often comes more often. */
type KernelMove = 'any gate' | 'call' | 'entry' | 'go on' | 'return' | 'back to an event' | 'back to a call' | 'touch' | 'pause';
type ModuleMove = 'any gate' | 'gate' | 'call' | 'return' | 'event' | 'switch stacks' | 'jump' | 'wild return' | 'pause';
const KERNEL_MOVES: readonly KernelMove[] = [
  ...(['any gate', 'any gate', 'call', 'call', 'call', 'entry', 'go on', 'go on'] as const),
  ...(['go on', 'return', 'back to an event', 'back to an event', 'back to a call', 'back to a call', 'touch', 'pause'] as const),
];
const MODULE_MOVES: readonly ModuleMove[] = [
  ...(['any gate', 'gate', 'call', 'call', 'call', 'return', 'return', 'return'] as const),
  ...(['event', 'event', 'event', 'switch stacks', 'switch stacks', 'jump', 'wild return', 'pause'] as const),
];
const CALM_KERNEL_MOVES: readonly KernelMove[] = ['call', 'go on', 'back to an event', 'back to a call'];
const CALM_MODULE_MOVES: readonly ModuleMove[] = ['gate', 'call', 'call', 'return', 'return', 'event', 'event', 'switch stacks'];

/** Places in the code of a module: where an event can find it, where a jump can lead. */
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
];
const GATES = [G.return, G.reentry, G.kfunc, G.probe, G.inner];
const KERNELS = [KERNEL.kfunc, KERNEL_TEXT, 0x40_0000, -8, ALIAS, ALIAS + 9];
const EVENTS: readonly Pick<PendingEvent, 'type' | 'vector'>[] = [
  { type: 'interrupt', vector: 0x22 },
  { type: 'nmi', vector: 2 },
  { type: 'exception', vector: 6 },
  { type: 'exception', vector: 14 },
];

const pick = <T>(list: readonly T[], number: number): T => list[number % list.length];

export class Drive {
  private readonly machine: Machine;
  private readonly state: State;
  private readonly model: Model;
  private readonly exits: Exits;
  private readonly comparison: Comparison;
  private readonly places: Places;
  private readonly stir: Stir;
  private readonly modules: readonly Module[];
  private readonly calm: number;
  private text = 'the beginning';

  constructor({ policies, shadowStacks, calm }: Life) {
    this.calm = calm;
    this.modules = PLACINGS.map((placing, index) => new Module(placing, policies[index]));
    this.machine = new Machine(this.modules, shadowStacks);
    this.state = new State(CPUS, this.modules, new Stacks(this.machine.regions), shadowStacks);
    this.model = new Model(this.state);
    this.comparison = new Comparison(this.machine, this.state);
    this.places = new Places(this.machine, this.state);
    this.stir = new Stir(this.machine, this.state);
    this.exits = new Exits(this.machine, this.state, this.model, this.places);
  }

  /** How often the life came to crossings, reasons and places. */
  get tallies(): readonly Record<string, number>[] {
    return [...Object.values(this.state.tallies), this.places.reached];
  }

  /** One step. Throws with what differs. */
  step(numbers: Step): void {
    const [kind, which, a, b, c] = numbers;
    const cpu = which % CPUS;
    const inside = this.state.inside[cpu];
    const calm = (which >> 1) % 8 < this.calm;
    this.machine.guest.engine.cpus[cpu].privilegeLevel = !inside && !calm && (which >> 4) % 8 === 7 ? 3 : 0;
    if (!calm) this.stir.step(cpu, a, b);
    const text = inside
      ? this.inModule(cpu, inside, pick(calm ? CALM_MODULE_MOVES : MODULE_MOVES, kind), b, c)
      : this.inKernel(cpu, this.choose(which >> 8), pick(calm ? CALM_KERNEL_MOVES : KERNEL_MOVES, kind), b, c);
    if (text === undefined) return;
    this.text = text;
    this.comparison.step(text);
    this.places.step(cpu, text);
  }

  /** The virtual machine stops. Throws with what differs, or is left. */
  end(): void {
    this.comparison.rest(this.text);
    this.machine.guest.monitor.end();
    this.model.stop();
    this.comparison.step('the end');
    this.comparison.rest('the end');
    this.comparison.nothingLeft();
  }

  // ---- what a CPU does; undefined where it comes to no border ----

  /** A module to go on with. The third one shuts the first one out, so it comes seldom unless it is there. */
  private choose(number: number): Module {
    const [first, second, third] = this.modules;
    if (number % 64 === 0) return pick([first, third], number >> 6);
    return pick([third.state === 'absent' ? first : third, second], number);
  }

  private inKernel(cpu: number, module: Module, move: KernelMove, b: number, c: number): string {
    return this.tryInKernel(cpu, module, move, b, c) ?? this.call(cpu, module, b, c);
  }
  private tryInKernel(cpu: number, module: Module, move: KernelMove, b: number, c: number): string | undefined {
    switch (move) {
      case 'any gate':
        return this.exits.gate(cpu, module, c % (module.lastGate + 3));
      case 'call':
        return this.call(cpu, module, b, c);
      case 'entry':
        return this.exits.gate(cpu, module, c % 4 === 0 ? G.reentry : this.entry(module, c >> 2));
      case 'go on':
        return this.goOn(cpu);
      case 'return':
        return this.ret(cpu);
      case 'back to an event':
        return this.comeBack(cpu, 'event', c);
      case 'back to a call':
        return this.comeBack(cpu, 'call-out', c);
      case 'touch':
        return c % 4 === 0 ? this.exits.write(cpu, module, c >> 2) : this.exits.fetch(cpu, this.place(module, c));
      case 'pause':
        if (c % 4 === 0 || this.modules.some(({ freed }) => freed)) return this.exits.halt(cpu);
        return c % 4 === 1 ? this.exits.reset(cpu) : this.goOn(cpu);
    }
  }

  private inModule(cpu: number, module: Module, move: ModuleMove, b: number, c: number): string | undefined {
    switch (move) {
      case 'any gate':
        return this.exits.gate(cpu, module, c % (module.lastGate + 3));
      case 'gate':
        return this.exits.gate(cpu, module, pick([G.return, G.kfunc, G.fpuBegin], c));
      case 'call':
        return this.stir.call(cpu, module, pick(module.returnAddresses, c)) ? this.goTo(cpu, this.callee(module, b, c)) : undefined;
      case 'return':
        if (b % 4 !== 0) this.stir.toNewestCall(cpu);
        if (b % 16 !== 1) this.stir.succeed(cpu);
        return this.ret(cpu);
      case 'event': {
        const at = b % 8 === 0 ? this.place(module, c) : module.core + pick(CODE, c);
        if (b % 4 !== 1) this.stir.toFrameOf(cpu, module, at);
        return this.exits.event(cpu, module, at, pick(EVENTS, b >> 3));
      }
      case 'switch stacks':
        this.stir.switchStack(cpu, module, b, c);
        return undefined;
      case 'jump':
        return this.exits.fetch(cpu, b % 4 === 0 ? pick(this.modules, c >> 4).gateAddress(pick(GATES, c)) : this.place(module, c));
      case 'wild return':
        return this.ret(cpu);
      case 'pause':
        return b % 4 === 0 ? this.exits.reset(cpu) : undefined;
    }
  }

  /** What a function of the module calls: by gate or by pointer, in the kernel or in another module. Undefined: one of its own. */
  private callee(module: Module, b: number, c: number): number | undefined {
    const gates = [G.kfunc, G.kfunc, G.fpuBegin, G.fpuEnd, module.lastGate].map((gate) => module.gateAddress(gate));
    const entry = pick(this.modules, c >> 4).gateAddress(pick([G.probe, G.inner, G.withBp], c >> 7));
    return c % 64 === 5 ? module.gateAddress(G.stackFail) : pick([...gates, KERNEL_TEXT, entry, undefined, undefined], b);
  }

  /** The kernel calls a module: from where it is, or from somewhere on a stack. */
  private call(cpu: number, module: Module, b: number, c: number): string {
    if (b % 2 === 0) this.stir.toRandom(cpu, c >> 8);
    if (b % 16 !== 15) this.stir.push(cpu, word(KERNEL_TEXT));
    return this.exits.gate(cpu, module, this.entry(module, c));
  }
  /** The gate that a kernel calls, as the module's state has it. */
  private entry(module: Module, c: number): number {
    if (!module.initEntered && module.state !== 'quarantined') return G.init;
    switch (module.state) {
      case 'absent':
      case 'loading':
        return c % 64 === 15 ? G.cleanup : pick([G.probe, G.inner, G.withBp], c);
      case 'live':
        return c % (module === this.modules[2] ? 64 : 256) === 15 ? G.cleanup : pick([G.probe, G.withBp, G.inner], c);
      case 'quarantined':
        return c % 8 === 7 ? G.cleanup : pick([G.reentry, G.init, G.probe, G.inner], c);
    }
  }

  private place(module: Module, c: number): number {
    const from = c >> 6;
    return pick(
      [
        module.core + pick(CODE, from),
        module.core + pick(CODE, from),
        module.gateAddress(pick(GATES, from)),
        module.init + (from % 2 ? T.initAfterCall : 0),
        module.core + pick([3, 4], from) * PAGE,
        pick(this.modules, from).core + pick(CODE, from >> 2),
        pick(KERNELS, from),
      ],
      c,
    );
  }

  /** The kernel goes back to where an unfinished crossing ends, or nearly so. */
  private comeBack(cpu: number, kind: Frame['kind'], c: number): string | undefined {
    const frames = this.state.frames.list.filter((frame) => frame.kind === kind);
    const frame = frames[(c >> 4) % (frames.length || 1)];
    if (!frame) return undefined;
    this.stir.setRsp(cpu, word(frame.key));
    if (kind === 'event') return this.goTo(cpu, frame.address + [0, 0, 2, T.fixup - T.faulting][c % 4]);
    return this.exits.gate(cpu, c % 8 === 7 ? pick(this.modules, c >> 3) : frame.module, G.reentry);
  }

  /** Return, or a jump by what is on top of the stack. */
  private ret(index: number): string | undefined {
    const { state, stir } = this;
    const cpu = this.machine.guest.engine.cpus[index];
    const inside = state.inside[index];
    const rsp = state.rsp(index);
    const top = stir.load(index, rsp);
    const to = top === undefined ? Number.NaN : canonical(top);
    const newest = state.calls[index].at(-1);
    if (inside && state.shadowStacks && top !== undefined && (newest?.back !== to || newest.slot !== rsp))
      return this.exits.badReturn(index, inside);
    if (Number.isNaN(to)) return undefined;
    if (inside && cpu.ret() !== to) throw new Error(`the return to ${hex(to)} did not happen`);
    state.calls[index].pop();
    stir.setRsp(index, word(rsp + 8));
    return this.goTo(index, to);
  }

  private goOn(cpu: number): string | undefined {
    return this.goTo(cpu, canonical(this.state.registers[cpu][RIP]));
  }
  /** The CPU goes on at an address: a gate that it may execute, or what it may not. */
  private goTo(cpu: number, to: number | undefined): string | undefined {
    if (to === undefined || Number.isNaN(to)) return undefined;
    const inside = this.state.inside[cpu];
    for (const module of inside ? [inside] : this.modules) {
      const gate = (to - module.gateAddress(0)) / 16;
      if (Number.isInteger(gate) && gate >= 0 && gate <= module.lastGate) return this.exits.gate(cpu, module, gate);
    }
    return this.exits.fetch(cpu, to);
  }
}
