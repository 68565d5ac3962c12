/**
 * `portcullis demo vault`: a module that signs with a key that it alone holds, and guest root who looks for that key everywhere. The key comes sealed in
 * the grant; the signatures are checked here, with the key that the guest never has.
 */
import { createHmac, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readObject } from '../elf/read.ts';
import { buildCModule } from '../guest/c-module.ts';
import { stockExportVersion } from '../guest/export-versions.ts';
import type { Progress } from '../guest/packages.ts';
import { buildProgram } from '../guest/program.ts';
import { vaultScript } from '../guest/vault-script.ts';
import { linkModule } from '../linker/link.ts';
import { manifestDigest } from '../policy/canonical.ts';
import { parseLinkPolicy } from '../policy/schema.ts';
import { generateVmmKeyPair, sealSecret } from '../policy/seal.ts';
import type { MemorySearch, VmConfig } from '../vm/config.ts';
import type { Context } from './command.ts';
import { demoConfig, demoGrant, demoKernel, moduleFile, moduleSource, runDemo } from './demo-guest.ts';
import type { RunOptions } from './run-options.ts';
import { CONTROL, masked, type Needle, vaultNeedles } from './vault-needles.ts';
import { judgeVault, vaultSummary } from './vault-report.ts';

const KEY_BYTES = 32;
/** When guest memory is searched from outside. */
const SEARCHED = new Set(['sign', 'search', 'done']);

/** What the machine is, and what is known of the key outside it. */
interface VaultDemo {
  config: VmConfig;
  release: string;
  /** The control comes first. */
  needles: Needle[];
  sign(message: string): string;
}

export async function vaultDemo(context: Context, options: RunOptions, verbose: boolean): Promise<number> {
  const { config, release, needles, sign } = await prepareVault(options, (what) => context.progress.step(what));
  const searches: Promise<MemorySearch>[] = [];
  return runDemo(context, options, verbose, {
    config,
    release,
    stage(name, vm) {
      if (vm === undefined || !SEARCHED.has(name)) return;
      const found = vm.search(needles.map(({ bytes }) => bytes));
      found.catch(() => {}); // the machine may end first; missing searches are missed below
      searches.push(found);
    },
    async judge(transcript, ended) {
      const settled = await Promise.allSettled(searches);
      const host = settled.flatMap((search) => (search.status === 'fulfilled' ? [search.value] : []));
      return judgeVault({ release, transcript, ended, needles, sign, host });
    },
    summary: vaultSummary,
  });
}

/** Builds, links, seals and signs. Throws UserError where gcc, make or the kernel's headers are missing. */
async function prepareVault(options: RunOptions, step: Progress): Promise<VaultDemo> {
  const stock = await demoKernel(step);
  const { release } = stock.kernel;
  const plain = (await buildCModule(moduleSource('vault/vault.c'), release, step)).image;
  const search = (await buildCModule(moduleSource('attacks/search.c'), release, step)).image;
  const finder = buildProgram(moduleSource('attacks/find.c'));
  step({ text: 'linking, sealing and signing' });
  const policyFile = moduleSource('vault/vault.policy.json');
  const guarded = linkModule(plain, 'vault.ko', parseLinkPolicy(readFileSync(policyFile, 'utf8'), policyFile), stockExportVersion);
  const key = randomBytes(KEY_BYTES);
  const vmm = generateVmmKeyPair();
  const sealed = sealSecret(key, vmm.publicKey, { manifest: manifestDigest(guarded.manifest), name: 'key' });
  const needles = [CONTROL, ...vaultNeedles(key)];
  const script = vaultScript({
    needles: needles.map(masked),
    memory: options.memory,
    text: readObject(guarded.image, 'vault.ko').section('.text')?.size ?? 0,
  });
  const files = [
    { kind: 'file', path: 'bin/memory-search', mode: 0o755, data: finder } as const,
    { kind: 'file', path: 'control', data: Buffer.from(CONTROL.bytes) } as const,
    moduleFile('vault', guarded.image),
    moduleFile('vault-plain', plain),
    moduleFile('search', search),
  ];
  return {
    config: demoConfig(
      options,
      stock,
      { script, files, append: 'iomem=relaxed' },
      { ...demoGrant(guarded, [{ kind: 'secret', parameters: { name: 'key', sealed } }]), vmmKey: vmm.privateKey },
    ),
    release,
    needles,
    sign: (message) => createHmac('sha256', key).update(message).digest('hex'),
  };
}
