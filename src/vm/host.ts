/** The main thread's side of a virtual machine: starts its worker, carries console, events and network, and says how it ended. */
import { MessageChannel, Worker } from 'node:worker_threads';
import { UserError, type ExitName } from '../base/errors.ts';
import { createLog, type LogRecord } from '../base/log.ts';
import { trimAllocator } from './allocator.ts';
import type { MemorySearch, Outcome, VmCommand, VmConfig, VmEvent, VmMessage, VmReport } from './config.ts';
import { openCardLinks } from './links.ts';

export interface VmListener {
  /** Serial output. A promise says that this is more than can be taken now: the machine waits when much is outstanding. */
  console(bytes: Uint8Array): Promise<void> | undefined;
  event?(event: VmEvent): void;
  log?(record: LogRecord): void;
}

export interface RunningVm {
  /** To the guest's serial console. */
  input(bytes: Uint8Array): void;
  /** Bytes of input that the guest has not taken yet. Beyond 128 KiB more is dropped. */
  inputBacklog(): number;
  /** Searches guest memory between two slices of execution. Rejects when the machine has ended. */
  search(needles: readonly Uint8Array[]): Promise<MemorySearch>;
  /** Pulls the cable of a card (by index) out, or puts it in. */
  setLink(card: number, up: boolean): void;
  /** The guest stands still, soon and until told otherwise. Its clock goes on. */
  hold(on: boolean): void;
  /** Moves a virtual CPU to a core, and keeps it there. Throws RangeError where there is no such CPU or core. */
  pin(cpu: number, core: number): void;
  /** Ends the run soon, with outcome 'stopped'; a guest that is held, too. */
  stop(): void;
  /** Resolves when the machine has ended. Rejects with UserError for bad configuration, with Error for a defect. */
  readonly ended: Promise<{ outcome: Outcome; report: VmReport }>;
}

/** Words that both threads see. */
export const BELL = {
  /** The machine sleeps on it when idle; the main thread counts it up and notifies. */
  rung: 0,
  /** Messages to the main thread that it has not handled. The machine waits when there are too many: a guest that floods its console must not fill our memory. */
  messages: 1,
  /** Bytes of console input that the guest has not taken. */
  input: 2,
  /** Not 0: the run is to end, so the machine waits for nobody. */
  stopping: 3,
  /** Not 0: the guest stands still. */
  held: 4,
} as const;

/** What the worker gets beside the configuration. */
export interface WorkerData {
  config: VmConfig;
  /** Words by `BELL`. */
  bell: SharedArrayBuffer;
  links: (SharedArrayBuffer | undefined)[];
}

const isBelow = (index: number, count: number) => Number.isInteger(index) && index >= 0 && index < count;

const OVER = 'the machine has ended';

export async function startVm(config: VmConfig, listener: VmListener): Promise<RunningVm> {
  const bell = new SharedArrayBuffer(4 * Object.keys(BELL).length);
  const words = new Int32Array(bell);
  const ring = () => {
    Atomics.add(words, BELL.rung, 1);
    Atomics.notify(words, BELL.rung);
  };
  const links = await openCardLinks(
    config.cards,
    ring,
    createLog('net', (record) => listener.log?.(record), config.log),
  );
  const { port1, port2 } = new MessageChannel();
  const workerData: WorkerData & { port: unknown } = { config, bell, links: links.buffers, port: port2 };
  const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData, transferList: [port2] });
  const post = (command: VmCommand) => {
    port1.postMessage(command);
    ring();
  };
  /** Searches under way, by their numbers. */
  const searches = new Map<number, { resolve(result: MemorySearch): void; reject(error: Error): void }>();
  let searched = 0;
  const handled = () => {
    Atomics.sub(words, BELL.messages, 1);
    Atomics.notify(words, BELL.messages);
  };
  const ended = new Promise<{ outcome: Outcome; report: VmReport }>((resolve, reject) => {
    worker.on('message', (message: VmMessage) => {
      switch (message.kind) {
        case 'console': {
          const taken = listener.console(message.bytes);
          if (taken === undefined) break;
          void taken.then(handled);
          return;
        }
        case 'event':
          listener.event?.(message.event);
          break;
        case 'log':
          listener.log?.(message.record);
          break;
        case 'searched':
          searches.get(message.id)?.resolve(message.search);
          searches.delete(message.id);
          break;
        case 'ended':
          resolve({ outcome: message.outcome, report: message.report });
          break;
        case 'error':
          reject(
            message.defect === undefined
              ? new UserError(message.message, message.fix, message.exit as ExitName)
              : new Error(`${message.message}\n${message.defect}`),
          );
          break;
      }
      handled();
    });
    worker.on('error', reject);
    worker.on('exit', () => reject(new Error("the machine's thread ended without a result")));
  });
  const stopTrimming = trimAllocator();
  let over = false;
  const close = () => {
    over = true;
    for (const { reject } of searches.values()) reject(new Error(OVER));
    stopTrimming();
    port1.close();
    links.close();
    void worker.terminate();
  };
  ended.then(close, close);
  return {
    input(bytes) {
      Atomics.add(words, BELL.input, bytes.length);
      post({ kind: 'input', bytes });
    },
    inputBacklog: () => Atomics.load(words, BELL.input),
    search: (needles) =>
      new Promise<MemorySearch>((resolve, reject) => {
        if (over) reject(new Error(OVER));
        searches.set(searched, { resolve, reject });
        post({ kind: 'search', id: searched++, needles: [...needles] });
      }),
    setLink: (card, up) => post({ kind: 'link', card, up }),
    hold(on) {
      Atomics.store(words, BELL.held, on ? 1 : 0);
      Atomics.notify(words, BELL.held);
      ring();
    },
    pin(cpu, core) {
      const cpus = config.cpus ?? 1;
      const cores = config.cores ?? cpus;
      if (!(isBelow(cpu, cpus) && isBelow(core, cores))) {
        throw new RangeError(`virtual CPU ${cpu} cannot be pinned to core ${core}: there are ${cpus} and ${cores}, counted from 0`);
      }
      post({ kind: 'pin', cpu, core });
    },
    stop() {
      Atomics.store(words, BELL.stopping, 1);
      Atomics.notify(words, BELL.messages);
      Atomics.notify(words, BELL.held);
      post({ kind: 'stop' });
    },
    ended,
  };
}
