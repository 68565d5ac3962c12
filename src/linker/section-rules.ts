/**
 * What the linker knows about sections by name: which ones it removes and why, which ones only list positions in code, and the role that
 * each allocated section has in the manifest. Names are those of Linux (scripts/module.lds.S, include/asm-generic/vmlinux.lds.h).
 */

import type { Section } from '../elf/object.ts';
import type { SectionRole } from '../policy/manifest.ts';
import { GATE_SECTION } from '../policy/manifest.ts';
import { PRIVATE_PREFIX } from '../policy/private-memory.ts';

/** Holds the module's own `jmp *REG` thunks. */
export const THUNK_SECTION = '.text.thunks';
export const THIS_MODULE_SECTION = '.gnu.linkonce.this_module';

/** Removed with their relocations: the kernel would rewrite module text from these lists, and granted text must not change. */
export const DROPPED_SECTIONS: ReadonlyMap<string, string> = new Map([
  ['__mcount_loc', 'ftrace would patch the calls at function starts; they become nops'],
  ['__patchable_function_entries', 'ftrace would patch function entries'],
  [
    '.altinstructions',
    'the kernel would patch instructions for its CPU; alternatives for SMAP are applied here, others keep their default',
  ],
  ['.altinstr_replacement', 'holds replacement instructions for .altinstructions only'],
  ['.smp_locks', 'the kernel would remove lock prefixes on one CPU'],
  ['.retpoline_sites', 'the kernel would rewrite indirect calls; they go through thunks of the module'],
  ['.return_sites', 'the kernel would rewrite returns; they are plain returns here'],
  ['.call_sites', 'the kernel would rewrite calls for call depth tracking'],
  ['.static_call_sites', 'the kernel would rewrite static calls; they stay calls of the trampoline'],
  ['__jump_table', 'the kernel would switch jump labels; they stay as compiled'],
  ['.parainstructions', 'the kernel would rewrite paravirtual calls; they stay calls through pv_ops'],
  ['.ibt_endbr_seal', 'the kernel would erase endbr64 instructions'],
  ['.cfi_sites', 'the kernel would rewrite indirect call checks'],
]);

/** Lists of positions in code. The kernel compares or unwinds with them and never calls them, so they keep pointing at the code itself. */
const POSITION_LISTS: ReadonlySet<string> = new Set([
  '.orc_unwind',
  '.orc_unwind_ip',
  '__bug_table',
  '__ex_table',
  '_kprobe_blacklist',
  '.kprobes_blacklist',
  '_error_injection_whitelist',
]);

/** Allocated sections that only the kernel reads. */
const METADATA: ReadonlySet<string> = new Set([
  ...POSITION_LISTS,
  '__versions',
  '__version_ext_crcs',
  '__version_ext_names',
  '.modinfo',
  '__param',
  '.orc_header',
  '.BTF',
  '.BTF.base',
  '.printk_index',
]);
const METADATA_PREFIXES = ['.note', '__ksymtab', '__kcrctab', '__kflagstab'];

/** Writable sections that the kernel works on by itself; never private. */
const KERNEL_DATA: ReadonlySet<string> = new Set([
  THIS_MODULE_SECTION,
  '.data..percpu',
  '__tracepoints',
  '__bpf_raw_tp_map',
  '_ftrace_events',
  '_ftrace_eval_map',
  '__tracepoint_str',
  '__dyndbg',
  '__dyndbg_classes',
  '.data..ro_after_init',
  '__bug_table',
  '__ex_table',
]);

export function isPositionList(section: Section): boolean {
  return POSITION_LISTS.has(section.name);
}

/** True for what the kernel frees after init (Linux include/linux/moduleloader.h, module_init_layout_section). */
export function isInit(section: Section): boolean {
  return section.name.startsWith('.init');
}

/** The role of an allocated section. `privateNames` are the policy's. */
export function roleOf(section: Section, privateNames: ReadonlySet<string>): SectionRole {
  if (section.name === GATE_SECTION) return 'gates';
  if (section.executable) return 'text';
  if (METADATA.has(section.name) || METADATA_PREFIXES.some((prefix) => section.name.startsWith(prefix))) return 'metadata';
  if (isPrivate(section, privateNames)) return 'private';
  return section.writable ? 'data' : 'constants';
}

export function isPrivate(section: Section, privateNames: ReadonlySet<string>): boolean {
  return section.name.startsWith(PRIVATE_PREFIX) || privateNames.has(section.name);
}

/** Why a section cannot be private, or undefined if it can. */
export function privateObstacle(section: Section): string | undefined {
  if (!section.allocated || !section.writable) return 'it is not writable data';
  if (section.executable) return 'it is executable';
  if (isInit(section)) return 'the kernel frees it after init';
  if (KERNEL_DATA.has(section.name)) return 'the kernel itself reads or writes it';
  return undefined;
}
