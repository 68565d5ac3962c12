/**
 * The weaknesses of the one public implementation before this one (Palacios VMM, 2013), and other attacks that systems of this kind have met, each
 * with what tries it here. Not a second catalogue: it says that nothing known was left out.
 */
export interface KnownWeakness {
  /** A: of the public code. B: others. */
  id: string;
  what: string;
  /** Names in the catalogue; `*` stands for anything. */
  attacks: readonly string[];
  /** Test files that try more than the catalogue does. */
  tests?: readonly string[];
}

export const KNOWN_WEAKNESSES: readonly KnownWeakness[] = [
  {
    id: 'A1',
    what: 'a nesting counter without a bound, no check of address or privilege level',
    attacks: ['call-out-without-end', '*-from-user-space', 'calls-too-deep-to-keep'],
  },
  {
    id: 'A2',
    what: 'returns without a call, twice, or of another kind',
    attacks: ['return-in-without-a-frame', 'return-in-twice', 'gates-by-the-kernel'],
  },
  { id: 'A3', what: 'calls of the VMM before a module exists', attacks: ['gates-before-load', 'entry-before-init'] },
  {
    id: 'A4',
    what: 'a stack pointer anywhere',
    attacks: [
      'stack-nowhere',
      'stack-in-user-space',
      'stack-read-only',
      'stack-misaligned',
      'stack-in-*',
      'stack-right-above-private-memory',
    ],
  },
  {
    id: 'A5',
    what: 'a bad call stops the machine',
    attacks: ['random-border-actions', 'flood-of-refusals', 'every-byte-of-the-gate-section'],
  },
  {
    id: 'A6',
    what: 'privileges for whoever says the name; text not checked; registering twice',
    attacks: ['forged-gate', 'module-of-nobody', 'module-of-another-version', 'init-twice', 'patched-*', 'loader-changes-*'],
  },
  {
    id: 'A7',
    what: 'a changed stack is noticed and ignored',
    attacks: ['return-address-changed-*', 'return-slot-changed-during-a-call', 'kernel-changes-a-return-address'],
    tests: ['tests/boots/shadow-stack.test.ts'],
  },
  {
    id: 'A8',
    what: 'a nested callback returns to the kernel with the privilege',
    attacks: ['privilege-in-nested-callbacks', 'kernel-port-in-a-callback', 'kernel-msr-in-a-callback', 'kernel-after-the-return'],
  },
  {
    id: 'A9',
    what: 'interrupts keep the privilege and see the registers',
    attacks: ['privilege-in-a-handler-*', 'registers-read-by-a-handler-*', 'kernel-*-in-interrupts', 'kernel-reads-interrupted-registers'],
  },
  {
    id: 'A10',
    what: 'entries checked by virtual address only; text unprotected',
    attacks: [
      'gate-page-remapped',
      'gates-under-another-cr3',
      'text-*-after-load',
      'text-through-an-alias',
      'permuted-pages',
      'kernel-overwrites-live-text',
    ],
  },
  {
    id: 'A11',
    what: 'functions called by pointer, as a tail, or of other modules are not wrapped',
    attacks: [
      'privilege-in-a-kernel-function',
      'privilege-in-a-call-by-pointer',
      'privilege-in-a-tail-call',
      'privilege-at-another-module',
    ],
  },
  {
    id: 'A12',
    what: 'the privilege holds for the whole machine',
    attacks: [
      'privilege-on-another-cpu',
      'port-on-another-cpu',
      'msr-on-another-cpu',
      'kernel-port-on-another-cpu',
      'kernel-msr-on-another-cpu',
    ],
  },
  {
    id: 'A13',
    what: 'one current module for all',
    attacks: ['frame-of-another-module', 'port-of-another-module', 'msr-of-another-module', 'secret-of-another-module'],
  },
  {
    id: 'A14',
    what: 'an invalid entry goes on',
    attacks: ['jump-past-the-gates', 'kernel-jumps-past-the-gates', 'every-byte-of-the-gate-section', 'wild-jump'],
  },
  { id: 'A15', what: 'machines share what they know of modules', attacks: ['two-machines'], tests: ['tests/boots/two-machines.test.ts'] },
  { id: 'A16', what: 'two modules with one privilege', attacks: ['shared-privilege-unloaded', 'port-of-two-modules'] },
  {
    id: 'A18',
    what: 'no end and no new version of a module',
    attacks: ['load-and-unload-500-times', 'module-of-another-version', 'grant-for-another-module'],
  },
  {
    id: 'A19',
    what: 'counts and lengths from outside without a bound',
    attacks: ['malformed-manifests', 'grant-malformed'],
    tests: ['tests/fuzz/files.test.ts'],
  },
  { id: 'B1', what: 'used frames and old, foreign, expired or changed grants', attacks: ['resume-twice', 'return-in-twice', 'grant-*'] },
  {
    id: 'B2',
    what: 'coming back elsewhere, with other flags or privilege, or on two CPUs',
    attacks: [
      'resume-*',
      'two-cpus-race-for-one-frame',
      'io-privilege-level',
      'nested-task-and-alignment',
      'direction-flag',
      'flags-changed-during-a-call',
    ],
  },
  {
    id: 'B3',
    what: 'single steps and breakpoints in the module',
    attacks: ['single-step', 'registers-read-by-a-handler-exception', 'privilege-in-a-handler-exception'],
  },
  {
    id: 'B4',
    what: 'stacks of sleeping calls reused, killed threads, long jumps',
    attacks: ['stack-of-a-killed-thread-reused', 'long-jump-to-an-older-frame', 'return-from-a-function-that-never-returns'],
    tests: ['tests/boots/features.test.ts'],
  },
  {
    id: 'B5',
    what: 'imports into private memory or text; sections that overlap, wrap, or are user addresses',
    attacks: [
      'import-in-*',
      'loader-lies-about-an-import',
      'data-over-private-memory',
      'data-in-the-text-page',
      'text-in-user-space',
      'text-at-the-end-of-the-address-space',
    ],
  },
  {
    id: 'B6',
    what: 'private memory read by kernel, user, device, snapshot, or after unload',
    attacks: [
      'kernel-reads-private-memory',
      'secret-in-guest-memory',
      'private-memory-after-unload',
      'secret-after-quarantine',
      'root-replaces-the-kernel',
    ],
    tests: ['tests/boots/vault.test.ts'],
  },
  {
    id: 'B7',
    what: 'registers at an event',
    attacks: ['registers-*', 'vector-registers-read-by-a-handler', 'kernel-reads-interrupted-registers'],
  },
  {
    id: 'B8',
    what: 'memory freed without an end; another kernel by kexec; CPUs taken away, INIT, reset or the end of the machine inside',
    attacks: [
      'memory-freed-without-a-word',
      'root-replaces-the-kernel*',
      'kernel-unplugs-a-cpu-inside',
      'init-signal-while-inside',
      'kernel-sends-init-to-a-cpu-inside',
      'frame-of-an-unloaded-instance',
    ],
    tests: ['src/monitor/loading.test.ts', 'tests/boots/smp.test.ts'],
  },
  {
    id: 'B9',
    what: 'devices: registers moved over RAM or another card, resets, interrupt storms, DMA to anywhere',
    attacks: ['window-over-ram', 'window-over-another-card', 'window-before-load', 'window-after-quarantine', 'another-device-in-the-slot'],
    tests: ['tests/fuzz/machine.test.ts'],
  },
  {
    id: 'B10',
    what: 'MONITOR and MWAIT outside the module or on a shared core',
    attacks: ['mwait-outside-the-module', 'mwait-on-a-shared-core'],
    tests: ['tests/boots/idle.test.ts'],
  },
  {
    id: 'B11',
    what: 'CPUs that race at load, at init, at one gate or for one frame; any gate and register state',
    attacks: ['two-cpus-race-for-one-frame', 'random-border-actions', 'stay-inside-a-quarantined-module'],
    tests: ['tests/fuzz/border.test.ts'],
  },
];

/** True if `pattern`, in which `*` stands for anything, is `name`. */
export function matches(pattern: string, name: string): boolean {
  const parts = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'));
  return new RegExp(`^${parts.join('.*')}$`).test(name);
}

/** The table as it stands in SECURITY.md. */
export function knownWeaknessesTable(): string {
  const rows = KNOWN_WEAKNESSES.map(({ id, what, attacks, tests = [] }) => {
    const tried = [...attacks.map((name) => `\`${name}\``), ...tests.map((file) => `\`${file}\``)];
    return `| ${id} | ${what} | ${tried.join(', ')} |`;
  });
  return ['| | weakness or attack | tried by |', '|---|---|---|', ...rows].join('\n');
}
