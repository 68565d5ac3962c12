/**
 * The guarding of one machine: registered modules and their grants, the privileges they configure, the monitor that decides, and the record of
 * who was turned away from a withheld device.
 */
import { createHash } from 'node:crypto';
import { UserError } from '../base/errors.ts';
import { hex } from '../base/hex.ts';
import { createLog } from '../base/log.ts';
import { type Cpu, type Engine, type Exit, REG, registerAddress } from '../engine/contract.ts';
import type { Board } from '../machine/board.ts';
import { imageFromElf } from '../monitor/image-elf.ts';
import { createMonitor, type Verdict } from '../monitor/monitor.ts';
import type { Decision, ModuleStatus, RegisteredModule as MonitoredModule, ViolationPolicy } from '../monitor/registration.ts';
import { Watch } from '../monitor/watch.ts';
import { manifestDigest } from '../policy/canonical.ts';
import type { Grant } from '../policy/grant.ts';
import type { Manifest } from '../policy/manifest.ts';
import { verifyGrant } from '../policy/signing.ts';
import type { PciDevicePort } from '../privileges/pci-device.ts';
import { PrivilegeSet } from '../privileges/privileges.ts';
import type { RegisteredModule, VmConfig, VmEvent, VmReport } from './config.ts';
import type { VmPorts } from './vm.ts';

type ModuleState = VmReport['modules'][number]['state'];

export interface Guard {
  /** `failed`: an invariant does not hold; the machine must not run on. */
  handle(cpu: Cpu, exit: Exit): Verdict | { failed: string };
  /** The CPU is about to be reset by INIT: it leaves the module that it may be in. */
  reset(cpu: Cpu): void;
  /** True if the port belongs to a withheld device that this CPU may not reach now. Counted and logged. */
  portRefused(cpu: Cpu, exit: Extract<Exit, { kind: 'io' }>): boolean;
  /** Answers an access to one of the VMM's own MSRs, through RDX:RAX. False: there is none of that index, or this CPU may not; #GP. */
  msrAccess(cpu: Cpu, write: boolean, index: number): boolean;
  /** A virtual CPU is alone on its core from now on, or no longer. It must not be running. */
  setAlone(cpu: number, alone: boolean): void;
  /** Records an MWAIT on a CPU on which it is lowered. */
  mwaitRefused(cpu: Cpu): void;
  /** Records a refused access to a withheld window. */
  windowRefused(cpu: Cpu, exit: Extract<Exit, { kind: 'mmio' }>): void;
  report(): Pick<VmReport, 'crossings' | 'callOuts' | 'modules' | 'refusals' | 'refusedAccesses'>;
  /** Ends every instance. */
  end(): void;
}

/** Events of refused accesses that are sent one by one; after that each tenfold count. A probe in a loop must not flood the stream. */
const EVENTS_EACH = 16;

const worthAnEvent = (count: number) => count <= EVENTS_EACH || Number.isInteger(Math.log10(count));

export function createGuard(config: VmConfig, engine: Engine, board: Board, ports: VmPorts): Guard {
  const log = createLog('monitor', ports.log, config.log);
  const privileges = new PrivilegeSet({
    engine,
    log: createLog('privileges', ports.log, config.log),
    pciDevice: (address) => pciDevice(board, address),
    vmmKey: config.vmmKey,
    msrs: config.msrs,
    report: (event) => ports.event({ ...event, time: engine.clock.now() }),
  });
  const modules = config.modules.map((module) => register(module, config, privileges));
  config.modules.forEach(({ manifest, grants }, index) => {
    const { decision } = modules[index];
    if (!decision.granted && grants.length > 0) log.warn(`${manifest.module} has no grant that holds: ${decision.reason}`);
  });
  const monitor = createMonitor({ engine, modules, log, audit: ports.event });
  const watch = config.watch ? new Watch(engine) : undefined;
  const accesses = { reads: 0, writes: 0, interrupted: 0 };
  let refusedWaits = 0;

  const refuse = (cpu: Cpu, space: 'memory' | 'port' | 'msr', address: number, write: boolean) => {
    if (write) accesses.writes += 1;
    else accesses.reads += 1;
    // More exits by interrupt than returns from one: the module's code is interrupted right now, and this access comes from elsewhere.
    const interrupted = monitor.crossings.eventOut > monitor.crossings.resume;
    if (interrupted) accesses.interrupted += 1;
    const count = accesses.reads + accesses.writes;
    if (!worthAnEvent(count)) return;
    const owner = space === 'msr' ? undefined : board.pci.ownerOf(space === 'port' ? 'io' : 'memory', address);
    const event: VmEvent = {
      event: 'window.refused',
      time: engine.clock.now(),
      device: owner ? `0000:00:${owner.slot.toString(16).padStart(2, '0')}.0` : '?',
      access: write ? 'write' : 'read',
      space,
      address: hex(address),
      rip: hex(registerAddress(cpu.registers, REG.rip)),
      count,
    };
    if (interrupted) event.interrupted = 'yes';
    ports.event(event);
    log.info('access to a withheld device refused', { ...event });
  };

  const stateOf = ({ module, granted, quarantined, instances, callIns }: ModuleStatus): ModuleState => {
    if (quarantined) return 'quarantined';
    const now = instances.at(-1)?.state;
    if (now !== undefined) return now;
    if (!granted) return 'not granted';
    if (callIns.length > 0) return 'ended';
    return monitor.refusals().some((refusal) => refusal.module === module) ? 'refused' : 'registered';
  };

  return {
    handle:
      watch === undefined
        ? (cpu, exit) => monitor.handle(cpu, exit)
        : (cpu, exit) => {
            const verdict = monitor.handle(cpu, exit);
            const broken = watch.crossed(cpu);
            return broken === undefined ? verdict : { failed: `an invariant of the border does not hold: ${broken}` };
          },
    reset: (cpu) => monitor.reset(cpu),
    portRefused(cpu, exit) {
      if (privileges.portAllowed(cpu, exit.port, exit.size)) return false;
      refuse(cpu, 'port', exit.port, exit.write);
      return true;
    },
    msrAccess(cpu, write, index) {
      const { halves } = cpu.registers;
      const value = (BigInt(halves[2 * REG.rdx]) << 32n) | BigInt(halves[2 * REG.rax]);
      const answer = privileges.accessMsr(cpu, index, write ? value : undefined);
      if (answer === null) refuse(cpu, 'msr', index, write);
      if (answer === null || answer === undefined) return false;
      if (!write) {
        cpu.registers.words[REG.rax] = answer & 0xffff_ffffn;
        cpu.registers.words[REG.rdx] = answer >> 32n;
      }
      return true;
    },
    setAlone: (cpu, alone) => privileges.setAlone(cpu, alone),
    mwaitRefused(cpu) {
      refusedWaits += 1;
      if (!worthAnEvent(refusedWaits)) return;
      const module = monitor.insideModule(cpu) ?? '?';
      ports.event({ event: 'mwait.refused', time: engine.clock.now(), module, cpu: cpu.index, count: refusedWaits });
    },
    windowRefused: (cpu, exit) => refuse(cpu, 'memory', exit.gpa, exit.write),
    report() {
      const status = monitor.modules();
      return {
        crossings: { ...monitor.crossings },
        callOuts: status
          .flatMap(({ module, callOuts }) => callOuts.map((entry) => ({ module, ...entry })))
          .sort((a, b) => b.count - a.count),
        modules: status.map((module) => ({
          module: module.module,
          state: stateOf(module),
          calls: { in: total(module.callIns), out: total(module.callOuts) },
        })),
        refusals: [
          ...monitor.refusals().map(({ module, reason, detail, count }) => ({ module, reason, detail, count })),
          ...monitor.violations().map(({ reason, count, explanation }) => ({ module: '', reason, detail: explanation, count })),
        ],
        refusedAccesses: { ...accesses },
      };
    },
    end: () => monitor.end(),
  };
}

const total = (counted: readonly { count: number }[]) => counted.reduce((sum, { count }) => sum + count, 0);

/** Checks digests and grants. A grant that does not hold gives nothing, and says why in the audit stream; a wrong image or key is an error of the caller. */
function register({ image, manifest, grants }: RegisteredModule, config: VmConfig, privileges: PrivilegeSet): MonitoredModule {
  const digest = createHash('sha256').update(image).digest('hex');
  if (digest !== manifest.image) {
    throw new UserError(
      `module ${manifest.module}: the image has SHA-256 ${digest}, its manifest says ${manifest.image}`,
      'link the module again, or use the manifest made with it',
      'refused',
    );
  }
  return { image: imageFromElf(image, manifest), digest, decision: decide(manifest, grants, config, privileges) };
}

function decide(manifest: Manifest, grants: readonly unknown[], config: VmConfig, privileges: PrivilegeSet): Decision {
  const digest = manifestDigest(manifest);
  let reason = 'no grant was given';
  const spent = new Set(config.revokedGrants);
  const held: Grant[] = [];
  for (const signed of grants) {
    const verdict = verifyGrant(signed, config.trustedKeys, { manifestDigest: digest, vm: config.name, now: new Date(), spent });
    if (verdict.ok) held.push(verdict.grant);
    // A grant for another module is that module's affair.
    else if (verdict.reason !== 'wrong-manifest') reason = verdict.detail;
    else if (grants.length === 1) reason = verdict.detail;
  }
  if (held.length === 0) return { granted: false, reason };
  const policies = [...held.map(({ onViolation }) => onViolation), ...(config.onViolation ? [config.onViolation] : [])];
  const strictest =
    (['stop', 'quarantine', 'log'] as const satisfies readonly ViolationPolicy[]).find((policy) => policies.includes(policy)) ??
    'quarantine';
  return {
    granted: true,
    privileges: held.flatMap((grant) =>
      grant.privileges.map((privilege) => privileges.configure(privilege, { digest, sections: manifest.sections })),
    ),
    onViolation: strictest,
  };
}

/** A PCI function as the privileges see it. */
function pciDevice(board: Board, address: string): PciDevicePort | undefined {
  const match = /^0000:00:([0-9a-f]{2})\.0$/.exec(address);
  const slot = match ? Number.parseInt(match[1], 16) : -1;
  const found = board.pci.functions.find((entry) => entry.slot === slot)?.function;
  if (!found) return undefined;
  const ranges = (kind: 'memory' | 'io') =>
    board.pci
      .barsOf(slot)
      .filter((bar) => bar.kind === kind && bar.decoded)
      .map(({ start, size }) => ({ start, end: start + size }));
  return {
    vendor: found.vendor,
    product: found.device,
    memoryRanges: () => ranges('memory'),
    ioRanges: () => ranges('io'),
    onBarChange: (listener) =>
      board.pci.onBarChange((changed) => {
        if (changed === slot) listener();
      }),
    reset: () => board.pci.resetFunction(slot),
  };
}
