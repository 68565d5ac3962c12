/** Which rows of the opcode table are tested, and how: by fixtures from a real CPU, by the conformance suite, or not. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Family, Instruction } from '../../src/engine/soft/isa/row.ts';
import { opcodeTable } from '../../src/engine/soft/isa/table.ts';
import { fixtureFiles, heading, readGroups } from './fixtures.ts';
import { split } from './match.ts';

const CONFORMANCE = fileURLToPath(new URL('../conformance', import.meta.url));

export interface CoveredRow {
  row: Instruction;
  /** Fixtures of this row. */
  cases: number;
  /** Distinct forms among them: code size, operand and address size, register, memory, LOCK, REP, faulting or not. */
  forms: number;
  /** True when the conformance suite names the mnemonic. */
  conformance: boolean;
}

export function coverage(): { rows: CoveredRow[]; programs: number } {
  const groups = new Map(fixtureFiles().flatMap((file) => readGroups(file).map((group) => [group.heading, group.lines] as const)));
  const suite = conformanceText();
  const rows = opcodeTable().map((row) => {
    const lines = groups.get(heading(row)) ?? [];
    const named = new RegExp(`\\b${row.mnemonic.replace(/[^A-Za-z0-9]/g, '.')}\\b`, 'i').test(suite);
    return { row, cases: lines.length, forms: new Set(lines.map((line) => formOf(line, row))).size, conformance: named };
  });
  return { rows, programs: groups.get('@ sequences')?.length ?? 0 };
}

function conformanceText(): string {
  const files = readdirSync(CONFORMANCE).filter((name) => name.endsWith('.ts'));
  return files.map((name) => readFileSync(join(CONFORMANCE, name), 'utf8')).join('\n');
}

function formOf(line: string, row: Instruction): string {
  const mode = line.startsWith('16:') ? 16 : line.startsWith('32:') ? 32 : 64;
  const code = Buffer.from((line.split(' ')[0] as string).replace(/^\d\d:/, ''), 'hex');
  const { prefixes = [], rex = 0, modrm = 0 } = split(mode, code) ?? {};
  const telling = prefixes.filter((prefix) => [0x66, 0x67, 0xf0, 0xf2, 0xf3].includes(prefix)).map((prefix) => prefix.toString(16));
  const place = row.hasModrm ? (modrm >= 0xc0 ? 'register' : 'memory') : '';
  const fault = /= !(\d+)/.exec(line)?.[1] ?? '';
  return [mode, ...telling.sort(), rex & 8 ? 'W' : '', place, fault].join(' ');
}

const FAMILIES: readonly Family[] = ['integer', 'x87', 'sse', 'system'];

/** The table as text, with the rows that nothing tests. */
export function coverageTable(): string {
  const { rows, programs } = coverage();
  const lines = ['| family | rows | with fixtures | forms | cases | conformance suite only | untested |', '|---|---|---|---|---|---|---|'];
  const sum = (list: readonly CoveredRow[], key: 'forms' | 'cases'): number => list.reduce((total, row) => total + row[key], 0);
  for (const family of FAMILIES) {
    const list = rows.filter(({ row }) => row.family === family);
    const fixtures = list.filter(({ cases }) => cases > 0),
      named = list.filter(({ cases, conformance }) => cases === 0 && conformance);
    const untested = list.length - fixtures.length - named.length;
    lines.push(`| ${[family, list.length, fixtures.length, sum(list, 'forms'), sum(list, 'cases'), named.length, untested].join(' | ')} |`);
  }
  lines.push('', `${programs} programs of several instructions.`);
  const untested = rows.filter(({ cases, conformance }) => cases === 0 && !conformance);
  if (untested.length > 0) lines.push('', 'Untested rows:', ...untested.map(({ row }) => `- ${heading(row).slice(2)}`));
  return lines.join('\n');
}
