/** The `__versions` section: what a module was built to import, with the CRC of each import's interface (`struct modversion_info`, Linux include/linux/module.h). */
import type { ElfObject } from './object.ts';

/** CRC, 8 bytes, and name, zero-padded. */
const ENTRY_SIZE = 64;
const NAME = 8;

/** CRCs by import, in file order. Empty where the section is missing; what is not whole at its end is left out. */
export function readVersions(object: ElfObject): ReadonlyMap<string, bigint> {
  const data = Buffer.from(object.section('__versions')?.data ?? []);
  const versions = new Map<string, bigint>();
  for (let at = 0; at + ENTRY_SIZE <= data.length; at += ENTRY_SIZE) {
    const [name] = data.toString('latin1', at + NAME, at + ENTRY_SIZE).split('\0');
    versions.set(name, data.readBigUInt64LE(at));
  }
  return versions;
}

/** Adds an import's CRC; nothing where the module has no versions at all. Throws RangeError for a name of more than 55 bytes. */
export function addVersion(object: ElfObject, name: string, crc: bigint): void {
  const section = object.section('__versions');
  if (section === undefined) return;
  if (name.length >= ENTRY_SIZE - NAME)
    throw new RangeError(`the name ${name} is longer than the ${ENTRY_SIZE - NAME - 1} bytes of a version`);
  const at = section.data.length;
  const data = Buffer.alloc(at + ENTRY_SIZE);
  data.set(section.data);
  data.writeBigUInt64LE(crc, at);
  data.write(name, at + NAME, 'latin1');
  section.data = data;
}
