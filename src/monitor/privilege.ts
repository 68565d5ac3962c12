/**
 * What the monitor knows of a privilege: something it can raise for a module view and lower again. The kinds themselves
 * stand in src/privileges; the monitor never sees a device.
 */
import type { Cpu, Instruction, PhysicalRange } from '../engine/contract.ts';
import type { PrivateSection } from './private-memory.ts';

/** What a privilege may change in the view of one instance. `owner` keeps several privileges of one instance apart. */
export interface PrivilegeTarget {
  readonly module: string;
  readonly instance: number;
  /** Identity of the module view, to compare with `Cpu.view`. */
  readonly view: object;
  setWindows(owner: object, ranges: readonly PhysicalRange[]): void;
  setAllowed(owner: object, instructions: readonly Instruction[]): void;
  /** The instance's private section of that name; undefined when it has none that its code uses. */
  privateSection(name: string): PrivateSection | undefined;
  /** Tells the instance, in its private memory, that a held privilege of this kind can or cannot be used on a virtual CPU at present. Default: it can. */
  setUsable(kind: string, cpu: number, usable: boolean): void;
}

/** A privilege in the view of one instance. `raise` and `lower` run at every crossing: they must neither allocate nor throw. */
export interface Attachment {
  /** True if `raise` and `lower` do nothing, because the view alone carries the privilege. Saves the calls on the hot path. */
  readonly passive: boolean;
  raise(cpu: Cpu): void;
  lower(cpu: Cpu): void;
  /** Ends it for good; the target's windows and instructions of this owner are already gone or are taken away here. */
  detach(): void;
}

/** One granted privilege of one virtual machine, withheld from everyone from its creation on. */
export interface Privilege {
  readonly kind: string;
  /** For people: "PCI device 0000:00:03.0". */
  readonly description: string;
  attach(target: PrivilegeTarget): Attachment;
}
