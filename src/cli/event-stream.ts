/**
 * `--events`: the chained audit log (policy/audit-chain.ts). No event is lost without a word: one that cannot be written now waits, and what
 * happens to the machine meanwhile is the administrator's choice (`--events-lost`).
 */
import { UserError } from '../base/errors.ts';
import { ChainWriter } from '../policy/audit-chain.ts';
import { type EventTarget, openEventTarget } from './event-target.ts';
import { LAST_WORDS_MS } from './output.ts';

/** What to do while events cannot be written: let the machine wait, end it, or let it run and count what is lost. */
export const EVENTS_LOST = ['hold', 'stop', 'continue'] as const;
export type EventsLost = (typeof EVENTS_LOST)[number];

export interface EventStreamOptions {
  policy: EventsLost;
  /** The machine is to wait, or to go on. */
  hold(on: boolean): void;
  /** The machine is to end. */
  stop(): void;
}

export interface EventStream {
  write(event: object): void;
  /** Resolves when what was written is out, or cannot be within two seconds. */
  close(): Promise<{ lost: number }>;
}

/** Events that wait under `continue`; more are lost. Under the others the machine stands still when the first waits. */
const WAITING = 1000;

/** Opens `where`: a path, "-" for standard output, or "fd:N" for a descriptor that this process was given. Throws UserError, also when not even the start of the log can be written. */
export function openEventStream(where: string, options: EventStreamOptions, opened = openEventTarget(where)): EventStream {
  const { target, last } = opened;
  const log = new EventLog(where, target, new ChainWriter(last), options);
  const failure = log.start();
  if (failure !== undefined && options.policy !== 'continue') {
    void target.close();
    throw new UserError(`--events ${where}: ${failure}`, 'make room, give another target, or --events-lost continue', 'failed');
  }
  return log;
}

class EventLog implements EventStream {
  /** Events in order; each becomes a line only when it is written, so that one that is lost leaves no hole in the chain. */
  private readonly waiting: object[] = [];
  /** What is left of a line of which a part was taken. */
  private rest: Buffer = Buffer.alloc(0);
  private state: 'open' | 'blocked' | 'gone' = 'open';
  private lost = 0;
  private emptied: () => void = () => {};

  constructor(
    private readonly where: string,
    private readonly target: EventTarget,
    private readonly chain: ChainWriter,
    private readonly options: EventStreamOptions,
  ) {
    target.ready = () => this.drain();
    target.gone = (reason) => this.end(reason);
  }

  /** Begins the log. Gives the reason if that could not be written. */
  start(): string | undefined {
    this.rest = line(this.chain.start());
    return this.push();
  }

  write(event: object): void {
    if (this.state === 'gone') {
      this.lost += 1;
      return;
    }
    if (this.options.policy === 'continue' && this.waiting.length >= WAITING) this.drop();
    else this.waiting.push(event);
    if (this.state === 'open') this.drain();
  }

  async close(): Promise<{ lost: number }> {
    if (this.state === 'blocked') this.drain();
    if (this.state === 'blocked') {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.emptied = resolve;
        timer = setTimeout(resolve, LAST_WORDS_MS);
      });
      clearTimeout(timer);
    }
    if (this.state === 'open') {
      this.rest = line(this.chain.end());
      if (this.push() !== undefined) this.lost += 1; // the end itself: its absence is a finding of `audit verify`
    } else this.lost += this.waiting.length + (this.rest.length > 0 ? 1 : 0);
    this.target.ready = () => {};
    this.target.gone = () => {};
    let late: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      late = setTimeout(resolve, LAST_WORDS_MS);
    });
    await Promise.race([this.target.close(), limit]);
    clearTimeout(late);
    if (this.lost > 0) this.say(`lacks ${this.lost} ${this.lost === 1 ? 'event' : 'events'}`);
    return { lost: this.lost };
  }

  /** Counts one more event that has no place, where it is missing. */
  private drop(): void {
    this.lost += 1;
    const last = this.waiting.at(-1) as { event?: string; count?: number };
    if (last.event === 'audit.lost') last.count = (last.count ?? 0) + 1;
    else this.waiting.push({ event: 'audit.lost', count: 1 });
  }

  /** Writes what waits, as far as the target takes it. */
  private drain(): void {
    if (this.state === 'gone') return;
    for (;;) {
      const reason = this.push();
      if (reason !== undefined) {
        this.block(reason);
        return;
      }
      const event = this.waiting.shift();
      if (event === undefined) break;
      this.rest = line(this.chain.event(event));
    }
    if (this.state === 'blocked') {
      this.state = 'open';
      this.say('is written again');
      if (this.options.policy === 'hold') this.options.hold(false);
    }
    this.emptied();
  }

  /** Writes `rest`. Gives the reason if not all of it was taken. */
  private push(): string | undefined {
    while (this.rest.length > 0) {
      const { taken, reason } = this.target.write(this.rest);
      if (taken < this.rest.length) {
        this.rest = this.rest.subarray(taken);
        return reason;
      }
      this.rest = Buffer.alloc(0);
    }
    return undefined;
  }

  private block(reason: string): void {
    if (this.state !== 'open') return;
    this.state = 'blocked';
    const consequence = {
      hold: 'the machine waits until it can be',
      stop: 'the machine is stopped',
      continue: 'the machine goes on, and events may be lost',
    }[this.options.policy];
    this.say(`cannot be written: ${reason}; ${consequence}`);
    if (this.options.policy === 'hold') this.options.hold(true);
    if (this.options.policy === 'stop') this.options.stop();
  }

  /** The reader left: nothing can be written ever again. */
  private end(reason: string): void {
    if (this.state === 'gone') return;
    this.state = 'gone';
    this.lost += this.waiting.length + (this.rest.length > 0 ? 1 : 0);
    this.waiting.length = 0;
    this.rest = Buffer.alloc(0);
    const { policy, hold, stop } = this.options;
    this.say(`ended: ${reason}; the machine ${policy === 'continue' ? 'goes on, and events are lost' : 'is stopped'}`);
    if (policy !== 'continue') stop();
    hold(false);
    this.emptied();
  }

  private say(text: string): void {
    process.stderr.write(`portcullis: the event log ${this.where} ${text}\n`);
  }
}

const line = (text: string): Buffer => Buffer.from(`${text}\n`);
