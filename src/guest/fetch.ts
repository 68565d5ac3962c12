/** What a guest is made of, out of Debian packages: the stock kernel with its modules, and a static busybox. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { cachedPackage, fetchPackage, type Package, type Progress, resolveMeta } from './packages.ts';
import { cacheFolder } from './cache.ts';

export interface StockKernel {
  /** e.g. "6.1.0-50-amd64" */
  release: string;
  packageVersion: string;
  /** The bzImage. */
  image: string;
  /** Folder lib/modules/<release>. */
  modules: string;
}

const IMAGE_PREFIX = 'linux-image-';

/** The newest unpacked stock kernel in the cache; undefined when there is none. */
export function cachedKernel(): StockKernel | undefined {
  const names = new Set(
    readdirSync(cacheFolder('packages'))
      .filter((entry) => entry.startsWith(IMAGE_PREFIX))
      .map((entry) => entry.split('_')[0]),
  );
  for (const name of [...names].sort().reverse()) {
    const hit = cachedPackage(name);
    if (hit) return stockKernel(hit);
  }
  return undefined;
}

function stockKernel(found: Package): StockKernel {
  const release = found.name.slice(IMAGE_PREFIX.length).replace(/-unsigned$/, '');
  const image = join(found.folder, 'boot', `vmlinuz-${release}`);
  const modules = [join(found.folder, 'lib/modules', release), join(found.folder, 'usr/lib/modules', release)].find((folder) =>
    existsSync(folder),
  );
  if (!existsSync(image) || modules === undefined) {
    throw new UserError(
      `package ${found.name} has no boot/vmlinuz-${release} with modules`,
      `delete ${found.folder} and try again`,
      'failed',
    );
  }
  return { release, packageVersion: found.version, image, modules };
}

/** The current stock Debian kernel: from the cache when there is one, else downloaded. */
export async function fetchKernel(progress: Progress): Promise<StockKernel> {
  const cached = cachedKernel();
  if (cached) return cached;
  const name = await resolveMeta('linux-image-amd64', IMAGE_PREFIX, progress);
  return stockKernel(await fetchPackage(name, progress));
}

/** Path of a static busybox: from the cache when there is one, else downloaded. */
export async function fetchBusybox(progress: Progress): Promise<string> {
  const found = await fetchPackage('busybox-static', progress);
  const file = ['bin/busybox', 'usr/bin/busybox'].map((name) => join(found.folder, name)).find((name) => existsSync(name));
  if (!file) throw new UserError('package busybox-static has no bin/busybox', `delete ${found.folder} and try again`, 'failed');
  return file;
}

/** Path of a program: from PATH when it is there, else from its Debian package in the cache. */
export async function fetchTool(name: string, packageName: string, path: string, progress: Progress = () => {}): Promise<string> {
  for (const folder of (process.env.PATH ?? '').split(':')) {
    if (folder && existsSync(join(folder, name))) return join(folder, name);
  }
  return join((await fetchPackage(packageName, progress)).folder, path);
}

/** Path of passt, for `--net user`. */
export const fetchPasst = (progress: Progress): Promise<string> => fetchTool('passt', 'passt', 'usr/bin/passt', progress);

/** Finds `<name>.ko` (or .ko.xz) under a modules folder; '-' and '_' are the same letter. Undefined when there is none. */
export function findModule(modules: string, name: string): string | undefined {
  const wanted = name.replaceAll('-', '_');
  const entries = readdirSync(modules, { recursive: true, withFileTypes: true });
  const hit = entries.find(
    (entry) => entry.isFile() && /^(.*)\.ko(\.xz|\.zst|\.gz)?$/.exec(entry.name)?.[1].replaceAll('-', '_') === wanted,
  );
  return hit && join(hit.parentPath, hit.name);
}
