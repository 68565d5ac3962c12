/** For the linker's tests on stock modules: where they are. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { cachedKernel } from '../../src/guest/fetch.ts';

/** The folder lib/modules/RELEASE, or why there is none. */
export function findModules(): { folder: string } | { missing: string } {
  const tree = process.env.PORTCULLIS_KERNEL_TREE;
  if (tree === undefined) {
    const kernel = cachedKernel();
    return kernel ? { folder: kernel.modules } : { missing: 'there is no kernel in the cache and PORTCULLIS_KERNEL_TREE is not set' };
  }
  for (const parent of [join(tree, 'lib/modules'), join(tree, 'usr/lib/modules')]) {
    const [release] = existsSync(parent) ? readdirSync(parent) : [];
    if (release !== undefined) return { folder: join(parent, release) };
  }
  return { missing: `PORTCULLIS_KERNEL_TREE is ${tree}, which has no lib/modules` };
}
