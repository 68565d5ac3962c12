/** What a CPU does between borders, to monitor's guest and model alike: moves of the stack pointer, pushes and calls, other registers, page tables. */
import { G, KERNEL, KERNEL_TEXT, T } from '../../../src/privileges/testing.ts';
import { MOST_CALLS } from './frames.ts';
import { type Machine, NEAR_STACK, PLACINGS, STACK_PAGES, STACKS, USER_PAGE } from './machine.ts';
import { Module, PAGE } from './guarded-module.ts';
import type { State } from './state.ts';
import { canonical, FLAGS, RAX, RBP, RSP, word } from './words.ts';

const MSR_GS_BASE = 0xc000_0101;
const [FIRST, SECOND] = PLACINGS.map((placing) => new Module(placing, 'log'));
const NOT_CANONICAL = 0x8000_0000_0000n;
/** What may come to lie on a stack. */
const VALUES = [
  ...[T.afterInner, T.afterCall, T.innerAfterCall, T.bpAfterCall].map((at) => word(FIRST.core + at)),
  ...[T.afterInner, T.innerAfterCall].map((at) => word(SECOND.core + at)),
  ...[KERNEL_TEXT, FIRST.init + T.initAfterCall, 0, STACKS[0] + 2 * PAGE].map(word),
  ...[FIRST, SECOND].flatMap((module) => [G.return, G.reentry, G.probe].map((gate) => word(module.gateAddress(gate)))),
  NOT_CANONICAL,
];
/** Stack pointers that are wrong, or only right for some modules at some times. */
const HOSTILE = [
  ...[0n, 8n, 0xffff_ffff_ffff_fff8n, NOT_CANONICAL],
  ...[USER_PAGE, KERNEL_TEXT & -PAGE, STACKS[0] + 0x3ff4, STACKS[0] - 8, STACKS[0] + STACK_PAGES * PAGE].map(word),
  ...[FIRST.start, SECOND.start, SECOND.start + PAGE, NEAR_STACK, NEAR_STACK + PAGE].map((at) => word(at + 0x800)),
];
/** What the last word of a private stack may hold instead of the kernel's stack pointer. */
const KEPT = [word(0x1234), NOT_CANONICAL, word(FIRST.start + 64), word(SECOND.start + 64), word(STACKS[0] - 8), word(STACKS[1] + 0x808)];
const FLAG_VALUES = [2n, 0x202n, 0x246n, 0x1_0402n];

const pick = <T>(list: readonly T[], number: number): T => list[number % list.length];

export class Stir {
  constructor(
    private readonly machine: Machine,
    private readonly state: State,
  ) {}

  /** One small change, or none. */
  step(cpu: number, a: number, b: number): void {
    const { state } = this;
    const registers = state.registers[cpu];
    const calm = state.inside[cpu] !== undefined && b % 8 !== 0; // a module's own code keeps its stack pointer
    switch (a % 48) {
      case 0:
      case 1:
        if (!calm) this.toRandom(cpu, b);
        break;
      case 2:
      case 3:
      case 4: {
        // where some unfinished crossing ends
        if (calm) break;
        const frames = state.frames.list;
        const frame = frames[(b >> 3) % (frames.length || 1)];
        if (frame) this.setRsp(cpu, word(frame.key - (b % 8 === 7 ? 8 : 0)));
        else this.toRandom(cpu, b);
        break;
      }
      case 5:
      case 6:
        this.push(cpu, !state.inside[cpu] && b % 4 !== 0 ? word(KERNEL_TEXT) : pick(VALUES, b >> 2), b % 16 !== 15);
        break;
      case 7:
        this.store(cpu, canonical(registers[RSP]) + 8 * (b % 8), pick(VALUES, b >> 3));
        break;
      case 8:
        this.setRsp(cpu, registers[RSP] + BigInt(8 * ((b % 9) - 4)));
        break;
      case 9:
        if (b % 4 === 0) this.setRsp(cpu, pick(HOSTILE, b >> 2));
        break;
      case 10:
        for (const register of [RAX, 2, 3, 12, 15]) registers[register] = BigInt(b) * 0x1_0001_0001n;
        registers[FLAGS] = pick(FLAG_VALUES, b);
        registers[RBP] = b % 3 === 0 ? BigInt(b) : registers[RSP] + BigInt(8 * (b % 5));
        break;
      case 11:
        if (b % 8 === 0) this.machine.mapPage((b >> 3) % STACKS.length, (b >> 5) % STACK_PAGES, (b >> 7) % 8 !== 0);
        else if (b % 16 === 1) this.machine.toggleGates(pick(state.modules, b >> 4));
        break;
      case 12:
        if (b % 4 === 0) this.setGs(cpu, b % 16 === 0 ? pick(state.modules, b >> 4) : undefined);
        break;
      case 13:
        this.succeed(cpu);
        break;
      default:
        break;
    }
    this.machine.guest.engine.cpus[cpu].registers.words.set(registers);
  }

  setRsp(cpu: number, value: bigint): void {
    this.state.registers[cpu][RSP] = value;
    this.machine.guest.engine.cpus[cpu].registers.words[RSP] = value;
  }
  toRandom(cpu: number, b: number): void {
    this.setRsp(cpu, word(pick(STACKS, b >> 4) + 8 * (1 + (b % ((STACK_PAGES * PAGE) / 8 - 1)))));
  }

  /** The word at an address as the CPU finds it, where it may be part of a stack. */
  load(cpu: number, at: number): bigint | undefined {
    const module = this.state.inside[cpu];
    if (!module?.isPrivate(at)) return this.state.stacks.get(at);
    return at % 8 === 0 ? module.private[(at - module.start) / 8] : undefined;
  }
  /** False where there is none. */
  private store(cpu: number, at: number, value: bigint): boolean {
    const { state, machine } = this;
    if (this.load(cpu, at) === undefined) return false;
    const module = state.inside[cpu];
    if (module?.isPrivate(at)) this.storePrivate(module, (at - module.start) / 8, value);
    else {
      state.stacks.set(at, value);
      const region = machine.regions.find(({ base, words }) => at >= base && at < base + 8 * words.length);
      if (region) region.actual[(at - region.base) / 8] = value;
    }
    return true;
  }
  private storePrivate(module: Module, index: number, value: bigint): void {
    module.private[index] = value;
    const { page } = this.machine.keys[this.state.modules.indexOf(module)];
    if (page) page[index] = value;
  }

  /** Pushes a word. In a module it is mostly a call that pushes. False where there is no room. */
  push(cpu: number, value: bigint, call = true): boolean {
    const { state, machine } = this;
    const at = canonical(state.registers[cpu][RSP]) - 8;
    if (!this.store(cpu, at, value)) return false;
    const calls = state.calls[cpu];
    const back = canonical(value);
    if (call && calls.length > 0 && calls.length < MOST_CALLS && !Number.isNaN(back)) {
      const left = machine.guest.within(back, machine.guest.engine.cpus[cpu]);
      if (left !== undefined) throw new Error('a call left the module');
      calls.push({ back, slot: at });
    }
    this.setRsp(cpu, word(at));
    return true;
  }

  /** A function of the module, at its first instruction, makes its frame and the call that returns to `back`. */
  call(cpu: number, module: Module, back: number): boolean {
    const { size, base } = module.layout(back - 1);
    const registers = this.state.registers[cpu];
    const rsp = canonical(registers[RSP]);
    if (Number.isNaN(rsp)) return false;
    if (base === 'rsp') this.setRsp(cpu, word(rsp - size + 8));
    else {
      if (!this.store(cpu, rsp - 8, registers[RBP])) return false;
      registers[RBP] = word(rsp - 8);
      this.setRsp(cpu, word(rsp - 40));
      this.machine.guest.engine.cpus[cpu].registers.words.set(registers);
    }
    return this.push(cpu, word(back));
  }

  /** The result of a function that went well. */
  succeed(cpu: number): void {
    this.state.registers[cpu][RAX] = 0n;
    this.machine.guest.engine.cpus[cpu].registers.words[RAX] = 0n;
  }

  /** The stack pointer of a function that is about to return, where it is known. */
  toNewestCall(cpu: number): void {
    const newest = this.state.calls[cpu].at(-1);
    if (newest) this.setRsp(cpu, word(newest.slot));
  }
  /** That of a function at `at`. */
  toFrameOf(cpu: number, module: Module, at: number): void {
    const newest = this.state.calls[cpu].at(-1);
    const { size, base } = module.layout(at);
    if (newest && base === 'rsp') this.setRsp(cpu, word(newest.slot - size + 8));
  }

  /** To the module's private page as to a private stack, or back from there. */
  switchStack(cpu: number, module: Module, b: number, c: number): void {
    const registers = this.state.registers[cpu];
    const last = module.private.length - 1;
    if (module.isPrivate(canonical(registers[RSP]))) {
      if (b % 16 === 0) this.storePrivate(module, last, pick(KEPT, c));
      else if (b % 4 !== 0) this.setRsp(cpu, module.private[last]);
      else if (b % 16 === 4) this.setRsp(cpu, word(module.start + 8 * (c % (last + 1))));
      return;
    }
    if (b % 16 !== 0) this.storePrivate(module, last, registers[RSP]);
    if (b % 16 !== 1) this.storePrivate(module, 1, registers[RBP]);
    registers[RBP] = word(module.end - 8);
    this.machine.guest.engine.cpus[cpu].registers.words.set(registers);
    this.setRsp(cpu, word(module.end - 8));
  }

  /** The GS base: zero, or such that the kernel's preempt_count falls into the private page of a module. */
  private setGs(cpu: number, module: Module | undefined): void {
    this.state.gs[cpu] = module;
    this.machine.guest.engine.cpus[cpu].writeMsr(MSR_GS_BASE, module ? word(module.start - KERNEL.preempt_count) : 0n);
  }
}
