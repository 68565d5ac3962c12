/** Attacks on the privileges themselves: ports, MSRs, windows, MWAIT, secrets (P1, P7, P10, P12). */
import { UserError } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import { PAGE_SIZE, type PhysicalRange } from '../engine/contract.ts';
import { FakeEngine } from '../engine/fake/engine.ts';
import type { PrivilegeGrant } from '../policy/grant.ts';
import { generateVmmKeyPair, sealSecret } from '../policy/seal.ts';
import type { PciDevicePort } from '../privileges/pci-device.ts';
import { PrivilegeSet } from '../privileges/privileges.ts';
import { CORE, G, granted, insideInner, KERNEL_TEXT, registered, T, tinyImage } from '../privileges/testing.ts';
import type { ContractAttack, Outcome } from './attack.ts';
import { PRIVATE, SECOND_FRAMES, SECOND_RSP, SHIFT, Stage, viewPage } from './scenario.ts';

/** A card whose BARs the guest moves. */
class Card implements PciDevicePort {
  readonly vendor = 0x8086;
  readonly product = 0x100e;
  private readonly listeners: (() => void)[] = [];
  constructor(private memory: PhysicalRange[]) {}

  memoryRanges = () => this.memory;
  ioRanges = () => [];
  reset(): void {}
  onBarChange(listener: () => void): void {
    this.listeners.push(listener);
  }
  move(start: number): void {
    this.memory = [{ start, end: start + 0x2_0000 }];
    for (const listener of this.listeners) listener();
  }
}
const FIRST = 0xfeb0_0000;
const SECOND = 0xfec0_0000;
const [SLOT_3, SLOT_4] = ['0000:00:03.0', '0000:00:04.0'];
const cardGrant = (device: string, product = '100e'): PrivilegeGrant => ({
  kind: 'pci-device',
  parameters: { device, vendor: '8086', product },
});
const MSR_GRANT: PrivilegeGrant = { kind: 'msr', parameters: { read: ['0x40000000'] } };
const PORT_GRANT: PrivilegeGrant = { kind: 'io-port', parameters: { ports: ['0xf4'] } };
const SECRET_SECTION = '.portcullis.private.secret.key';
const vmm = generateVmmKeyPair();
const MODULE = { digest: 'a'.repeat(64), sections: [{ name: SECRET_SECTION, role: 'private', size: PAGE_SIZE }] } as const;

interface Setting {
  stage: Stage;
  set: PrivilegeSet;
  cards: [Card, Card];
}
/** Module `a` with one grant, and where there is another one `b`. */
function setting(first: PrivilegeGrant, second?: PrivilegeGrant, cpus = 2): Setting {
  const images = [tinyImage({ module: 'a', privateName: SECRET_SECTION }), ...(second ? [tinyImage({ module: 'b', version: 2 })] : [])];
  const cards: [Card, Card] = [new Card([{ start: FIRST, end: FIRST + 0x2_0000 }]), new Card([{ start: SECOND, end: SECOND + 0x2_0000 }])];
  let set: PrivilegeSet | undefined;
  const stage = new Stage(
    (engine) => {
      const made = (set = new PrivilegeSet({
        engine,
        log: silentLog,
        pciDevice: (address) => cards[[SLOT_3, SLOT_4].indexOf(address)],
        vmmKey: vmm.privateKey,
        msrs: [{ index: 0x4000_0000, value: 0x5ec4e7n }],
      }));
      return images.map((image, index) =>
        registered(image, granted({ privileges: [made.configure(index === 0 ? first : (second as PrivilegeGrant), MODULE)] })),
      );
    },
    { cpus },
  );
  stage.start(images[0]);
  if (second) stage.start(images[1], { shift: SHIFT, frames: SECOND_FRAMES });
  return { stage, set: set as PrivilegeSet, cards };
}
/** Gives what a machine without a privilege says: an error is a clear refusal. */
function refusedOr(stage: Stage, work: () => string | undefined): Outcome {
  try {
    return stage.outcome(work());
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { ...stage.outcome(undefined), reasons: [error.message.split(':')[0]] };
  }
}
const QUIET = 'a contract has no machine: there the access is answered with all ones or #GP, and recorded as window.refused';

const probes = [
  ['port', PORT_GRANT, ({ set }: Setting, cpu: Stage['cpu']) => set.portAllowed(cpu, 0xf4)],
  ['msr', MSR_GRANT, ({ set }: Setting, cpu: Stage['cpu']) => set.accessMsr(cpu, 0x4000_0000) === 0x5ec4e7n],
] as const;

const probeAttacks = probes.flatMap(([kind, grant, reach]): ContractAttack[] => [
  {
    name: `${kind}-outside-the-module`,
    what: `the kernel uses a granted ${kind} while the module is loaded, before, between and after its calls`,
    promises: ['P1'],
    defences: ['privilege-follows-view'],
    silent: QUIET,
    run() {
      const all = setting(grant);
      const { stage } = all;
      let gained = reach(all, stage.cpu);
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      gained ||= reach(all, stage.cpu);
      return stage.outcome(gained && `the kernel reaches the ${kind}`);
    },
  },
  {
    name: `${kind}-in-an-interrupt`,
    what: `the handler of an interrupt in the module uses its ${kind}`,
    promises: ['P1', 'P6'],
    defences: ['privilege-follows-view'],
    silent: QUIET,
    run() {
      const all = setting(grant);
      const { stage } = all;
      insideInner(stage);
      stage.handle(stage.cpu.event(CORE + T.warn, { vector: 32 }));
      return stage.outcome(reach(all, stage.cpu) && `the handler reaches the ${kind}`);
    },
  },
  {
    name: `${kind}-on-another-cpu`,
    what: `another CPU uses the ${kind} while the first is in the module`,
    promises: ['P1'],
    defences: ['privilege-follows-view'],
    silent: QUIET,
    run() {
      const all = setting(grant);
      insideInner(all.stage);
      return all.stage.outcome(reach(all, all.stage.engine.cpus[1]) && `the other CPU reaches the ${kind}`);
    },
  },
  {
    name: `${kind}-of-another-module`,
    what: `a guarded module that was granted something else uses the ${kind}`,
    promises: ['P1'],
    defences: ['privilege-follows-view'],
    silent: QUIET,
    run() {
      const all = setting(grant, { kind: 'mwait', parameters: {} });
      all.stage.call(G.probe, SECOND_RSP, all.stage.cpu, SHIFT);
      return all.stage.outcome(all.stage.inside() && reach(all, all.stage.cpu) && `module b reaches the ${kind} of module a`);
    },
  },
]);

const sealed = () => sealSecret(Buffer.from('the key'), vmm.publicKey, { manifest: MODULE.digest, name: 'key' });

export const privilegeAttacks: readonly ContractAttack[] = [
  ...probeAttacks,
  {
    name: 'msr-written-that-may-be-read',
    what: 'the module is made to write an MSR that it was granted for reading',
    promises: ['P10'],
    defences: ['msr-direction'],
    silent: QUIET,
    run() {
      const { stage, set } = setting(MSR_GRANT);
      stage.call(G.probe);
      const answer = set.accessMsr(stage.cpu, 0x4000_0000, 1n);
      return stage.outcome(answer === 1n && 'the register has another value');
    },
  },
  {
    name: 'window-before-load',
    what: 'the kernel uses the registers of a granted card while its module is not loaded',
    promises: ['P1'],
    defences: ['window-hide'],
    silent: QUIET,
    run() {
      const engine = new FakeEngine();
      const card = new Card([{ start: FIRST, end: FIRST + 0x2_0000 }]);
      const set = new PrivilegeSet({ engine, log: silentLog, pciDevice: () => card });
      set.configure(cardGrant(SLOT_3), MODULE);
      return { gained: engine.hidden.length === 0 ? 'the registers are there for everybody' : undefined, reasons: [], dead: undefined };
    },
  },
  {
    name: 'window-over-ram',
    what: 'the kernel moves the window of a granted card over RAM, by its BAR',
    promises: ['P1', 'P11'],
    defences: ['window-outside-ram'],
    silent: 'the window is not given; the log says so',
    run() {
      const { stage, cards } = setting(cardGrant(SLOT_3));
      cards[0].move(0x10_0000);
      stage.call(G.probe);
      return stage.outcome(stage.cpu.view.windows.length > 0 && 'guest RAM is a device window');
    },
  },
  {
    name: 'window-over-another-card',
    what: "the kernel moves the window of one module's card over the card of another module",
    promises: ['P1'],
    defences: ['window-unshared'],
    silent: 'what two claim belongs to nobody',
    run() {
      const { stage, cards } = setting(cardGrant(SLOT_3), cardGrant(SLOT_4));
      cards[0].move(SECOND);
      stage.call(G.probe);
      return stage.outcome(stage.cpu.view.windows.some(({ start }) => start === SECOND) && 'module a reaches the card of module b');
    },
  },
  {
    name: 'window-after-quarantine',
    what: 'the kernel moves the BAR of a card whose module is quarantined, so that its windows are made anew',
    promises: ['P12'],
    defences: ['quarantine'],
    run() {
      const { stage, cards } = setting(cardGrant(SLOT_3));
      stage.call(G.probe);
      const { view } = stage.cpu;
      stage.push(0);
      stage.handle(stage.cpu.fetch(KERNEL_TEXT));
      cards[0].move(SECOND + 0x10_0000);
      return stage.outcome(view.windows.length > 0 && 'the quarantined module has its window again');
    },
  },
  {
    name: 'port-of-two-modules',
    what: "two grants with overlapping ports: each module reaches for what is the other's too",
    promises: ['P1', 'P10'],
    defences: ['port-unshared'],
    silent: QUIET,
    run() {
      const { stage, set } = setting(PORT_GRANT, { kind: 'io-port', parameters: { ports: ['0xf0-0xff'] } });
      stage.call(G.probe, SECOND_RSP, stage.cpu, SHIFT);
      return stage.outcome(stage.inside() && set.portAllowed(stage.cpu, 0xf4) && "module b reaches module a's port");
    },
  },
  {
    name: 'shared-privilege-unloaded',
    what: 'one privilege granted to two modules; one is unloaded while the other is inside',
    promises: ['P1', 'P12'],
    defences: 'who holds a privilege is a set of instances; one that goes takes itself out and nothing else',
    run() {
      const { stage, set } = setting(PORT_GRANT, PORT_GRANT);
      const [first, second] = stage.engine.cpus;
      stage.call(G.probe, SECOND_RSP, second);
      stage.call(G.cleanup, undefined, first, SHIFT);
      stage.ret(first);
      const lost = !set.portAllowed(second, 0xf4);
      return stage.outcome(set.portAllowed(first, 0xf4) ? 'the kernel reaches the port' : lost && 'the other module lost its port');
    },
  },
  {
    name: 'mwait-on-a-shared-core',
    what: 'the module waits by MWAIT on a CPU that shares its core, and keeps the core from the other',
    promises: ['P1'],
    defences: ['mwait-alone'],
    silent: 'MWAIT comes back at once, and mwait.refused is recorded by the machine',
    run() {
      const { stage, set } = setting({ kind: 'mwait', parameters: {} });
      set.setAlone(0, true);
      set.setAlone(0, false);
      stage.call(G.probe);
      return stage.outcome(!stage.cpu.mwaitWithheld && 'MWAIT keeps the core');
    },
  },
  {
    name: 'mwait-outside-the-module',
    what: 'the kernel and user space use MONITOR and MWAIT that were granted to the module',
    promises: ['P1'],
    defences: ['leave-view'],
    silent: 'the instructions do not exist there: #UD',
    run() {
      const { stage } = setting({ kind: 'mwait', parameters: {} });
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      return stage.outcome(stage.cpu.view.allowed.has('monitor-mwait') && 'the kernel can use MWAIT');
    },
  },
  {
    name: 'secret-after-quarantine',
    what: 'a rule is broken on purpose, to find the secret in what is left of the module',
    promises: ['P7', 'P12'],
    defences: ['secret-wipe'],
    run() {
      const { stage } = setting({ kind: 'secret', parameters: { name: 'key', sealed: sealed() } });
      stage.call(G.probe);
      const page = viewPage(stage, PRIVATE);
      stage.push(0);
      stage.handle(stage.cpu.fetch(KERNEL_TEXT));
      return stage.outcome(Buffer.from(page).includes('the key') && 'the secret is still in its page');
    },
  },
  {
    name: 'secret-in-guest-memory',
    what: 'all guest memory is searched for the secret, as the kernel and a device can',
    promises: ['P7'],
    defences: 'host pages lie outside guest memory: no guest physical address leads there',
    run() {
      const { stage } = setting({ kind: 'secret', parameters: { name: 'key', sealed: sealed() } });
      stage.call(G.probe);
      const there = Buffer.from(viewPage(stage, PRIVATE)).includes('the key');
      if (!there) return { gained: 'the module itself has no secret', reasons: [], dead: undefined };
      return stage.outcome(Buffer.from(stage.engine.memory.bytes).includes('the key') && 'the secret is in guest memory');
    },
  },
  {
    name: 'secret-of-another-module',
    what: 'a grant for another module carries the sealed secret of this one',
    promises: ['P7', 'P10'],
    defences: 'the manifest is authenticated with the secret (AES-256-GCM): it does not open for another one',
    run() {
      const engine = new FakeEngine();
      const set = new PrivilegeSet({ engine, log: silentLog, pciDevice: () => undefined, vmmKey: vmm.privateKey });
      return refusedOr(new Stage([]), () => {
        set.configure({ kind: 'secret', parameters: { name: 'key', sealed: sealed() } }, { ...MODULE, digest: 'b'.repeat(64) });
        return 'the secret opens for another module';
      });
    },
  },
  {
    name: 'another-device-in-the-slot',
    what: 'a grant for one kind of card is used where another card is in the slot',
    promises: ['P10'],
    defences: ['device-identity'],
    run() {
      const engine = new FakeEngine();
      const set = new PrivilegeSet({ engine, log: silentLog, pciDevice: () => new Card([{ start: FIRST, end: FIRST + 0x2_0000 }]) });
      return refusedOr(new Stage([]), () => {
        set.configure(cardGrant(SLOT_3, '8139'), MODULE);
        return 'the grant gives a device that it does not name';
      });
    },
  },
  {
    name: 'the-port-of-the-gates',
    what: 'a grant for the port of the gates: whoever holds it could keep every border from working',
    promises: ['P2', 'P10'],
    defences: ['gate-port-reserved'],
    run() {
      const set = new PrivilegeSet({ engine: new FakeEngine(), log: silentLog, pciDevice: () => undefined });
      return refusedOr(new Stage([]), () => {
        set.configure({ kind: 'io-port', parameters: { ports: ['0x5e'] } }, MODULE);
        return 'the port of the gates is granted';
      });
    },
  },
];
