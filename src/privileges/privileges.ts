/** All kinds of privilege, and the ones that are configured in one virtual machine. A new kind is one file and one line in `check` and `make`. */
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Cpu, Engine } from '../engine/contract.ts';
import type { Privilege } from '../monitor/privilege.ts';
import type { PrivilegeGrant } from '../policy/grant.ts';
import { PCI_DEVICE, PciDevicePrivilege, pciDeviceParameters } from './pci-device.ts';
import type { PciDeviceParameters, PciDevicePort } from './pci-device.ts';
import { WindowRegistry } from './windows.ts';

export const PRIVILEGE_KINDS = [PCI_DEVICE] as const;

/** Checks kind and parameters of a grant's privilege, without a machine. Throws UserError. */
export function checkPrivilege(grant: PrivilegeGrant): PciDeviceParameters {
  if (grant.kind === PCI_DEVICE) return pciDeviceParameters(grant.parameters);
  throw new UserError(`unknown privilege "${grant.kind}"; known: ${PRIVILEGE_KINDS.join(', ')}`, 'sign the grant again with a known privilege');
}

export interface PrivilegePorts {
  engine: Engine;
  /** The PCI function at an address such as "0000:00:03.0", or undefined. */
  pciDevice(address: string): PciDevicePort | undefined;
  log: Log;
}

/** The privileges of one virtual machine. Two grants for the same device share one privilege, so that neither can lock the other out. */
export class PrivilegeSet {
  private readonly windows: WindowRegistry;
  private readonly devices = new Map<string, PciDevicePrivilege>();

  constructor(private readonly ports: PrivilegePorts) {
    this.windows = new WindowRegistry(ports.engine, ports.log);
  }

  /** Configures a granted privilege: from now on nobody else has it. Throws UserError when the machine has no such device. */
  configure(grant: PrivilegeGrant): Privilege {
    const parameters = checkPrivilege(grant);
    const device = this.ports.pciDevice(parameters.device);
    if (!device) throw new UserError(`privilege ${PCI_DEVICE}: this virtual machine has no device ${parameters.device}`, 'give it the device, or sign a grant for one that it has');
    if (device.vendor !== parameters.vendor || device.product !== parameters.product) {
      const id = (vendor: number, product: number) => `${vendor.toString(16).padStart(4, '0')}:${product.toString(16).padStart(4, '0')}`;
      throw new UserError(
        `privilege ${PCI_DEVICE}: device ${parameters.device} is ${id(device.vendor, device.product)}; the grant is for ${id(parameters.vendor, parameters.product)}`,
        'sign a grant for the device that is there',
      );
    }
    const known = this.devices.get(parameters.device);
    if (known) return known;
    const privilege = new PciDevicePrivilege(parameters, device, this.windows, this.ports.log);
    this.devices.set(parameters.device, privilege);
    return privilege;
  }

  /** May `cpu` reach this I/O port now? True for every port that no granted device has. Refused reads give all ones, writes go nowhere. */
  portAllowed(cpu: Cpu, port: number): boolean {
    const owner = this.windows.ownerOfPort(port);
    return owner === undefined || (owner instanceof PciDevicePrivilege && owner.heldBy(cpu));
  }
}
