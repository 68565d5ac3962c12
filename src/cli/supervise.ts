/** Runs one machine to its end for a command: events, logs, time limit, signals, and the exit code that says how it ended. */
import { EXIT_CODES, type ExitName, unreachable } from '../base/errors.ts';
import type { LogRecord } from '../base/log.ts';
import type { Outcome, VmConfig, VmEvent, VmReport } from '../vm/config.ts';
import { type RunningVm, startVm } from '../vm/host.ts';
import { type EventsLost, openEventStream } from './event-stream.ts';
import { whenOutputCloses } from './output.ts';

export interface Supervision {
  /** Serial output. */
  console(bytes: Uint8Array): Promise<void> | undefined;
  /** Gets the running machine, to feed its console. */
  started?(vm: RunningVm): void;
  /** `--events`: path, "-" or "fd:N". */
  events?: string;
  /** `--events-lost`; default hold. */
  eventsLost?: EventsLost;
  timeout?: number;
  /** A module that was refused or quarantined makes an end of its own. A demo has such on purpose. */
  judgesModules?: boolean;
}

export interface Ended {
  outcome: Outcome;
  report: VmReport;
  exit: ExitName;
  code: number;
  events: VmEvent[];
  /** Events that `--events` asked for and did not get. */
  eventsLost: number;
}

/** Events kept for the caller; the stream itself is not limited. */
const EVENTS_KEPT = 1000;
/** Modules told of in one line. */
const MODULES_TOLD = 8;
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

/** A machine that ended well, seen with what became of its modules. */
function exitWithModules({ refusals, modules }: VmReport): ExitName {
  if (modules.some(({ state }) => state === 'quarantined')) return 'quarantined';
  return refusals.some(({ module }) => module !== '') ? 'refused' : 'ok';
}

export async function supervise(config: VmConfig, supervision: Supervision): Promise<Ended> {
  let vm: RunningVm | undefined;
  let wanted: 'hold' | 'stop' | undefined;
  // The log may fail before the machine runs.
  const stream =
    supervision.events === undefined
      ? undefined
      : openEventStream(supervision.events, {
          policy: supervision.eventsLost ?? 'hold',
          hold: (on) => {
            if (wanted !== 'stop') wanted = on ? 'hold' : undefined;
            vm?.hold(on);
          },
          stop: () => {
            wanted = 'stop';
            if (vm !== undefined) end('unaudited');
          },
        });
  const events: VmEvent[] = [];
  let panicked = false;
  let tail = '';
  let cause: ExitName | undefined;
  let limit: NodeJS.Timeout | undefined;
  const handlers: [NodeJS.Signals, () => void][] = [];
  const end = (name: ExitName) => {
    cause ??= name;
    vm?.stop();
  };
  let forget = () => {};
  let closed: { lost: number } | undefined;
  try {
    vm = await startVm(config, {
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
    if (wanted === 'hold') vm.hold(true);
    if (wanted === 'stop') end('unaudited');
    for (const [signal, name] of SIGNALS) {
      const handler = () => {
        // Asked twice: whoever asks does not want to wait for the machine's thread.
        if (cause !== undefined) process.exit(EXIT_CODES[name].code);
        end(name);
      };
      process.on(signal, handler);
      handlers.push([signal, handler]);
    }
    forget = whenOutputCloses(() => end('ok'));
    if (supervision.timeout !== undefined) limit = setTimeout(() => end('watchdog'), supervision.timeout * 1000);
    supervision.started?.(vm);
    const { outcome, report } = await vm.ended;
    closed = await stream?.close();
    const eventsLost = closed?.lost ?? 0;
    let exit = outcome.kind === 'stopped' ? (cause ?? 'ok') : exitOf(outcome, panicked);
    if (exit === 'ok' && outcome.kind !== 'debug-exit' && supervision.judgesModules) exit = exitWithModules(report);
    if ((exit === 'ok' || exit === 'refused' || exit === 'quarantined') && eventsLost > 0 && supervision.eventsLost !== 'continue')
      exit = 'unaudited';
    const code = outcome.kind === 'debug-exit' ? outcome.code & 0xff : EXIT_CODES[exit].code;
    return { outcome, report, exit, code, events, eventsLost };
  } finally {
    clearTimeout(limit);
    forget();
    for (const [signal, handler] of handlers) process.off(signal, handler);
    if (closed === undefined) await stream?.close();
  }
}

/** One line for people on how a machine ended, and what became of its modules. */
export function describeEnd(ended: Ended): string {
  return [describeOutcome(ended), ...describeModules(ended.report)].join('; ');
}

/** What became of modules that did not get what they wanted, a few words each. */
function describeModules({ modules, refusals }: VmReport): string[] {
  const quarantined = modules.filter(({ state }) => state === 'quarantined').map(({ module }) => module);
  const broken = refusals.filter(({ module }) => module === '').map(({ reason }) => reason);
  const refused = refusals.filter(({ module, reason }) => module !== '' && reason !== 'quarantined');
  return [
    ...quarantined.map((module) => `${module} was quarantined (${broken.join(', ')})`),
    ...refused.map(({ module, reason }) => `${module} was refused (${reason})`),
  ].slice(0, MODULES_TOLD);
}

function describeOutcome({ outcome, exit }: Ended): string {
  if (exit === 'panic') return 'the guest kernel panicked';
  if (exit === 'watchdog') return 'the time limit was reached';
  if (exit === 'unaudited' && outcome.kind === 'stopped') return 'stopped: its event log could not be written';
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
