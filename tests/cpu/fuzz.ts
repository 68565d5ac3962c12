/** Fresh cases, compared with the host CPU at once: of the generators of the fixtures with other seeds, or random bytes as code. */
import { createSoftEngine } from '../../src/engine/soft/engine.ts';
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import { opcodeTable } from '../../src/engine/soft/isa/table.ts';
import { admit, type Sides } from './admission.ts';
import { byteStrings } from './bytes.ts';
import { differences } from './compare.ts';
import { featuresOf } from './features.ts';
import { type Case, formatOutcome, input, memoryBefore, normalise, type Outcome, SYSTEM_CALL, TIMED_OUT } from './fixture.ts';
import { heading, NO_INSTRUCTION, SEQUENCES } from './fixtures.ts';
import { generate } from './generate.ts';
import { Guest } from './guest.ts';
import { limitsOf } from './limits.ts';
import { rowFinder } from './match.ts';
import { Native } from './native.ts';
import { report } from './report.ts';
import { sequences } from './sequences.ts';

/** Differences shown per row and run. */
const SHOWN = 2;
/** Byte strings of one batch. */
const STRINGS = 4000;

interface Work {
  title: string;
  row: Instruction | undefined;
  test: Case;
}

/** The host's CPU and the engine side by side. */
class SideBySide {
  readonly native = new Native();
  readonly engine = createSoftEngine({ memorySize: 16 << 20, cpus: 1, clock: 'instructions' });
  readonly guest = new Guest(this.engine);
  readonly differing: string[] = [];
  readonly rows = new Map<string, number>();
  readonly vectors = new Map<number, number>();
  cases = 0;

  compare(work: readonly Work[]): void {
    const outcomes = this.native.run(work.map(({ test }) => test));
    for (const item of work) {
      const expected = outcomes.next().value as Outcome;
      add(this.vectors, expected.vector);
      if (expected.vector === TIMED_OUT || expected.vector === SYSTEM_CALL) continue;
      this.cases += 1;
      this.check(item, expected);
    }
  }

  /** Runs one case on the engine only. */
  check({ title, row, test }: Work, expected: Outcome): void {
    const found = differences(row, test, expected, this.guest.run(test));
    if (found.length === 0) return;
    add(this.rows, title);
    if ((this.rows.get(title) ?? 0) > SHOWN) return;
    this.differing.push(`${report(title, test, found)}\n      expected: ${formatOutcome(test, expected)}\n`);
  }
}

function add<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function sorted<Key>(counts: ReadonlyMap<Key, number>): [Key, number][] {
  return [...counts].sort(([, a], [, b]) => b - a);
}

/** What came of a run. */
export interface Result {
  /** Compared with the host's CPU. */
  cases: number;
  /** How many were not the same, by row. */
  rows: ReadonlyMap<string, number>;
  /** Descriptions of some of them. */
  differing: readonly string[];
  /** What was left out, and how the cases ended on the host. */
  lines: readonly string[];
}

/** `end` is asked before every batch; `only` chooses rows by their heading. Throws UserError where the host's CPU cannot be asked. */
export function fuzzRows(seed: string, only: string, end: (cases: number) => boolean): Result {
  const table = opcodeTable();
  return sideBySide((sides) => {
    const limits = limitsOf(sides.native);
    for (let round = 0; !end(sides.cases); round++) {
      const work = [...batch(table, `${seed}.${round}`, only)];
      sides.compare(work.filter(({ test, row }) => !limits.some(({ concerns }) => concerns(test, row))));
    }
    return limits.map(({ what }) => `left out: ${what}: not by this host's kernel`);
  });
}

function sideBySide(run: (sides: SideBySide) => string[]): Result {
  const sides = new SideBySide();
  try {
    const lines = run(sides);
    const ends = sorted(sides.vectors).map(([vector, n]) => `${vector} (${n})`);
    lines.push(`vectors on the host, 3 for those that came to their end: ${ends.join(', ')}`);
    return { cases: sides.cases, rows: sides.rows, differing: sides.differing, lines };
  } finally {
    sides.native.close();
    sides.engine.close();
  }
}

function* batch(table: readonly Instruction[], salt: string, only: string): Generator<Work> {
  for (const row of table) {
    const title = heading(row);
    if (title.includes(only)) for (const form of generate(row, salt)) for (const test of form.cases) yield { title, row, test };
  }
  if (SEQUENCES.includes(only)) for (const test of sequences(table, salt, 3000)) yield { title: SEQUENCES, row: undefined, test };
}

/** Random byte strings (bytes.ts); those that admission.ts lets pass. */
export function fuzzBytes(seed: string, end: (cases: number) => boolean): Result {
  const table = opcodeTable();
  return sideBySide((sides) => {
    const both: Sides = {
      engine: featuresOf((tests) => tests.map((test) => sides.guest.run(test))),
      host: featuresOf((tests) => sides.native.run(tests)),
      rowOf: rowFinder(table),
    };
    const counts = new Map<string, number>();
    for (let round = 0; !end(sides.cases); round++) {
      const work: Work[] = [];
      for (const test of byteStrings(table, `${seed}.${round}`, STRINGS)) {
        const verdict = admit(test, both);
        switch (verdict.kind) {
          case 'compare': {
            const { row, instructions } = verdict;
            work.push({ title: row !== undefined ? heading(row) : instructions > 1 ? SEQUENCES : NO_INSTRUCTION, row, test });
            break;
          }
          case 'refuse':
            add(counts, 'of features that the engine lacks: must be #UD, whatever the host does');
            sides.check({ title: NO_INSTRUCTION, row: undefined, test }, refused(test));
            break;
          case 'leave out':
            add(counts, `left out: ${verdict.reason}`);
            break;
          default:
            verdict satisfies never;
        }
      }
      sides.compare(work);
    }
    return sorted(counts).map(([what, n]) => `${n} ${what}`);
  });
}

/** #UD, and nothing changed. */
function refused(test: Case): Outcome {
  const { state, patches } = input(test);
  const { gpr, rflags, fx } = state;
  return { vector: 6, error: 0, cr2: 0n, rip: BigInt(test.at), gpr, rflags, fx: normalise(fx), memory: memoryBefore(patches) };
}
