/**
 * Debian packages: resolved by name, downloaded by apt-get, unpacked by dpkg-deb into the cache. Nothing needs root: where the system has no
 * package lists, private ones are fetched into the cache. A package already unpacked is not downloaded again.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { cacheFolder } from './cache.ts';

export type Progress = (step: { text: string; done?: number; total?: number }) => void;

export interface Package {
  name: string;
  version: string;
  folder: string;
}

/** File in a package's folder that is all there. */
const COMPLETE = '.complete';

interface Command {
  stdout: string;
  stderr: string;
  code: number;
}

function command(file: string, args: string[], options: { cwd?: string } = {}): Promise<Command> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk) => {
      stdout += chunk;
    });
    child.stderr.on('data', (chunk) => {
      stderr += chunk;
    });
    child.on('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'ENOENT'
          ? new UserError(
              `${file} is not installed`,
              `Debian or a derivative with ${file} is needed to fetch packages; or pass your own files (--kernel, --initramfs)`,
              'failed',
            )
          : error,
      ),
    );
    child.on('close', (code) => resolve({ stdout, stderr, code: code ?? 1 }));
  });
}

/** Options that point apt at private package lists in the cache; empty when the system's lists know `name`. */
async function aptOptions(name: string, progress: Progress): Promise<string[]> {
  const known = async (options: string[]) => (await command('apt-cache', [...options, 'show', '--no-all-versions', name])).code === 0;
  if (await known([])) return [];
  const state = cacheFolder('apt');
  for (const part of ['lists/partial', 'archives/partial']) mkdirSync(join(state, part), { recursive: true });
  const options = ['-o', `Dir::State::Lists=${state}/lists`, '-o', `Dir::Cache=${state}`, '-o', 'APT::Sandbox::User='];
  if (await known(options)) return options;
  progress({ text: 'fetching package lists' });
  const update = await command('apt-get', [...options, 'update']);
  if (!(await known(options))) {
    throw new UserError(
      `package ${name} is not known to apt: ${lastLine(update.stderr) || 'no package lists'}`,
      "check the machine's apt sources and network, then run it again",
      'failed',
    );
  }
  return options;
}

const lastLine = (text: string) => text.trim().split('\n').at(-1) ?? '';

/** One field of `apt-cache show`. */
async function field(options: string[], name: string, key: string): Promise<string> {
  const { stdout } = await command('apt-cache', [...options, 'show', '--no-all-versions', name]);
  return new RegExp(`^${key}: (.*)$`, 'm').exec(stdout)?.[1] ?? '';
}

/** The package that a meta package such as linux-image-amd64 depends on now, e.g. linux-image-6.1.0-50-amd64. */
export async function resolveMeta(meta: string, prefix: string, progress: Progress): Promise<string> {
  const options = await aptOptions(meta, progress);
  const depends = await field(options, meta, 'Depends');
  const found = depends
    .split(/[,|]/)
    .map((entry) => entry.trim().split(' ')[0])
    .find((name) => name.startsWith(prefix));
  if (!found)
    throw new UserError(
      `${meta} depends on "${depends}", expected a package that starts with ${prefix}`,
      'check the apt sources',
      'failed',
    );
  return found;
}

/** Newest unpacked version of a package in the cache, if any. */
export function cachedPackage(name: string): Package | undefined {
  const folder = cacheFolder('packages');
  const hit = readdirSync(folder)
    .filter((entry) => entry.startsWith(`${name}_`) && existsSync(join(folder, entry, COMPLETE)))
    .sort((a, b) => statSync(join(folder, a)).mtimeMs - statSync(join(folder, b)).mtimeMs)
    .at(-1);
  return hit === undefined ? undefined : { name, version: decodeURIComponent(hit.slice(name.length + 1)), folder: join(folder, hit) };
}

/** Downloads and unpacks a package unless the cache has it. Interrupted work leaves nothing that looks complete. */
export async function fetchPackage(name: string, progress: Progress): Promise<Package> {
  const cached = cachedPackage(name);
  if (cached) return cached;
  const options = await aptOptions(name, progress);
  const version = await field(options, name, 'Version');
  const size = Number(await field(options, name, 'Size')) || 0;
  const folder = cacheFolder('packages');
  const work = mkdtempSync(join(folder, `.work-${name}-`));
  try {
    await download(options, name, size, work, progress);
    const file = readdirSync(work).find((entry) => entry.endsWith('.deb'));
    if (!file) throw new UserError(`apt-get downloaded no .deb for ${name}`, 'check disk space and the apt sources', 'failed');
    progress({ text: `unpacking ${name}` });
    const tree = join(work, 'tree');
    const unpack = await command('dpkg-deb', ['-x', join(work, file), tree]);
    if (unpack.code !== 0)
      throw new UserError(
        `dpkg-deb could not unpack ${file}: ${lastLine(unpack.stderr)}`,
        'delete the cache folder and try again',
        'failed',
      );
    writeFileSync(join(tree, COMPLETE), `${name} ${version}\n`);
    const target = join(folder, `${name}_${encodeURIComponent(version)}`);
    moveInto(tree, target);
    return { name, version, folder: target };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Gives an unpacked package its name. One that another process has unpacked meanwhile stays, for it may be in use. */
export function moveInto(tree: string, target: string): void {
  try {
    renameSync(tree, target); // fails where there is something: both are folders, and never empty
  } catch (error) {
    if (existsSync(join(target, COMPLETE))) return;
    if (!existsSync(target)) throw error;
    rmSync(target, { recursive: true, force: true });
    renameSync(tree, target);
  }
}

async function download(options: string[], name: string, size: number, work: string, progress: Progress): Promise<void> {
  const bytesSoFar = () => {
    let sum = 0;
    for (const entry of readdirSync(work)) sum += statSync(join(work, entry), { throwIfNoEntry: false })?.size ?? 0;
    return sum;
  };
  const text = `downloading ${name}`;
  progress({ text, done: 0, total: size });
  const ticker = setInterval(() => progress({ text, done: Math.min(bytesSoFar(), size), total: size }), 250);
  try {
    const result = await command('apt-get', [...options, '-o', 'APT::Sandbox::User=', 'download', name], { cwd: work });
    if (result.code !== 0) {
      throw new UserError(
        `apt-get could not download ${name}: ${lastLine(result.stderr)}`,
        'check the network; `apt-get update` may be needed',
        'failed',
      );
    }
    progress({ text, done: size, total: size });
  } finally {
    clearInterval(ticker);
  }
}
