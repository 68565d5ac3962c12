/** How a thread leaves a module otherwise than by a crossing, and how a module ends: broken rules, refused calls, quarantine, unloading. */
import { G } from '../../../src/privileges/testing.ts';
import type { Frame } from './frames.ts';
import type { Module } from './guarded-module.ts';
import type { State } from './state.ts';
import { CALLEE_SAVED, canonical, FLAGS, RAX, RIP, RSP, word } from './words.ts';

export type Verdict = 'handled' | 'not-mine';

export class Endings {
  private justQuarantined: Module | undefined;

  constructor(private readonly state: State) {}

  /** A move is over: of a module that it quarantined, every CPU is taken out. */
  done(verdict: Verdict): Verdict {
    const module = this.justQuarantined;
    this.justQuarantined = undefined;
    if (module) for (const [cpu, inside] of this.state.inside.entries()) if (inside === module) this.abandon(cpu, module);
    return verdict;
  }

  /** A broken rule, and what that means for the module. */
  breach(module: Module, reason: string): Verdict {
    this.state.tallies.violations[reason] = (this.state.tallies.violations[reason] ?? 0) + 1;
    if (module.policy === 'quarantine' && module.state !== 'quarantined') {
      module.state = 'quarantined';
      this.justQuarantined = module;
    }
    return 'handled';
  }

  /** A breach by the module's own thread, which ends what it was doing. */
  violation(cpu: number, module: Module, reason: string): Verdict {
    this.breach(module, reason);
    this.abandon(cpu, module);
    return 'handled';
  }

  /** The newest entry on this stack ends as if it had returned -1. */
  abandon(cpu: number, module: Module): void {
    const frame = this.takeOut(cpu, module);
    if (frame) this.entryDone(module, frame.detail, true);
  }

  /** The same, whatever that means for the module. */
  private takeOut(cpu: number, module: Module): Frame | undefined {
    const registers = this.state.registers[cpu];
    if (this.state.inside[cpu]) this.state.leaveScrubbed(cpu, module);
    const frame = this.state.frames.entry(module, this.state.rsp(cpu));
    if (!frame) return undefined;
    this.state.frames.take(frame);
    for (const register of [...CALLEE_SAVED, FLAGS]) registers[register] = frame.registers[register];
    registers[RAX] = word(-1);
    registers[RSP] = word(frame.key);
    registers[RIP] = word(frame.address);
    return frame;
  }

  /** A call that is given nothing. */
  refuse(cpu: number, reason: string): Verdict {
    this.countRefusal(reason);
    this.giveBack(cpu);
    return 'handled';
  }

  private countRefusal(reason: string): void {
    this.state.tallies.refusals[reason] = (this.state.tallies.refusals[reason] ?? 0) + 1;
    this.state.tallies.crossings.refused++;
  }

  /** A thread comes back to a quarantined module. */
  tooLate(cpu: number, module: Module): Verdict {
    this.countRefusal('quarantined');
    this.abandon(cpu, module);
    return 'handled';
  }

  /** A refused call returns -1, where there is a stack to return by. */
  giveBack(cpu: number): void {
    const registers = this.state.registers[cpu];
    const rsp = this.state.rsp(cpu);
    const back = this.state.stacks.get(rsp);
    if (back === undefined || Number.isNaN(canonical(back))) return;
    registers[RSP] = word(rsp + 8);
    registers[RIP] = back;
    registers[RAX] = word(-1);
  }

  /** An entry of the module is over. */
  entryDone(module: Module, gate: number, failed: boolean): void {
    if (gate === G.cleanup || (gate === G.init && failed)) this.end(module);
    else if (gate === G.init) {
      module.initThere = false;
      if (module.state === 'loading') module.state = 'live';
    }
  }

  /** Modules that the guest has freed without a word. */
  endFreed(): void {
    for (const module of this.state.loaded) if (module.freed) this.end(module);
  }

  /** Nothing of a module is left: no frame, no CPU in it, nothing in its private memory. */
  end(module: Module): void {
    for (const [cpu, inside] of this.state.inside.entries()) if (inside === module) this.takeOut(cpu, module);
    this.state.frames.drop(module);
    this.state.loaded = this.state.loaded.filter((other) => other !== module);
    module.unload();
  }
}
