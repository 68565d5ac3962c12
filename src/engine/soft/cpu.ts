/** A virtual CPU as the machine's thread sees it: its state, its answers, and what a run came back with as the contract's exits. */

import type { Cpu, Exit, PendingEvent, Registers, ShadowStack, SystemRegisters, View } from '../contract.ts';
import { REG, REGISTER_COUNT, SHADOW_STACK_DEPTH } from '../contract.ts';
import type { Core } from './core.ts';
import {
  COUNT,
  CPL,
  EVENT_DROP,
  EVENT_FORCED,
  EVENT_KICK,
  EVENT_STEP,
  EVENT_TYPE_FAULT,
  EVENT_VIEWS,
  EXIT_BUDGET,
  EXIT_NEXT,
  EXIT_REPLAY,
  EXIT_SIZE,
  EXIT_TARGET,
  FORCED_ADDRESS,
  FORCED_CODE,
  FORCED_TYPE,
  FORCED_VECTOR,
  GPR,
  INJECTED,
  MONITOR_LINE,
  MWAIT_STATE,
  MWAIT_WITHHELD,
  NMI_BLOCKED,
  NMI_PENDING,
  NO_CODE,
  PAUSE_EXITS,
  REPLAY,
  REPLAY_COUNT,
  REPLAY_LOAD,
  REPLAY_LOG,
  REPLAY_MAX,
  REPLAY_NONE,
  RESTART_RIP,
  RFLAGS,
  RIP,
  SHADOW,
  SHADOW_COUNT,
  SHADOW_STACK,
  SHADOW_STACK_DEPTH as DEPTH,
  TRAPS,
} from './core/layout.ts';
import { EXIT_FAILED, type Executor } from './executor.ts';
import { EVENT_TYPES, Exits } from './exits.ts';
import { keepEvents, type Space, setEvents } from './space.ts';
import { SystemState } from './system.ts';
import type { SoftThreads } from './threads.ts';
import type { SoftView } from './views.ts';

const WORD = 2 ** 32;
const IF = 0x200;
/** Bytes of the XSAVE standard form: legacy area and header. */
const VECTOR_SIZE = 576;

class SoftShadowStack implements ShadowStack {
  readonly halves: Uint32Array;
  private readonly at: number;

  constructor(
    private readonly words: Uint32Array,
    block: number,
  ) {
    this.halves = words.subarray((block + SHADOW_STACK) >>> 2, ((block + SHADOW_STACK) >>> 2) + 4 * SHADOW_STACK_DEPTH);
    this.at = (block + DEPTH) >>> 2;
  }

  get depth(): number {
    return this.words[this.at] as number;
  }
  set depth(depth: number) {
    this.words[this.at] = depth;
  }
}

export class SoftCpu implements Cpu {
  readonly registers: Registers;
  readonly shadowStack: ShadowStack;
  readonly vectorSize = VECTOR_SIZE;
  private readonly exits: Exits;
  private readonly system: SystemState;
  private readonly words: Uint32Array;
  private current: SoftView;
  private readonly core: Core;

  /** `refuses`: whether a view lacks a guest physical address. */
  constructor(
    readonly index: number,
    private readonly space: Space,
    private readonly block: number,
    private readonly executor: Executor,
    private readonly threads: SoftThreads,
    untrusted: SoftView,
    refuses: (view: SoftView, gpa: number) => boolean,
  ) {
    const { buffer } = space.memory;
    this.registers = {
      words: new BigUint64Array(buffer, block + GPR, REGISTER_COUNT),
      halves: new Uint32Array(buffer, block + GPR, 2 * REGISTER_COUNT),
    };
    this.words = space.words;
    this.shadowStack = new SoftShadowStack(space.words, block);
    this.exits = new Exits(space, block, (gpa) => refuses(this.current, gpa));
    this.system = new SystemState(space, block);
    this.current = untrusted;
    this.core = executor.core;
  }

  private get(offset: number): number {
    return this.words[(this.block + offset) >>> 2] as number;
  }
  private put(offset: number, value: number): void {
    this.words[(this.block + offset) >>> 2] = value;
  }
  private getLong(offset: number): number {
    return this.get(offset + 4) * WORD + this.get(offset);
  }

  get privilegeLevel(): number {
    return this.get(CPL);
  }
  get view(): View {
    return this.current;
  }
  get monitoring(): boolean {
    return Atomics.load(this.words, (this.block + MONITOR_LINE) >>> 2) !== 0;
  }
  get instructions(): number {
    return this.getLong(COUNT);
  }

  // ---- Running ---------------------------------------------------------------------------------------------------------------

  run(until: number, yields = false): Exit {
    this.put(PAUSE_EXITS, yields ? 1 : 0);
    if (this.threads.busy === 0) return this.exit(this.executor.run(until));
    // Whoever comes back from another thread wants this one.
    if (!this.threads.enter(this.index)) return this.exits.budget;
    const code = this.executor.run(until);
    this.threads.leave();
    return this.exit(code);
  }

  /** Before another thread executes this CPU. */
  prepare(yields: boolean): void {
    this.put(PAUSE_EXITS, yields ? 1 : 0);
  }

  /** The exit that a run left behind in the state, here or in another thread. `failure`: what that thread says of EXIT_FAILED. */
  exit(code: number, failure = this.executor.failure): Exit {
    if (code === EXIT_BUDGET) return this.exits.budget;
    return code === EXIT_FAILED ? { kind: 'debug', reason: failure } : this.exits.make(code);
  }

  kick(): void {
    setEvents(this.space, this.block, EVENT_KICK);
  }

  // ---- Answers ---------------------------------------------------------------------------------------------------------------

  completeRead(value: number): void {
    const way = this.get(EXIT_REPLAY);
    if (way === REPLAY_LOG) {
      const count = this.get(REPLAY_COUNT);
      if (count >= REPLAY_MAX) return;
      this.put(REPLAY + 4 * count, value);
      this.put(REPLAY_COUNT, count + 1);
      setEvents(this.space, this.block, EVENT_STEP);
      return;
    }
    this.answerRegister(value);
    if (way !== REPLAY_LOAD) return;
    this.put(EXIT_REPLAY, REPLAY_NONE);
    this.put(RIP, this.get(EXIT_NEXT));
    this.put(RIP + 4, this.get(EXIT_NEXT + 4));
  }

  /** Writes the register that waits for the answer; 32 bits clear the upper half. */
  private answerRegister(value: number): void {
    const {
      words,
      space: { bytes },
    } = this;
    const target = this.get(EXIT_TARGET);
    switch (this.get(EXIT_SIZE)) {
      case 1:
        bytes[target] = value;
        break;
      case 2:
        bytes[target] = value;
        bytes[target + 1] = value >>> 8;
        break;
      default:
        words[target >>> 2] = value;
        words[(target >>> 2) + 1] = 0;
    }
  }

  completeMsr(known: boolean): void {
    if (known) return;
    const { halves } = this.registers;
    halves[2 * REG.rip] = this.get(RESTART_RIP);
    halves[2 * REG.rip + 1] = this.get(RESTART_RIP + 4);
    this.force(EVENT_TYPE_FAULT, 13, 0);
  }

  // ---- Events ----------------------------------------------------------------------------------------------------------------

  get canInterrupt(): boolean {
    const shadow = this.get(SHADOW) !== 0 && this.getLong(COUNT) === this.getLong(SHADOW_COUNT);
    return (
      (this.get(RFLAGS) & IF) !== 0 &&
      !shadow &&
      this.get(INJECTED) === 0 &&
      this.get(FORCED_TYPE) === 0 &&
      this.get(TRAPS) === 0 &&
      this.get(REPLAY_COUNT) === 0 &&
      this.get(EXIT_REPLAY) !== REPLAY_LOAD &&
      (this.get(NMI_PENDING) === 0 || this.get(NMI_BLOCKED) !== 0)
    );
  }

  inject(vector: number): void {
    if (!this.canInterrupt) throw new Error(`interrupt ${vector} injected while the CPU cannot take it`);
    this.core.inject(vector & 0xff);
  }

  requestInterruptWindow(): void {
    this.core.requestWindow();
  }

  nmi(): void {
    this.core.nmi();
  }

  deliver(event: PendingEvent): void {
    this.put(FORCED_ADDRESS, Number(event.address & 0xffff_ffffn));
    this.put(FORCED_ADDRESS + 4, Number((event.address >> 32n) & 0xffff_ffffn));
    this.force(EVENT_TYPES[event.type], event.vector, event.errorCode < 0 ? NO_CODE : event.errorCode);
  }

  private force(type: number, vector: number, code: number): void {
    this.put(FORCED_TYPE, type);
    this.put(FORCED_VECTOR, vector);
    this.put(FORCED_CODE, code);
    setEvents(this.space, this.block, EVENT_FORCED);
  }

  // ---- State -----------------------------------------------------------------------------------------------------------------

  enter(view: View): void {
    this.current = view as SoftView;
    this.core.enterView(this.current.descriptor);
  }

  withholdMwait(withheld: boolean): void {
    this.put(MWAIT_WITHHELD, withheld ? 1 : 0);
  }

  readSystem(): SystemRegisters {
    return this.system.read();
  }
  writeSystem(system: SystemRegisters): void {
    this.system.write(system);
    this.core.systemChanged();
  }

  readMsr(index: number): bigint {
    if (this.core.readMsr(index) !== 0) throw new RangeError(`the engine has no MSR 0x${index.toString(16)}`);
    return BigInt.asUintN(64, this.core.msrResult());
  }
  writeMsr(index: number, value: bigint): void {
    if (this.core.writeMsr(index, value) === 0) return;
    throw new RangeError(`MSR 0x${index.toString(16)} does not take the value 0x${value.toString(16)}`);
  }

  reset(kind: 'power-up' | 'init'): void {
    this.system.reset(kind);
    keepEvents(this.space, this.block, EVENT_DROP | EVENT_KICK | EVENT_VIEWS); // what waited to be delivered is gone
    this.put(EXIT_REPLAY, REPLAY_NONE);
    this.shadowStack.depth = 0;
    this.put(MONITOR_LINE, 0);
    this.put(MWAIT_STATE, 0);
    if (kind === 'power-up') this.core.initVector();
    this.core.systemChanged();
  }

  translate(address: number, write: boolean): number {
    return Number.isNaN(address) ? -1 : this.core.translate(address, write);
  }

  saveVector(into: Uint8Array): void {
    this.core.saveVector(this.space.scratch);
    into.set(this.space.bytes.subarray(this.space.scratch, this.space.scratch + VECTOR_SIZE));
  }
  loadVector(from: Uint8Array): void {
    this.space.bytes.set(from.subarray(0, VECTOR_SIZE), this.space.scratch);
    this.core.loadVector(this.space.scratch);
  }
}
