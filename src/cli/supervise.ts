/** Runs one machine to its end for a command: events, logs, time limit, signals, and the exit code that says how it ended. */
import { EXIT_CODES, type ExitName, unreachable } from '../base/errors.ts';
import type { LogRecord } from '../base/log.ts';
import type { Outcome, VmConfig, VmEvent, VmReport } from '../vm/config.ts';
import { type RunningVm, startVm } from '../vm/host.ts';
import { openEventStream } from './event-stream.ts';

export interface Supervision {
  /** Serial output. */
  console(bytes: Uint8Array): Promise<void> | undefined;
  /** Gets the running machine, to feed its console. */
  started?(vm: RunningVm): void;
  /** `--events`: path, "-" or "fd:N". */
  events?: string;
  timeout?: number;
}

export interface Ended {
  outcome: Outcome;
  report: VmReport;
  exit: ExitName;
  code: number;
  events: VmEvent[];
}

/** Events kept for the caller; the stream itself is not limited. */
const EVENTS_KEPT = 1000;
/** A guest kernel says this before it stops; there is no other sign of a panic. */
const PANIC = 'Kernel panic - not syncing';
/** A closed terminal ends the run as a request to terminate does. */
const SIGNALS: readonly (readonly [NodeJS.Signals, ExitName])[] = [
  ['SIGINT', 'interrupted'],
  ['SIGTERM', 'terminated'],
  ['SIGHUP', 'terminated'],
];

export function printLog({ level, component, message, fields }: LogRecord): void {
  process.stderr.write(`[${level}] ${component}: ${message}${fields ? ` ${JSON.stringify(fields)}` : ''}\n`);
}

function exitOf(outcome: Outcome, panicked: boolean): ExitName {
  switch (outcome.kind) {
    case 'off':
      return 'ok';
    // Whoever can write to the console can say "panic": it counts only before an end that a panic can have.
    case 'halted':
      return panicked ? 'panic' : 'ok';
    case 'reset':
      return panicked ? 'panic' : 'reset';
    case 'crash':
      return panicked ? 'panic' : 'crash';
    case 'debug-exit':
      return outcome.code === 0 ? 'ok' : 'failed';
    case 'violation':
      return 'violation';
    case 'failed':
      return 'failed';
    case 'stopped':
      return 'interrupted';
    default:
      return unreachable(outcome);
  }
}

export async function supervise(config: VmConfig, supervision: Supervision): Promise<Ended> {
  const stream = supervision.events === undefined ? undefined : openEventStream(supervision.events);
  const events: VmEvent[] = [];
  let panicked = false;
  let tail = '';
  let cause: ExitName | undefined;
  let limit: NodeJS.Timeout | undefined;
  const handlers: [NodeJS.Signals, () => void][] = [];
  try {
    const vm = await startVm(config, {
      console(bytes) {
        const text = tail + Buffer.from(bytes).toString('latin1');
        panicked ||= text.includes(PANIC);
        tail = text.slice(1 - PANIC.length);
        return supervision.console(bytes);
      },
      event(event) {
        stream?.write(event);
        if (events.length < EVENTS_KEPT) events.push(event);
      },
      log: printLog,
    });
    const end = (name: ExitName) => {
      // Asked twice: whoever asks does not want to wait for the machine's thread.
      if (cause !== undefined) process.exit(EXIT_CODES[name].code);
      cause = name;
      vm.stop();
    };
    for (const [signal, name] of SIGNALS) {
      const handler = () => end(name);
      process.on(signal, handler);
      handlers.push([signal, handler]);
    }
    if (supervision.timeout !== undefined) limit = setTimeout(() => end('watchdog'), supervision.timeout * 1000);
    supervision.started?.(vm);
    const { outcome, report } = await vm.ended;
    const exit = outcome.kind === 'stopped' ? (cause ?? 'ok') : exitOf(outcome, panicked);
    const code = outcome.kind === 'debug-exit' ? outcome.code & 0xff : EXIT_CODES[exit].code;
    return { outcome, report, exit, code, events };
  } finally {
    clearTimeout(limit);
    for (const [signal, handler] of handlers) process.off(signal, handler);
    await stream?.close();
  }
}

/** One line for people on how a machine ended. */
export function describeEnd({ outcome, exit }: Ended): string {
  if (exit === 'panic') return 'the guest kernel panicked';
  if (exit === 'watchdog') return 'the time limit was reached';
  switch (outcome.kind) {
    case 'off':
      return 'the guest powered off';
    case 'halted':
      return 'the guest halted with interrupts off';
    case 'reset':
      return 'the guest asked for a reset';
    case 'crash':
      return 'the guest crashed (triple fault)';
    case 'debug-exit':
      return `the guest ended the run with code ${outcome.code}`;
    case 'violation':
      return `a guarded module broke a border rule: ${outcome.reason}`;
    case 'failed':
      return `the machine cannot go on: ${outcome.reason}`;
    case 'stopped':
      return 'stopped';
    default:
      return unreachable(outcome);
  }
}
