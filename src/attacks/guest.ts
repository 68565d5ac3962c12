/** Runs the attacks of guest-attacks.ts: a stock kernel boots once, and gets one order after another; a guest that an attack has killed is started anew. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { withoutDefences } from '../base/defence-switch.ts';
import { readObject } from '../elf/read.ts';
import { buildCModules } from '../guest/c-module.ts';
import { stockExportVersion } from '../guest/export-versions.ts';
import { fetchBusybox, fetchKernel } from '../guest/fetch.ts';
import { buildInitramfs } from '../guest/initramfs.ts';
import { openKernelImage } from '../guest/kernel-image.ts';
import type { Progress } from '../guest/packages.ts';
import { buildProgram } from '../guest/program.ts';
import { linkModule } from '../linker/link.ts';
import { manifestDigest } from '../policy/canonical.ts';
import { generateKeyPair, signGrant } from '../policy/signing.ts';
import type { VmConfig, VmEvent } from '../vm/config.ts';
import { type RunningVm, startVm } from '../vm/host.ts';
import type { Outcome, Result } from './attack.ts';
import type { GuestAttack } from './guest-attacks.ts';
import { guestScript, QUIT, READY, RESULT } from './guest-script.ts';

const NAME = 'hostile';
/** victim.h */
const MSR = 0x4000_0000;
const PORT = 0xf4;
const VALUE = 0x5ec4e7n;
/** victim.c */
const GADGET = 'victim_gadget';
/** What a program needs to be a kernel too: an address of its own below 1 MiB, which Linux leaves alone, and nothing that wants an operating system. */
const OTHER_KERNEL = [
  ...['-mno-red-zone', '-mgeneral-regs-only', '-fno-stack-protector', '-fcf-protection=none'],
  ...['-Wl,-N', '-Wl,-Ttext=0x20000', '-Wl,--build-id=none', '-Wl,--no-warn-rwx-segments'],
];
const MEMORY = 128 << 20;
/** Longest wait for a boot, and for an answer, ms: the machine may be loaded. */
const PATIENCE = 60_000;
/** Without its defence the guest may come to grief by itself before the attack is made: it gets some more tries, and less time for each. */
const TRIES = 6;
const LESS_PATIENCE = 15_000;
const DAY = 86_400_000;
const LINE_LIMIT = 4096;
const EVENT_LIMIT = 10_000;

const source = (name: string) => fileURLToPath(new URL(`../../modules/attacks/${name}.c`, import.meta.url));

/** Builds victim and attacker, links and grants. Throws UserError where gcc, make or the kernel's headers are missing. */
export async function prepareGuest(step: Progress): Promise<VmConfig> {
  const kernel = await fetchKernel(step);
  const busybox = readFileSync(await fetchBusybox(step));
  const [plain, hostile, cpus] = await buildCModules(['victim', 'hostile', 'cpus'].map(source), kernel.release, step);
  const otherKernel = buildProgram(source('kexec'), OTHER_KERNEL);
  const image = await openKernelImage(kernel.image, readFileSync(kernel.image));
  const victim = linkModule(plain.image, 'victim.ko', {}, stockExportVersion);
  const administrator = generateKeyPair();
  const now = Date.now();
  const grant = signGrant(
    {
      format: 'portcullis-grant-1',
      manifest: manifestDigest(victim.manifest),
      vms: [NAME],
      privileges: [
        { kind: 'msr', parameters: { read: [`0x${MSR.toString(16)}`] } },
        { kind: 'io-port', parameters: { ports: [`0x${PORT.toString(16)}`] } },
      ],
      onViolation: 'quarantine',
      notBefore: new Date(now - DAY).toISOString(),
      notAfter: new Date(now + DAY).toISOString(),
      serial: randomBytes(16).toString('hex'),
    },
    administrator.privateKey,
  );
  const object = readObject(victim.image, 'victim.ko');
  const gadget = object.symbols.find(({ name }) => name === GADGET)?.value;
  if (gadget === undefined) throw new Error(`victim.ko has no symbol ${GADGET}`);
  const script = guestScript({ size: object.section('.text')?.size ?? 0, gadget: Number(gadget) });
  return {
    name: NAME,
    engine: 'soft',
    clock: 'host',
    cpus: 2,
    memory: MEMORY,
    kernel: { elf: image.elf, setupHeader: image.setupHeader, name: kernel.image },
    initramfs: buildInitramfs(busybox, [
      { kind: 'file', path: 'etc/portcullis/start', mode: 0o755, data: Buffer.from(script) },
      { kind: 'file', path: 'lib/modules/victim.ko', data: victim.image },
      { kind: 'file', path: 'lib/modules/hostile.ko', data: hostile.image },
      { kind: 'file', path: 'lib/modules/cpus.ko', data: cpus.image },
      { kind: 'file', path: 'bin/kexec', mode: 0o755, data: otherKernel },
    ]),
    commandLine: 'console=ttyS0 panic=-1 quiet cryptomgr.notests',
    modules: [{ image: victim.image, manifest: victim.manifest, grants: [grant] }],
    trustedKeys: [administrator.publicKey],
    msrs: [{ index: MSR, value: VALUE }],
    cards: [],
    debugExitPort: PORT,
    wallClock: now,
    log: 'error',
  };
}

/** One running hostile guest. */
class HostileGuest {
  private line = '';
  private events: VmEvent[] = [];
  private waiting: ((line: string | undefined) => void) | undefined;
  private wanted = '';
  private constructor(private readonly vm: RunningVm) {
    vm.ended.then(
      () => this.answer(undefined),
      () => this.answer(undefined),
    );
  }

  /** Undefined: it did not boot. */
  static async boot(config: VmConfig): Promise<HostileGuest | undefined> {
    let guest: HostileGuest | undefined;
    const early: Uint8Array[] = [];
    const vm = await startVm(config, {
      console(bytes) {
        if (guest === undefined) early.push(bytes);
        else guest.take(bytes);
        return undefined;
      },
      event: (event) => guest?.record(event),
    });
    guest = new HostileGuest(vm);
    const ready = guest.wait(READY);
    for (const bytes of early) guest.take(bytes);
    if ((await ready) !== undefined) return guest;
    guest.stop();
    return undefined;
  }

  /** What came of one order; undefined: the guest no longer answers. */
  async order(text: string, patience: number): Promise<{ answer: string | undefined; reasons: string[] }> {
    this.events = [];
    const answered = this.wait(RESULT, patience);
    this.vm.input(Buffer.from(`${text}\n`));
    const answer = await answered;
    const reasons = this.events.flatMap((event) => {
      if (event.event === 'guard.violation' || event.event === 'module.refused') return [event.reason as string];
      return event.event === 'window.refused' ? [event.event] : [];
    });
    return { answer, reasons: [...new Set(reasons)].sort() };
  }

  /** True if it powers off when told to. */
  async quit(): Promise<boolean> {
    this.vm.input(Buffer.from(`${QUIT}\n`));
    const timer = setTimeout(() => this.vm.stop(), PATIENCE);
    try {
      return (await this.vm.ended).outcome.kind === 'off';
    } catch {
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  stop(): void {
    this.vm.stop();
  }

  private record(event: VmEvent): void {
    if (this.events.length < EVENT_LIMIT) this.events.push(event);
  }

  private take(bytes: Uint8Array): void {
    const parts = (this.line + Buffer.from(bytes).toString('utf8')).split('\n');
    this.line = (parts.pop() ?? '').slice(-LINE_LIMIT);
    for (const part of parts) {
      const line = part.replaceAll('\r', '');
      const at = this.wanted === '' ? -1 : line.indexOf(this.wanted);
      if (at >= 0) this.answer(line.slice(at + this.wanted.length, at + LINE_LIMIT));
    }
  }

  private wait(wanted: string, patience = PATIENCE): Promise<string | undefined> {
    this.wanted = wanted;
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.answer(undefined), patience);
      this.waiting = (line) => {
        clearTimeout(timer);
        resolve(line);
      };
    });
  }

  private answer(line: string | undefined): void {
    const { waiting } = this;
    this.waiting = undefined;
    this.wanted = '';
    waiting?.(line);
  }
}

/** Runs them in order, with their defences and, where there is a switch, without. */
export async function runGuestAttacks(attacks: readonly GuestAttack[], step: Progress): Promise<Result[]> {
  if (attacks.length === 0) return [];
  const config = await prepareGuest(step);
  let guest: HostileGuest | undefined;
  const attempt = async ({ by, action, last }: GuestAttack, patience: number): Promise<Outcome> => {
    const ready = (last ? undefined : guest) ?? (await HostileGuest.boot(config));
    if (ready === undefined) return { gained: undefined, reasons: [], dead: 'the guest does not boot' };
    const { answer, reasons } = await ready.order(`${by} ${action}`, patience);
    const [, verdict, text] = /^(gained|nothing|dead) ?(.*)$/.exec(answer ?? 'dead the guest no longer answers') ?? [];
    const survives = !last && (verdict === 'gained' || verdict === 'nothing');
    if (!survives) ready.stop();
    if (!last) guest = survives ? ready : undefined;
    if (verdict === 'gained') return { gained: text, reasons, dead: undefined };
    return { gained: undefined, reasons, dead: verdict === 'nothing' ? undefined : (text ?? `the guest says "${answer}"`) };
  };
  const unchecked = async (attack: GuestAttack): Promise<Outcome> => {
    let outcome = await attempt(attack, LESS_PATIENCE);
    for (let turn = 1; turn < TRIES && outcome.dead !== undefined; turn++) outcome = await attempt(attack, LESS_PATIENCE);
    return outcome;
  };
  const results: Result[] = [];
  for (const attack of attacks) {
    step({ text: `guest: ${attack.name}` });
    const { by: _, action: __, last: ___, ...about } = attack;
    const held = await attempt(attack, PATIENCE);
    const without =
      typeof about.defences === 'string' || withoutDefences === undefined
        ? undefined
        : await withoutDefences(about.defences, () => unchecked(attack));
    results.push({ ...about, stage: 'guest', with: held, without });
  }
  if (guest !== undefined && !(await guest.quit())) {
    const last = results[results.length - 1];
    results[results.length - 1] = { ...last, with: { ...last.with, dead: 'the guest does not power off afterwards' } };
  }
  return results;
}
