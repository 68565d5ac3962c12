/**
 * One virtual CPU: its registers, its local APIC, what state it is in, and what is done about each of its exits. It is what a core's thread
 * touches at every step; everything behind `Board.io` and `Board.mmio` belongs to the machine.
 */
import { unreachable } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type Cpu, type CpuThread, type Engine, type Exit, PAGE_SIZE, PERMISSION, REG, SEG } from '../engine/contract.ts';
import type { Board } from '../machine/board.ts';
import type { Lapic } from '../machine/devices/lapic/lapic.ts';
import { GATE_PORT } from '../policy/manifest.ts';
import type { CpuReport, Outcome } from './config.ts';
import type { Guard } from './guard.ts';
import type { Movable } from './threaded-scheduler.ts';

/** waiting: for a start-up message, after power-up or INIT (Intel SDM vol. 3, 9.4). halted: by HLT. monitoring: by MWAIT, until its line is stored to. */
export type VcpuState = 'waiting' | 'running' | 'halted' | 'monitoring';

/** What a virtual CPU needs of its machine. */
export interface VcpuPorts {
  engine: Pick<Engine, 'clock' | 'memory' | 'untrusted' | 'protection'>;
  board: Pick<Board, 'lapic' | 'io' | 'mmio' | 'interruptFor' | 'acknowledgeInterrupt'>;
  guard: Pick<Guard, 'handle' | 'reset' | 'portRefused' | 'windowRefused' | 'msrAccess' | 'mwaitRefused'>;
  log: Log;
  /** The machine ends. */
  end(outcome: Outcome): void;
}

const INTERRUPT_FLAG = 0x200;
/** MWAIT extensions (Intel SDM vol. 2, MWAIT): ECX bit 0. */
const BREAK_ON_INTERRUPT = 1;
/** MSRs that the guest tried in vain and that were logged. */
const UNKNOWN_MSRS = 256;

export class Vcpu implements Movable {
  state: VcpuState;
  private readonly lapic: Lapic;
  /** Something may have arrived since this CPU last looked. */
  private attention = false;
  /** Exits answered so far, the ends of turns aside. */
  exits = 0;
  private halts = 0;
  private waits = 0;
  private refusedWaits = 0;
  /** MWAIT ends for interrupts that RFLAGS.IF masks. */
  private breaksOnMasked = false;
  private crossings = 0;
  private readonly unknownMsrs = new Set<number>();
  private readonly msrWords = new Uint32Array(2);

  /** CPU 0 is the bootstrap processor and runs at once; the others wait to be started. */
  constructor(
    readonly cpu: Cpu,
    private readonly ports: VcpuPorts,
  ) {
    this.lapic = ports.board.lapic(cpu.index);
    this.state = cpu.index === 0 ? 'running' : 'waiting';
  }

  /** Its local APIC has something, perhaps. */
  notify(): void {
    this.attention = true;
  }

  get runnable(): boolean {
    return this.attention || this.state === 'running' || (this.state === 'monitoring' && !this.cpu.monitoring);
  }

  /** True while no interrupt wakes it: only an NMI or another CPU's INIT or start-up message can. */
  get stuck(): boolean {
    if (this.runnable) return false;
    if (this.state === 'monitoring') return false; // a device may store
    return this.state === 'waiting' || (this.cpu.registers.halves[2 * REG.rflags] & INTERRUPT_FLAG) === 0;
  }

  run(until: number, yields: boolean): boolean {
    return this.prepare() && this.dispatch(this.cpu.run(until, yields), until, yields);
  }

  get noticed(): boolean {
    return this.attention;
  }

  get mayLeave(): boolean {
    return this.cpu.view === this.ports.engine.untrusted;
  }

  prepare(): boolean {
    this.attention = false;
    if (this.lapic.eventPending) this.takeEvents();
    if (this.state === 'monitoring' && !this.cpu.monitoring) this.state = 'running';
    if (this.state !== 'waiting') this.offerInterrupt();
    return this.state === 'running';
  }

  leave(thread: CpuThread, until: number, yields: boolean): void {
    thread.start(this.cpu, until, yields);
  }

  answer(exit: Exit, until: number): void {
    // Others have run since: whether this fetch is still refused, the next run tells.
    if (exit.kind !== 'fetch') this.dispatch(exit, until, true);
  }

  report(): Omit<CpuReport, 'core' | 'handovers'> {
    const { cpu, halts, waits, refusedWaits, crossings } = this;
    return { cpu: cpu.index, instructions: cpu.instructions, halts, waits, refusedWaits, crossings };
  }

  /** Ends a wait by MWAIT, as it may end at any time. */
  wake(): void {
    if (this.state === 'monitoring') this.state = 'running';
  }

  /** Hands the CPU an interrupt that its local APIC, or the 8259s, have for it. One that halted with interrupts off sleeps on. */
  private offerInterrupt(): void {
    const {
      cpu,
      ports: { board },
    } = this;
    if (board.interruptFor(cpu.index) < 0) return;
    if (!cpu.canInterrupt) {
      cpu.requestInterruptWindow();
      if (this.breaksOnMasked) this.wake();
      return;
    }
    const vector = board.acknowledgeInterrupt(cpu.index);
    if (vector < 0) return;
    cpu.inject(vector);
    this.state = 'running';
  }

  private takeEvents(): void {
    for (let event = this.lapic.takeEvent(); event !== undefined; event = this.lapic.takeEvent()) {
      switch (event.kind) {
        case 'nmi':
          this.nmi();
          break;
        case 'init':
          this.init();
          break;
        case 'startup':
          this.startUp(event.vector);
          break;
        default:
          unreachable(event);
      }
    }
  }

  private nmi(): void {
    if (this.state === 'waiting') return;
    this.cpu.nmi();
    this.state = 'running';
  }

  /** The bootstrap processor would run the firmware again, which starts the machine over; the others wait (SDM vol. 3, 9.4.3). */
  private init(): void {
    if (this.cpu.index === 0) this.ports.end({ kind: 'reset' });
    else {
      this.ports.guard.reset(this.cpu);
      this.cpu.reset('init');
      this.state = 'waiting';
    }
  }

  /** Starts in real-address mode at page `vector`. A CPU that does not wait ignores it (SDM vol. 3, 9.4.4.1). */
  private startUp(vector: number): void {
    if (this.state !== 'waiting') return;
    const system = this.cpu.readSystem();
    const code = system.segments[SEG.cs];
    system.segments[SEG.cs] = { ...code, selector: vector << 8, base: BigInt(vector << 12) };
    this.cpu.writeSystem(system);
    this.cpu.registers.words[REG.rip] = 0n;
    this.state = 'running';
  }

  private halt(): void {
    this.state = 'halted';
    this.halts += 1;
    this.attention = true; // what came before it halted wakes it at once
  }

  private mwait({ extensions, refused }: Extract<Exit, { kind: 'mwait' }>): void {
    if (refused) {
      this.refusedWaits += 1;
      this.ports.guard.mwaitRefused(this.cpu);
      return;
    }
    this.state = 'monitoring';
    this.waits += 1;
    this.breaksOnMasked = (extensions & BREAK_ON_INTERRUPT) !== 0;
    this.attention = true;
  }

  /** Answers an exit. True if the CPU gave up its turn: in a busy wait, or to another that it woke by a store. */
  private dispatch(first: Exit, until: number, yields: boolean): boolean {
    const {
      cpu,
      ports: { board, guard, engine, end },
    } = this;
    let exit = first;
    // Border crossings come in thousands: stay in this loop while there are no others. The turn is not renewed, or a guest that does
    // nothing else would never let the outside in.
    while (exit.kind === 'io' || exit.kind === 'fetch' || exit.kind === 'event' || exit.kind === 'shadow-stack') {
      if (exit.kind === 'io' && exit.port !== GATE_PORT) break;
      const verdict = guard.handle(cpu, exit);
      if (verdict !== 'handled') {
        this.unhandled(exit, verdict);
        return false;
      }
      this.crossings += 1;
      this.exits += 1;
      if (exit.kind === 'event') return false; // an interrupt may wait
      exit = cpu.run(until, yields);
    }
    if (exit.kind !== 'budget') this.exits += 1;
    switch (exit.kind) {
      case 'io':
        if (!exit.write) cpu.completeRead(guard.portRefused(cpu, exit) ? onesOf(exit.size) : board.io(exit.port, exit.size, false, 0));
        else if (!guard.portRefused(cpu, exit)) board.io(exit.port, exit.size, true, exit.value);
        return false;
      case 'mmio':
        this.memoryAccess(exit);
        return false;
      case 'msr':
        this.msrAccess(exit.write, exit.index);
        return false;
      case 'halt': {
        const verdict = guard.handle(cpu, exit);
        if (typeof verdict === 'object') this.unhandled(exit, verdict);
        else this.halt();
        return false;
      }
      case 'mwait':
        this.mwait(exit);
        return false;
      case 'shutdown':
        end({ kind: 'crash' });
        return false;
      case 'debug':
        end({ kind: 'failed', reason: exit.reason });
        return false;
      case 'window':
        return false;
      case 'budget':
        return engine.clock.now() < until;
      default:
        return unreachable(exit);
    }
  }

  private unhandled(exit: Exit, verdict: 'not-mine' | { stop: string } | { failed: string }): void {
    // A stray access to the gate port by someone who has no guarded module is an ordinary port access.
    if (verdict !== 'not-mine') {
      this.ports.end('failed' in verdict ? { kind: 'failed', reason: verdict.failed } : { kind: 'violation', reason: verdict.stop });
    } else if (exit.kind !== 'io') {
      this.ports.end({ kind: 'failed', reason: `the engine reported ${exit.kind}, which belongs to no guarded module` });
    } else if (!exit.write) this.cpu.completeRead(onesOf(exit.size));
  }

  private memoryAccess(exit: Extract<Exit, { kind: 'mmio' }>): void {
    const {
      cpu,
      lapic,
      ports: { board, guard, engine },
    } = this;
    const { gpa, size, write, value } = exit;
    if (exit.refused) {
      guard.windowRefused(cpu, exit);
      if (!write) cpu.completeRead(onesOf(size));
    } else if (write && gpa < engine.memory.size && this.isWritable(gpa)) {
      // The page was not when another thread ran into it.
      for (let byte = 0; byte < size; byte++) engine.memory.bytes[gpa + byte] = value >>> (8 * byte);
      engine.memory.written(gpa, size);
    } else if (gpa < engine.memory.size) {
      const verdict = guard.handle(cpu, exit);
      if (verdict !== 'handled') this.unhandled(exit, verdict);
    } else if (gpa - lapic.page >= 0 && gpa - lapic.page < 4096) {
      const offset = gpa - lapic.page;
      if (write) lapic.writeRegister(offset, value);
      else cpu.completeRead(lapic.readRegister(offset));
    } else if (write) board.mmio(gpa, size, true, value);
    else cpu.completeRead(board.mmio(gpa, size, false, 0));
  }

  private isWritable(gpa: number): boolean {
    return (this.ports.engine.protection(gpa - (gpa % PAGE_SIZE)) & PERMISSION.write) !== 0;
  }

  private msrAccess(write: boolean, index: number): void {
    const { cpu, lapic, msrWords } = this;
    const { halves } = cpu.registers;
    let known: boolean;
    if (write) known = lapic.writeMsr(index, halves[2 * REG.rax], halves[2 * REG.rdx]);
    else {
      known = lapic.readMsr(index, msrWords);
      if (known) {
        cpu.registers.words[REG.rax] = BigInt(msrWords[0]);
        cpu.registers.words[REG.rdx] = BigInt(msrWords[1]);
      }
    }
    if (!known) known = this.ports.guard.msrAccess(cpu, write, index);
    if (!known && !this.unknownMsrs.has(index) && this.unknownMsrs.size < UNKNOWN_MSRS) {
      this.unknownMsrs.add(index);
      this.ports.log.debug(`unknown MSR 0x${index.toString(16)} ${write ? 'written' : 'read'}: #GP`, { cpu: cpu.index });
    }
    cpu.completeMsr(known);
  }
}

function onesOf(size: 1 | 2 | 4): number {
  return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
}
