// The guests of the measures: the stock kernel, busybox and a script, the same files for Portcullis and for QEMU.
import { accessSync, constants, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { fetchBusybox, fetchKernel, findModule } from '../dist/guest/fetch.js';
import { buildInitramfs } from '../dist/guest/initramfs.js';

export const MEMORY_MIB = 256;
const COMMAND_LINE = 'console=ttyS0 panic=-1 quiet cryptomgr.notests';
const QEMU = 'qemu-system-x86_64';

/** Folder for files of this run, gone when it ends. */
export const folder = mkdtempSync(join(tmpdir(), 'portcullis-bench-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const progress = ({ text, done }) => {
  if (!done) console.error(`bench: ${text}`);
};

/** Shell functions of every script: a marked stretch, timed by the guest's clock. */
const PRELUDE = `#!/bin/busybox sh
echo "@@ init"
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /tmp
mark() { read up rest < /proc/uptime; echo "@@ $* $up"; }
timed() { local name=$1; shift; mark begin $name; "$@"; mark end $name; }
`;

/** A guest that runs `script` as its first process and powers off. `files`: [path in the guest, bytes]. */
export async function makeGuest(name, script, files = []) {
  const kernel = await fetchKernel(progress);
  const entries = [['init', Buffer.from(`${PRELUDE}${script}\n/bin/busybox poweroff -f\n`)], ...files];
  const initramfs = join(folder, `${name}.cpio`);
  writeFileSync(
    initramfs,
    buildInitramfs(
      readFileSync(await fetchBusybox(progress)),
      entries.map(([path, data]) => ({ kind: 'file', path, mode: 0o755, data })),
    ),
  );
  return { kernel: kernel.image, release: kernel.release, initramfs };
}

export async function stockModule(name) {
  const path = findModule((await fetchKernel(progress)).modules, name);
  return { path, bytes: readFileSync(path) };
}

/** `portcullis run`, as a user has it. */
export function portcullis({ kernel, initramfs }) {
  return {
    command: process.execPath,
    args: [
      here('../dist/cli/main.js'),
      'run',
      '--kernel',
      kernel,
      '--initramfs',
      initramfs,
      '--command-line',
      COMMAND_LINE,
      '--memory',
      `${MEMORY_MIB}M`,
    ],
  };
}

/** The same machine in one thread of a process that adds counts of instructions and crossings to each sample. `options`: those of `run`. */
export function counted({ kernel, initramfs }, options = {}) {
  const flags = { kernel, initramfs, commandLine: COMMAND_LINE, memory: `${MEMORY_MIB}M`, ...options };
  return { command: process.execPath, args: [here('./counted-guest.mjs'), JSON.stringify(flags)] };
}

/** QEMU's translating engine (TCG), one virtual CPU, nothing beside the serial port. Undefined where it is not installed, said once. */
export function qemu({ kernel, initramfs }) {
  if (!installed(QEMU)) return undefined;
  return {
    command: QEMU,
    args: [
      '-accel',
      'tcg',
      '-cpu',
      'max',
      '-smp',
      '1',
      '-m',
      `${MEMORY_MIB}`,
      '-nodefaults',
      '-no-reboot',
      '-display',
      'none',
      '-serial',
      'stdio',
      '-kernel',
      kernel,
      '-initrd',
      initramfs,
      '-append',
      COMMAND_LINE,
    ],
  };
}

const missing = new Set();

function installed(program) {
  for (const path of (process.env.PATH ?? '').split(delimiter)) {
    try {
      accessSync(join(path, program), constants.X_OK);
      return true;
    } catch {
      /* not here */
    }
  }
  if (!missing.has(program)) console.error(`bench: ${program} IS NOT INSTALLED: figures beside it are left out`);
  missing.add(program);
  return false;
}
