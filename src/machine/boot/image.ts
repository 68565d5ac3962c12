/** Copies an ELF image's segments into guest RAM, within bounds. */
import { UserError } from '../../base/errors.ts';
import { hex } from '../../base/hex.ts';
import { PT } from '../../elf/constants.ts';
import { type Executable, readProgramHeaders } from '../../elf/program.ts';
import type { GuestMemory } from '../../engine/contract.ts';
import { BOOT_LAYOUT, LOWEST_LOAD_ADDRESS } from './layout.ts';

/** Loads every PT_LOAD segment at its physical address. Returns the image and the first free address above it. */
export function loadSegments(memory: GuestMemory, elf: Uint8Array, name: string): { image: Executable; end: number } {
  const image = readProgramHeaders(elf, name);
  const segments = image.segments.filter((segment) => segment.type === PT.load && segment.memorySize > 0);
  if (segments.length === 0) throw new UserError(`${name}: no loadable segment`, 'pass a kernel, not an object file');
  let end = LOWEST_LOAD_ADDRESS;
  for (const segment of segments) {
    const physical = Number(segment.physicalAddress);
    const last = physical + segment.memorySize;
    if (physical < LOWEST_LOAD_ADDRESS || last > memory.size) {
      throw new UserError(
        `${name}: segment ${hex(segment.physicalAddress)}..${hex(last)} does not fit RAM ${hex(LOWEST_LOAD_ADDRESS)}..${hex(memory.size)}`,
        'give the VM more memory (--memory)',
      );
    }
    memory.bytes.set(segment.data, physical);
    memory.bytes.fill(0, physical + segment.data.length, last);
    end = Math.max(end, last);
  }
  memory.written(0, memory.size);
  return { image, end };
}

/** Puts the initramfs as high as `limit` and RAM allow, page-aligned, above `floor`. */
export function loadInitramfs(memory: GuestMemory, data: Uint8Array, floor: number, limit: number): { start: number; size: number } {
  const top = Math.min(memory.size, limit + 1);
  const start = Math.floor((top - data.length) / 4096) * 4096;
  if (start < floor) {
    throw new UserError(
      `an initramfs of ${data.length} bytes does not fit between ${hex(floor)} and ${hex(top)}`,
      'give the VM more memory (--memory)',
    );
  }
  memory.bytes.set(data, start);
  return { start, size: data.length };
}

/** Writes the command line, NUL-terminated. */
export function loadCommandLine(memory: GuestMemory, text: string): { address: number; size: number } {
  const bytes = Buffer.from(`${text}\0`, 'latin1');
  if (bytes.length > BOOT_LAYOUT.commandLineMax) {
    throw new UserError(
      `the kernel command line has ${bytes.length - 1} characters, at most ${BOOT_LAYOUT.commandLineMax - 1} fit`,
      'shorten it',
    );
  }
  memory.bytes.set(bytes, BOOT_LAYOUT.commandLine);
  return { address: BOOT_LAYOUT.commandLine, size: bytes.length };
}
