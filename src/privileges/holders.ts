/** The instances that hold one privilege, and the question whether a CPU is in the view of one of them now. */
import { on } from '../base/defence-switch.ts';
import type { Cpu } from '../engine/contract.ts';
import type { Attachment, PrivilegeTarget } from '../monitor/privilege.ts';

/** A privilege that is exercised by exits: the machine asks who holds it at each access. */
export interface Held {
  /** True if `cpu` is in the view of a module that holds it now. */
  heldBy(cpu: Cpu): boolean;
}

export class Holders implements Held {
  readonly targets = new Set<PrivilegeTarget>();

  /** An attachment that does nothing at crossings: the view itself says who holds the privilege. `detached` runs at its end. */
  attach(target: PrivilegeTarget, detached: () => void = () => {}): Attachment {
    this.targets.add(target);
    return {
      passive: true,
      raise: () => {},
      lower: () => {},
      detach: () => {
        detached();
        this.targets.delete(target);
      },
    };
  }

  heldBy(cpu: Cpu): boolean {
    for (const target of this.targets) if (cpu.view === target.view || !on('privilege-follows-view')) return true;
    return false;
  }
}
