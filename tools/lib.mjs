// What the tools share: running commands with their output shown, and knowing whether something must be made again. No dependencies: runs before `npm ci`.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Runs a command in the project's folder; ends this process with its code when it fails. */
export function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error) {
    console.error(`portcullis: cannot run ${command}: ${result.error.message}`);
    process.exit(1);
  }
  if (result.status !== 0) process.exit(result.status ?? 1);
}

/** Newest modification time (ms) below a path, skipping what is built. */
export function newest(path) {
  if (!existsSync(path)) return 0;
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  let time = 0;
  for (const entry of readdirSync(path)) {
    if (entry === 'node_modules' || entry === 'generated') continue;
    time = Math.max(time, newest(join(path, entry)));
  }
  return time;
}

/** Installs dependencies unless they are there for this lock file. Output goes to standard error: standard output is for results. */
export function install() {
  const marker = join(root, 'node_modules/.package-lock.json');
  if (existsSync(marker) && newest(marker) >= newest(join(root, 'package-lock.json'))) return;
  console.error('portcullis: installing dependencies');
  // Not `npm ci`: it refuses a lock file that lacks the optional packages of other platforms, which a partial mirror cannot list.
  run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'], { stdio: ['ignore', 2, 2] });
}

/** Builds unless the build is newer than the sources. */
export function build() {
  const sources = Math.max(newest(join(root, 'src')), newest(join(root, 'tools')), newest(join(root, 'tsconfig.json')));
  const stamp = join(root, 'build/stamp');
  if (existsSync(stamp) && statSync(stamp).mtimeMs >= sources) return;
  console.error('portcullis: building');
  run(process.execPath, [join(root, 'tools/build.mjs')], { stdio: ['ignore', 2, 2] });
}
