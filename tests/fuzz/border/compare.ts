/** Whether monitor and model have come to the same: every decision, register, call, frame, privilege, state and word of memory. */
import { hex } from '../../../src/base/hex.ts';
import { joinAddress } from '../../../src/engine/contract.ts';
import type { Machine } from './machine.ts';
import type { State } from './state.ts';

/** Private memory and states are looked at after so many steps, and in the end: what differs there stays different. */
const EVERY = 16;

export class Comparison {
  private steps = 0;

  constructor(
    private readonly machine: Machine,
    private readonly state: State,
  ) {}

  /** After a step. Throws with what differs; `text` says what the step was. */
  step(text: string): void {
    const { monitor } = this.machine.guest;
    const { crossings, violations, refusals } = this.state.tallies;
    counts(text, 'violations', monitor.violations(), violations);
    counts(text, 'refusals', monitor.refusals(), refusals);
    for (const [name, count] of Object.entries(monitor.crossings))
      if (crossings[name] !== count) differ(text, `crossings ${name}`, count, crossings[name]);
    for (const [index, { attached, description }] of this.machine.keys.entries()) {
      const { state } = this.machine.modules[index];
      if (attached !== (state === 'loading' || state === 'live')) differ(text, `${description} attached`, attached, state);
    }
    for (const cpu of this.machine.guest.engine.cpus.keys()) this.cpu(text, cpu);
    const { live } = this.machine.guest.monitor.frames();
    if (live !== this.state.frames.list.length) differ(text, 'frames', live, this.state.frames.list.length);
    for (const { base, actual, words } of this.machine.regions) same(text, base, actual, words);
    if (++this.steps % EVERY === 0) this.rest(text);
  }

  /** What lasts. */
  rest(text: string): void {
    const { keys, modules, guest } = this.machine;
    for (const [index, { instances }] of guest.monitor.modules().entries()) {
      const { name, state } = modules[index];
      const found = instances[0]?.state ?? 'absent';
      if (found !== state || instances.length > 1) differ(text, `state of the ${name} module`, found, state);
    }
    for (const [index, { page }] of keys.entries()) if (page) same(text, modules[index].start, page, modules[index].private);
  }

  /** No page, view or protected frame of a module is left in the engine. */
  nothingLeft(): void {
    const { allocated, views, protectedFrames } = this.machine.guest.engine;
    const left = [allocated, views.size, protectedFrames];
    if (left.some((count) => count > 0)) differ('the end', 'pages, views and protected frames', left, [0, 0, 0]);
  }

  private cpu(text: string, index: number): void {
    const { guest, keys, modules } = this.machine;
    const { inside, registers, calls } = this.state;
    const cpu = guest.engine.cpus[index];
    const module = inside[index];
    const current = module ? modules.indexOf(module) : -1;
    const view = current < 0 ? guest.engine.untrusted : keys[current].view;
    if (cpu.view !== view) differ(text, `view of CPU ${index}`, cpu.view.name, view?.name);
    for (const [at, key] of keys.entries()) {
      const held = key.held(cpu);
      if (held !== (at === current)) differ(text, `CPU ${index} has the ${key.description}`, held ?? 'some of it', at === current);
    }
    const { halves, depth } = cpu.shadowStack;
    const expected = calls[index];
    let alike = depth === expected.length;
    for (let entry = 0; alike && entry < depth; entry++) {
      const at = 4 * entry;
      alike =
        joinAddress(halves[at], halves[at + 1]) === expected[entry].back &&
        joinAddress(halves[at + 2], halves[at + 3]) === expected[entry].slot;
    }
    if (!alike) differ(text, `calls of CPU ${index}`, [...halves.subarray(0, 4 * depth)], expected);
    if (!bytesOf(cpu.registers.words).equals(bytesOf(registers[index])))
      differ(text, `registers of CPU ${index}`, [...cpu.registers.words], [...registers[index]]);
  }
}

/** By reason, whichever module it was about. */
function counts(text: string, what: string, list: readonly { reason: string; count: number }[], expected: Record<string, number>): void {
  const found: Record<string, number> = {};
  for (const { reason, count } of list) found[reason] = (found[reason] ?? 0) + count;
  const reasons = Object.keys(found);
  for (const reason of reasons) if (expected[reason] !== found[reason]) differ(text, `${what} ${reason}`, found[reason], expected[reason]);
  if (reasons.length !== Object.keys(expected).length) differ(text, what, reasons, Object.keys(expected));
}

/** The bytes behind words, made once for each array: making them costs more than comparing. */
const views = new WeakMap<BigUint64Array, Buffer>();
function bytesOf(words: BigUint64Array): Buffer {
  let view = views.get(words);
  if (!view) views.set(words, (view = Buffer.from(words.buffer as ArrayBuffer, words.byteOffset, words.byteLength)));
  return view;
}

function same(text: string, base: number, actual: BigUint64Array, expected: BigUint64Array): void {
  if (bytesOf(actual).equals(bytesOf(expected))) return;
  const at = expected.findIndex((value, index) => actual[index] !== value);
  differ(text, `word at ${hex(base + 8 * at)}`, actual[at], expected[at]);
}

function differ(text: string, what: string, actual: unknown, expected: unknown): never {
  const show = (value: unknown) => JSON.stringify(value, (_, entry: unknown) => (typeof entry === 'bigint' ? hex(entry) : entry));
  throw new Error(`${text}: ${what}: the monitor has ${show(actual)}, the model ${show(expected)}`);
}
