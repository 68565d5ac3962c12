/**
 * A scripted engine: memory, page tables, registers and views are real, execution is the test's. It proves that the contract alone is
 * enough for the monitor, and checks the contract's rules on the way: what an engine would reject, throws here.
 */
import {
  joinAddress,
  PAGE_SIZE,
  PERMISSION,
  REGISTER_COUNT,
  REG,
  registerAddress,
  setRegisterAddress,
  SHADOW_STACK_DEPTH,
} from '../contract.ts';
import type {
  Cpu,
  Engine,
  EngineClock,
  Exit,
  FixedPage,
  GuestMemory,
  HostPage,
  Instruction,
  PendingEvent,
  Permission,
  PhysicalRange,
  Registers,
  SystemRegisters,
  View,
} from '../contract.ts';
import { walk } from './page-tables.ts';

const ALL = PERMISSION.read | PERMISSION.write | PERMISSION.execute;
const VECTOR_SIZE = 576;

class FakeView implements View {
  fixedPages: readonly FixedPage[] = [];
  windows: readonly PhysicalRange[] = [];
  allowed: ReadonlySet<Instruction> = new Set();
  shadowStack = false;
  destroyed = false;

  constructor(
    readonly id: number,
    readonly name: string,
    private readonly engine: FakeEngine,
  ) {}

  setFixedPages(pages: readonly FixedPage[]): void {
    const addresses = new Set<number>();
    for (const { address, page } of pages) {
      if (!(address < 0 && address >= -(2 ** 47)) || address % PAGE_SIZE !== 0) throw new RangeError(`fixed page at ${address}`);
      if (addresses.has(address)) throw new RangeError(`two fixed pages at ${address}`);
      if (!this.engine.owns(page)) throw new RangeError(`fixed page at ${address} is not allocated`);
      addresses.add(address);
    }
    this.fixedPages = [...pages];
  }

  setWindows(ranges: readonly PhysicalRange[]): void {
    for (const { start, end } of ranges) {
      if (!this.engine.hidden.some((hidden) => start >= hidden.start && end <= hidden.end))
        throw new RangeError(`window ${start} is not hidden`);
    }
    this.windows = [...ranges];
  }

  setAllowed(instructions: ReadonlySet<Instruction>): void {
    this.allowed = new Set(instructions);
  }

  setShadowStack(on: boolean): void {
    if (this.id === 0 || !this.engine.shadowStacks) throw new RangeError(`view ${this.name} cannot have a shadow stack`);
    if (this.engine.cpus.some((cpu) => cpu.view === this)) throw new Error(`view ${this.name} is current`);
    this.shadowStack = on;
  }
}

export class FakeCpu implements Cpu {
  readonly registers: Registers;
  readonly shadowStack = { halves: new Uint32Array(4 * SHADOW_STACK_DEPTH), depth: 0 };
  privilegeLevel = 0;
  view: View;
  monitoring = false;
  mwaitWithheld = false;
  canInterrupt = true;
  instructions = 0;
  readonly vectorSize = VECTOR_SIZE;
  /** Root of the page tables. */
  cr3 = 0;
  /** What `run` returns, in order; then 'budget'. */
  readonly script: Exit[] = [];
  /** Everything that was delivered, with the state the handler would see. */
  readonly delivered: { event: PendingEvent; view: View; registers: bigint[]; vector: Uint8Array }[] = [];
  readonly msrs = new Map<number, bigint>();
  readonly vector = new Uint8Array(VECTOR_SIZE);
  private answer: number | undefined;

  constructor(
    readonly index: number,
    private readonly engine: FakeEngine,
  ) {
    const storage = new ArrayBuffer(REGISTER_COUNT * 8);
    this.registers = { words: new BigUint64Array(storage), halves: new Uint32Array(storage) };
    this.registers.words[REG.rflags] = 2n;
    this.view = engine.untrusted;
  }

  /** The value given by `completeRead`, taken. */
  takeAnswer(): number | undefined {
    const { answer } = this;
    this.answer = undefined;
    return answer;
  }

  /** Puts the CPU behind an `out %al, $port` at `address`, as the exit that the monitor would see. */
  out(address: number, port: number): Exit {
    setRegisterAddress(this.registers, REG.rip, address + 2);
    return { kind: 'io', port, size: 1, write: true, value: 0, address };
  }

  /** CALL: the exit where there is no room on the shadow stack, else undefined. The target is the test's business. */
  call(back: number): Exit | undefined {
    const rsp = registerAddress(this.registers, REG.rsp) - 8;
    const { shadowStack } = this;
    if (this.view.shadowStack) {
      if (shadowStack.depth === SHADOW_STACK_DEPTH) return { kind: 'shadow-stack', reason: 'full', found: Number.NaN };
      for (const [index, address] of [back, rsp].entries()) {
        shadowStack.halves[4 * shadowStack.depth + 2 * index] = address >>> 0;
        shadowStack.halves[4 * shadowStack.depth + 2 * index + 1] = Math.floor(address / 0x1_0000_0000) >>> 0;
      }
      shadowStack.depth += 1;
    }
    if (!this.writable(rsp)) throw new Error(`a call with its stack at ${rsp}, which is not writable in view ${this.view.name}`);
    const { words, index } = this.place(rsp, true);
    words[index] = back >>> 0;
    words[index + 1] = Math.floor(back / 0x1_0000_0000) >>> 0;
    setRegisterAddress(this.registers, REG.rsp, rsp);
    return undefined;
  }

  /** An indirect JMP: the exit where the view's own code may not be entered there, else undefined. */
  jump(to: number): Exit | undefined {
    const fixed = this.view.shadowStack ? this.fixedPage(to) : undefined;
    if (fixed && (fixed.permission & PERMISSION.execute) !== 0 && (fixed.landing === undefined || to % fixed.landing !== 0))
      return { kind: 'shadow-stack', reason: 'landing', found: to };
    setRegisterAddress(this.registers, REG.rip, to);
    return undefined;
  }

  /** RET: where it goes, or the exit where the shadow stack does not say so. */
  ret(): number | Exit {
    const rsp = registerAddress(this.registers, REG.rsp);
    const { words, index } = this.place(rsp, false);
    const to = joinAddress(words[index], words[index + 1]);
    const { shadowStack } = this;
    if (this.view.shadowStack) {
      const [low, high, slotLow, slotHigh] = shadowStack.halves.subarray(4 * shadowStack.depth - 4, 4 * shadowStack.depth);
      if (shadowStack.depth === 0 || joinAddress(low, high) !== to || joinAddress(slotLow, slotHigh) !== rsp)
        return { kind: 'shadow-stack', reason: 'mismatch', found: to };
      shadowStack.depth -= 1;
    }
    setRegisterAddress(this.registers, REG.rsp, rsp + 8);
    return to;
  }

  /** Where the CPU finds the aligned word at `address`: in a page of its view, or where the guest maps it. */
  private place(address: number, write: boolean): { words: Uint32Array; index: number } {
    const offset = address & (PAGE_SIZE - 1);
    const fixed = this.fixedPage(address);
    if (!fixed) return { words: this.engine.memory.words, index: this.translate(address, write) >>> 2 };
    const { buffer, byteOffset, length } = fixed.page.bytes;
    return { words: new Uint32Array(buffer, byteOffset, length / 4), index: offset >>> 2 };
  }

  /** The guest jumps to `address`, which it may not execute. */
  fetch(address: number): Exit {
    if (this.executable(address)) throw new Error(`fetch exit at ${address}, which is executable in view ${this.view.name}`);
    setRegisterAddress(this.registers, REG.rip, address);
    return { kind: 'fetch', address };
  }

  /** An event about to be delivered at `address`. */
  event(address: number, event: Partial<PendingEvent> & { vector: number }): Exit {
    if (this.view === this.engine.untrusted) throw new Error('event exits exist in module views only');
    setRegisterAddress(this.registers, REG.rip, address);
    return { kind: 'event', event: { type: 'interrupt', errorCode: -1, address: 0n, ...event } };
  }

  /** What the contract says about a fetch at this address in the current view. */
  executable(address: number): boolean {
    const fixed = this.fixedPage(address);
    if (fixed) return (fixed.permission & PERMISSION.execute) !== 0;
    return this.view === this.engine.untrusted && this.allows(PERMISSION.execute, this.translate(address, false));
  }

  /** What the contract says about a write there. */
  writable(address: number): boolean {
    const fixed = this.fixedPage(address);
    return fixed ? (fixed.permission & PERMISSION.write) !== 0 : this.allows(PERMISSION.write, this.translate(address, true));
  }

  private allows(permission: number, gpa: number): boolean {
    return gpa >= 0 && (this.engine.protection(gpa) & permission) !== 0;
  }

  private fixedPage(address: number): FixedPage | undefined {
    const page = Math.floor(address / PAGE_SIZE) * PAGE_SIZE;
    return this.view.fixedPages.find((entry) => entry.address === page);
  }

  run(): Exit {
    return this.script.shift() ?? { kind: 'budget' };
  }
  kick(): void {}
  completeRead(value: number): void {
    this.answer = value;
  }
  completeMsr(): void {}

  enter(view: View): void {
    if ((view as FakeView).destroyed) throw new Error(`entering the destroyed view ${view.name}`);
    this.view = view;
  }
  withholdMwait(withheld: boolean): void {
    this.mwaitWithheld = withheld;
  }
  inject(vector: number): void {
    this.deliver({ type: 'interrupt', vector, errorCode: -1, address: 0n });
  }
  requestInterruptWindow(): void {}
  nmi(): void {}
  deliver(event: PendingEvent): void {
    this.delivered.push({ event: { ...event }, view: this.view, registers: [...this.registers.words], vector: this.vector.slice() });
  }

  readSystem(): SystemRegisters {
    const segments = Array.from({ length: 8 }, () => ({ selector: 0, base: 0n, limit: 0, attributes: 0 }));
    const table = { base: 0n, limit: 0 };
    return { segments, gdtr: table, idtr: table, cr0: 0x8000_0001n, cr2: 0n, cr3: BigInt(this.cr3), cr4: 0x20n, cr8: 0n, efer: 0xd01n };
  }
  writeSystem(system: SystemRegisters): void {
    this.cr3 = Number(system.cr3);
  }
  readMsr(index: number): bigint {
    return this.msrs.get(index) ?? 0n;
  }
  writeMsr(index: number, value: bigint): void {
    this.msrs.set(index, value);
  }
  reset(): void {
    this.registers.words.fill(0n);
    this.shadowStack.depth = 0;
    this.view = this.engine.untrusted;
  }
  translate(address: number, write: boolean): number {
    return walk(this.engine.memory, this.cr3, address, write);
  }
  saveVector(into: Uint8Array): void {
    into.set(this.vector);
  }
  loadVector(from: Uint8Array): void {
    this.vector.set(from.subarray(0, VECTOR_SIZE));
  }
}

export class FakeEngine implements Engine {
  async startThreads(): Promise<undefined> {}
  quiet(): void {}
  readonly name = 'fake';
  readonly memory: GuestMemory;
  readonly cpus: readonly FakeCpu[];
  readonly untrusted: View;
  readonly tscFrequency = 1e9;
  readonly shadowStacks: boolean;
  hidden: readonly PhysicalRange[] = [];
  time = 0;
  readonly clock: EngineClock = {
    kind: 'instructions',
    now: () => this.time,
    skipTo: (time) => {
      this.time = time;
    },
  };
  /** Ranges announced by `memory.written`. */
  readonly announced: { gpa: number; length: number }[] = [];
  private readonly permissions = new Map<number, Permission>();
  private readonly pages = new Set<HostPage>();
  private nextView = 1;
  private nextPage = 0;

  constructor(options: { memorySize?: number; cpus?: number; hostPages?: number; shadowStacks?: boolean } = {}) {
    const size = options.memorySize ?? 16 << 20;
    const bytes = new Uint8Array(size);
    this.memory = { size, bytes, words: new Uint32Array(bytes.buffer), written: (gpa, length) => this.announced.push({ gpa, length }) };
    this.limit = options.hostPages ?? 4096;
    this.shadowStacks = options.shadowStacks ?? true;
    this.untrusted = new FakeView(0, 'untrusted', this);
    this.cpus = Array.from({ length: options.cpus ?? 1 }, (_, index) => new FakeCpu(index, this));
  }
  private readonly limit: number;

  /** The word at a guest physical address as a linear address, NaN if it is none. */
  load(gpa: number): number {
    const { words } = this.memory;
    return joinAddress(words[gpa >>> 2], words[(gpa >>> 2) + 1]);
  }

  /** Host pages in use. */
  get allocated(): number {
    return this.pages.size;
  }
  owns(page: HostPage): boolean {
    return this.pages.has(page);
  }
  /** Frames that are not read+write+execute. */
  get protectedFrames(): number {
    return [...this.permissions.values()].filter((permission) => permission !== ALL).length;
  }
  readonly views = new Set<View>();

  createView(name: string): View {
    const view = new FakeView(this.nextView++, name, this);
    this.views.add(view);
    return view;
  }
  destroyView(view: View): void {
    if (this.cpus.some((cpu) => cpu.view === view)) throw new Error(`view ${view.name} is current`);
    if (!this.views.delete(view)) throw new Error(`view ${view.name} does not exist`);
    (view as FakeView).destroyed = true;
  }
  allocateHostPages(count: number): HostPage[] {
    if (this.pages.size + count > this.limit) throw new RangeError(`${count} host pages asked for, ${this.limit - this.pages.size} left`);
    const pages = Array.from({ length: count }, () => ({ id: this.nextPage++, bytes: new Uint8Array(PAGE_SIZE) }));
    for (const page of pages) this.pages.add(page);
    return pages;
  }
  freeHostPages(pages: readonly HostPage[]): void {
    for (const page of pages) {
      if ([...this.views].some((view) => view.fixedPages.some((fixed) => fixed.page === page)))
        throw new Error('freeing a mapped host page');
      if (!this.pages.delete(page)) throw new Error('freeing a host page twice');
      page.bytes.fill(0);
    }
  }
  protect(gpa: number, permission: Permission): void {
    if (gpa % PAGE_SIZE !== 0 || gpa < 0 || gpa >= this.memory.size) throw new RangeError(`protect ${gpa}`);
    this.permissions.set(gpa, permission);
  }
  protection(gpa: number): Permission {
    return this.permissions.get(gpa - (gpa % PAGE_SIZE)) ?? ALL;
  }
  hide(ranges: readonly PhysicalRange[]): void {
    if (ranges.some(({ start, end }) => start < this.memory.size || end <= start)) throw new RangeError('hidden window in RAM, or empty');
    this.hidden = [...ranges];
  }
  statistics(): Record<string, number> {
    return {};
  }
  close(): void {}
}
