/**
 * `portcullis demo vault`: a module that signs with a key that it alone holds, and guest root who looks for that key everywhere. The key comes sealed in
 * the grant; the signatures are checked here, with the key that the guest never has.
 */
import { createHmac, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readObject } from '../elf/read.ts';
import { buildCModule } from '../guest/c-module.ts';
import type { CpioEntry } from '../guest/cpio.ts';
import { fetchBusybox, fetchKernel } from '../guest/fetch.ts';
import { buildInitramfs } from '../guest/initramfs.ts';
import { openKernelImage } from '../guest/kernel-image.ts';
import type { Progress } from '../guest/packages.ts';
import { buildProgram } from '../guest/program.ts';
import { vaultScript } from '../guest/vault-script.ts';
import { linkModule } from '../linker/link.ts';
import { manifestDigest } from '../policy/canonical.ts';
import { parseLinkPolicy } from '../policy/schema.ts';
import { generateVmmKeyPair, sealSecret } from '../policy/seal.ts';
import { generateKeyPair, signGrant } from '../policy/signing.ts';
import type { MemorySearch, VmConfig } from '../vm/config.ts';
import type { RunningVm } from '../vm/host.ts';
import type { Context } from './command.ts';
import { DemoTranscript } from './demo-transcript.ts';
import { makeGrant } from './keys.ts';
import { printJson } from './output.ts';
import type { RunOptions } from './run-options.ts';
import { describeEnd, supervise } from './supervise.ts';
import { CONTROL, masked, type Needle, vaultNeedles } from './vault-needles.ts';
import { judgeVault, vaultSummary } from './vault-report.ts';

const VM_NAME = 'demo';
const KEY_BYTES = 32;
const COMMAND_LINE = 'console=ttyS0 panic=-1 quiet cryptomgr.notests iomem=relaxed';

const source = (path: string) => fileURLToPath(new URL(`../../modules/${path}`, import.meta.url));

/** What the machine is, and what is known of the key outside it. */
export interface VaultDemo {
  config: VmConfig;
  release: string;
  /** The control comes first. */
  needles: Needle[];
  sign(message: string): string;
}

export async function vaultDemo({ json, progress }: Context, options: RunOptions, verbose: boolean): Promise<number> {
  const step: Progress = (what) => progress.step(what);
  const demo = await prepareVault(options, step);
  step({ text: `starting ${demo.release} on the ${options.engine} engine` });
  const searches: Promise<MemorySearch>[] = [];
  let vm: RunningVm | undefined;
  const transcript = new DemoTranscript((stage) => {
    step({ text: `guest: ${stage}` });
    if (vm && ['sign', 'search', 'done'].includes(stage)) {
      const found = vm.search(demo.needles.map(({ bytes }) => bytes));
      found.catch(() => {}); // the machine may end first; missing searches are missed below
      searches.push(found);
    }
  });
  const ended = await supervise(demo.config, {
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
  const settled = await Promise.allSettled(searches);
  progress.clear();
  const host = settled.flatMap((search) => (search.status === 'fulfilled' ? [search.value] : []));
  const result = judgeVault({ release: demo.release, transcript, ended, needles: demo.needles, sign: demo.sign, host });
  if (json) printJson(result);
  else console.log(vaultSummary(result, ended));
  if (!result.ok && !verbose)
    process.stderr.write(`portcullis: ${describeEnd(ended)}; last lines of the guest's console:\n${transcript.tail()}\n`);
  return result.ok ? 0 : ended.code || 1;
}

/** Builds, links, seals and signs. Throws UserError where gcc, make or the kernel's headers are missing. */
export async function prepareVault(options: RunOptions, step: Progress): Promise<VaultDemo> {
  const kernel = await fetchKernel(step);
  const busybox = readFileSync(await fetchBusybox(step));
  const plain = (await buildCModule(source('vault/vault.c'), kernel.release, step)).image;
  const search = (await buildCModule(source('attacks/search.c'), kernel.release, step)).image;
  const finder = buildProgram(source('attacks/find.c'));
  step({ text: 'unpacking the kernel' });
  const image = await openKernelImage(kernel.image, readFileSync(kernel.image));
  step({ text: 'linking, sealing and signing' });
  const policyFile = source('vault/vault.policy.json');
  const guarded = linkModule(plain, 'vault.ko', parseLinkPolicy(readFileSync(policyFile, 'utf8'), policyFile));
  const key = randomBytes(KEY_BYTES);
  const [administrator, vmm] = [generateKeyPair(), generateVmmKeyPair()];
  const digest = manifestDigest(guarded.manifest);
  const sealed = sealSecret(key, vmm.publicKey, { manifest: digest, name: 'key' });
  const grant = signGrant(
    makeGrant({
      manifest: digest,
      vms: [VM_NAME],
      days: 1,
      onViolation: 'quarantine',
      privileges: [{ kind: 'secret', parameters: { name: 'key', sealed } }],
    }),
    administrator.privateKey,
  );
  const needles = [CONTROL, ...vaultNeedles(key)];
  const script = vaultScript({
    needles: needles.map(masked),
    memory: options.memory,
    text: readObject(guarded.image, 'vault.ko').section('.text')?.size ?? 0,
  });
  const module = (name: string, data: Uint8Array): CpioEntry => ({ kind: 'file', path: `lib/modules/${name}.ko`, data });
  const initramfs = buildInitramfs(busybox, [
    { kind: 'file', path: 'etc/portcullis/start', mode: 0o755, data: Buffer.from(script) },
    { kind: 'file', path: 'bin/memory-search', mode: 0o755, data: finder },
    { kind: 'file', path: 'control', data: Buffer.from(CONTROL.bytes) },
    module('vault', guarded.image),
    module('vault-plain', plain),
    module('search', search),
  ]);
  return {
    config: {
      name: VM_NAME,
      engine: options.engine,
      clock: options.clock,
      memory: options.memory,
      kernel: { elf: image.elf, setupHeader: image.setupHeader, name: kernel.image },
      initramfs,
      commandLine: COMMAND_LINE,
      modules: [{ image: guarded.image, manifest: guarded.manifest, grants: [grant] }],
      trustedKeys: [administrator.publicKey],
      vmmKey: vmm.privateKey,
      cards: [],
      wallClock: options.clock === 'instructions' ? Date.UTC(2026, 0, 1) : Date.now(),
      log: options.log,
    },
    release: kernel.release,
    needles,
    sign: (message) => createHmac('sha256', key).update(message).digest('hex'),
  };
}
