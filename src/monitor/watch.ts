/**
 * The invariant watch (`--watch`): after a crossing, does the engine's own state hold what the monitor promised? It asks the engine and
 * nobody else: no frame, instance or table of the monitor is looked at, so a slip in the monitor's book-keeping cannot hide itself.
 *
 * What must hold, always:
 *  - the untrusted view has no window, no allowed instruction and no page of its own (P1, P7);
 *  - a window of a module view is hidden from everyone else (P1), and no page of a module view is writable and executable (P3);
 *  - a host page belongs to one place in one view and lies outside guest memory (P7);
 *  - the guest frames from which a module's text was loaded are neither writable nor executable in the untrusted view, those with its gates
 *    not writable (P2, P3);
 *  - every module view keeps a shadow stack, where the engine has them, or runs a module that has one linked into it (P5);
 *  - pointers lead into the code of a view with a shadow stack at gates only (P3);
 *  - a CPU in a module view is at CPL 0, and its next instruction lies in that module's code (P2, P3).
 */
import { on } from '../base/defence-switch.ts';
import { hex } from '../base/hex.ts';
import { PAGE_SIZE, PERMISSION, REG, registerAddress } from '../engine/contract.ts';
import type { Cpu, Engine, HostPage, PhysicalRange, View } from '../engine/contract.ts';
import { GATE_PORT, GATE_SIZE } from '../policy/manifest.ts';

/** A full look every so many crossings, beside those at load and unload: it costs time in proportion to the pages of all modules. */
const FULL_EVERY = 4096;
const GATE_START = [0xe6, GATE_PORT, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];
const EMPTY_SLOT: readonly number[] = new Array(GATE_SIZE).fill(0xcc);
/** `imul $0x9e3779b1, %esp, %r10d; shr $14, %r10d; xor %r10b, %r10b` (linker/shadow-stack.ts). It lies within one page. */
const LEAVE_START = Buffer.from('4469d4b179379e41c1ea0e4530d2', 'hex');

/** What is known of a module view since it appeared: its code pages, each with the guest frame that held it then (-1: none). */
type Code = Map<number, { readonly gpa: number; readonly gates: boolean }>;

export class Watch {
  /** Looks so far: short ones, and full ones. */
  readonly checks = { short: 0, full: 0 };
  private readonly code = new Map<View, Code>();
  private views = 0;
  private newest = 0;

  constructor(
    private readonly engine: Engine,
    private readonly every = FULL_EVERY,
  ) {}

  /** After a crossing of `cpu`, on its thread. What is wrong, or undefined. */
  crossed(cpu: Cpu): string | undefined {
    this.checks.short += 1;
    if (this.checks.short % this.every === 0 || this.viewsChanged()) return this.full(cpu);
    return cpu.view === this.engine.untrusted ? this.untrusted() : this.inside(cpu);
  }

  /** Looks at everything. `cpu` is one that is not running. */
  full(cpu: Cpu): string | undefined {
    this.checks.full += 1;
    for (const view of this.code.keys()) if (![...this.engine.views].includes(view)) this.code.delete(view);
    const pages = new Map<HostPage, string>();
    for (const view of this.engine.views) {
      const broken = this.windows(view) ?? this.pages(view, pages) ?? this.frames(view, cpu) ?? this.shadowStack(view);
      if (broken !== undefined) return broken;
    }
    return this.untrusted() ?? (cpu.view === this.engine.untrusted ? undefined : this.inside(cpu));
  }

  /** True if a module came or went since the last look: every view has a number of its own. */
  private viewsChanged(): boolean {
    let views = 0;
    let newest = 0;
    for (const { id } of this.engine.views) {
      views += 1;
      newest = Math.max(newest, id);
    }
    const changed = views !== this.views || newest !== this.newest;
    this.views = views;
    this.newest = newest;
    return changed;
  }

  private untrusted(): string | undefined {
    const { windows, allowed, fixedPages } = this.engine.untrusted;
    if (windows.length > 0) return `the untrusted view has the window ${text(windows[0])}`;
    if (allowed.size > 0) return `the untrusted view allows ${[...allowed].join(', ')}`;
    if (fixedPages.length > 0) return `the untrusted view has a page of its own at ${hex(fixedPages[0].address)}`;
    return undefined;
  }

  private inside(cpu: Cpu): string | undefined {
    const { view } = cpu;
    const code = this.code.get(view);
    if (code === undefined) return `CPU ${cpu.index} is in view ${view.name}, which the engine does not have`;
    if (cpu.privilegeLevel !== 0) return `CPU ${cpu.index} is in view ${view.name} at CPL ${cpu.privilegeLevel}`;
    const rip = registerAddress(cpu.registers, REG.rip);
    if (!code.has(pageOf(rip))) return `CPU ${cpu.index} is in view ${view.name} and goes on at ${hex(rip)}, which is not its code`;
    return undefined;
  }

  private shadowStack(view: View): string | undefined {
    const wanted = this.engine.shadowStacks && on('shadow-stack');
    return wanted && !view.shadowStack && !hasLinkedShadowStack(view) ? `view ${view.name} has no shadow stack` : undefined;
  }

  private windows(view: View): string | undefined {
    const open = view.windows.find(({ start, end }) => !covered(start, end, this.engine.hidden));
    return open && `the window ${text(open)} of view ${view.name} is not hidden from everyone else`;
  }

  private pages(view: View, seen: Map<HostPage, string>): string | undefined {
    const { bytes: ram } = this.engine.memory;
    for (const { address, page, permission, landing } of view.fixedPages) {
      const where = `page ${hex(address)} of view ${view.name}`;
      if ((permission & PERMISSION.write) !== 0 && (permission & PERMISSION.execute) !== 0) return `${where} is writable and executable`;
      if (landing !== undefined && on('pointer-landing') && !(landing === GATE_SIZE && onlyGates(page.bytes)))
        return `${where} may be entered by pointer elsewhere than at gates`;
      const other = seen.get(page);
      if (other !== undefined) return `${where} is also ${other}`;
      seen.set(page, where);
      const at = page.bytes.byteOffset - ram.byteOffset;
      if (page.bytes.buffer === ram.buffer && at > -PAGE_SIZE && at < ram.length) return `${where} lies in guest memory`;
    }
    return undefined;
  }

  private frames(view: View, cpu: Cpu): string | undefined {
    const executable = view.fixedPages.filter(({ permission }) => (permission & PERMISSION.execute) !== 0);
    const before = this.code.get(view);
    const code: Code = new Map();
    for (const { address, page } of executable) {
      // At its first sight the module has just been loaded: later the guest may map what it likes there, and nothing it maps is this text.
      const gpa = before?.get(address)?.gpa ?? this.ramFrame(cpu, address);
      code.set(address, { gpa, gates: onlyGates(page.bytes) });
    }
    this.code.set(view, code);
    for (const [address, { gpa, gates }] of code) {
      if (gpa < 0) continue;
      const permission = this.engine.protection(gpa);
      const what = `the frame ${hex(gpa)} of ${gates ? 'gates' : 'text'} at ${hex(address)} of view ${view.name}`;
      if ((permission & PERMISSION.write) !== 0) return `${what} is writable in the untrusted view`;
      if (!gates && (permission & PERMISSION.execute) !== 0) return `${what} is executable in the untrusted view`;
    }
    return undefined;
  }

  private ramFrame(cpu: Cpu, address: number): number {
    const gpa = cpu.translate(address, false);
    return gpa >= 0 && gpa + PAGE_SIZE <= this.engine.memory.size ? gpa : -1;
  }
}

const pageOf = (address: number) => Math.floor(address / PAGE_SIZE) * PAGE_SIZE;
const text = ({ start, end }: PhysicalRange) => `${hex(start)}..${hex(end)}`;

/** True if [start, end) lies in the union of `ranges`. */
function covered(start: number, end: number, ranges: readonly PhysicalRange[]): boolean {
  let at = start;
  for (const range of [...ranges].sort((a, b) => a.start - b.start)) if (range.start <= at && range.end > at) at = range.end;
  return at >= end;
}

/** True if the code of a view holds the routine that ends a call by a linked shadow stack. */
function hasLinkedShadowStack({ fixedPages }: View): boolean {
  return fixedPages.some(
    ({ page, permission }) => (permission & PERMISSION.execute) !== 0 && Buffer.from(page.bytes).includes(LEAVE_START),
  );
}

/** True if a page holds gates and int3, nothing else: it does no harm that everybody may execute it. Looked at often, so without closures. */
function onlyGates(bytes: Uint8Array): boolean {
  for (let slot = 0; slot < bytes.length; slot += GATE_SIZE) {
    const expected = bytes[slot] === GATE_START[0] ? GATE_START : EMPTY_SLOT;
    for (let index = 0; index < expected.length; index++) if (bytes[slot + index] !== expected[index]) return false;
  }
  return true;
}
