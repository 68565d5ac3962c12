/**
 * From the core's exit record to the contract's exits. One object of each kind is made for a CPU and used again, so that exits
 * allocate nothing.
 */

import { type Exit, joinAddress, type PendingEvent, type ShadowStackReason } from '../contract.ts';
import {
  EVENT_TYPE_EXCEPTION,
  EVENT_TYPE_INTERRUPT,
  EVENT_TYPE_NMI,
  EVENT_TYPE_SOFTWARE,
  EXIT_ADDRESS,
  EXIT_CODE,
  EXIT_EVENT,
  EXIT_EXTENSIONS,
  EXIT_FETCH,
  EXIT_GPA,
  EXIT_HALT,
  EXIT_IO,
  EXIT_KICK,
  EXIT_LINEAR,
  EXIT_MMIO,
  EXIT_MSR,
  EXIT_MWAIT,
  EXIT_PAUSE,
  EXIT_PORT,
  EXIT_SHADOW_STACK,
  EXIT_SHUTDOWN,
  EXIT_SIZE,
  EXIT_TYPE,
  EXIT_VALUE,
  EXIT_VECTOR,
  EXIT_WINDOW,
  EXIT_WRITE,
  NO_CODE,
  SHADOW_STACK_FAR,
  SHADOW_STACK_FULL,
  SHADOW_STACK_LANDING,
  SHADOW_STACK_MISMATCH,
} from './core/layout.ts';
import type { Space } from './space.ts';

type Kind<K extends Exit['kind']> = Extract<Exit, { kind: K }>;

export const EVENT_TYPES: Record<PendingEvent['type'], number> = {
  interrupt: EVENT_TYPE_INTERRUPT,
  nmi: EVENT_TYPE_NMI,
  exception: EVENT_TYPE_EXCEPTION,
  software: EVENT_TYPE_SOFTWARE,
};
const EVENT_NAMES = new Map(Object.entries(EVENT_TYPES).map(([name, type]) => [type, name as PendingEvent['type']]));

const SHADOW_STACK_REASONS = new Map<number, ShadowStackReason>([
  [SHADOW_STACK_MISMATCH, 'mismatch'],
  [SHADOW_STACK_FULL, 'full'],
  [SHADOW_STACK_FAR, 'far'],
  [SHADOW_STACK_LANDING, 'landing'],
]);

/**
 * One shape for all kinds: the run loop looks at `kind` first, and V8 finds a field of one shape at once, of ten only by searching. Fields that a kind
 * does not have are 0 or false: undefined would make V8 box every address.
 */
class ExitRecord {
  port = 0;
  size = 0;
  write = false;
  value = 0;
  address = 0;
  gpa = 0;
  refused = false;
  hints = 0;
  extensions = 0;
  index = 0;
  event: PendingEvent | undefined = undefined;
  reason = '';
  found = 0;

  constructor(readonly kind: Exit['kind']) {}
}

function record<K extends Exit['kind']>(kind: K, fields: Omit<Kind<K>, 'kind'>): Kind<K> {
  return Object.assign(new ExitRecord(kind), fields) as unknown as Kind<K>;
}

export class Exits {
  readonly budget = record('budget', {});
  private readonly io = record('io', { port: 0, size: 1, write: false, value: 0, address: 0 });
  private readonly mmio = record('mmio', { gpa: 0, size: 1, write: false, value: 0, refused: false });
  private readonly halt = record('halt', {});
  private readonly mwait = record('mwait', { hints: 0, extensions: 0, refused: false });
  private readonly msr = record('msr', { write: false, index: 0 });
  private readonly event = record('event', { event: { type: 'interrupt', vector: 0, errorCode: -1, address: 0n } });
  private readonly fetch = record('fetch', { address: 0 });
  private readonly shadowStack = record('shadow-stack', { reason: 'mismatch', found: 0 });
  private readonly window = record('window', {});
  private readonly shutdown = record('shutdown', {});
  private readonly words: Uint32Array;
  private readonly doubles: Float64Array;

  /** `refuses`: whether the current view lacks a guest physical address. */
  constructor(
    space: Space,
    private readonly block: number,
    private readonly refuses: (gpa: number) => boolean,
  ) {
    this.words = space.words;
    this.doubles = space.doubles;
  }

  private word(offset: number): number {
    return this.words[(this.block + offset) >>> 2] as number;
  }
  private double(offset: number): number {
    return this.doubles[(this.block + offset) >>> 3] as number;
  }

  /** The exit for a code other than EXIT_BUDGET. */
  make(code: number): Exit {
    switch (code) {
      case EXIT_IO:
        return this.makeIo();
      case EXIT_MMIO:
        return this.makeMmio();
      case EXIT_HALT:
        return this.halt;
      case EXIT_MWAIT:
        this.mwait.hints = this.word(EXIT_PORT);
        this.mwait.extensions = this.word(EXIT_EXTENSIONS);
        this.mwait.refused = this.word(EXIT_VALUE) !== 0;
        return this.mwait;
      case EXIT_MSR:
        this.msr.index = this.word(EXIT_PORT);
        this.msr.write = this.word(EXIT_WRITE) !== 0;
        return this.msr;
      case EXIT_EVENT:
        return this.makeEvent();
      case EXIT_FETCH:
        this.fetch.address = this.double(EXIT_ADDRESS);
        return this.fetch;
      case EXIT_SHADOW_STACK:
        this.shadowStack.reason = SHADOW_STACK_REASONS.get(this.word(EXIT_TYPE)) ?? 'mismatch';
        this.shadowStack.found = joinAddress(this.word(EXIT_LINEAR), this.word(EXIT_LINEAR + 4));
        return this.shadowStack;
      case EXIT_WINDOW:
        return this.window;
      case EXIT_KICK:
      case EXIT_PAUSE:
        return this.budget;
      case EXIT_SHUTDOWN:
        return this.shutdown;
      default:
        return { kind: 'debug', reason: `unknown exit code ${code}` };
    }
  }

  private makeIo(): Exit {
    const { io } = this;
    io.port = this.word(EXIT_PORT);
    io.size = this.word(EXIT_SIZE) as 1 | 2 | 4;
    io.write = this.word(EXIT_WRITE) !== 0;
    io.value = this.word(EXIT_VALUE);
    io.address = this.double(EXIT_ADDRESS);
    return io;
  }

  private makeMmio(): Exit {
    const { mmio } = this;
    mmio.gpa = this.double(EXIT_GPA);
    mmio.size = this.word(EXIT_SIZE) as 1 | 2 | 4;
    mmio.write = this.word(EXIT_WRITE) !== 0;
    mmio.value = this.word(EXIT_VALUE);
    mmio.refused = this.word(EXIT_EXTENSIONS) !== 0 || this.refuses(mmio.gpa) || this.refuses(mmio.gpa + mmio.size - 1);
    return mmio;
  }

  private makeEvent(): Exit {
    const { event } = this.event;
    event.type = EVENT_NAMES.get(this.word(EXIT_TYPE)) ?? 'exception';
    event.vector = this.word(EXIT_VECTOR);
    const code = this.word(EXIT_CODE);
    event.errorCode = code === NO_CODE ? -1 : code;
    const pageFault = event.type === 'exception' && event.vector === 14;
    event.address = pageFault ? (BigInt(this.word(EXIT_LINEAR + 4)) << 32n) | BigInt(this.word(EXIT_LINEAR)) : 0n;
    return this.event;
  }
}
