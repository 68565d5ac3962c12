/** What the tests with a stock guest share: the built command line, a scratch folder, guarded modules with their grants, and how to say what is missing. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { readModInfo } from '../../src/elf/modinfo.ts';
import { readObject } from '../../src/elf/read.ts';
import { isOnPath } from '../../src/guest/c-module.ts';
import { cachedKernel, findModule } from '../../src/guest/fetch.ts';
import { cachedPackage } from '../../src/guest/packages.ts';

export const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** The invariants of the border are watched in every test. */
const WATCHED = { PORTCULLIS_WATCH: '1' };

export interface Finished {
  code: number | null;
  out: string;
  err: string;
}

/** Runs the command line to its end. `input` goes to standard input. */
export function portcullis(
  args: readonly string[],
  options: { input?: string; cwd?: string; env?: Record<string, string>; timeout?: number } = {},
): Finished {
  const { input = '', cwd, env, timeout = 180_000 } = options;
  const result = spawnSync(process.execPath, [cli, ...args], {
    encoding: 'utf8',
    input,
    cwd,
    env: { ...process.env, ...WATCHED, ...env },
    maxBuffer: 64 << 20,
    timeout,
  });
  return { code: result.status, out: result.stdout, err: result.stderr };
}

/** Runs the command line in a folder, which must succeed; what it says is shown where it does not. */
export function succeed(cwd: string, ...args: string[]): void {
  const { code, err } = portcullis(args, { cwd });
  expect(code, `${args.join(' ')}: ${err}`).toBe(0);
}

/** The object on the last line of standard output. */
// biome-ignore lint/suspicious/noExplicitAny: it is what the test is about
export const lastJson = (out: string): any => JSON.parse(out.trimEnd().split('\n').at(-1) ?? '');

/** A fresh folder, its path, and how to write into it. */
export function scratch(): { folder: string; write(name: string, data: string | Uint8Array): string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'boots-'));
  return {
    folder,
    write(name, data) {
      const path = join(folder, name);
      writeFileSync(path, data);
      return path;
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Boots the stock kernel with `script` as its start script; gives the result of --json and the console. */
export function boot(
  folder: string,
  script: string,
  ...args: string[]
): { code: number | null; result: ReturnType<typeof lastJson>; console: string } {
  const path = join(folder, 'start.sh');
  writeFileSync(path, script);
  const { code, out, err } = portcullis(['run', '--json', '--start', path, '--append', 'quiet', '--timeout', '120', ...args], {
    cwd: folder,
  });
  return { code, result: lastJson(out), console: err.replaceAll('\r', '') };
}

/** Path of a stock module. */
export function stockModule(name: string): string {
  const kernel = cachedKernel();
  const path = kernel && findModule(kernel.modules, name);
  if (path === undefined) throw new Error(`no stock module ${name}: run portcullis doctor --fetch`);
  return path;
}

/** Names of the modules that must be loaded before `name`, in order. */
export function dependencies(name: string): string[] {
  const path = stockModule(name);
  const depends = readModInfo(readObject(readFileSync(path), path)).entries.find(([key]) => key === 'depends')?.[1] ?? '';
  const direct = depends.split(',').filter((entry) => entry !== '');
  return [...new Set(direct.flatMap((entry) => [...dependencies(entry), entry]))];
}

/** Why no C module can be built here, or undefined. Headers come from the network the first time. */
export function cModules(): string | undefined {
  const tools = ['gcc', 'make', 'strip'].filter((name) => !isOnPath(name));
  if (tools.length > 0) return `${tools.join(', ')} is not installed: no C modules`;
  const release = cachedKernel()?.release;
  const cached = release !== undefined && cachedPackage(`linux-headers-${release}`) !== undefined;
  return cached || process.env.PORTCULLIS_OFFLINE === undefined ? undefined : "the kernel's headers are not in the cache";
}

/** Says loudly why tests are left out. */
export function skipReason(reason: string | undefined): boolean {
  if (reason !== undefined) console.warn(`SKIPPED: ${reason}`);
  return reason !== undefined;
}
