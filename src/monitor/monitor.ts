/**
 * The reference monitor: decides on every exit that concerns a guarded module. Engine-free and without I/O; knows the contract alone.
 *
 * Which crossing an exit is, stands here; how a crossing is done, in border.ts; how a module is recognised, in loader.ts.
 */
import { on } from '../base/defence-switch.ts';
import { unreachable } from '../base/errors.ts';
import { hex } from '../base/hex.ts';
import type { Log } from '../base/log.ts';
import { PAGE_SIZE, REG, registerAddress, setRegisterAddress } from '../engine/contract.ts';
import type { Cpu, Engine, Exit, PendingEvent } from '../engine/contract.ts';
import { GATE_PORT, GATE_SIZE } from '../policy/manifest.ts';
import type { AuditPort } from './audit.ts';
import { Border } from './border.ts';
import { GuestLog } from './guest-log.ts';
import type { Speaker } from './guest-log.ts';
import { ramPage } from './guest-memory.ts';
import type { ImageSource } from './image.ts';
import { GATE, Instance } from './instance.ts';
import { Journal } from './journal.ts';
import type { Counted, Refused } from './journal.ts';
import { looksLikeGate, matchingOffsets, verify } from './loader.ts';
import { InstanceTable, MAX_INSTANCES } from './instance-table.ts';
import { TRAPPED } from './linked-shadow-stack.ts';
import type { Privilege } from './privilege.ts';
import { VIOLATIONS } from './reasons.ts';
import type { EndReason, RefusalReason, ViolationReason } from './reasons.ts';
import { Registration } from './registration.ts';
import type { ModuleStatus, RegisteredModule, ViolationPolicy } from './registration.ts';
import { Refusal } from './solve.ts';

export interface MonitorOptions {
  engine: Engine;
  modules: readonly RegisteredModule[];
  log: Log;
  audit: AuditPort;
}

/** handled: go on with `run`. not-mine: the machine answers. stop: end the virtual machine. */
export type Verdict = 'handled' | 'not-mine' | { stop: string };

export interface CrossingCounters {
  callIn: number;
  returnOut: number;
  callOut: number;
  returnIn: number;
  eventOut: number;
  resume: number;
  internal: number;
  refused: number;
}
/**
 * Instruction fetch (bit 4) of a page that is not there (bit 0 clear), from user mode (bit 2): page fault error code, Intel SDM vol. 3, 4.7. Not a
 * protection fault: Linux would find the page executable in its tables, take the fault for a spurious one, and try again, for ever. This one it reports, and ends the thread.
 */
const FETCH_FAULT = 0x10;
const USER_FAULT = 0x4;
const PAGE_FAULT = 14;
const INVALID_OPCODE = 6;
/** Least time between two looks for modules that are gone. */
const SWEEP_NS = 50e6;
export class Monitor {
  readonly crossings: CrossingCounters = {
    callIn: 0,
    returnOut: 0,
    callOut: 0,
    returnIn: 0,
    eventOut: 0,
    resume: 0,
    internal: 0,
    refused: 0,
  };
  private readonly engine: Engine;
  private readonly log: Log;
  private readonly journal: Journal;
  private readonly border: Border;
  private readonly guestLog: GuestLog;
  private readonly owners: Uint8Array;
  private readonly registrations: readonly Registration[];
  private readonly registrationOf = new Map<Instance, Registration>();
  private readonly instances = new InstanceTable();
  private serial = 0;
  /** When an idle kernel's modules are looked at next. */
  private nextSweep = 0;
  /** Quarantined by the exit in hand: other CPUs may still be inside. */
  private quarantined: Instance | undefined;

  constructor(options: MonitorOptions) {
    this.engine = options.engine;
    this.log = options.log;
    this.journal = new Journal(options.audit, () => options.engine.clock.now(), options.log);
    this.owners = new Uint8Array(Math.ceil(options.engine.memory.size / PAGE_SIZE));
    this.border = new Border(options.engine, this.owners, this.instances);
    this.guestLog = new GuestLog(options.engine.memory, this.border.frames, this.border.stack, this.instances);
    this.registrations = options.modules.map((module) => new Registration(module));
    for (const { image, digest, decision, privileges } of this.registrations) {
      this.journal.note({ event: 'module.registered', module: image.module, image: digest, granted: decision.granted, privileges });
    }
  }

  /** Decides on an exit of `cpu`. Called between two `run`s of that CPU, on the thread that runs all CPUs. */
  handle(cpu: Cpu, exit: Exit): Verdict {
    const verdict = this.decide(cpu, exit);
    if (this.quarantined !== undefined && on('quarantine-every-cpu')) this.evictAll();
    return verdict;
  }

  private decide(cpu: Cpu, exit: Exit): Verdict {
    switch (exit.kind) {
      case 'io':
        return exit.write && exit.port === GATE_PORT ? this.gate(cpu, exit.address) : 'not-mine';
      case 'fetch':
        return this.fetch(cpu, exit.address);
      case 'event':
        return this.event(cpu, exit.event);
      case 'mmio':
        return exit.write && exit.gpa < this.engine.memory.size ? this.ramWrite(cpu, exit.gpa, exit.size, exit.value) : 'not-mine';
      case 'shadow-stack':
        return this.shadowStack(cpu, exit);
      case 'halt':
        this.sweep(cpu);
        return 'not-mine';
      case 'mwait':
      case 'msr':
      case 'window':
      case 'budget':
      case 'shutdown':
      case 'debug':
        return 'not-mine';
    }
  }

  /** INIT: the CPU is about to lose its registers wherever it is, also inside a module. What it had begun there never ends. */
  reset(cpu: Cpu): void {
    const inside = this.border.inside[cpu.index];
    if (inside !== null && on('reset-leaves-module')) this.border.evict(cpu, inside);
  }

  /** The instance whose view `cpu` is in, for questions of the machine ("who asks?"); undefined outside. */
  insideModule(cpu: Cpu): string | undefined {
    return this.border.inside[cpu.index]?.module;
  }

  modules(): ModuleStatus[] {
    return this.registrations.map((registration) => registration.status());
  }

  /** Refusals, by module and reason, and violations so far. */
  refusals(): Refused[] {
    return this.journal.refusals();
  }
  violations(): Counted<ViolationReason>[] {
    return this.journal.violations();
  }
  /** Unfinished crossings now, and how many had to make room for newer ones. */
  frames(): { live: number; evicted: number } {
    return { live: this.border.frames.live, evicted: this.border.frames.evicted };
  }

  /** The virtual machine stops: every instance ends. No CPU may be running. */
  end(): void {
    for (const instance of this.instances.all) this.endInstance(instance, 'stopped');
    this.journal.end();
  }

  private gate(cpu: Cpu, address: number): Verdict {
    const inside = this.border.inside[cpu.index];
    if (inside !== null) return this.gateInside(cpu, inside, address);
    const instance = this.instances.at(address);
    if (instance !== undefined) {
      const offset = address - instance.gateBase;
      if (offset >= 0 && offset < instance.gateBytes && (offset & (GATE_SIZE - 1)) === 0)
        return this.gateOutside(cpu, instance, offset / GATE_SIZE, address);
    }
    return this.unknownGate(cpu, address);
  }

  /** A gate in the module view: the module's own text reached it. */
  private gateInside(cpu: Cpu, instance: Instance, address: number): Verdict {
    const gate = (address - instance.gateBase) / GATE_SIZE;
    switch (instance.gateKind[gate]) {
      case GATE.call: {
        const broken = this.border.callOut(cpu, instance, instance.gateTarget[gate], gate);
        if (broken !== null) return this.violation(cpu, instance, broken, `call-out to ${instance.gateName(gate)}`);
        this.crossings.callOut += 1;
        count(instance, gate);
        return 'handled';
      }
      case GATE.return:
        return this.returnOut(cpu, instance);
      case GATE.entry:
        // Init code is gone after init; the gate that led there still stands.
        if (!instance.code.holds(instance.gateTarget[gate]) && on('init-gone'))
          return this.violation(cpu, instance, 'wild-fetch', `to ${instance.gateName(gate)}, which is gone`);
        this.crossings.internal += 1;
        count(instance, gate);
        setRegisterAddress(cpu.registers, REG.rip, instance.gateTarget[gate]);
        return 'handled';
      case GATE['re-entry']:
        return this.violation(cpu, instance, 'gate-misused', 're-entry gate reached from inside the module');
      default:
        return 'not-mine'; // an `out` in the module's own text
    }
  }

  private returnOut(cpu: Cpu, instance: Instance): Verdict {
    if (!this.border.allReturned(cpu, instance))
      return this.violation(cpu, instance, 'shadow-stack', 'return-out before its calls have returned');
    const frame = this.border.returnOut(cpu, instance);
    if (frame < 0) return this.violation(cpu, instance, 'no-frame', `return-out at stack pointer ${stackPointer(cpu)}`);
    this.crossings.returnOut += 1;
    count(instance, -1);
    const failed = (cpu.registers.halves[2 * REG.rax] | 0) < 0; // int: only EAX counts
    this.entryDone(instance, this.border.frames.detail[frame], failed);
    return 'handled';
  }

  /** What the end of an entry means for the instance. */
  private entryDone(instance: Instance, gate: number, failed: boolean): void {
    if (gate === instance.image.cleanupGate) this.endInstance(instance, 'unloaded');
    else if (gate !== instance.image.initGate) return;
    else if (failed) this.endInstance(instance, 'init-failed');
    else {
      instance.dropInit();
      this.instances.changed();
      if (instance.state !== 'loading') return;
      instance.state = 'live';
      this.journal.note({ event: 'module.live', module: instance.module, instance: instance.instance });
    }
  }

  /** A gate in the untrusted view: its page is executable for everyone. */
  private gateOutside(cpu: Cpu, instance: Instance, gate: number, address: number): Verdict {
    const kind = instance.gateKind[gate];
    if (kind === GATE.unused) return 'not-mine';
    if (cpu.privilegeLevel !== 0 && on('gate-privilege-level'))
      return this.violation(cpu, instance, 'not-kernel-mode', `gate ${gate} at CPL ${cpu.privilegeLevel}`);
    if (kind === GATE['re-entry']) return this.returnIn(cpu, instance);
    // The interrupted instruction may have been the gate's own.
    if (this.border.interruptedAt(cpu, instance, address)) return this.resume(cpu, instance, address);
    if (kind === GATE.entry) return this.callIn(cpu, instance, gate, address);
    return this.violation(cpu, instance, 'gate-misused', `${instance.gateName(gate)} reached by the kernel`);
  }

  private callIn(cpu: Cpu, instance: Instance, gate: number, address: number): Verdict {
    const page = address - (address & (PAGE_SIZE - 1));
    if (ramPage(cpu, this.engine.memory, page) !== instance.frameAt(page) && on('gate-page-frame')) {
      this.endInstance(instance, 'memory-reused');
      return this.unknownGate(cpu, address);
    }
    const what = instance.gateName(gate);
    if (instance.state === 'quarantined') {
      if (this.border.refuse(cpu)) this.guestLog.quarantined(cpu, instance);
      this.countRefusal(instance.module, 'quarantined', what);
      if (gate === instance.image.cleanupGate) this.endInstance(instance, 'unloaded');
      return 'handled';
    }
    if (gate === instance.image.initGate && instance.initEntered && on('init-once'))
      return this.refuse(cpu, instance.module, 'init-again', what);
    if (!instance.initEntered && !mayComeFirst(instance.image, gate) && on('init-first'))
      return this.refuse(cpu, instance.module, 'init-not-first', what);
    if (instance.gateInit[gate] === 1 && instance.state !== 'loading' && on('init-gone'))
      return this.refuse(cpu, instance.module, 'init-gone', what);
    const broken = this.border.callIn(cpu, instance, gate);
    if (broken !== null) {
      const verdict = this.breach(cpu, instance, broken, `entry ${what} with stack pointer ${stackPointer(cpu)}`);
      this.border.refuse(cpu);
      return verdict;
    }
    if (gate === instance.image.initGate) instance.initEntered = true;
    this.crossings.callIn += 1;
    count(instance, gate);
    return 'handled';
  }

  private returnIn(cpu: Cpu, instance: Instance): Verdict {
    if (instance.state === 'quarantined') {
      if (this.guestLog.returned(cpu)) return 'handled';
      this.countRefusal(instance.module, 'quarantined', 'a kernel function returned to it');
      this.abandon(cpu, instance);
      return 'handled';
    }
    const broken = this.border.returnIn(cpu, instance);
    if (broken === 'no-frame' && this.guestLog.returned(cpu)) return 'handled';
    if (broken !== null) return this.violation(cpu, instance, broken, `return-in at stack pointer ${stackPointer(cpu)}`);
    this.crossings.returnIn += 1;
    count(instance, -1);
    return 'handled';
  }

  private fetch(cpu: Cpu, address: number): Verdict {
    const inside = this.border.inside[cpu.index];
    if (inside !== null) return this.fetchInside(cpu, inside, address);
    const instance = this.ownerOf(cpu, address);
    if (!instance) return 'not-mine';
    if ((cpu.privilegeLevel !== 0 && on('resume-privilege-level')) || !instance.code.holds(address)) {
      const verdict = this.violation(cpu, instance, 'text-fetch', `at ${hex(address)}, CPL ${cpu.privilegeLevel}`);
      this.deliverFetchFault(cpu, address);
      return verdict;
    }
    return this.resume(cpu, instance, address);
  }

  /** In the module view, the next instruction is not the module's: a call by pointer, or a wild jump. */
  private fetchInside(cpu: Cpu, instance: Instance, address: number): Verdict {
    const own = instance.ranges.some(({ start, end }) => address >= start && address < end);
    if ((!(address < 0) || own) && on('call-target')) return this.violation(cpu, instance, 'wild-fetch', `to ${hex(address)}`);
    const broken = this.border.callOut(cpu, instance, address, -1);
    if (broken !== null) {
      return this.violation(cpu, instance, broken === 'return-address' ? 'wild-fetch' : broken, `to ${hex(address)}`);
    }
    this.crossings.callOut += 1;
    count(instance, -1);
    instance.indirectCalls += 1;
    return 'handled';
  }

  /**
   * A return that the shadow stack does not know, or a call that it has no room for: somebody changed the stack under the running module. Or a branch by
   * pointer into its own text: the pointers that it hands out itself are those of its gates, so this one is somebody else's.
   */
  private shadowStack(cpu: Cpu, { reason, found }: Extract<Exit, { kind: 'shadow-stack' }>): Verdict {
    const inside = this.border.inside[cpu.index];
    if (inside === null) return 'not-mine';
    const at = hex(registerAddress(cpu.registers, REG.rip));
    switch (reason) {
      case 'mismatch':
        return this.violation(cpu, inside, 'shadow-stack', `the return at ${at} found ${Number.isNaN(found) ? 'no address' : hex(found)}`);
      case 'far':
        return this.violation(cpu, inside, 'shadow-stack', `a far return at ${at}`);
      case 'full':
        return this.violation(cpu, inside, 'stack-depth', `the call at ${at}`);
      case 'landing':
        return this.violation(cpu, inside, 'own-text', `from ${at} to ${hex(found)}`);
      default:
        return unreachable(reason);
    }
  }

  private event(cpu: Cpu, event: PendingEvent): Verdict {
    const instance = this.border.inside[cpu.index];
    if (instance === null) return 'not-mine';
    let verdict: Verdict = 'handled';
    const rip = registerAddress(cpu.registers, REG.rip);
    const linked = event.vector === INVALID_OPCODE ? instance.linkedShadowStack : undefined;
    const trap = linked?.trap(rip);
    if (linked !== undefined && trap !== undefined) {
      if (trap === 'full' && this.border.makeRoom(cpu, instance, linked)) return 'handled';
      return this.violation(cpu, instance, TRAPPED[trap].reason, `${TRAPPED[trap].detail}, at stack pointer ${stackPointer(cpu)}`);
    }
    if (!instance.code.holds(rip)) {
      // The module has just jumped out: that border comes first, then the event finds ordinary kernel code.
      verdict = this.fetchInside(cpu, instance, rip);
    } else {
      const broken = this.border.eventOut(cpu, instance, event);
      if (broken === null) {
        this.crossings.eventOut += 1;
        count(instance, -1);
      } else verdict = this.breach(cpu, instance, broken, `event ${event.vector} at ${hex(rip)}`);
    }
    cpu.deliver(event);
    return verdict;
  }

  private resume(cpu: Cpu, instance: Instance, address: number): Verdict {
    if (instance.state === 'quarantined') {
      this.countRefusal(instance.module, 'quarantined', 'the kernel came back to interrupted code');
      if (!this.abandon(cpu, instance)) this.deliverFetchFault(cpu, address);
      return 'handled';
    }
    const broken = this.border.resume(cpu, instance, address);
    if (broken === null) {
      this.crossings.resume += 1;
      count(instance, -1);
      return 'handled';
    }
    const verdict =
      broken === 'over' ? 'handled' : this.breach(cpu, instance, broken, `at ${hex(address)}, stack pointer ${stackPointer(cpu)}`);
    // A wild jump is the kernel's own and gets a page fault. Otherwise the thread is known: what it was doing in the module ends.
    if (broken === 'text-fetch' || !this.abandon(cpu, instance)) this.deliverFetchFault(cpu, address);
    return verdict;
  }

  /** The kernel wrote to a frame that is not writable in this view. */
  private ramWrite(cpu: Cpu, gpa: number, size: 1 | 2 | 4, value: number): Verdict {
    const slot = this.owners[Math.floor(gpa / PAGE_SIZE)];
    const instance = this.instances.bySlot(slot);
    if (!instance) return 'not-mine';
    const address = instance.addressOf(gpa);
    if (ramPage(cpu, this.engine.memory, address) === gpa - (gpa % PAGE_SIZE)) {
      return this.breach(cpu, instance, 'text-write', `${size} bytes at ${hex(address + (gpa % PAGE_SIZE))}, dropped`);
    }
    // The module's address no longer leads to this frame: the guest freed the module without a word, and uses its memory.
    this.endInstance(instance, 'memory-reused');
    const { bytes } = this.engine.memory;
    for (let byte = 0; byte < size && gpa + byte < bytes.length; byte++) bytes[gpa + byte] = value >>> (8 * byte);
    this.engine.memory.written(gpa, size);
    return 'handled';
  }

  /**
   * The kernel is idle: it runs on its own page tables, and there is time to see which modules are still there. One without a cleanup function is
   * freed without a word.
   */
  private sweep(cpu: Cpu): void {
    const now = this.engine.clock.now();
    if (this.instances.all.length === 0 || now < this.nextSweep || cpu.privilegeLevel !== 0 || this.border.inside[cpu.index] !== null)
      return;
    this.nextSweep = now + SWEEP_NS;
    this.endFreed(cpu);
  }

  /** Ends the instances whose gates are no longer where they were. */
  private endFreed(cpu: Cpu): void {
    for (const instance of this.instances.all) {
      const page = instance.gateBase;
      if (ramPage(cpu, this.engine.memory, page) !== instance.frameAt(page)) this.endInstance(instance, 'memory-reused');
    }
  }

  /** A gate of no instance: a module is being loaded, or somebody plays with the port. */
  private unknownGate(cpu: Cpu, address: number): Verdict {
    const { memory } = this.engine;
    if ((cpu.privilegeLevel !== 0 && on('gate-privilege-level')) || !looksLikeGate(cpu, memory, address)) return 'not-mine';
    if (this.guestLog.returned(cpu)) return 'handled';
    this.endFreed(cpu);
    let best: { module: string; reason: RefusalReason; detail: string; speaker?: Speaker } = {
      module: '(unknown)',
      reason: 'not-registered',
      detail: `gate at ${hex(address)}`,
    };
    for (const registration of this.registrations) {
      for (const offset of matchingOffsets(cpu, memory, registration.image, address)) {
        const { image, decision } = registration;
        const gate = offset / GATE_SIZE;
        const about = { module: image.module, speaker: { image, gateBase: address - offset } };
        if (!decision.granted) {
          if (best.reason === 'not-registered') best = { ...about, reason: 'no-grant', detail: decision.reason };
        } else if (!mayComeFirst(image, gate) && on('init-first')) {
          best = { ...about, reason: 'init-not-first', detail: `entered at gate ${gate}` };
        } else {
          const result = this.load(cpu, registration, decision.privileges, address - offset);
          if (result instanceof Instance) return this.callIn(cpu, result, gate, address);
          best = { ...about, reason: result.reason, detail: result.detail };
        }
      }
    }
    return this.refuse(cpu, best.module, best.reason, best.detail, best.speaker);
  }

  private load(cpu: Cpu, registration: Registration, privileges: readonly Privilege[], gateBase: number): Instance | Refusal {
    const { image } = registration;
    const slot = this.instances.freeSlot();
    if (slot === 0) return new Refusal('too-many-instances', `${MAX_INSTANCES}`);
    let instance: Instance;
    try {
      const { solution, placement, frames } = verify(cpu, this.engine.memory, image, gateBase, this.owners);
      const overlap = [...placement.ranges, ...placement.initRanges].find((range) => this.instances.overlapping(range) !== undefined);
      if (overlap && on('modules-apart')) return new Refusal('sections-overlap', `another guarded module is at ${hex(overlap.start)}`);
      this.serial += 1;
      instance = new Instance(this.engine, this.owners, slot, this.serial, image, solution, placement, (page) => frames.get(page) ?? -1);
      if (placement.unguarded.length > 0) {
        this.log.warn('constants share a page with kernel data and stay in guest memory', {
          module: image.module,
          sections: placement.unguarded,
        });
      }
    } catch (error) {
      if (error instanceof Refusal) return error;
      if (error instanceof RangeError) return new Refusal('out-of-host-pages', error.message);
      throw error;
    }
    this.instances.add(instance);
    this.registrationOf.set(instance, registration);
    registration.began(instance);
    const about = { module: image.module, instance: instance.instance };
    const { textPages, privatePages } = instance;
    this.journal.note({ event: 'module.loaded', ...about, base: hex(gateBase), textPages, privatePages });
    for (const { description } of privileges) this.journal.note({ event: 'privilege.attached', ...about, privilege: description });
    instance.attach(privileges); // a privilege may have more to say
    return instance;
  }

  /** Refuses an entry: the call returns -1 to the kernel. */
  private refuse(cpu: Cpu, module: string, reason: RefusalReason, detail: string, speaker?: Speaker): Verdict {
    // Where the stack cannot be read, the int3 behind the gate answers.
    if (this.border.refuse(cpu)) this.guestLog.refused(cpu, module, reason, speaker);
    this.countRefusal(module, reason, detail);
    return 'handled';
  }

  private countRefusal(module: string, reason: RefusalReason, detail: string): void {
    this.crossings.refused += 1;
    this.journal.refusal(module, reason, detail);
  }

  /** A breach by a thread of the module: what it was doing ends with -1 to the kernel. */
  private violation(cpu: Cpu, instance: Instance, reason: ViolationReason, detail: string): Verdict {
    const verdict = this.breach(cpu, instance, reason, detail);
    const misuse = reason === 'gate-misused' || reason === 'no-frame' || reason === 'not-kernel-mode' || reason === 'text-fetch';
    const inside = this.border.inside[cpu.index] === instance;
    // Outside the module these are the kernel's own doing: the int3 behind the gate (or a page fault) is its answer.
    if (inside || !misuse) this.abandon(cpu, instance);
    return verdict;
  }

  /** Records a broken rule and applies the policy. The CPU stays where it is. */
  private breach(cpu: Cpu, instance: Instance, reason: ViolationReason, detail: string): Verdict {
    const about = { module: instance.module, instance: instance.instance };
    this.journal.violation(about, reason, detail, cpu.index);
    const registration = this.registrationOf.get(instance);
    const policy: ViolationPolicy = registration?.decision.granted ? registration.decision.onViolation : 'quarantine';
    if (policy === 'log' || !on('quarantine') || instance.state === 'quarantined' || instance.state === 'ended') return 'handled';
    this.detach(instance);
    instance.state = 'quarantined';
    instance.broken = reason;
    if (registration !== undefined) registration.quarantined = true;
    this.quarantined = instance;
    this.journal.note({ event: 'module.quarantined', ...about, reason });
    return policy === 'stop' ? { stop: `${instance.module}: ${VIOLATIONS[reason]} (${detail})` } : 'handled';
  }

  /** The other CPUs that are inside a quarantined instance leave it at once, each as if the kernel's call had failed. None of them is running. */
  private evictAll(): void {
    const instance = this.quarantined as Instance;
    this.quarantined = undefined;
    for (const cpu of this.engine.cpus) if (this.border.inside[cpu.index] === instance) this.abandon(cpu, instance);
  }

  /** True if an entry was ended and the CPU is back in the kernel. */
  private abandon(cpu: Cpu, instance: Instance): boolean {
    const { state } = instance;
    const frame = this.border.abandon(cpu, instance);
    if (frame < 0) return false;
    this.entryDone(instance, this.border.frames.detail[frame], true);
    if (state === 'quarantined') this.guestLog.quarantined(cpu, instance);
    return true;
  }

  private detach(instance: Instance): void {
    for (const { description } of instance.privileges) {
      this.journal.note({ event: 'privilege.detached', module: instance.module, instance: instance.instance, privilege: description });
    }
    instance.detach();
  }

  /** P12: nothing of the instance is left. */
  private endInstance(instance: Instance, reason: EndReason): void {
    for (const cpu of this.engine.cpus) if (this.border.inside[cpu.index] === instance) this.border.abandon(cpu, instance);
    const unfinished = on('end-drops-frames') ? this.border.frames.dropInstance(instance.instance) : 0;
    this.detach(instance);
    instance.end();
    this.registrationOf.get(instance)?.ended(instance);
    this.registrationOf.delete(instance);
    this.instances.remove(instance);
    const { module, crossings } = instance;
    this.journal.note({ event: 'module.ended', module, instance: instance.instance, reason, crossings, unfinished });
  }

  private deliverFetchFault(cpu: Cpu, address: number): void {
    const errorCode = cpu.privilegeLevel === 3 ? FETCH_FAULT | USER_FAULT : FETCH_FAULT;
    cpu.deliver({ type: 'exception', vector: PAGE_FAULT, errorCode, address: BigInt.asUintN(64, BigInt(address)) });
  }

  /** The instance to whose text an address, or the frame behind it, belongs. */
  private ownerOf(cpu: Cpu, address: number): Instance | undefined {
    const named = this.instances.at(address);
    if (named?.code.holds(address)) return named;
    const gpa = ramPage(cpu, this.engine.memory, address);
    const slot = gpa < 0 ? 0 : this.owners[gpa / PAGE_SIZE];
    return slot === 0 ? undefined : this.instances.bySlot(slot);
  }
}

export function createMonitor(options: MonitorOptions): Monitor {
  return new Monitor(options);
}

/** `gate` -1: none. The monitor's own counters are raised by name where the crossing is: by key they would cost a fifth of it. */
function count(instance: Instance, gate: number): void {
  instance.crossings += 1;
  if (gate >= 0) instance.gateCount[gate] += 1;
}

/** Before the init function, where there is one, the kernel calls setters of parameters only. */
const mayComeFirst = (image: ImageSource, gate: number) =>
  image.initGate < 0 || gate === image.initGate || image.gates[gate]?.beforeInit === true;

const stackPointer = (cpu: Cpu) => hex(registerAddress(cpu.registers, REG.rsp));
