/**
 * The board: makes the devices of a PC, wires their interrupts, and puts their registers on the buses. It has no thread and no CPU: the
 * run loop calls it.
 */
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { GuestMemory } from '../engine/contract.ts';
import { buildAcpiTables } from './acpi/tables.ts';
import { routeMessage } from './apic-message.ts';
import { type AccessSize, createMemoryBus, createPortBus } from './bus.ts';
import { AcpiPm } from './devices/acpi-pm/acpi-pm.ts';
import { Cmos } from './devices/cmos/cmos.ts';
import { createDebugExit } from './devices/debug-exit/debug-exit.ts';
import { I8042 } from './devices/i8042/i8042.ts';
import { Ioapic } from './devices/ioapic/ioapic.ts';
import { Lapic } from './devices/lapic/lapic.ts';
import { PciHostBridge } from './devices/pci/host-bridge.ts';
import { Pic8259 } from './devices/pic8259/pic8259.ts';
import { Pit8254 } from './devices/pit8254/pit8254.ts';
import { Uart16550 } from './devices/uart16550/uart16550.ts';
import { createDma } from './dma.ts';
import { createEventClock } from './events.ts';
import {
  ISA_IRQ,
  ioapicPinOfIsa,
  MEMORY,
  type MemoryMapEntry,
  memoryMap,
  PCI_FIRST_PIN,
  PCI_ISA_IRQS,
  PORTS,
  pciWire,
} from './memory-map.ts';
import type { Clock, Dma, IrqLine, PciFunction, RegisterBlock, Stateful } from './ports.ts';
import { createSerialOutput } from './serial-output.ts';
import { readState } from './state.ts';
import { SharedWire } from './wires.ts';

export type PowerEvent = 'off' | 'reset' | 'debug-exit';

export interface BoardOptions {
  memory: GuestMemory;
  /** ns since the machine started; never goes back. */
  now(): number;
  /** 1 to 254. */
  cpus: number;
  /** Guest TSC frequency, Hz. */
  tscFrequency: number;
  /** IA32_TSC_ADJUST of a CPU, in ticks; default 0. */
  tscAdjust?(cpu: number): number;
  /** Output of COM1, in pieces up to 1 KiB. */
  serial: { write(bytes: Uint8Array): void };
  /** ms since 1970; asked once. */
  wallClock(): number;
  log: Log;
  /** First of four ports of the debug-exit device; none if absent. */
  debugExit?: number;
  /** Called inside the guest's register access. `code` comes with debug-exit. */
  onPower(kind: PowerEvent, code?: number): void;
  /** A CPU has something to take: a halted one must look again. May be called for nothing. */
  onInterrupt?(cpu: number): void;
}

/** What a PCI function gets to be made from. */
export interface PciFunctionPorts {
  irq: IrqLine;
  dma: Dma;
  clock: Clock;
  log: Log;
}
export type PciDevice = PciFunction & Partial<Stateful>;

export interface Board extends Stateful {
  readonly clock: Clock;
  readonly pci: PciHostBridge;
  /** Access to RAM for parts of the VMM that stand in for a device. */
  readonly dma: Dma;
  /** A port access; for writes the result is 0. */
  io(port: number, size: AccessSize, write: boolean, value: number): number;
  /** A memory access outside RAM and outside the local APIC's page. */
  mmio(gpa: number, size: AccessSize, write: boolean, value: number): number;
  lapic(cpu: number): Lapic;
  /** Vector that `acknowledgeInterrupt` would give now, -1 if none. */
  interruptFor(cpu: number): number;
  /** Takes the interrupt: call only just before injecting it. -1 if there is none. */
  acknowledgeInterrupt(cpu: number): number;
  /** ns; `Infinity` if no timer is armed. */
  nextDeadline(): number;
  runDue(): void;
  /** Console input. Gives the number of bytes taken. */
  serialInput(bytes: Uint8Array): number;
  /** True while the guest takes serial input by interrupt. */
  serialListening(): boolean;
  /** Hands on buffered serial output; call before the machine stops. */
  flushSerial(): void;
  pressPowerButton(): void;
  /** Puts a PCI function in a slot, 1 to 31; INTA is wired by `pciWire(slot)`. */
  addPci<T extends PciDevice>(slot: number, make: (ports: PciFunctionPorts) => T): T;
  /** Everything but RAM, as at power-up with firmware run. */
  reset(): void;
  memoryMap(): MemoryMapEntry[];
  /** To be copied to RAM before the guest starts; the RSDP is at `address`. */
  acpiTables(): { address: number; bytes: Uint8Array };
  /** Accesses that no device answered. */
  statistics(): Record<string, number>;
}

/** Throws UserError for memory or CPUs out of range, or a debug-exit port that is taken. */
export function createBoard(options: BoardOptions): Board {
  const { memory, log } = options;
  const map = memoryMap(memory.size);
  if (!(Number.isInteger(options.cpus) && options.cpus >= 1 && options.cpus <= 254)) {
    throw new UserError(`number of CPUs is ${options.cpus}, expected 1 to 254`, 'choose another --cpus');
  }
  const clock = createEventClock(options.now);
  const portBus = createPortBus(log);
  const memoryBus = createMemoryBus(log);

  // Interrupt controllers.
  const lapics: Lapic[] = [];
  const ioapic = new Ioapic((message) => routeMessage(lapics, message, 0, -1));
  for (let cpu = 0; cpu < options.cpus; cpu++) {
    lapics.push(
      new Lapic(cpu, {
        clock,
        send: (message, shorthand) => routeMessage(lapics, message, shorthand, cpu),
        endOfInterrupt: (vector) => ioapic.endOfInterrupt(vector),
        wake: () => options.onInterrupt?.(cpu),
        tscFrequency: options.tscFrequency,
        tscAdjust: () => options.tscAdjust?.(cpu) ?? 0,
      }),
    );
  }
  const boot = lapics[0];
  const pic = new Pic8259((asserted) => boot.setLint(0, asserted));

  // Wires. An ISA interrupt goes to both controllers; a PCI wire to its own I/O APIC pin, and to an ISA input of the 8259s alone.
  const isa = (irq: number): IrqLine => ({
    set: (asserted) => {
      pic.setLine(irq, asserted);
      ioapic.setPin(ioapicPinOfIsa(irq), asserted);
    },
  });
  const picInputs = new Map([...new Set(PCI_ISA_IRQS)].map((irq) => [irq, new SharedWire((asserted) => pic.setLine(irq, asserted))]));
  const pciWires = PCI_ISA_IRQS.map((irq, wire) => {
    const input = (picInputs.get(irq) as SharedWire).source();
    return new SharedWire((asserted) => {
      ioapic.setPin(PCI_FIRST_PIN + wire, asserted);
      input.set(asserted);
    });
  });

  // Devices.
  const power = (kind: PowerEvent, code?: number): void => {
    serialOutput.flush();
    options.onPower(kind, code);
  };
  const serialOutput = createSerialOutput(clock, options.serial);
  const uart = new Uart16550({ irq: isa(ISA_IRQ.serial), clock, output: serialOutput });
  const pit = new Pit8254({ irq: isa(ISA_IRQ.pit), clock });
  const cmos = new Cmos({ irq: isa(ISA_IRQ.cmos), clock, wallClock: options.wallClock });
  const keyboard = new I8042(() => power('reset'));
  const acpiPm = new AcpiPm({ irq: isa(ISA_IRQ.sci), clock, powerOff: () => power('off'), reset: () => power('reset') });
  const pci = new PciHostBridge({ memory: memoryBus, io: portBus, log });
  const functions: { slot: number; device: PciDevice }[] = [];

  // Buses.
  const place = (name: string, where: { start: number; size: number }, registers: RegisterBlock, widest: AccessSize = 1): void => {
    if (portBus.claim({ name, ...where, registers, widest })) return;
    throw new UserError(`ports of ${name} at ${where.start} are taken or out of range`, 'choose another port');
  };
  place('8259 master', PORTS.picMaster, pic.masterPorts);
  place('8259 slave', PORTS.picSlave, pic.slavePorts);
  place('8259 trigger', PORTS.picTrigger, pic.triggerPorts);
  place('8254', PORTS.pit, pit);
  place('speaker', PORTS.speaker, pit.speakerPort);
  place('8042 data', PORTS.keyboardData, keyboard.dataPort);
  place('8042 command', PORTS.keyboardCommand, keyboard.commandPort);
  place('clock', PORTS.cmos, cmos);
  place('POST code', PORTS.post, { read: () => 0xff, write: () => {} });
  place('COM1', PORTS.serial, uart);
  place('ACPI', PORTS.acpiPm, acpiPm, 4);
  place('PCI configuration', PORTS.pciConfig, pci.registers(besidePciAddress(acpiPm.resetPort)), 4);
  if (options.debugExit !== undefined) {
    place(
      'debug exit',
      { start: options.debugExit, size: 4 },
      createDebugExit((code) => power('debug-exit', code)),
      4,
    );
  }
  memoryBus.claim({ name: 'I/O APIC', start: MEMORY.ioapic.start, size: MEMORY.ioapic.end - MEMORY.ioapic.start, registers: ioapic });

  /** What firmware would have done before the operating system starts. */
  function firmware(): void {
    boot.firmwareSetup();
    pic.triggerPorts.write(
      1,
      1,
      [ISA_IRQ.sci, ...PCI_ISA_IRQS].reduce((bits, irq) => bits | (1 << (irq - 8)), 0),
    );
  }
  firmware();

  const parts: Record<string, Stateful> = { uart, pit, cmos, keyboard, acpiPm };
  const controllers: Record<string, Stateful> = { pci, pic, ioapic };

  return {
    clock,
    pci,
    dma: createDma(memory, () => true),
    io(port, size, write, value) {
      if (!write) return portBus.read(port, size);
      portBus.write(port, size, value);
      return 0;
    },
    mmio(gpa, size, write, value) {
      if (!write) return memoryBus.read(gpa, size);
      memoryBus.write(gpa, size, value);
      return 0;
    },
    lapic: (cpu) => lapics[cpu],
    interruptFor(cpu) {
      const lapic = lapics[cpu];
      return lapic.externalRequested ? pic.peek() : lapic.pendingVector();
    },
    acknowledgeInterrupt(cpu) {
      const lapic = lapics[cpu];
      if (lapic.externalRequested) return pic.acknowledge();
      const vector = lapic.pendingVector();
      if (vector >= 0) lapic.acknowledge(vector);
      return vector;
    },
    nextDeadline: clock.nextDeadline,
    runDue: clock.runDue,
    serialInput: (bytes) => uart.receive(bytes),
    serialListening: () => uart.listening,
    flushSerial: () => serialOutput.flush(),
    pressPowerButton: () => acpiPm.pressPowerButton(),
    addPci(slot, make) {
      const device = make({ irq: pci.interrupt(slot), dma: createDma(memory, () => pci.isBusMaster(slot)), clock, log });
      pci.add(slot, device, pciWires[pciWire(slot)].source());
      functions.push({ slot, device });
      return device;
    },
    reset() {
      for (const device of [uart, pit, cmos, keyboard, acpiPm, pci, pic, ioapic, ...lapics]) device.reset();
      firmware();
    },
    memoryMap: () => map.map((entry) => ({ ...entry })),
    acpiTables: () => buildAcpiTables({ cpus: options.cpus, address: MEMORY.acpi.start }),
    statistics: () => ({ 'unclaimed port accesses': portBus.unclaimed, 'unclaimed memory accesses': memoryBus.unclaimed }),
    save() {
      serialOutput.flush();
      const saveAll = (devices: Record<string, Stateful>) =>
        Object.fromEntries(Object.entries(devices).map(([name, device]) => [name, device.save()]));
      return {
        ...saveAll(parts),
        ...saveAll(controllers),
        functions: functions.map(({ slot, device }) => ({ slot, state: device.save?.() ?? null })),
        lapics: lapics.map((lapic) => lapic.save()),
      };
    },
    /** Devices first, since their wires disturb the controllers; then the controllers from the inside out. */
    load(state) {
      const from = readState('board', state);
      for (const [name, device] of Object.entries(parts)) device.load(from.part(name));
      loadFunctions(functions, from.part('functions'));
      for (const [name, device] of Object.entries(controllers)) device.load(from.part(name));
      const saved = from.part('lapics');
      if (!Array.isArray(saved) || saved.length !== lapics.length) throw new Error(`board: lapics do not fit, expected ${lapics.length}`);
      for (const [cpu, lapic] of lapics.entries()) {
        lapic.load(saved[cpu]);
        options.onInterrupt?.(cpu);
      }
    },
  };
}

/** The reset control register lies within the PCI address register, offset 1; other narrow accesses reach nothing. */
function besidePciAddress(reset: RegisterBlock): RegisterBlock {
  return {
    read: (offset, size) => (offset === 1 && size === 1 ? reset.read(0, 1) : 0xffff_ffff >>> (32 - 8 * size)),
    write: (offset, size, value) => {
      if (offset === 1 && size === 1) reset.write(0, 1, value);
    },
  };
}

function loadFunctions(functions: readonly { slot: number; device: PciDevice }[], state: unknown): void {
  if (!Array.isArray(state) || state.length !== functions.length) {
    throw new Error(`board: functions do not fit, expected ${functions.length}`);
  }
  for (const [i, { slot, device }] of functions.entries()) {
    const from = readState(`board function ${i}`, state[i]);
    from.number('slot', slot, slot);
    device.load?.(from.part('state'));
  }
}
