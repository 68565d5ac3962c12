/** Guarded modules by the dozen: linked and granted in this process, with no privileges, into one folder. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeGrant } from '../../../src/cli/keys.ts';
import { stockExportVersion } from '../../../src/guest/export-versions.ts';
import { linkModule } from '../../../src/linker/link.ts';
import { manifestDigest } from '../../../src/policy/canonical.ts';
import { generateKeyPair, signGrant } from '../../../src/policy/signing.ts';
import { stockModule } from '../guest.ts';

/** Gives the options of `run` that register and trust them all. The guest finds each at /lib/modules/NAME.ko. */
export function guardModules(names: readonly string[], folder: string, vm = 'vm'): string[] {
  const keys = generateKeyPair();
  writeFileSync(join(folder, 'admin.pub'), keys.publicKey);
  const options = ['--trust', 'admin.pub'];
  for (const name of names) {
    const path = stockModule(name);
    const { image, manifest } = linkModule(readFileSync(path), path, {}, stockExportVersion);
    const grant = makeGrant({ manifest: manifestDigest(manifest), vms: [vm], privileges: [], days: 1, onViolation: 'quarantine' });
    writeFileSync(join(folder, `${name}.guarded.ko`), image);
    writeFileSync(join(folder, `${name}.guarded.ko.manifest.json`), JSON.stringify(manifest));
    writeFileSync(join(folder, `${name}.grant.json`), JSON.stringify(signGrant(grant, keys.privateKey)));
    options.push('--module', `${name}.guarded.ko`, '--grant', `${name}.grant.json`);
  }
  return options;
}

/** Options of `run` that put the stock modules at the same places. */
export const stockModules = (names: readonly string[]): string[] =>
  names.flatMap((name) => ['--put', `lib/modules/${name}.ko=${stockModule(name)}`]);
