/**
 * A model of the borders: what a monitor must decide, written from the design and not from the monitor, for one module on a few CPUs.
 * It is slow, keeps everything in plain lists, and knows no engine; the fuzzer drives it beside the monitor and compares every decision.
 *
 * The module is the tests' tiny one (src/privileges/testing.ts); its code, return addresses and stack layouts are the tables below.
 */
import { CORE, G, INIT, KERNEL, T } from '../../src/privileges/testing.ts';

/** Registers by number: rax 0, rcx 1, rdx 2, rbx 3, rsp 4, rbp 5, ..., r15 15, rip 16, rflags 17. */
export type Words = bigint[];
export type Verdict = 'handled' | 'not-mine';
const [RAX, RDX, RSP, RBP, RIP, FLAGS] = [0, 2, 4, 5, 16, 17];
const CALLEE_SAVED = [3, 5, 12, 13, 14, 15];
const STATUS = 0x8d5n;
/** Flags that both sides of a border share: the status flags and IF. */
const SHARED = STATUS | 0x200n;
const RESUME_FLAG = 0x1_0000n;
const PAGE = 4096;
const MOST_SEALS = 48;
export const MOST_CALLS = 64;

const word = (address: number) => BigInt.asUintN(64, BigInt(address));
/** A canonical address as a signed number, else NaN. */
export function canonical(value: bigint): number {
  return BigInt.asUintN(64, BigInt.asIntN(48, value)) === value ? Number(BigInt.asIntN(48, value)) : Number.NaN;
}

const GATES = CORE + 0x1000;
const RETURN_GATE = GATES;
const REENTRY_GATE = GATES + 0x10;
const ENTRIES = new Map<number, number>([
  [G.init, INIT],
  [G.cleanup, CORE + T.cleanup],
  [G.probe, CORE + T.probe],
  [G.withBp, CORE + T.withBp],
  [G.inner, CORE + T.inner],
]);
const CALLS = new Map<number, number>([
  [G.kfunc, KERNEL.kfunc],
  [G.stackFail, KERNEL.__stack_chk_fail],
  [G.fpuBegin, KERNEL.kernel_fpu_begin_mask],
  [G.fpuEnd, KERNEL.kernel_fpu_end],
]);
const RETURN_ADDRESSES = new Set(
  [T.afterInner, T.afterCall, T.innerAfterCall, T.afterThunk, T.bpAfterCall].map((at) => CORE + at).concat(INIT + T.initAfterCall),
);

/** From an offset in .text on: bytes to the end of the frame, counted from RSP, or from RBP where the caller's RBP lies 16 below that end. */
const LAYOUT: [from: number, size: number, base: 'rsp' | 'rbp'][] = [
  [0, 8, 'rsp'],
  [4, 24, 'rsp'],
  [0x12, 8, 'rsp'],
  [0x21, 16, 'rsp'],
  [0x30, 8, 'rsp'],
  [0x38, 16, 'rsp'],
  [0x40, 8, 'rsp'],
  [0x44, 16, 'rbp'],
  [0x4e, 8, 'rsp'],
];
function layout(address: number): { size: number; base: 'rsp' | 'rbp' } {
  const offset = address - CORE;
  const found = offset >= 0 && offset < 0xa0 ? LAYOUT.findLast(([from]) => from <= offset) : undefined;
  return found ? { size: found[1], base: found[2] } : { size: 8, base: 'rsp' }; // thunks, gates and init: the return address is on top
}

/** Memory that can serve as a stack: pages that the guest maps writable, and may unmap. */
export interface Region {
  readonly base: number;
  readonly words: BigUint64Array;
  readonly present: boolean[];
}

interface Frame {
  kind: 'call-in' | 'call-out' | 'event';
  key: number;
  address: number;
  detail: number;
  registers: Words;
  seals: [slot: number, value: bigint][];
  /** The module's calls that had not returned, oldest first. */
  calls: Call[];
}

/** A call of the module's own: where it returns to, and where on the stack that is written. */
export interface Call {
  readonly back: number;
  readonly slot: number;
}

export class Model {
  state: 'absent' | 'loading' | 'live' | 'quarantined' = 'absent';
  readonly inside: boolean[];
  readonly registers: Words[];
  /** Per CPU: the GS base makes per-CPU data fall into private memory. */
  readonly badGs: boolean[];
  /** Per CPU: what its shadow stack holds, oldest first; nothing where there are none. */
  readonly calls: Call[][];
  /** Newest first. */
  frames: Frame[] = [];
  readonly crossings: Record<string, number> = {
    callIn: 0,
    returnOut: 0,
    callOut: 0,
    returnIn: 0,
    eventOut: 0,
    resume: 0,
    internal: 0,
    refused: 0,
  };
  readonly refusals: Record<string, number> = {};
  readonly violations: Record<string, number> = {};
  /** Which of two frames with the same gates is mapped where the gates are, and which was when the module was loaded. */
  gatesMapped = 0;
  private gatesLoaded = 0;
  private initEntered = false;
  private initThere = false;
  private justQuarantined = false;

  constructor(
    cpus: number,
    readonly regions: readonly Region[],
    private readonly policy: 'log' | 'quarantine',
    readonly shadowStacks: boolean,
  ) {
    this.inside = new Array(cpus).fill(false);
    this.calls = Array.from({ length: cpus }, () => []);
    this.badGs = new Array(cpus).fill(false);
    this.registers = Array.from({ length: cpus }, () => new Array<bigint>(18).fill(0n).with(FLAGS, 2n));
  }

  // ---- what the guest does ----

  /** A CPU executes gate `gate`; RIP is behind it already. */
  gate(cpu: number, gate: number, ring: number): Verdict {
    return this.done(this.onGate(cpu, gate, ring));
  }
  private onGate(cpu: number, gate: number, ring: number): Verdict {
    if (gate > G.fpuEnd) return 'not-mine';
    if (this.inside[cpu]) return this.gateInside(cpu, gate);
    if (this.state === 'absent') return ring === 0 ? this.unloadedGate(cpu, gate) : 'not-mine';
    if (ring !== 0) return this.breach('not-kernel-mode');
    if (gate === G.reentry) return this.returnIn(cpu);
    const event = this.find('event', this.rsp(cpu));
    if (event?.address === GATES + 16 * gate) return this.resume(cpu, event.address);
    if (!ENTRIES.has(gate)) return this.breach('gate-misused');
    if (this.gatesMapped === this.gatesLoaded) return this.callIn(cpu, gate);
    this.end(); // other memory is where the module was
    return this.unloadedGate(cpu, gate);
  }

  /** The next instruction of a CPU may not be executed where it is. */
  fetch(cpu: number, at: number, ring: number): Verdict {
    return this.done(this.onFetch(cpu, at, ring));
  }
  private onFetch(cpu: number, at: number, ring: number): Verdict {
    if (this.inside[cpu]) return this.leaveByJump(cpu, at);
    if (this.state === 'absent' || !this.isCode(at)) return 'not-mine';
    return ring === 0 ? this.resume(cpu, at) : this.breach('text-fetch');
  }

  /** The text is fetched through another mapping of its frame. */
  fetchAlias(): Verdict {
    return this.state === 'absent' ? 'not-mine' : this.done(this.breach('text-fetch'));
  }

  /** An event is about to be delivered at RIP `at`, in the module. */
  event(cpu: number, at: number, type: string, vector: number): Verdict {
    return this.done(this.onEvent(cpu, at, type, vector));
  }
  private onEvent(cpu: number, at: number, type: string, vector: number): Verdict {
    if (!this.isCode(at)) return this.leaveByJump(cpu, at);
    const registers = this.registers[cpu];
    const rsp = this.rsp(cpu);
    let broken: string | undefined = 'bad-stack';
    if (this.slot(rsp)) {
      const frame = this.push('event', rsp, at, type === 'exception' ? vector : -1, registers);
      broken = at === RETURN_GATE ? undefined : this.seal(frame, at, rsp, canonical(registers[RBP]));
      if (broken) this.take(frame);
      else frame.calls = [...this.calls[cpu]];
    }
    this.scrub(cpu);
    this.leave(cpu);
    if (broken) return this.breach(broken);
    this.crossings.eventOut++;
    return 'handled';
  }

  /** A return in the module that would not go where its call said. */
  badReturn(cpu: number): Verdict {
    return this.done(this.violation(cpu, 'shadow-stack'));
  }

  /** The kernel writes to text or gates. */
  write(): Verdict {
    return this.state === 'absent' ? 'not-mine' : this.done(this.breach('text-write'));
  }

  // ---- the crossings ----

  private unloadedGate(cpu: number, gate: number): Verdict {
    if (gate !== G.init) return this.refuse(cpu, ENTRIES.has(gate) ? 'init-not-first' : 'not-registered');
    this.state = 'loading';
    this.gatesLoaded = this.gatesMapped;
    this.initEntered = false;
    this.initThere = true;
    return this.callIn(cpu, gate);
  }

  private gateInside(cpu: number, gate: number): Verdict {
    const entry = ENTRIES.get(gate);
    const target = CALLS.get(gate);
    if (target !== undefined) {
      const broken = this.callOut(cpu, target, gate);
      return broken ? this.violation(cpu, broken) : 'handled';
    }
    if (entry !== undefined) {
      if (!this.isCode(entry)) return this.violation(cpu, 'wild-fetch');
      this.crossings.internal++;
      this.registers[cpu][RIP] = word(entry);
      return 'handled';
    }
    return gate === G.return ? this.returnOut(cpu) : this.violation(cpu, 'gate-misused');
  }

  private callIn(cpu: number, gate: number): Verdict {
    if (this.state === 'quarantined') {
      this.refuse(cpu, 'quarantined');
      if (gate === G.cleanup) this.end();
      return 'handled';
    }
    if (gate === G.init && this.initEntered) return this.refuse(cpu, 'init-again');
    if (gate !== G.init && !this.initEntered) return this.refuse(cpu, 'init-not-first');
    if (gate === G.init && this.state !== 'loading') return this.refuse(cpu, 'init-gone');
    const registers = this.registers[cpu];
    const rsp = this.rsp(cpu);
    const slot = this.slot(rsp);
    const back = slot ? canonical(slot.get()) : Number.NaN;
    const broken =
      !slot || this.nearModule(rsp) ? 'bad-stack' : this.badGs[cpu] ? 'per-cpu-base' : Number.isNaN(back) ? 'return-address' : undefined;
    if (broken) {
      this.breach(broken);
      this.giveBack(cpu);
      return 'handled';
    }
    this.push('call-in', rsp + 8, back, gate, registers);
    slot?.set(word(RETURN_GATE));
    registers[FLAGS] = (registers[FLAGS] & SHARED) | 2n;
    registers[RIP] = word(ENTRIES.get(gate) ?? 0);
    this.inside[cpu] = true;
    if (this.shadowStacks) this.calls[cpu] = [{ back: RETURN_GATE, slot: rsp }];
    if (gate === G.init) this.initEntered = true;
    this.crossings.callIn++;
    return 'handled';
  }

  private returnOut(cpu: number): Verdict {
    if (this.calls[cpu].length > 0) return this.violation(cpu, 'shadow-stack');
    const frame = this.find('call-in', this.rsp(cpu));
    if (!frame) return this.violation(cpu, 'no-frame');
    this.take(frame);
    const registers = this.registers[cpu];
    this.leave(cpu);
    registers[FLAGS] = (registers[FLAGS] & SHARED) | (frame.registers[FLAGS] & ~SHARED);
    registers[RIP] = word(frame.address);
    this.crossings.returnOut++;
    this.entryDone(frame.detail, BigInt.asIntN(32, registers[RAX]) < 0n);
    return 'handled';
  }

  private callOut(cpu: number, target: number, gate: number): string | undefined {
    const registers = this.registers[cpu];
    const rsp = this.rsp(cpu);
    const slot = this.slot(rsp);
    if (!slot) return 'bad-stack';
    const back = canonical(slot.get());
    if (back !== RETURN_GATE && !this.isReturnAddress(back)) return 'return-address';
    const newest = this.calls[cpu].at(-1);
    if (this.shadowStacks && (newest?.back !== back || newest.slot !== rsp)) return 'shadow-stack';
    this.calls[cpu].pop();
    if (gate !== G.stackFail) {
      // nothing comes back from that one
      const frame = this.push('call-out', rsp + 8, back, gate, registers);
      const broken = back === RETURN_GATE ? undefined : this.seal(frame, back - 1, rsp + 8, canonical(registers[RBP]));
      if (broken) {
        this.take(frame);
        return broken;
      }
      frame.calls = [...this.calls[cpu]];
    }
    slot.set(word(REENTRY_GATE));
    this.leave(cpu);
    registers[RIP] = word(target);
    this.crossings.callOut++;
    return undefined;
  }

  /** The module goes on outside its code: a call by pointer if a return address of its own is on top, else a wild jump. */
  private leaveByJump(cpu: number, at: number): Verdict {
    if (!(at < 0) || this.isModuleAddress(at)) return this.violation(cpu, 'wild-fetch');
    const broken = this.callOut(cpu, at, -1);
    return broken ? this.violation(cpu, broken === 'return-address' ? 'wild-fetch' : broken) : 'handled';
  }

  private returnIn(cpu: number): Verdict {
    if (this.state === 'quarantined') {
      this.countRefusal('quarantined');
      this.abandon(cpu);
      return 'handled';
    }
    const rsp = this.rsp(cpu);
    const frame = this.find('call-out', rsp);
    if (!frame) return this.breach('no-frame');
    this.take(frame);
    const broken = !this.isCode(frame.address) ? 'return-address' : !this.slot(rsp - 8) ? 'bad-stack' : this.mayGoOn(cpu, frame);
    if (broken) return this.violation(cpu, broken);
    const registers = this.registers[cpu];
    for (const register of CALLEE_SAVED) registers[register] = frame.registers[register];
    registers[FLAGS] = (registers[FLAGS] & SHARED) | (frame.registers[FLAGS] & ~SHARED);
    registers[RIP] = word(frame.address);
    this.inside[cpu] = true;
    this.calls[cpu] = [...frame.calls];
    this.crossings.returnIn++;
    return 'handled';
  }

  private resume(cpu: number, at: number): Verdict {
    if (this.state === 'quarantined') {
      this.countRefusal('quarantined');
      this.abandon(cpu);
      return 'handled';
    }
    const registers = this.registers[cpu];
    const frame = this.find('event', this.rsp(cpu));
    if (!frame) return this.breach('text-fetch');
    const warned = frame.detail === 6 && frame.address === CORE + T.warn && at === CORE + T.warn + 2;
    const fixed = frame.detail >= 0 && frame.address === CORE + T.faulting && at === CORE + T.fixup;
    if (at !== frame.address && !warned && !fixed) return this.breach('resume-mismatch');
    this.take(frame);
    const broken = this.mayGoOn(cpu, frame);
    if (broken) {
      this.breach(broken);
      this.abandon(cpu);
      return 'handled';
    }
    const resumeFlag = registers[FLAGS] & RESUME_FLAG;
    for (let register = 0; register < 18; register++) registers[register] = frame.registers[register];
    registers[FLAGS] |= resumeFlag;
    registers[RIP] = word(at);
    if (fixed) registers[RDX] = word(-14);
    this.inside[cpu] = true;
    this.calls[cpu] = [...frame.calls];
    this.crossings.resume++;
    return 'handled';
  }

  // ---- rules ----

  /** The module may go on where it was: its return addresses are unchanged, its per-CPU data is clear of private memory. */
  private mayGoOn(cpu: number, frame: Frame): string | undefined {
    for (const [address, value] of frame.seals) {
      const slot = this.slot(address);
      if (!slot) return 'bad-stack';
      if (slot.get() !== value) return 'seal-broken';
    }
    return this.badGs[cpu] ? 'per-cpu-base' : undefined;
  }

  /** Walks the module's own frames up to its entry and writes down every return address, and every RBP that a frame hangs on. */
  private seal(frame: Frame, at: number, pointer: number, rbp: number): string | undefined {
    for (;;) {
      const { size, base } = layout(at);
      const end = (base === 'rsp' ? pointer : rbp) + size;
      if (!(end - 8 >= pointer)) return 'return-address';
      const slot = this.slot(end - 8);
      if (!slot) return 'bad-stack';
      if (frame.seals.push([end - 8, slot.get()]) > MOST_SEALS) return 'stack-depth';
      if (base === 'rbp') {
        const saved = this.slot(end - 16);
        if (!saved) return 'bad-stack';
        rbp = canonical(saved.get());
        if (!Number.isNaN(rbp) && frame.seals.push([end - 16, saved.get()]) > MOST_SEALS) return 'stack-depth';
      }
      const back = canonical(slot.get());
      if (back === RETURN_GATE) return undefined;
      if (!this.isReturnAddress(back)) return 'return-address';
      pointer = end;
      at = back - 1;
    }
  }

  /** A move is over: of a module that it quarantined, every CPU is taken out. */
  private done(verdict: Verdict): Verdict {
    if (this.justQuarantined) for (const [cpu] of this.inside.entries()) if (this.inside[cpu]) this.abandon(cpu);
    this.justQuarantined = false;
    return verdict;
  }

  private breach(reason: string): Verdict {
    this.violations[reason] = (this.violations[reason] ?? 0) + 1;
    if (this.policy === 'quarantine' && this.state !== 'quarantined') {
      this.state = 'quarantined';
      this.justQuarantined = true;
    }
    return 'handled';
  }

  /** A breach by the module's own thread, which ends what it was doing. */
  private violation(cpu: number, reason: string): Verdict {
    this.breach(reason);
    this.abandon(cpu);
    return 'handled';
  }

  /** The newest entry on this stack ends as if it had returned -1. */
  private abandon(cpu: number): void {
    const frame = this.takeOut(cpu);
    if (frame) this.entryDone(frame.detail, true);
  }
  /** The same, whatever that means for the module. */
  private takeOut(cpu: number): Frame | undefined {
    const registers = this.registers[cpu];
    const rsp = this.rsp(cpu);
    if (this.inside[cpu]) this.scrub(cpu);
    this.leave(cpu);
    const frame = this.frames.find(
      ({ kind, key }) => kind === 'call-in' && key >= rsp && this.stackOf(key) === this.stackOf(rsp + 8) && this.joined(rsp, key),
    );
    if (!frame) return undefined;
    this.take(frame);
    for (const register of [...CALLEE_SAVED, FLAGS]) registers[register] = frame.registers[register];
    registers[RAX] = word(-1);
    registers[RSP] = word(frame.key);
    registers[RIP] = word(frame.address);
    return frame;
  }

  private refuse(cpu: number, reason: string): Verdict {
    this.countRefusal(reason);
    this.giveBack(cpu);
    return 'handled';
  }
  private countRefusal(reason: string): void {
    this.refusals[reason] = (this.refusals[reason] ?? 0) + 1;
    this.crossings.refused++;
  }
  /** A refused call returns -1, where there is a stack to return by. */
  private giveBack(cpu: number): void {
    const registers = this.registers[cpu];
    const rsp = this.rsp(cpu);
    const back = this.slot(rsp)?.get();
    if (back === undefined || Number.isNaN(canonical(back))) return;
    registers[RSP] = word(rsp + 8);
    registers[RIP] = back;
    registers[RAX] = word(-1);
  }

  private entryDone(gate: number, failed: boolean): void {
    if (gate === G.cleanup || (gate === G.init && failed)) this.end();
    else if (gate === G.init) {
      this.initThere = false;
      if (this.state === 'loading') this.state = 'live';
    }
  }

  private end(): void {
    for (const [cpu, inside] of this.inside.entries()) if (inside) this.takeOut(cpu);
    this.frames = [];
    this.state = 'absent';
  }

  private leave(cpu: number): void {
    this.inside[cpu] = false;
    this.calls[cpu] = [];
  }

  /** Nothing of the module stays in the registers. */
  private scrub(cpu: number): void {
    const registers = this.registers[cpu];
    for (let register = 0; register < 16; register++) if (register !== RSP) registers[register] = 0n;
    registers[FLAGS] &= ~STATUS;
  }

  // ---- frames and stacks ----

  private push(kind: Frame['kind'], key: number, address: number, detail: number, registers: Words): Frame {
    this.frames = this.frames.filter((other) => !(other.key < key && this.sameStack(other.key, key))); // those below are dead
    const frame: Frame = { kind, key, address, detail, registers: [...registers], seals: [], calls: [] };
    this.frames.unshift(frame);
    return frame;
  }
  /** Uses a frame up, and with it the newer ones of its stack. */
  private take(frame: Frame): void {
    const index = this.frames.indexOf(frame);
    this.frames = this.frames.filter((other, at) => at > index || (at < index && !this.sameStack(other.key, frame.key)));
  }
  private find(kind: Frame['kind'], key: number): Frame | undefined {
    return this.frames.find((frame) => frame.kind === kind && frame.key === key);
  }

  private rsp(cpu: number): number {
    return canonical(this.registers[cpu][RSP]);
  }
  private stackOf(key: number): number {
    return Math.floor((key - 8) / 16384);
  }
  private sameStack(a: number, b: number): boolean {
    return this.stackOf(a) === this.stackOf(b) && this.joined(Math.min(a, b), Math.max(a, b));
  }
  /** Every page between two addresses is mapped. */
  private joined(low: number, high: number): boolean {
    for (let page = Math.floor(low / PAGE) * PAGE; page < high; page += PAGE) if (!this.present(page)) return false;
    return true;
  }
  private present(address: number): boolean {
    return this.regions.some(({ base, present }) => address >= base && present[Math.floor((address - base) / PAGE)]);
  }
  /** A word that may be part of a stack, or undefined. */
  slot(address: number): { get(): bigint; set(value: bigint): void } | undefined {
    if (!(address < 0) || address % 8 !== 0 || !this.present(address)) return undefined;
    const region = this.regions.find(({ base, present }) => address >= base && address < base + present.length * PAGE);
    if (!region) return undefined;
    const index = (address - region.base) / 8;
    return {
      get: () => region.words[index],
      set(value) {
        region.words[index] = value;
      },
    };
  }
  private ranges(): [number, number][] {
    return this.initThere
      ? [
          [CORE, CORE + 0x5000],
          [INIT, INIT + PAGE],
        ]
      : [[CORE, CORE + 0x5000]];
  }
  /** A thread at this stack pointer could come to the module's own memory. */
  private nearModule(rsp: number): boolean {
    return this.ranges().some(([start, end]) => rsp - 0x8000 < end && rsp + 0x4000 > start);
  }
  private isModuleAddress(at: number): boolean {
    return this.ranges().some(([start, end]) => at >= start && at < end);
  }
  private isCode(at: number): boolean {
    return (at >= CORE && at < CORE + 0x2000) || (this.initThere && at >= INIT && at < INIT + PAGE);
  }
  private isReturnAddress(at: number): boolean {
    return RETURN_ADDRESSES.has(at) && this.isCode(at);
  }
}
