/** A kernel image, recognised by content: a bzImage (its payload unpacked here) or an ELF file. */
import { UserError } from '../base/errors.ts';
import { unpackPayload } from './payload.ts';
import { unpackedFile } from './unpacked.ts';

export interface KernelImage {
  /** What was found, for messages: "bzImage, xz" or "ELF". */
  description: string;
  /** The ELF file that is loaded. */
  elf: Uint8Array;
  /** The setup header, bytes 0x1f1 up to its end (Linux x86 boot protocol, "The Real-Mode Kernel Header"); absent for a plain ELF. */
  setupHeader?: Uint8Array;
  /** Text of the kernel_version field, e.g. "6.1.0-50-amd64 (...) #1 SMP ...". */
  version?: string;
}

const SETUP_START = 0x1f1;
const HEADER_MAGIC = 0x53726448; // "HdrS" at 0x202
const MIN_PROTOCOL = 0x0208; // payload_offset and payload_length exist

/** A kernel image whose ELF file is still packed in it. */
interface PackedKernel extends Omit<KernelImage, 'elf'> {
  payload: Uint8Array;
}

/** Reads a kernel image. `name` is used in errors. Throws UserError for anything else, or cut or hostile files. */
export async function readKernelImage(file: Uint8Array, name: string): Promise<KernelImage> {
  const found = await locate(file, name);
  if (!('payload' in found)) return found;
  const { payload, ...rest } = found;
  const { format, data } = await unpackPayload(payload, name);
  return { ...rest, description: `${found.description}, ${format}`, elf: data };
}

/**
 * The kernel image at `path`, whose bytes are `file`, with its ELF file as a file: that one when it is one, else a copy that is unpacked once,
 * into the cache. A machine reads it from there, so that no unpacked kernel (60 MiB for a stock one) stays in memory beside the guest, and a
 * second start need not unpack. Throws as `readKernelImage`.
 */
export async function openKernelImage(path: string, file: Uint8Array): Promise<Omit<KernelImage, 'elf'> & { elf: string }> {
  const found = await locate(file, path);
  if (!('payload' in found)) {
    const { elf, ...rest } = found;
    return { ...rest, elf: elf === file ? path : await unpackedFile(file, () => Promise.resolve(elf)) };
  }
  const { payload, ...rest } = found;
  return { ...rest, elf: await unpackedFile(payload, async () => (await unpackPayload(payload, path)).data) };
}

/** What can be said of an image without unpacking a bzImage's payload. Anything else is unpacked, to see that it is an ELF file. */
async function locate(file: Uint8Array, name: string): Promise<KernelImage | PackedKernel> {
  if (file.length >= 4 && file[0] === 0x7f && file[1] === 0x45 && file[2] === 0x4c && file[3] === 0x46) {
    return { description: 'ELF', elf: file };
  }
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 0x268 || view.getUint16(0x1fe, true) !== 0xaa55 || view.getUint32(0x202, true) !== HEADER_MAGIC) {
    const unpacked = await unpackPayload(file, name).catch(() => undefined);
    if (unpacked && unpacked.format !== 'plain' && unpacked.data[0] === 0x7f)
      return { description: `ELF, ${unpacked.format}`, elf: unpacked.data };
    throw new UserError(
      `${name} (${file.length} bytes, begins ${Buffer.from(file.subarray(0, 8)).toString('hex') || 'empty'}) is neither a bzImage nor an ELF file`,
      'pass a kernel such as /boot/vmlinuz-* or an x86-64 vmlinux',
    );
  }
  const protocol = view.getUint16(0x206, true);
  if (protocol < MIN_PROTOCOL) {
    throw new UserError(
      `${name}: boot protocol ${protocol >> 8}.${protocol & 255} is too old, expected 2.08 or later`,
      'use a kernel from after 2008',
    );
  }
  const setupSectors = file[SETUP_START] || 4;
  const start = (setupSectors + 1) * 512 + view.getUint32(0x248, true);
  const length = view.getUint32(0x24c, true);
  if (length < 16 || start + length > file.length) {
    throw new UserError(
      `${name}: payload at ${start}, ${length} bytes, lies outside the file of ${file.length} bytes`,
      'the file is cut short: fetch it again',
    );
  }
  const headerEnd = Math.min(0x202 + file[0x201], 0x290, file.length);
  return {
    description: 'bzImage',
    payload: file.subarray(start, start + length),
    setupHeader: file.slice(SETUP_START, headerEnd),
    version: text(file, view.getUint16(0x20e, true) + 0x200),
  };
}

function text(file: Uint8Array, start: number): string {
  const slice = file.subarray(start, start + 200);
  const end = slice.indexOf(0);
  return Buffer.from(slice.subarray(0, Math.max(end, 0))).toString('latin1');
}
