/** The event log's vocabulary: what each event means and what it says. The type makes sure that none is left out. */
import type { VmEvent } from './config.ts';

/** Lines that the log itself adds (src/policy/audit-chain.ts, src/cli/event-stream.ts). */
type LogEvent = 'audit.started' | 'audit.lost' | 'audit.ended';

export const EVENTS: Readonly<Record<VmEvent['event'] | LogEvent, string>> = {
  'audit.started': 'the log of a run begins; `id` is drawn for each',
  'vm.started': 'the machine runs: its name, engine, memory (bytes), virtual CPUs and cores',
  'module.registered': 'a guarded module is known to the VMM: SHA-256 of its image, whether a grant holds for it, what that gives',
  'module.loaded':
    'the guest loaded it, and the copy was verified: number of this instance, address of its gates, pages of text and private memory',
  'privilege.attached': 'the instance was given a privilege, to be raised whenever its code runs',
  'privilege.raised': 'a virtual CPU is alone on its core: the module can wait by MWAIT there',
  'privilege.lowered': 'a virtual CPU has company on its core: MWAIT comes back at once there',
  'module.live': 'its init function has returned success',
  'module.refused': 'a guarded module, or one call of it, was given nothing; `reason` says why, `detail` what was found',
  'guard.violation': 'a border rule was broken, by `reason`, on virtual CPU `cpu`; `count` of that reason so far',
  'module.quarantined': 'the instance broke a rule: it has lost its privileges for good, and calls of it fail',
  'privilege.detached': 'the instance has lost a privilege for good',
  'module.ended': 'the instance is gone, by `reason`: `crossings` in its life, and `unfinished` ones that will never end now',
  'window.refused':
    'code outside the module that was granted a device, port or MSR tried to reach it, from `rip`; `count` of all refused so far',
  'mwait.refused': 'a module executed MWAIT on a virtual CPU on which it is lowered; `count` so far',
  'cpu.moved': 'a virtual CPU moved from one core to another',
  'card.link': "a network card's cable was pulled out or put in",
  'audit.suppressed': '`count` events `of` a kind were held back because they came too often, and none came after them',
  'audit.lost': '`count` events could not be written here and are missing',
  'vm.ended': 'the machine ended, with this outcome',
  'audit.ended': 'the log of a run ends; it has so many `events`',
};
