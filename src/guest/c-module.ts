/**
 * A kernel module of one's own in C, built for the stock kernel out of tree (Linux Documentation/kbuild/modules.rst). The headers come as Debian
 * packages into the cache. Those refer to each other by absolute paths under /usr/src, so each build gets a folder of links laid out as kbuild
 * wants it; nothing is installed and nothing needs root.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import { fetchPackage, type Progress } from './packages.ts';

/** Compiler output kept for messages, and longest build. */
const OUTPUT_LIMIT = 64 << 10;
const BUILD_LIMIT_MS = 300_000;
const LINES_SHOWN = 20;

export const isOnPath = (name: string): boolean =>
  (process.env.PATH ?? '').split(':').some((folder) => folder !== '' && existsSync(join(folder, name)));

interface Headers {
  build: string;
  common: string;
  commonName: string;
  kbuild: string;
}

/** Fetches the kernel's headers, the part common to all flavours, and the build tools. */
async function fetchHeaders(release: string, progress: Progress): Promise<Headers> {
  const name = `linux-headers-${release}`;
  const build = join((await fetchPackage(name, progress)).folder, 'usr/src', name);
  // The Makefile is one line, `include /usr/src/linux-headers-VERSION-common/Makefile`; scripts is a link into linux-kbuild-VERSION.
  const commonName = /\/usr\/src\/([\w.+~-]+)\/Makefile/.exec(readText(join(build, 'Makefile')))?.[1];
  const kbuildName = /(linux-kbuild-[\w.+~-]+)\/scripts$/.exec(readlinkSync(join(build, 'scripts')))?.[1];
  if (commonName === undefined || kbuildName === undefined) {
    throw new UserError(`package ${name} is not laid out as Debian's header packages are`, 'use the stock Debian kernel', 'failed');
  }
  const common = join((await fetchPackage(commonName, progress)).folder, 'usr/src', commonName);
  const kbuild = join((await fetchPackage(kbuildName, progress)).folder, 'usr/lib', kbuildName);
  return { build, common, commonName, kbuild };
}

const readText = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8') : '');

/** Links to all entries of `from` in a new folder `to`, but `scripts` and `tools` from kbuild. */
function linkTree(from: string, to: string, kbuild: string, except: readonly string[] = []): void {
  mkdirSync(to);
  for (const entry of readdirSync(from)) {
    if (except.includes(entry)) continue;
    const target = entry === 'scripts' || entry === 'tools' ? join(kbuild, entry) : join(from, entry);
    symlinkSync(target, join(to, entry));
  }
}

/**
 * Builds `sources`, a .c file for each module, for kernel `release`; they may call what the others export. Gives the modules' bytes, without debug
 * information. Throws UserError with the compiler's message when one does not compile, and when make, gcc or a header package is missing.
 */
export async function buildCModules(
  sources: readonly string[],
  release: string,
  progress: Progress,
): Promise<{ name: string; image: Uint8Array }[]> {
  const modules = sources.map((source) => ({ source, folder: resolve(dirname(source)), name: moduleName(source) }));
  const twice = modules.find(({ name }, index) => modules.findIndex((other) => other.name === name) < index);
  if (twice) throw new UserError(`${twice.source}: another source makes a module ${twice.name} too`, 'rename one of the files');
  for (const tool of ['make', 'gcc', 'strip']) {
    if (!isOnPath(tool))
      throw new UserError(`${tool} is not installed; building a C module needs it`, 'apt-get install make gcc', 'failed');
  }
  const headers = await fetchHeaders(release, progress);
  const work = mkdtempSync(join(tmpdir(), 'portcullis-module-'));
  try {
    for (const path of [work, ...modules.map(({ folder }) => folder)]) {
      if (/[^\w./+~-]/.test(path))
        throw new UserError(`make cannot work with the path ${path}`, 'use a folder without spaces and special characters');
    }
    const common = join(work, headers.commonName);
    const build = join(work, 'build');
    linkTree(headers.common, common, headers.kbuild);
    linkTree(headers.build, build, headers.kbuild, ['Makefile']);
    writeFileSync(join(build, 'Makefile'), `include ${common}/Makefile\n`);
    const folder = join(work, 'module');
    mkdirSync(folder);
    const flags = modules.map(({ name, folder }) => `CFLAGS_${name}.o := -I${folder}\n`);
    writeFileSync(join(folder, 'Kbuild'), `obj-m := ${modules.map(({ name }) => `${name}.o`).join(' ')}\n${flags.join('')}`);
    for (const { name, source } of modules) writeFileSync(join(folder, `${name}.c`), readFileSync(source));
    progress({ text: `compiling ${modules.map(({ name }) => `${name}.c`).join(' ')} for ${release}` });
    // The kernel's own compiler where it is there; another one differs in a warning at most.
    const compiler = /gcc-\d+/.exec(readText(join(headers.build, '.kernelvariables')))?.[0];
    const variables = compiler !== undefined && !isOnPath(compiler) ? ['CC=gcc'] : [];
    const about = sources.join(', ');
    await tool('make', ['--no-print-directory', '-C', build, `M=${folder}`, ...variables, 'modules'], about, folder);
    const outputs = modules.map(({ name }) => join(folder, `${name}.ko`));
    await tool('strip', ['--strip-debug', ...outputs], about, folder);
    return modules.map(({ name }, index) => ({ name, image: readFileSync(outputs[index]) }));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Builds one module: see `buildCModules`. */
export async function buildCModule(source: string, release: string, progress: Progress): Promise<{ name: string; image: Uint8Array }> {
  const [module] = await buildCModules([source], release, progress);
  return module;
}

function moduleName(source: string): string {
  const name = /^([A-Za-z][\w-]*)\.c$/.exec(basename(source))?.[1];
  if (name === undefined) throw new UserError(`${source}: expected a name of letters, digits, - and _ that ends in .c`, 'rename the file');
  return name;
}

function tool(file: string, args: string[], source: string, folder: string): Promise<void> {
  return new Promise((done, reject) => {
    // Variables of a surrounding make, and languages, would change what is built or said.
    const { MAKEFLAGS: _, MAKELEVEL: __, ...env } = process.env;
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...env, LC_ALL: 'C' }, timeout: BUILD_LIMIT_MS });
    let errors = '';
    child.stdout.resume();
    child.stderr.on('data', (chunk) => {
      if (errors.length < OUTPUT_LIMIT) errors += chunk;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === 0) return done();
      const lines = errors
        .replaceAll(`${folder}/`, '')
        .split('\n')
        .filter((line) => line !== '' && !line.startsWith('make'))
        .slice(0, LINES_SHOWN);
      reject(
        new UserError(
          `${source}: ${file} ended with ${signal ?? `code ${code}`}${lines.length ? `:\n${lines.join('\n')}` : ''}`,
          undefined,
          'failed',
        ),
      );
    });
  });
}
