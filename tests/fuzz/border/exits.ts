/** The exits that a guest can bring about at its borders, each made to happen to monitor and model; their verdicts must be the same. */
import { hex } from '../../../src/base/hex.ts';
import { PERMISSION } from '../../../src/engine/contract.ts';
import type { PendingEvent } from '../../../src/engine/contract.ts';
import { GATE_PORT } from '../../../src/policy/manifest.ts';
import { type Module, PAGE } from './guarded-module.ts';
import { ALIAS, type Machine } from './machine.ts';
import type { Model } from './model.ts';
import type { Places } from './places.ts';
import type { State } from './state.ts';
import { RIP, word } from './words.ts';

/** The monitor looks at an idle kernel's modules as often. */
const IDLE_NS = 50e6;

/** Each gives what it was, for a message; undefined where it cannot happen now. Throws when the verdicts differ. */
export class Exits {
  constructor(
    private readonly machine: Machine,
    private readonly state: State,
    private readonly model: Model,
    private readonly places: Places,
  ) {}

  /** A gate that the CPU may execute. */
  gate(index: number, module: Module, gate: number): string {
    const { guest } = this.machine;
    const cpu = guest.engine.cpus[index];
    const at = module.gateAddress(gate);
    this.places.before(index, module);
    this.setRip(index, at + 2);
    const expected = this.model.gate(index, module, gate, cpu.privilegeLevel);
    return same(`gate ${gate} of the ${module.name} module`, guest.handle(cpu.out(at, GATE_PORT), cpu), expected);
  }

  /** An instruction at an address that it may not execute. */
  fetch(index: number, at: number): string | undefined {
    const { guest, modules } = this.machine;
    const cpu = guest.engine.cpus[index];
    const inside = this.state.inside[index];
    if ((!(at < 0) && !inside) || cpu.executable(at)) return undefined;
    this.places.before(index);
    this.setRip(index, at);
    const alias = !inside && at >= ALIAS && at < ALIAS + PAGE;
    const expected = alias ? this.model.fetchAlias(modules[0]) : this.model.fetch(index, at, cpu.privilegeLevel);
    return same(`fetch at ${hex(at)}`, guest.handle(cpu.fetch(at), cpu), expected);
  }

  /** An event in a module. */
  event(index: number, module: Module, at: number, event: Pick<PendingEvent, 'type' | 'vector'>): string {
    const { guest } = this.machine;
    const cpu = guest.engine.cpus[index];
    const text = `event ${event.vector} at ${hex(at)}`;
    this.places.before(index);
    this.setRip(index, at);
    cpu.delivered.length = 0;
    const expected = this.model.event(index, module, at, event.type, event.vector);
    same(text, guest.handle(cpu.event(at, event), cpu), expected);
    const [delivered] = cpu.delivered;
    if (cpu.delivered.length !== 1 || delivered.view !== guest.engine.untrusted)
      throw new Error(`${text} was not delivered once, in the untrusted view`);
    if (delivered.registers.some((value, register) => value !== this.state.registers[index][register]))
      throw new Error(`${text} was delivered with other registers: ${delivered.registers.map(hex).join(' ')}`);
    return text;
  }

  /** A return in a module that the shadow stack does not know. */
  badReturn(index: number, module: Module): string {
    const { guest } = this.machine;
    const cpu = guest.engine.cpus[index];
    this.places.before(index);
    const exit = cpu.ret();
    if (typeof exit === 'number') throw new Error(`a return to ${hex(exit)}, which no call said`);
    return same('a bad return', guest.handle(exit, cpu), this.model.badReturn(index, module));
  }

  /** A write of the kernel to one of three pages of a module. */
  write(index: number, module: Module, page: number): string | undefined {
    const { guest } = this.machine;
    const cpu = guest.engine.cpus[index];
    const gpa = cpu.translate([module.core, module.core + PAGE, module.init][page % 3], false);
    if ((guest.engine.protection(gpa) & PERMISSION.write) !== 0) return undefined;
    const expected = this.model.write(module);
    return same('write', guest.handle({ kind: 'mmio', gpa: gpa + 8, size: 4, write: true, value: 0xcc, refused: false }, cpu), expected);
  }

  /** INIT. */
  reset(index: number): string {
    this.places.before(index);
    this.machine.guest.monitor.reset(this.machine.guest.engine.cpus[index]);
    this.model.reset(index);
    return 'INIT';
  }

  /** The kernel has nothing to do. */
  halt(index: number): string {
    const { guest, modules } = this.machine;
    const cpu = guest.engine.cpus[index];
    guest.engine.time += IDLE_NS;
    if (cpu.privilegeLevel === 0 && modules.some(({ freed }) => freed)) this.places.at('a module freed without a word');
    return same('halt', guest.handle({ kind: 'halt' }, cpu), this.model.halt(cpu.privilegeLevel));
  }

  private setRip(index: number, at: number): void {
    this.state.registers[index][RIP] = word(at);
    this.machine.guest.engine.cpus[index].registers.words.set(this.state.registers[index]);
  }
}

function same(text: string, actual: unknown, expected: unknown): string {
  if (actual !== expected) throw new Error(`${text}: the monitor says ${String(actual)}, the model ${String(expected)}`);
  return text;
}
