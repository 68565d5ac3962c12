/** From options to a VmConfig: reads and checks every file a run needs, fetching the stock kernel and busybox where none is given. */
import { basename } from 'node:path';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { UserError } from '../base/errors.ts';
import type { CpioEntry } from '../guest/cpio.ts';
import { fetchBusybox, fetchKernel, fetchPasst } from '../guest/fetch.ts';
import { buildInitramfs } from '../guest/initramfs.ts';
import { openKernelImage } from '../guest/kernel-image.ts';
import type { Progress } from '../guest/packages.ts';
import { parseMac } from '../net/ethernet.ts';
import { parseNet } from '../net/index.ts';
import { parseJson, parseManifest } from '../policy/schema.ts';
import { checkVmmKey } from '../policy/seal.ts';
import { isOwnMsr } from '../privileges/msr.ts';
import { CARD_MODELS, type CardConfig, type RegisteredModule, type VmConfig } from '../vm/config.ts';
import { LIMITS, readInput } from './command.ts';
import { manifestPath } from './link.ts';
import type { RunOptions } from './run-options.ts';

/** What the stock kernel needs to be told. Self-tests of its crypto cost a second of start and test nothing of ours. */
const DEFAULT_COMMAND_LINE = 'console=ttyS0 panic=-1 cryptomgr.notests';
/** First card's slot: 1 and 2 stay free for devices to come. */
export const FIRST_CARD_SLOT = 3;
const MOST_CARDS = 32 - FIRST_CARD_SLOT;

export const pciAddress = (slot: number): string => `0000:00:${slot.toString(16).padStart(2, '0')}.0`;

/** `machine`: which of the machines of this process, so that each card on a hub has an address of its own. Throws UserError. */
export function cardsOf(nets: readonly string[], captures: readonly string[], machine = 0): CardConfig[] {
  if (nets.length > MOST_CARDS) throw new UserError(`${nets.length} network cards; there are slots for ${MOST_CARDS}`, 'give fewer --net');
  if (captures.length > nets.length)
    throw new UserError(`${captures.length} captures for ${nets.length} cards`, 'give at most one --pcap for each --net');
  const hexByte = (value: number) => value.toString(16).padStart(2, '0');
  return nets.map((text, index) => ({
    mac: `52:54:00:12:${hexByte(0x34 + machine)}:${hexByte(0x56 + index)}`,
    ...parseCard(text),
    slot: FIRST_CARD_SLOT + index,
    pcap: captures[index],
  }));
}

const CARD_SETTING = /^(.*),(model|mac)=([^,]*)$/s;

/** `BACKEND`, with `,model=MODEL` and `,mac=ADDRESS` behind it. What stands before a setting that was given already belongs to the back end. */
function parseCard(text: string): Pick<CardConfig, 'model' | 'net'> & { mac?: string } {
  let rest = text;
  const settings: { model?: string; mac?: string } = {};
  for (let match = CARD_SETTING.exec(rest); match !== null; match = CARD_SETTING.exec(rest)) {
    const [, before, name, value] = match as unknown as [string, string, 'model' | 'mac', string];
    if (settings[name] !== undefined) break;
    settings[name] = value;
    rest = before;
  }
  const net = parseNet(rest);
  const model = CARD_MODELS.find((name) => name === settings.model);
  if (settings.model !== undefined && model === undefined)
    throw new UserError(`--net ${text}: there is no card model "${settings.model}"`, `use one of ${CARD_MODELS.join(', ')}`);
  if (settings.mac === undefined) return { model, net };
  parseMac(settings.mac);
  return { model, net, mac: settings.mac.toLowerCase() };
}

function vmmKeyOf(path: string): string {
  const pem = readInput(path, LIMITS.key, 'key').toString('utf8');
  checkVmmKey(pem);
  return pem;
}

/** `INDEX=VALUE`, hexadecimal with 0x or decimal. */
function parseMsr(text: string): { index: number; value: bigint } {
  const match = /^(0x[0-9a-f]{1,8}|\d{1,10})=(0x[0-9a-f]{1,16}|\d{1,20})$/i.exec(text);
  const index = match ? Number(match[1]) : Number.NaN;
  const value = match ? BigInt(match[2]) : 0n;
  if (!isOwnMsr(index) || value >= 2n ** 64n)
    throw new UserError(`--msr ${text}: expected INDEX=VALUE`, 'an index from 0x40000000 to 0x400000ff, e.g. 0x40000000=0x1234');
  return { index, value };
}

function registeredModules(options: RunOptions): RegisteredModule[] {
  const grants = options.grant.map((path) => parseJson(readInput(path, LIMITS.policy, 'grant').toString('utf8'), path));
  return options.module.map((path) => ({
    image: readInput(path, LIMITS.module, 'module'),
    manifest: parseManifest(readInput(manifestPath(path), LIMITS.policy, 'manifest').toString('utf8'), manifestPath(path)),
    grants,
  }));
}

function fileEntries(options: RunOptions): CpioEntry[] {
  const entries: CpioEntry[] = options.module.map((path) => ({
    kind: 'file',
    path: `lib/modules/${basename(path).replace(/\.guarded\.ko$/, '.ko')}`,
    data: readInput(path, LIMITS.module, 'module'),
  }));
  for (const pair of options.put) {
    const equals = pair.indexOf('=');
    if (equals < 1) throw new UserError(`--put ${pair}: expected GUEST=HOST`, 'e.g. --put lib/modules/x.ko=./x.ko');
    const path = pair.slice(0, equals).replace(/^\/+/, '');
    if (path.split('/').includes('..')) throw new UserError(`--put ${pair}: the guest path leaves the archive`, 'use a path without ..');
    entries.push({ kind: 'file', path, mode: 0o755, data: readInput(pair.slice(equals + 1), LIMITS.initramfs, 'file') });
  }
  if (options.start !== undefined)
    entries.push({ kind: 'file', path: 'etc/portcullis/start', mode: 0o755, data: readInput(options.start, LIMITS.policy, 'script') });
  return entries;
}

/** The terminal's size for the init that we build; nothing where there is no terminal. */
function windowSize(): string[] {
  const { columns, rows, isTTY } = process.stdout;
  return process.stdin.isTTY && isTTY ? [`LINES=${rows}`, `COLUMNS=${columns}`] : [];
}

/** As many as run at the same time, and those that pins name. A run that repeats does so on any host. */
function defaultCores(cpus: number, clock: VmConfig['clock'], pins: readonly (readonly [number, number])[]): number {
  if (clock !== 'host') return cpus;
  const named = pins.map(([, core]) => core + 1);
  return Math.min(cpus, Math.max(availableParallelism(), ...named));
}

/** Throws UserError for a pin of a CPU, or to a core, that the machine does not have. */
export function processors({
  cpus,
  clock,
  pin = [],
  cores = defaultCores(cpus, clock, pin),
  seed,
}: RunOptions): Pick<VmConfig, 'cpus' | 'cores' | 'pins' | 'seed'> {
  for (const [cpu, core] of pin) {
    if (cpu >= cpus)
      throw new UserError(`--pin ${cpu}=${core}: there is no virtual CPU ${cpu}`, `name one from 0 to ${cpus - 1}, or give more --cpus`);
    if (core >= cores)
      throw new UserError(`--pin ${cpu}=${core}: there is no core ${core}`, `name one from 0 to ${cores - 1}, or give more --cores`);
  }
  return { cpus, cores, pins: pin, seed };
}

/** Reads and checks what a run needs. `machine`: which of the machines of this process, from 0. Throws UserError. */
export async function assemble(options: RunOptions, progress: Progress, machine = 0): Promise<VmConfig> {
  // What is quick to check comes first: nobody should wait for a download to hear of a slip.
  const cards = cardsOf(options.net, options.pcap, machine);
  const modules = registeredModules(options);
  const trustedKeys = options.trust.map((path) => readInput(path, LIMITS.key, 'key').toString('utf8'));
  const vmmKey = options.vmmKey === undefined ? undefined : vmmKeyOf(options.vmmKey);
  const msrs = options.msr.map(parseMsr);
  const entries = fileEntries(options);
  const own =
    options.initramfs === undefined
      ? undefined
      : readInput(options.initramfs, Math.min(LIMITS.initramfs, options.memory), 'initramfs in so much guest memory');
  if (cards.some(({ net }) => net.kind === 'user')) await fetchPasst(progress);
  const kernelPath = options.kernel ?? (await fetchKernel(progress)).image;
  const file = readInput(kernelPath, LIMITS.kernel, 'kernel');
  progress({ text: 'unpacking the kernel' });
  const kernel = await openKernelImage(kernelPath, file);
  const linux = kernel.setupHeader !== undefined;
  const initramfs = own ?? (linux ? buildInitramfs(readFileSync(await fetchBusybox(progress)), entries) : undefined);
  return {
    name: options.name,
    engine: options.engine,
    clock: options.clock,
    ...processors(options),
    memory: options.memory,
    kernel: { elf: kernel.elf, setupHeader: kernel.setupHeader, name: kernelPath },
    boot: options.boot,
    initramfs,
    commandLine:
      options.commandLine ??
      [...(linux ? [DEFAULT_COMMAND_LINE] : []), ...(options.initramfs === undefined && linux ? windowSize() : []), options.append]
        .join(' ')
        .trim(),
    modules,
    trustedKeys,
    revokedGrants: options.revoked,
    vmmKey,
    msrs,
    onViolation: options.onViolation,
    cards,
    debugExitPort: options.debugExit,
    wallClock: options.clock === 'instructions' ? Date.UTC(2026, 0, 1) : Date.now(),
    log: options.log,
    watch: options.watch,
  };
}
