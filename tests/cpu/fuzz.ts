/** Fresh cases, the same generators with other seeds, compared with the host CPU at once. */
import { createSoftEngine } from '../../src/engine/soft/engine.ts';
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import { opcodeTable } from '../../src/engine/soft/isa/table.ts';
import { differences } from './compare.ts';
import { type Case, formatOutcome, TIMED_OUT } from './fixture.ts';
import { heading, SEQUENCES } from './fixtures.ts';
import { generate } from './generate.ts';
import { Guest } from './guest.ts';
import { Native } from './native.ts';
import { report } from './report.ts';
import { sequences } from './sequences.ts';

/** Differences shown per row and run. */
const SHOWN = 2;

/** Runs for about `seconds`; prints differences and returns how many cases differed. `only` chooses rows by their heading. */
export function fuzz(seconds: number, seed: string, only: string): number {
  const table = opcodeTable();
  const native = new Native();
  const engine = createSoftEngine({ memorySize: 16 << 20, cpus: 1, clock: 'instructions' });
  const guest = new Guest(engine);
  const end = Date.now() + seconds * 1000;
  const failed = new Map<string, number>();
  let cases = 0;
  try {
    for (let round = 0; Date.now() < end; round++) {
      const work = [...batch(table, `${seed}.${round}`, only)];
      const outcomes = native.run(work.map(({ test }) => test));
      work.forEach(({ title, row, test }, i) => {
        const expected = outcomes[i];
        if (expected === undefined || expected.vector === TIMED_OUT) return;
        cases += 1;
        const found = differences(row, test, expected, guest.run(test));
        if (found.length === 0) return;
        const count = (failed.get(title) ?? 0) + 1;
        failed.set(title, count);
        if (count <= SHOWN) console.log(`${report(title, test, found)}\n      on the CPU: ${formatOutcome(test, expected)}\n`);
      });
    }
  } finally {
    native.close();
    engine.close();
  }
  const total = [...failed.values()].reduce((sum, count) => sum + count, 0);
  for (const [title, count] of failed) console.log(`${count} x ${title}`);
  console.log(`${cases} cases, ${total} differ, in ${failed.size} rows`);
  return total;
}

interface Work {
  title: string;
  row: Instruction | undefined;
  test: Case;
}

function* batch(table: readonly Instruction[], salt: string, only: string): Generator<Work> {
  for (const row of table) {
    const title = heading(row);
    if (title.includes(only)) for (const form of generate(row, salt)) for (const test of form.cases) yield { title, row, test };
  }
  if (SEQUENCES.includes(only)) for (const test of sequences(table, salt, 3000)) yield { title: SEQUENCES, row: undefined, test };
}
