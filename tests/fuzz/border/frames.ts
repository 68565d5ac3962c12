/** The unfinished crossings, newest first, each with what must be the same when it ends. */
import type { Module } from './guarded-module.ts';
import type { Stacks } from './stacks.ts';
import type { Words } from './words.ts';

export interface Frame {
  readonly module: Module;
  readonly kind: 'call-in' | 'call-out' | 'event';
  /** Stack pointer that the crossing ends with. */
  readonly key: number;
  /** Where it ends. */
  readonly address: number;
  /** Gate of a call, vector of an exception, -1. */
  readonly detail: number;
  readonly registers: Words;
  readonly seals: [slot: number, value: bigint][];
  /** The module's calls that had not returned, oldest first. */
  calls: readonly Call[];
  /** An event that broke a rule as it left: its thread comes back, and does not go on. */
  spoilt: boolean;
}

/** A call of the module's own: where it returns to, and where on the stack that is written. */
export interface Call {
  readonly back: number;
  readonly slot: number;
}

/** Calls that a shadow stack has room for. */
export const MOST_CALLS = 64;

export class Frames {
  /** Newest first. */
  list: Frame[] = [];

  constructor(private readonly stacks: Stacks) {}

  /** A new frame. Those of the same stack below it are dead. */
  push(module: Module, kind: Frame['kind'], key: number, address: number, detail: number, registers: Words): Frame {
    const frame: Frame = { module, kind, key, address, detail, registers: registers.slice(), seals: [], calls: [], spoilt: false };
    this.list = [frame, ...this.list.filter((other) => !(other.key < key && this.stacks.same(other.key, key)))];
    return frame;
  }
  /** Uses a frame up, and with it the newer ones of its stack, whoever's they are. */
  take(frame: Frame): void {
    const index = this.list.indexOf(frame);
    this.list = this.list.filter((other, at) => at > index || (at < index && !this.stacks.same(other.key, frame.key)));
  }
  find(module: Module, kind: Frame['kind'], key: number): Frame | undefined {
    return this.list.find((frame) => frame.key === key && frame.kind === kind && frame.module === module);
  }
  /** The newest entry of a module that a thread at this stack pointer is in. */
  entry(module: Module, pointer: number): Frame | undefined {
    return this.list.find((frame) => frame.kind === 'call-in' && frame.module === module && this.stacks.leads(pointer, frame.key));
  }
  drop(module: Module): void {
    this.list = this.list.filter((frame) => frame.module !== module);
  }
}
