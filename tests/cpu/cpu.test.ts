/** The soft engine's CPU against a real one: every fixture's registers, flags, vector state, memory and exception. */
import { afterAll, describe, expect, test } from 'vitest';
import { createSoftEngine } from '../../src/engine/soft/engine.ts';
import { opcodeTable } from '../../src/engine/soft/isa/table.ts';
import { differences } from './compare.ts';
import { coverage } from './coverage.ts';
import { newCase, parseLine } from './fixture.ts';
import { fixtureFiles, heading, readGroups, SEQUENCES } from './fixtures.ts';
import { Guest } from './guest.ts';
import { DATA } from './layout.ts';
import { disassemble, report } from './report.ts';
import { unknownEncodings } from './unknown.ts';

const rows = new Map(opcodeTable().map((row) => [heading(row), row]));
const engine = createSoftEngine({ memorySize: 16 << 20, cpus: 1, clock: 'instructions' });
const guest = new Guest(engine);
afterAll(() => {
  engine.close();
});

/** Shown of a file's failures; the rest is counted. */
const SHOWN = 10;

describe('instructions do what a real CPU did', () => {
  test.each(fixtureFiles())(
    '%s',
    (file) => {
      const failures: string[] = [];
      let cases = 0;
      for (const group of readGroups(file)) {
        const row = rows.get(group.heading);
        if (row === undefined && group.heading !== SEQUENCES) {
          failures.push(`${group.heading}: no such row in the opcode table; make the fixtures again`);
        }
        for (const line of group.lines) {
          const { test: one, expected } = parseLine(line);
          const found = differences(row, one, expected, guest.run(one));
          if (found.length > 0) failures.push(report(group.heading, one, found));
          cases += 1;
        }
      }
      expect(cases).toBeGreaterThan(0);
      expect(failures.slice(0, SHOWN).join('\n\n'), `${failures.length} of ${cases} cases differ`).toBe('');
    },
    120_000,
  );
});

test('every row of the opcode table outside the system family has fixtures', () => {
  const { rows: covered } = coverage();
  expect(covered.filter(({ row, cases }) => row.family !== 'system' && cases === 0).map(({ row }) => heading(row))).toEqual([]);
});

test('encodings that the opcode table lacks are #UD', () => {
  const accepted: string[] = [];
  let count = 0;
  for (const bytes of unknownEncodings([...rows.values()])) {
    const one = newCase(64, [...bytes, 0, 0, 0, 0], 'gi', 1);
    one.registers = [[0, BigInt(DATA)]];
    const { vector, rip } = guest.run(one);
    if (vector !== 6 || rip !== BigInt(one.at)) {
      accepted.push(`${disassemble(one)} [${bytes.map((byte) => byte.toString(16)).join(' ')}]: vector ${vector}`);
    }
    count += 1;
  }
  expect(count).toBeGreaterThan(1000);
  expect(accepted.slice(0, SHOWN).join('\n'), `${accepted.length} of ${count} accepted`).toBe('');
});

test('a wrong result is found', () => {
  const { test: one, expected } = parseLine('4801d8 gi1 rax=1 rbx=2 = rax=4');
  expect(differences(rows.get('@ 01 | ADD Ev,Gv'), one, expected, guest.run(one))).toContain('rax: expected 0x4, got 0x3');
});
