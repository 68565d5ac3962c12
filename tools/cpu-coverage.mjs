// Prints which rows of the opcode table are tested, and how.
import './typescript-loader.mjs';

const { coverageTable } = await import('../tests/cpu/coverage.ts');
console.log(coverageTable());
