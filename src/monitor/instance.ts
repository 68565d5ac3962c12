/** One loaded copy of a guarded module: its view, pages, gates and privileges, from the first gate trap to the end. */
import { on } from '../base/defence-switch.ts';
import { GATE_SIZE } from '../policy/manifest.ts';
import { joinAddress, PERMISSION } from '../engine/contract.ts';
import type { Engine, FixedPage, HostPage, Instruction, PhysicalRange, View } from '../engine/contract.ts';
import { CodeMap } from './code-map.ts';
import { resumeTable } from './exceptions.ts';
import type { ResumeTable } from './exceptions.ts';
import type { ImageSource } from './image.ts';
import { LinkedShadowStack } from './linked-shadow-stack.ts';
import { PrivateMemory } from './private-memory.ts';
import type { PrivateSection } from './private-memory.ts';
import type { Attachment, Privilege, PrivilegeTarget } from './privilege.ts';
import type { ViolationReason } from './reasons.ts';
import type { LinearRange, PlacedPage, Placement } from './relocate.ts';
import type { Solution } from './solve.ts';
import { Status } from './status.ts';

/** loading: init has not returned; live; quarantined: never entered again; ended. */
export type InstanceState = 'loading' | 'live' | 'quarantined' | 'ended';

/** Gate kinds as numbers, for one typed array per instance. */
export const GATE = { unused: 0, entry: 1, call: 2, return: 3, 're-entry': 4 } as const;

/** Whether a kernel function comes back: `never`, and so leaves no frame; or it ends the thread, and with it all that its stack stood for. */
export const RETURNS = { yes: 0, never: 1, endsThread: 2 } as const;
/** Kernel functions that never return (Linux tools/objtool/noreturns.h). */
const NO_RETURN = new Map<string, number>([
  ...[
    '__stack_chk_fail',
    '__fortify_panic',
    'fortify_panic',
    'panic',
    'usercopy_abort',
    'machine_real_restart',
    '__ubsan_handle_builtin_unreachable',
  ].map((symbol) => [symbol, RETURNS.never] as const),
  ...[
    'do_exit',
    'make_task_dead',
    'kthread_exit',
    'kthread_complete_and_exit',
    '__module_put_and_kthread_exit',
    'rewind_stack_and_make_dead',
  ].map((symbol) => [symbol, RETURNS.endsThread] as const),
]);

/** FPU sections of the kernel: inside one, the vector registers belong to the module. */
export const FPU = { none: 0, begin: 1, end: 2 } as const;
const FPU_CALLS = new Map<string, number>([
  ['kernel_fpu_begin', FPU.begin],
  ['kernel_fpu_begin_mask', FPU.begin],
  ['kernel_fpu_end', FPU.end],
]);

/** A placed page with where it lives: host page and, for text and gates, the guest frame that is protected. */
interface Mapped {
  readonly placed: PlacedPage;
  readonly host: HostPage;
  readonly gpa: number;
}

export class Instance implements PrivilegeTarget {
  state: InstanceState = 'loading';
  /** The rule that put it into quarantine. */
  broken: ViolationReason | undefined;
  readonly view: View;
  readonly module: string;
  readonly gateBase: number;
  readonly gateBytes: number;
  readonly gateKind: Uint8Array;
  /** entry: function entered; call: kernel function; else NaN. */
  readonly gateTarget: Float64Array;
  readonly gateInit: Uint8Array;
  /** RETURNS of a call gate's function. */
  readonly gateReturns: Uint8Array;
  readonly gateFpu: Uint8Array;
  /** Crossings by gate, and call-outs by pointer. */
  readonly gateCount: Float64Array;
  indirectCalls = 0;
  crossings = 0;
  readonly code: CodeMap;
  readonly resume: ResumeTable;
  /** Where the module lies now: not to be a stack, a call's target, or another module. Shrinks after init. */
  ranges: readonly LinearRange[];
  private readonly coreRanges: readonly LinearRange[];
  readonly private: PrivateMemory;
  private readonly status: Status;
  /** Offsets of the kernel's per-CPU data that the module uses. */
  readonly perCpu: readonly number[];
  initEntered = false;
  /** It was linked with a shadow stack. The engine keeps none for it then: the routines return by a jump. */
  readonly linkedShadowStack: LinkedShadowStack | undefined;
  /** The engine keeps the calls of its code on a shadow stack. */
  readonly shadowStack: boolean;
  readonly returnGate: number;
  readonly reentryGate: number;
  /** Privileges that act at every crossing. */
  active: readonly Attachment[] = [];
  /** By privilege, in the order of the grant. */
  private attachments: { privilege: Privilege; attachment: Attachment }[] = [];
  private mapped: Mapped[];
  private readonly windows = new Map<object, readonly PhysicalRange[]>();
  private readonly instructions = new Map<object, readonly Instruction[]>();

  /**
   * `frameOf`: guest frame of a text or gate page. `owners` marks frames with `slot`, 1 to MAX_INSTANCES.
   * Throws RangeError when the engine has too few host pages; nothing is changed then.
   */
  constructor(
    private readonly engine: Engine,
    private readonly owners: Uint8Array,
    readonly slot: number,
    readonly instance: number,
    readonly image: ImageSource,
    solution: Solution,
    placement: Placement,
    frameOf: (page: PlacedPage) => number,
  ) {
    const hosts = engine.allocateHostPages(placement.pages.length);
    this.module = image.module;
    this.coreRanges = placement.ranges;
    this.ranges = [...placement.ranges, ...placement.initRanges];
    this.perCpu = [...solution.imports.values(), ...solution.bases].filter((value) => value >= 0);
    this.gateBase = solution.bases[image.gateSection];
    this.gateBytes = image.gates.length * GATE_SIZE;
    this.returnGate = this.gateBase;
    this.reentryGate = this.gateBase + GATE_SIZE;
    this.gateKind = Uint8Array.from(image.gates, (gate) => (gate ? GATE[gate.kind] : GATE.unused));
    this.gateInit = Uint8Array.from(image.gates, (gate) => (gate?.init ? 1 : 0));
    this.gateReturns = Uint8Array.from(image.gates, (gate) =>
      gate?.kind === 'call' ? (NO_RETURN.get(gate.symbol) ?? RETURNS.yes) : RETURNS.yes,
    );
    this.gateFpu = Uint8Array.from(image.gates, (gate) => (gate?.kind === 'call' ? (FPU_CALLS.get(gate.symbol) ?? FPU.none) : FPU.none));
    this.gateCount = new Float64Array(image.gates.length);
    this.gateTarget = this.linkWords(placement);
    const code = placement.pages.filter(({ role }) => role === 'text' || role === 'gates');
    this.code = new CodeMap(image, solution.bases, code);
    this.resume = resumeTable(image, solution.bases);
    this.view = engine.createView(`${image.module}#${instance}`);
    this.mapped = placement.pages.map((placed, index) => {
      hosts[index].bytes.set(placed.bytes);
      const protects = placed.role === 'text' || placed.role === 'gates';
      return { placed, host: hosts[index], gpa: protects ? frameOf(placed) : -1 };
    });
    const privatePages = this.mapped.filter(({ placed }) => placed.role === 'private');
    this.private = new PrivateMemory(
      image,
      solution.bases,
      privatePages.map(({ placed, host }) => ({ address: placed.address, bytes: host.bytes })),
    );
    this.linkedShadowStack = LinkedShadowStack.of(image, solution.bases, this.private);
    this.shadowStack = this.linkedShadowStack === undefined && engine.shadowStacks && on('shadow-stack');
    if (this.shadowStack) this.view.setShadowStack(true);
    this.status = new Status(this.private, engine.cpus.length);
    for (const { placed, gpa } of this.mapped) {
      if (gpa < 0) continue;
      owners[gpa / 4096] = slot;
      if (on('text-protection')) engine.protect(gpa, placed.role === 'gates' ? PERMISSION.read | PERMISSION.execute : PERMISSION.read);
    }
    this.mapPages();
    this.updateAllowed();
  }

  /** For people: the function that a gate stands for, or the gate's kind. */
  gateName(gate: number): string {
    const { symbol, kind = 'gate' } = this.image.gates[gate] ?? {};
    return symbol || kind;
  }

  get textPages(): number {
    return this.mapped.filter(({ placed }) => placed.role === 'text').length;
  }
  get privatePages(): number {
    return this.mapped.filter(({ placed }) => placed.role === 'private').length;
  }
  get privateRanges(): readonly LinearRange[] {
    return this.private.ranges;
  }
  get privileges(): readonly Privilege[] {
    return this.attachments.map(({ privilege }) => privilege);
  }

  /** Linear address of the page of this instance that a guest frame holds, or NaN. */
  addressOf(gpa: number): number {
    const page = gpa - (gpa % 4096);
    return this.mapped.find((entry) => entry.gpa === page)?.placed.address ?? Number.NaN;
  }
  /** Guest frame of a text or gate page, or -1. */
  frameAt(address: number): number {
    return this.mapped.find(({ placed }) => placed.address === address)?.gpa ?? -1;
  }

  attach(privileges: readonly Privilege[]): void {
    this.attachments = [...new Set(privileges)].map((privilege) => ({ privilege, attachment: privilege.attach(this) }));
    this.active = this.attachments.map(({ attachment }) => attachment).filter((attachment) => !attachment.passive);
    this.status.hold(privileges.map(({ kind }) => kind));
  }

  /** Takes every privilege away, for good. */
  detach(): void {
    for (const { attachment } of this.attachments) attachment.detach();
    this.status.hold([]);
    this.attachments = [];
    this.active = [];
    this.windows.clear();
    this.instructions.clear();
    this.view.setWindows([]);
    this.view.setAllowed(new Set());
  }

  setWindows(owner: object, ranges: readonly PhysicalRange[]): void {
    if (this.state === 'ended' || this.state === 'quarantined') return;
    this.windows.set(owner, ranges);
    this.view.setWindows([...this.windows.values()].flat());
  }

  setAllowed(owner: object, instructions: readonly Instruction[]): void {
    if (this.state === 'ended' || this.state === 'quarantined') return;
    this.instructions.set(owner, instructions);
    this.updateAllowed();
  }

  privateSection(name: string): PrivateSection | undefined {
    return this.state === 'ended' ? undefined : this.private.section(name);
  }

  setUsable(kind: string, cpu: number, usable: boolean): void {
    if (this.state !== 'ended') this.status.setUsable(kind, cpu, usable);
  }

  private updateAllowed(): void {
    const allowed = new Set<Instruction>([...this.instructions.values()].flat());
    if (this.image.vector) allowed.add('vector');
    this.view.setAllowed(allowed);
  }

  /** Init has returned: its memory goes back to the guest kernel. */
  dropInit(): void {
    this.linkedShadowStack?.dropInit();
    this.release(this.mapped.filter(({ placed }) => placed.init));
    this.ranges = this.coreRanges;
  }

  /** Gives every page and frame back (P12). The view must be current on no CPU. The host pages are zeroed by the engine (P7). */
  end(): void {
    this.detach();
    this.state = 'ended';
    this.release(this.mapped);
    this.engine.destroyView(this.view);
  }

  private release(pages: readonly Mapped[]): void {
    const gone = new Set(pages);
    this.mapped = this.mapped.filter((entry) => !gone.has(entry));
    this.mapPages();
    this.code.drop(pages.map(({ placed }) => placed));
    for (const { gpa } of pages) {
      if (gpa < 0) continue;
      this.owners[gpa / 4096] = 0;
      this.engine.protect(gpa, PERMISSION.read | PERMISSION.write | PERMISSION.execute);
    }
    this.engine.freeHostPages(pages.map(({ host }) => host));
  }

  private mapPages(): void {
    this.view.setFixedPages(
      this.mapped.map(({ placed, host }) => ({ address: placed.address, page: host, permission: placed.permission, ...landing(placed) })),
    );
  }

  /** Targets of entry and call gates, from the relocated gate pages. */
  private linkWords(placement: Placement): Float64Array {
    const targets = new Float64Array(this.image.gates.length).fill(Number.NaN);
    for (const page of placement.pages) {
      if (page.role !== 'gates') continue;
      const words = new DataView(page.bytes.buffer);
      for (let offset = 0; offset < page.bytes.length; offset += GATE_SIZE) {
        const index = (page.address + offset - this.gateBase) / GATE_SIZE;
        const kind = this.gateKind[index];
        if (kind === GATE.entry || kind === GATE.call) {
          targets[index] = joinAddress(words.getUint32(offset + 8, true), words.getUint32(offset + 12, true));
        }
      }
    }
    return targets;
  }
}

/** Every address of its own that a module hands out is that of a gate: pointers lead nowhere else in its text. */
function landing({ role }: PlacedPage): Pick<FixedPage, 'landing'> {
  if (!on('pointer-landing')) return { landing: 1 };
  return role === 'gates' ? { landing: GATE_SIZE } : {};
}
