/**
 * One virtual machine: engine, board and monitor joined by the run loop. Everything here runs in one thread, in which the virtual CPUs take
 * turns; the console, sockets and the API are the main thread's.
 */
import { availableParallelism } from 'node:os';
import { createLog, type Log, type LogRecord } from '../base/log.ts';
import type { CpuThreads, Engine } from '../engine/contract.ts';
import { createSoftEngine } from '../engine/soft/engine.ts';
import { type Board, createBoard } from '../machine/board.ts';
import { boot } from '../machine/boot/index.ts';
import { type Cards, createCards } from './cards.ts';
import type { MemorySearch, Outcome, VmConfig, VmEvent, VmReport } from './config.ts';
import { createGuard, type Guard } from './guard.ts';
import { Scheduler } from './scheduler.ts';
import { readKernel } from './kernel-file.ts';
import { searchMemory } from './search.ts';
import { ThreadedScheduler } from './threaded-scheduler.ts';
import { Vcpu } from './vcpu.ts';

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

/** Longest sleep of an idle machine, ms. */
const LONGEST_SLEEP = 1000;
const INPUT_LIMIT = 1 << 17;

export class Vm {
  private outcome: Outcome | undefined;
  private input_: Uint8Array[] = [];
  private inputSize = 0;
  private inputDropped = false;
  private readonly vcpus: readonly Vcpu[];
  private readonly scheduler: Scheduler;
  private readonly log;

  private constructor(
    private readonly config: VmConfig,
    private readonly ports: VmPorts,
    private readonly engine: Engine,
    private readonly board: Board,
    private readonly cards: Cards,
    private readonly guard: Guard,
    private readonly sent: { readonly events: number },
    threads: CpuThreads | undefined,
  ) {
    this.log = createLog('vm', ports.log, config.log);
    this.vcpus = engine.cpus.map((cpu) => new Vcpu(cpu, { engine, board, guard, log: this.log, end: (outcome) => this.end(outcome) }));
    const options = {
      cpus: this.vcpus,
      cores: config.cores ?? this.vcpus.length,
      pins: new Map(config.pins),
      now: () => engine.clock.now(),
      alone: (cpu: number, alone: boolean) => {
        guard.setAlone(cpu, alone);
        this.vcpus[cpu].wake();
      },
      moved: (cpu: number, from: number, to: number) => ports.event({ event: 'cpu.moved', time: engine.clock.now(), cpu, from, to }),
    };
    this.scheduler = threads ? new ThreadedScheduler({ ...options, threads }) : new Scheduler({ ...options, seed: config.seed });
  }

  /** Builds the machine and loads the kernel. Throws UserError for configuration that cannot work. */
  static async create(config: VmConfig, links: readonly (SharedArrayBuffer | undefined)[], thread: VmPorts): Promise<Vm> {
    const sent = { events: 0 };
    const ports: VmPorts = {
      ...thread,
      event(event) {
        sent.events += 1;
        thread.event(event);
      },
    };
    const engine = createSoftEngine({ memorySize: config.memory, cpus: config.cpus ?? 1, clock: config.clock });
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
      onInterrupt: (cpu) => vm?.vcpus[cpu].notify(),
    });
    const cards = await createCards(config, board, links, createLog('net', ports.log, config.log));
    const guard = createGuard(config, engine, board, ports);
    const threads = await startThreads(config, engine, createLog('vm', ports.log, config.log));
    vm = new Vm(config, ports, engine, board, cards, guard, sent, threads);
    const kernel = readKernel(config.kernel.elf);
    const acpi = board.acpiTables();
    engine.memory.bytes.set(acpi.bytes, acpi.address);
    boot(
      engine.cpus[0],
      engine.memory,
      {
        elf: kernel.bytes,
        setupHeader: config.kernel.setupHeader,
        name: config.kernel.name,
        initramfs: config.initramfs,
        commandLine: config.commandLine,
        memoryMap: board.memoryMap(),
        rsdp: acpi.address,
      },
      config.boot,
    );
    kernel.release();
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

  /** The cable of a card: out, or in. A card that is not there has none. */
  setLink(card: number, up: boolean): void {
    if (this.cards.setLink(card, up)) this.ports.event({ event: 'card.link', time: this.engine.clock.now(), card, up });
  }

  /** For checks from outside: where bytes lie that no one in the guest should have. */
  search(needles: readonly Uint8Array[]): MemorySearch {
    return searchMemory(this.engine.memory, needles);
  }

  /** Keeps a virtual CPU on a core from now on. Throws RangeError where there is no such CPU or core. */
  pin(cpu: number, core: number): void {
    this.scheduler.pin(cpu, core);
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
    const { config, engine, board } = this;
    this.ports.event({
      event: 'vm.started',
      time: engine.clock.now(),
      name: config.name,
      engine: engine.name,
      memory: engine.memory.size,
      cpus: this.vcpus.length,
      cores: config.cores ?? this.vcpus.length,
    });
    while (this.outcome === undefined) {
      this.ports.poll();
      if (this.inputSize > 0) this.feedConsole();
      board.runDue();
      if (this.outcome === undefined && !this.scheduler.step(board.nextDeadline())) this.idle();
    }
    engine.quiet();
    board.flushSerial();
    this.guard.end();
    this.cards.close();
    this.ports.event({ event: 'vm.ended', time: engine.clock.now(), outcome: this.outcome });
    engine.close();
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

  /** Nothing can run: sleeps until a timer or the outside has something, or ends when nothing ever will. */
  private idle(): void {
    const { board, engine } = this;
    if (this.vcpus.every((vcpu) => vcpu.stuck)) {
      this.end({ kind: 'halted' });
      return;
    }
    const deadline = board.nextDeadline();
    const now = engine.clock.now();
    if (deadline <= now) return;
    if (engine.clock.kind === 'instructions') {
      if (Number.isFinite(deadline)) engine.clock.skipTo(deadline);
      else this.ports.sleep(LONGEST_SLEEP);
      return;
    }
    this.ports.sleep(Math.min((deadline - now) / 1e6, LONGEST_SLEEP));
  }

  /** The guest stands still until `run` goes on. */
  quiet(): void {
    this.engine.quiet();
  }

  report(): VmReport {
    return {
      seconds: this.engine.clock.now() / 1e9,
      instructions: this.vcpus.reduce((sum, { cpu }) => sum + cpu.instructions, 0),
      cpus: this.vcpus.map((vcpu, index) => ({
        ...vcpu.report(),
        core: this.scheduler.coreOf(index),
        handovers: this.scheduler.handovers[index] ?? 0,
      })),
      ...this.guard.report(),
      events: this.sent.events,
      cards: this.cards.report(),
      engine: { ...this.engine.statistics(), ...this.board.statistics() },
    };
  }
}

/** One thread for each core beside the machine's own, as far as the host has processors. undefined: there is nothing to run in parallel, or no way to. */
async function startThreads(config: VmConfig, engine: Engine, log: Log): Promise<CpuThreads | undefined> {
  const count = Math.min(config.cores ?? engine.cpus.length, engine.cpus.length, availableParallelism()) - 1;
  if (count < 1 || config.clock !== 'host') return undefined;
  const threads = await engine.startThreads(count);
  if (threads === undefined)
    log.info(`the virtual CPUs take turns in one thread: memory order of an ${process.arch} host is not that of x86`);
  return threads;
}
