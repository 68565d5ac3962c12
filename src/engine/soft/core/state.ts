// Where the virtual CPU of this instance keeps its state. One WebAssembly instance runs one virtual CPU; all that must survive an
// unwinding lies in linear memory at `cpu` (layout.ts), this global only says where.

export let cpu: usize = 0;

/** Called once by the host before anything else: `address` is the CPU's state block, page-aligned. */
export function attachState(address: usize): void {
  cpu = address;
}
