/** What to look at for each reason that the monitor gives: `portcullis explain` prints it. The type makes sure that none is left out. */
import type { EndReason, RefusalReason, ViolationReason } from '../monitor/reasons.ts';

const LOADER =
  "The guest's loader, or whoever patched the module, is not what a stock kernel has. Compare with an unguarded boot of the same kernel.";
const LINK_AGAIN =
  'Link the module again with this version (portcullis link), sign a grant for its new manifest, and give the guest the same file.';
const KERNEL_MISUSE =
  'Some kernel code used the gate on its own account: look at the address and stack pointer in the event. A stock kernel does not.';
const HOSTILE_STACK =
  'Kernel code called or returned on a stack that a Linux kernel does not use. The event names the stack pointer; look for whatever switches stacks in the guest.';

export const ADVICE: Readonly<Record<RefusalReason | ViolationReason | EndReason, string>> = {
  'not-registered':
    'Give the guarded file to the machine: --module FILE.guarded.ko. The guest must load the same bytes: a module linked again is another one.',
  'no-grant':
    'Sign one with portcullis grant --manifest FILE.manifest.json --vm NAME, and give it with --grant and --trust. The detail says what is wrong with one that was given.',
  'init-not-first':
    'Unload the module and load it again. One that was linked by an older version and takes words on the insmod line must be linked again.',
  'init-again': KERNEL_MISUSE,
  'init-gone': KERNEL_MISUSE,
  'not-mapped': LOADER,
  'bad-address': LOADER,
  'sections-overlap': LOADER,
  'import-inside': LOADER,
  'relocation-overflow': LOADER,
  'text-differs': `Something changed the code between the linker and the first call: another file was loaded, or the kernel patches it. ${LINK_AGAIN}`,
  'constants-differ': `Something changed the constants between the linker and the first call. ${LINK_AGAIN}`,
  'frame-shared': 'The guest maps one page of memory for two guarded modules, or twice for one: that is no accident.',
  'too-many-instances': 'Unload guarded modules that are not needed.',
  'out-of-host-pages': 'Unload guarded modules that are not needed; text, constants and private memory of all of them share one pool.',
  quarantined: 'Look for the guard.violation event before it, and explain its reason. Unload the module and load it again to go on.',
  'bad-image': LINK_AGAIN,
  'bad-stack': HOSTILE_STACK,
  'per-cpu-base': 'The kernel runs with a GS base that aims its per-CPU data at private memory: a stock kernel does not.',
  'not-kernel-mode': 'User space, or code with a forged code segment, reached a gate: look at what may map kernel memory in the guest.',
  'gate-misused': KERNEL_MISUSE,
  'no-frame':
    'Something returned twice, or to a stack that was left: longjmp-like code, a corrupted stack, or an attack. The event names the stack pointer.',
  'return-address':
    'The stack of the module was overwritten before the call: look for a buffer on the stack that the module passes to the kernel.',
  'seal-broken':
    'While the module waited in the kernel, a return address on its stack was changed: a buffer overflow in what it called, or an attack.',
  'stack-depth': 'The module recurses, or nests its calls deeper than the monitor keeps. If it is meant to, it cannot be guarded.',
  'shadow-stack': "A return address was changed while the module ran: by the module's own overflow, or by another CPU.",
  'own-text':
    'A function pointer that the kernel gave the module leads into the middle of it: the structure that holds it was overwritten, or it is an attack.',
  'wild-fetch':
    'The module jumped to an address that is no call of it: a function pointer that the kernel gave it was bad, or its stack was overwritten.',
  'text-fetch': 'Kernel code jumped into the module without its gates: a kprobe, a livepatch, or an attack. The event names the address.',
  'resume-mismatch':
    'After an interrupt or exception the kernel went on at another instruction: a debugger in the guest, a fixup that is not supported (see SECURITY.md), or an attack.',
  'text-write':
    "The kernel tried to patch the module's code: ftrace, kprobes or live patching of guarded modules is not possible. The write was dropped.",
  'init-failed': "The module's own init function gave an error: the guest's log has what it said; its device may be missing.",
  unloaded: 'Nothing: the guest unloaded it.',
  'memory-reused': 'Nothing, if the guest unloaded it: a module without cleanup function leaves without a word.',
  stopped: 'Nothing: the machine ended.',
};
