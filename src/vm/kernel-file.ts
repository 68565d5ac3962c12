/** The kernel's ELF file while it is being loaded: some 60 MiB that nobody needs afterwards. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { UserError } from '../base/errors.ts';

export interface KernelFile {
  readonly bytes: Uint8Array;
  /** Gives the memory back at once: a collector would not come by, since a machine's run loop leaves it nothing to do. `bytes` is empty then. */
  release(): void;
}

/** Reads the file, or takes the caller's bytes, which stay the caller's. Throws UserError when it cannot be read. */
export function readKernel(elf: Uint8Array | string): KernelFile {
  if (typeof elf !== 'string') return { bytes: elf, release: () => {} };
  try {
    const file = openSync(elf, 'r');
    try {
      const size = fstatSync(file).size;
      const buffer = new ArrayBuffer(size, { maxByteLength: size });
      const bytes = new Uint8Array(buffer);
      if (readSync(file, bytes, 0, size, 0) !== size) throw new Error('it became shorter meanwhile');
      return { bytes, release: () => buffer.resize(0) };
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw new UserError(`the kernel at ${elf} cannot be read: ${(error as Error).message}`, 'see that the file exists, and start again');
  }
}
