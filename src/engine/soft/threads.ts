/**
 * The threads that execute virtual CPUs beside the machine's own. A CPU is handed over by a mailbox of shared words; what its run left behind
 * lies in linear memory and is read by the machine's thread.
 *
 * A round trip through Atomics.wait and notify takes 30 us and more, one through words that both sides look at less than one. So a thread
 * looks for some time before it sleeps, and one that comes back ends what the machine's thread executes meanwhile (`enter`).
 */

import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { Cpu, CpuThread, CpuThreads, Exit } from '../contract.ts';
import type { HostTime } from './clock.ts';
import type { SoftCpu } from './cpu.ts';
import { EXIT_BUDGET } from './core/layout.ts';
import { EXIT_FAILED } from './executor.ts';

/** Words of a mailbox; the time until which a CPU runs and the text of a failure follow. */
export const MAIL = { state: 0, cpu: 1, code: 2, sleeps: 3 } as const;
export const MAIL_UNTIL = 16;
export const MAIL_FAILURE = 24;
const MAIL_SIZE = 2048;
/** given: the thread has not begun yet. */
export const STATE = { free: 0, given: 1, runs: 2, returned: 3, quit: 4 } as const;
/** Words about the machine's thread: the CPU that it executes, -1 for none. */
export const MACHINE = { current: 0 } as const;

/** What a thread gets. */
export interface ThreadData {
  readonly memory: WebAssembly.Memory;
  readonly module: WebAssembly.Module;
  readonly blocks: readonly number[];
  readonly origin: HostTime;
  readonly mail: SharedArrayBuffer;
  readonly machine: SharedArrayBuffer;
}

/** Looks at a thread that is about to come back before napping between them, and the nap, ms. */
const SPINS = 20_000;
const NAP = 0.05;

class SoftThread implements CpuThread {
  cpu: SoftCpu | undefined;
  private readonly words: Int32Array;
  private readonly until: Float64Array;

  constructor(
    private readonly mail: SharedArrayBuffer,
    private readonly worker: Worker,
    private readonly threads: SoftThreads,
  ) {
    this.words = new Int32Array(mail);
    this.until = new Float64Array(mail, MAIL_UNTIL, 1);
  }

  start(cpu: Cpu, until: number, yields: boolean): void {
    if (this.cpu !== undefined) throw new Error(`the thread has CPU ${this.cpu.index} already`);
    this.cpu = cpu as SoftCpu;
    this.cpu.prepare(yields);
    this.threads.busy += 1;
    this.words[MAIL.cpu] = cpu.index;
    this.until[0] = until;
    this.order(STATE.given);
  }

  private order(state: number): void {
    Atomics.store(this.words, MAIL.state, state);
    if (Atomics.load(this.words, MAIL.sleeps) !== 0) Atomics.notify(this.words, MAIL.state);
  }

  get returned(): boolean {
    return this.cpu !== undefined && Atomics.load(this.words, MAIL.state) === STATE.returned;
  }

  /** Waits until the CPU that it has executes nothing any more. */
  recall(): void {
    if (this.cpu === undefined) return;
    // It may be asleep still: then it is not waited for.
    if (Atomics.compareExchange(this.words, MAIL.state, STATE.given, STATE.returned) === STATE.given) this.words[MAIL.code] = EXIT_BUDGET;
    if (this.returned) return;
    this.cpu.kick();
    for (let spins = 0; !this.returned; spins++) if (spins > SPINS) Atomics.wait(this.words, MAIL.state, STATE.runs, NAP);
  }

  finish(): Exit {
    const { cpu } = this;
    if (cpu === undefined) throw new Error('the thread has no CPU');
    this.recall();
    this.cpu = undefined;
    this.threads.busy -= 1;
    const code = this.words[MAIL.code] as number;
    return code === EXIT_FAILED ? cpu.exit(code, this.failure()) : cpu.exit(code);
  }

  private failure(): string {
    const bytes = new Uint8Array(this.mail, MAIL_FAILURE);
    return new TextDecoder().decode(bytes.slice(0, Math.max(0, bytes.indexOf(0))));
  }

  /** Resolves when the thread takes orders. */
  async ready(): Promise<void> {
    await once(this.worker, 'message');
    this.worker.unref();
  }

  quit(): void {
    this.cpu?.kick();
    this.order(STATE.quit);
    void this.worker.terminate();
  }
}

export class SoftThreads implements CpuThreads {
  /** Threads that have a CPU. */
  busy = 0;
  private threads: SoftThread[] = [];
  private readonly machine = new SharedArrayBuffer(4 * Object.keys(MACHINE).length);
  private readonly words = new Int32Array(this.machine);

  get all(): readonly CpuThread[] {
    return this.threads;
  }

  /** Starts threads; they are ready when this resolves. */
  async start(count: number, data: Omit<ThreadData, 'mail' | 'machine'>): Promise<void> {
    this.words[MACHINE.current] = -1;
    const script = fileURLToPath(new URL('../../../dist/engine/soft/thread.js', import.meta.url));
    this.threads = Array.from({ length: count }, () => {
      const mail = new SharedArrayBuffer(MAIL_SIZE);
      const workerData: ThreadData = { ...data, mail, machine: this.machine };
      const worker = new Worker(script, { workerData });
      return new SoftThread(mail, worker, this);
    });
    await Promise.all(this.threads.map((thread) => thread.ready()));
  }

  /** The machine's thread is about to execute a CPU, until a thread comes back. False if one has already. */
  enter(cpu: number): boolean {
    Atomics.store(this.words, MACHINE.current, cpu);
    if (!this.threads.some(({ returned }) => returned)) return true;
    this.leave();
    return false;
  }

  leave(): void {
    Atomics.store(this.words, MACHINE.current, -1);
  }

  /** No thread executes anything until the machine's thread hands over the next CPU. What they came back with waits for `finish`. */
  quiet(): void {
    if (this.busy === 0) return;
    for (const thread of this.threads) thread.cpu?.kick();
    for (const thread of this.threads) thread.recall();
  }

  quit(): void {
    for (const thread of this.threads) thread.quit();
    this.threads = [];
    this.busy = 0;
  }
}
