/** Boots a guest in which all modules of a group are guarded, or none, and reads what its checks printed. */
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Manifest } from '../../../src/policy/manifest.ts';
import { dependencies, lastJson, portcullis, scratch, stockModule } from '../guest.ts';
import type { Boot } from './check.ts';
import { guardModules, stockModules } from './guarded.ts';
import { programs } from './programs.ts';

const GUEST_SCRIPT = readFileSync(fileURLToPath(new URL('guest.sh', import.meta.url)), 'utf8');
/** What a kernel prints when something is wrong. */
const COMPLAINTS = 'BUG:|Oops|general protection|Call Trace|WARNING:|self-tests .*failed|blocked for more than|detected stall';
const TIMEOUT_SECONDS = 600;

export interface Outcome {
  code: number | null;
  result: ReturnType<typeof lastJson>;
  /** By check, the lines that it printed. */
  printed: ReadonlyMap<string, readonly string[]>;
  kernel: readonly string[];
  /** Modules still loaded at the end. */
  left: readonly string[];
  manifests: readonly Manifest[];
  console: string;
}

/** Name of a module as the kernel has it. */
export const kernelName = (module: string): string => module.replaceAll('-', '_');

/** All modules of a boot by file name, each after those that it needs. */
export function modulesOf(boot: Boot): string[] {
  const wanted = [...(boot.helpers ?? []), ...boot.checks.flatMap(({ modules }) => modules)];
  return [...new Set(wanted.flatMap((name) => [...dependencies(name), name]).map((name) => basename(stockModule(name), '.ko')))];
}

function scriptOf(boot: Boot, modules: readonly string[]): string {
  const file = (name: string) => basename(stockModule(name), '.ko');
  const needed = modules.map((name) => `${name}: ${dependencies(name).map(file).join(' ')}`);
  const wrappers = boot.programs.filter((name) => /^\w+$/.test(name)).map((name) => `${name}() { /usr/bin/${name} "$@"; }`);
  const checks = boot.checks.map(
    (check) => `{\nload ${check.modules.map(file).join(' ')}\n${check.script.trim()}\n} 2>&1 </dev/null | sed 's/^/@@ ${check.name}: /'\n`,
  );
  return `DEPENDENCIES='${needed.join('\n')}'
${GUEST_SCRIPT}
${wrappers.join('\n')}
load ${(boot.helpers ?? []).map(file).join(' ')}
${boot.prepare ?? ''}
${checks.join('')}
unload_all
cut -d ' ' -f 1 /proc/modules | sed 's/^/@@ left: /'
dmesg | grep -E '${COMPLAINTS}' | sed 's/^/@@ kernel: /'
`;
}

/** Runs a boot to its end. Throws when a module or program is missing. */
export async function runBoot(boot: Boot, guarded: boolean): Promise<Outcome> {
  const space = scratch();
  try {
    const modules = modulesOf(boot);
    const options = guarded ? guardModules(modules, space.folder) : stockModules(modules);
    const path = space.write('start.sh', scriptOf(boot, modules));
    const { code, out, err } = portcullis(
      [
        ...['run', '--json', '--start', path, '--append', `quiet loglevel=1 ${boot.append ?? ''}`],
        ...['--timeout', String(TIMEOUT_SECONDS), '--memory', boot.memory, '--cpus', String(boot.cpus)],
        ...options,
        ...(await programs(boot.programs)),
      ],
      { cwd: space.folder, timeout: (TIMEOUT_SECONDS + 60) * 1000 },
    );
    const console = err.replaceAll('\r', '');
    const printed = new Map<string, string[]>();
    for (const [, name, text] of console.matchAll(/^@@ ([^:]+): (.*)$/gm)) printed.set(name, [...(printed.get(name) ?? []), text]);
    const manifests = guarded ? modules.map((name) => manifestIn(space.folder, name)) : [];
    if (process.env.PORTCULLIS_CONSOLE !== undefined) writeFileSync(process.env.PORTCULLIS_CONSOLE, console);
    return {
      code,
      result: lastJson(out),
      printed,
      kernel: printed.get('kernel') ?? [],
      left: printed.get('left') ?? [],
      manifests,
      console,
    };
  } finally {
    space.remove();
  }
}

const manifestIn = (folder: string, name: string): Manifest =>
  JSON.parse(readFileSync(join(folder, `${name}.guarded.ko.manifest.json`), 'utf8'));

/** Calls from one guarded module straight to another, by "CALLER CALLED": both cross the border, out of one and into the other. */
export function chainCalls({ result, manifests }: Outcome): ReadonlyMap<string, number> {
  const owners = new Map<string, string>();
  for (const { module, gates } of manifests) {
    for (const { kind, symbol } of gates) if (kind === 'entry') owners.set(symbol, owners.has(symbol) ? '' : module);
  }
  const calls = new Map<string, number>();
  for (const { module, symbol, count } of result.callOuts as { module: string; symbol: string; count: number }[]) {
    const called = owners.get(symbol);
    if (called === undefined || called === '' || called === module) continue;
    calls.set(`${module} ${called}`, (calls.get(`${module} ${called}`) ?? 0) + count);
  }
  return calls;
}
