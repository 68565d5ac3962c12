/** The .modinfo section: NUL-separated `key=value` strings (Linux include/linux/moduleparam.h, __MODULE_INFO). */

import type { ElfObject } from './object.ts';

export interface ModInfo {
  /** The module's name as the kernel knows it. */
  name: string | undefined;
  vermagic: string | undefined;
  /** Every pair in file order; keys such as `alias`, `parm` and `depends` come more than once. */
  entries: readonly (readonly [key: string, value: string])[];
}

/** Empty when the object has no .modinfo. Text without `=` is a key with an empty value. */
export function readModInfo(object: ElfObject): ModInfo {
  const data = object.section('.modinfo')?.data ?? new Uint8Array(0);
  const entries = Buffer.from(data)
    .toString('utf8')
    .split('\0')
    .filter((text) => text !== '')
    .map((text): readonly [string, string] => {
      const equals = text.indexOf('=');
      return equals < 0 ? [text, ''] : [text.slice(0, equals), text.slice(equals + 1)];
    });
  const first = (key: string) => entries.find(([name]) => name === key)?.[1];
  return { name: first('name'), vermagic: first('vermagic'), entries };
}
