/**
 * Code that the kernel would switch at run time and that stays as compiled in a guarded module: jump labels and static calls. Mostly
 * harmless (debug prints and tracepoints stay off), so it is reported; a module that steers its own logic by static calls is refused.
 */

import { STT } from '../elf/constants.ts';
import { type ElfObject, type Relocation, symbolName } from '../elf/object.ts';

/** struct jump_entry (Linux include/linux/jump_label.h): s32 code, s32 target, s64 key. */
const JUMP_ENTRY_SIZE = 16;
const JUMP_ENTRY_KEY = 8;
/** Trampolines of tracepoints. */
const TRACEPOINT_TRAMPOLINE = '__SCT__tp_func_';

export function frozenCode(object: ElfObject): { problems: string[]; warnings: string[] } {
  const problems: string[] = [];
  const warnings: string[] = [];
  const keys = new Map<string, number>();
  for (const relocation of object.section('__jump_table')?.relocations ?? []) {
    if (relocation.offset % JUMP_ENTRY_SIZE !== JUMP_ENTRY_KEY) continue;
    const key = keyName(object, relocation);
    keys.set(key, (keys.get(key) ?? 0) + 1);
  }
  for (const [key, count] of [...keys].sort(([a], [b]) => (a < b ? -1 : 1))) warnings.push(`${count} jump label(s) of ${key} stay as compiled`);

  const trampolines = object.section('.static_call.text');
  const steered = object.symbols.filter(({ place, type, name }) =>
    trampolines !== undefined && place === trampolines && type !== STT.section && name !== '' && !name.startsWith(TRACEPOINT_TRAMPOLINE));
  if (steered.length > 0) {
    problems.push(`.static_call.text: the module switches its own code at run time by static calls (${steered.slice(0, 5).map(({ name }) => name).join(', ')}), which guarded text does not allow`);
  }
  return { problems, warnings };
}

function keyName(object: ElfObject, { symbol, addend }: Relocation): string {
  const { place } = symbol;
  if (typeof place === 'string') return `the kernel's ${symbolName(symbol)}`;
  if (place.name === '__dyndbg') return 'debug prints';
  if (place.name === '__tracepoints') return 'own tracepoints';
  // Bits 0 and 1 of the key's address are flags, kept in the addend.
  const address = symbol.value + (addend & ~3);
  const key = object.symbols.find((candidate) => candidate.type === STT.object && candidate.place === place && candidate.value <= address && address < candidate.value + candidate.size);
  return `the module's own key ${key?.name ?? `${place.name}+${address}`}`;
}
