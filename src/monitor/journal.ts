/**
 * The monitor's book-keeping: every refusal and violation is counted, told to the audit stream and logged. The counts never depend on the stream,
 * which holds back what comes too often.
 */
import { unreachable } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { Audit } from './audit.ts';
import type { AuditBody, AuditPort } from './audit.ts';
import { ENDINGS, REFUSALS, VIOLATIONS } from './reasons.ts';
import type { RefusalReason, ViolationReason } from './reasons.ts';

export interface Counted<Reason extends string> {
  readonly reason: Reason;
  count: number;
  readonly explanation: string;
}
/** By module and reason; `detail` is that of the last one. */
export interface Refused extends Counted<RefusalReason> {
  readonly module: string;
  detail: string;
}

export class Journal {
  private readonly audit: Audit;
  private readonly refused = new Map<string, Refused>();
  private readonly violated = new Map<ViolationReason, Counted<ViolationReason>>();

  /** `now`: ns since the virtual machine started. */
  constructor(
    port: AuditPort,
    now: () => number,
    private readonly log: Log,
  ) {
    this.audit = new Audit(port, now);
  }

  /** An event that counts nothing. */
  note(body: Exclude<AuditBody, { event: 'module.refused' | 'guard.violation' }>): void {
    if (this.audit.emit(body)) this.say(body);
  }

  refusal(module: string, reason: RefusalReason, detail: string): void {
    const key = `${module} ${reason}`;
    const known = this.refused.get(key) ?? { module, reason, detail, count: 0, explanation: REFUSALS[reason] };
    known.count += 1;
    known.detail = detail;
    this.refused.set(key, known);
    const body = { event: 'module.refused', module, reason, detail } as const;
    if (this.audit.emit(body)) this.say(body);
  }

  violation(about: { module: string; instance: number }, reason: ViolationReason, detail: string, cpu: number): void {
    const known = this.violated.get(reason) ?? { reason, count: 0, explanation: VIOLATIONS[reason] };
    known.count += 1;
    this.violated.set(reason, known);
    const body = { event: 'guard.violation', ...about, reason, detail, cpu, count: known.count } as const;
    if (this.audit.emit(body)) this.say(body);
  }

  refusals(): Refused[] {
    return [...this.refused.values()];
  }

  violations(): Counted<ViolationReason>[] {
    return [...this.violated.values()];
  }

  end(): void {
    this.audit.end();
  }

  private say(body: AuditBody): void {
    switch (body.event) {
      case 'module.loaded':
        this.log.info('module loaded and verified', fields(body));
        break;
      case 'module.refused':
        this.log.warn(`refused: ${REFUSALS[body.reason]}`, fields(body));
        break;
      case 'guard.violation':
        this.log.error(`violation: ${VIOLATIONS[body.reason]}`, fields(body));
        break;
      case 'module.ended':
        this.log.info(`module ended: ${ENDINGS[body.reason]}`, fields(body));
        break;
      case 'module.registered':
      case 'module.live':
      case 'module.quarantined':
      case 'privilege.attached':
      case 'privilege.detached':
      case 'audit.suppressed':
        break;
      default:
        unreachable(body);
    }
  }
}

const fields = ({ event: _, ...rest }: AuditBody): Record<string, unknown> => rest;
