/**
 * One virtual machine: engine, board and monitor joined by the run loop. Everything here runs in one thread, since there is one virtual CPU;
 * the console, sockets and the API are the main thread's.
 */
import { createLog, type LogRecord } from '../base/log.ts';
import { type Cpu, type Engine, type Exit, REG } from '../engine/contract.ts';
import { unreachable } from '../base/errors.ts';
import { createSoftEngine } from '../engine/soft/engine.ts';
import { type Board, createBoard } from '../machine/board.ts';
import { boot } from '../machine/boot/index.ts';
import type { Lapic } from '../machine/devices/lapic/lapic.ts';
import { GATE_PORT } from '../policy/manifest.ts';
import { type Cards, createCards } from './cards.ts';
import type { Outcome, VmConfig, VmEvent, VmReport } from './config.ts';
import { createGuard, type Guard } from './guard.ts';

/** What a machine needs of its thread. */
export interface VmPorts {
  /** One piece of serial output. */
  console(bytes: Uint8Array): void;
  event(event: VmEvent): void;
  log(record: LogRecord): void;
  /** Takes input and commands; called between slices of execution, so it must be quick when there is nothing. */
  poll(): void;
  /** The guest is idle: sleep, at most this long, or until there is input. */
  sleep(milliseconds: number): void;
  /** So many bytes of console input were taken by the guest, or dropped. */
  inputTaken(bytes: number): void;
}

/** Longest stretch of execution without a look at the outside, ns. */
const SLICE = 1_000_000;
/** Longest sleep of an idle machine, ms. */
const LONGEST_SLEEP = 1000;
const INPUT_LIMIT = 1 << 17;

export class Vm {
  private outcome: Outcome | undefined;
  private halted = false;
  private input_: Uint8Array[] = [];
  private inputSize = 0;
  private inputDropped = false;
  private readonly unknownMsrs = new Set<number>();
  private readonly msrWords = new Uint32Array(2);
  private readonly cpu: Cpu;
  private readonly lapic: Lapic;
  private readonly log;

  private constructor(
    private readonly config: VmConfig,
    private readonly ports: VmPorts,
    private readonly engine: Engine,
    private readonly board: Board,
    private readonly cards: Cards,
    private readonly guard: Guard,
  ) {
    this.cpu = engine.cpus[0];
    this.lapic = board.lapic(0);
    this.log = createLog('vm', ports.log, config.log);
  }

  /** Builds the machine and loads the kernel. Throws UserError for configuration that cannot work. */
  static async create(config: VmConfig, links: readonly (SharedArrayBuffer | undefined)[], ports: VmPorts): Promise<Vm> {
    const engine = createSoftEngine({ memorySize: config.memory, cpus: 1, clock: config.clock });
    let vm: Vm | undefined;
    const board = createBoard({
      memory: engine.memory,
      now: () => engine.clock.now(),
      cpus: engine.cpus.length,
      tscFrequency: engine.tscFrequency,
      serial: { write: (bytes) => ports.console(bytes) },
      wallClock: () => config.wallClock,
      log: createLog('machine', ports.log, config.log),
      debugExit: config.debugExitPort,
      onPower(kind, code) {
        // The device gives QEMU's status, (value << 1) | 1; an outcome has the value itself, so that 0 can mean success.
        vm?.end(kind === 'debug-exit' ? { kind, code: (code ?? 1) >>> 1 } : { kind });
      },
      onInterrupt() {
        if (vm) vm.halted = false;
      },
    });
    const cards = await createCards(config, board, links, createLog('net', ports.log, config.log));
    const guard = createGuard(config, engine, board, ports);
    vm = new Vm(config, ports, engine, board, cards, guard);
    const acpi = board.acpiTables();
    engine.memory.bytes.set(acpi.bytes, acpi.address);
    boot(engine.cpus[0], engine.memory, {
      elf: config.kernel.elf,
      setupHeader: config.kernel.setupHeader,
      name: config.kernel.name,
      initramfs: config.initramfs,
      commandLine: config.commandLine,
      memoryMap: board.memoryMap(),
      rsdp: acpi.address,
    }, config.boot);
    return vm;
  }

  /** Console input. Bytes beyond 128 KiB that the guest does not take are dropped. */
  input(bytes: Uint8Array): void {
    if (this.inputSize + bytes.length > INPUT_LIMIT) {
      this.ports.inputTaken(bytes.length);
      if (!this.inputDropped) this.log.warn('console input dropped: the guest does not read it', { bytes: bytes.length });
      this.inputDropped = true;
      return;
    }
    this.input_.push(bytes);
    this.inputSize += bytes.length;
  }

  stop(): void {
    this.end({ kind: 'stopped' });
  }

  /** Takes frames that arrived from the main thread. */
  pollLinks(): void {
    this.cards.poll();
  }

  private end(outcome: Outcome): void {
    this.outcome ??= outcome;
  }

  /** Runs the guest to its end. */
  run(): Outcome {
    const { engine, cpu, board } = this;
    this.ports.event({ event: 'vm.started', time: engine.clock.now(), name: this.config.name, engine: engine.name, memory: engine.memory.size });
    while (this.outcome === undefined) {
      this.ports.poll();
      if (this.inputSize > 0) this.feedConsole();
      board.runDue();
      this.offerInterrupts();
      if (this.outcome !== undefined) break;
      if (this.halted) {
        this.idle();
        continue;
      }
      const until = Math.min(board.nextDeadline(), engine.clock.now() + SLICE);
      this.dispatch(cpu.run(until), until);
    }
    board.flushSerial();
    this.guard.end();
    this.cards.close();
    this.ports.event({ event: 'vm.ended', time: engine.clock.now(), outcome: this.outcome });
    return this.outcome;
  }

  private feedConsole(): void {
    // Linux empties the port several times while it starts: what is typed ahead waits until it listens.
    if (this.config.kernel.setupHeader !== undefined && !this.board.serialListening()) return;
    while (this.input_.length > 0) {
      const first = this.input_[0];
      const taken = this.board.serialInput(first);
      this.inputSize -= taken;
      this.ports.inputTaken(taken);
      if (taken < first.length) {
        this.input_[0] = first.subarray(taken);
        return;
      }
      this.input_.shift();
    }
  }

  /** Hands the CPU what its local APIC has. */
  private offerInterrupts(): void {
    const { cpu, board } = this;
    if (this.lapic.eventPending) this.takeLapicEvent();
    if (board.interruptFor(0) < 0) return;
    if (cpu.canInterrupt) {
      const vector = board.acknowledgeInterrupt(0);
      if (vector < 0) return;
      cpu.inject(vector);
      this.halted = false;
    } else {
      // A CPU that halted with interrupts off sleeps on; only an NMI or a reset wakes it.
      cpu.requestInterruptWindow();
    }
  }

  private takeLapicEvent(): void {
    for (let event = this.lapic.takeEvent(); event !== undefined; event = this.lapic.takeEvent()) {
      switch (event.kind) {
        case 'nmi':
          this.cpu.nmi();
          this.halted = false;
          break;
        case 'init': this.end({ kind: 'reset' }); break; // the only CPU was told to start over
        case 'startup': break; // it is running: ignored (Intel SDM vol. 3, 9.4.4.1)
        default: unreachable(event);
      }
    }
  }

  private idle(): void {
    const { board, engine } = this;
    const interruptible = (this.cpu.registers.halves[2 * REG.rflags] & 0x200) !== 0;
    const deadline = board.nextDeadline();
    if (!interruptible) {
      this.end({ kind: 'halted' });
      return;
    }
    const now = engine.clock.now();
    if (deadline <= now) return;
    if (engine.clock.kind === 'instructions') {
      if (Number.isFinite(deadline)) engine.clock.skipTo(deadline);
      else this.ports.sleep(LONGEST_SLEEP);
      return;
    }
    this.ports.sleep(Math.min((deadline - now) / 1e6, LONGEST_SLEEP));
  }

  private dispatch(exit: Exit, until: number): void {
    const { cpu, board } = this;
    // Border crossings come in thousands: stay in this loop while there are no others. The slice is not renewed, or a guest that does
    // nothing else would never let the outside in.
    while (exit.kind === 'io' || exit.kind === 'fetch' || exit.kind === 'event') {
      if (exit.kind === 'io' && exit.port !== GATE_PORT) break;
      const verdict = this.guard.handle(cpu, exit);
      if (verdict !== 'handled') {
        this.unhandled(exit, verdict);
        return;
      }
      if (exit.kind === 'event') return; // an interrupt may wait
      exit = cpu.run(until);
    }
    switch (exit.kind) {
      case 'io':
        if (!exit.write) cpu.completeRead(this.guard.portRefused(cpu, exit) ? onesOf(exit.size) : board.io(exit.port, exit.size, false, 0));
        else if (!this.guard.portRefused(cpu, exit)) board.io(exit.port, exit.size, true, exit.value);
        break;
      case 'mmio': this.memoryAccess(exit); break;
      case 'halt': this.halted = true; break;
      case 'msr': this.msrAccess(exit.write, exit.index); break;
      case 'shutdown': this.end({ kind: 'crash' }); break;
      case 'debug': this.end({ kind: 'failed', reason: exit.reason }); break;
      case 'mwait': this.halted = true; break;
      case 'window':
      case 'budget':
        break;
      default: unreachable(exit);
    }
  }

  private unhandled(exit: Exit, verdict: 'not-mine' | { stop: string } | { failed: string }): void {
    if (verdict === 'not-mine') {
      // A stray write to the gate port by someone who has no guarded module is an ordinary port access.
      if (exit.kind !== 'io') this.end({ kind: 'failed', reason: `the engine reported ${exit.kind}, which belongs to no guarded module` });
      else if (!exit.write) this.cpu.completeRead(onesOf(exit.size));
    } else this.end('failed' in verdict ? { kind: 'failed', reason: verdict.failed } : { kind: 'violation', reason: verdict.stop });
  }

  private memoryAccess(exit: Extract<Exit, { kind: 'mmio' }>): void {
    const { cpu, board, lapic } = this;
    const { gpa, size, write, value } = exit;
    if (exit.refused) {
      this.guard.windowRefused(cpu, exit);
      if (!write) cpu.completeRead(onesOf(size));
    } else if (gpa < this.engine.memory.size) {
      const verdict = this.guard.handle(cpu, exit);
      if (verdict !== 'handled') this.unhandled(exit, verdict);
    } else if (gpa - lapic.page >= 0 && gpa - lapic.page < 4096) {
      const offset = gpa - lapic.page;
      if (write) lapic.writeRegister(offset, value);
      else cpu.completeRead(lapic.readRegister(offset));
    } else if (write) board.mmio(gpa, size, true, value);
    else cpu.completeRead(board.mmio(gpa, size, false, 0));
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
    if (!known && !this.unknownMsrs.has(index) && this.unknownMsrs.size < 256) {
      this.unknownMsrs.add(index);
      this.log.debug(`unknown MSR 0x${index.toString(16)} ${write ? 'written' : 'read'}: #GP`);
    }
    cpu.completeMsr(known);
  }

  report(): VmReport {
    return {
      seconds: this.engine.clock.now() / 1e9,
      instructions: this.cpu.instructions,
      ...this.guard.report(),
      cards: this.cards.report(),
      engine: { ...this.engine.statistics(), ...this.board.statistics() },
    };
  }
}

function onesOf(size: 1 | 2 | 4): number {
  return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
}
