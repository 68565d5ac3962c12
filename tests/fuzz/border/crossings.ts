/** The six border crossings: what must hold for each, and what it does. */
import { G, T } from '../../../src/privileges/testing.ts';
import type { Endings, Verdict } from './endings.ts';
import type { Frame } from './frames.ts';
import { type Module, ON_TOP } from './guarded-module.ts';
import { seal, unsealed } from './seals.ts';
import { reach } from './stacks.ts';
import type { State } from './state.ts';
import { CALLEE_SAVED, canonical, FLAGS, RAX, RBP, RDX, RIP, RSP, SHARED, word } from './words.ts';

const RESUME_FLAG = 0x1_0000n;
const UNDEFINED_OPCODE = 6;

export class Crossings {
  constructor(
    private readonly state: State,
    private readonly endings: Endings,
  ) {}

  /** The kernel has called entry gate `gate`. */
  callIn(cpu: number, module: Module, gate: number): Verdict {
    const { frames, stacks } = this.state;
    if (module.state === 'quarantined') {
      this.endings.refuse(cpu, 'quarantined');
      if (gate === G.cleanup) this.endings.end(module);
      return 'handled';
    }
    if (gate === G.init && module.initEntered) return this.endings.refuse(cpu, 'init-again');
    if (gate !== G.init && !module.initEntered) return this.endings.refuse(cpu, 'init-not-first');
    const rsp = this.state.rsp(cpu);
    const top = stacks.get(rsp);
    const back = top === undefined ? Number.NaN : canonical(top);
    const broken = this.badEntry(cpu, module, top, back);
    if (broken) {
      this.endings.breach(module, broken);
      this.endings.giveBack(cpu);
      return 'handled';
    }
    const registers = this.state.registers[cpu];
    frames.push(module, 'call-in', rsp + 8, back, gate, registers);
    stacks.set(rsp, word(module.returnGate));
    registers[FLAGS] = (registers[FLAGS] & SHARED) | 2n;
    registers[RIP] = word(module.entry(gate) ?? 0);
    this.state.inside[cpu] = module;
    if (this.state.shadowStacks) this.state.calls[cpu] = [{ back: module.returnGate, slot: rsp }];
    if (gate === G.init) module.initEntered = true;
    this.state.tallies.crossings.callIn++;
    return 'handled';
  }

  /** What is wrong with an entry: its stack, per-CPU data, the return address `back` that is `top` of the stack. */
  private badEntry(cpu: number, module: Module, top: bigint | undefined, back: number): string | undefined {
    const { start, end } = reach(this.state.rsp(cpu));
    if (top === undefined || this.state.loaded.some((other) => other.overlaps(start, end))) return 'bad-stack';
    if (this.state.gs[cpu] === module) return 'per-cpu-base';
    return Number.isNaN(back) ? 'return-address' : undefined;
  }

  /** The module has returned to its return gate. */
  returnOut(cpu: number, module: Module): Verdict {
    if (this.state.calls[cpu].length > 0) return this.endings.violation(cpu, module, 'shadow-stack');
    const frame = this.state.frames.find(module, 'call-in', this.state.rsp(cpu));
    if (!frame) return this.endings.violation(cpu, module, 'no-frame');
    this.state.frames.take(frame);
    const registers = this.state.registers[cpu];
    this.state.leave(cpu);
    registers[FLAGS] = (registers[FLAGS] & SHARED) | (frame.registers[FLAGS] & ~SHARED);
    registers[RIP] = word(frame.address);
    this.state.tallies.crossings.returnOut++;
    this.endings.entryDone(module, frame.detail, BigInt.asIntN(32, registers[RAX]) < 0n);
    return 'handled';
  }

  /** The module calls `target` in the kernel, by call gate `gate` or, -1, by pointer. Gives what is wrong. */
  callOut(cpu: number, module: Module, target: number, gate: number): string | undefined {
    const { frames, stacks } = this.state;
    const registers = this.state.registers[cpu];
    const rsp = this.state.rsp(cpu);
    const top = module.isPrivate(rsp) ? undefined : stacks.get(rsp); // the kernel would find other memory at a private address
    if (top === undefined) return 'bad-stack';
    const back = canonical(top);
    if (back !== module.returnGate && !module.isReturnAddress(back)) return 'return-address';
    const newest = this.state.calls[cpu].at(-1);
    if (this.state.shadowStacks && (newest?.back !== back || newest.slot !== rsp)) return 'shadow-stack';
    this.state.calls[cpu].pop();
    if (gate !== G.stackFail) {
      // nothing comes back from that one
      const frame = frames.push(module, 'call-out', rsp + 8, back, gate, registers);
      const broken =
        back === module.returnGate ? undefined : seal(stacks, frame, module.layout(back - 1), rsp + 8, canonical(registers[RBP]));
      if (broken) {
        frames.take(frame);
        return broken;
      }
      frame.calls = [...this.state.calls[cpu]];
    }
    stacks.set(rsp, word(module.reentryGate));
    this.state.leave(cpu);
    registers[RIP] = word(target);
    this.state.tallies.crossings.callOut++;
    return undefined;
  }

  /** A kernel function has returned to the re-entry gate. */
  returnIn(cpu: number, module: Module): Verdict {
    const { frames, stacks } = this.state;
    if (module.state === 'quarantined') return this.endings.tooLate(cpu, module);
    const rsp = this.state.rsp(cpu);
    const frame = frames.find(module, 'call-out', rsp);
    if (!frame) return this.endings.breach(module, 'no-frame');
    frames.take(frame);
    const broken = !module.isCode(frame.address)
      ? 'return-address'
      : stacks.get(rsp - 8) === undefined
        ? 'bad-stack'
        : this.broken(cpu, frame);
    if (broken) return this.endings.violation(cpu, module, broken);
    const registers = this.state.registers[cpu];
    for (const register of CALLEE_SAVED) registers[register] = frame.registers[register];
    registers[FLAGS] = (registers[FLAGS] & SHARED) | (frame.registers[FLAGS] & ~SHARED);
    this.state.goOn(cpu, frame, frame.address);
    this.state.tallies.crossings.returnIn++;
    return 'handled';
  }

  /** An event finds the module at RIP `at`; `exception` is its vector, if it is one, else -1. */
  eventOut(cpu: number, module: Module, at: number, exception: number): Verdict {
    const { frames, stacks } = this.state;
    const registers = this.state.registers[cpu];
    const rsp = this.state.rsp(cpu);
    // An event on a private stack is delivered on the kernel's, from where the code that switched will return.
    const kernel = module.kernelPointer(rsp);
    const switched = module.onPrivateStack(rsp);
    let broken: string | undefined = 'bad-stack';
    if (stacks.get(kernel) !== undefined) {
      const frame = frames.push(module, 'event', kernel, at, exception, registers);
      broken = switched
        ? seal(stacks, frame, ON_TOP, kernel, canonical(module.private[1]))
        : at === module.returnGate
          ? undefined
          : seal(stacks, frame, module.layout(at), kernel, canonical(registers[RBP]));
      if (broken) frame.spoilt = true;
      else frame.calls = [...this.state.calls[cpu]];
      registers[RSP] = word(kernel);
    }
    this.state.scrub(cpu);
    this.state.leave(cpu);
    if (broken) return this.endings.breach(module, broken);
    this.state.tallies.crossings.eventOut++;
    return 'handled';
  }

  /** The kernel goes on at `at`, in the code of the module. */
  resume(cpu: number, module: Module, at: number): Verdict {
    const { frames } = this.state;
    if (module.state === 'quarantined') return this.endings.tooLate(cpu, module);
    const registers = this.state.registers[cpu];
    const frame = frames.find(module, 'event', this.state.rsp(cpu));
    if (!frame) return this.endings.breach(module, 'text-fetch');
    const from = frame.address - module.core;
    const warned = frame.detail === UNDEFINED_OPCODE && from === T.warn && at === frame.address + 2;
    const fixed = frame.detail >= 0 && from === T.faulting && at === module.core + T.fixup;
    if (at !== frame.address && !warned && !fixed) return this.endings.violation(cpu, module, 'resume-mismatch');
    frames.take(frame);
    const broken = frame.spoilt ? undefined : this.broken(cpu, frame);
    if (broken || frame.spoilt) {
      if (broken) this.endings.breach(module, broken);
      this.endings.abandon(cpu, module);
      return 'handled';
    }
    const resumeFlag = registers[FLAGS] & RESUME_FLAG;
    registers.set(frame.registers);
    registers[FLAGS] |= resumeFlag;
    if (fixed) registers[RDX] = word(-14);
    this.state.goOn(cpu, frame, at);
    this.state.tallies.crossings.resume++;
    return 'handled';
  }

  /** Why the module may not go on where it was: its return addresses were changed, or its per-CPU data falls into private memory. */
  private broken(cpu: number, frame: Frame): string | undefined {
    return unsealed(this.state.stacks, frame) ?? (this.state.gs[cpu] === frame.module ? 'per-cpu-base' : undefined);
  }
}
