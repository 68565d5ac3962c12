import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { UserError } from '../base/errors.ts';
import { openKernelImage, readKernelImage } from './kernel-image.ts';
import { unpackPayload } from './payload.ts';

const elf = Buffer.concat([Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0]), Buffer.alloc(5000, 'kernel ')]);
const sizeWord = (length: number) => {
  const word = Buffer.alloc(4);
  word.writeUInt32LE(length);
  return word;
};

/** A bzImage with one setup sector behind the boot sector and the payload right after. */
function bzImage(payload: Uint8Array, change: (image: Buffer) => void = () => {}): Buffer {
  const image = Buffer.concat([Buffer.alloc(1024), payload]);
  image[0x1f1] = 1;
  image.writeUInt16LE(0xaa55, 0x1fe);
  image[0x201] = 0x6a;
  image.writeUInt32LE(0x53726448, 0x202);
  image.writeUInt16LE(0x020f, 0x206);
  image.writeUInt32LE(0, 0x248);
  image.writeUInt32LE(payload.length, 0x24c);
  change(image);
  return image;
}

const LZ4_MAGIC = Buffer.from([0x02, 0x21, 0x4c, 0x18]);

describe('payloads', () => {
  test('gzip, whose own last word is the size', async () => {
    const result = await unpackPayload(gzipSync(elf), 'k');
    expect(result.format).toBe('gzip');
    expect(Buffer.compare(result.data, elf)).toBe(0);
  });

  const xz = spawnSync('xz', ['-c', '--x86', '--lzma2', '--check=crc32'], { input: elf });
  test.skipIf(xz.error !== undefined)('xz with the x86 filter (skipped where xz is not installed)', async () => {
    const result = await unpackPayload(Buffer.concat([xz.stdout, sizeWord(elf.length)]), 'k');
    expect(result.format).toBe('xz');
    expect(Buffer.compare(result.data, elf)).toBe(0);
  });

  const zstd = spawnSync('zstd', ['-c', '-q'], { input: elf });
  test.skipIf(zstd.error !== undefined)('zstd (skipped where zstd is not installed)', async () => {
    const result = await unpackPayload(Buffer.concat([zstd.stdout, sizeWord(elf.length)]), 'k');
    expect(result.format).toBe('zstd');
    expect(Buffer.compare(result.data, elf)).toBe(0);
  });

  test('lz4 legacy frame with an overlapping match', async () => {
    // token 0x3f: 3 literals, match length 15+4 extended by 6 = 25; distance 3; then the last sequence: 5 literals.
    const block = Buffer.from([0x3f, 0x61, 0x62, 0x63, 3, 0, 6, 0x50, 0x76, 0x77, 0x78, 0x79, 0x7a]);
    const frame = Buffer.concat([LZ4_MAGIC, sizeWord(block.length), block, sizeWord(33)]);
    const result = await unpackPayload(frame, 'k');
    expect(Buffer.from(result.data).toString()).toBe(`${'abc'.repeat(10).slice(0, 28)}vwxyz`);
  });

  test('a zstd archive of many long runs takes no more memory than it says', async () => {
    // 4 bytes a block, each a run of 2 MiB (RFC 8878, 3.1.1.2): 200 GB if it were believed.
    const run = Buffer.from([0xfa, 0xff, 0xff, 0x61]);
    const archive = Buffer.concat([
      Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, 4]),
      ...new Array(100_000).fill(run),
      Buffer.from([1, 0, 0]),
    ]);
    const before = process.memoryUsage().arrayBuffers;
    await unpackPayload(Buffer.concat([archive, sizeWord(1024)]), 'k').catch((error) => expect(error).toBeInstanceOf(UserError));
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 << 20);
  });

  test('an lz4 archive of a million blocks of one byte', async () => {
    const frame = Buffer.concat([LZ4_MAGIC, ...new Array(1_000_000).fill(Buffer.from([2, 0, 0, 0, 0x10, 0x61])), sizeWord(0)]);
    await expect(unpackPayload(frame, 'k')).resolves.toMatchObject({ data: { length: 1_000_000 } });
  });

  test.each([
    ['a cut gzip', gzipSync(elf).subarray(0, 20)],
    ['a cut xz', Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 1])],
    ['a cut zstd', Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0])],
    ['an lz4 frame without a block', LZ4_MAGIC],
    ['an lz4 match before the start', Buffer.from([0x02, 0x21, 0x4c, 0x18, 4, 0, 0, 0, 0x10, 0x61, 9, 0])],
    ['bzip2', Buffer.from('BZh91AY')],
    ['nothing', Buffer.alloc(0)],
    ['something else', Buffer.from('#!/bin/sh')],
  ])('%s is a clear error', async (_, data) => {
    await expect(unpackPayload(data, 'k')).rejects.toBeInstanceOf(UserError);
  });
});

describe('kernel images', () => {
  test('a bzImage: payload and setup header', async () => {
    const image = await readKernelImage(bzImage(gzipSync(elf)), 'k');
    expect(image.description).toBe('bzImage, gzip');
    expect(Buffer.compare(image.elf, elf)).toBe(0);
    expect(image.setupHeader?.length).toBe(0x202 + 0x6a - 0x1f1);
  });

  test('an ELF file and a compressed ELF file', async () => {
    expect((await readKernelImage(elf, 'k')).description).toBe('ELF');
    expect((await readKernelImage(gzipSync(elf), 'k')).description).toBe('ELF, gzip');
  });

  test.each([
    ['empty', Buffer.alloc(0), /neither a bzImage nor an ELF/],
    ['text', Buffer.from('hello'.repeat(500)), /neither a bzImage nor an ELF/],
    ['payload outside the file', bzImage(elf, (image) => image.writeUInt32LE(0xffffff, 0x24c)), /outside the file/],
    ['payload offset outside the file', bzImage(elf, (image) => image.writeUInt32LE(0xffffff, 0x248)), /outside the file/],
    ['an old protocol', bzImage(elf, (image) => image.writeUInt16LE(0x0204, 0x206)), /too old/],
  ])('%s is a clear error', async (_, file, message) => {
    await expect(readKernelImage(file, 'k')).rejects.toThrow(message);
    await expect(readKernelImage(file, 'k')).rejects.toBeInstanceOf(UserError);
  });
});

describe('kernels as files', () => {
  let cache = '';
  const kernels = () => readdirSync(join(cache, 'kernels'));
  beforeEach(() => {
    cache = mkdtempSync(join(tmpdir(), 'portcullis-kernels-'));
    vi.stubEnv('PORTCULLIS_CACHE', cache);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    rmSync(cache, { recursive: true });
  });

  test('an ELF file is used where it is', async () => {
    await expect(openKernelImage('/some/vmlinux', elf)).resolves.toMatchObject({ description: 'ELF', elf: '/some/vmlinux' });
  });

  test('a bzImage is unpacked once', async () => {
    const image = bzImage(gzipSync(elf));
    const first = await openKernelImage('k', image);
    expect(Buffer.compare(readFileSync(first.elf), elf)).toBe(0);
    expect(first.setupHeader?.length).toBeGreaterThan(0);
    utimesSync(first.elf, 1, 1);
    const second = await openKernelImage('elsewhere', image);
    expect(second.elf).toBe(first.elf);
    expect(kernels()).toHaveLength(1);
  });

  test('so is a packed ELF file', async () => {
    const { elf: path } = await openKernelImage('k', gzipSync(elf));
    expect(Buffer.compare(readFileSync(path), elf)).toBe(0);
  });

  test('the ones used last are kept', async () => {
    const paths: string[] = [];
    for (const [index, name] of ['a', 'b', 'c', 'd', 'e'].entries()) {
      const { elf: path } = await openKernelImage(name, bzImage(gzipSync(Buffer.concat([elf, Buffer.from(name)]))));
      utimesSync(path, 1000 + index, 1000 + index);
      paths.push(path);
    }
    expect(kernels()).toHaveLength(3);
    expect(kernels()).toContain(paths[4].split('/').at(-1));
  });

  test('a damaged one leaves nothing behind', async () => {
    await expect(openKernelImage('k', bzImage(gzipSync(elf).subarray(0, 40)))).rejects.toBeInstanceOf(UserError);
    expect(kernels()).toEqual([]);
  });
});
