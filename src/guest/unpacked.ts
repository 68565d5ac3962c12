/** Kernels unpacked once, in the cache, by the digest of what they were packed as. The few used last are kept. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from './cache.ts';

/** Unpacked kernels that stay, some 60 MiB each. */
const KEPT = 3;
/** A file that nobody renamed for so long belongs to a run that ended early, ms. */
const ABANDONED = 3_600_000;

/** Path of the file that `packed` unpacks to, made by `unpack` when the cache does not have it. */
export async function unpackedFile(packed: Uint8Array, unpack: () => Promise<Uint8Array>): Promise<string> {
  const folder = cacheFolder('kernels');
  const path = join(folder, `${createHash('sha256').update(packed).digest('hex')}.elf`);
  if (existsSync(path)) {
    const now = new Date();
    utimesSync(path, now, now);
    return path;
  }
  const data = await unpack();
  // Under another name first: other runs may look for it now, and this one may be ended at any time.
  const unfinished = `${path}.${process.pid}`;
  try {
    writeFileSync(unfinished, data);
    renameSync(unfinished, path);
  } catch (error) {
    rmSync(unfinished, { force: true });
    throw error;
  }
  discardOld(folder);
  return path;
}

function discardOld(folder: string): void {
  const files = readdirSync(folder)
    .map((name) => ({ name, used: statSync(join(folder, name), { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
    .sort((a, b) => b.used - a.used);
  const finished = files.filter(({ name }) => name.endsWith('.elf'));
  const abandoned = files.filter(({ name, used }) => !name.endsWith('.elf') && used < Date.now() - ABANDONED);
  for (const { name } of [...finished.slice(KEPT), ...abandoned]) rmSync(join(folder, name), { force: true });
}
