/** What a life of the guest has come to, beyond the crossings and reasons that are counted anyway: so that a test can ask whether it still does. */
import type { Machine } from './machine.ts';
import type { State } from './state.ts';
import type { Module } from './guarded-module.ts';
import { reach } from './stacks.ts';
import { canonical, RIP, RSP } from './words.ts';

export class Places {
  readonly reached: Record<string, number> = {};
  private readonly counted: Record<string, number> = {};
  private rsp = 0;
  private inside: Module | undefined;
  private target: Module | undefined;

  constructor(
    private readonly machine: Machine,
    private readonly state: State,
  ) {}

  at(name: string): void {
    this.reached[name] = (this.reached[name] ?? 0) + 1;
  }

  /** Before a CPU comes to a border: in the kernel to a gate of `target`, if it is one. */
  before(cpu: number, target?: Module): void {
    const { inside, registers, frames } = this.state;
    this.rsp = canonical(registers[cpu][RSP]);
    this.inside = inside[cpu];
    this.target = target;
    if (this.inside || !target) return;
    const strangers = this.machine.modules.filter((module) => module !== target);
    if (strangers.some((module) => frames.find(module, 'call-out', this.rsp))) this.at('a gate where another module is to return');
  }

  /** After that step of a CPU. */
  step(cpu: number, text: string): void {
    const { inside, frames, stacks, registers } = this.state;
    const [newest] = frames.list;
    const [one, other] = inside;
    if (one && other) this.at(one === other ? 'two CPUs in one module' : 'two CPUs in two modules');
    if (this.rose('callIn')) {
      if (this.isReentryGate(newest.address)) this.at('a module calls another');
      if (frames.list.some(({ module, key }) => module !== newest.module && stacks.same(key, newest.key)))
        this.at('two modules on one stack');
      if (this.machine.modules.some(({ state }) => state === 'quarantined')) this.at('an entry beside a quarantined module');
    }
    if (this.rose('returnOut') && this.isReentryGate(canonical(registers[cpu][RIP]))) this.at('a module returns to another');
    const bad = this.rose('bad-stack', this.state.tallies.violations);
    switch (text.split(' ')[0]) {
      case 'INIT':
        if (this.inside) this.at(this.switched() ? 'INIT on a private stack' : 'INIT in a module');
        break;
      case 'event':
        if (this.switched()) this.at(bad ? 'an event on a private stack that leads nowhere' : 'an event on a private stack');
        break;
      default:
        if (inside[cpu]?.isPrivate(canonical(registers[cpu][RSP])) && !this.inside) this.at('a resume on a private stack');
        if (bad && this.switched()) this.at('a call from a private stack');
        if (bad && !this.inside) this.badEntry();
    }
  }

  /** The CPU was on a private stack. */
  private switched(): boolean {
    return this.inside?.onPrivateStack(this.rsp) ?? false;
  }
  /** The entry that was tried is refused for its stack: because of another module than the one entered? */
  private badEntry(): void {
    const { start, end } = reach(this.rsp);
    const strangers = this.machine.modules.filter((module) => module !== this.target && module.state !== 'absent');
    if (this.state.stacks.get(this.rsp) === undefined || this.target?.overlaps(start, end)) return;
    if (strangers.some((module) => module.holds(this.rsp))) this.at("a stack in another module's memory");
    else if (strangers.some((module) => module.overlaps(start, end))) this.at('a stack near another module');
  }

  private isReentryGate(at: number): boolean {
    return this.machine.modules.some(({ reentryGate }) => reentryGate === at);
  }

  private rose(name: string, counts: Record<string, number> = this.state.tallies.crossings): boolean {
    const count = counts[name] ?? 0;
    const rose = count > (this.counted[name] ?? 0);
    this.counted[name] = count;
    return rose;
  }
}
