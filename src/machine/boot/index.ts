/** Picks the boot protocol by what the image offers. */
import { UserError } from '../../base/errors.ts';
import { readProgramHeaders } from '../../elf/program.ts';
import type { Cpu, GuestMemory } from '../../engine/contract.ts';
import { type BootInput, bootLinux64 } from './linux64.ts';
import { bootMultiboot, hasMultibootHeader } from './multiboot.ts';
import { bootPvh } from './pvh.ts';

export type { BootInput } from './linux64.ts';
export type BootProtocol = 'linux64' | 'pvh' | 'multiboot';

/**
 * Loads the kernel and sets the boot CPU up to enter it. A bzImage (setup header present) goes by the Linux 64-bit protocol; a plain ELF by
 * Multiboot 1 when it has that header, by PVH when it has that note, else by the Linux protocol. `wanted` overrides.
 */
export function boot(cpu: Cpu, memory: GuestMemory, input: BootInput, wanted?: BootProtocol): BootProtocol {
  const image = readProgramHeaders(input.elf, input.name);
  const protocol =
    wanted ??
    (input.setupHeader ? 'linux64' : hasMultibootHeader(input.elf) ? 'multiboot' : image.pvhEntry !== undefined ? 'pvh' : 'linux64');
  switch (protocol) {
    case 'linux64': {
      if (image.bits !== 64)
        throw new UserError(
          `${input.name}: a ${image.bits}-bit image cannot be entered by the 64-bit boot protocol`,
          'pass an x86-64 kernel',
        );
      bootLinux64(cpu, memory, input);
      break;
    }
    case 'pvh': {
      if (image.pvhEntry === undefined)
        throw new UserError(`${input.name}: no PVH note (XEN_ELFNOTE_PHYS32_ENTRY)`, 'use another --boot protocol');
      bootPvh(cpu, memory, input, image.pvhEntry);
      break;
    }
    case 'multiboot': {
      if (!hasMultibootHeader(input.elf))
        throw new UserError(`${input.name}: no Multiboot header in its first 8 KiB`, 'use another --boot protocol');
      bootMultiboot(cpu, memory, input);
      break;
    }
  }
  return protocol;
}
