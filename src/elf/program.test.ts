import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { EM, PT } from './constants.ts';
import { readProgramHeaders } from './program.ts';

/** A PVH note: name "Xen", type 18, the entry point; behind a note of somebody else. */
const NOTES = Buffer.from([
  4,
  0,
  0,
  0,
  3,
  0,
  0,
  0,
  1,
  0,
  0,
  0,
  ...Buffer.from('GNU\0'),
  1,
  2,
  3,
  0,
  4,
  0,
  0,
  0,
  4,
  0,
  0,
  0,
  18,
  0,
  0,
  0,
  ...Buffer.from('Xen\0'),
  0x78,
  0x56,
  0x34,
  0x12,
]);

/** An executable with one PT_LOAD (physical 1 MiB, 4 bytes in the file, 4096 in memory) and one PT_NOTE. */
function executable(bits: 32 | 64, notes: Uint8Array = NOTES): Uint8Array {
  const wide = bits === 64;
  const headerSize = wide ? 64 : 52;
  const entrySize = wide ? 56 : 32;
  const body = headerSize + 2 * entrySize;
  const bytes = new Uint8Array(body + 4 + notes.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, wide ? EM.x8664 : EM.i386, true);
  const word = (at: number, value: bigint) => (wide ? view.setBigUint64(at, value, true) : view.setUint32(at, Number(value), true));
  word(24, 0x100000n);
  word(wide ? 32 : 28, BigInt(headerSize));
  view.setUint16(wide ? 54 : 42, entrySize, true);
  view.setUint16(wide ? 56 : 44, 2, true);
  const segment = (index: number, type: number, offset: number, size: number, memory: number) => {
    const at = headerSize + index * entrySize;
    const fields = { type, flags: 5, offset, virtual: wide ? 0xffffffff81000000n : 0xc0100000n, physical: 0x100000n, size, memory };
    view.setUint32(at, fields.type, true);
    view.setUint32(at + (wide ? 4 : 24), fields.flags, true);
    word(at + (wide ? 8 : 4), BigInt(fields.offset));
    word(at + (wide ? 16 : 8), fields.virtual);
    word(at + (wide ? 24 : 12), fields.physical);
    word(at + (wide ? 32 : 16), BigInt(fields.size));
    word(at + (wide ? 40 : 20), BigInt(fields.memory));
  };
  segment(0, PT.load, body, 4, 4096);
  segment(1, PT.note, body + 4, notes.length, notes.length);
  bytes.set([1, 2, 3, 4], body);
  bytes.set(notes, body + 4);
  return bytes;
}

describe.each([32, 64] as const)('an ELF%i executable', (bits) => {
  test('gives its entry, segments and PVH entry point', () => {
    const read = readProgramHeaders(executable(bits), 'kernel');
    expect(read).toMatchObject({ bits, machine: bits === 64 ? EM.x8664 : EM.i386, entry: 0x100000n, pvhEntry: 0x12345678 });
    expect(read.segments[0]).toEqual({
      type: PT.load,
      flags: 5,
      physicalAddress: 0x100000n,
      virtualAddress: bits === 64 ? 0xffffffff81000000n : 0xc0100000n,
      data: new Uint8Array([1, 2, 3, 4]),
      memorySize: 4096,
    });
  });

  test('without the note has no PVH entry point, and a broken note is none', () => {
    expect(readProgramHeaders(executable(bits, NOTES.subarray(0, 20)), 'kernel').pvhEntry).toBeUndefined();
    expect(readProgramHeaders(executable(bits, new Uint8Array(40).fill(0xff)), 'kernel').pvhEntry).toBeUndefined();
  });

  test('cut anywhere or with any bytes changed is refused by a UserError or read', () => {
    const good = executable(bits);
    const survives = (bytes: Uint8Array) => {
      try {
        readProgramHeaders(bytes, 'fuzz');
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
      }
    };
    for (let length = 0; length < good.length; length++)
      expect(() => readProgramHeaders(good.subarray(0, length), 'cut')).toThrow(UserError);
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }), (changes) => {
        const bytes = good.slice();
        for (const [where, value] of changes) bytes[where] = value;
        survives(bytes);
      }),
      { numRuns: 2000 },
    );
  });
});

test.each<[string, (bytes: Uint8Array, view: DataView) => void, string]>([
  ['no program headers', (_, view) => view.setUint16(56, 0, true), 'no program headers'],
  ['too many', (_, view) => view.setUint16(56, 257, true), '257 program headers'],
  [
    'another machine',
    (bytes) => {
      bytes[18] = 183;
    },
    'machine 183',
  ],
  [
    'a relocatable file',
    (bytes) => {
      bytes[16] = 1;
    },
    'ELF type 1',
  ],
  ['a segment larger in the file than in memory', (_, view) => view.setBigUint64(64 + 40, 3n, true), 'only 3 in memory'],
  ['a segment outside the file', (_, view) => view.setBigUint64(64 + 8, 1n << 50n, true), 'segment 0 lies at'],
])('%s is refused', (_, change, message) => {
  const bytes = executable(64);
  change(bytes, new DataView(bytes.buffer));
  expect(() => readProgramHeaders(bytes, 'kernel')).toThrow(message);
});
