/** `portcullis doctor`: what is here, what is missing, and how to get it. */
import { accessSync, constants } from 'node:fs';
import type { Command } from 'commander';
import { isOnPath as onPath } from '../guest/c-module.ts';
import { cacheFolder } from '../guest/cache.ts';
import { cachedKernel, fetchBusybox, fetchKernel } from '../guest/fetch.ts';
import { cachedPackage } from '../guest/packages.ts';
import { action } from './command.ts';
import { columns, printJson, styled } from './output.ts';

interface Finding {
  what: string;
  state: 'ok' | 'missing' | 'optional';
  detail: string;
  fix?: string;
}

const usable = (path: string) => {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
};

function examine(): Finding[] {
  const tool = (name: string, packageName: string, use: string, needed: boolean): Finding => ({
    what: name,
    state: onPath(name) ? 'ok' : needed ? 'missing' : 'optional',
    detail: onPath(name) ? use : `not found; ${use}`,
    fix: onPath(name) ? undefined : `apt-get install ${packageName}`,
  });
  const kernel = cachedKernel();
  const busybox = cachedPackage('busybox-static');
  const [major, minor] = process.versions.node.split('.').map(Number);
  const recent = major > 20 || (major === 20 && minor >= 19);
  return [
    {
      what: 'node',
      state: recent ? 'ok' : 'missing',
      detail: process.versions.node,
      fix: recent ? undefined : 'install Node 20.19 or later',
    },
    {
      what: 'stock kernel',
      state: kernel ? 'ok' : 'missing',
      detail: kernel ? `${kernel.release} (${kernel.packageVersion})` : 'not in the cache',
      fix: kernel ? undefined : 'portcullis doctor --fetch',
    },
    {
      what: 'busybox',
      state: busybox ? 'ok' : 'missing',
      detail: busybox ? busybox.version : 'not in the cache',
      fix: busybox ? undefined : 'portcullis doctor --fetch',
    },
    { what: 'cache', state: 'ok', detail: cacheFolder() },
    tool('apt-get', 'apt', 'fetches kernel and busybox packages', true),
    tool('dpkg-deb', 'dpkg', 'unpacks them', true),
    tool('xz', 'xz-utils', 'unpacks kernels (fetched by itself when missing)', false),
    tool('passt', 'passt', 'for --net user (fetched by itself when missing)', false),
    tool('gcc', 'gcc', 'builds C modules of your own', false),
    tool('make', 'make', 'builds C modules of your own', false),
    tool('qemu-system-x86_64', 'qemu-system-x86', 'peer in benchmarks', false),
    {
      what: '/dev/net/tun',
      state: usable('/dev/net/tun') ? 'ok' : 'optional',
      detail: usable('/dev/net/tun') ? 'for --net tap' : 'not usable; only --net tap needs it',
      fix: usable('/dev/net/tun') ? undefined : 'run as root with the tun module loaded',
    },
  ];
}

export function addDoctorCommand(program: Command): void {
  const doctor = program
    .command('doctor')
    .description('what is missing here, and how to get it')
    .option('--fetch', 'fetch the stock kernel and busybox into the cache')
    .addHelpText('after', '\nExamples:\n  portcullis doctor\n  portcullis doctor --fetch\n');
  action(doctor, async ({ json, progress }, options: { fetch?: boolean }) => {
    if (options.fetch) {
      await fetchKernel((step) => progress.step(step));
      await fetchBusybox((step) => progress.step(step));
      progress.clear();
    }
    const findings = examine();
    const ok = findings.every((finding) => finding.state !== 'missing');
    if (json) printJson({ ok, findings });
    else {
      const mark = { ok: styled('green', 'ok'), missing: styled('red', 'missing'), optional: 'optional' };
      console.log(
        columns(
          findings.map((finding) => [
            finding.what,
            finding.state === 'ok' ? mark.ok : mark[finding.state],
            finding.detail,
            finding.fix ? `-> ${finding.fix}` : '',
          ]),
        ),
      );
    }
    return ok ? 0 : 1;
  });
}
