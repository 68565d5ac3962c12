/**
 * The whole opcode table: every instruction the soft engine knows. The decoder's tables and handler constants are generated from it, the
 * tests enumerate it, so that an instruction cannot be decoded without being tested.
 */
import { integerRows } from './integer.ts';
import { type Family, type Instruction, parseRow, type Row } from './row.ts';
import { sseRows } from './sse.ts';
import { systemRows } from './system.ts';
import { x87Rows } from './x87.ts';

const FAMILIES: readonly (readonly [Family, readonly Row[]])[] = [
  ['integer', integerRows],
  ['system', systemRows],
  ['x87', x87Rows],
  ['sse', sseRows],
];

/** All rows, parsed, in table order; throws when two rows could claim the same encoding. */
export function opcodeTable(): Instruction[] {
  const table: Instruction[] = [];
  for (const [family, rows] of FAMILIES) for (const row of rows) table.push(parseRow(row, family, table.length));
  checkClashes(table);
  return table;
}

/** Rows that share an opcode, the more specific first: the order in which the decoder tries them. */
export function bySpecificity(a: Instruction, b: Instruction): number {
  const weight = (row: Instruction) =>
    (row.exactModrm === undefined ? 0 : 8) +
    (row.prefix === 'any' ? 0 : 4) +
    (row.digit === undefined ? 0 : 2) +
    (row.place === 'any' ? 0 : 1);
  return weight(b) - weight(a) || a.index - b.index;
}

/** The opcode bytes that a row claims. */
export function opcodesOf(row: Instruction): number[] {
  return row.registerInOpcode ? Array.from({ length: 8 }, (_, i) => row.opcode + i) : [row.opcode];
}

/** Throws an Error that names two rows which could claim the same encoding. */
export function checkClashes(table: readonly Instruction[]): void {
  const seen = new Map<string, Instruction>();
  for (const row of table) {
    for (const opcode of opcodesOf(row)) {
      for (const mode of row.attributes.only64 ? ['64'] : row.attributes.invalid64 ? ['32'] : ['32', '64']) {
        for (const place of row.place === 'any' ? ['memory', 'register'] : [row.place]) {
          const key = [row.prefix, row.map, opcode, row.digit, row.exactModrm, mode, place].join('|');
          const other = seen.get(key);
          if (other) throw new Error(`opcode rows clash: [${other.row.join(' | ')}] and [${row.row.join(' | ')}]`);
          seen.set(key, row);
        }
      }
    }
  }
}
