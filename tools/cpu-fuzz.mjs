// Fresh random cases, run on the soft engine and on this host's CPU side by side. Needs gcc on x86-64 Linux and a built core.
// Usage: node tools/cpu-fuzz.mjs [--seconds N] [--seed S] [--only TEXT]     exit status 1 when something differs
import './typescript-loader.mjs';
import { parseArgs } from 'node:util';

const text = (value) => ({ type: 'string', default: value });
const { values } = parseArgs({ options: { seconds: text('60'), seed: text('1'), only: text('') } });
const { fuzz } = await import('../tests/cpu/fuzz.ts');
process.exitCode = fuzz(Number(values.seconds), values.seed, values.only) === 0 ? 0 : 1;
