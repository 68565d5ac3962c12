/** The optional input of `portcullis link` beside the module: what its developer allows, keeps private and wants. */

export interface LinkPolicy {
  /**
   * Functions that may be entered from outside. Without it, every function whose address the module hands out.
   * `init_module` and `cleanup_module` are always allowed.
   */
  entries?: string[];
  /** Kernel symbols that may be used, called or read. Without it, all. */
  imports?: string[];
  /** Writable sections that only the module view reaches. */
  private?: string[];
  /** Bytes of private heap, for a module that declares one (PORTCULLIS_HEAP in modules/portcullis.h). Rounded up to whole pages. */
  heap?: number;
  /** Kinds of privileges wanted, for the manifest. */
  privileges?: string[];
  /** Keep the return addresses of the module's own calls in its private memory, for an engine that has no shadow stack of its own. */
  shadowStack?: boolean;
}
