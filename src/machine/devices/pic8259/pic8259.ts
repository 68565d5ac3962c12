/**
 * The pair of Intel 8259A interrupt controllers of a PC (data sheet 231468-003; page 10 ff. for the command words), the slave on the
 * master's input 2, with the edge/level registers at ports 0x4d0 and 0x4d1 (Intel 82371 data sheet, 4.4).
 */
import type { RegisterBlock, Stateful } from '../../ports.ts';
import { readState } from '../../state.ts';

const CASCADE = 2;
/** Inputs of each chip that may be level-triggered: not IRQ 0, 1, 2, 8 and 13 (82371, 4.4.1 and 4.4.2). */
const LEVEL_ALLOWED = [0xf8, 0xde] as const;

/** One 8259A. `vector` and `acknowledge` are what happens on the bus at INTA. */
class Chip {
  private request = 0;
  private inService = 0;
  private mask = 0;
  private lines = 0;
  levels = 0;
  private base = 0;
  private lowest = 7;
  private step: 'ready' | 'icw2' | 'icw3' | 'icw4' = 'ready';
  private needsIcw4 = false;
  private single = false;
  private autoEnd = false;
  private rotateAutoEnd = false;
  private fullyNested = false;
  private specialMask = false;
  private readInService = false;
  private poll = false;

  /** `cascaded`: inputs that have a chip of their own behind them. */
  constructor(
    private readonly cascaded: number,
    private readonly changed: () => void,
  ) {}

  reset(): void {
    this.initialise();
    this.step = 'ready';
    this.levels = 0;
    this.base = 0;
    this.needsIcw4 = false;
    this.single = false;
    this.autoEnd = false;
    this.fullyNested = false;
    // Before ICW1 a chip's state is undefined: ours interrupts nobody.
    this.mask = 0xff;
  }

  private initialise(): void {
    this.request = this.lines & this.levels;
    this.inService = 0;
    this.mask = 0;
    this.lowest = 7;
    this.specialMask = false;
    this.readInService = false;
    this.poll = false;
    this.rotateAutoEnd = false;
  }

  set(input: number, asserted: boolean): void {
    const bit = 1 << input;
    const rising = asserted && !(this.lines & bit);
    this.lines = asserted ? this.lines | bit : this.lines & ~bit;
    if (rising) this.request |= bit;
    // The request must hold until INTA in both modes: a line that falls before is a spurious interrupt (data sheet, page 15).
    else if (!asserted) this.request &= ~bit;
    this.changed();
  }

  /** Distance from the highest priority, 0..7, of the most urgent bit; 8 if there is none. */
  private urgency(bits: number): number {
    for (let rank = 0; rank < 8; rank++) if (bits & (1 << ((this.lowest + 1 + rank) & 7))) return rank;
    return 8;
  }

  /** The input that would be served now, or -1. */
  pending(): number {
    const rank = this.urgency(this.request & ~this.mask);
    if (rank === 8) return -1;
    let blocking = this.inService;
    if (this.specialMask) blocking &= ~this.mask;
    const input = (this.lowest + 1 + rank) & 7;
    // In special fully nested mode a slave in service does not block itself (data sheet, page 16).
    if (this.fullyNested && this.cascaded & (1 << input)) blocking &= ~(1 << input);
    return rank < this.urgency(blocking) ? input : -1;
  }

  acknowledge(input: number): void {
    const bit = 1 << input;
    if (!(this.levels & bit)) this.request &= ~bit;
    if (!this.autoEnd) this.inService |= bit;
    else if (this.rotateAutoEnd) this.lowest = input;
  }

  vector(input: number): number {
    return this.base | input;
  }

  read(offset: number): number {
    if (this.poll) {
      this.poll = false;
      const input = this.pending();
      if (input < 0) return 0;
      this.acknowledge(input);
      this.changed();
      return 0x80 | input;
    }
    if (offset === 1) return this.mask;
    return this.readInService ? this.inService : this.request;
  }

  write(offset: number, value: number): void {
    if (offset === 0) {
      if (value & 0x10) this.writeIcw1(value);
      else if (value & 0x08) this.writeOcw3(value);
      else this.writeOcw2(value);
    } else {
      this.writeData(value);
    }
    this.changed();
  }

  private writeIcw1(value: number): void {
    this.initialise();
    this.needsIcw4 = (value & 1) !== 0;
    this.single = (value & 2) !== 0;
    if (!this.needsIcw4) {
      this.autoEnd = false;
      this.fullyNested = false;
    }
    this.step = 'icw2';
  }

  private writeData(value: number): void {
    switch (this.step) {
      case 'icw2':
        this.base = value & 0xf8;
        this.step = this.single ? (this.needsIcw4 ? 'icw4' : 'ready') : 'icw3';
        break;
      case 'icw3': // the wiring is fixed
        this.step = this.needsIcw4 ? 'icw4' : 'ready';
        break;
      case 'icw4':
        this.autoEnd = (value & 0x02) !== 0;
        this.fullyNested = (value & 0x10) !== 0;
        this.step = 'ready';
        break;
      case 'ready':
        this.mask = value;
        break;
    }
  }

  private writeOcw2(value: number): void {
    const level = value & 7;
    switch (value >> 5) {
      case 0: // rotate in automatic EOI mode, clear
        this.rotateAutoEnd = false;
        break;
      case 4:
        this.rotateAutoEnd = true;
        break;
      case 1:
      case 5: {
        // Non-specific EOI; in special mask mode it does not clear bits that the mask register masks (data sheet, page 13).
        const rank = this.urgency(this.specialMask ? this.inService & ~this.mask : this.inService);
        if (rank === 8) break;
        const input = (this.lowest + 1 + rank) & 7;
        this.inService &= ~(1 << input);
        if (value >> 5 === 5) this.lowest = input;
        break;
      }
      case 3:
      case 7:
        this.inService &= ~(1 << level);
        if (value >> 5 === 7) this.lowest = level;
        break;
      case 6:
        this.lowest = level;
        break;
      default: // 2: no operation
        break;
    }
  }

  private writeOcw3(value: number): void {
    if (value & 0x04) this.poll = true;
    if (value & 0x02) this.readInService = (value & 1) !== 0;
    if (value & 0x40) this.specialMask = (value & 0x20) !== 0;
  }

  save(): Record<string, unknown> {
    return {
      request: this.request,
      inService: this.inService,
      mask: this.mask,
      lines: this.lines,
      levels: this.levels,
      base: this.base,
      lowest: this.lowest,
      step: ['ready', 'icw2', 'icw3', 'icw4'].indexOf(this.step),
      needsIcw4: this.needsIcw4,
      single: this.single,
      autoEnd: this.autoEnd,
      rotateAutoEnd: this.rotateAutoEnd,
      fullyNested: this.fullyNested,
      specialMask: this.specialMask,
      readInService: this.readInService,
      poll: this.poll,
    };
  }

  load(state: unknown): void {
    const from = readState('pic8259', state);
    this.request = from.number('request', 0, 0xff);
    this.inService = from.number('inService', 0, 0xff);
    this.mask = from.number('mask', 0, 0xff);
    this.lines = from.number('lines', 0, 0xff);
    this.levels = from.number('levels', 0, 0xff);
    this.base = from.number('base', 0, 0xff);
    this.lowest = from.number('lowest', 0, 7);
    this.step = (['ready', 'icw2', 'icw3', 'icw4'] as const)[from.number('step', 0, 3)];
    this.needsIcw4 = from.boolean('needsIcw4');
    this.single = from.boolean('single');
    this.autoEnd = from.boolean('autoEnd');
    this.rotateAutoEnd = from.boolean('rotateAutoEnd');
    this.fullyNested = from.boolean('fullyNested');
    this.specialMask = from.boolean('specialMask');
    this.readInService = from.boolean('readInService');
    this.poll = from.boolean('poll');
  }
}

export class Pic8259 implements Stateful {
  private readonly slave: Chip = new Chip(0, () => this.master.set(CASCADE, this.slave.pending() >= 0));
  private readonly master: Chip = new Chip(1 << CASCADE, () => this.update());
  private asserted = false;

  /** `output` is the INTR wire. */
  constructor(private readonly output: (asserted: boolean) => void) {
    this.reset();
  }

  readonly masterPorts: RegisterBlock = {
    read: (offset) => this.master.read(offset),
    write: (offset, _size, value) => this.master.write(offset, value),
  };
  readonly slavePorts: RegisterBlock = {
    read: (offset) => this.slave.read(offset),
    write: (offset, _size, value) => this.slave.write(offset, value),
  };
  /** ELCR: a set bit makes an input level-triggered. */
  readonly triggerPorts: RegisterBlock = {
    read: (offset) => this.chip(offset).levels,
    write: (offset, _size, value) => {
      this.chip(offset).levels = value & LEVEL_ALLOWED[offset];
    },
  };

  private chip(index: number): Chip {
    return index === 0 ? this.master : this.slave;
  }

  /** ISA interrupt 0..15, but 2. */
  setLine(irq: number, asserted: boolean): void {
    this.chip(irq >> 3).set(irq & 7, asserted);
  }

  reset(): void {
    this.slave.reset();
    this.master.reset();
    this.update();
  }

  /** True while INTR is asserted. */
  get requested(): boolean {
    return this.asserted;
  }

  /** The interrupt acknowledge cycle: the vector, and the request is in service. A request that went away gives input 7 (spurious). */
  acknowledge(): number {
    const input = this.master.pending();
    if (input < 0) return this.master.vector(7);
    this.master.acknowledge(input);
    let vector = this.master.vector(input);
    if (input === CASCADE) {
      const behind = this.slave.pending();
      vector = this.slave.vector(behind < 0 ? 7 : behind);
      if (behind >= 0) this.slave.acknowledge(behind);
      this.master.set(CASCADE, false);
      this.master.set(CASCADE, this.slave.pending() >= 0);
    }
    this.update();
    return vector;
  }

  /** The vector that `acknowledge` would give. */
  peek(): number {
    const input = this.master.pending();
    if (input < 0) return this.master.vector(7);
    if (input !== CASCADE) return this.master.vector(input);
    const behind = this.slave.pending();
    return this.slave.vector(behind < 0 ? 7 : behind);
  }

  private update(): void {
    const asserted = this.master.pending() >= 0;
    if (asserted === this.asserted) return;
    this.asserted = asserted;
    this.output(asserted);
  }

  save(): unknown {
    return { master: this.master.save(), slave: this.slave.save() };
  }

  load(state: unknown): void {
    const from = readState('pic8259', state);
    this.master.load(from.part('master'));
    this.slave.load(from.part('slave'));
    this.update();
  }
}
