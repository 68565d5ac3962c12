/**
 * The Intel 8254 interval timer of a PC and port 0x61 beside it: counter 0 drives IRQ 0, counter 1 is the refresh timer that nobody
 * uses any more, counter 2 drives the speaker and is gated by port 0x61 (IBM PC AT Technical Reference, "System timers", "Speaker").
 */
import type { Clock, IrqLine, RegisterBlock, Stateful, Timer } from '../../ports.ts';
import { readState } from '../../state.ts';
import { Counter } from './counter.ts';

export interface PitPorts {
  irq: IrqLine;
  clock: Clock;
}

/** Shortest time between two interrupts that we serve, ns: a guest that programs less would only interrupt itself to death. */
const LEAST_PERIOD = 20_000;
/** Half period of the refresh-request bit in port 0x61, ns. */
const REFRESH = 15_085;

export class Pit8254 implements RegisterBlock, Stateful {
  private readonly counters: readonly Counter[];
  private readonly timer: Timer;
  private edgesSeen = 0;
  private speaker = 0;

  constructor(private readonly ports: PitPorts) {
    const now = () => ports.clock.now();
    this.counters = [new Counter(now, true), new Counter(now, true), new Counter(now, false)];
    this.timer = ports.clock.timer(() => this.due());
  }

  reset(): void {
    for (const [i, counter] of this.counters.entries()) counter.reset(i !== 2);
    this.speaker = 0;
    this.restart();
  }

  read(offset: number): number {
    return offset === 3 ? 0xff : this.counters[offset].read(); // the control word register cannot be read
  }

  write(offset: number, _size: number, value: number): void {
    if (offset !== 3) {
      this.counters[offset].write(value);
      if (offset === 0) this.restart();
      return;
    }
    const select = value >> 6;
    if (select === 3) {
      this.readBack(value);
    } else if ((value & 0x30) === 0) {
      this.counters[select].latchCount();
    } else {
      this.counters[select].control(value);
      if (select === 0) this.restart();
    }
  }

  /** Read-back command: bits 5 and 4 are active low (data sheet, figure 10). */
  private readBack(value: number): void {
    for (const [i, counter] of this.counters.entries()) {
      if (!(value & (2 << i))) continue;
      if (!(value & 0x20)) counter.latchCount();
      if (!(value & 0x10)) counter.latchStatus();
    }
  }

  /** Port 0x61, system control port B. */
  readonly speakerPort: RegisterBlock = {
    read: () => {
      const refresh = Math.floor(this.ports.clock.now() / REFRESH) & 1;
      return this.speaker | (refresh << 4) | (this.counters[2].output() ? 0x20 : 0);
    },
    write: (_offset, _size, value) => {
      this.speaker = value & 0x0f;
      this.counters[2].setGate((value & 1) !== 0);
    },
  };

  private restart(): void {
    this.edgesSeen = 0;
    this.ports.irq.set(this.counters[0].output());
    this.schedule();
  }

  private schedule(): void {
    const least = this.edgesSeen === 0 ? 1 : LEAST_PERIOD;
    this.timer.arm(Math.max(this.counters[0].nextEdge(), this.ports.clock.now() + least));
  }

  /** A rising edge passed, or several if the host was late; one interrupt tells of them all. */
  private due(): void {
    const edges = this.counters[0].edges();
    if (edges > this.edgesSeen) {
      this.edgesSeen = edges;
      this.ports.irq.set(false);
      this.ports.irq.set(true);
    }
    this.schedule();
  }

  save(): unknown {
    return { counters: this.counters.map((counter) => counter.save()), edgesSeen: this.edgesSeen, speaker: this.speaker };
  }

  load(state: unknown): void {
    const from = readState('pit8254', state);
    const counters = from.part('counters');
    if (!Array.isArray(counters) || counters.length !== 3) throw new Error('pit8254: counters do not fit, expected three');
    for (const [i, counter] of this.counters.entries()) counter.restore(counters[i]);
    this.edgesSeen = from.number('edgesSeen', 0, Number.MAX_SAFE_INTEGER);
    this.speaker = from.number('speaker', 0, 0x0f);
    this.ports.irq.set(this.counters[0].output());
    this.schedule();
  }
}
