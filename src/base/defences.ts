/**
 * The checks that stand between a hostile guest and a privilege, by name: one list for the code that makes them (`on` in defence-switch.ts), for
 * the attack suite that shows what each is good for, and for people who read its table.
 */
export const DEFENCES = {
  // The stack at a border (src/monitor/stack.ts, border.ts)
  'stack-kernel-address': 'a stack lies in the kernel half of the address space',
  'stack-alignment': 'a stack pointer is aligned to 8 bytes',
  'stack-writable': 'a stack is mapped writable',
  'stack-not-text': 'a stack lies in no frame that holds text or gates of a guarded module',
  'stack-clear-of-modules': 'a stack stays clear of the addresses that module views map',
  'private-stack-exit': 'nothing is called from a private stack',
  'per-cpu-base': 'per-CPU data of the kernel does not fall into private memory',
  // Frames (src/monitor/frames.ts)
  'frame-stack-pointer': 'a frame ends with exactly the stack pointer that it was made with',
  'frame-instance': 'a frame serves the instance that it was made for',
  'frame-single-use': 'a frame is used once',
  'frame-nesting': 'a new frame ends those of the same stack below it',
  'no-frame-for-no-return': 'nothing comes back from a kernel function that never returns',
  // What the kernel may change while the module is away (src/monitor/seal.ts, border.ts)
  'own-return-address': 'the module leaves with a return address behind one of its own calls, or not at all',
  'shadow-stack': 'a return of the module goes where its call said, whatever the stack holds',
  'return-address-seal': "return addresses of the module's own calls are compared when it comes back",
  'callee-saved-restore': 'callee-saved registers come back from the frame',
  'control-flags': 'direction, trap, nested-task, alignment and I/O privilege flags do not come in from the other side',
  'register-scrub': 'no general register of the module is left for a handler',
  'vector-scrub': 'no vector register of the module is left for a handler',
  'fpu-section': 'an FPU section of the module goes on on whatever CPU its thread comes back to',
  'register-restore': 'the interrupted registers come back from the frame',
  'resume-address': 'interrupted code goes on where it was interrupted, or where the image says',
  'resume-privilege-level': 'interrupted code goes on at CPL 0',
  // Gates (src/monitor/monitor.ts)
  'gate-privilege-level': 'a gate is used at CPL 0',
  'gate-page-frame': 'a gate is entered through the frame that held it when the module was loaded',
  'init-first': 'a module is entered first at its init function, or at setters of its parameters',
  'init-once': 'the init function runs once',
  'init-gone': 'init code is not entered after init',
  'pointer-landing': "a call by pointer enters the module's own text at its gates only",
  'call-target': "a call by pointer leads to kernel addresses outside the module's own",
  'leave-view': 'leaving the module leaves its view',
  quarantine: 'a broken rule takes the privileges, for good',
  'quarantine-every-cpu': 'every CPU inside a quarantined module is taken out',
  'reset-leaves-module': 'INIT takes a CPU out of the module that it is in',
  'end-drops-frames': 'no frame outlives its instance',
  'audit-limit': 'a flood of events is held back and counted',
  // Loading (src/monitor/loader.ts, solve.ts, relocate.ts)
  'text-comparison': "code and gates in guest memory are the registered image's",
  'constants-comparison': "constants in guest memory are the registered image's",
  'gap-comparison': 'nothing lies between the sections of a text page',
  'section-addresses': 'sections lie at aligned, canonical kernel addresses',
  'sections-apart': 'sections of a module share no memory',
  'import-outside': 'an import lies outside the module',
  'frame-unshared': 'a guest frame holds one page of one guarded module',
  'modules-apart': 'guarded modules share no addresses',
  'text-protection': "frames with a module's text are neither writable nor executable for the kernel",
  // Privileges (src/privileges)
  'privilege-follows-view': 'ports and MSRs answer to a CPU that is in the view of a holder',
  'window-hide': 'a granted device exists for nobody else, loaded or not',
  'window-outside-ram': 'a device window over RAM is not given',
  'window-unshared': "a device window over another module's device is not given",
  'port-unshared': 'ports that two grants claim belong to nobody',
  'msr-direction': 'an MSR granted for reading is not written',
  'mwait-alone': 'MWAIT waits only on a CPU that is alone on its core',
  'secret-wipe': 'a secret is wiped when its module loses it',
  'device-identity': 'a grant for a device fits the device that is there',
  'gate-port-reserved': 'the port of the gates cannot be granted',
  // Grants (src/policy/signing.ts) and images (src/vm/guard.ts)
  'grant-signature': 'the signature of a grant fits',
  'grant-manifest': 'a grant is for this module',
  'grant-vm': 'a grant is for this virtual machine',
  'grant-validity': 'a grant is valid now',
  'grant-serial': 'a spent grant is not used again',
} as const;
export type Defence = keyof typeof DEFENCES;
