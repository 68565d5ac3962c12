/**
 * The six border crossings (design, section 5). Each method moves one CPU across the border, or changes nothing that matters and says
 * which rule is broken. What a broken rule means for the module is the monitor's business.
 *
 * This is the hot path, run some sixteen times per network packet: numbers only, no allocation, no BigInt.
 */
import { on } from '../base/defence-switch.ts';
import { REG, REGISTER_COUNT, registerAddress, setRegisterAddress } from '../engine/contract.ts';
import type { Cpu, Engine, PendingEvent, Registers } from '../engine/contract.ts';
import { NOT_RETURN } from './code-map.ts';
import { FRAME, Frames } from './frames.ts';
import { FPU, RETURNS } from './instance.ts';
import type { Instance } from './instance.ts';
import type { InstanceTable } from './instance-table.ts';
import type { LinkedShadowStack } from './linked-shadow-stack.ts';
import type { ViolationReason } from './reasons.ts';
import { Seals } from './seal.ts';
import { ShadowStacks } from './shadow-stack.ts';
import { StackAccess } from './stack.ts';

/** RFLAGS (Intel SDM vol. 1, 3.4.3): CF PF AF ZF SF OF, the interrupt flag, the fixed bit, the resume flag. */
const STATUS_FLAGS = 0x8d5;
const INTERRUPT_FLAG = 0x200;
const FIXED_FLAG = 0x2;
const RESUME_FLAG = 0x1_0000;
/** What the other side may decide. The rest (DF, TF, NT, IOPL, AC, RF) each side gets back as it left it. */
const SHARED_FLAGS = STATUS_FLAGS | INTERRUPT_FLAG;
const FLAGS = 2 * REG.rflags;
/** Register halves that the ABI lets a callee keep (psABI 3.2.1): RBX, RBP, R12 to R15. */
const CALLEE_SAVED = [REG.rbx, REG.rbp, REG.r12, REG.r13, REG.r14, REG.r15].flatMap((register) => [2 * register, 2 * register + 1]);
const MSR_GS_BASE = 0xc000_0101;
const UNDEFINED_OPCODE = 6;
const PAGE = 4096;

/** Threads that may be inside crossings at once, nested ones counted each. The memory of a frame is touched when it is first used. */
export const FRAME_CAPACITY = 16384;

export class Border {
  readonly frames: Frames;
  readonly stack: StackAccess;
  private readonly seals: Seals;
  private readonly shadows: ShadowStacks;
  /** By CPU index: the instance whose view is current. */
  readonly inside: (Instance | null)[];
  /** By CPU index: 1 while the module is on it and owns the vector registers. */
  private readonly fpu: Uint8Array;
  /** By frame of a call-out: 1 if it left an FPU section, which goes on where its thread does. */
  private readonly section: Uint8Array;
  /** By frame of an event: 1 if a rule was broken as it left. The kernel comes back to it all the same, and the module does not go on. */
  private readonly spoilt: Uint8Array;
  /** Saved vector registers by frame, made on first use. */
  private readonly vectors: (Uint8Array | undefined)[] = [];
  private cleanVector: Uint8Array | undefined;

  constructor(
    private readonly engine: Engine,
    owners: Uint8Array,
    /** No stack may lie where one of them is. */
    private readonly instances: InstanceTable,
    capacity = FRAME_CAPACITY,
  ) {
    this.frames = new Frames(capacity);
    this.stack = new StackAccess(engine.memory, owners);
    this.seals = new Seals(this.frames, this.stack);
    this.shadows = new ShadowStacks(this.frames);
    this.inside = engine.cpus.map(() => null);
    this.fpu = new Uint8Array(engine.cpus.length);
    this.section = new Uint8Array(capacity);
    this.spoilt = new Uint8Array(capacity);
  }

  enter(cpu: Cpu, instance: Instance): void {
    cpu.enter(instance.view);
    this.inside[cpu.index] = instance;
    for (const attachment of instance.active) attachment.raise(cpu);
  }

  leave(cpu: Cpu, instance: Instance): void {
    for (const attachment of instance.active) attachment.lower(cpu);
    this.inside[cpu.index] = null;
    this.fpu[cpu.index] = 0;
    cpu.shadowStack.depth = 0;
    if (on('leave-view')) cpu.enter(this.engine.untrusted);
  }

  /** The kernel has called entry gate `gate`: RSP points at its return address. */
  callIn(cpu: Cpu, instance: Instance, gate: number): ViolationReason | null {
    const { registers } = cpu;
    const { stack, frames } = this;
    const rsp = registerAddress(registers, REG.rsp);
    stack.begin(cpu);
    const slot = stack.locate(rsp);
    if (slot < 0 || (on('stack-clear-of-modules') && !stack.clearOf(rsp, this.instances))) return 'bad-stack';
    if (!this.perCpuClear(cpu, instance)) return 'per-cpu-base';
    const back = stack.load(slot);
    if (Number.isNaN(back)) return 'return-address';
    const target = this.targetOf(instance, gate, rsp);
    if (Number.isNaN(target)) return 'stack-depth';
    const frame = frames.push(FRAME.callIn, instance.instance, rsp + 8, back, gate, stack.same);
    this.saveCall(registers, frame);
    stack.store(slot, instance.returnGate);
    if (instance.shadowStack) this.shadows.begin(cpu, instance.returnGate, rsp);
    if (on('control-flags')) registers.halves[FLAGS] = (registers.halves[FLAGS] & SHARED_FLAGS) | FIXED_FLAG;
    this.enter(cpu, instance);
    setRegisterAddress(registers, REG.rip, target);
    return null;
  }

  /** Where an entry begins: the function, or what follows the stub that would record its return address. NaN: there is no room for that. */
  private targetOf(instance: Instance, gate: number, slot: number): number {
    const target = instance.gateTarget[gate];
    const { linkedShadowStack, returnGate } = instance;
    return linkedShadowStack ? linkedShadowStack.enter(target, slot, returnGate, () => this.entriesOf(instance)) : target;
  }

  private entriesOf({ instance }: Instance): Float64Array {
    return this.frames.keysOf(FRAME.callIn, instance);
  }

  /** A stub of a linked shadow stack found no room: true if there is some now, and the stub begins anew. */
  makeRoom(cpu: Cpu, instance: Instance, linked: LinkedShadowStack): boolean {
    if (!linked.sweep(this.entriesOf(instance), registerAddress(cpu.registers, REG.rsp))) return false;
    setRegisterAddress(cpu.registers, REG.rip, linked.again);
    return true;
  }

  /** True if every call of the entry that runs on `cpu` has returned: the return gate is not to be reached otherwise. */
  allReturned(cpu: Cpu, instance: Instance): boolean {
    return !instance.shadowStack || cpu.shadowStack.depth === 0;
  }

  /** The module has returned to its return gate. Gives the frame, used up, or -1: no entry ends with this stack pointer. */
  returnOut(cpu: Cpu, instance: Instance): number {
    const { registers } = cpu;
    const { frames } = this;
    const frame = frames.find(FRAME.callIn, instance.instance, registerAddress(registers, REG.rsp));
    if (frame < 0) return -1;
    this.stack.begin(cpu);
    frames.take(frame, this.stack.same);
    this.leave(cpu, instance);
    const saved = frames.registers[frames.registersAt(frame) + FLAGS];
    registers.halves[FLAGS] = (registers.halves[FLAGS] & SHARED_FLAGS) | (saved & ~SHARED_FLAGS);
    setRegisterAddress(registers, REG.rip, frames.address[frame]);
    return frame;
  }

  /** The module calls (or jumps to) `target` in the kernel, by call gate `gate` or, -1, by pointer. RSP points at the return address. */
  callOut(cpu: Cpu, instance: Instance, target: number, gate: number): ViolationReason | null {
    const { registers } = cpu;
    const { stack, frames } = this;
    const rsp = registerAddress(registers, REG.rsp);
    stack.begin(cpu);
    // From a private stack there is no way out: the kernel would find another memory there.
    const slot = on('private-stack-exit') && instance.private.holds(rsp) ? -1 : stack.locate(rsp);
    if (slot < 0) return 'bad-stack';
    const back = stack.load(slot);
    if (back !== instance.returnGate && instance.code.frameSize(back) === NOT_RETURN && on('own-return-address')) return 'return-address';
    if (instance.shadowStack && !this.shadows.takes(cpu, back, rsp)) return 'shadow-stack';
    if (instance.linkedShadowStack?.mayLeave(gate, rsp, back) === false) return 'shadow-stack';
    const returns = gate < 0 || !on('no-frame-for-no-return') ? RETURNS.yes : instance.gateReturns[gate];
    if (returns === RETURNS.endsThread) frames.dropStack(rsp + 8, stack.same);
    if (returns === RETURNS.yes) {
      const frame = frames.push(FRAME.callOut, instance.instance, rsp + 8, back, gate, stack.same);
      const broken = this.seals.sealCall(frame, instance, back, rsp + 8, registerAddress(registers, REG.rbp));
      if (broken !== null) {
        frames.take(frame, stack.same);
        return broken;
      }
      if (instance.shadowStack) this.shadows.keep(cpu, frame);
      this.saveCall(registers, frame);
      this.section[frame] = gate >= 0 && instance.gateFpu[gate] === FPU.end ? 0 : this.fpu[cpu.index];
    }
    stack.store(slot, instance.reentryGate);
    this.leave(cpu, instance);
    setRegisterAddress(registers, REG.rip, target);
    return null;
  }

  /** A kernel function has returned to the re-entry gate. The frame is used up in any case once it is found. */
  returnIn(cpu: Cpu, instance: Instance): ViolationReason | null {
    const { registers } = cpu;
    const { frames, stack } = this;
    const rsp = registerAddress(registers, REG.rsp);
    const frame = frames.find(FRAME.callOut, instance.instance, rsp);
    if (frame < 0) return 'no-frame';
    stack.begin(cpu);
    frames.take(frame, stack.same);
    const back = frames.address[frame];
    if (!instance.code.holds(back) && on('own-return-address')) return 'return-address';
    if (stack.locate(rsp - 8) < 0) return 'bad-stack';
    const broken = this.seals.check(frame);
    if (broken !== null) return broken;
    if (!this.perCpuClear(cpu, instance)) return 'per-cpu-base';
    this.restoreCall(registers, frame);
    const gate = frames.detail[frame];
    const begun = gate >= 0 && instance.gateFpu[gate] === FPU.begin;
    this.fpu[cpu.index] = begun ? 1 : on('fpu-section') ? this.section[frame] : 0;
    if (instance.shadowStack) this.shadows.restore(cpu, frame);
    this.enter(cpu, instance);
    setRegisterAddress(registers, REG.rip, back);
    return null;
  }

  /**
   * An event leaves the module: registers saved and scrubbed (P6), privileges lowered. The caller delivers the event, also when a rule
   * is broken; then the frame, if there is a stack to find it by, only says where the thread was when it comes back. Code on a private
   * stack leaves from the kernel stack that it came from.
   */
  eventOut(cpu: Cpu, instance: Instance, event: PendingEvent): ViolationReason | null {
    const { registers } = cpu;
    const { stack, frames } = this;
    const pointer = registerAddress(registers, REG.rsp);
    const rsp = instance.private.kernelPointer(pointer);
    const rbp = instance.private.kernelFrame(pointer, registerAddress(registers, REG.rbp));
    const rip = registerAddress(registers, REG.rip);
    stack.begin(cpu);
    let broken: ViolationReason | null = stack.locate(rsp) < 0 ? 'bad-stack' : null;
    if (broken === null) {
      const detail = event.type === 'exception' ? event.vector : event.vector - 256;
      const frame = frames.push(FRAME.event, instance.instance, rsp, rip, detail, stack.same);
      const place = instance.linkedShadowStack?.gone(rip) ? registerAddress(registers, REG.r11) : rip;
      broken = rsp === pointer ? this.seals.sealEvent(frame, instance, place, rsp, rbp) : this.seals.sealSwitch(frame, instance, rsp, rbp);
      this.spoilt[frame] = broken === null ? 0 : 1;
      if (broken === null) {
        frames.registers.set(registers.halves, frames.registersAt(frame));
        this.saveVector(cpu, frame);
        if (instance.shadowStack) this.shadows.keep(cpu, frame);
      }
      setRegisterAddress(registers, REG.rsp, rsp);
    }
    if (this.fpu[cpu.index] === 1) this.scrubVector(cpu);
    this.scrub(registers);
    this.leave(cpu, instance);
    return broken;
  }

  /** True if an event frame was left exactly here: a gate may itself be the interrupted instruction. */
  interruptedAt(cpu: Cpu, instance: Instance, address: number): boolean {
    const frame = this.frames.find(FRAME.event, instance.instance, registerAddress(cpu.registers, REG.rsp));
    return frame >= 0 && this.frames.address[frame] === address;
  }

  /** The kernel comes back to module text at `address`, outside the view. `over`: a rule was broken when it left, and that is said already. */
  resume(cpu: Cpu, instance: Instance, address: number): ViolationReason | 'over' | null {
    const { registers } = cpu;
    const { stack, frames } = this;
    const rsp = registerAddress(registers, REG.rsp);
    const frame = this.resumable(instance, rsp, address);
    if (frame < 0) return frames.find(FRAME.event, instance.instance, rsp) < 0 ? 'text-fetch' : 'resume-mismatch';
    stack.begin(cpu);
    frames.take(frame, stack.same);
    if (this.spoilt[frame] === 1 && on('broken-event-ends')) return 'over';
    const broken = this.seals.check(frame);
    if (broken !== null) return broken;
    if (!this.perCpuClear(cpu, instance)) return 'per-cpu-base';
    const at = frames.registersAt(frame);
    const from = frames.address[frame];
    if (address !== from) {
      const fixup = instance.resume.fixups.get(from);
      if (fixup?.address === address) fixup.effect(frames.registers, at, frames.detail[frame]);
    }
    const resumeFlag = registers.halves[FLAGS] & RESUME_FLAG; // the kernel may step over its own breakpoint
    if (on('register-restore')) for (let half = 0; half < 2 * REGISTER_COUNT; half++) registers.halves[half] = frames.registers[at + half];
    registers.halves[FLAGS] |= resumeFlag;
    setRegisterAddress(registers, REG.rip, address);
    // The stack pointer of the module, which may be on a private stack, less what a fixup popped.
    setRegisterAddress(registers, REG.rsp, registerAddress(registers, REG.rsp) + rsp - frames.key[frame]);
    const vector = this.vectors[frame];
    if (vector !== undefined && vector[VECTOR_USED(vector)] === 1) {
      vector[VECTOR_USED(vector)] = 0;
      cpu.loadVector(vector.subarray(0, cpu.vectorSize));
      this.fpu[cpu.index] = 1;
    }
    if (instance.shadowStack) this.shadows.restore(cpu, frame);
    this.enter(cpu, instance);
    return null;
  }

  /** The event frame that may go on at `address` with this stack pointer (design, section 7), or -1. */
  private resumable(instance: Instance, rsp: number, address: number): number {
    const { frames } = this;
    const same = frames.find(FRAME.event, instance.instance, rsp);
    if (same >= 0) {
      const from = frames.address[same];
      if (from === address || !on('resume-address')) return same;
      const vector = frames.detail[same]; // negative for what is no exception
      if (vector === UNDEFINED_OPCODE && address === from + 2 && instance.resume.warnings.has(from)) return same;
      const fixup = instance.resume.fixups.get(from);
      if (vector >= 0 && fixup?.address === address && fixup.pop === 0) return same;
    }
    const popped = frames.find(FRAME.event, instance.instance, rsp - 8);
    if (popped < 0 || frames.detail[popped] < 0) return -1;
    const fixup = instance.resume.fixups.get(frames.address[popped]);
    return fixup?.address === address && fixup.pop === 8 ? popped : -1;
  }

  /**
   * Ends the module's newest entry on this stack as if it had returned -1, so that the kernel lives on. Gives the frame, used up; -1 if there is none.
   * Leaves the module view in any case, with the module's registers scrubbed.
   */
  abandon(cpu: Cpu, instance: Instance): number {
    const { registers } = cpu;
    const { frames, stack } = this;
    const inside = this.inside[cpu.index] === instance;
    const pointer = registerAddress(registers, REG.rsp);
    const rsp = inside ? instance.private.kernelPointer(pointer) : pointer;
    stack.begin(cpu);
    const frame = frames.newestOnStack(FRAME.callIn, instance.instance, rsp, stack.same);
    if (inside) this.evict(cpu, instance);
    if (frame < 0) return -1;
    frames.take(frame, stack.same);
    this.restoreCall(registers, frame);
    registers.halves[FLAGS] = frames.registers[frames.registersAt(frame) + FLAGS]; // the interrupt flag too: the module may have cleared it
    setRegisterAddress(registers, REG.rax, -1);
    setRegisterAddress(registers, REG.rsp, frames.key[frame]);
    setRegisterAddress(registers, REG.rip, frames.address[frame]);
    return frame;
  }

  /** Takes a CPU that is not running out of a view that is about to go away. */
  evict(cpu: Cpu, instance: Instance): void {
    const { registers } = cpu;
    const rsp = instance.private.kernelPointer(registerAddress(registers, REG.rsp));
    if (!Number.isNaN(rsp)) setRegisterAddress(registers, REG.rsp, rsp);
    this.scrub(registers);
    if (this.fpu[cpu.index] === 1) this.scrubVector(cpu);
    this.leave(cpu, instance);
  }

  /** Answers an entry that is refused: the call returns -1 (as an int, -EPERM). False when the stack cannot even be read. */
  refuse(cpu: Cpu): boolean {
    const { registers } = cpu;
    const rsp = registerAddress(registers, REG.rsp);
    this.stack.begin(cpu);
    const slot = this.stack.locate(rsp);
    const back = slot < 0 ? Number.NaN : this.stack.load(slot);
    if (Number.isNaN(back)) return false;
    setRegisterAddress(registers, REG.rsp, rsp + 8);
    setRegisterAddress(registers, REG.rip, back);
    setRegisterAddress(registers, REG.rax, -1);
    return true;
  }

  private saveCall(registers: Registers, frame: number): void {
    const at = this.frames.registersAt(frame);
    const saved = this.frames.registers;
    for (let index = 0; index < CALLEE_SAVED.length; index++) saved[at + CALLEE_SAVED[index]] = registers.halves[CALLEE_SAVED[index]];
    saved[at + FLAGS] = registers.halves[FLAGS];
  }

  private restoreCall(registers: Registers, frame: number): void {
    const at = this.frames.registersAt(frame);
    const saved = this.frames.registers;
    if (on('callee-saved-restore'))
      for (let index = 0; index < CALLEE_SAVED.length; index++) registers.halves[CALLEE_SAVED[index]] = saved[at + CALLEE_SAVED[index]];
    if (on('control-flags')) registers.halves[FLAGS] = (registers.halves[FLAGS] & SHARED_FLAGS) | (saved[at + FLAGS] & ~SHARED_FLAGS);
  }

  /** Zeroes the general registers but RSP, and the status flags; RIP and the control flags stay for the handler. */
  private scrub(registers: Registers): void {
    if (!on('register-scrub')) return;
    for (let register = 0; register < REG.rip; register++) {
      if (register === REG.rsp) continue;
      registers.halves[2 * register] = 0;
      registers.halves[2 * register + 1] = 0;
    }
    registers.halves[FLAGS] &= ~STATUS_FLAGS;
  }

  /** Per-CPU accesses of the module go through GS, which the kernel owns: they must not land in private memory. */
  private perCpuClear(cpu: Cpu, instance: Instance): boolean {
    if (instance.privateRanges.length === 0 || !on('per-cpu-base')) return true;
    const base = Number(BigInt.asIntN(64, cpu.readMsr(MSR_GS_BASE)));
    for (const offset of instance.perCpu) {
      for (const range of instance.privateRanges) if (base + offset < range.end && base + offset + PAGE > range.start) return false;
    }
    return true;
  }

  private saveVector(cpu: Cpu, frame: number): void {
    const former = this.vectors[frame];
    if (former !== undefined) former[VECTOR_USED(former)] = 0;
    if (this.fpu[cpu.index] === 0) return;
    const into = (this.vectors[frame] ??= new Uint8Array(cpu.vectorSize + 1));
    cpu.saveVector(into.subarray(0, cpu.vectorSize));
    into[VECTOR_USED(into)] = 1;
  }

  /** Initial state of x87 and SSE, all registers zero (Intel SDM vol. 1, 13.6: XSAVE area; FCW at 0, MXCSR at 24, XSTATE_BV at 512). */
  private scrubVector(cpu: Cpu): void {
    if (this.cleanVector === undefined) {
      this.cleanVector = new Uint8Array(cpu.vectorSize);
      this.cleanVector.set([0x7f, 0x03], 0);
      this.cleanVector.set([0x80, 0x1f], 24);
      if (cpu.vectorSize >= 576) this.cleanVector[512] = 3;
    }
    if (on('vector-scrub')) cpu.loadVector(this.cleanVector);
    this.fpu[cpu.index] = 0;
  }
}

/** The last byte of a saved vector state says whether it belongs to the frame's present use. */
const VECTOR_USED = (saved: Uint8Array) => saved.length - 1;
