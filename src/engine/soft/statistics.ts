/** Counters of an engine, summed over its CPUs. */

import { CODE_AREA, COUNT, FILLS, FLUSHES, STAT_BLOCKS, STAT_PAGE_DROPS, STAT_POOL_DROPS, STAT_RECORDS } from './core/layout.ts';
import type { Space } from './space.ts';

// Table of undefined instructions in the code area (core/statistics.ts)
const UNDEFINED_AT = 256;
const UNDEFINED_MAX = 64;
const MAPS = ['', '0F ', '0F 38 ', '0F 3A '];

const hex2 = (value: number): string => value.toString(16).toUpperCase().padStart(2, '0');

export function statistics(space: Space): Record<string, number> {
  const result: Record<string, number> = {};
  const add = (name: string, value: number) => {
    result[name] = (result[name] ?? 0) + value;
  };
  const word = (address: number) => space.words[address >>> 2] ?? 0;
  const long = (address: number) => word(address + 4) * 2 ** 32 + word(address);
  for (const block of space.cpus) {
    add('instructions', long(block + COUNT));
    add('translation fills', long(block + FILLS));
    add('translation flushes', long(block + FLUSHES));
    add('decoded blocks', word(block + STAT_BLOCKS));
    add('decoded instructions', word(block + STAT_RECORDS));
    add('code pages dropped', word(block + STAT_PAGE_DROPS));
    add('code cache resets', word(block + STAT_POOL_DROPS));
    const table = word(block + CODE_AREA) + UNDEFINED_AT;
    for (let i = 0; i < UNDEFINED_MAX; i++) {
      const code = word(table + 8 * i);
      const count = word(table + 8 * i + 4);
      if (count) add(`undefined ${MAPS[(code >>> 16) & 3]}${hex2((code >>> 8) & 0xff)} modrm ${hex2(code & 0xff)}`, count);
    }
  }
  return result;
}
