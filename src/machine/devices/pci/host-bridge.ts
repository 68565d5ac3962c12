/**
 * PCI host bridge: configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2) for bus 0, and the decoding of base address registers. The
 * bridge owns every function's configuration space, so that it alone knows which function answers which address: the VMM hides windows of
 * granted devices by it.
 */
import { hex } from '../../../base/hex.ts';
import type { Log } from '../../../base/log.ts';
import type { Bus, Claim } from '../../bus.ts';
import { MEMORY, PCI_ISA_IRQS, PORTS, pciWire } from '../../memory-map.ts';
import type { IrqLine, PciBar, PciFunction, RegisterBlock, Stateful } from '../../ports.ts';
import { readState } from '../../state.ts';
import { COMMAND, ConfigSpace } from './config-space.ts';

export const SLOTS = 32;

/** The 82441FX: what every kernel recognises as a PC's host bridge (Intel 290549, 3.2). */
const BRIDGE: PciFunction = {
  name: 'host bridge',
  vendor: 0x8086,
  device: 0x1237,
  subsystemVendor: 0,
  subsystem: 0,
  revision: 2,
  classCode: 0x060000,
  interruptPin: 0,
  bars: [],
  setBusMaster: () => {},
  reset: () => {},
};

/** One base address register as it stands. `decoded`: the address answers now. */
export interface BarState {
  readonly bar: number;
  readonly kind: 'memory' | 'io';
  readonly start: number;
  readonly size: number;
  readonly decoded: boolean;
}

interface Slot {
  readonly config: ConfigSpace;
  readonly claims: (Claim | undefined)[];
  readonly complained: boolean[];
  asserted: boolean;
  output: IrqLine;
}

export interface HostBridgePorts {
  memory: Bus;
  io: Bus;
  log: Log;
}

export class PciHostBridge implements Stateful {
  private readonly slots: (Slot | undefined)[] = new Array(SLOTS).fill(undefined);
  private address = 0;
  private readonly listeners: ((slot: number) => void)[] = [];

  constructor(private readonly ports: HostBridgePorts) {
    this.slots[0] = newSlot(BRIDGE, { set: () => {} });
  }

  /**
   * Puts a function in a slot, 1..31, with base addresses assigned as firmware does. `wire` is the slot's INTA. Throws RangeError if the
   * slot is taken.
   */
  add(slot: number, device: PciFunction, wire: IrqLine): void {
    if (!(Number.isInteger(slot) && slot > 0 && slot < SLOTS) || this.slots[slot]) {
      throw new RangeError(`PCI slot ${slot} is taken or not 1 to ${SLOTS - 1}`);
    }
    this.slots[slot] = newSlot(device, wire);
    this.assign(slot);
  }

  /** The functions there are, by slot. */
  get functions(): readonly { slot: number; function: PciFunction }[] {
    return this.slots.flatMap((slot, index) => (slot ? [{ slot: index, function: slot.config.device }] : []));
  }

  /** True while the function may master the bus. */
  isBusMaster(slot: number): boolean {
    return ((this.slots[slot]?.config.command ?? 0) & COMMAND.busMaster) !== 0;
  }

  barsOf(slot: number): BarState[] {
    const there = this.slots[slot];
    if (!there) return [];
    return definedBars(there.config.device).map(([bar, { kind, size }]) => {
      return { bar, kind, start: there.config.barAddress(bar), size, decoded: there.claims[bar] !== undefined };
    });
  }

  /** Called after the decoding of a slot's BARs changed. */
  onBarChange(listener: (slot: number) => void): void {
    this.listeners.push(listener);
  }

  /** Slot and BAR that answer an address now. */
  ownerOf(kind: 'memory' | 'io', address: number): { slot: number; bar: number } | undefined {
    const claim = (kind === 'memory' ? this.ports.memory : this.ports.io).ownerOf(address);
    if (claim === undefined) return undefined;
    for (const [slot, there] of this.slots.entries()) {
      const bar = there ? there.claims.indexOf(claim) : -1;
      if (bar >= 0) return { slot, bar };
    }
    return undefined;
  }

  /** The function's side of INTA; the bridge gates it by "interrupt disable". */
  interrupt(slot: number): IrqLine {
    return {
      set: (asserted) => {
        const there = this.slots[slot];
        if (!there) return; // a function that interrupts while it is being made
        there.asserted = asserted;
        this.updateInterrupt(there);
      },
    };
  }

  private updateInterrupt(slot: Slot): void {
    slot.config.setInterruptStatus(slot.asserted);
    slot.output.set(slot.asserted && !(slot.config.command & COMMAND.interruptOff));
  }

  /** RST#: every function is reset, and firmware assigns the addresses anew. */
  reset(): void {
    this.address = 0;
    for (const [index, slot] of this.slots.entries()) {
      if (!slot) continue;
      slot.config.device.reset();
      slot.config.device.setBusMaster(false);
      slot.config.reset();
      this.decode(index);
      slot.asserted = false;
      this.updateInterrupt(slot);
    }
    for (let slot = 1; slot < SLOTS; slot++) if (this.slots[slot]) this.assign(slot);
  }

  /** Resets one function: its registers, what it was about to do, its interrupt. Configuration space stays as the guest wrote it. */
  resetFunction(index: number): void {
    const slot = this.slots[index];
    if (!slot) return;
    slot.config.device.reset();
    slot.config.device.setBusMaster(this.isBusMaster(index));
    slot.asserted = false;
    this.updateInterrupt(slot);
  }

  /** Places BARs in the first free room, turns decoding on, and notes the interrupt for the 8259s. */
  private assign(index: number): void {
    const slot = this.slots[index] as Slot;
    let command = 0;
    for (const [bar, { kind, size }] of definedBars(slot.config.device)) {
      const start = this.room(kind, size);
      if (start < 0) continue;
      slot.config.setBarAddress(bar, start);
      command |= kind === 'io' ? COMMAND.io : COMMAND.memory;
      slot.config.setCommand(command);
      this.decode(index);
    }
    if (slot.config.device.interruptPin) slot.config.setInterruptLine(PCI_ISA_IRQS[pciWire(index)]);
  }

  private room(kind: 'memory' | 'io', size: number): number {
    const window = windowOf(kind);
    const step = Math.max(size, kind === 'io' ? 0x40 : 0x1000);
    const taken = this.slots.flatMap((slot) => slot?.claims.filter((claim) => claim !== undefined) ?? []);
    const bus = kind === 'io' ? this.ports.io : this.ports.memory;
    for (let start = Math.ceil(window.start / step) * step; start + size <= window.end; start += step) {
      const overlaps = (claim: Claim) => start < claim.start + claim.size && claim.start < start + size;
      const clash = taken.some((claim) => bus.ownerOf(claim.start) === claim && overlaps(claim));
      if (!clash) return start;
    }
    return -1;
  }

  /** Makes the buses answer as a slot's command register and BARs say. */
  private decode(index: number): void {
    const slot = this.slots[index] as Slot;
    const { command, device } = slot.config;
    let changed = false;
    for (const [bar, { kind, size, registers }] of definedBars(device)) {
      const bus = kind === 'io' ? this.ports.io : this.ports.memory;
      const start = slot.config.barAddress(bar);
      const wanted = (command & (kind === 'io' ? COMMAND.io : COMMAND.memory)) !== 0;
      const old = slot.claims[bar];
      if (old !== undefined && wanted && old.start === start) continue;
      if (old !== undefined) bus.release(old);
      slot.claims[bar] = undefined;
      const claim: Claim = { name: `${device.name} BAR ${bar}`, start, size, registers };
      if (wanted && inWindow(kind, start, size) && bus.claim(claim)) slot.claims[bar] = claim;
      else if (wanted) this.complain(slot, bar, start);
      changed ||= slot.claims[bar] !== undefined || old !== undefined;
    }
    if (changed) for (const listener of this.listeners) listener(index);
  }

  /**
   * A BAR outside the windows, or over another device, does not answer. Sizing a BAR while it is decoded looks the same for a moment: say
   * it once, softly.
   */
  private complain(slot: Slot, bar: number, start: number): void {
    if (slot.complained[bar]) return;
    slot.complained[bar] = true;
    const fields = { device: slot.config.device.name, bar, start: hex(start) };
    this.ports.log.info('BAR is not decoded: outside the PCI windows or over another device', fields);
  }

  /** Ports 0xcf8 to 0xcff. Narrow accesses to the address register belong to other devices (0xcf9 resets). */
  registers(narrow: RegisterBlock): RegisterBlock {
    return {
      read: (offset, size) => {
        if (offset < 4) return offset === 0 && size === 4 ? this.address : narrow.read(offset, size);
        return this.readData(offset - 4, size);
      },
      write: (offset, size, value) => {
        if (offset >= 4) this.writeData(offset - 4, size, value);
        else if (offset === 0 && size === 4) this.address = (value & 0x80ff_fffc) >>> 0;
        else narrow.write(offset, size, value);
      },
    };
  }

  /** The slot that the address register selects: enabled, bus 0, function 0. */
  private selected(): number {
    const bus = (this.address >>> 16) & 0xff;
    const fn = (this.address >>> 8) & 7;
    return this.address >>> 31 && bus === 0 && fn === 0 ? (this.address >>> 11) & 31 : -1;
  }

  private readData(lane: number, size: 1 | 2 | 4): number {
    const slot = this.slots[this.selected()];
    if (!slot || lane + size > 4) return 0xffff_ffff >>> (32 - 8 * size);
    return slot.config.read((this.address & 0xfc) + lane, size);
  }

  private writeData(lane: number, size: 1 | 2 | 4, value: number): void {
    const index = this.selected();
    const slot = this.slots[index];
    if (!slot || lane + size > 4) return;
    const before = slot.config.command;
    slot.config.write((this.address & 0xfc) + lane, size, value);
    const changed = before ^ slot.config.command;
    if (changed & COMMAND.busMaster) slot.config.device.setBusMaster(this.isBusMaster(index));
    if (changed & COMMAND.interruptOff) this.updateInterrupt(slot);
    this.decode(index);
  }

  save(): unknown {
    return {
      address: this.address,
      slots: this.slots.map((slot) => (slot ? { config: slot.config.save(), asserted: slot.asserted } : null)),
    };
  }

  /** The functions must be in their slots already; their own states are saved beside this one. */
  load(state: unknown): void {
    const from = readState('pci', state);
    this.address = from.number('address', 0, 0xffff_ffff);
    const slots = from.part('slots');
    if (!Array.isArray(slots) || slots.length !== SLOTS) throw new Error(`pci: slots do not fit, expected ${SLOTS}`);
    for (const [index, slot] of this.slots.entries()) {
      if ((slot === undefined) !== (slots[index] === null)) {
        throw new Error(`pci: slot ${index} is filled in one of machine and state only`);
      }
      if (!slot) continue;
      const saved = readState(`pci slot ${index}`, slots[index]);
      slot.config.setCommand(0);
      this.decode(index);
      slot.config.load(saved.part('config'));
      slot.asserted = saved.boolean('asserted');
    }
    for (const [index, slot] of this.slots.entries()) {
      if (!slot) continue;
      this.decode(index);
      slot.config.device.setBusMaster(this.isBusMaster(index));
      this.updateInterrupt(slot);
    }
  }
}

function newSlot(device: PciFunction, output: IrqLine): Slot {
  return { config: new ConfigSpace(device), claims: [], complained: [], asserted: false, output };
}

function definedBars(device: PciFunction): [number, PciBar][] {
  return device.bars.flatMap((bar, index) => (bar ? [[index, bar] as [number, PciBar]] : []));
}

function windowOf(kind: 'memory' | 'io'): { start: number; end: number } {
  return kind === 'memory' ? MEMORY.pciMemory : { start: PORTS.pciIo.start, end: PORTS.pciIo.start + PORTS.pciIo.size };
}

function inWindow(kind: 'memory' | 'io', start: number, size: number): boolean {
  const window = windowOf(kind);
  return start >= window.start && start + size <= window.end;
}
