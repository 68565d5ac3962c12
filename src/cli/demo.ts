/**
 * `portcullis demo`, the main job: the stock e1000 driver of the stock kernel, linked into a guarded module, granted the card, run for real; and
 * everything outside it probed for the same card.
 */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import type { CpioEntry } from '../guest/cpio.ts';
import { demoScript } from '../guest/demo-script.ts';
import { fetchBusybox, fetchKernel, findModule, type StockKernel } from '../guest/fetch.ts';
import { buildInitramfs } from '../guest/initramfs.ts';
import { openKernelImage } from '../guest/kernel-image.ts';
import type { Progress } from '../guest/packages.ts';
import { buildProbeModule, PROBE_NAME } from '../guest/probe-module.ts';
import { linkModule } from '../linker/link.ts';
import { contentSha256 } from '../net/peer/content.ts';
import { manifestDigest } from '../policy/canonical.ts';
import { generateKeyPair, signGrant } from '../policy/signing.ts';
import type { VmConfig } from '../vm/config.ts';
import { cardsOf, FIRST_CARD_SLOT, pciAddress, processors } from './assemble.ts';
import { action } from './command.ts';
import { type DemoResult, judge, summary } from './demo-report.ts';
import { idleDemo } from './demo-idle.ts';
import { vaultDemo } from './demo-vault.ts';
import { DemoTranscript } from './demo-transcript.ts';
import { makeGrant } from './keys.ts';
import { pacedStream, printJson } from './output.ts';
import { addRunOptions, resolveRunOptions, type RunOptions } from './run-options.ts';
import { describeEnd, supervise } from './supervise.ts';

const VM_NAME = 'demo';
const PEER = '10.0.2.2';
const DEMO_TIMEOUT = 600;
const DEMO_COMMAND_LINE = 'console=ttyS0 panic=-1 quiet cryptomgr.notests iomem=relaxed';
const SEED = 1;

interface DemoFlags extends Record<string, unknown> {
  download: string;
  verbose?: boolean;
  url?: string;
  sha256?: string;
}

export function addDemoCommand(program: Command): void {
  const demo = program
    .command('demo')
    .argument(
      '[what]',
      'driver: the main job; vault: a module that signs with a key that no one else in the guest can find; idle: an idle driver that alone may use MWAIT',
      'driver',
    )
    .description('the main job: guard the stock e1000 driver, give it the card, probe everything else')
    .option('--download <MiB>', 'size of the file that the guest downloads', '8')
    .option('--url <url>', "download this instead of the built-in peer's file (with --net user or stream)")
    .option('--sha256 <digest>', 'expected digest of --url')
    .option('--verbose', "show the guest's console on standard error")
    .addHelpText(
      'after',
      '\nExamples:\n  portcullis demo\n  portcullis demo vault\n  portcullis demo idle\n  portcullis demo --json --download 32\n  portcullis demo --pcap demo.pcap --events demo.ndjson\n',
    );
  addRunOptions(demo, ['memory', 'cpus', 'cores', 'pin', 'net', 'pcap', 'engine', 'clock', 'seed', 'timeout', 'events', 'watch', 'log']);
  action(demo, async (context, what: string, flags: DemoFlags) => {
    const modules = { vault: vaultDemo, idle: idleDemo };
    if (what === 'vault' || what === 'idle')
      return modules[what](
        context,
        resolveRunOptions({ memory: '128M', timeout: DEMO_TIMEOUT, ...definedOnly(flags) }, undefined),
        flags.verbose === true,
      );
    if (what !== 'driver')
      throw new UserError(`there is no demo "${what}"`, 'portcullis demo, portcullis demo vault, or portcullis demo idle');
    const { json, progress } = context;
    const mebibytes = Number(flags.download);
    if (!(mebibytes > 0 && mebibytes <= 4096)) throw new UserError(`--download ${flags.download}: expected MiB from 1 to 4096`);
    const options = resolveRunOptions({ net: ['peer'], timeout: DEMO_TIMEOUT, ...definedOnly(flags) }, undefined);
    const bytes = Math.round(mebibytes * 1048576);
    const expected = flags.url ? (flags.sha256 ?? '') : contentSha256(bytes, SEED);
    const url = flags.url ?? `http://${PEER}/file?bytes=${bytes}&seed=${SEED}`;
    const step: Progress = (what) => progress.step(what);
    const { config, kernel } = await prepare(options, url, step);
    progress.step({ text: `starting ${kernel.release} on the ${options.engine} engine` });
    const transcript = new DemoTranscript((stage) => progress.step({ text: `guest: ${stage}` }));
    const screen = pacedStream(process.stderr);
    const ended = await supervise(config, {
      console(chunk) {
        transcript.add(chunk);
        return flags.verbose ? screen.write(chunk) : undefined;
      },
      events: options.events,
      eventsLost: options.eventsLost,
      timeout: options.timeout,
    });
    progress.clear();
    const result: DemoResult = judge({ kernel, engine: options.engine, transcript, ended, bytes, expected });
    if (json) printJson(result);
    else console.log(summary(result, ended));
    if (!result.ok && !flags.verbose)
      process.stderr.write(`portcullis: ${describeEnd(ended)}; last lines of the guest's console:\n${transcript.tail()}\n`);
    return result.ok ? 0 : ended.code || 1;
  });
}

const definedOnly = (flags: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0)));

/** Links, signs, and builds the machine's configuration. */
async function prepare(options: RunOptions, url: string, step: Progress): Promise<{ config: VmConfig; kernel: StockKernel }> {
  const kernel = await fetchKernel(step);
  const busybox = readFileSync(await fetchBusybox(step));
  step({ text: 'unpacking the kernel' });
  const image = await openKernelImage(kernel.image, readFileSync(kernel.image));
  const stock = (name: string) => {
    const path = findModule(kernel.modules, name);
    if (path === undefined)
      throw new UserError(`the stock kernel ${kernel.release} has no module ${name}`, 'fetch the kernel package again', 'failed');
    return { path, bytes: readFileSync(path) };
  };
  step({ text: 'linking the guarded module' });
  const driver = stock('e1000');
  const guarded = linkModule(driver.bytes, driver.path);
  const other = stock('e1000e');
  const ungranted = linkModule(other.bytes, other.path);
  step({ text: 'signing the grant' });
  const administrator = generateKeyPair();
  const device = pciAddress(FIRST_CARD_SLOT);
  const grant = signGrant(
    makeGrant({
      manifest: manifestDigest(guarded.manifest),
      vms: [VM_NAME],
      days: 1,
      onViolation: 'quarantine',
      privileges: [{ kind: 'pci-device', parameters: { device, vendor: '8086', product: '100e' } }],
    }),
    administrator.privateKey,
  );
  step({ text: 'building the initramfs' });
  const script = demoScript({ device, url, peer: PEER, probeModule: PROBE_NAME });
  const module = (name: string, data: Uint8Array): CpioEntry => ({ kind: 'file', path: `lib/modules/${name}.ko`, data });
  const initramfs = buildInitramfs(busybox, [
    { kind: 'file', path: 'etc/portcullis/start', mode: 0o755, data: Buffer.from(script) },
    module('e1000', guarded.image),
    module('e1000-changed', withByteChanged(guarded.image)),
    module('e1000-stock', driver.bytes),
    module('e1000e', ungranted.image),
    module(PROBE_NAME, buildProbeModule(kernel.modules)),
  ]);
  const config: VmConfig = {
    name: VM_NAME,
    engine: options.engine,
    clock: options.clock,
    ...processors(options),
    memory: options.memory,
    kernel: { elf: image.elf, setupHeader: image.setupHeader, name: kernel.image },
    initramfs,
    commandLine: DEMO_COMMAND_LINE,
    modules: [
      { image: guarded.image, manifest: guarded.manifest, grants: [grant] },
      { image: ungranted.image, manifest: ungranted.manifest, grants: [] },
    ],
    trustedKeys: [administrator.publicKey],
    cards: cardsOf(options.net, options.pcap),
    wallClock: options.clock === 'instructions' ? Date.UTC(2026, 0, 1) : Date.now(),
    log: options.log,
    watch: options.watch,
  };
  return { config, kernel };
}

/** The guarded module with one instruction of its code changed: the first `jne` becomes `je`. What an attacker would patch. */
function withByteChanged(image: Uint8Array): Uint8Array {
  const changed = Uint8Array.from(image);
  const at = Buffer.from(changed).indexOf(Buffer.from([0x0f, 0x85]));
  if (at < 0) throw new Error('no jne in the module');
  changed[at + 1] = 0x84;
  return changed;
}
