/**
 * What the demos share: the stock kernel and busybox as a machine's configuration, a grant by an administrator of this run alone, and the run itself
 * with its verdict.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { CpioEntry } from '../guest/cpio.ts';
import { fetchBusybox, fetchKernel, type StockKernel } from '../guest/fetch.ts';
import { buildInitramfs } from '../guest/initramfs.ts';
import { openKernelImage } from '../guest/kernel-image.ts';
import type { Progress } from '../guest/packages.ts';
import type { linkModule } from '../linker/link.ts';
import { manifestDigest } from '../policy/canonical.ts';
import type { PrivilegeGrant } from '../policy/grant.ts';
import { generateKeyPair, signGrant } from '../policy/signing.ts';
import type { VmConfig } from '../vm/config.ts';
import type { RunningVm } from '../vm/host.ts';
import { processors } from './assemble.ts';
import type { Context } from './command.ts';
import { DemoTranscript } from './demo-transcript.ts';
import { makeGrant } from './keys.ts';
import { pacedStream, printJson } from './output.ts';
import type { RunOptions } from './run-options.ts';
import { describeEnd, type Ended, supervise } from './supervise.ts';

const VM_NAME = 'demo';
const COMMAND_LINE = 'console=ttyS0 panic=-1 quiet cryptomgr.notests';

/** A C source below `modules/`. */
export const moduleSource = (path: string): string => fileURLToPath(new URL(`../../modules/${path}`, import.meta.url));

/** A module's place in a demo's guest. */
export const moduleFile = (name: string, data: Uint8Array): CpioEntry => ({ kind: 'file', path: `lib/modules/${name}.ko`, data });

export interface DemoKernel {
  readonly kernel: StockKernel;
  readonly busybox: Uint8Array;
  readonly image: Awaited<ReturnType<typeof openKernelImage>>;
}

/** Fetches, at the first time, and unpacks. */
export async function demoKernel(step: Progress): Promise<DemoKernel> {
  const kernel = await fetchKernel(step);
  const busybox = readFileSync(await fetchBusybox(step));
  step({ text: 'unpacking the kernel' });
  return { kernel, busybox, image: await openKernelImage(kernel.image, readFileSync(kernel.image)) };
}

type Linked = ReturnType<typeof linkModule>;

/** A module with a grant that is good for a day, and the key that it is signed with. */
export function demoGrant(guarded: Linked, privileges: PrivilegeGrant[]): Pick<VmConfig, 'modules' | 'trustedKeys'> {
  const administrator = generateKeyPair();
  const manifest = manifestDigest(guarded.manifest);
  const grant = signGrant(
    makeGrant({ manifest, vms: [VM_NAME], days: 1, onViolation: 'quarantine', privileges }),
    administrator.privateKey,
  );
  return { modules: [{ ...guarded, grants: [grant] }], trustedKeys: [administrator.publicKey] };
}

/** `script` is run by the guest's first process; `append`: kernel parameters. `special`: what is not as the options say. */
export function demoConfig(
  options: RunOptions,
  { kernel, busybox, image }: DemoKernel,
  { script, files, append }: { script: string; files: CpioEntry[]; append?: string },
  special: Pick<VmConfig, 'modules' | 'trustedKeys'> & Partial<VmConfig>,
): VmConfig {
  return {
    name: VM_NAME,
    engine: options.engine,
    clock: options.clock,
    ...processors(options),
    memory: options.memory,
    kernel: { elf: image.elf, setupHeader: image.setupHeader, name: kernel.image },
    initramfs: buildInitramfs(busybox, [{ kind: 'file', path: 'etc/portcullis/start', mode: 0o755, data: Buffer.from(script) }, ...files]),
    commandLine: append === undefined ? COMMAND_LINE : `${COMMAND_LINE} ${append}`,
    cards: [],
    wallClock: options.clock === 'instructions' ? Date.UTC(2026, 0, 1) : Date.now(),
    log: options.log,
    watch: options.watch,
    ...special,
  };
}

export interface Demo<Result extends { ok: boolean }> {
  readonly config: VmConfig;
  readonly release: string;
  /** The guest's script has come to a stage. */
  stage?(name: string, vm: RunningVm | undefined): void;
  judge(transcript: DemoTranscript, ended: Ended): Result | Promise<Result>;
  summary(result: Result, ended: Ended): string;
}

/** Runs the guest to its end and prints what came of it. Gives the exit code. */
export async function runDemo<Result extends { ok: boolean }>(
  { json, progress }: Context,
  { engine, events, eventsLost, timeout }: RunOptions,
  verbose: boolean,
  demo: Demo<Result>,
): Promise<number> {
  progress.step({ text: `starting ${demo.release} on the ${engine} engine` });
  let vm: RunningVm | undefined;
  const transcript = new DemoTranscript((name) => {
    progress.step({ text: `guest: ${name}` });
    demo.stage?.(name, vm);
  });
  const screen = pacedStream(process.stderr);
  const ended = await supervise(demo.config, {
    console(chunk) {
      transcript.add(chunk);
      return verbose ? screen.write(chunk) : undefined;
    },
    started: (running) => {
      vm = running;
    },
    events,
    eventsLost,
    timeout,
  });
  const result = await demo.judge(transcript, ended);
  progress.clear();
  if (json) printJson(result);
  else console.log(demo.summary(result, ended));
  if (!result.ok && !verbose)
    process.stderr.write(`portcullis: ${describeEnd(ended)}; last lines of the guest's console:\n${transcript.tail()}\n`);
  return result.ok ? 0 : ended.code || 1;
}
