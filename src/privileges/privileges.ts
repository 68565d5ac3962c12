/**
 * All kinds of privilege, and the ones that are configured in one virtual machine. A new kind is one file beside this one, one line in
 * `CHECKS`, and one case in `configure` (docs/privileges.md).
 */
import { on } from '../base/defence-switch.ts';
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Cpu, Engine } from '../engine/contract.ts';
import type { Privilege } from '../monitor/privilege.ts';
import type { PrivilegeGrant } from '../policy/grant.ts';
import type { Held } from './holders.ts';
import { IO_PORT, IoPortPrivilege, ioPortParameters } from './io-port.ts';
import { isOwnMsr, MSR, MsrBank, MsrPrivilege, msrParameters } from './msr.ts';
import { MWAIT, type MwaitEvent, MwaitPrivilege, mwaitParameters } from './mwait.ts';
import { PCI_DEVICE, PciDevicePrivilege, pciDeviceParameters } from './pci-device.ts';
import type { PciDeviceParameters, PciDevicePort } from './pci-device.ts';
import { SECRET, type SecretModule, SecretPrivilege, secretParameters } from './secret.ts';
import { WindowRegistry } from './windows.ts';

/** By kind: checks the parameters, without a machine. */
const CHECKS = {
  [PCI_DEVICE]: pciDeviceParameters,
  [MSR]: msrParameters,
  [IO_PORT]: ioPortParameters,
  [MWAIT]: mwaitParameters,
  [SECRET]: secretParameters,
} as const;
type Kind = keyof typeof CHECKS;

export const PRIVILEGE_KINDS = Object.keys(CHECKS) as readonly Kind[];

/** Checks kind and parameters of a grant's privilege. Throws UserError. */
export function checkPrivilege(grant: PrivilegeGrant): void {
  CHECKS[kindOf(grant)](grant.parameters);
}

function kindOf({ kind }: PrivilegeGrant): Kind {
  const known = PRIVILEGE_KINDS.find((name) => name === kind);
  if (known) return known;
  throw new UserError(`unknown privilege "${kind}"; known: ${PRIVILEGE_KINDS.join(', ')}`, 'sign the grant again with a known privilege');
}

export interface PrivilegePorts {
  engine: Engine;
  /** The PCI function at an address such as "0000:00:03.0", or undefined. */
  pciDevice(address: string): PciDevicePort | undefined;
  /** Private key (X25519, PEM) that secrets are sealed for; undefined: this machine can open none. */
  vmmKey?: string;
  /** First values of the VMM's own MSRs. */
  msrs?: readonly { index: number; value: bigint }[];
  /** For the audit stream. */
  report?(event: MwaitEvent): void;
  log: Log;
}

/** The privileges of one virtual machine. Two grants for the same device share one privilege, so that neither can lock the other out. */
export class PrivilegeSet {
  private readonly windows: WindowRegistry;
  private readonly shared = new Map<string, Privilege>();
  private readonly msrBank = new MsrBank();
  private readonly msrPrivileges: MsrPrivilege[] = [];
  private readonly mwait: MwaitPrivilege;

  constructor(private readonly ports: PrivilegePorts) {
    this.windows = new WindowRegistry(ports.engine, ports.log);
    this.mwait = new MwaitPrivilege(ports.engine.cpus, (event) => ports.report?.(event));
    for (const { index, value } of ports.msrs ?? []) this.msrBank.write(index, value);
  }

  /**
   * Configures a privilege granted to `module`: from now on nobody else has it. Throws UserError when the machine or the module lacks what
   * it is for.
   */
  configure(grant: PrivilegeGrant, module: SecretModule): Privilege {
    const kind = kindOf(grant);
    switch (kind) {
      case PCI_DEVICE:
        return this.pciDevice(pciDeviceParameters(grant.parameters));
      case IO_PORT: {
        const ranges = ioPortParameters(grant.parameters);
        return this.share(`${IO_PORT} ${JSON.stringify(ranges)}`, () => new IoPortPrivilege(ranges, this.windows));
      }
      case MSR: {
        const privilege = new MsrPrivilege(msrParameters(grant.parameters));
        this.msrPrivileges.push(privilege);
        return privilege;
      }
      case MWAIT:
        mwaitParameters(grant.parameters);
        return this.mwait;
      case SECRET: {
        const { vmmKey, log } = this.ports;
        if (vmmKey === undefined)
          throw new UserError(
            `privilege ${SECRET}: this virtual machine has no VMM key to open it with`,
            'give it the key: --vmm-key FILE',
          );
        return new SecretPrivilege(secretParameters(grant.parameters), module, vmmKey, log);
      }
    }
  }

  /** May `cpu` reach these I/O ports now? True for ports that nobody was granted. Refused reads give all ones, writes go nowhere. */
  portAllowed(cpu: Cpu, port: number, size = 1): boolean {
    for (let byte = port; byte < port + size; byte++) {
      const owner = this.windows.ownerOfPort(byte);
      if (owner !== undefined && (owner as Held | null)?.heldBy(cpu) !== true) return false;
    }
    return true;
  }

  /** A virtual CPU is alone on its physical core from now on, or no longer. It must not be running. */
  setAlone(cpu: number, alone: boolean): void {
    this.mwait.setAlone(cpu, alone);
  }

  /** Reads (no `value`) or writes one of the VMM's own MSRs. undefined: there is none of that index. null: this CPU may not, now; #GP. */
  accessMsr(cpu: Cpu, index: number, value?: bigint): bigint | null | undefined {
    if (!isOwnMsr(index)) return undefined;
    const write = value !== undefined;
    if (!this.msrPrivileges.some((privilege) => privilege.allows(cpu, index, write))) return null;
    if (write) this.msrBank.write(index, value);
    return this.msrBank.read(index);
  }

  private pciDevice(parameters: PciDeviceParameters): Privilege {
    const device = this.ports.pciDevice(parameters.device);
    if (!device)
      throw new UserError(
        `privilege ${PCI_DEVICE}: this virtual machine has no device ${parameters.device}`,
        'give it the device, or sign a grant for one that it has',
      );
    if ((device.vendor !== parameters.vendor || device.product !== parameters.product) && on('device-identity')) {
      const id = (vendor: number, product: number) => `${vendor.toString(16).padStart(4, '0')}:${product.toString(16).padStart(4, '0')}`;
      throw new UserError(
        `privilege ${PCI_DEVICE}: device ${parameters.device} is ${id(device.vendor, device.product)}; the grant is for ${id(parameters.vendor, parameters.product)}`,
        'sign a grant for the device that is there',
      );
    }
    return this.share(`${PCI_DEVICE} ${parameters.device}`, () => new PciDevicePrivilege(parameters, device, this.windows, this.ports.log));
  }

  private share(key: string, make: () => Privilege): Privilege {
    const known = this.shared.get(key);
    if (known) return known;
    const privilege = make();
    this.shared.set(key, privilege);
    return privilege;
  }
}
