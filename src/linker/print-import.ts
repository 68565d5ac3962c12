/**
 * A guarded module that is refused or quarantined says why in the guest's log by its own call gate to the kernel's print function
 * (src/monitor/guest-log.ts). One that never prints gets the import here. It is weak: a kernel without the function loads the module all the same.
 */
import { STB, STT } from '../elf/constants.ts';
import type { ElfObject, ElfSymbol } from '../elf/object.ts';
import { addVersion } from '../elf/versions.ts';
import { PRINT_FUNCTIONS } from '../policy/manifest.ts';

/** CRC of a kernel's export (CONFIG_MODVERSIONS), or undefined where nobody knows. `release`: as `uname -r` has it. */
export type ExportVersion = (release: string, symbol: string) => bigint | undefined;

/** The undefined symbol of a print function: that of `calls`, else one that becomes part of it. */
export function importPrint(object: ElfObject, calls: ElfSymbol[], version: (symbol: string) => bigint | undefined): void {
  const isPrint = ({ name, place }: ElfSymbol) => place === 'undefined' && PRINT_FUNCTIONS.includes(name);
  if (calls.some(isPrint)) return;
  const known = object.symbols.find(isPrint);
  if (known !== undefined) {
    calls.push(known); // stored or compared, never called
    return;
  }
  const [name] = PRINT_FUNCTIONS;
  calls.push(object.addSymbol({ name, binding: STB.weak, type: STT.none, other: 0, place: 'undefined', value: 0, size: 0 }));
  // Without a CRC the kernel warns once that it has none, and loads the module.
  const crc = version(name);
  if (crc !== undefined) addVersion(object, name, crc);
}
