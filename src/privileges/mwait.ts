/**
 * `mwait`: MONITOR and MWAIT in the module's own code. MWAIT keeps a physical core to itself, so a virtual CPU has it only while it is alone on
 * its core: lowered, MWAIT there does not wait, and the module is told so in its private memory. It is never a fault: the module may have looked
 * just before.
 *
 * The instructions belong to the module's view, whether a CPU may wait with them to the CPU; nothing is done at a crossing.
 */
import { on } from '../base/defence-switch.ts';
import type { Cpu } from '../engine/contract.ts';
import type { Attachment, Privilege, PrivilegeTarget } from '../monitor/privilege.ts';
import { onlyParameters, type Parameters } from './parameters.ts';

export const MWAIT = 'mwait';

/** There are none. Throws UserError. */
export function mwaitParameters(parameters: Parameters): void {
  onlyParameters(MWAIT, parameters, []);
}

/** What a module can wait with changed on one virtual CPU. */
export interface MwaitEvent {
  event: 'privilege.raised' | 'privilege.lowered';
  module: string;
  instance: number;
  privilege: string;
  cpu: number;
}

/** One for all modules of a virtual machine. */
export class MwaitPrivilege implements Privilege {
  readonly kind = MWAIT;
  readonly description = 'MONITOR and MWAIT';
  private readonly targets = new Set<PrivilegeTarget>();
  private readonly raised: boolean[];

  /** Lowered on every CPU until `setAlone` says otherwise. */
  constructor(
    private readonly cpus: readonly Pick<Cpu, 'withholdMwait'>[],
    private readonly report: (event: MwaitEvent) => void,
  ) {
    this.raised = cpus.map(() => false);
    for (const cpu of cpus) cpu.withholdMwait(on('mwait-alone'));
  }

  attach(target: PrivilegeTarget): Attachment {
    this.targets.add(target);
    target.setAllowed(this, ['monitor-mwait']);
    for (const [cpu, raised] of this.raised.entries()) {
      target.setUsable(MWAIT, cpu, raised);
      if (raised) this.tell(target, cpu);
    }
    return {
      passive: true,
      raise: () => {},
      lower: () => {},
      detach: () => {
        this.targets.delete(target);
        target.setAllowed(this, []);
      },
    };
  }

  /** A virtual CPU is alone on its physical core from now on, or no longer. It must not be running. */
  setAlone(cpu: number, alone: boolean): void {
    if (this.raised[cpu] === alone) return;
    this.raised[cpu] = alone;
    this.cpus[cpu].withholdMwait(!alone && on('mwait-alone'));
    for (const target of this.targets) {
      target.setUsable(MWAIT, cpu, alone);
      this.tell(target, cpu);
    }
  }

  private tell({ module, instance }: PrivilegeTarget, cpu: number): void {
    this.report({ event: this.raised[cpu] ? 'privilege.raised' : 'privilege.lowered', module, instance, privilege: this.description, cpu });
  }
}
