/** The stage of the contract attacks: a scripted guest with a victim, and with a second module that must work afterwards as if nothing had happened. */
import { hex } from '../base/hex.ts';
import { PAGE_SIZE, REG, setRegisterAddress } from '../engine/contract.ts';
import type { FakeCpu, FakeEngine } from '../engine/fake/engine.ts';
import type { Decision, RegisteredModule } from '../monitor/registration.ts';
import {
  CORE,
  G,
  Guest,
  granted,
  KERNEL_TEXT,
  registered,
  type LoadOptions,
  STACK,
  type TinyOptions,
  tinyImage,
} from '../privileges/testing.ts';
import type { Outcome } from './attack.ts';

export const PRIVATE = CORE + 0x3000;
/** Another thread's stack. */
export const SECOND_STACK_TOP = STACK + 0x10_4000;
export const SECOND_RSP = SECOND_STACK_TOP - 0x100;
/** Where another module goes, relative to the first, and its guest frames. */
export const SHIFT = 0x40_0000;
export const SECOND_FRAMES = 0x50_0000;
const WITNESS_SHIFT = 0x80_0000;
const WITNESS_FRAMES = 0x60_0000;
const WITNESS_STACK = STACK + 0x30_0000;
const witness = tinyImage({ module: 'witness', version: 9 });

export class Stage extends Guest {
  /** The first invariant that the engine's state broke. */
  invariant: string | undefined;

  constructor(
    modules: readonly RegisteredModule[] | ((engine: FakeEngine) => readonly RegisteredModule[]),
    options: { cpus?: number; hostPages?: number } = {},
  ) {
    super((engine) => [registered(witness), ...(typeof modules === 'function' ? modules(engine) : modules)], options);
    this.stack(SECOND_STACK_TOP - 0x4000);
    this.stack(WITNESS_STACK);
  }

  protected override invariantBroken(what: string): void {
    this.invariant ??= what;
  }

  /** Instances of the modules under attack. */
  get instances(): number {
    return this.monitor.modules().reduce((sum, { module, instances }) => sum + (module === 'witness' ? 0 : instances.length), 0);
  }

  /** Evidence that a CPU is where it must not be. */
  inView(cpu: FakeCpu = this.cpu): string | undefined {
    return this.inside(cpu) ? `CPU ${cpu.index} is in view ${cpu.view.name} at ${hex(this.rip(cpu))}` : undefined;
  }

  outcome(gained: string | undefined | false): Outcome {
    const reasons = this.events.flatMap((event) =>
      (event.event === 'guard.violation' || event.event === 'module.refused' || event.event === 'module.ended') &&
      event.module !== 'witness'
        ? [event.reason as string]
        : [],
    );
    return { gained: gained || undefined, reasons: [...new Set(reasons)], dead: this.dead() };
  }

  /** The kernel goes on, and a module that had nothing to do with it is loaded, called, calls, returns and is unloaded. */
  private dead(): string | undefined {
    for (const cpu of this.engine.cpus) {
      this.monitor.reset(cpu);
      cpu.cr3 = 0x1000;
      cpu.privilegeLevel = 0;
      cpu.msrs.clear();
      cpu.shadowStack.depth = 0;
      setRegisterAddress(cpu.registers, REG.rflags, 2);
      if (this.inside(cpu)) return `CPU ${cpu.index} cannot be taken out of ${cpu.view.name}`;
    }
    const rsp = WITNESS_STACK + 0x3f00;
    const call = (gate: number) => this.call(gate, rsp, this.cpu, WITNESS_SHIFT);
    this.load(witness, { shift: WITNESS_SHIFT, frames: WITNESS_FRAMES });
    call(G.init);
    setRegisterAddress(this.cpu.registers, REG.rax, 0);
    if (!this.inside()) return 'another module cannot be loaded';
    this.ret();
    call(G.probe);
    this.gate(G.kfunc, this.cpu, WITNESS_SHIFT); // jmp: a tail call
    this.ret();
    if (!this.inside()) return 'another module cannot come back from the kernel';
    this.gate(G.return, this.cpu, WITNESS_SHIFT);
    if (this.inside() || this.rip() !== KERNEL_TEXT || this.rsp() !== rsp) return 'another module cannot return';
    call(G.cleanup);
    this.ret();
    return this.monitor.modules()[0].instances.length === 0 ? undefined : 'another module cannot be unloaded';
  }
}

export interface VictimOptions {
  tiny?: TinyOptions;
  decision?: Partial<Extract<Decision, { granted: true }>>;
  cpus?: number;
  load?: LoadOptions;
}

/** A guest in which the victim is loaded and live. */
export function victim({ tiny, decision, cpus, load }: VictimOptions = {}): Stage {
  const image = tinyImage(tiny);
  const stage = new Stage([registered(image, granted(decision))], { cpus });
  stage.start(image, load);
  return stage;
}

/** A guest with two guarded modules, `a` and, SHIFT bytes above it, `b`. */
export function twoVictims(cpus?: number): Stage {
  const [a, b] = [tinyImage({ module: 'a' }), tinyImage({ module: 'b', version: 2 })];
  const stage = new Stage([registered(a), registered(b)], { cpus });
  stage.start(a);
  stage.start(b, { shift: SHIFT, frames: SECOND_FRAMES });
  return stage;
}

/** The bytes that the module's view maps at an address. */
export function viewPage(stage: Stage, address: number, cpu: FakeCpu = stage.cpu): Uint8Array {
  const page = cpu.view.fixedPages.find((entry) => entry.address === address - (address & (PAGE_SIZE - 1)));
  if (!page) throw new Error(`the view maps nothing at ${hex(address)}`);
  return page.page.bytes;
}
