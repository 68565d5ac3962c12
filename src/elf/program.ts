/** Program headers of ELF executables (kernels: vmlinux, bare-metal tests), ELF32 and ELF64, and the PVH entry point among their notes. */

import { EM, ET, PT } from './constants.ts';
import { Reader } from './reader.ts';

/** Linux include/xen/interface/elfnote.h: the 32-bit physical entry point of PVH boot. */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const MAX_PROGRAM_HEADERS = 256;

export interface Segment {
  /** p_type: PT.load, PT.note, ... */
  type: number;
  /** p_flags: 1 execute, 2 write, 4 read. */
  flags: number;
  virtualAddress: bigint;
  physicalAddress: bigint;
  /** The bytes in the file (a view, not a copy); memory behind them up to `memorySize` is zero. */
  data: Uint8Array;
  /** Bytes in memory; for PT.load never less than `data.length`. */
  memorySize: number;
}

export interface Executable {
  bits: 32 | 64;
  /** EM.i386 or EM.x8664. */
  machine: number;
  entry: bigint;
  /** All segments in file order. */
  segments: Segment[];
  /** Physical address of the PVH entry point, where the file has a XEN_ELFNOTE_PHYS32_ENTRY note. */
  pvhEntry: number | undefined;
}

/**
 * Reads the header and program headers of an ELF executable for x86. Throws UserError for anything malformed, including segments outside
 * the file and more than 256 program headers. Where segments go in memory is the caller's to check.
 */
export function readProgramHeaders(bytes: Uint8Array, file: string): Executable {
  const reader = new Reader(bytes, file);
  if (bytes.length < 16 || reader.u32(0) !== 0x464c457f) reader.fail('is not an ELF file');
  const bits =
    reader.u8(4) === 1 ? 32 : reader.u8(4) === 2 ? 64 : reader.fail(`is ELF class ${reader.u8(4)}; 1 (32 bits) or 2 (64 bits) is expected`);
  if (reader.u8(5) !== 1) reader.fail(`has ELF data encoding ${reader.u8(5)}; 1 (little-endian) is expected`);
  const wide = bits === 64;
  reader.need(0, wide ? 64 : 52, 'the ELF header');
  const type = reader.u16(16);
  const machine = reader.u16(18);
  if (type !== ET.exec && type !== ET.dyn) reader.fail(`has ELF type ${type}; an executable (2 or 3) is expected`);
  if (machine !== EM.i386 && machine !== EM.x8664)
    reader.fail(`is for ELF machine ${machine}; x86 (${EM.i386} or ${EM.x8664}) is expected`);

  const table = wide ? reader.word(32, 'e_phoff') : reader.u32(28);
  const entrySize = reader.u16(wide ? 54 : 42);
  const count = reader.u16(wide ? 56 : 44);
  if (count === 0) reader.fail('has no program headers, so nothing of it could be loaded');
  if (count > MAX_PROGRAM_HEADERS) reader.fail(`has ${count} program headers; at most ${MAX_PROGRAM_HEADERS} are accepted`);
  if (entrySize !== (wide ? 56 : 32)) reader.fail(`has program headers of ${entrySize} bytes; ELF${bits} has ${wide ? 56 : 32}`);
  reader.need(table, count * entrySize, 'the program header table');

  const segments = Array.from({ length: count }, (_, index) => readSegment(reader, table + index * entrySize, wide, index));
  return { bits, machine, entry: wide ? reader.u64(24) : BigInt(reader.u32(24)), segments, pvhEntry: findPvhEntry(segments) };
}

/** gABI "Program Header": the two classes order their fields differently. */
function readSegment(reader: Reader, at: number, wide: boolean, index: number): Segment {
  const what = `segment ${index}`;
  const type = reader.u32(at);
  const offset = wide ? reader.word(at + 8, `offset of ${what}`) : reader.u32(at + 4);
  const fileSize = wide ? reader.word(at + 32, `size of ${what}`) : reader.u32(at + 16);
  const memorySize = wide ? reader.word(at + 40, `memory size of ${what}`) : reader.u32(at + 20);
  if (type === PT.load && memorySize < fileSize) reader.fail(`${what} has ${fileSize} bytes in the file but only ${memorySize} in memory`);
  return {
    type,
    flags: reader.u32(wide ? at + 4 : at + 24),
    virtualAddress: wide ? reader.u64(at + 16) : BigInt(reader.u32(at + 8)),
    physicalAddress: wide ? reader.u64(at + 24) : BigInt(reader.u32(at + 12)),
    data: reader.slice(offset, fileSize, what),
    memorySize,
  };
}

/** Walks the notes (gABI "Note Section": name size, descriptor size, type, then both padded to 4). A malformed note ends its segment. */
function findPvhEntry(segments: readonly Segment[]): number | undefined {
  for (const { type, data } of segments) {
    if (type !== PT.note) continue;
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    for (let at = 0; at + 12 <= data.length; ) {
      const nameSize = view.getUint32(at, true);
      const descriptorSize = view.getUint32(at + 4, true);
      const descriptor = at + 12 + ((nameSize + 3) & ~3);
      if (nameSize > data.length || descriptorSize > data.length || descriptor + descriptorSize > data.length) break;
      const isXen = nameSize === 4 && view.getUint32(at + 12, true) === 0x006e6558; // "Xen\0"
      if (isXen && view.getUint32(at + 8, true) === XEN_ELFNOTE_PHYS32_ENTRY && descriptorSize >= 4)
        return view.getUint32(descriptor, true);
      at = descriptor + ((descriptorSize + 3) & ~3);
    }
  }
  return undefined;
}
