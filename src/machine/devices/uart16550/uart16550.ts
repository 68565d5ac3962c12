/**
 * National Semiconductor PC16550D serial port (register numbers and bits: data sheet section 8, "Registers").
 *
 * The far end is infinitely fast: a byte written to THR is gone at once, so LSR always says "transmitter empty". Only the *interrupt* that
 * says so again after a write comes a moment later: at once it would come inside the driver's interrupt handler, and a long output would
 * look like an interrupt storm to it.
 * Input waits in a bounded queue of the host's side and enters the receive FIFO as the guest empties it: nothing overruns.
 */
import type { Clock, IrqLine, RegisterBlock, Stateful, Timer } from '../../ports.ts';
import { readState, saveBytes } from '../../state.ts';

export interface UartPorts {
  irq: IrqLine;
  clock: Clock;
  output: { write(byte: number): void };
}

/** Bytes of input that wait for the guest at most. */
const QUEUE_LIMIT = 65536;
/** A nearly full queue takes no more: a queue of single bytes would be slow. */
const PIECE = 4096;
const FIFO_SIZE = 16;
/** From a write to the "transmitter empty" interrupt, ns. */
const TRANSMIT_DELAY = 10_000;

const IER = { receive: 1, transmit: 2, line: 4, modem: 8 } as const;
const IIR = { modem: 0x00, none: 0x01, transmit: 0x02, receive: 0x04, line: 0x06, timeout: 0x0c, fifos: 0xc0 } as const;
const FCR = { enable: 1, clearReceive: 2, clearTransmit: 4 } as const;
const FCR_TRIGGER = [1, 4, 8, 14] as const;
const LCR_DLAB = 0x80;
const MCR = { dtr: 1, rts: 2, out1: 4, out2: 8, loop: 0x10 } as const;
const LSR = { ready: 1, overrun: 2, errors: 0x1e, empty: 0x60 } as const;
const MSR = { cts: 0x10, dsr: 0x20, ri: 0x40, dcd: 0x80 } as const;

/** Modem lines of a connected terminal. */
const CONNECTED = MSR.cts | MSR.dsr | MSR.dcd;

export class Uart16550 implements RegisterBlock, Stateful {
  private interruptEnable = 0;
  private fifoControl = 0;
  private lineControl = 0;
  private modemControl = 0;
  private lineErrors = 0;
  private modemLines: number = CONNECTED;
  private modemDelta = 0;
  private scratch = 0;
  private divisor = 12;
  private transmitPending = false;
  private transmitArmed = false;
  private fifo: number[] = [];
  private queue: Uint8Array[] = [];
  private queueOffset = 0;
  private queued = 0;
  private readonly transmitTimer: Timer;

  constructor(private readonly ports: UartPorts) {
    this.transmitTimer = ports.clock.timer(() => this.transmitted());
  }

  /** The guest takes input by interrupt (OUT2 gates the line on a PC) and has its FIFO on, which a driver does last, emptying it. */
  get listening(): boolean {
    const interrupts = (this.interruptEnable & IER.receive) !== 0 && (this.modemControl & (MCR.out2 | MCR.loop)) === MCR.out2;
    return interrupts && (this.fifoControl & FCR.enable) !== 0;
  }

  /** Input from the far end. Gives the number of bytes taken; the rest found no room and is the caller's. */
  receive(bytes: Uint8Array): number {
    const room = QUEUE_LIMIT - this.queued;
    if (room < Math.min(bytes.length, PIECE)) return 0;
    const taken = Math.min(bytes.length, room);
    if (taken > 0) {
      this.queue.push(bytes.slice(0, taken));
      this.queued += taken;
      this.refill();
      this.update();
    }
    return taken;
  }

  reset(): void {
    this.interruptEnable = 0;
    this.fifoControl = 0;
    this.lineControl = 0;
    this.modemControl = 0;
    this.lineErrors = 0;
    this.modemLines = CONNECTED;
    this.modemDelta = 0;
    this.scratch = 0;
    this.divisor = 12;
    this.transmitPending = false;
    this.disarm();
    this.fifo = [];
    this.refill();
    this.update();
  }

  read(offset: number): number {
    switch (offset) {
      case 0:
        return this.lineControl & LCR_DLAB ? this.divisor & 0xff : this.readReceive();
      case 1:
        return this.lineControl & LCR_DLAB ? this.divisor >> 8 : this.interruptEnable;
      case 2:
        return this.readIdentification();
      case 3:
        return this.lineControl;
      case 4:
        return this.modemControl;
      case 5:
        return this.readLineStatus();
      case 6:
        return this.readModemStatus();
      default:
        return this.scratch;
    }
  }

  write(offset: number, _size: number, value: number): void {
    switch (offset) {
      case 0:
        if (this.lineControl & LCR_DLAB) this.divisor = (this.divisor & 0xff00) | value;
        else this.transmit(value);
        break;
      case 1:
        if (this.lineControl & LCR_DLAB) this.divisor = (this.divisor & 0xff) | (value << 8);
        else this.writeInterruptEnable(value & 0x0f);
        break;
      case 2:
        this.writeFifoControl(value);
        break;
      case 3:
        this.lineControl = value;
        break;
      case 4:
        this.writeModemControl(value & 0x1f);
        break;
      case 7:
        this.scratch = value;
        break;
      default: // LSR and MSR are read-only
        break;
    }
  }

  private get loop(): boolean {
    return (this.modemControl & MCR.loop) !== 0;
  }

  private get capacity(): number {
    return this.fifoControl & FCR.enable ? FIFO_SIZE : 1;
  }

  private get trigger(): number {
    return this.fifoControl & FCR.enable ? FCR_TRIGGER[this.fifoControl >> 6] : 1;
  }

  private readReceive(): number {
    const value = this.fifo.shift() ?? 0;
    this.refill();
    this.update();
    return value;
  }

  private readIdentification(): number {
    const cause = this.cause();
    if (cause === IIR.transmit) {
      this.transmitPending = false;
      this.update();
    }
    return cause | (this.fifoControl & FCR.enable ? IIR.fifos : 0);
  }

  private readLineStatus(): number {
    const status = (this.fifo.length > 0 ? LSR.ready : 0) | this.lineErrors | LSR.empty;
    this.lineErrors = 0;
    this.update();
    return status;
  }

  private readModemStatus(): number {
    const status = this.modemLines | this.modemDelta;
    this.modemDelta = 0;
    this.update();
    return status;
  }

  private transmit(value: number): void {
    this.transmitPending = false;
    if (this.loop) this.loopBack(value);
    else this.ports.output.write(value);
    if (this.interruptEnable & IER.transmit && !this.transmitArmed) {
      this.transmitArmed = true;
      this.transmitTimer.arm(this.ports.clock.now() + TRANSMIT_DELAY);
    }
    this.update();
  }

  private loopBack(value: number): void {
    if (this.fifo.length < this.capacity) this.fifo.push(value);
    else this.lineErrors |= LSR.overrun;
  }

  private transmitted(): void {
    this.transmitArmed = false;
    this.transmitPending = true;
    this.update();
  }

  private disarm(): void {
    this.transmitArmed = false;
    this.transmitTimer.arm(Number.POSITIVE_INFINITY);
  }

  private writeInterruptEnable(value: number): void {
    // Enabling the interrupt while the transmitter is empty raises it (data sheet, 8.6.1 note); it is always empty here.
    if (value & ~this.interruptEnable & IER.transmit) {
      this.transmitPending = true;
      this.disarm();
    }
    this.interruptEnable = value;
    this.update();
  }

  private writeFifoControl(value: number): void {
    const switched = (value ^ this.fifoControl) & FCR.enable;
    if (switched || (value & FCR.enable && value & FCR.clearReceive)) this.fifo = [];
    // The other bits are ignored unless bit 0 is set with them.
    this.fifoControl = value & FCR.enable ? value & 0xc9 : 0;
    this.refill();
    this.update();
  }

  private writeModemControl(value: number): void {
    this.modemControl = value;
    // In loop mode the outputs DTR, RTS, OUT1, OUT2 feed the inputs DSR, CTS, RI, DCD.
    const looped =
      (value & MCR.dtr ? MSR.dsr : 0) |
      (value & MCR.rts ? MSR.cts : 0) |
      (value & MCR.out1 ? MSR.ri : 0) |
      (value & MCR.out2 ? MSR.dcd : 0);
    const lines = this.loop ? looped : CONNECTED;
    const changed = lines ^ this.modemLines;
    // The ring indicator's delta bit is set by its trailing edge only.
    this.modemDelta |= ((changed & ~MSR.ri) | (changed & this.modemLines & MSR.ri)) >> 4;
    this.modemLines = lines;
    this.refill();
    this.update();
  }

  /** Moves input from the queue to the FIFO. In loop mode the receiver is cut off from the line. */
  private refill(): void {
    if (this.loop) return;
    while (this.queued > 0 && this.fifo.length < this.capacity) {
      const head = this.queue[0];
      this.fifo.push(head[this.queueOffset++]);
      this.queued--;
      if (this.queueOffset === head.length) {
        this.queue.shift();
        this.queueOffset = 0;
      }
    }
  }

  /** The waiting interrupt of highest priority (data sheet, table IV). */
  private cause(): number {
    const enabled = this.interruptEnable;
    if (enabled & IER.line && this.lineErrors & LSR.errors) return IIR.line;
    // Below the trigger level the time-out follows four idle characters later: at once, on an infinitely fast line.
    if (enabled & IER.receive && this.fifo.length > 0) return this.fifo.length >= this.trigger ? IIR.receive : IIR.timeout;
    if (enabled & IER.transmit && this.transmitPending) return IIR.transmit;
    if (enabled & IER.modem && this.modemDelta) return IIR.modem;
    return IIR.none;
  }

  /** On a PC, OUT2 gates the interrupt; loop mode cuts it from the pin, but not from IIR. */
  private update(): void {
    this.ports.irq.set(this.cause() !== IIR.none && (this.modemControl & MCR.out2) !== 0 && !this.loop);
  }

  save(): unknown {
    const waiting = new Uint8Array(this.queued);
    let at = 0;
    for (const [i, part] of this.queue.entries()) {
      const rest = i === 0 ? part.subarray(this.queueOffset) : part;
      waiting.set(rest, at);
      at += rest.length;
    }
    return {
      interruptEnable: this.interruptEnable,
      fifoControl: this.fifoControl,
      lineControl: this.lineControl,
      modemControl: this.modemControl,
      lineErrors: this.lineErrors,
      modemLines: this.modemLines,
      modemDelta: this.modemDelta,
      scratch: this.scratch,
      divisor: this.divisor,
      transmitPending: this.transmitPending,
      transmitArmed: this.transmitArmed,
      fifo: saveBytes(Uint8Array.from(this.fifo)),
      waiting: saveBytes(waiting),
    };
  }

  load(state: unknown): void {
    const from = readState('uart16550', state);
    this.interruptEnable = from.number('interruptEnable', 0, 0x0f);
    this.fifoControl = from.number('fifoControl', 0, 0xff);
    this.lineControl = from.number('lineControl', 0, 0xff);
    this.modemControl = from.number('modemControl', 0, 0x1f);
    this.lineErrors = from.number('lineErrors', 0, 0xff);
    this.modemLines = from.number('modemLines', 0, 0xff);
    this.modemDelta = from.number('modemDelta', 0, 0x0f);
    this.scratch = from.number('scratch', 0, 0xff);
    this.divisor = from.number('divisor', 0, 0xffff);
    this.transmitPending = from.boolean('transmitPending');
    const armed = from.boolean('transmitArmed');
    this.fifo = [...from.bytes('fifo', FIFO_SIZE)];
    const waiting = from.bytes('waiting', QUEUE_LIMIT);
    this.queue = waiting.length > 0 ? [waiting] : [];
    this.queueOffset = 0;
    this.queued = waiting.length;
    this.disarm();
    if (armed) {
      this.transmitArmed = true;
      this.transmitTimer.arm(this.ports.clock.now() + TRANSMIT_DELAY);
    }
    this.update();
  }
}
