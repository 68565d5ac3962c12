/**
 * `pci-device`: direct access to one PCI function, its memory windows and its I/O ports. The windows are hidden from the untrusted view
 * from the moment the grant is configured, whether or not a module is loaded, and follow the guest's BAR writes.
 *
 * A view carries its windows, so entering the view raises this privilege and leaving it lowers it; nothing is done at a crossing.
 */
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Cpu, PhysicalRange } from '../engine/contract.ts';
import type { Attachment, Privilege, PrivilegeTarget } from '../monitor/privilege.ts';
import type { PrivilegeGrant } from '../policy/grant.ts';
import { type Held, Holders } from './holders.ts';
import type { WindowRegistry } from './windows.ts';

export const PCI_DEVICE = 'pci-device';

/** A PCI function as the privilege sees it. Ranges are those that are decoded now: empty while the command register switches them off. */
export interface PciDevicePort {
  readonly vendor: number;
  readonly product: number;
  memoryRanges(): readonly PhysicalRange[];
  ioRanges(): readonly PhysicalRange[];
  /** Called after every change of a BAR or the command register. */
  onBarChange(listener: () => void): void;
  /** The device forgets what it was told and stops, also to interrupt; its addresses stay. */
  reset(): void;
}

export interface PciDeviceParameters {
  /** "dddd:bb:ss.f", hex. */
  device: string;
  vendor: number;
  product: number;
}

/** Reads and checks the parameters of a grant. Throws UserError. */
export function pciDeviceParameters(parameters: PrivilegeGrant['parameters']): PciDeviceParameters {
  const { device, vendor, product, ...rest } = parameters;
  const [unknown] = Object.keys(rest);
  const fail = (found: string, expected: string): never => {
    throw new UserError(
      `privilege ${PCI_DEVICE}: ${found}; expected ${expected}`,
      'sign a grant like { device: "0000:00:03.0", vendor: "8086", product: "100e" }',
    );
  };
  if (unknown !== undefined) fail(`unknown parameter "${unknown}"`, 'device, vendor and product');
  if (typeof device !== 'string' || !/^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/.test(device)) {
    return fail(`device ${JSON.stringify(device)}`, 'a PCI address such as "0000:00:03.0"');
  }
  const number = (name: string, value: unknown): number =>
    typeof value === 'string' && /^[0-9a-f]{4}$/.test(value)
      ? Number.parseInt(value, 16)
      : fail(`${name} ${JSON.stringify(value)}`, 'four hex digits in lower case');
  return { device, vendor: number('vendor', vendor), product: number('product', product) };
}

export class PciDevicePrivilege implements Privilege, Held {
  readonly kind = PCI_DEVICE;
  readonly description: string;
  private readonly holders = new Holders();

  constructor(
    parameters: PciDeviceParameters,
    private readonly device: PciDevicePort,
    private readonly windows: WindowRegistry,
    private readonly log: Log,
  ) {
    this.description = `PCI device ${parameters.device} (${parameters.vendor.toString(16).padStart(4, '0')}:${parameters.product.toString(16).padStart(4, '0')})`;
    windows.add(this, () => this.apply());
    device.onBarChange(() => this.follow());
    this.follow();
  }

  attach(target: PrivilegeTarget): Attachment {
    target.setWindows(this, this.windows.windows(this));
    this.log.debug('attached', { privilege: this.description, module: target.module, instance: target.instance });
    return this.holders.attach(target, () => {
      target.setWindows(this, []);
      // Nobody is left to answer its interrupt, which would take a CPU of the guest for good; and what the module told it is nobody's business.
      if (this.holders.targets.size === 1) this.device.reset();
    });
  }

  heldBy(cpu: Cpu): boolean {
    return this.holders.heldBy(cpu);
  }

  private follow(): void {
    this.windows.set(this, this.device.memoryRanges(), this.device.ioRanges());
  }

  private apply(): void {
    const windows = this.windows.windows(this);
    for (const target of this.holders.targets) target.setWindows(this, windows);
  }
}
