/** Files that are cut, foreign, huge or hostile: always a UserError that names the file, never a hang, a crash or memory without bound. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { elf32, HALT } from '../boots/bare-metal.ts';
import { UserError } from '../../src/base/errors.ts';
import { createSoftEngine } from '../../src/engine/soft/engine.ts';
import { readKernelImage } from '../../src/guest/kernel-image.ts';
import { createBoard } from '../../src/machine/board.ts';
import { boot } from '../../src/machine/boot/index.ts';
import { assemble } from '../../src/cli/assemble.ts';
import { nearest } from '../../src/cli/nearest.ts';
import { resolveRunOptions } from '../../src/cli/run-options.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'bad-input-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, data: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, data);
  return path;
}

/** A file that is large, but not on the disk. */
function sparse(name: string, size: number): string {
  const path = file(name, '');
  const fd = openSync(path, 'r+');
  ftruncateSync(fd, size);
  closeSync(fd);
  return path;
}

const kernel = () => file('kernel.elf', elf32(Uint8Array.from(HALT), { multiboot: true }));
const assembled = (flags: Record<string, unknown>) =>
  assemble(resolveRunOptions({ kernel: kernel(), memory: '16M', ...flags }, undefined), () => {});

describe('files of a run', () => {
  test('the kernel alone is fine', async () => {
    await expect(assembled({})).resolves.toMatchObject({ memory: 16 << 20 });
  });

  test.each([
    ['a kernel of 6 GB', () => ({ kernel: sparse('huge', 6e9) }), /huge has 6000000000 bytes/],
    ['an initramfs larger than the memory', () => ({ initramfs: sparse('initramfs', 17 << 20) }), /initramfs has \d+ bytes/],
    ['a folder', () => ({ kernel: folder }), /is not a file/],
    ['a device', () => ({ kernel: '/dev/zero' }), /is not a file/],
    ['an empty kernel', () => ({ kernel: file('empty', '') }), /neither a bzImage nor an ELF file/],
    ['a module of 6 GB', () => ({ module: [sparse('huge.ko', 6e9)] }), /huge\.ko has/],
    [
      'a manifest of 6 GB',
      () => ({ module: [sparse('m.ko', 1), sparse('m.ko.manifest.json', 6e9)].slice(0, 1) }),
      /m\.ko\.manifest\.json has/,
    ],
    [
      'a manifest that is no JSON',
      () => ({ module: [sparse('n.ko', 1), file('n.ko.manifest.json', '{')].slice(0, 1) }),
      /n\.ko\.manifest\.json.*JSON/,
    ],
    ['a grant nested a million deep', () => ({ grant: [file('deep', '['.repeat(1 << 20))] }), /deep.*JSON/],
    ['a key of 1 MB', () => ({ trust: [sparse('key', 1 << 20)] }), /key has 1048576 bytes/],
    ['more cards than slots', () => ({ net: Array(30).fill('none') }), /30 network cards/],
    ['an unknown card model', () => ({ net: ['none,model=ne2000'] }), /ne2000/],
    ['a guest path that leaves the archive', () => ({ put: ['../etc/x=/dev/null'] }), /leaves the archive/],
  ])('%s', async (_, flags, message) => {
    const failed = assembled(flags());
    await expect(failed).rejects.toThrow(UserError);
    await expect(failed).rejects.toThrow(message);
  });

  test('a config file of 6 GB', () => {
    expect(() => resolveRunOptions({}, sparse('vm.json', 6e9))).toThrow(/vm\.json has 6000000000 bytes/);
  });

  test('any JSON as config file gives options or a UserError', () => {
    const names = fc.constantFrom('memory', 'net', 'name', 'debugExit', 'timeout', 'put', 'clock', '__proto__', 'constructor');
    fc.assert(
      fc.property(fc.dictionary(names, fc.jsonValue()), (value) => {
        try {
          resolveRunOptions({}, file('any.json', JSON.stringify(value)));
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe('kernel images with changed bytes', () => {
  const engine = createSoftEngine({ memorySize: 16 << 20, cpus: 1, clock: 'instructions' });
  const board = createBoard({
    memory: engine.memory,
    now: () => 0,
    cpus: 1,
    tscFrequency: engine.tscFrequency,
    serial: { write() {} },
    wallClock: () => 0,
    log: { trace() {}, debug() {}, info() {}, warn() {}, error() {} },
    onPower() {},
    onInterrupt() {},
  });
  const load = async (bytes: Uint8Array) => {
    const image = await readKernelImage(bytes, 'k');
    boot(engine.cpus[0], engine.memory, {
      elf: image.elf,
      setupHeader: image.setupHeader,
      name: 'k',
      commandLine: 'x'.repeat(300),
      memoryMap: board.memoryMap(),
      rsdp: 0xe0000,
    });
  };
  const changes = fc.array(fc.tuple(fc.nat(), fc.oneof(fc.constantFrom(0, 1, 0x7f, 0x80, 0xff), fc.nat(255))), {
    minLength: 1,
    maxLength: 12,
  });
  const changed = (image: Uint8Array, most: number, list: readonly (readonly [number, number])[]) => {
    const copy = Uint8Array.from(image);
    for (const [at, value] of list) copy[at % Math.min(most, copy.length)] = value;
    return copy;
  };
  const survives = async (bytes: Uint8Array) => {
    try {
      await load(bytes);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
    }
  };

  test.each([
    ['Multiboot', { multiboot: true }],
    ['PVH', { pvh: true }],
  ])('ELF for %s', async (_, kind) => {
    const image = elf32(Uint8Array.from(HALT), kind);
    await load(image);
    await fc.assert(
      fc.asyncProperty(changes, (list) => survives(changed(image, image.length, list))),
      { numRuns: 1500 },
    );
  });

  test('bzImage', async () => {
    const payload = elf32(Uint8Array.from(HALT));
    const image = Buffer.alloc(1024 + payload.length);
    image[0x1f1] = 1;
    image.writeUInt16LE(0xaa55, 0x1fe);
    image[0x201] = 0x66;
    image.write('HdrS', 0x202, 'latin1');
    image.writeUInt16LE(0x020f, 0x206);
    image.writeUInt32LE(payload.length, 0x24c);
    image.set(payload, 1024);
    await expect(readKernelImage(image, 'k')).resolves.toMatchObject({ description: 'bzImage, plain' });
    await fc.assert(
      fc.asyncProperty(changes, (list) => survives(changed(image, image.length, list))),
      { numRuns: 1500 },
    );
    const header = fc.array(fc.tuple(fc.integer({ min: 0x1f1, max: 0x267 }), fc.nat(255)), { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(header, (list) => survives(changed(image, image.length, list))),
      { numRuns: 1500 },
    );
  });
});

test('a slip of the keyboard finds its word; another word finds none', () => {
  expect(nearest('memroy', ['memory', 'module', 'net'])).toBe('memory');
  expect(nearest('text-difers', ['text-differs', 'no-grant'])).toBe('text-differs');
  expect(nearest('zebra', ['memory', 'module'])).toBeUndefined();
});
