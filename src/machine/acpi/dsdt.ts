/** The machine as ACPI objects: the PCI host bridge with its windows and interrupt routing, COM1, the clock, and the soft-off state. */
import { ISA_IRQ, MEMORY, PCI_FIRST_PIN, PCI_ISA_IRQS, PORTS, pciWire } from '../memory-map.ts';
import {
  type Aml,
  bridgeWindow,
  define,
  device,
  eisaId,
  firstArgument,
  giveBack,
  ifTrue,
  integer,
  isaInterrupt,
  list,
  method,
  name,
  ports,
  resources,
  scope,
  store,
} from './aml.ts';

/** _PRT entries (ACPI 6.4, 6.2.13): address with all functions, pin INTA, no link device, global interrupt. */
function routing(interruptOf: (wire: number) => number): Aml {
  const slots = Array.from({ length: 31 }, (_, i) => i + 1);
  return list(...slots.map((slot) => list(integer(slot * 0x1_0000 + 0xffff), integer(0), integer(0), integer(interruptOf(pciWire(slot))))));
}

/** Body of the DSDT. `sleepType` is SLP_TYP of soft-off. */
export function dsdtBody(sleepType: number): Aml {
  const terms = [
    // The operating system says 1 for "I use APICs" (5.8.1).
    define('PICF', integer(0)),
    method('\\_PIC', 1, store(firstArgument, name('PICF'))),
    define('\\_S5', list(integer(sleepType), integer(sleepType), integer(0), integer(0))),
    scope(
      '\\_SB',
      device(
        'PCI0',
        define('_HID', eisaId('PNP0A03')),
        define('_UID', integer(0)),
        define('_BBN', integer(0)),
        define(
          'APRT',
          routing((wire) => PCI_FIRST_PIN + wire),
        ),
        define(
          'PPRT',
          routing((wire) => PCI_ISA_IRQS[wire]),
        ),
        method('_PRT', 0, ifTrue(name('PICF'), giveBack(name('APRT'))), giveBack(name('PPRT'))),
        define(
          '_CRS',
          resources(
            bridgeWindow('bus', 0, 1),
            ports(PORTS.pciConfig.start, PORTS.pciConfig.size),
            bridgeWindow('io', PORTS.pciIo.start, PORTS.pciIo.start + PORTS.pciIo.size),
            bridgeWindow('memory', MEMORY.pciMemory.start, MEMORY.pciMemory.end),
          ),
        ),
      ),
      device(
        'COM1',
        define('_HID', eisaId('PNP0501')),
        define('_UID', integer(0)),
        define('_STA', integer(0x0f)),
        define('_CRS', resources(ports(PORTS.serial.start, PORTS.serial.size), isaInterrupt(ISA_IRQ.serial))),
      ),
      device(
        'RTC',
        define('_HID', eisaId('PNP0B00')),
        define('_CRS', resources(ports(PORTS.cmos.start, PORTS.cmos.size), isaInterrupt(ISA_IRQ.cmos))),
      ),
    ),
  ];
  return Uint8Array.from(terms.flatMap((term) => [...term]));
}
