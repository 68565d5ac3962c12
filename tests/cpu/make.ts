/** Makes the fixture files again: generates cases for every row, runs them on the host CPU, writes what happened. */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../../src/base/errors.ts';
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import { opcodeTable } from '../../src/engine/soft/isa/table.ts';
import { formatCase, formatOutcome, type Outcome, parseLine, TIMED_OUT } from './fixture.ts';
import { FIXTURES, heading, readGroups, SEQUENCES } from './fixtures.ts';
import { generate } from './generate.ts';
import { limitsOf } from './limits.ts';
import { Native } from './native.ts';
import { sequences } from './sequences.ts';

const fileOf = (row: Instruction): string => `${row.family}-${row.mnemonic[0]?.toLowerCase()}.txt`;

const PROGRAMS = 3000;

/** Rewrites `tests/cpu/fixtures`; with `only`, prints the rows whose heading contains it instead. Says on standard output what it did. */
export function makeFixtures(only = ''): void {
  const table = opcodeTable();
  const found = new Map(readGroups('../found.txt').map((group) => [group.heading, group.lines.map((line) => parseLine(`${line} =`).test)]));
  const work = table.map((row) => {
    const forms = generate(row);
    const cases = [...forms.flatMap((form) => form.cases), ...(found.get(heading(row)) ?? [])];
    return { title: heading(row), file: fileOf(row), row, forms: forms.length, cases };
  });
  const programs = { title: SEQUENCES, file: 'sequences.txt', row: undefined, forms: 0, cases: sequences(table, '', PROGRAMS) };
  const chosen = [...work, programs].filter(({ title, cases }) => cases.length > 0 && title.includes(only));
  const native = new Native();
  try {
    const limits = limitsOf(native);
    const missing = limits.map(({ what }) => what).join(', ');
    if (missing !== '' && only === '')
      throw new UserError(`this host's kernel does not run ${missing}`, 'make the fixtures on another host');
    if (missing !== '') console.warn(`left out: ${missing}: not by this host's kernel`);
    for (const item of chosen) item.cases = item.cases.filter((test) => !limits.some(({ concerns }) => concerns(test, item.row)));
    const outcomes = native.run(chosen.flatMap(({ cases }) => cases));
    const files = new Map<string, string[]>();
    for (const { title, file, cases } of chosen) {
      const lines = files.get(file) ?? ['# Made by tools/cpu-fixtures.mjs on a real CPU; see fixture.ts for the notation.'];
      files.set(file, lines);
      lines.push(title);
      for (const test of cases) {
        const outcome = outcomes.next().value as Outcome;
        if (outcome.vector === TIMED_OUT) console.warn(`left out (no end): ${title}: ${formatCase(test)}`);
        else lines.push(`${formatCase(test)} = ${formatOutcome(test, outcome)}`.trimEnd());
      }
    }
    if (only === '') rewrite(files);
    else for (const lines of files.values()) console.log(lines.join('\n'));
    const sum = (numbers: number[]): number => numbers.reduce((total, n) => total + n, 0);
    const forms = sum(chosen.map((item) => item.forms)),
      cases = sum(chosen.map((item) => item.cases.length));
    console.log(`${forms} instruction forms, ${cases} cases, ${files.size} files`);
  } finally {
    native.close();
  }
}

function rewrite(files: ReadonlyMap<string, readonly string[]>): void {
  mkdirSync(FIXTURES, { recursive: true });
  for (const name of readdirSync(FIXTURES)) if (name.endsWith('.txt')) rmSync(join(FIXTURES, name));
  for (const [name, lines] of files) writeFileSync(join(FIXTURES, name), `${lines.join('\n')}\n`);
}
