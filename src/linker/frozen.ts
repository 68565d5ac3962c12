/**
 * Code that the kernel would switch at run time and that stays as compiled in a guarded module: jump labels and static calls. Mostly
 * harmless (debug prints and tracepoints stay off), so it is reported; a module that steers its own logic by static calls is refused.
 */

import { hex } from '../base/hex.ts';
import { STT } from '../elf/constants.ts';
import { type ElfObject, type Relocation, type Section, symbolName } from '../elf/object.ts';
import type { Problems } from './problems.ts';

/** struct jump_entry (Linux include/linux/jump_label.h): s32 code, s32 target, s64 key. */
const JUMP_ENTRY_SIZE = 16;
const JUMP_ENTRY_KEY = 8;
/** Most keys named in warnings. */
const MOST_KEYS = 1000;
export const TRACEPOINT_SECTION = '__tracepoints';
/** Field `static_call_key` of struct tracepoint: by name, since the compiler sees a global symbol. */
export const TRACEPOINT_KEY = /^__SCK__tp_func_/;
/** Trampolines of tracepoints. */
const TRACEPOINT_TRAMPOLINE = '__SCT__tp_func_';

/** What stays as compiled, for the user. Adds to `problems` where that would break the module. */
export function frozenCode(object: ElfObject, problems: Problems): string[] {
  const warnings: string[] = [];
  const names = objectNames(object);
  const keys = new Map<string, number>();
  for (const relocation of object.section('__jump_table')?.relocations ?? []) {
    if (relocation.offset % JUMP_ENTRY_SIZE !== JUMP_ENTRY_KEY) continue;
    const key = keyName(names, relocation);
    keys.set(key, (keys.get(key) ?? 0) + 1);
  }
  for (const [key, count] of [...keys].sort(([a], [b]) => (a < b ? -1 : 1)).slice(0, MOST_KEYS))
    warnings.push(`${count} jump label(s) of ${key} stay as compiled`);

  const trampolines = object.section('.static_call.text');
  const steered = object.symbols.filter(
    ({ place, type, name }) =>
      trampolines !== undefined && place === trampolines && type !== STT.section && name !== '' && !name.startsWith(TRACEPOINT_TRAMPOLINE),
  );
  if (steered.length > 0) {
    const list = steered
      .slice(0, 5)
      .map(({ name }) => name)
      .join(', ');
    problems.add(
      `.static_call.text: the module switches its own code at run time by static calls (${list}), which guarded text does not allow`,
    );
  }
  return warnings;
}

/**
 * The kernel would patch the trampoline of a tracepoint, in the module's text, when a probe is registered. A tracepoint without static call is
 * one that it leaves alone (Linux 6.1 kernel/tracepoint.c, tracepoint_update_call).
 */
export function freezeTracepoints(object: ElfObject): void {
  const section = object.section(TRACEPOINT_SECTION);
  if (section) section.relocations = section.relocations.filter(({ symbol }) => !TRACEPOINT_KEY.test(symbol.name));
}

function keyName(names: ReadonlyMap<Section, ReadonlyMap<number, string>>, { symbol, addend }: Relocation): string {
  const { place } = symbol;
  if (typeof place === 'string') return `the kernel's ${symbolName(symbol)}`;
  if (place.name === '__dyndbg') return 'debug prints';
  if (place.name === TRACEPOINT_SECTION) return 'own tracepoints';
  // Bits 0 and 1 of the key's address are flags, kept in the addend.
  const address = symbol.value + (addend & ~3);
  return `the module's own key ${names.get(place)?.get(address) ?? `${place.name}+${hex(address)}`}`;
}

/** Names of data objects by section and offset. */
function objectNames(object: ElfObject): Map<Section, Map<number, string>> {
  const names = new Map<Section, Map<number, string>>();
  for (const { type, place, value, name } of object.symbols) {
    if (type !== STT.object || typeof place === 'string') continue;
    const section = names.get(place) ?? new Map<number, string>();
    names.set(place, section.set(value, name));
  }
  return names;
}
