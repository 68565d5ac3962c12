/**
 * The monitor's vocabulary: crossings, and why it refused a module, called something a violation, or ended an instance.
 * One table each, so that logs, audit events and `portcullis explain` say the same thing in the same words.
 */

/** The six border crossings, then the two things that happen at a gate without crossing a border. */
export const CROSSINGS = {
  callIn: 'the kernel called an entry point of the module',
  returnOut: 'an entry point of the module returned to the kernel',
  callOut: 'the module called a kernel function',
  returnIn: 'a kernel function returned to the module',
  eventOut: 'an interrupt or exception left the module',
  resume: 'the kernel came back to the interrupted module',
  internal: 'the module called its own entry point through a pointer; no border was crossed',
  refused: 'a gate was reached and nothing was given',
} as const;
export type Crossing = keyof typeof CROSSINGS;

/** Why a guarded module, or one entry into it, gets nothing. */
export const REFUSALS = {
  'not-registered': 'the guest loaded a guarded module that no registered image matches',
  'no-grant': 'the image is registered, but no valid grant names it for this virtual machine',
  'init-not-first': 'a module was entered before its init function, at a gate that is no setter of a module parameter',
  'init-again': 'the init function of a loaded module was entered a second time',
  'init-gone': 'an entry point in init memory was entered after init had ended',
  'not-mapped': 'a page that the module needs is not mapped in the guest, or not RAM',
  'bad-address': 'a section or import address is not a canonical kernel address, wraps, or is misaligned',
  'sections-overlap': 'two sections of the module share memory, or text shares a page with something else',
  'import-inside': 'an import points into the module itself',
  'relocation-overflow': 'a relocation does not reach its target at the solved addresses',
  'text-differs': 'the code in guest memory is not the code of the registered image',
  'constants-differ': 'the constants in guest memory are not those of the registered image',
  'frame-shared': 'a guest frame of the module already belongs to a guarded module, or appears twice',
  'too-many-instances': 'the limit of loaded guarded modules is reached',
  'out-of-host-pages': 'the pool of host pages cannot hold the module',
  quarantined: 'the module broke a border rule earlier and is quarantined',
  'bad-image': 'the registered image cannot be placed: its structure is not what the manifest says',
} as const;
export type RefusalReason = keyof typeof REFUSALS;

/** Broken border rules. */
export const VIOLATIONS = {
  'bad-stack': 'the stack pointer at the border is not a valid kernel stack',
  'per-cpu-base': 'the GS base makes per-CPU data of the kernel fall into private memory',
  'not-kernel-mode': 'a gate was reached outside kernel mode',
  'gate-misused': 'a gate was reached from the wrong side of the border',
  'no-frame': 'a return or re-entry gate was reached and no unfinished crossing fits the stack pointer',
  'return-address': 'the module left with a return address that is not its own',
  'seal-broken': "a return address of the module's own calls was changed while it was away",
  'stack-depth': "the module's own calls are nested too deeply to be kept",
  'shadow-stack': 'a return of the module would have gone elsewhere than its call said',
  'own-text': 'a call or jump of the module by pointer would have entered its own text past its gates',
  'wild-fetch': 'the module jumped out of its text without a call',
  'text-fetch': 'the kernel jumped into the text of the module past its gates',
  'resume-mismatch': 'the kernel came back to interrupted code at an address that is not allowed',
  'text-write': 'the kernel wrote to the text or the gates of the loaded module',
} as const;
export type ViolationReason = keyof typeof VIOLATIONS;

/** Why an instance ended. */
export const ENDINGS = {
  'init-failed': 'its init function returned an error',
  unloaded: 'its cleanup function returned',
  'memory-reused': 'the guest freed the memory of the module, or mapped other memory there',
  stopped: 'the virtual machine stopped',
} as const;
export type EndReason = keyof typeof ENDINGS;
