/**
 * Audit events: what an administrator must be able to see afterwards. The monitor makes them, a port takes them away.
 * A guest can provoke events at will, so the stream is limited; what was held back is counted in the next event.
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
  | { event: 'privilege.detached'; module: string; instance: number; privilege: string };

/** `time`: ns since the virtual machine started. `suppressed`: events held back since the one before, if any. */
export type AuditEvent = AuditBody & { time: number; suppressed?: number };
export type AuditPort = (event: AuditEvent) => void;

/** Events that may come at once, and per second after that. */
const BURST = 200;
const PER_SECOND = 20;

export function createAudit(port: AuditPort, now: () => number): (body: AuditBody) => boolean {
  let tokens = BURST;
  let refilled = now();
  let suppressed = 0;
  /** True if the event went out. */
  return (body) => {
    const time = now();
    tokens = Math.min(BURST, tokens + ((time - refilled) / 1e9) * PER_SECOND);
    refilled = time;
    if (tokens < 1 && on('audit-limit')) {
      suppressed += 1;
      return false;
    }
    tokens -= 1;
    port(suppressed > 0 ? { ...body, time, suppressed } : { ...body, time });
    suppressed = 0;
    return true;
  };
}
