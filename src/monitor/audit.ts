/**
 * Audit events: what an administrator must be able to see afterwards. The monitor makes them, a port takes them away.
 * A guest can provoke events at will, so each kind (event, module and reason) is limited by itself: a flood of one must not hide another.
 * What was held back is counted in the kind's next event, or at the end.
 */
import { on } from '../base/defence-switch.ts';
import type { EndReason, RefusalReason, ViolationReason } from './reasons.ts';

/** `unfinished`: crossings that will never end now, such as those of threads that died in the module. */
export type AuditBody =
  | { event: 'module.registered'; module: string; image: string; granted: boolean; privileges: string[] }
  | { event: 'module.loaded'; module: string; instance: number; base: string; textPages: number; privatePages: number }
  | { event: 'module.live'; module: string; instance: number }
  | { event: 'module.refused'; module: string; reason: RefusalReason; detail: string }
  | { event: 'module.quarantined'; module: string; instance: number; reason: ViolationReason }
  | { event: 'module.ended'; module: string; instance: number; reason: EndReason; crossings: number; unfinished: number }
  | { event: 'guard.violation'; module: string; instance: number; reason: ViolationReason; detail: string; cpu: number; count: number }
  | { event: 'privilege.attached'; module: string; instance: number; privilege: string }
  | { event: 'privilege.detached'; module: string; instance: number; privilege: string }
  /** The last word on a kind of events of which some were held back and none came after. */
  | { event: 'audit.suppressed'; of: Exclude<AuditBody['event'], 'audit.suppressed'>; module: string; reason?: string; count: number };

/** `time`: ns since the virtual machine started. `suppressed`: events of this kind held back since the one before, if any. */
export type AuditEvent = AuditBody & { time: number; suppressed?: number };
export type AuditPort = (event: AuditEvent) => void;

/** Events of one kind that may come at once, and per second after that. There are as many kinds as modules are registered, times the words of reasons.ts. */
const BURST = 100;
const PER_SECOND = 10;

interface Kind {
  readonly of: AuditBody;
  tokens: number;
  refilled: number;
  suppressed: number;
}

const reasonOf = (body: AuditBody) => ('reason' in body ? body.reason : undefined);

/** The limited stream. `now`: ns since the virtual machine started. */
export class Audit {
  private readonly kinds = new Map<string, Kind>();

  constructor(
    private readonly port: AuditPort,
    private readonly now: () => number,
  ) {}

  /** True if the event went out. */
  emit(body: AuditBody): boolean {
    const time = this.now();
    const kind = this.kindOf(body, time);
    kind.tokens = Math.min(BURST, kind.tokens + ((time - kind.refilled) / 1e9) * PER_SECOND);
    kind.refilled = time;
    if (kind.tokens < 1 && on('audit-limit')) {
      kind.suppressed += 1;
      return false;
    }
    kind.tokens -= 1;
    this.port(kind.suppressed > 0 ? { ...body, time, suppressed: kind.suppressed } : { ...body, time });
    kind.suppressed = 0;
    return true;
  }

  /** Nothing more will come: what was held back and not told yet is counted in an event of its own. */
  end(): void {
    for (const { of, suppressed: count } of this.kinds.values()) {
      if (count === 0 || of.event === 'audit.suppressed') continue;
      const reason = reasonOf(of);
      const about = { of: of.event, module: of.module, ...(reason !== undefined && { reason }) };
      this.port({ event: 'audit.suppressed', ...about, count, time: this.now() });
    }
    this.kinds.clear();
  }

  private kindOf(body: AuditBody, time: number): Kind {
    const name = `${body.event} ${body.module} ${reasonOf(body) ?? ''}`;
    const known = this.kinds.get(name);
    if (known !== undefined) return known;
    const kind = { of: body, tokens: BURST, refilled: time, suppressed: 0 };
    this.kinds.set(name, kind);
    return kind;
  }
}
