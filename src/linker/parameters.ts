/**
 * Which functions the kernel calls before the init function: the setters of module parameters, for the words behind `insmod FILE`
 * (Linux kernel/module/main.c, load_module: parse_args comes before do_init_module).
 */

import { R } from '../elf/constants.ts';
import { type ElfObject, type ElfSymbol, FunctionIndex } from '../elf/object.ts';

/** struct kernel_param {char *name; struct module *mod; const struct kernel_param_ops *ops; ...} (Linux include/linux/moduleparam.h). */
const PARAMETER_SIZE = 40;
const PARAMETER_OPERATIONS = 16;
/** struct kernel_param_ops {unsigned int flags; int (*set)(...); ...} */
const OPERATIONS_SET = 8;

/** The module's own setters, each by the first name of its function. Ask before addresses are changed to those of gates. */
export function parameterSetters(object: ElfObject): Set<ElfSymbol> {
  const setters = new Set<ElfSymbol>();
  const functions = new FunctionIndex(object);
  for (const { type, offset, symbol, addend } of object.section('__param')?.relocations ?? []) {
    const { place } = symbol;
    if (type !== R.abs64 || offset % PARAMETER_SIZE !== PARAMETER_OPERATIONS || typeof place === 'string') continue;
    const field = symbol.value + addend + OPERATIONS_SET;
    for (const setter of place.relocations) {
      if (setter.offset !== field || setter.type !== R.abs64 || typeof setter.symbol.place === 'string') continue;
      const names = functions.at(setter.symbol.place, setter.symbol.value + setter.addend);
      if (names) setters.add(names[0]);
    }
  }
  return setters;
}
