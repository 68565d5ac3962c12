/** Reading the fixture files: one group of cases per row of the opcode table, and the programs of several instructions. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Instruction } from '../../src/engine/soft/isa/row.ts';

export const FIXTURES = fileURLToPath(new URL('fixtures', import.meta.url));
/** Heading of the programs of several instructions. */
export const SEQUENCES = '@ sequences';
/** Heading of bytes that no row claims. */
export const NO_INSTRUCTION = '@ no instruction';

/** The line that starts a row's cases in a fixture file. */
export function heading(row: Instruction): string {
  return `@ ${row.row[0]} | ${row.row[1]}`;
}

export interface Group {
  heading: string;
  lines: string[];
}

export function fixtureFiles(): string[] {
  return readdirSync(FIXTURES)
    .filter((name) => name.endsWith('.txt'))
    .sort();
}

export function readGroups(file: string): Group[] {
  const groups: Group[] = [];
  for (const line of readFileSync(join(FIXTURES, file), 'utf8').split('\n')) {
    if (line.startsWith('@ ')) groups.push({ heading: line, lines: [] });
    else if (line !== '' && !line.startsWith('#')) groups.at(-1)?.lines.push(line);
  }
  return groups;
}
