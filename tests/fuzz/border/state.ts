/** The guest as far as its borders go: CPUs, modules, stacks, unfinished crossings; and how a CPU comes into a module and out of it. */
import { type Call, type Frame, Frames } from './frames.ts';
import type { Module } from './guarded-module.ts';
import type { Stacks } from './stacks.ts';
import { canonical, FLAGS, RIP, RSP, STATUS, word, type Words } from './words.ts';

export class State {
  /** Per CPU: the module whose code it executes. Its privileges are the CPU's, and nobody else's are. */
  readonly inside: (Module | undefined)[];
  readonly registers: Words[];
  /** Per CPU: the module into whose private memory the GS base makes per-CPU data fall. */
  readonly gs: (Module | undefined)[];
  /** Per CPU: what its shadow stack holds, oldest first; nothing where there are none. */
  readonly calls: Call[][];
  readonly frames: Frames;
  /** The oldest first. */
  loaded: readonly Module[] = [];
  /** How often something happened, by name. */
  readonly tallies: Record<'crossings' | 'refusals' | 'violations', Record<string, number>> = {
    crossings: { callIn: 0, returnOut: 0, callOut: 0, returnIn: 0, eventOut: 0, resume: 0, internal: 0, refused: 0 },
    refusals: {},
    violations: {},
  };

  constructor(
    cpus: number,
    readonly modules: readonly Module[],
    readonly stacks: Stacks,
    readonly shadowStacks: boolean,
  ) {
    this.frames = new Frames(stacks);
    this.inside = new Array(cpus).fill(undefined);
    this.calls = Array.from({ length: cpus }, () => []);
    this.gs = new Array(cpus).fill(undefined);
    this.registers = Array.from({ length: cpus }, () => {
      const registers = new BigUint64Array(18);
      registers[FLAGS] = 2n;
      return registers;
    });
  }

  /** Its stack pointer; NaN where it is not canonical. */
  rsp(cpu: number): number {
    return canonical(this.registers[cpu][RSP]);
  }

  /** Into a module, where a crossing ends. */
  goOn(cpu: number, { module, calls }: Frame, at: number): void {
    this.registers[cpu][RIP] = word(at);
    this.inside[cpu] = module;
    this.calls[cpu] = [...calls];
  }

  /** Out of a module. */
  leave(cpu: number): void {
    this.inside[cpu] = undefined;
    this.calls[cpu] = [];
  }

  /** Leaves without a crossing: with nothing of the module in the registers, and on the kernel's stack if there is one. */
  leaveScrubbed(cpu: number, module: Module): void {
    const kernel = module.kernelPointer(this.rsp(cpu));
    if (!Number.isNaN(kernel)) this.registers[cpu][RSP] = word(kernel);
    this.scrub(cpu);
    this.leave(cpu);
  }

  /** Nothing of the module stays in the registers. */
  scrub(cpu: number): void {
    const registers = this.registers[cpu];
    for (let register = 0; register < 16; register++) if (register !== RSP) registers[register] = 0n;
    registers[FLAGS] &= ~STATUS;
  }
}
