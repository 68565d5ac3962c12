/** Runs one machine to its end for a command: events, logs, time limit, signals, and the exit code that says how it ended. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { EXIT_CODES, type ExitName, unreachable, UserError } from '../base/errors.ts';
import type { LogRecord } from '../base/log.ts';
import type { Outcome, VmConfig, VmEvent, VmReport } from '../vm/config.ts';
import { type RunningVm, startVm } from '../vm/host.ts';

export interface Supervision {
  /** Serial output. */
  console(bytes: Uint8Array): void;
  /** Gets the running machine, to feed its console. */
  started?(vm: RunningVm): void;
  /** `--events`: path, "-" or "fd:N". */
  events?: string;
  timeout?: number;
}

export interface Ended { outcome: Outcome; report: VmReport; exit: ExitName; code: number; events: VmEvent[] }

/** Events kept for the caller; the stream itself is not limited. */
const EVENTS_KEPT = 1000;
/** A guest kernel says this before it stops; there is no other sign of a panic. */
const PANIC = 'Kernel panic - not syncing';

function openEvents(where: string | undefined): (event: VmEvent) => void {
  if (where === undefined) return () => {};
  const match = /^fd:(\d+)$/.exec(where);
  let target: number;
  try {
    target = where === '-' ? 1 : match ? Number(match[1]) : openSync(where, 'a');
  } catch (error) {
    throw new UserError(`--events ${where}: ${(error as Error).message}`, 'give a writable path, - or fd:N');
  }
  let broken = false;
  return (event) => {
    if (broken) return;
    try {
      writeSync(target, `${JSON.stringify(event)}\n`);
    } catch (error) {
      broken = true;
      process.stderr.write(`portcullis: the event stream ${where} ended: ${(error as Error).message}\n`);
      if (target > 2) closeSync(target);
    }
  };
}

export function printLog({ level, component, message, fields }: LogRecord): void {
  process.stderr.write(`[${level}] ${component}: ${message}${fields ? ` ${JSON.stringify(fields)}` : ''}\n`);
}

function exitOf(outcome: Outcome, panicked: boolean): ExitName {
  if (panicked && outcome.kind !== 'violation') return 'panic';
  switch (outcome.kind) {
    case 'off': case 'halted': return 'ok';
    case 'reset': return 'reset';
    case 'crash': return 'crash';
    case 'debug-exit': return outcome.code === 0 ? 'ok' : 'failed';
    case 'violation': return 'violation';
    case 'failed': return 'failed';
    case 'stopped': return 'interrupted';
    default: return unreachable(outcome);
  }
}

export async function supervise(config: VmConfig, supervision: Supervision): Promise<Ended> {
  const emit = openEvents(supervision.events);
  const events: VmEvent[] = [];
  let panicked = false;
  let tail = '';
  const vm = await startVm(config, {
    console(bytes) {
      tail = (tail + Buffer.from(bytes).toString('latin1')).slice(-4096 - PANIC.length);
      panicked ||= tail.includes(PANIC);
      supervision.console(bytes);
    },
    event(event) {
      emit(event);
      if (events.length < EVENTS_KEPT) events.push(event);
    },
    log: printLog,
  });
  supervision.started?.(vm);
  let cause: ExitName | undefined;
  const end = (name: ExitName) => {
    cause ??= name;
    vm.stop();
  };
  const onInterrupt = () => end('interrupted');
  const onTerminate = () => end('terminated');
  process.on('SIGINT', onInterrupt);
  process.on('SIGTERM', onTerminate);
  const limit = supervision.timeout === undefined ? undefined : setTimeout(() => end('watchdog'), supervision.timeout * 1000);
  try {
    const { outcome, report } = await vm.ended;
    const exit = outcome.kind === 'stopped' ? (cause ?? 'ok') : exitOf(outcome, panicked);
    const code = outcome.kind === 'debug-exit' ? outcome.code & 0xff : EXIT_CODES[exit].code;
    return { outcome, report, exit, code, events };
  } finally {
    clearTimeout(limit);
    process.off('SIGINT', onInterrupt);
    process.off('SIGTERM', onTerminate);
  }
}

/** One line for people on how a machine ended. */
export function describeEnd({ outcome, exit }: Ended): string {
  if (exit === 'panic') return 'the guest kernel panicked';
  if (exit === 'watchdog') return 'the time limit was reached';
  switch (outcome.kind) {
    case 'off': return 'the guest powered off';
    case 'halted': return 'the guest halted with interrupts off';
    case 'reset': return 'the guest asked for a reset';
    case 'crash': return 'the guest crashed (triple fault)';
    case 'debug-exit': return `the guest ended the run with code ${outcome.code}`;
    case 'violation': return `a guarded module broke a border rule: ${outcome.reason}`;
    case 'failed': return `the machine cannot go on: ${outcome.reason}`;
    case 'stopped': return 'stopped';
    default: return unreachable(outcome);
  }
}
