// Fresh random cases, run on the soft engine and on this host's CPU side by side. Needs gcc on x86-64 Linux and a built core.
// Usage: node tools/cpu-fuzz.mjs [--bytes] [--seconds N] [--seed S] [--only TEXT]     exit status 1 when something differs
// Cases are instructions of the opcode table (--only: of the rows with TEXT in them), or with --bytes random byte strings.
import './typescript-loader.mjs';
import { parseArgs } from 'node:util';

const text = (value) => ({ type: 'string', default: value });
const { values } = parseArgs({
  options: { bytes: { type: 'boolean', default: false }, seconds: text('60'), seed: text(`${Date.now() % 1_000_000}`), only: text('') },
});
const { fuzzBytes, fuzzRows } = await import('../tests/cpu/fuzz.ts');
const { bytes, seed, only } = values;
console.log(`seed ${seed}`);
const start = Date.now();
const end = () => Date.now() - start >= 1000 * Number(values.seconds);
const { cases, rows, differing, lines } = bytes ? fuzzBytes(seed, end) : fuzzRows(seed, only, end);
for (const difference of differing) console.log(difference);
for (const [title, count] of rows) console.log(`${count} x ${title}`);
for (const line of lines) console.log(line);
const total = [...rows.values()].reduce((sum, count) => sum + count, 0);
const rate = Math.round((1000 * cases) / (Date.now() - start));
console.log(`${cases} cases compared, ${total} differ, in ${rows.size} rows; ${rate} a second`);
process.exitCode = total === 0 ? 0 : 1;
