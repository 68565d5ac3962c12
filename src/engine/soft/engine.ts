/**
 * The `soft` engine: an x86-64 CPU in WebAssembly, behind the engine contract. It needs nothing of the host but Node.
 *
 * Everything that guest code can reach lies in one linear memory (space.ts); what the core cannot reach there, the guest cannot.
 */

import {
  type Engine,
  type EngineOptions,
  type GuestMemory,
  type HostPage,
  PAGE_SIZE,
  type Permission,
  PERMISSION,
  type PhysicalRange,
  type View,
} from '../contract.ts';
import { SoftClock } from './clock.ts';
import { instantiate, loadCore } from './core.ts';
import { SHARED_PARALLEL, VIEW } from './core/layout.ts';
import { SoftCpu } from './cpu.ts';
import { Executor } from './executor.ts';
import { HostPages } from './host-pages.ts';
import { createSpace, MAX_CPUS, type Space, written } from './space.ts';
import { statistics } from './statistics.ts';
import { SoftThreads } from './threads.ts';
import { type SoftView, ViewTable } from './views.ts';

const DEFAULT_HOST_PAGES = 4096;
const MIB = 2 ** 20;
const TSC_HZ = 1_000_000_000;
/** FRAME_NO_READ, _WRITE and _EXECUTE are the contract's permission bits shifted by one. */
const FRAME_SHIFT = 1;
const ALL = PERMISSION.read | PERMISSION.write | PERMISSION.execute;

/** `wasm`: the core's bytes, when not build/soft.wasm. */
export type SoftOptions = EngineOptions & { wasm?: Uint8Array };

/** Throws RangeError for options out of range, UserError when the core has not been built. */
export function createSoftEngine(options: SoftOptions): Engine {
  checkOptions(options);
  const hostPageCount = options.hostPages ?? DEFAULT_HOST_PAGES;
  const space = createSpace({
    memorySize: options.memorySize,
    cpus: options.cpus,
    hostPages: hostPageCount,
    deterministic: options.clock === 'instructions',
  });
  const clock = new SoftClock(options.clock);
  const threads = new SoftThreads();
  const quiet = () => threads.quiet();
  const hostPages = new HostPages(space, hostPageCount);
  const views = new ViewTable(space, (address) => hostPages.at(address), quiet);
  const untrusted = views.create('untrusted');
  let hidden: readonly PhysicalRange[] = [];
  const refuses = (view: SoftView, gpa: number) => hidden.some(({ start, end }) => gpa >= start && gpa < end) && !view.reaches(gpa);
  const module = loadCore(options.wasm);
  const cpus = space.cpus.map((block, index) => {
    const core = instantiate(module, space.memory, () => clock.now());
    space.words[(block + VIEW) >>> 2] = untrusted.descriptor;
    core.attach(block);
    const executor = new Executor(core, space.words, block, clock);
    const cpu = new SoftCpu(index, space, block, executor, threads, untrusted, refuses);
    cpu.reset('power-up');
    return cpu;
  });
  const frameOf = (gpa: number): number => {
    if (!Number.isInteger(gpa) || gpa < 0 || gpa >= space.ramSize || gpa % PAGE_SIZE !== 0) {
      throw new RangeError(`frame ${gpa}: expected a page-aligned address in guest RAM`);
    }
    return space.frames + (space.ram + gpa) / PAGE_SIZE;
  };

  return {
    name: 'soft',
    memory: guestMemory(space),
    clock,
    cpus,
    untrusted,
    shadowStacks: true,
    get views() {
      return views.all.filter((view) => view !== untrusted);
    },
    tscFrequency: TSC_HZ,
    createView: (name: string): View => views.create(name),
    destroyView: (view: View) => {
      if (view === untrusted || cpus.some((cpu) => cpu.view === view)) throw new RangeError(`view ${view.name} is in use`);
      views.destroy(view as SoftView);
    },
    allocateHostPages: (count: number): HostPage[] => hostPages.allocate(count),
    freeHostPages: (pages: readonly HostPage[]) => {
      quiet();
      const mapped = new Set(views.all.flatMap((view) => view.fixedPages.map((fixed) => fixed.page)));
      const used = pages.find((page) => mapped.has(page));
      if (used) throw new RangeError(`host page ${used.id} is still mapped in a view`);
      hostPages.release(pages);
    },
    protect: (gpa: number, permission: Permission) => {
      const frame = frameOf(gpa);
      quiet();
      const denied = (~permission & ALL) << FRAME_SHIFT;
      Atomics.and(space.bytes, frame, ~(ALL << FRAME_SHIFT));
      Atomics.or(space.bytes, frame, denied);
      for (const view of views.all) view.changed();
    },
    protection: (gpa: number): Permission => ~((space.bytes[frameOf(gpa)] ?? 0) >> FRAME_SHIFT) & ALL,
    hide: (ranges: readonly PhysicalRange[]) => {
      const inRam = ranges.find(({ start, end }) => start < space.ramSize && end > 0);
      if (inRam) throw new RangeError(`range ${inRam.start}..${inRam.end} lies in guest RAM, which cannot be hidden`);
      quiet();
      hidden = ranges.map(({ start, end }) => ({ start, end }));
    },
    get hidden() {
      return hidden;
    },
    statistics: () => statistics(space),
    startThreads: async (count) => {
      // V8 compiles plain loads and stores of guest memory to plain moves: they have x86's order on x86 alone.
      if (options.clock !== 'host' || process.arch !== 'x64') return undefined;
      await threads.start(count, { memory: space.memory, module, blocks: space.cpus, origin: clock.origin });
      space.words[(space.shared + SHARED_PARALLEL) >>> 2] = 1;
      return threads;
    },
    quiet,
    close: () => threads.quit(),
  };
}

function checkOptions({ memorySize, cpus }: EngineOptions): void {
  if (!Number.isInteger(memorySize) || memorySize % (2 * MIB) !== 0 || memorySize < 16 * MIB || memorySize > 3072 * MIB) {
    throw new RangeError(`memory of ${memorySize} bytes: expected a multiple of 2 MiB from 16 MiB to 3 GiB`);
  }
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > MAX_CPUS) throw new RangeError(`${cpus} CPUs: expected 1 to ${MAX_CPUS}`);
}

function guestMemory(space: Space): GuestMemory {
  return {
    size: space.ramSize,
    bytes: new Uint8Array(space.memory.buffer, space.ram, space.ramSize),
    words: new Uint32Array(space.memory.buffer, space.ram, space.ramSize / 4),
    written: (gpa: number, length: number) => {
      written(space, space.ram + gpa, Math.min(length, space.ramSize - gpa));
    },
  };
}
