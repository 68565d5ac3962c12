/** Encodings that no row of the opcode table claims: the engine must refuse every one of them with #UD. */
import type { Instruction, OpcodeMap } from '../../src/engine/soft/isa/row.ts';
import { opcodesOf } from '../../src/engine/soft/isa/table.ts';
import { claims, LEGACY_PREFIXES } from './match.ts';

const ESCAPES: readonly (readonly number[])[] = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]];
/** Legacy prefixes and REX in the one-byte map, the escapes in it and in 0F. */
const NOT_OPCODES: readonly ReadonlySet<number>[] = [
  new Set([0x0f, ...LEGACY_PREFIXES, ...Array.from({ length: 16 }, (_, i) => 0x40 + i)]),
  new Set([0x38, 0x3a]),
  new Set(),
  new Set(),
];

/** Code bytes of every unclaimed encoding in 64-bit code, register and memory form ([RAX]), each ModRM.reg, each mandatory prefix. */
export function* unknownEncodings(table: readonly Instruction[]): Generator<number[]> {
  for (const map of [0, 1, 2, 3] as OpcodeMap[]) {
    for (let opcode = 0; opcode < 256; opcode++) {
      if (NOT_OPCODES[map]?.has(opcode)) continue;
      const rows = table.filter((row) => row.map === map && !row.attributes.invalid64 && opcodesOf(row).includes(opcode));
      for (const prefix of map === 0 ? (['NP'] as const) : (['NP', '66', 'F2', 'F3'] as const)) {
        for (let modrm = 0; modrm < 256; modrm += modrm === 0x38 ? 0x88 : 8) {
          if (rows.some((row) => claims(row, prefix, modrm))) continue;
          yield [...(prefix === 'NP' ? [] : [Number.parseInt(prefix, 16)]), ...(ESCAPES[map] as number[]), opcode, modrm];
        }
      }
    }
  }
}
