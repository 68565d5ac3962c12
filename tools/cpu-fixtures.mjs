// Makes tests/cpu/fixtures again from the opcode table, with this host's CPU as the oracle. Needs gcc on x86-64 Linux.
// Usage: node tools/cpu-fixtures.mjs            rewrite all files
//        node tools/cpu-fixtures.mjs TEXT       print the cases of the rows whose heading contains TEXT, change nothing
import './typescript-loader.mjs';

const { makeFixtures } = await import('../tests/cpu/make.ts');
makeFixtures(process.argv[2] ?? '');
