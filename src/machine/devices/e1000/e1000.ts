/**
 * The Intel 82540EM gigabit controller ("e1000"), by the 8254x Family Software Developer's Manual. This file is the card's edge: PCI
 * identity, the memory and io windows, resets, and which part answers for which register.
 */
import {
  checkStationAddress,
  ETHERNET_CLASS,
  type NetworkCard,
  type NetworkCardOptions,
  type NetworkCardPorts,
} from '../network-card/network-card.ts';
import type { NetworkBackend, PciBar, RegisterBlock } from '../../ports.ts';
import { CAUSE, CTRL, CTRL_EXT, RCTL, STATUS } from './bits.ts';
import { Eeprom } from './eeprom.ts';
import { Interrupts } from './interrupts.ts';
import { Phy } from './phy.ts';
import { Receiver } from './receive.ts';
import { REGISTER, REGISTER_SPACE, RegisterFile } from './registers.ts';
import { Statistics } from './statistics.ts';
import { Transmitter } from './transmit.ts';

const MEMORY_SIZE = 0x2_0000;
const IO_SIZE = 64;
/** The io window: an address register and a data register (13.2). */
const IO = { address: 0, data: 4 } as const;

/** Throws RangeError when `mac` is not a unicast address of six bytes. */
export function createE1000(ports: NetworkCardPorts, options: NetworkCardOptions): NetworkCard {
  checkStationAddress('e1000', options.mac);
  return new Card(ports, options);
}

class Card implements NetworkCard {
  readonly name = 'e1000';
  readonly vendor = 0x8086;
  readonly device = 0x100e;
  readonly subsystemVendor = 0x8086;
  readonly subsystem = 0x001e;
  readonly revision = 3;
  readonly classCode = ETHERNET_CLASS;
  readonly interruptPin = 1;
  readonly bars: readonly PciBar[];

  private readonly registers = new RegisterFile();
  private readonly counters = new Statistics(this.registers.words);
  private readonly eeprom: Eeprom;
  private readonly phy: Phy;
  private readonly interrupts: Interrupts;
  private readonly transmitter: Transmitter;
  private readonly receiver: Receiver;
  private readonly backend: NetworkBackend;
  private busMaster = false;
  private ioAddress = 0;
  private warned = false;

  constructor(
    private readonly ports: NetworkCardPorts,
    options: NetworkCardOptions,
  ) {
    const { dma, clock, irq } = ports;
    const { counters, registers } = this;
    const mayDma = () => this.busMaster;
    this.backend = options.backend;
    this.eeprom = new Eeprom(options.mac);
    this.interrupts = new Interrupts(irq, clock);
    this.phy = new Phy(true, () => this.linkChanged());
    this.transmitter = new Transmitter(registers, dma, clock, this.interrupts, counters, mayDma, (frame) => this.output(frame));
    this.receiver = new Receiver(registers, dma, clock, this.interrupts, counters, mayDma, () => this.backend.ready());
    this.connect();
    this.softReset();
    const memory: RegisterBlock = {
      read: (offset, size) => this.readMemory(offset, size),
      write: (offset, size, value) => this.writeMemory(offset, size, value),
    };
    const io: RegisterBlock = {
      read: (offset, size) => this.readIo(offset, size),
      write: (offset, size, value) => this.writeIo(offset, size, value),
    };
    this.bars = [
      { kind: 'memory', size: MEMORY_SIZE, registers: memory },
      { kind: 'io', size: IO_SIZE, registers: io },
    ];
    this.backend.receive = (frame) => this.input(frame);
  }

  setBusMaster(enabled: boolean): void {
    if (this.busMaster === enabled) return;
    this.busMaster = enabled;
    this.receiver.retry();
    if (enabled) this.transmitter.run();
  }

  /** PCI reset: everything but the EEPROM's contents and the cable. */
  reset(): void {
    this.busMaster = false;
    this.ioAddress = 0;
    this.phy.reset();
    this.softReset();
  }

  setLink(up: boolean): void {
    this.phy.setCable(up);
  }

  statistics(): Record<string, number> {
    return { ...this.counters.totals, interrupts: this.interrupts.count };
  }

  save(): unknown {
    return {
      registers: this.registers.save(),
      eeprom: this.eeprom.save(),
      phy: this.phy.save(),
      interrupts: this.interrupts.save(),
      transmit: this.transmitter.save(),
      receive: this.receiver.save(),
      busMaster: this.busMaster,
      ioAddress: this.ioAddress,
    };
  }

  load(state: unknown): void {
    const fields = state as Record<string, unknown>;
    if (typeof state !== 'object' || state === null) throw new Error('e1000: expected an object');
    if (typeof fields.busMaster !== 'boolean') throw new Error('e1000: busMaster: expected true or false');
    if (!Number.isInteger(fields.ioAddress)) throw new Error('e1000: ioAddress: expected a number');
    this.registers.load(fields.registers);
    this.eeprom.load(fields.eeprom);
    this.phy.load(fields.phy);
    this.transmitter.load(fields.transmit);
    this.receiver.load(fields.receive);
    this.busMaster = fields.busMaster;
    this.ioAddress = (fields.ioAddress as number) >>> 0;
    this.interrupts.throttle = this.registers.words[REGISTER.ITR];
    this.interrupts.load(fields.interrupts);
    this.receiver.retry();
  }

  /** Joins registers that act with the parts that own them. */
  private connect(): void {
    const { registers, interrupts, eeprom, receiver, transmitter } = this;
    const { words } = registers;
    registers.onWrite('CTRL', (value) => this.writeControl(value));
    registers.onWrite('CTRL_EXT', (value) => {
      if ((value & CTRL_EXT.eeRst) !== 0) this.loadEeprom();
      words[REGISTER.CTRL_EXT] &= ~CTRL_EXT.eeRst;
    });
    registers.onRead('EECD', () => eeprom.readEecd());
    registers.onWrite('EECD', (value) => eeprom.writeEecd(value));
    registers.onRead('EERD', () => eeprom.readEerd());
    registers.onWrite('EERD', (value) => eeprom.writeEerd(value));
    registers.onWrite('MDIC', (value) => {
      words[REGISTER.MDIC] = this.phy.mdic(value);
      if ((value & 0x2000_0000) !== 0) interrupts.raise(CAUSE.mdac);
    });
    registers.onRead('ICR', () => interrupts.readCauses());
    registers.onWrite('ICR', (value) => interrupts.clearCauses(value));
    registers.onWrite('ICS', (value) => interrupts.raise(value));
    registers.onRead('IMS', () => interrupts.readMask());
    registers.onWrite('IMS', (value) => interrupts.setMask(value));
    registers.onWrite('IMC', (value) => interrupts.clearMask(value));
    registers.onWrite('ITR', () => {
      interrupts.throttle = words[REGISTER.ITR];
    });
    registers.onWrite('PBA', () => {
      // 64 KB of packet buffer: what receive does not get is transmit's (13.4.14).
      words[REGISTER.PBA] = ((64 - (words[REGISTER.PBA] & 63)) << 16) | (words[REGISTER.PBA] & 63);
    });
    registers.onWrite('RCTL', () => receiver.retry());
    registers.onWrite('RDT', () => receiver.retry());
    registers.onWrite('RDTR', (value) => receiver.flush(value));
    registers.onWrite('TCTL', () => transmitter.run());
    registers.onWrite('TDT', () => transmitter.run());
    registers.onWrite('TIDV', (value) => {
      if ((value & 0x8000_0000) !== 0) transmitter.delay.flush();
    });
  }

  private writeControl(value: number): void {
    if ((value & CTRL.rst) !== 0) {
      this.softReset();
      return;
    }
    const { words } = this.registers;
    words[REGISTER.CTRL] &= ~(CTRL.rst | CTRL.phyRst);
    if ((value & CTRL.phyRst) !== 0) this.phy.reset();
  }

  /** CTRL.RST: all but PCI configuration, transceiver and EEPROM contents (13.4.1). */
  private softReset(): void {
    this.registers.reset();
    this.interrupts.reset();
    this.transmitter.reset();
    this.eeprom.reset();
    this.loadEeprom();
    this.showLink();
    this.receiver.reset();
  }

  /** The station address comes from the EEPROM's first three words (5.6.1). */
  private loadEeprom(): void {
    const { words } = this.registers;
    const [low, middle, high] = this.eeprom.words;
    words[REGISTER.RA] = (low | (middle << 16)) >>> 0;
    words[REGISTER.RA + 1] = (high | 0x8000_0000) >>> 0;
  }

  private showLink(): void {
    const { words } = this.registers;
    words[REGISTER.STATUS] = (words[REGISTER.STATUS] & ~STATUS.lu) | (this.phy.link ? STATUS.lu : 0);
  }

  private linkChanged(): void {
    this.showLink();
    this.interrupts.raise(CAUSE.lsc);
    this.receiver.retry();
  }

  private get looping(): boolean {
    return this.phy.loopback || (this.registers.words[REGISTER.RCTL] & RCTL.lbm) !== 0;
  }

  private output(frame: Uint8Array): void {
    if (this.looping) {
      // What finds no room is lost, as it would be on a wire.
      if (!this.receiver.receive(frame)) this.counters.totals.rxDropped++;
    } else if (this.phy.link) {
      this.backend.send(frame);
    } else {
      this.counters.totals.txDropped++;
    }
  }

  private input(frame: Uint8Array): boolean {
    if (this.looping || !this.phy.link) {
      this.counters.totals.rxDropped++;
      return true;
    }
    return this.receiver.receive(frame);
  }

  /** Registers are 32 bits and must be accessed whole (13.2); a narrower read gives its part, a narrower write is ignored. */
  private readMemory(offset: number, size: 1 | 2 | 4): number {
    if (offset >= REGISTER_SPACE) return 0;
    const value = this.registers.read(offset >>> 2);
    return size === 4 ? value : (value >>> ((offset & 3) * 8)) & (size === 1 ? 0xff : 0xffff);
  }

  private writeMemory(offset: number, size: 1 | 2 | 4, value: number): void {
    if (size === 4 && (offset & 3) === 0) {
      if (offset < REGISTER_SPACE) this.registers.write(offset >>> 2, value >>> 0);
    } else if (!this.warned) {
      this.warned = true;
      this.ports.log.debug('partial register write ignored', { offset, size });
    }
  }

  private readIo(offset: number, size: 1 | 2 | 4): number {
    if (size !== 4) return 0;
    if (offset === IO.address) return this.ioAddress;
    return offset === IO.data && this.ioAddress < MEMORY_SIZE ? this.readMemory(this.ioAddress & ~3, 4) : 0;
  }

  private writeIo(offset: number, size: 1 | 2 | 4, value: number): void {
    if (size !== 4) return;
    if (offset === IO.address) this.ioAddress = value >>> 0;
    else if (offset === IO.data && this.ioAddress < MEMORY_SIZE) this.writeMemory(this.ioAddress & ~3, 4, value);
  }
}
