/**
 * The scheduler of a machine whose virtual CPUs run in several host threads: the machine's own and one fewer than there are cores. A core's turn
 * is executed by whichever thread suits: an exit costs next to nothing in the machine's thread and some microseconds from another one, so a
 * virtual CPU that *computes* (a whole turn without an exit) goes to another thread as soon as somebody else wants this one, and comes back with
 * its next exit. Guests that only exchange interrupts and device accesses thus run as if there were one thread, those that compute in parallel.
 *
 * Only a virtual CPU in the untrusted view leaves: what a guarded module holds is raised and lowered in one thread.
 */
import type { Cpu, CpuThread, CpuThreads, Exit } from '../engine/contract.ts';
import { ALONE, BALANCE_PERIOD, type Schedulable, Scheduler, type SchedulerOptions, SLICE } from './scheduler.ts';

/** What this scheduler knows of a virtual CPU besides. */
export interface Movable extends Schedulable {
  readonly cpu: Pick<Cpu, 'index' | 'kick'>;
  /** Exits answered so far. */
  readonly exits: number;
  /** Something arrived that it has not looked at. */
  readonly noticed: boolean;
  /** It is in the untrusted view. */
  readonly mayLeave: boolean;
  /** Looks at what arrived. True if there are instructions to execute. */
  prepare(): boolean;
  /** Answers the exit with which a run in another thread ended; may go on in this one until `until` (ns). */
  answer(exit: Exit, until: number): void;
  /** Hands the CPU to a thread. */
  leave(thread: CpuThread, until: number, yields: boolean): void;
}

export interface ThreadedSchedulerOptions extends Omit<SchedulerOptions, 'cpus' | 'seed'> {
  readonly cpus: readonly Movable[];
  readonly threads: CpuThreads;
}

/** A run of this length without an exit is called computing, ns. */
const COMPUTES = 30_000;
/**
 * Who is runnable for a shorter time than this, beside another, is none for the sake of whom a CPU is handed over, ns. Waking a thread takes 30 us, but the host
 * may wake it on the processor of the one that wakes, which then stands still for milliseconds: with 100 us here one wake-up in a hundred of an idle CPU took 2 to 5 ms.
 */
const TOGETHER = 2_000_000;
/** A turn in another thread, ns: while others wait for the core, and else. */
const SHARED_TURN = 200_000;
const LONGEST_TURN = 5_000_000;

interface Turn {
  /** Whose turn it is, -1 for nobody's, and when it ends for those who wait. */
  cpu: number;
  end: number;
  /** Where it runs, if not here. */
  thread: CpuThread | undefined;
  kicked: boolean;
}

export class ThreadedScheduler extends Scheduler {
  override readonly handovers: number[];
  /** When the machine's thread has to look at the turns of others again, ns. */
  private nextLook = Number.POSITIVE_INFINITY;
  /** Since when two or more have been runnable, ns. */
  private togetherSince = Number.POSITIVE_INFINITY;
  private readonly movable: readonly Movable[];
  private readonly threads: CpuThreads;
  private readonly turns: Turn[];
  private readonly away: boolean[];
  private readonly computes: boolean[];
  /** Core whose turn the machine's thread took last. */
  private lastHere = 0;
  /** It gave it up, in a busy wait. */
  private gaveUp = false;

  constructor(options: ThreadedSchedulerOptions) {
    super(options);
    this.movable = options.cpus;
    this.threads = options.threads;
    this.turns = this.cores.map(() => ({ cpu: -1, end: 0, thread: undefined, kicked: false }));
    this.away = options.cpus.map(() => false);
    this.computes = options.cpus.map(() => false);
    this.handovers = options.cpus.map(() => 0);
  }

  /** Answers what came back, hands over what computes, and runs one virtual CPU here, until `limit` (ns) at most. False if none is left to run here. */
  override step(limit: number): boolean {
    for (const turn of this.turns) if (turn.thread?.returned) this.takeBack(turn);
    const now = this.options.now();
    if (now - this.balanced >= BALANCE_PERIOD) this.balance(now);
    this.account(now);
    this.nextLook = Number.POSITIVE_INFINITY;
    let ready = this.ready(now);
    const elsewhere = this.turns.filter(({ thread }) => thread !== undefined);
    this.togetherSince = ready.length + elsewhere.length < 2 ? Number.POSITIVE_INFINITY : Math.min(this.togetherSince, now);
    if (now - this.togetherSince >= TOGETHER) this.handOver(ready, now);
    if (ready.length === 0 && elsewhere.length > 0) {
      // This thread does not sleep while another works: it would have to be woken for the next exit.
      elsewhere[0].kicked = true;
      this.takeBack(elsewhere[0]);
      ready = this.ready(now);
    }
    const turn = this.nextHere(ready);
    if (turn === undefined) return this.turns.some(({ thread }) => thread !== undefined);
    this.runHere(turn, ready.length > 1 || this.waits(turn), Math.min(limit, this.nextLook), now);
    return true;
  }

  protected override canMove(cpu: number): boolean {
    return !this.away[cpu];
  }

  private takeBack(turn: Turn): void {
    const { thread, cpu } = turn;
    if (thread === undefined) return;
    const exit = thread.finish();
    turn.thread = undefined;
    this.away[cpu] = false;
    // What comes back early, by a busy wait too, has company to keep with the others here.
    this.computes[cpu] = exit.kind === 'budget' && (turn.kicked || this.options.now() >= turn.end);
    if (this.place[cpu] !== this.turns.indexOf(turn) || (exit.kind === 'budget' && !this.computes[cpu])) turn.cpu = -1;
    this.movable[cpu].answer(exit, this.options.now() + SLICE);
  }

  /** The turns that can run here now. Those in other threads are told to come back where something arrived for them, or their time is over. */
  private ready(now: number): Turn[] {
    const ready: Turn[] = [];
    this.turns.forEach((turn, core) => {
      if (turn.thread !== undefined) {
        this.watchOver(turn, now);
        return;
      }
      const stays =
        turn.cpu >= 0 && this.place[turn.cpu] === core && this.movable[turn.cpu].runnable && (now < turn.end || !this.waits(turn));
      if (!stays) {
        turn.cpu = this.cores[core].next((cpu) => !this.away[cpu]);
        turn.end = now + SLICE;
      }
      if (turn.cpu >= 0) ready.push(turn);
    });
    return ready;
  }

  private watchOver(turn: Turn, now: number): void {
    if (turn.kicked) return;
    const cpu = this.movable[turn.cpu];
    const contended = this.waits(turn);
    if (cpu.noticed || (contended && now >= turn.end)) {
      turn.kicked = true;
      cpu.cpu.kick();
    } else if (contended) this.nextLook = Math.min(this.nextLook, turn.end);
  }

  /** True if another virtual CPU could have this turn. */
  private waits(turn: Turn): boolean {
    const core = this.turns.indexOf(turn);
    return this.cores[core].queue.some((cpu) => cpu !== turn.cpu && !this.away[cpu] && this.movable[cpu].runnable);
  }

  /** Gives turns that compute to free threads, as long as another is left for this one. */
  private handOver(ready: Turn[], now: number): void {
    for (let index = 0; index < ready.length && ready.length > 1; ) {
      const turn = ready[index];
      const cpu = this.movable[turn.cpu];
      const thread = this.computes[turn.cpu] && cpu.mayLeave ? this.threads.all.find((each) => each.cpu === undefined) : undefined;
      if (thread === undefined) index += 1;
      else {
        ready.splice(index, 1);
        if (cpu.prepare()) this.send(turn, thread, now);
      }
    }
  }

  private send(turn: Turn, thread: CpuThread, now: number): void {
    const { cpu } = turn;
    const contended = this.waits(turn);
    turn.end = now + SHARED_TURN;
    turn.thread = thread;
    turn.kicked = false;
    this.away[cpu] = true;
    this.handovers[cpu] += 1;
    this.movable[cpu].leave(thread, contended ? turn.end : now + LONGEST_TURN, contended);
  }

  private nextHere(ready: readonly Turn[]): Turn | undefined {
    if (ready.length === 0) return undefined;
    const after = ready.find((turn) => this.turns.indexOf(turn) > this.lastHere) ?? ready[0];
    const last = this.turns[this.lastHere];
    // A turn is not cut short by a look at the others.
    const turn = !this.gaveUp && ready.includes(last) && this.options.now() < last.end ? last : after;
    this.lastHere = this.turns.indexOf(turn);
    return turn;
  }

  private runHere(turn: Turn, contended: boolean, limit: number, now: number): void {
    const { cpu } = turn;
    const each = this.movable[cpu];
    if (now >= turn.end) turn.end = now + SLICE;
    const { exits } = each;
    const early = each.run(Math.min(limit, contended ? turn.end : now + ALONE), contended);
    if (each.exits !== exits) this.computes[cpu] = false;
    else if (this.options.now() - now >= COMPUTES) this.computes[cpu] = true;
    // Not when a thread that came back ended its run.
    this.gaveUp = early && !this.threads.all.some(({ returned }) => returned);
    if (this.gaveUp) turn.cpu = -1;
  }
}
