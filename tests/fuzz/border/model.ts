/**
 * A model of the borders: what a monitor must decide, written from the design and not from the monitor, for some modules on a few CPUs.
 * It is slow, keeps everything in plain lists, and knows no engine; the fuzzer drives it beside the monitor and compares every decision.
 *
 * Which crossing it is that a CPU comes to, stands here; what a crossing does, in crossings.ts; what becomes of the rest, in endings.ts.
 */
import { G } from '../../../src/privileges/testing.ts';
import { Crossings } from './crossings.ts';
import { Endings, type Verdict } from './endings.ts';
import type { Module } from './guarded-module.ts';
import type { State } from './state.ts';
import { RIP, word } from './words.ts';

export class Model {
  private readonly endings: Endings;
  private readonly crossings: Crossings;

  constructor(private readonly state: State) {
    this.endings = new Endings(state);
    this.crossings = new Crossings(state, this.endings);
  }

  /** A CPU executes a gate of a module: its own, when it is in one. RIP is behind the gate already. */
  gate(cpu: number, module: Module, gate: number, ring: number): Verdict {
    return this.endings.done(this.onGate(cpu, module, gate, ring));
  }

  private onGate(cpu: number, module: Module, gate: number, ring: number): Verdict {
    if (gate > module.lastGate) return 'not-mine';
    if (this.state.inside[cpu]) return this.gateInside(cpu, module, gate);
    if (module.state === 'absent') return ring === 0 ? this.unloadedGate(cpu, module, gate) : 'not-mine';
    if (ring !== 0) return this.endings.breach(module, 'not-kernel-mode');
    if (gate === G.reentry) return this.crossings.returnIn(cpu, module);
    const event = this.state.frames.find(module, 'event', this.state.rsp(cpu));
    if (event?.address === module.gateAddress(gate)) return this.crossings.resume(cpu, module, event.address);
    if (module.entry(gate) === undefined) return this.endings.breach(module, 'gate-misused');
    if (module.gatesMapped === module.gatesLoaded) return this.crossings.callIn(cpu, module, gate);
    this.endings.end(module); // other memory is where it was
    return this.unloadedGate(cpu, module, gate);
  }

  /** The next instruction of a CPU may not be executed where it is. */
  fetch(cpu: number, at: number, ring: number): Verdict {
    return this.endings.done(this.onFetch(cpu, at, ring));
  }

  private onFetch(cpu: number, at: number, ring: number): Verdict {
    const inside = this.state.inside[cpu];
    if (inside) return this.leaveByJump(cpu, inside, at);
    const owner = this.state.loaded.find((module) => module.isCode(at));
    if (!owner) return 'not-mine';
    return ring === 0 ? this.crossings.resume(cpu, owner, at) : this.endings.breach(owner, 'text-fetch');
  }

  /** Text of a module is fetched through another mapping of its frame. */
  fetchAlias(module: Module): Verdict {
    return module.state === 'absent' ? 'not-mine' : this.endings.done(this.endings.breach(module, 'text-fetch'));
  }

  /** An event is about to be delivered at RIP `at`, in a module. It is delivered, whatever comes of this. */
  event(cpu: number, module: Module, at: number, type: string, vector: number): Verdict {
    return this.endings.done(
      module.isCode(at) ? this.crossings.eventOut(cpu, module, at, type === 'exception' ? vector : -1) : this.leaveByJump(cpu, module, at),
    );
  }

  /** A return in a module that would not go where its call said. */
  badReturn(cpu: number, module: Module): Verdict {
    return this.endings.done(this.endings.violation(cpu, module, 'shadow-stack'));
  }

  /** The kernel writes to text or gates of a module. */
  write(module: Module): Verdict {
    return module.state === 'absent' ? 'not-mine' : this.endings.done(this.endings.breach(module, 'text-write'));
  }

  /** INIT: the CPU stops where it is, also in a module. What it had begun there never ends. */
  reset(cpu: number): void {
    const inside = this.state.inside[cpu];
    if (inside) this.state.leaveScrubbed(cpu, inside);
  }

  /** A CPU has nothing to do: there is time to look which modules the guest has freed without a word. */
  halt(ring: number): Verdict {
    if (ring === 0) this.endings.endFreed();
    return 'not-mine';
  }

  /** The virtual machine stops. */
  stop(): void {
    for (const module of this.state.loaded) this.endings.end(module);
  }

  private unloadedGate(cpu: number, module: Module, gate: number): Verdict {
    this.endings.endFreed();
    if (module.entry(gate) === undefined) return this.endings.refuse(cpu, 'not-registered');
    if (gate !== G.init) return this.endings.refuse(cpu, 'init-not-first');
    if (this.state.loaded.some((other) => module.collides(other))) return this.endings.refuse(cpu, 'sections-overlap');
    module.load();
    this.state.loaded = [...this.state.loaded, module];
    return this.crossings.callIn(cpu, module, gate);
  }

  private gateInside(cpu: number, module: Module, gate: number): Verdict {
    const target = module.call(gate);
    if (target !== undefined) {
      const broken = this.crossings.callOut(cpu, module, target, gate);
      return broken ? this.endings.violation(cpu, module, broken) : 'handled';
    }
    const entry = module.entry(gate);
    if (entry !== undefined) {
      if (!module.isCode(entry)) return this.endings.violation(cpu, module, 'wild-fetch');
      this.state.tallies.crossings.internal++;
      this.state.registers[cpu][RIP] = word(entry);
      return 'handled';
    }
    return gate === G.return ? this.crossings.returnOut(cpu, module) : this.endings.violation(cpu, module, 'gate-misused');
  }

  /** The module goes on outside its code: a call by pointer if a return address of its own is on top, else a wild jump. */
  private leaveByJump(cpu: number, module: Module, at: number): Verdict {
    if (!(at < 0) || module.holds(at)) return this.endings.violation(cpu, module, 'wild-fetch');
    const broken = this.crossings.callOut(cpu, module, at, -1);
    return broken ? this.endings.violation(cpu, module, broken === 'return-address' ? 'wild-fetch' : broken) : 'handled';
  }
}
