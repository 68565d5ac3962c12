/**
 * `msr`: model-specific registers of the VMM's own, to read or to write. They exist in the module view only: anywhere else RDMSR and WRMSR
 * raise #GP as for a register that the processor does not have.
 */
import { on } from '../base/defence-switch.ts';
import { hex } from '../base/hex.ts';
import type { Cpu } from '../engine/contract.ts';
import type { Attachment, Privilege, PrivilegeTarget } from '../monitor/privilege.ts';
import { type Held, Holders } from './holders.ts';
import { badParameter, listOf, onlyParameters, type Parameters, unsigned } from './parameters.ts';

export const MSR = 'msr';

/** Reserved for software by both vendors (Intel SDM vol. 4, 2.1: no processor will have MSRs there). */
export const MSR_BANK = { first: 0x4000_0000, count: 256 } as const;
/** True if `index` is one of the VMM's own. */
export const isOwnMsr = (index: number): boolean => index >= MSR_BANK.first && index < MSR_BANK.first + MSR_BANK.count;

/** The VMM's registers of one virtual machine: plain 64-bit words, zero unless the administrator sets them. */
export class MsrBank {
  private readonly words = new BigUint64Array(MSR_BANK.count);

  read(index: number): bigint {
    return this.words[index - MSR_BANK.first];
  }
  write(index: number, value: bigint): void {
    this.words[index - MSR_BANK.first] = value;
  }
}

export interface MsrParameters {
  read: ReadonlySet<number>;
  write: ReadonlySet<number>;
}

/** `read`, `write`: lists of indices such as "0x40000000". Throws UserError. */
export function msrParameters(parameters: Parameters): MsrParameters {
  onlyParameters(MSR, parameters, ['read', 'write']);
  const last = MSR_BANK.first + MSR_BANK.count - 1;
  const indices = (name: string) =>
    new Set(
      listOf(parameters, name).map((item) => {
        const index = unsigned(item);
        if (!isOwnMsr(index))
          throw badParameter(MSR, `${name} ${JSON.stringify(item)}`, `an index from ${hex(MSR_BANK.first)} to ${hex(last)}`);
        return index;
      }),
    );
  const found = { read: indices('read'), write: indices('write') };
  if (found.read.size + found.write.size === 0) throw badParameter(MSR, 'neither read nor write', 'a list of indices for one of them');
  return found;
}

export class MsrPrivilege implements Privilege, Held {
  readonly kind = MSR;
  readonly description: string;
  private readonly holders = new Holders();

  constructor(private readonly parameters: MsrParameters) {
    const list = (name: 'read' | 'write') =>
      parameters[name].size > 0 ? [`${name} ${[...parameters[name]].map((index) => hex(index)).join(', ')}`] : [];
    this.description = `MSRs: ${[...list('read'), ...list('write')].join('; ')}`;
  }

  attach(target: PrivilegeTarget): Attachment {
    return this.holders.attach(target);
  }

  heldBy(cpu: Cpu): boolean {
    return this.holders.heldBy(cpu);
  }

  /** True if it is held on this CPU now and names the register for this use. */
  allows(cpu: Cpu, index: number, write: boolean): boolean {
    const { read } = this.parameters;
    return (this.parameters[write ? 'write' : 'read'].has(index) || (read.has(index) && !on('msr-direction'))) && this.heldBy(cpu);
  }
}
