/**
 * `io-port`: sole use of I/O ports of the machine. They are withheld from everyone else from the moment the grant is configured: reads give
 * all ones, writes go nowhere. What answers at a port is the machine's business.
 */
import { on } from '../base/defence-switch.ts';
import { hex } from '../base/hex.ts';
import type { Cpu, PhysicalRange } from '../engine/contract.ts';
import type { Attachment, Privilege, PrivilegeTarget } from '../monitor/privilege.ts';
import { GATE_PORT } from '../policy/manifest.ts';
import { type Held, Holders } from './holders.ts';
import { badParameter, listOf, onlyParameters, type Parameters, unsigned } from './parameters.ts';
import type { WindowRegistry } from './windows.ts';

export const IO_PORT = 'io-port';
const MAX_PORT = 0xffff;

/** `ports`: "0x70", or "0x70-0x71" inclusive, or numbers. Gives ranges [start, end). Throws UserError. */
export function ioPortParameters(parameters: Parameters): PhysicalRange[] {
  onlyParameters(IO_PORT, parameters, ['ports']);
  const expected = 'ports such as ["0x70-0x71", "0x3f8"], up to 0xffff';
  const ranges = listOf(parameters, 'ports').map((item) => {
    const [first, last = first, ...rest] = typeof item === 'number' ? [item] : item.split('-');
    const [start, end] = [unsigned(first), unsigned(last) + 1];
    if (!(start < end && end <= MAX_PORT + 1) || rest.length > 0) throw badParameter(IO_PORT, `ports ${JSON.stringify(item)}`, expected);
    if (start <= GATE_PORT && end > GATE_PORT && on('gate-port-reserved'))
      throw badParameter(IO_PORT, `ports ${JSON.stringify(item)}`, `none that hold ${hex(GATE_PORT)}, the port of all gates`);
    return { start, end };
  });
  if (ranges.length === 0) throw badParameter(IO_PORT, 'no ports', expected);
  return ranges;
}

export class IoPortPrivilege implements Privilege, Held {
  readonly kind = IO_PORT;
  readonly description: string;
  private readonly holders = new Holders();

  constructor(ranges: readonly PhysicalRange[], windows: WindowRegistry) {
    this.description = `I/O ports ${ranges.map(({ start, end }) => (end - start > 1 ? `${hex(start)}-${hex(end - 1)}` : hex(start))).join(', ')}`;
    windows.set(this, [], ranges);
  }

  attach(target: PrivilegeTarget): Attachment {
    return this.holders.attach(target);
  }

  heldBy(cpu: Cpu): boolean {
    return this.holders.heldBy(cpu);
  }
}
