/** Where fetched packages and what was unpacked from them live: one folder, safe to delete. */
import { mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** `$PORTCULLIS_CACHE`, else `$XDG_CACHE_HOME/portcullis`, else `~/.cache/portcullis`. Created when missing. */
export function cacheFolder(...parts: string[]): string {
  const { PORTCULLIS_CACHE, XDG_CACHE_HOME } = process.env;
  const root = PORTCULLIS_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'portcullis');
  const folder = join(root, ...parts);
  mkdirSync(folder, { recursive: true });
  return folder;
}
