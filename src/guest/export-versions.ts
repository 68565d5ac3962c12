/**
 * CRCs of the stock kernel's exports (CONFIG_MODVERSIONS), for imports that the linker adds. The kernel image has no table that could be read from outside,
 * but every stock module carries the CRCs of what it imports.
 */
import { type Dirent, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readObject } from '../elf/read.ts';
import { readVersions } from '../elf/versions.ts';
import { cachedKernel } from './fetch.ts';

const found = new Map<string, bigint | undefined>();

/** The CRC of `symbol`; undefined where no stock kernel `release` is in the cache, or none of its modules imports the symbol. */
export function stockExportVersion(release: string, symbol: string): bigint | undefined {
  const key = `${release} ${symbol}`;
  if (!found.has(key)) {
    const kernel = cachedKernel();
    found.set(key, kernel?.release === release ? search(join(kernel.modules, 'kernel'), symbol) : undefined);
  }
  return found.get(key);
}

function search(folder: string, symbol: string): bigint | undefined {
  const entries = readdirSync(folder, { withFileTypes: true }).sort(byName);
  for (const entry of entries) {
    const path = join(folder, entry.name);
    const crc = entry.isDirectory() ? search(path, symbol) : entry.name.endsWith('.ko') ? versionIn(path, symbol) : undefined;
    if (crc !== undefined) return crc;
  }
  return undefined;
}

const byName = (a: Dirent, b: Dirent) => (a.name < b.name ? -1 : 1);
const versionIn = (path: string, symbol: string) => readVersions(readObject(readFileSync(path), path)).get(symbol);
