/**
 * `portcullis demo`, the main job: the stock e1000 driver of the stock kernel, linked into a guarded module, granted the card, run for real; and
 * everything outside it probed for the same card.
 */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { demoScript } from '../guest/demo-script.ts';
import { stockExportVersion } from '../guest/export-versions.ts';
import { findModule, type StockKernel } from '../guest/fetch.ts';
import type { Progress } from '../guest/packages.ts';
import { buildProbeModule, PROBE_NAME } from '../guest/probe-module.ts';
import { linkModule } from '../linker/link.ts';
import { contentSha256 } from '../net/peer/content.ts';
import type { VmConfig } from '../vm/config.ts';
import { cardsOf, FIRST_CARD_SLOT, pciAddress } from './assemble.ts';
import { action, type Context } from './command.ts';
import { demoConfig, demoGrant, demoKernel, moduleFile, runDemo } from './demo-guest.ts';
import { type DemoResult, judge, summary } from './demo-report.ts';
import { idleDemo } from './demo-idle.ts';
import { vaultDemo } from './demo-vault.ts';
import { addRunOptions, resolveRunOptions, type RunOptions } from './run-options.ts';

const PEER = '10.0.2.2';
const DEMO_TIMEOUT = 600;
const DOWNLOAD_MIB = '8';
const SEED = 1;

interface DemoFlags extends Record<string, unknown> {
  verbose?: boolean;
  download?: string;
  url?: string;
  sha256?: string;
}

/** The demos, and the flags that mean nothing to them. */
const DEMOS = {
  driver: { run: driverDemo, without: [] },
  vault: { run: vaultDemo, without: ['download', 'url', 'sha256', 'net', 'pcap'] },
  idle: { run: idleDemo, without: ['download', 'url', 'sha256', 'net', 'pcap', 'cores', 'pin'] },
} as const;

export function addDemoCommand(program: Command): void {
  const demo = program
    .command('demo')
    .argument(
      '[what]',
      'driver: the main job; vault: a module that signs with a key that no one else in the guest can find; idle: an idle driver that alone may use MWAIT',
      'driver',
    )
    .description('the main job: guard the stock e1000 driver, give it the card, probe everything else')
    .option('--download <MiB>', `size of the file that the guest downloads; default: ${DOWNLOAD_MIB}`)
    .option('--url <url>', "download this instead of the built-in peer's file (with --net user or stream)")
    .option('--sha256 <digest>', 'expected digest of --url')
    .option('--verbose', "show the guest's console on standard error")
    .addHelpText(
      'after',
      '\nExamples:\n  portcullis demo\n  portcullis demo vault\n  portcullis demo idle\n  portcullis demo --json --download 32\n  portcullis demo --pcap demo.pcap --events demo.ndjson\n',
    );
  addRunOptions(demo, [
    'memory',
    'cpus',
    'cores',
    'pin',
    'net',
    'pcap',
    'engine',
    'clock',
    'seed',
    'timeout',
    'events',
    'eventsLost',
    'watch',
    'log',
  ]);
  action(demo, (context, what: string, flags: DemoFlags) => {
    if (!Object.hasOwn(DEMOS, what))
      throw new UserError(`there is no demo "${what}"`, 'portcullis demo, portcullis demo vault, or portcullis demo idle');
    const { run, without } = DEMOS[what as keyof typeof DEMOS];
    const given = definedOnly(flags);
    const idle = without.find((flag) => flag in given);
    if (idle !== undefined) throw new UserError(`--${idle} means nothing to the demo "${what}"`, 'leave it out');
    const defaults = what === 'driver' ? { net: ['peer'] } : { memory: '128M' };
    return run(context, resolveRunOptions({ timeout: DEMO_TIMEOUT, ...defaults, ...given }, undefined), flags.verbose === true, flags);
  });
}

async function driverDemo(context: Context, options: RunOptions, verbose: boolean, flags: DemoFlags): Promise<number> {
  const { download = DOWNLOAD_MIB } = flags;
  const mebibytes = Number(download);
  if (!(mebibytes > 0 && mebibytes <= 4096)) throw new UserError(`--download ${download}: expected MiB from 1 to 4096`);
  const bytes = Math.round(mebibytes * 1048576);
  const expected = flags.url ? (flags.sha256 ?? '') : contentSha256(bytes, SEED);
  const url = flags.url ?? `http://${PEER}/file?bytes=${bytes}&seed=${SEED}`;
  const { config, kernel } = await prepare(options, url, (what) => context.progress.step(what));
  return runDemo<DemoResult>(context, options, verbose, {
    config,
    release: kernel.release,
    judge: (transcript, ended) => judge({ kernel, engine: options.engine, transcript, ended, bytes, expected }),
    summary,
  });
}

const definedOnly = (flags: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0)));

/** Links, signs, and builds the machine's configuration. */
async function prepare(options: RunOptions, url: string, step: Progress): Promise<{ config: VmConfig; kernel: StockKernel }> {
  const demo = await demoKernel(step);
  const { kernel } = demo;
  const stock = (name: string) => {
    const path = findModule(kernel.modules, name);
    if (path === undefined)
      throw new UserError(`the stock kernel ${kernel.release} has no module ${name}`, 'fetch the kernel package again', 'failed');
    return { path, bytes: readFileSync(path) };
  };
  step({ text: 'linking the guarded module' });
  const driver = stock('e1000');
  const guarded = linkModule(driver.bytes, driver.path, {}, stockExportVersion);
  const other = stock('e1000e');
  const ungranted = linkModule(other.bytes, other.path, {}, stockExportVersion);
  step({ text: 'signing the grant' });
  const device = pciAddress(FIRST_CARD_SLOT);
  const { modules, trustedKeys } = demoGrant(guarded, [{ kind: 'pci-device', parameters: { device, vendor: '8086', product: '100e' } }]);
  const files = [
    moduleFile('e1000', guarded.image),
    moduleFile('e1000-changed', withByteChanged(guarded.image)),
    moduleFile('e1000-stock', driver.bytes),
    moduleFile('e1000e', ungranted.image),
    moduleFile(PROBE_NAME, buildProbeModule(kernel.modules)),
  ];
  const config = demoConfig(
    options,
    demo,
    { script: demoScript({ device, url, peer: PEER, probeModule: PROBE_NAME }), files, append: 'iomem=relaxed' },
    { modules: [...modules, { ...ungranted, grants: [] }], trustedKeys, cards: cardsOf(options.net, options.pcap) },
  );
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
