/**
 * A port by which a test kernel ends the virtual machine with a code, in the convention of QEMU's isa-debug-exit: the machine's
 * exit status is (value << 1) | 1. Optional: a guest that can end the machine this way can end its run at any time.
 */
import type { RegisterBlock } from '../../ports.ts';

export function createDebugExit(exit: (code: number) => void): RegisterBlock {
  return {
    read: () => 0,
    write: (_offset, _size, value) => exit(((value << 1) | 1) >>> 0),
  };
}
