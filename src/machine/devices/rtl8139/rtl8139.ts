/**
 * The Realtek RTL8139C+ fast Ethernet controller, by Realtek's RTL8139C(L)+ data sheet 1.6 and the RTL8139 programming guide. This file is
 * the card's edge: PCI identity, the two windows on the same registers, resets, and which part answers for which register.
 */
import { Microwire } from '../microwire.ts';
import {
  checkStationAddress,
  ETHERNET_CLASS,
  type NetworkCard,
  type NetworkCardOptions,
  type NetworkCardPorts,
} from '../network-card/network-card.ts';
import type { NetworkBackend, PciBar, RegisterBlock } from '../../ports.ts';
import { readState, saveBytes } from '../../state.ts';
import { CAUSE, COMMAND, EEPROM, PLUS, POLL, TRANSMIT_CONFIG } from './bits.ts';
import { ADDRESS_WORD, eepromContents } from './eeprom.ts';
import { GeneralTimer, Interrupts } from './interrupts.ts';
import { Phy } from './phy.ts';
import { Receiver } from './receive.ts';
import { OFFSET, REGISTER_SPACE, RegisterFile } from './registers.ts';
import { Statistics } from './statistics.ts';
import { Transmitter } from './transmit.ts';

/** Revision, and hardware version in TCR, by which drivers tell the chips apart (6, TCR). */
const CHIPS = { 'c+': { revision: 0x20, version: 0x7480_0000 }, c: { revision: 0x10, version: 0x7400_0000 } } as const;
/** Dump tally counter command: bit 3 starts it and clears when it is done; the block is aligned to 64 bytes. */
const DUMP = 0x08;
const DUMP_ADDRESS = 0xffff_ffc0;

/** What a driver writes to TSD: size, OWN and early threshold. */
const TRANSMIT_STATUS_WRITABLE = 0x003f_3fff;
const EEPROM_WRITABLE = EEPROM.mode | EEPROM.select | EEPROM.clock | EEPROM.dataIn;
const WORD = 0xffff;
const DOUBLE_WORD = 0xffff_ffff;

export interface Rtl8139Options extends NetworkCardOptions {
  /** 'c' is the RTL8139C, the same without C+ mode: drivers of the C mode refuse a C+. Default 'c+'. */
  chip?: keyof typeof CHIPS;
}

/** Throws RangeError when `mac` is not a unicast address of six bytes. */
export function createRtl8139(ports: NetworkCardPorts, options: Rtl8139Options): NetworkCard {
  checkStationAddress('rtl8139', options.mac);
  return new Card(ports, options);
}

class Card implements NetworkCard {
  readonly name = 'rtl8139';
  readonly vendor = 0x10ec;
  readonly device = 0x8139;
  readonly subsystemVendor = 0x10ec;
  readonly subsystem = 0x8139;
  readonly revision: number;
  readonly classCode = ETHERNET_CLASS;
  readonly interruptPin = 1;
  readonly bars: readonly PciBar[];

  private readonly chip: keyof typeof CHIPS;
  private readonly registers = new RegisterFile();
  private readonly counters = new Statistics();
  private readonly eeprom: Microwire;
  private readonly phy: Phy;
  private readonly interrupts: Interrupts;
  private readonly timer: GeneralTimer;
  private readonly transmitter: Transmitter;
  private readonly receiver: Receiver;
  private readonly backend: NetworkBackend;
  private busMaster = false;
  /** CR as it was before the write at hand. */
  private command = 0;

  constructor(
    private readonly ports: NetworkCardPorts,
    options: Rtl8139Options,
  ) {
    const { dma, clock, irq } = ports;
    const { counters, registers } = this;
    const mayDma = () => this.busMaster;
    this.chip = options.chip ?? 'c+';
    this.revision = CHIPS[this.chip].revision;
    this.backend = options.backend;
    this.eeprom = new Microwire(eepromContents(options.mac, this));
    this.interrupts = new Interrupts(irq);
    this.timer = new GeneralTimer(clock, () => this.interrupts.raise(CAUSE.timeout));
    this.phy = new Phy(true, () => this.linkChanged());
    this.transmitter = new Transmitter(registers, dma, clock, this.interrupts, counters, mayDma, (frame) => this.output(frame));
    this.receiver = new Receiver(registers, dma, clock, this.interrupts, counters, mayDma, () => this.backend.ready());
    this.connect();
    this.connectRings();
    this.powerUp();
    const block: RegisterBlock = {
      read: (offset, size) => registers.read(offset, size),
      write: (offset, size, value) => registers.write(offset, size, value >>> 0),
    };
    this.bars = [
      { kind: 'io', size: REGISTER_SPACE, registers: block },
      { kind: 'memory', size: REGISTER_SPACE, registers: block },
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
    this.powerUp();
  }

  setLink(up: boolean): void {
    this.phy.setCable(up);
  }

  statistics(): Record<string, number> {
    return { ...this.counters.totals, interrupts: this.interrupts.count };
  }

  save(): unknown {
    return {
      registers: saveBytes(this.registers.bytes),
      unlocked: this.registers.unlocked,
      eeprom: this.eeprom.save(),
      phy: this.phy.save(),
      interrupts: this.interrupts.save(),
      timer: this.timer.save(),
      transmit: this.transmitter.save(),
      receive: this.receiver.save(),
      counters: this.counters.save(),
      busMaster: this.busMaster,
    };
  }

  load(state: unknown): void {
    const from = readState('rtl8139', state);
    this.registers.bytes.set(from.bytes('registers', REGISTER_SPACE, true));
    this.registers.unlocked = from.boolean('unlocked');
    this.command = this.registers.get('CR');
    this.eeprom.load(from.part('eeprom'), 'rtl8139');
    this.phy.load(from.part('phy'));
    this.timer.load(from.part('timer'));
    this.transmitter.load(from.part('transmit'));
    this.receiver.load(from.part('receive'));
    this.counters.load(from.part('counters'));
    this.busMaster = from.boolean('busMaster');
    this.interrupts.load(from.part('interrupts'));
    this.receiver.retry();
  }

  /** Joins registers that act with the parts that own them. */
  private connect(): void {
    const { registers, interrupts, phy, timer, receiver } = this;
    registers.onRead('CR', () => (registers.get('CR') & ~COMMAND.bufferEmpty) | (receiver.empty ? COMMAND.bufferEmpty : 0));
    registers.onWrite('CR', (value) => this.writeCommand(value));
    registers.onRead('IMR', () => interrupts.readMask());
    registers.onWrite('IMR', (value, mask) => {
      interrupts.setMask((interrupts.readMask() & ~mask) | value);
      // The driver has worked off what it was told, and its C+ ring may have room again.
      receiver.retry();
    });
    registers.onRead('ISR', () => interrupts.readCauses());
    registers.onWrite('ISR', (value) => {
      interrupts.clearCauses(value);
      receiver.remind();
    });
    registers.onRead('TCR', () => (registers.get('TCR') | CHIPS[this.chip].version) >>> 0);
    registers.onRead('TCTR', () => timer.count);
    registers.onWrite('TCTR', () => timer.restart());
    registers.onWrite('TIMERINT', () => timer.setTarget(registers.get('TIMERINT')));
    registers.onRead('MPC', () => this.counters.missed);
    registers.onWrite('MPC', () => {
      this.counters.missed = 0;
    });
    registers.onRead('EECR', () => this.readEeprom());
    registers.onWrite('EECR', (value) => this.writeEeprom(value));
    registers.onRead('MSR', () => phy.readMedia());
    registers.onRead('RERID', () => this.revision);
    registers.onRead('BMCR', () => phy.readControl());
    registers.onWrite('BMCR', (value, mask) => {
      if (mask === WORD) phy.writeControl(value, registers.unlocked);
    });
    registers.onRead('BMSR', () => phy.readStatus());
    registers.onRead('ANAR', () => phy.readAdvertisement());
    registers.onWrite('ANAR', (value, mask) => {
      if (mask === WORD) phy.writeAdvertisement(value);
    });
    registers.onRead('ANLPAR', () => phy.readPartner());
    registers.onRead('ANER', () => phy.readExpansion());
    registers.onRead('CSCR', () => phy.readMedium());
  }

  private connectRings(): void {
    const { registers, transmitter, receiver } = this;
    for (const name of ['TSD0', 'TSD1', 'TSD2', 'TSD3'] as const) {
      registers.onWrite(name, (value, mask) => {
        // Only double word access is defined (6, TSD).
        if (mask === DOUBLE_WORD) this.writeStatus(name, value);
      });
    }
    registers.onRead('TSAD', () => transmitter.legacySummary());
    for (const name of ['TSAD0', 'TSAD1'] as const) registers.onWrite(name, () => transmitter.moved('normal'));
    for (const name of ['TSAD2', 'TSAD3'] as const) registers.onWrite(name, () => transmitter.moved('high'));
    for (const name of ['RDSAR0', 'RDSAR4'] as const) registers.onWrite(name, () => receiver.restart());
    registers.onWrite('CAPR', () => receiver.retry());
    registers.onRead('TPPOLL', () => transmitter.polling);
    registers.onWrite('TPPOLL', (value) => {
      if ((value & POLL.software) !== 0) this.interrupts.raise(CAUSE.software);
      if ((registers.get('CPCR') & PLUS.transmit) !== 0) transmitter.poll(value);
    });
    registers.onWrite('CPCR', () => {
      if (this.chip === 'c') registers.set('CPCR', 0);
      receiver.retry();
    });
  }

  /** Turning a unit on starts its rings anew; the reset command clears itself at once. */
  private writeCommand(value: number): void {
    if ((value & COMMAND.reset) !== 0) {
      this.softReset();
      return;
    }
    const { registers, receiver, transmitter } = this;
    const rising = value & ~this.command;
    this.command = registers.get('CR');
    if ((rising & COMMAND.receive) !== 0) receiver.restart();
    else receiver.retry();
    if ((rising & COMMAND.transmit) !== 0) {
      transmitter.restart();
      transmitter.run();
    }
  }

  /** C mode: a descriptor to send, or to take back. C+ mode: the first two hold the dump tally counter command. */
  private writeStatus(name: 'TSD0' | 'TSD1' | 'TSD2' | 'TSD3', value: number): void {
    const { registers } = this;
    if ((registers.get('CPCR') & (PLUS.transmit | PLUS.receive)) === 0) {
      // Status bits are the chip's: a write clears them.
      registers.set(name, value & TRANSMIT_STATUS_WRITABLE);
      this.transmitter.run();
      return;
    }
    registers.set(name, name === 'TSD0' ? value & (DUMP_ADDRESS | DUMP) : value);
    if (name !== 'TSD0' || (value & DUMP) === 0 || !this.busMaster) return;
    registers.set(name, value & DUMP_ADDRESS);
    this.ports.dma.write(registers.address('TSD0'), this.counters.dump());
  }

  private readEeprom(): number {
    const stored = this.registers.get('EECR');
    return (stored & EEPROM.mode) === EEPROM.program ? stored | this.eeprom.output : stored;
  }

  /** The pins follow the register in programming mode only (6, 9346CR). */
  private writeEeprom(value: number): void {
    const mode = value & EEPROM.mode;
    this.registers.unlocked = mode === EEPROM.unlock;
    const programming = mode === EEPROM.program;
    this.eeprom.drive(programming && (value & EEPROM.select) !== 0, (value & EEPROM.clock) !== 0, (value & EEPROM.dataIn) !== 0);
    if (mode === EEPROM.autoLoad) this.loadEeprom();
    this.registers.set('EECR', mode === EEPROM.autoLoad ? 0 : value & EEPROM_WRITABLE);
  }

  private loadEeprom(): void {
    for (let i = 0; i < 3; i++) {
      const word = this.eeprom.words[ADDRESS_WORD + i];
      this.registers.bytes[OFFSET.IDR0 + 2 * i] = word & 0xff;
      this.registers.bytes[OFFSET.IDR0 + 2 * i + 1] = word >>> 8;
    }
  }

  private powerUp(): void {
    this.registers.reset(true);
    this.counters.reset();
    this.phy.reset();
    this.eeprom.reset();
    this.loadEeprom();
    this.resetUnits();
  }

  /** CR.RST: all but station address, multicast hash, configuration, transceiver and counters. */
  private softReset(): void {
    this.registers.reset(false);
    this.resetUnits();
  }

  private resetUnits(): void {
    this.command = 0;
    this.interrupts.reset();
    this.timer.reset();
    this.transmitter.reset();
    this.receiver.reset();
  }

  private linkChanged(): void {
    this.interrupts.raise(CAUSE.linkChange);
    this.receiver.retry();
  }

  private get looping(): boolean {
    return (this.registers.get('TCR') & TRANSMIT_CONFIG.loopback) === TRANSMIT_CONFIG.loopback;
  }

  private output(frame: Uint8Array): void {
    if (this.looping) {
      // What finds no room is lost, as it would be on a wire.
      if (!this.receiver.receive(frame)) this.counters.miss();
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
}
