/**
 * The guest that the fuzzer drives: three guarded modules, each with privileges of its own, and the memory around them. The second one imports
 * an entry of the first, and has a kernel stack close by; the third one lies over the last page of the first, so that they can only be loaded in turn.
 */
import { PAGE_SIZE } from '../../../src/engine/contract.ts';
import type { Cpu, PhysicalRange, View } from '../../../src/engine/contract.ts';
import type { Attachment, Privilege, PrivilegeTarget } from '../../../src/monitor/privilege.ts';
import { GATE_SIZE } from '../../../src/policy/manifest.ts';
import { MSR_BANK, MsrPrivilege } from '../../../src/privileges/msr.ts';
import { CORE, G, granted, Guest, KERNEL, registered, STACK, tinyImage } from '../../../src/privileges/testing.ts';
import { type Module, PAGE, type Placing } from './guarded-module.ts';
import type { Region } from './stacks.ts';

export const CPUS = 2;
export const PLACINGS: readonly Placing[] = [
  { name: 'first', shift: 0, moreGates: 0, kfunc: KERNEL.kfunc, privateStack: true },
  { name: 'second', shift: 0x40_0000, moreGates: 1, kfunc: CORE + PAGE + GATE_SIZE * G.probe, privateStack: false },
  { name: 'third', shift: 4 * PAGE, moreGates: 2, kfunc: KERNEL.kfunc, privateStack: false },
];
const IMAGES = PLACINGS.map(({ name, moreGates, privateStack }, index) =>
  tinyImage({ module: name, version: index + 1, moreGates, privateName: `.portcullis.private.${privateStack ? 'stack' : 'page'}` }),
);
const SECOND = CORE + PLACINGS[1].shift;
export const STACK_PAGES = 4;
/** Too near to the second module at its low end. */
export const NEAR_STACK = SECOND + 12 * PAGE;
export const STACKS = [STACK, STACK + 0x1_0000, NEAR_STACK];
/** Memory of the modules that the kernel can write to: what it finds at their private addresses, and data of the second one. */
const OPEN_PAGES = [...PLACINGS.map(({ shift }) => CORE + shift + 3 * PAGE), SECOND + 4 * PAGE];
/** The text of the first module once more, and a page of user memory that could serve as a stack but for its address. */
export const ALIAS = -0x7ef0_0000;
export const USER_PAGE = 0x40_0000;
const USER_FRAME = 0x61_0000;
const GATE_COPIES = 0x60_0000;

/** Memory as the model has it, and as it is. */
export interface Mirrored extends Region {
  readonly actual: BigUint64Array;
  readonly frame: number;
}

/** Privileges of one module: a device window, and something that is raised and lowered at every crossing. */
export class Key implements Privilege {
  readonly kind = 'key';
  readonly description: string;
  /** Per CPU: how often it is raised. */
  readonly raised = new Array<number>(CPUS).fill(0);
  readonly window: PhysicalRange;
  readonly msr: MsrPrivilege;
  attached = false;
  /** Of the instance that has or had it: its view, and the host page that is its private memory. */
  view: View | undefined;
  page: BigUint64Array | undefined;

  constructor(
    index: number,
    private readonly module: Module,
  ) {
    this.description = `key of ${module.name}`;
    this.window = { start: 0x8000_0000 + index * PAGE_SIZE, end: 0x8000_0000 + (index + 1) * PAGE_SIZE };
    this.msr = new MsrPrivilege({ read: new Set([MSR_BANK.first + index]), write: new Set() });
  }

  attach(target: PrivilegeTarget): Attachment {
    this.attached = true;
    const view = target.view as View;
    const bytes = view.fixedPages.find(({ address }) => address === this.module.start)?.page.bytes;
    this.view = view;
    this.page = bytes && new BigUint64Array(bytes.buffer, bytes.byteOffset, PAGE / 8);
    target.setWindows(this, [this.window]);
    return {
      passive: false,
      raise: ({ index }) => this.raised[index]++,
      lower: ({ index }) => this.raised[index]--,
      detach: () => {
        this.attached = false;
        this.raised.fill(0);
      },
    };
  }

  /** What of it a CPU has now, of three things; undefined when they differ. */
  held(cpu: Cpu): boolean | undefined {
    const raised = this.raised[cpu.index];
    const held = raised === 1;
    const open = cpu.view.windows.length === 1 && cpu.view.windows[0].start === this.window.start;
    return (raised === 0 || held) && held === this.msr.heldBy(cpu) && held === open ? held : undefined;
  }
}

export class Machine {
  readonly guest: Guest;
  readonly keys: readonly Key[];
  readonly regions: readonly Mirrored[];
  /** By module: two frames with the same gates in them. The guest maps now one, now the other. */
  private readonly gateFrames: readonly (readonly number[])[];

  constructor(
    readonly modules: readonly Module[],
    shadowStacks: boolean,
  ) {
    this.keys = modules.map((module, index) => new Key(index, module));
    this.guest = new Guest(
      (engine) => {
        engine.hide(this.keys.map(({ window }) => window));
        return modules.map(({ policy }, index) =>
          registered(IMAGES[index], granted({ onViolation: policy, privileges: [this.keys[index], this.keys[index].msr] })),
        );
      },
      { cpus: CPUS, shadowStacks },
    );
    const { guest } = this;
    const { bytes } = guest.engine.memory;
    for (const base of STACKS.slice(1)) guest.stack(base);
    this.gateFrames = modules.map(({ core, init }, index) => {
      const { shift, kfunc } = PLACINGS[index];
      guest.load(IMAGES[index], { shift, imports: { kfunc }, frames: 0x40_0000 + 0x10_0000 * index });
      for (const page of [core, core + PAGE, core + 2 * PAGE, core + 4 * PAGE, init])
        this.map(page, this.frameOf(page), OPEN_PAGES.includes(page));
      const loaded = this.frameOf(core + PAGE);
      const copy = GATE_COPIES + index * PAGE;
      bytes.copyWithin(copy, loaded, loaded + PAGE);
      return [loaded, copy];
    });
    this.map(ALIAS, this.frameOf(CORE), false);
    this.map(USER_PAGE, USER_FRAME, true);
    this.regions = [...STACKS.map((base) => ({ base, pages: STACK_PAGES })), ...OPEN_PAGES.map((base) => ({ base, pages: 1 }))].map(
      ({ base, pages }) => {
        const frame = this.frameOf(base);
        const actual = new BigUint64Array(bytes.buffer as ArrayBuffer, bytes.byteOffset + frame, (pages * PAGE) / 8);
        return { base, frame, actual, words: actual.slice(), present: new Array<boolean>(pages).fill(true) };
      },
    );
  }

  /** The guest maps a page of a stack, or unmaps it. */
  mapPage(stack: number, page: number, present: boolean): void {
    const region = this.regions[stack];
    region.present[page] = present;
    if (present) this.map(region.base + page * PAGE, region.frame + page * PAGE, true);
    else this.guest.tables.unmap(region.base + page * PAGE);
  }
  /** The guest has the gates of a module elsewhere. */
  toggleGates(module: Module): void {
    module.gatesMapped = 1 - module.gatesMapped;
    this.map(module.core + PAGE, this.gateFrames[this.modules.indexOf(module)][module.gatesMapped], false);
  }

  private frameOf(page: number): number {
    return this.guest.cpu.translate(page, false);
  }
  private map(page: number, frame: number, writable: boolean): void {
    this.guest.tables.map(page, frame, writable);
  }
}
