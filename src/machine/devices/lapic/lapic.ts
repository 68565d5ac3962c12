/**
 * The local APIC of one CPU, xAPIC mode (Intel SDM vol. 3, chapter 10; register offsets in table 10-1). It is on the path of every
 * interrupt and may live on its CPU's thread, so it knows a clock and narrow ports only, and register accesses allocate nothing.
 */
import { type ApicMessage, DELIVERY, type MessageTarget, type Shorthand } from '../../apic-message.ts';
import { MEMORY } from '../../memory-map.ts';
import type { Clock, Stateful } from '../../ports.ts';
import { readState } from '../../state.ts';
import { InterruptBits } from './interrupt-bits.ts';
import { ApicTimer } from './timer.ts';

export interface LapicPorts {
  clock: Clock;
  /** Sends an inter-processor interrupt; `routeMessage` says to whom. */
  send(message: ApicMessage, shorthand: Shorthand): void;
  /** Broadcasts the end of a level-triggered interrupt to I/O APICs. */
  endOfInterrupt(vector: number): void;
  /** Something to deliver arrived: a halted CPU must look again. May be called when there is nothing. */
  wake(): void;
  tscFrequency: number;
  tscAdjust(): number;
}

/** What a local APIC has for its CPU besides interrupts. */
export type LapicEvent = { kind: 'nmi' } | { kind: 'init' } | { kind: 'startup'; vector: number };

const REGISTER = {
  id: 0x020,
  version: 0x030,
  taskPriority: 0x080,
  arbitration: 0x090,
  priority: 0x0a0,
  eoi: 0x0b0,
  logical: 0x0d0,
  format: 0x0e0,
  spurious: 0x0f0,
  inService: 0x100,
  trigger: 0x180,
  request: 0x200,
  error: 0x280,
  icrLow: 0x300,
  icrHigh: 0x310,
  lvtTimer: 0x320,
  lvtThermal: 0x330,
  lvtCounters: 0x340,
  lvtLint0: 0x350,
  lvtLint1: 0x360,
  lvtError: 0x370,
  initial: 0x380,
  current: 0x390,
  divide: 0x3e0,
} as const;

/** Version 0x14, six local vectors. */
const VERSION = 0x14 | (5 << 16);
const LVT = { mode: 0x700, remoteIrr: 0x4000, level: 0x8000, masked: 0x1_0000 } as const;
/** Writable bits of each local vector, from lvtTimer on (SDM figure 10-8). */
const LVT_WRITABLE = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff] as const;
const TIMER = 0;
const LINT0 = 3;
const ERROR = 5;
const ERROR_BIT = { sentVector: 0x20, receivedVector: 0x40, register: 0x80 } as const;
const SPURIOUS_ENABLE = 0x100;

const MSR = { base: 0x1b, deadline: 0x6e0 } as const;
const BASE_ENABLE = 0x800;
const BASE_BOOTSTRAP = 0x100;

export class Lapic implements MessageTarget, Stateful {
  private readonly request = new InterruptBits();
  private readonly inService = new InterruptBits();
  private readonly trigger = new InterruptBits();
  private readonly lvt = new Uint32Array(6);
  private readonly timer: ApicTimer;
  private id: number;
  private task = 0;
  private logical = 0;
  private format = 0xffff_ffff;
  private spurious = 0xff;
  private errors = 0;
  private errorsShown = 0;
  private icrLow = 0;
  private icrHigh = 0;
  private baseLow: number;
  private lint = [false, false];
  private nmi = false;
  private init = false;
  private startup = -1;

  /** `index` is the CPU's number and its APIC ID, 0..254; CPU 0 is the bootstrap processor. */
  constructor(
    private readonly index: number,
    private readonly ports: LapicPorts,
  ) {
    this.id = index;
    this.baseLow = 0;
    this.timer = new ApicTimer({
      clock: ports.clock,
      fire: () => this.raise(TIMER),
      tscFrequency: ports.tscFrequency,
      tscAdjust: () => ports.tscAdjust(),
    });
    this.reset();
  }

  /** Power-up state (SDM 10.4.7.1). */
  reset(): void {
    this.baseLow = MEMORY.lapic.start + BASE_ENABLE + (this.index === 0 ? BASE_BOOTSTRAP : 0);
    this.id = this.index;
    this.resetRegisters();
    this.nmi = false;
    this.init = false;
    this.startup = -1;
  }

  /** What INIT does to the APIC: everything but the ID (SDM 10.4.7.3). */
  resetRegisters(): void {
    this.request.clear();
    this.inService.clear();
    this.trigger.clear();
    this.lvt.fill(LVT.masked);
    this.timer.reset();
    this.task = 0;
    this.logical = 0;
    this.format = 0xffff_ffff;
    this.spurious = 0xff;
    this.errors = 0;
    this.errorsShown = 0;
    this.icrLow = 0;
    this.icrHigh = 0;
  }

  /**
   * What firmware leaves on the bootstrap processor: enabled, LINT0 the 8259s' ("virtual wire mode", MultiProcessor Specification
   * 3.6.2.2), LINT1 NMI.
   */
  firmwareSetup(): void {
    this.spurious = 0xff | SPURIOUS_ENABLE;
    this.lvt[LINT0] = DELIVERY.external << 8;
    this.lvt[LINT0 + 1] = DELIVERY.nmi << 8;
  }

  /** Guest physical address of the register page, or -1 while the APIC is disabled. */
  get page(): number {
    return this.baseLow & BASE_ENABLE ? (this.baseLow & 0xffff_f000) >>> 0 : -1;
  }

  private get enabled(): boolean {
    return (this.spurious & SPURIOUS_ENABLE) !== 0 && (this.baseLow & BASE_ENABLE) !== 0;
  }

  /** Task priority; CR8 is its upper half. */
  get taskPriority(): number {
    return this.task;
  }

  set taskPriority(value: number) {
    this.task = value & 0xff;
  }

  /** Processor priority (SDM 10.8.3.1). */
  get priority(): number {
    const serving = this.inService.highest;
    return serving >> 4 > this.task >> 4 ? serving & 0xf0 : this.task;
  }

  /** The vector to deliver now, or -1. */
  pendingVector(): number {
    const vector = this.request.highest;
    return vector >= 0 && vector >> 4 > this.priority >> 4 ? vector : -1;
  }

  /** True if LINT0 hands the 8259s' interrupt to the CPU, which it also does while the APIC is disabled. */
  get externalRequested(): boolean {
    if (!this.lint[0]) return false;
    if (!(this.baseLow & BASE_ENABLE)) return true;
    return (this.lvt[LINT0] & (LVT.masked | LVT.mode)) === DELIVERY.external << 8;
  }

  /** The CPU takes `vector`: from request to in service. */
  acknowledge(vector: number): void {
    this.request.delete(vector);
    this.inService.add(vector);
  }

  get eventPending(): boolean {
    return this.nmi || this.init || this.startup >= 0;
  }

  /** Takes the next event that is not an interrupt: INIT first, then start-up, then NMI. INIT resets this APIC. */
  takeEvent(): LapicEvent | undefined {
    if (this.init) {
      this.init = false;
      this.resetRegisters();
      return { kind: 'init' };
    }
    if (this.startup >= 0) {
      const vector = this.startup;
      this.startup = -1;
      return { kind: 'startup', vector };
    }
    if (!this.nmi) return undefined;
    this.nmi = false;
    return { kind: 'nmi' };
  }

  /** The two local interrupt pins. */
  setLint(pin: 0 | 1, asserted: boolean): void {
    if (this.lint[pin] === asserted) return;
    this.lint[pin] = asserted;
    if (asserted) this.lintAsserted(pin);
  }

  private lintAsserted(pin: 0 | 1): void {
    const entry = this.lvt[LINT0 + pin];
    if (pin === 0 && this.externalRequested) this.ports.wake();
    else if (!(entry & LVT.remoteIrr)) this.raise(LINT0 + pin);
  }

  /** Whether a message with this destination is for this APIC (SDM 10.6.2). */
  matches(destination: number, logical: boolean): boolean {
    if (!logical) return destination === 0xff || destination === this.id;
    if (destination === 0xff) return true;
    const mine = this.logical >>> 24;
    if (this.format >>> 28 === 0xf) return (destination & mine) !== 0; // flat model
    return destination >> 4 === mine >> 4 && (destination & mine & 0x0f) !== 0; // cluster model
  }

  accept(message: ApicMessage): void {
    switch (message.mode) {
      case DELIVERY.fixed:
      case DELIVERY.lowest:
        this.acceptVector(message.vector, message.level);
        return;
      case DELIVERY.nmi:
        this.nmi = true;
        break;
      case DELIVERY.init:
        this.init = true;
        this.startup = -1;
        break;
      case DELIVERY.startup:
        this.startup = message.vector;
        break;
      default: // SMI: no system management mode. External: the 8259s are wired to LINT0.
        return;
    }
    this.ports.wake();
  }

  private acceptVector(vector: number, level: boolean): void {
    if (!this.enabled) return;
    if (vector < 16) {
      this.fail(ERROR_BIT.receivedVector);
      return;
    }
    if (level) this.trigger.add(vector);
    else this.trigger.delete(vector);
    this.request.add(vector);
    this.ports.wake();
  }

  /** A local interrupt source, by its local vector. */
  private raise(index: number): void {
    const entry = this.lvt[index];
    if (entry & LVT.masked) return;
    const mode = index === TIMER || index === ERROR ? DELIVERY.fixed : (entry & LVT.mode) >> 8;
    const level = index >= LINT0 && mode === DELIVERY.fixed && (entry & LVT.level) !== 0;
    if (level && index < ERROR) this.lvt[index] |= LVT.remoteIrr;
    this.accept({ destination: this.id, logical: false, mode, vector: entry & 0xff, level });
  }

  private fail(error: number): void {
    this.errors |= error;
    // An illegal vector in the error entry itself must not fail again for ever.
    if ((this.lvt[ERROR] & 0xff) >= 16) this.raise(ERROR);
  }

  private endOfInterrupt(): void {
    const vector = this.inService.highest;
    if (vector < 0) return;
    this.inService.delete(vector);
    if (this.trigger.has(vector)) {
      for (let pin = 0; pin < 2; pin++) this.endOfLint(pin as 0 | 1, vector);
      this.ports.endOfInterrupt(vector);
    }
    if (this.request.highest >= 0) this.ports.wake();
  }

  private endOfLint(pin: 0 | 1, vector: number): void {
    const entry = this.lvt[LINT0 + pin];
    if (!(entry & LVT.remoteIrr) || (entry & 0xff) !== vector) return;
    this.lvt[LINT0 + pin] = entry & ~LVT.remoteIrr;
    if (this.lint[pin]) this.lintAsserted(pin);
  }

  /** `offset` is within the page; registers are 32 bits wide, 16 bytes apart. */
  readRegister(offset: number): number {
    if (offset & 0x0f) return 0;
    if (offset >= REGISTER.inService && offset < REGISTER.error) {
      const bits = offset < REGISTER.trigger ? this.inService : offset < REGISTER.request ? this.trigger : this.request;
      return bits.words[(offset >> 4) & 7];
    }
    if (offset >= REGISTER.lvtTimer && offset <= REGISTER.lvtError) return this.lvt[(offset - REGISTER.lvtTimer) >> 4];
    switch (offset) {
      case REGISTER.id:
        return (this.id << 24) >>> 0;
      case REGISTER.version:
        return VERSION;
      case REGISTER.taskPriority:
        return this.task;
      case REGISTER.arbitration:
      case REGISTER.priority:
        return this.priority;
      case REGISTER.logical:
        return this.logical;
      case REGISTER.format:
        return this.format;
      case REGISTER.spurious:
        return this.spurious;
      case REGISTER.error:
        return this.errorsShown;
      case REGISTER.icrLow:
        return this.icrLow;
      case REGISTER.icrHigh:
        return this.icrHigh;
      case REGISTER.initial:
        return this.timer.initialCount;
      case REGISTER.current:
        return this.timer.currentCount;
      case REGISTER.divide:
        return this.timer.divideConfiguration;
      default:
        this.fail(ERROR_BIT.register);
        return 0;
    }
  }

  writeRegister(offset: number, value: number): void {
    if (offset & 0x0f) return;
    if (offset >= REGISTER.lvtTimer && offset <= REGISTER.lvtError) {
      this.writeLvt((offset - REGISTER.lvtTimer) >> 4, value);
      return;
    }
    switch (offset) {
      case REGISTER.eoi:
        this.endOfInterrupt();
        break;
      case REGISTER.taskPriority:
        this.task = value & 0xff;
        if (this.request.highest >= 0) this.ports.wake();
        break;
      case REGISTER.id:
        this.id = value >>> 24;
        break;
      case REGISTER.logical:
        this.logical = (value & 0xff00_0000) >>> 0;
        break;
      case REGISTER.format:
        this.format = (value | 0x0fff_ffff) >>> 0;
        break;
      case REGISTER.spurious:
        this.writeSpurious(value);
        break;
      case REGISTER.error: // a write shows the errors since the last one (SDM 10.5.3)
        this.errorsShown = this.errors;
        this.errors = 0;
        break;
      case REGISTER.icrLow:
        this.writeCommand(value);
        break;
      case REGISTER.icrHigh:
        this.icrHigh = (value & 0xff00_0000) >>> 0;
        break;
      case REGISTER.initial:
        this.timer.initialCount = value;
        break;
      case REGISTER.divide:
        this.timer.divideConfiguration = value;
        break;
      default: // read-only or reserved
        if (offset < REGISTER.id || offset > REGISTER.divide) this.fail(ERROR_BIT.register);
        break;
    }
  }

  private writeSpurious(value: number): void {
    this.spurious = value & 0x1ff;
    // Software disable masks all local vectors (SDM 10.4.7.2).
    if (!(value & SPURIOUS_ENABLE)) for (let i = 0; i < this.lvt.length; i++) this.lvt[i] |= LVT.masked;
  }

  private writeLvt(index: number, value: number): void {
    const masked = this.spurious & SPURIOUS_ENABLE ? 0 : LVT.masked;
    const remoteIrr = value & LVT.level ? this.lvt[index] & LVT.remoteIrr : 0;
    this.lvt[index] = (value & LVT_WRITABLE[index]) | masked | remoteIrr;
    if (index === TIMER) this.timer.setMode((['one-shot', 'periodic', 'deadline', 'one-shot'] as const)[(value >> 17) & 3]);
    if (index === LINT0 && this.externalRequested) this.ports.wake();
  }

  /** Interrupt command register (SDM 10.6.1, figure 10-12). */
  private writeCommand(value: number): void {
    this.icrLow = value & 0x000c_cfff;
    const mode = (value >> 8) & 7;
    const level = (value & 0x8000) !== 0;
    // "INIT level de-assert" only synchronised arbitration IDs of old bus APICs.
    if (mode === DELIVERY.init && level && !(value & 0x4000)) return;
    if ((mode === DELIVERY.fixed || mode === DELIVERY.lowest) && (value & 0xff) < 16) {
      this.fail(ERROR_BIT.sentVector);
      return;
    }
    // Inter-processor interrupts are edge-triggered on xAPICs, whatever bit 15 says (SDM 10.6.1, "Trigger Mode").
    this.ports.send(
      { destination: this.icrHigh >>> 24, logical: (value & 0x800) !== 0, mode, vector: value & 0xff, level: false },
      ((value >> 18) & 3) as Shorthand,
    );
  }

  /** RDMSR of IA32_APIC_BASE or IA32_TSC_DEADLINE into [low, high]. False for other registers. */
  readMsr(index: number, into: Uint32Array): boolean {
    if (index === MSR.base) {
      into[0] = this.baseLow;
      into[1] = 0;
      return true;
    }
    if (index !== MSR.deadline) return false;
    this.timer.readDeadline(into);
    return true;
  }

  /** WRMSR. False asks for #GP(0): another register, reserved bits, x2APIC mode, an address above 4 GiB. */
  writeMsr(index: number, low: number, high: number): boolean {
    if (index === MSR.deadline) {
      this.timer.setDeadline(low, high);
      return true;
    }
    if (index !== MSR.base || low & 0x6ff || high !== 0) return false;
    const enabled = (low & BASE_ENABLE) !== 0;
    if (!enabled) this.resetRegisters();
    this.baseLow = ((low & ~BASE_BOOTSTRAP) | (this.baseLow & BASE_BOOTSTRAP)) >>> 0;
    return true;
  }

  save(): unknown {
    return {
      id: this.id,
      baseLow: this.baseLow,
      task: this.task,
      logical: this.logical,
      format: this.format,
      spurious: this.spurious,
      errors: this.errors,
      errorsShown: this.errorsShown,
      icrLow: this.icrLow,
      icrHigh: this.icrHigh,
      nmi: this.nmi,
      init: this.init,
      startup: this.startup,
      lint0: this.lint[0],
      lint1: this.lint[1],
      lvt: [...this.lvt],
      timer: this.timer.save(),
      request: [...this.request.words],
      inService: [...this.inService.words],
      trigger: [...this.trigger.words],
    };
  }

  load(state: unknown): void {
    const from = readState('lapic', state);
    const word = (name: string) => from.number(name, 0, 0xffff_ffff);
    this.id = from.number('id', 0, 0xff);
    this.baseLow = word('baseLow');
    this.task = from.number('task', 0, 0xff);
    this.logical = word('logical');
    this.format = word('format');
    this.spurious = from.number('spurious', 0, 0x1ff);
    this.errors = from.number('errors', 0, 0xff);
    this.errorsShown = from.number('errorsShown', 0, 0xff);
    this.icrLow = word('icrLow');
    this.icrHigh = word('icrHigh');
    this.nmi = from.boolean('nmi');
    this.init = from.boolean('init');
    this.startup = from.number('startup', -1, 0xff);
    this.lint = [from.boolean('lint0'), from.boolean('lint1')];
    this.lvt.set(from.numbers('lvt', 6, 0, 0xffff_ffff));
    this.timer.load(from.part('timer'));
    for (const name of ['request', 'inService', 'trigger'] as const) {
      this[name].words.set(from.numbers(name, 8, 0, 0xffff_ffff));
      this[name].refresh();
    }
  }
}
