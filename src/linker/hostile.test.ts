/** Whatever bytes the linker is given, only a UserError or a module that verifies comes out. */

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { R } from '../elf/constants.ts';
import { describeModule } from './describe.ts';
import { linkModule } from './link.ts';
import { FLAGS, TinyModule } from './testing.ts';

function sample(): Uint8Array {
  const tiny = new TinyModule();
  const callback = tiny.function('callback', (code) =>
    code.call(tiny.kernel('__x86_indirect_thunk_rax')).emit(0xff, 0x15).field(R.pc32, tiny.kernel('pv_ops'), 4).emit(0x90, 0x90, 0x90),
  );
  tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(callback);
  const replacement = tiny.symbol('', 3, tiny.add('.altinstr_replacement', FLAGS.text, new Uint8Array([0x0f, 0x01, 0xcb])), 0);
  tiny.code(tiny.add('.altinstructions', FLAGS.rodata)).field(R.pc32, callback, 11).field(R.pc32, replacement, 0).emit(0x34, 0x01, 3, 3);
  tiny
    .code(tiny.add('__jump_table', FLAGS.data))
    .emit(...new Array(8).fill(0))
    .field(R.pc64, tiny.kernel('key'), 0);
  tiny.bss('.portcullis.private', 64);
  return tiny.bytes();
}

const good = sample();

function survives(bytes: Uint8Array): void {
  for (const act of [linkModule, describeModule]) {
    try {
      act(bytes, 'fuzz.ko');
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
    }
  }
}

test('the sample itself links', () => {
  expect(describeModule(good, 'good.ko')).toMatchObject({ problems: [], alternativesApplied: 1 });
  expect(linkModule(good, 'good.ko').manifest.gates.length).toBeGreaterThan(3);
});

test('a module cut anywhere is refused', () => {
  for (let length = 0; length < good.length; length += 7) expect(() => linkModule(good.subarray(0, length), 'cut.ko')).toThrow(UserError);
});

test('changed bytes', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }), (changes) => {
      const bytes = good.slice();
      for (const [where, value] of changes) bytes[where] = value;
      survives(bytes);
    }),
    { numRuns: 1000 },
  );
});

test('changed tables', () => {
  // Everything behind the sections: relocations, symbols, names, headers. Aimed at 8-byte fields with values near what is valid.
  const view = new DataView(good.buffer);
  const start = Math.floor(Number(view.getBigUint64(40, true)) / 16);
  const fields = Math.floor((good.length - start) / 8);
  fc.assert(
    fc.property(
      fc.nat(fields - 1),
      fc.oneof(fc.bigInt({ min: 0n, max: 64n }), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })),
      (field, value) => {
        const bytes = good.slice();
        new DataView(bytes.buffer).setBigUint64(good.length - 8 * (field + 1), value, true);
        survives(bytes);
      },
    ),
    { numRuns: 1000 },
  );
});
