/**
 * A guarded module as the borders see it: where it lies, which of its addresses are gates, code and return addresses, how its frames lie on the stack.
 * It is the tests' tiny one (src/privileges/testing.ts); its code and stack layouts are the tables below.
 */
import { CORE, G, INIT, KERNEL, T } from '../../../src/privileges/testing.ts';
import { canonical } from './words.ts';

export const PAGE = 4096;
/** What the image puts into its private page: "SECRET" in the second word. */
const PRIVATE_IMAGE = [0n, 0x5445_5243_4553n];
const CORE_SIZE = 5 * PAGE;
const CODE_SIZE = 2 * PAGE;
const TEXT_SIZE = 0xa0;

const CALLS = new Map<number, number>([
  [G.stackFail, KERNEL.__stack_chk_fail],
  [G.fpuBegin, KERNEL.kernel_fpu_begin_mask],
  [G.fpuEnd, KERNEL.kernel_fpu_end],
]);
const ENTRIES = new Map<number, number>([
  [G.cleanup, T.cleanup],
  [G.probe, T.probe],
  [G.withBp, T.withBp],
  [G.inner, T.inner],
]);
const RETURN_ADDRESSES = [T.afterInner, T.afterCall, T.innerAfterCall, T.afterThunk, T.bpAfterCall];

/** From a place on: bytes to the end of the frame, counted from RSP, or from RBP where the caller's RBP lies 16 below that end. */
export interface Layout {
  readonly size: number;
  readonly base: 'rsp' | 'rbp';
}
/** The return address is on top: at a function's first instruction, in thunks, gates and init. */
export const ON_TOP: Layout = { size: 8, base: 'rsp' };
const LAYOUTS: readonly [from: number, layout: Layout][] = [
  [0, ON_TOP],
  [4, { size: 24, base: 'rsp' }],
  [0x12, ON_TOP],
  [0x21, { size: 16, base: 'rsp' }],
  [0x30, ON_TOP],
  [0x38, { size: 16, base: 'rsp' }],
  [0x40, ON_TOP],
  [0x44, { size: 16, base: 'rbp' }],
  [0x4e, ON_TOP],
];

export interface Placing {
  readonly name: string;
  /** Bytes from the usual place. */
  readonly shift: number;
  /** Call gates of `kfunc` beside the usual one: they tell the images apart. */
  readonly moreGates: number;
  /** What it imports as `kfunc`. */
  readonly kfunc: number;
  /** Its private page is a private stack. */
  readonly privateStack: boolean;
}

export class Module {
  state: 'absent' | 'loading' | 'live' | 'quarantined' = 'absent';
  initEntered = false;
  /** Its init memory is still its own. */
  initThere = false;
  /** Which of two frames with the same gates is mapped where the gates are, and which was when the module was loaded. */
  gatesMapped = 0;
  gatesLoaded = 0;
  /** Its private page, as its own code sees it. */
  readonly private = new BigUint64Array(PAGE / 8);
  readonly name: string;
  readonly core: number;
  readonly init: number;
  readonly returnGate: number;
  readonly reentryGate: number;
  readonly lastGate: number;
  readonly returnAddresses: readonly number[];
  /** Of its private page. */
  readonly start: number;
  readonly end: number;

  constructor(
    private readonly placing: Placing,
    readonly policy: 'log' | 'quarantine',
  ) {
    this.name = placing.name;
    this.core = CORE + placing.shift;
    this.init = INIT + placing.shift;
    this.returnGate = this.gateAddress(G.return);
    this.reentryGate = this.gateAddress(G.reentry);
    this.lastGate = G.fpuEnd + placing.moreGates;
    this.returnAddresses = [...RETURN_ADDRESSES.map((at) => this.core + at), this.init + T.initAfterCall];
    this.start = this.core + 3 * PAGE;
    this.end = this.start + PAGE;
  }

  /** It is loaded; its init function is about to be entered. */
  load(): void {
    this.state = 'loading';
    this.gatesLoaded = this.gatesMapped;
    this.initThere = true;
    this.private.set(PRIVATE_IMAGE);
  }
  /** Nothing of it is left. */
  unload(): void {
    this.state = 'absent';
    this.initEntered = false;
    this.private.fill(0n);
  }

  /** The guest has other memory where its gates were. */
  get freed(): boolean {
    return this.state !== 'absent' && this.gatesMapped !== this.gatesLoaded;
  }

  gateAddress(gate: number): number {
    return this.core + PAGE + 16 * gate;
  }
  /** Function that an entry gate leads to. */
  entry(gate: number): number | undefined {
    if (gate === G.init) return this.init;
    const offset = ENTRIES.get(gate);
    return offset === undefined ? undefined : this.core + offset;
  }
  /** Function that a call gate leads to, of the kernel or of another module. */
  call(gate: number): number | undefined {
    return gate === G.kfunc || (gate > G.fpuEnd && gate <= this.lastGate) ? this.placing.kfunc : CALLS.get(gate);
  }

  isCode(at: number): boolean {
    return (at >= this.core && at < this.core + CODE_SIZE) || this.isInit(at);
  }
  isReturnAddress(at: number): boolean {
    return this.returnAddresses.includes(at) && this.isCode(at);
  }
  layout(at: number): Layout {
    const offset = at - this.core;
    return offset >= 0 && offset < TEXT_SIZE ? (LAYOUTS.findLast(([from]) => from <= offset)?.[1] ?? ON_TOP) : ON_TOP;
  }

  /** The address is one of its own, code or not. */
  holds(at: number): boolean {
    return (at >= this.core && at < this.core + CORE_SIZE) || this.isInit(at);
  }
  /** It has something in [start, end). */
  overlaps(start: number, end: number): boolean {
    return (start < this.core + CORE_SIZE && end > this.core) || (this.initThere && start < this.init + PAGE && end > this.init);
  }
  /** Both would have the same addresses, were this one loaded beside the other. */
  collides(other: Module): boolean {
    return other.overlaps(this.core, this.core + CORE_SIZE) || other.overlaps(this.init, this.init + PAGE);
  }
  private isInit(at: number): boolean {
    return this.initThere && at >= this.init && at < this.init + PAGE;
  }

  isPrivate(at: number): boolean {
    return at >= this.start && at < this.end;
  }
  /** The address lies on its private stack, below the word that keeps the kernel's stack pointer, or at that. */
  onPrivateStack(at: number): boolean {
    return this.placing.privateStack && at >= this.start && at <= this.end - 8;
  }
  /** Where the kernel's stack goes on for a thread that is at `pointer` in the module. NaN: nowhere, it is in private memory. */
  kernelPointer(pointer: number): number {
    if (!this.isPrivate(pointer)) return pointer;
    const kept = this.onPrivateStack(pointer) ? canonical(this.private[this.private.length - 1]) : Number.NaN;
    return this.isPrivate(kept) ? Number.NaN : kept;
  }
}
