/** Canonical JSON: one text for one value, so that digests and signatures mean the value and not its spelling. */

import { createHash } from 'node:crypto';
import type { Manifest } from './manifest.ts';

/**
 * JSON with keys sorted by UTF-16 code unit, no spaces, and `undefined` members left out. Numbers are safe integers only: nothing else
 * occurs in manifests and grants, and so no rule for their spelling is needed. Throws TypeError for anything else.
 */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) throw new TypeError(`canonical JSON holds safe integers only, not ${value}`);
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object') throw new TypeError(`canonical JSON cannot hold a ${typeof value}`);
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`).join(',')}}`;
}

/** SHA-256 of the manifest's canonical JSON, 64 hex digits: what a grant names. */
export function manifestDigest(manifest: Manifest): string {
  return createHash('sha256').update(canonicalJson(manifest)).digest('hex');
}
