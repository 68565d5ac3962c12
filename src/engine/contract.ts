/**
 * The engine contract: what executes guest instructions, and how the rest of Portcullis speaks to it.
 *
 * Two engines implement it (`soft`, later `kvm`), and a third, `fake`, serves the monitor's tests. Engines know
 * nothing of modules, grants or devices. They know guest memory, virtual CPUs, and *views*: what a virtual CPU can reach.
 *
 * Units and shapes used throughout:
 *  - A *guest physical address* (gpa) is a number, 0 <= gpa < 2^52. RAM is [0, memory.size).
 *  - A *linear address* is a canonical 48-bit address as a signed number: kernel addresses are negative,
 *    so that every canonical address is exact in a double. NaN stands for a non-canonical address.
 *  - Time is in nanoseconds since the virtual machine started, as a number.
 *  - Registers are 64-bit words in shared memory; see `Registers`.
 */

/** Bytes in a page, the unit of every permission. */
export const PAGE_SIZE = 4096;

/** What a page allows, as a bit set. */
export const PERMISSION = { read: 1, write: 2, execute: 4 } as const;
export type Permission = number;

/** Index of each word in `Registers.words`, in the encoding order of x86 (Intel SDM vol. 2, table 2-2). */
export const REG = {
  rax: 0,
  rcx: 1,
  rdx: 2,
  rbx: 3,
  rsp: 4,
  rbp: 5,
  rsi: 6,
  rdi: 7,
  r8: 8,
  r9: 9,
  r10: 10,
  r11: 11,
  r12: 12,
  r13: 13,
  r14: 14,
  r15: 15,
  rip: 16,
  rflags: 17,
} as const;
export const REGISTER_COUNT = 18;

/**
 * The general registers, RIP and RFLAGS of a virtual CPU. Both arrays are views of the same storage.
 * They are valid, and may be written, whenever `run` is not executing. `halves[2 * i]` is the low half.
 * Use `halves` on hot paths: a BigInt per access costs more than the access.
 */
export interface Registers {
  readonly words: BigUint64Array;
  readonly halves: Uint32Array;
}

/** Segment register indices in encoding order, then the two system segments. */
export const SEG = { es: 0, cs: 1, ss: 2, ds: 3, fs: 4, gs: 5, tr: 6, ldtr: 7 } as const;

/** A segment register with its hidden part. `attributes` is bits 8..23 of the descriptor's second word (type, S, DPL, P, AVL, L, D/B, G) as in VMX access rights: bits 0..7 type..P, 12..15 AVL, L, D, G. */
export interface Segment {
  selector: number;
  base: bigint;
  limit: number;
  attributes: number;
}
export interface TableRegister {
  base: bigint;
  limit: number;
}

/** The system registers; read and written whole, for boot protocols, INIT, snapshots and tests. Not a hot path. */
export interface SystemRegisters {
  segments: Segment[]; // indexed by SEG
  gdtr: TableRegister;
  idtr: TableRegister;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
}

/**
 * A page of host memory that no guest physical address reaches. Holds the VMM's own copy of a module's text and
 * constants, and private memory. `bytes` is the page itself (4096 bytes, zeroed when allocated and when freed).
 */
export interface HostPage {
  readonly id: number;
  readonly bytes: Uint8Array;
}

/** Closed set of instructions that a view may allow beyond what the untrusted view has. */
export type Instruction = 'monitor-mwait' | 'vector';

/** One page that a module view maps by itself, whatever the guest's page tables say. Supervisor-only. */
export interface FixedPage {
  /** Linear address of the page, a multiple of 4096, in the upper half (negative). */
  readonly address: number;
  readonly page: HostPage;
  readonly permission: Permission;
  /**
   * In a view with a shadow stack, indirect branches lead into the page only at multiples of this many bytes, a power of two. Absent: nowhere. What the
   * view does not map itself they may lead to as ever (and find not executable).
   */
  readonly landing?: number;
}

/** A range of guest physical addresses [start, end). */
export interface PhysicalRange {
  readonly start: number;
  readonly end: number;
}

/**
 * What a virtual CPU can reach. View 0 is the *untrusted view*: the guest as it is, less the per-frame
 * permissions given by `Engine.protect` and less the hidden windows. Every other view is a *module view*:
 *  - its fixed pages are mapped at their addresses at CPL 0, over whatever the guest's page tables hold there;
 *  - everything else is as the guest maps it, but never executable: a fetch there exits ('fetch');
 *  - per-frame permissions of the untrusted view do not apply, except `write` (a guest's mapping of module text stays unwritable);
 *  - its windows are reachable, `allowed` instructions do not raise #UD;
 *  - every interrupt, NMI and exception about to be delivered exits first ('event');
 *  - the vector unit (x87, MMX, SSE) raises #NM-like 'event' exits of vector 7 unless 'vector' is allowed.
 */
export interface View {
  readonly id: number;
  readonly name: string;
  /** Replace the set of fixed pages. Pages must not overlap. Throws RangeError for an address that is not a canonical upper-half page. */
  setFixedPages(pages: readonly FixedPage[]): void;
  /** Guest physical ranges, out of the hidden ones, that this view reaches. Takes effect at once on CPUs in the view. */
  setWindows(ranges: readonly PhysicalRange[]): void;
  setAllowed(instructions: ReadonlySet<Instruction>): void;
  /**
   * With a shadow stack, CALL in this view also puts its return address, and where on the stack it lies, on `Cpu.shadowStack`, and RET goes only where
   * the newest entry says, from that place, and takes it off. An indirect JMP or CALL leads into an executable fixed page only where it may land.
   * Anything else exits ('shadow-stack'). Off in a new view; no CPU may be in the view.
   * Throws RangeError for the untrusted view, and where `Engine.shadowStacks` is false.
   */
  setShadowStack(on: boolean): void;
  /** Read back from the engine's own state, for the invariant watch. */
  readonly windows: readonly PhysicalRange[];
  readonly allowed: ReadonlySet<Instruction>;
  readonly fixedPages: readonly FixedPage[];
  readonly shadowStack: boolean;
}

/** Entries that a virtual CPU's shadow stack holds. */
export const SHADOW_STACK_DEPTH = 64;

/**
 * The calls that the code in a view with a shadow stack has not returned from, in memory that no guest address reaches. Like the registers it belongs
 * to the virtual CPU and is the embedder's to save, empty and restore: the engine changes it by CALL and RET alone, and empties it at a reset.
 */
export interface ShadowStack {
  /** Oldest first, four an entry: low and high half of the return address, then of the address of the stack slot that it lies in. */
  readonly halves: Uint32Array;
  /** Entries in use, 0 to SHADOW_STACK_DEPTH. */
  depth: number;
}

/** Guest RAM, shared by CPUs and devices, zeroed at the start. */
export interface GuestMemory {
  readonly size: number;
  /** Index = guest physical address. On a SharedArrayBuffer where threads share it. */
  readonly bytes: Uint8Array;
  /** Little-endian 32-bit words of the same storage, for hot paths: index = gpa / 4. */
  readonly words: Uint32Array;
  /** Must be called after anyone but a CPU of this engine wrote [gpa, gpa+length): decoded code there is dropped, and who monitors it wakes. Devices' DMA goes through it. */
  written(gpa: number, length: number): void;
}

/** An interrupt, NMI or exception about to be delivered (Intel SDM vol. 3, 6.3 to 6.5). */
export interface PendingEvent {
  type: 'interrupt' | 'nmi' | 'exception' | 'software';
  vector: number;
  /** Error code, or -1 where the vector has none. */
  errorCode: number;
  /** For #PF: the faulting linear address, not yet in CR2. */
  address: bigint;
}

export type ShadowStackReason = 'mismatch' | 'full' | 'far' | 'landing';

/**
 * Why `run` came back. One object per kind and CPU is reused: copy what must outlive the next `run`.
 *
 *  - io: IN or OUT (INS and OUTS give one exit per element). RIP is already past the instruction for IN/OUT. For `write: false`,
 *    call `Cpu.completeRead(value)` before the next `run`. `address` is the linear address of the instruction itself.
 *  - mmio: access to a guest physical address with no RAM, or a write to a RAM frame that `protect` made unwritable in this view (the write has not
 *    happened; the embedder applies or drops it). 8- and 16-byte accesses come as several exits of 4 bytes, low first. `refused` is true when the
 *    address is in a hidden window that the current view lacks: answer all ones, drop writes, log.
 *    For reads, `completeRead` before the next `run`. The instruction finishes in the next `run`.
 *  - halt: HLT with RIP past it; interrupts may or may not be enabled (RFLAGS.IF).
 *  - mwait: MWAIT executed where allowed, after a MONITOR that nothing has undone; RIP past it. The CPU waits as long as `Cpu.monitoring`, unless an
 *    interrupt, NMI or INIT comes (`extensions` bit 0: also one that RFLAGS.IF masks). The next `run` ends the wait in any case. `refused`: MWAIT is
 *    withheld on this CPU, and there is no wait.
 *  - msr: RDMSR/WRMSR that the engine does not know itself. Set RDX:RAX and call `completeMsr(true)`, or `completeMsr(false)` for #GP(0).
 *  - event: in a module view, something is about to be delivered. Nothing has been delivered; RIP, RSP, RFLAGS are those of the interrupted
 *    instruction (faults), or of the next one (interrupts, traps). Deliver it with `Cpu.deliver` after leaving the view; if not, it is lost (except
 *    `interrupt`, which had been taken from `inject`).
 *  - fetch: the next instruction lies in a page that may not be executed in this view. RIP is that address; nothing has been executed.
 *  - shadow-stack: in a view with a shadow stack, a return would go elsewhere than its call said ('mismatch'; `found` is where, NaN if not canonical),
 *    a call found the shadow stack full ('full'), RETF or IRET was reached ('far'), or an indirect JMP or CALL would land in a fixed page where it may
 *    not ('landing'; `found` is where). RIP is that instruction's; nothing has been executed.
 *  - window: `requestInterruptWindow` was asked and the CPU can now take an interrupt.
 *  - eoi-free, apic etc. do not exist: the engines have no interrupt controller.
 *  - budget: the time `until` was reached, `kick` was called, PAUSE was executed in a run that `yields`, or a store ended the wait of another CPU.
 *  - shutdown: triple fault.
 *  - debug: the engine cannot go on (its own limit, described in `reason`); the virtual machine must stop.
 */
export type Exit =
  | { kind: 'io'; port: number; size: 1 | 2 | 4; write: boolean; value: number; address: number }
  | { kind: 'mmio'; gpa: number; size: 1 | 2 | 4; write: boolean; value: number; refused: boolean }
  | { kind: 'halt' }
  | { kind: 'mwait'; hints: number; extensions: number; refused: boolean }
  | { kind: 'msr'; write: boolean; index: number }
  | { kind: 'event'; event: PendingEvent }
  | { kind: 'fetch'; address: number }
  | { kind: 'shadow-stack'; reason: ShadowStackReason; found: number }
  | { kind: 'window' }
  | { kind: 'budget' }
  | { kind: 'shutdown' }
  | { kind: 'debug'; reason: string };

/** A virtual CPU. All methods are for the thread that runs it, except `kick`. */
export interface Cpu {
  readonly index: number;
  readonly registers: Registers;
  /** 0 to 3. */
  readonly privilegeLevel: number;
  readonly view: View;
  /** Valid, and may be written, whenever `run` is not executing. Where `Engine.shadowStacks` is false its depth stays 0. */
  readonly shadowStack: ShadowStack;
  /** After an 'mwait' exit: true until somebody stores to the monitored line. */
  readonly monitoring: boolean;

  /** Executes until the engine's clock reaches `until` (ns) or something else ends it; with `yields`, a PAUSE does: others wait for this thread. */
  run(until: number, yields?: boolean): Exit;
  /** Makes a running or the next `run` return 'budget' soon. From any thread. */
  kick(): void;

  /** Answers the last io or mmio read. `value` is an unsigned number of the exit's size. */
  completeRead(value: number): void;
  /** Answers the last msr exit: true = done (for reads RDX:RAX are set), false = raise #GP(0). */
  completeMsr(known: boolean): void;

  /** Switches the view; cheap, flushes no translation of the other view. */
  enter(view: View): void;
  /** While withheld, MWAIT does not wait on this CPU, in whatever view: it exits with `refused`. Begins and ends at once; the CPU must not be running. */
  withholdMwait(withheld: boolean): void;

  /** True if RFLAGS.IF is set, no interrupt shadow is active, and no other event is waiting. */
  readonly canInterrupt: boolean;
  /** Queues an external interrupt; only when `canInterrupt`. Delivered before the next instruction. */
  inject(vector: number): void;
  /** The next `run` returns 'window' as soon as an interrupt could be injected. One shot. */
  requestInterruptWindow(): void;
  /** Queues an NMI (held back while one is being handled, Intel SDM vol. 3, 6.7.1). */
  nmi(): void;
  /** Delivers the event of an 'event' exit in the current view, before the next instruction. */
  deliver(event: PendingEvent): void;

  readSystem(): SystemRegisters;
  writeSystem(system: SystemRegisters): void;
  readMsr(index: number): bigint;
  writeMsr(index: number, value: bigint): void;
  /** Reset state (Intel SDM vol. 3, table 10-1). INIT keeps caches, MSRs and the vector unit. */
  reset(kind: 'power-up' | 'init'): void;

  /**
   * Guest physical address for a linear address by the current page tables as a CPL 0 access would see it, or -1 when not mapped, or not
   * writable and `write`. Ignores the view's fixed pages. Sets no accessed or dirty bit, raises nothing.
   */
  translate(address: number, write: boolean): number;

  /** Vector state (x87, SSE; and what XCR0 adds), 512 bytes or more in the XSAVE standard form. */
  saveVector(into: Uint8Array): void;
  loadVector(from: Uint8Array): void;
  readonly vectorSize: number;

  /** Instructions executed since creation. */
  readonly instructions: number;
}

export type ClockKind = 'host' | 'instructions';

export interface EngineOptions {
  /** Bytes, a multiple of 2 MiB, 16 MiB to 3 GiB. */
  memorySize: number;
  cpus: number;
  /** `host`: wall-clock time. `instructions`: deterministic, time advances with executed instructions and with `skipTo`. */
  clock: ClockKind;
  /** Host pages (VMM-owned) to make room for. Default 4096 (16 MiB). */
  hostPages?: number;
}

export interface EngineClock {
  readonly kind: ClockKind;
  /** ns since the start. */
  now(): number;
  /** For the deterministic clock: an idle machine jumps ahead to `time`. Ignored by the host clock. */
  skipTo(time: number): void;
}

/** A host thread that executes CPUs for the machine's thread, one at a time. All methods are the machine's thread's. */
export interface CpuThread {
  /** The CPU that it was given, until `finish`. */
  readonly cpu: Cpu | undefined;
  /** The thread executes the CPU, as `Cpu.run` would. Until `finish` only its `index`, `instructions`, `view` and `kick` may be used. Throws if it has one. */
  start(cpu: Cpu, until: number, yields: boolean): void;
  /** The CPU's run has ended: `finish` does not wait. */
  readonly returned: boolean;
  /** Ends the run if need be, and says how it ended. */
  finish(): Exit;
}

/**
 * CPUs that run at the same time. While a thread has a CPU, `Cpu.run` of another ends with 'budget' as soon as a thread comes back.
 */
export interface CpuThreads {
  readonly all: readonly CpuThread[];
}

export interface Engine {
  readonly name: 'soft' | 'kvm' | 'fake';
  readonly memory: GuestMemory;
  readonly clock: EngineClock;
  readonly cpus: readonly Cpu[];
  readonly untrusted: View;
  /** True if views can have a shadow stack. */
  readonly shadowStacks: boolean;
  /** Every module view there is now. `id`s are never used twice. */
  readonly views: Iterable<View>;
  /** Guest time-stamp counter frequency, Hz. TSC = f(clock.now()) + IA32_TSC_ADJUST. */
  readonly tscFrequency: number;

  createView(name: string): View;
  /** The view must be current on no CPU. */
  destroyView(view: View): void;
  /** Throws RangeError when the pool is used up; nothing is allocated then. */
  allocateHostPages(count: number): HostPage[];
  freeHostPages(pages: readonly HostPage[]): void;
  /** Permission of a guest frame in the untrusted view. Default read+write+execute. `gpa` is page-aligned and in RAM. */
  protect(gpa: number, permission: Permission): void;
  protection(gpa: number): Permission;
  /** Ranges (outside RAM) that no view reaches unless listed in its windows. Replaces the former list. */
  hide(ranges: readonly PhysicalRange[]): void;
  readonly hidden: readonly PhysicalRange[];
  /** Starts threads for CPUs. undefined where this engine or host cannot have CPUs run at the same time. Before any CPU has run. */
  startThreads(count: number): Promise<CpuThreads | undefined>;
  /** No CPU executes anything in another thread until the next `CpuThread.start`: for what must not happen beside others. */
  quiet(): void;
  /** Counters by name: unknown opcodes by encoding, decoded blocks, TLB fills, ... */
  statistics(): Record<string, number>;
  close(): void;
}

/** True for vectors that push an error code: #DF #TS #NP #SS #GP #PF #AC #CP (Intel SDM vol. 3, table 6-1). */
export function hasErrorCode(vector: number): boolean {
  return vector === 8 || (vector >= 10 && vector <= 14) || vector === 17 || vector === 21;
}

/** Register word as a linear address (signed number), or NaN when it is not canonical. */
export function registerAddress(registers: Registers, index: number): number {
  return joinAddress(registers.halves[2 * index], registers.halves[2 * index + 1]);
}

/** Low and high halves as a canonical linear address, or NaN. */
export function joinAddress(low: number, high: number): number {
  const top = high | 0;
  return top >= -0x8000 && top < 0x8000 ? top * 0x1_0000_0000 + low : Number.NaN;
}

/** Writes a canonical linear address (signed number) into a register word. */
export function setRegisterAddress(registers: Registers, index: number, address: number): void {
  registers.halves[2 * index] = address >>> 0;
  registers.halves[2 * index + 1] = Math.floor(address / 0x1_0000_0000) >>> 0;
}
