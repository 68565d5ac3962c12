/**
 * The share of the byte string fuzzer in `npm test`: half from a fixed seed, half from a fresh one, which is printed. On AMD processors only:
 * what another maker's leave open in another way is not all known here (README.md).
 */
import { expect, test } from 'vitest';
import { vendorOf } from './features.ts';
import { fuzzBytes } from './fuzz.ts';
import { Native } from './native.ts';

/** Compared strings of each half, at least. */
const SHARE = 3000;

function missing(): string | undefined {
  const problem = Native.missing();
  if (problem !== undefined) return problem;
  const native = new Native();
  const vendor = vendorOf((tests) => native.run(tests));
  native.close();
  return vendor === 'AuthenticAMD' ? undefined : `the host's CPU is ${vendor}: node tools/cpu-fuzz.mjs --bytes compares with it`;
}

const reason = missing();

test.skipIf(reason !== undefined)(
  `random bytes as code do what the host's CPU does with them${reason === undefined ? '' : ` (skipped: ${reason})`}`,
  () => {
    const fresh = `${Date.now() % 1_000_000_000}`;
    console.log(`random bytes: fresh seed ${fresh} (node tools/cpu-fuzz.mjs --bytes --seed ${fresh})`);
    for (const seed of ['1', fresh]) {
      const { cases, differing, rows } = fuzzBytes(seed, (compared) => compared >= SHARE);
      expect(differing.join('\n'), `seed ${seed}: ${cases} compared`).toBe('');
      expect(rows.size).toBe(0);
    }
  },
  120_000,
);
