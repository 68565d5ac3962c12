/** A registered image: what the administrator decided about it, and what its instances have done so far. */
import { hex } from '../base/hex.ts';
import type { ImageSource } from './image.ts';
import { GATE } from './instance.ts';
import type { Instance } from './instance.ts';
import type { Privilege } from './privilege.ts';

export type ViolationPolicy = 'quarantine' | 'stop' | 'log';

/** What the administrator says about a registered image. */
export type Decision =
  | { granted: true; privileges: readonly Privilege[]; onViolation: ViolationPolicy }
  | { granted: false; reason: string };

export interface RegisteredModule {
  readonly image: ImageSource;
  /** SHA-256 of the guarded .ko, hex: for people and audit. */
  readonly digest: string;
  readonly decision: Decision;
}

export interface ModuleStatus {
  module: string;
  digest: string;
  granted: boolean;
  privileges: string[];
  /** An instance of it broke a rule and was quarantined, now or before. */
  quarantined: boolean;
  instances: {
    instance: number;
    state: 'loading' | 'live' | 'quarantined';
    base: string;
    textPages: number;
    privatePages: number;
    crossings: number;
  }[];
  /** Over all instances, most frequent first. */
  callOuts: CallCount[];
  callIns: CallCount[];
}
export interface CallCount {
  symbol: string;
  count: number;
}

const INDIRECT = '(by pointer)';

export class Registration implements RegisteredModule {
  readonly image: ImageSource;
  readonly digest: string;
  readonly decision: Decision;
  quarantined = false;
  /** Instances that have not ended. */
  private readonly instances = new Set<Instance>();
  /** Of those that have. */
  private readonly callOuts = new Map<string, number>();
  private readonly callIns = new Map<string, number>();

  constructor({ image, digest, decision }: RegisteredModule) {
    this.image = image;
    this.digest = digest;
    this.decision = decision;
  }

  get privileges(): string[] {
    return this.decision.granted ? this.decision.privileges.map(({ description }) => description) : [];
  }

  began(instance: Instance): void {
    this.instances.add(instance);
  }

  ended(instance: Instance): void {
    if (this.instances.delete(instance)) addCounts(instance, this.callOuts, this.callIns);
  }

  status(): ModuleStatus {
    const callOuts = new Map(this.callOuts);
    const callIns = new Map(this.callIns);
    for (const instance of this.instances) addCounts(instance, callOuts, callIns);
    return {
      module: this.image.module,
      digest: this.digest,
      granted: this.decision.granted,
      privileges: this.privileges,
      quarantined: this.quarantined,
      instances: [...this.instances].map(({ instance, state, gateBase, textPages, privatePages, crossings }) => ({
        instance,
        state: state === 'ended' ? 'quarantined' : state,
        base: hex(gateBase),
        textPages,
        privatePages,
        crossings,
      })),
      callOuts: sorted(callOuts),
      callIns: sorted(callIns),
    };
  }
}

function addCounts(instance: Instance, callOuts: Map<string, number>, callIns: Map<string, number>): void {
  for (const [gate, count] of instance.gateCount.entries()) {
    const into = instance.gateKind[gate] === GATE.call ? callOuts : callIns;
    if (count > 0) into.set(instance.gateName(gate), (into.get(instance.gateName(gate)) ?? 0) + count);
  }
  if (instance.indirectCalls > 0) callOuts.set(INDIRECT, (callOuts.get(INDIRECT) ?? 0) + instance.indirectCalls);
}

const sorted = (counts: Map<string, number>): CallCount[] =>
  [...counts].map(([symbol, count]) => ({ symbol, count })).sort((a, b) => b.count - a.count);
