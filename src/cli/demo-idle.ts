/**
 * `portcullis demo idle`: a cpuidle driver that waits by MONITOR/MWAIT while its virtual CPU is alone on a core, and by HLT otherwise. Measures how fast a
 * CPU wakes with either, has another virtual CPU come to the core and go, and tries both instructions everywhere else in the guest.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { buildCModule } from '../guest/c-module.ts';
import type { CpioEntry } from '../guest/cpio.ts';
import { fetchBusybox, fetchKernel } from '../guest/fetch.ts';
import { IDLE_CPU, IDLE_CPUS, IDLE_VISITOR, idleScript } from '../guest/idle-script.ts';
import { buildInitramfs } from '../guest/initramfs.ts';
import { openKernelImage } from '../guest/kernel-image.ts';
import type { Progress } from '../guest/packages.ts';
import { buildProgram } from '../guest/program.ts';
import { linkModule } from '../linker/link.ts';
import { manifestDigest } from '../policy/canonical.ts';
import { generateKeyPair, signGrant } from '../policy/signing.ts';
import type { VmConfig } from '../vm/config.ts';
import type { RunningVm } from '../vm/host.ts';
import type { Context } from './command.ts';
import { DemoTranscript } from './demo-transcript.ts';
import { idleSummary, judgeIdle } from './idle-report.ts';
import { makeGrant } from './keys.ts';
import { printJson } from './output.ts';
import type { RunOptions } from './run-options.ts';
import { describeEnd, supervise } from './supervise.ts';

const VM_NAME = 'demo';
const COMMAND_LINE = 'console=ttyS0 panic=-1 quiet cryptomgr.notests';

const source = (path: string) => fileURLToPath(new URL(`../../modules/${path}`, import.meta.url));

export async function idleDemo({ json, progress }: Context, options: RunOptions, verbose: boolean): Promise<number> {
  const step: Progress = (what) => progress.step(what);
  const { config, release } = await prepareIdle(options, step);
  step({ text: `starting ${release} on the ${options.engine} engine` });
  let vm: RunningVm | undefined;
  const transcript = new DemoTranscript((stage) => {
    step({ text: `guest: ${stage}` });
    if (stage === 'share') vm?.pin(IDLE_VISITOR, IDLE_CPU); // cores are numbered as the CPUs that begin on them
    if (stage === 'alone') vm?.pin(IDLE_VISITOR, IDLE_VISITOR);
  });
  const ended = await supervise(config, {
    console(chunk) {
      transcript.add(chunk);
      if (verbose) process.stderr.write(chunk);
    },
    started: (running) => {
      vm = running;
    },
    events: options.events,
    eventsLost: options.eventsLost,
    timeout: options.timeout,
  });
  progress.clear();
  const result = judgeIdle({ release, transcript, ended });
  if (json) printJson(result);
  else console.log(idleSummary(result, ended));
  if (!result.ok && !verbose)
    process.stderr.write(`portcullis: ${describeEnd(ended)}; last lines of the guest's console:\n${transcript.tail()}\n`);
  return result.ok ? 0 : ended.code || 1;
}

/** Builds, links and signs. Throws UserError where gcc, make or the kernel's headers are missing. */
async function prepareIdle(options: RunOptions, step: Progress): Promise<{ config: VmConfig; release: string }> {
  const kernel = await fetchKernel(step);
  const { release } = kernel;
  const busybox = readFileSync(await fetchBusybox(step));
  const plain = (await buildCModule(source('idle/idle.c'), release, step)).image;
  const wake = (await buildCModule(source('idle/wake.c'), release, step)).image;
  const attack = (await buildCModule(source('attacks/mwait.c'), release, step)).image;
  const program = buildProgram(source('attacks/mwait-user.c'));
  step({ text: 'unpacking the kernel' });
  const image = await openKernelImage(kernel.image, readFileSync(kernel.image));
  step({ text: 'linking and signing' });
  const guarded = linkModule(plain, 'idle.ko');
  const administrator = generateKeyPair();
  const grant = signGrant(
    makeGrant({
      manifest: manifestDigest(guarded.manifest),
      vms: [VM_NAME],
      days: 1,
      onViolation: 'quarantine',
      privileges: [{ kind: 'mwait', parameters: {} }],
    }),
    administrator.privateKey,
  );
  const module = (name: string, data: Uint8Array): CpioEntry => ({ kind: 'file', path: `lib/modules/${name}.ko`, data });
  const initramfs = buildInitramfs(busybox, [
    { kind: 'file', path: 'etc/portcullis/start', mode: 0o755, data: Buffer.from(idleScript()) },
    { kind: 'file', path: 'bin/mwait-user', mode: 0o755, data: program },
    module('idle', guarded.image),
    module('idle-plain', plain),
    module('wake', wake),
    module('mwait', attack),
  ]);
  const cpus = Math.max(IDLE_CPUS, options.cpus);
  return {
    release,
    config: {
      name: VM_NAME,
      engine: options.engine,
      clock: options.clock,
      cpus,
      cores: cpus,
      pins: Array.from({ length: cpus }, (_, cpu): [number, number] => [cpu, cpu]),
      seed: options.seed,
      memory: options.memory,
      kernel: { elf: image.elf, setupHeader: image.setupHeader, name: kernel.image },
      initramfs,
      commandLine: COMMAND_LINE,
      modules: [{ image: guarded.image, manifest: guarded.manifest, grants: [grant] }],
      trustedKeys: [administrator.publicKey],
      cards: [],
      wallClock: options.clock === 'instructions' ? Date.UTC(2026, 0, 1) : Date.now(),
      log: options.log,
      watch: options.watch,
    },
  };
}
