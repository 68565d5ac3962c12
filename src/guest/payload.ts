/**
 * The compressed payload of a bzImage, recognised by its first bytes and unpacked on the host: it saves the guest three
 * quarters of the instructions of a boot.
 */
import { spawnSync } from 'node:child_process';
import { gunzipSync } from 'node:zlib';
import { UserError } from '../base/errors.ts';
import { fetchTool } from './fetch.ts';

/** No kernel image is larger; a bound on what a hostile archive may unpack to. */
const MAX_UNPACKED = 512 << 20;

export type PayloadFormat = 'gzip' | 'xz' | 'zstd' | 'lz4' | 'plain';

const MAGICS: readonly { format: PayloadFormat | 'bzip2' | 'lzma' | 'lzo'; bytes: readonly number[] }[] = [
  { format: 'gzip', bytes: [0x1f, 0x8b] },
  { format: 'xz', bytes: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00] },
  { format: 'zstd', bytes: [0x28, 0xb5, 0x2f, 0xfd] },
  { format: 'lz4', bytes: [0x02, 0x21, 0x4c, 0x18] },
  { format: 'plain', bytes: [0x7f, 0x45, 0x4c, 0x46] },
  { format: 'bzip2', bytes: [0x42, 0x5a, 0x68] },
  { format: 'lzma', bytes: [0x5d, 0x00, 0x00] },
  { format: 'lzo', bytes: [0x89, 0x4c, 0x5a, 0x4f] },
];

const startsWith = (data: Uint8Array, bytes: readonly number[]) => bytes.every((byte, index) => data[index] === byte);

/** Unpacks by content. Throws UserError for formats and data that cannot be read. `what` names the input in errors. */
export async function unpackPayload(data: Uint8Array, what: string): Promise<{ format: PayloadFormat; data: Uint8Array }> {
  const found = MAGICS.find((magic) => startsWith(data, magic.bytes));
  if (!found) {
    throw new UserError(
      `${what}: payload begins with ${Buffer.from(data.subarray(0, 6)).toString('hex') || 'nothing'}, expected gzip, xz, zstd, lz4 or ELF`,
      'use an unmodified bzImage, or pass the vmlinux (ELF) itself',
    );
  }
  try {
    switch (found.format) {
      case 'plain':
        return { format: 'plain', data };
      case 'gzip':
        return { format: 'gzip', data: gunzip(data) };
      case 'xz':
        return { format: 'xz', data: await unxz(data) };
      case 'zstd':
        return { format: 'zstd', data: await unzstd(data) };
      case 'lz4':
        return { format: 'lz4', data: unlz4(data) };
      default:
        throw new UserError(
          `${what}: payload is compressed with ${found.format}, which is not supported`,
          'pass the unpacked vmlinux (ELF) instead',
        );
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(
      `${what}: the ${found.format} payload is damaged or cut short (${(error as Error).message})`,
      'fetch the file again',
    );
  }
}

// Every payload but gzip's is followed by four bytes, its unpacked size: those decoders must stop at their own end mark.

function gunzip(data: Uint8Array): Uint8Array {
  return gunzipSync(data, { maxOutputLength: MAX_UNPACKED });
}

/**
 * By the xz tool: kernels are packed with the x86 branch filter, which no maintained JavaScript decoder knows.
 * The tool comes from PATH, else from the Debian package in the cache.
 */
async function unxz(data: Uint8Array): Promise<Uint8Array> {
  const tool = await fetchTool('xz', 'xz-utils', 'usr/bin/xz');
  const result = spawnSync(tool, ['-dc', '--single-stream', '--quiet'], { input: data, maxBuffer: MAX_UNPACKED });
  if (result.error) throw result.error;
  // The trailing size word makes xz report garbage after the stream only without --single-stream; code 2 is a warning.
  if (result.status === 1) throw new Error(result.stderr.toString().trim() || 'xz failed');
  return result.stdout;
}

async function unzstd(data: Uint8Array): Promise<Uint8Array> {
  const { decompress } = await import('fzstd');
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const declared = view.getUint32(data.length - 4, true); // boot protocol: the payload's last four bytes
  if (declared > MAX_UNPACKED) throw new Error(`unpacks to more than ${MAX_UNPACKED >> 20} MiB`);
  // Into memory of that size: without it four bytes of archive can ask for 2 MiB again and again.
  return decompress(data.subarray(0, data.length - 4), new Uint8Array(declared));
}

/** LZ4 legacy frames: magic, then blocks of {u32 length, data} that unpack to at most 8 MiB each (lz4 Frame format, "Legacy frame"). */
function unlz4(data: Uint8Array): Uint8Array {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const chunks: Uint8Array[] = [];
  // One for all blocks: a file may hold a million tiny ones. A byte of a block makes 255 at most.
  const room = new Uint8Array(Math.min(8 << 20, 255 * data.length));
  let total = 0;
  let position = 4;
  while (position + 4 <= data.length) {
    const length = view.getUint32(position, true);
    if (position + 4 + length > data.length) break; // the trailing size word
    const block = unlz4Block(data.subarray(position + 4, position + 4 + length), room).slice();
    total += block.length;
    if (total > MAX_UNPACKED) throw new Error(`unpacks to more than ${MAX_UNPACKED >> 20} MiB`);
    chunks.push(block);
    position += 4 + length;
  }
  if (chunks.length === 0) throw new Error('no block found');
  return Buffer.concat(chunks);
}

/** One LZ4 block (lz4 Block format): tokens of literal run and match. The result is the part of `output` that it fills. */
function unlz4Block(input: Uint8Array, output: Uint8Array): Uint8Array {
  const limit = output.length;
  let from = 0;
  let to = 0;
  const extend = (length: number) => {
    if (length !== 15) return length;
    for (;;) {
      if (from >= input.length) throw new Error('cut short inside a length');
      const byte = input[from++];
      length += byte;
      if (byte !== 255) return length;
    }
  };
  while (from < input.length) {
    const token = input[from++];
    const literals = extend(token >> 4);
    if (from + literals > input.length || to + literals > limit) throw new Error('literal run out of range');
    output.set(input.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    if (from >= input.length) break; // the last sequence has no match
    const distance = input[from] | (input[from + 1] << 8);
    from += 2;
    const match = extend(token & 15) + 4;
    if (distance === 0 || distance > to || to + match > limit) throw new Error('match out of range');
    if (distance >= match) output.copyWithin(to, to - distance, to - distance + match);
    else for (let index = 0; index < match; index++) output[to + index] = output[to + index - distance];
    to += match;
  }
  return output.subarray(0, to);
}
