/** Which row of the opcode table the engine's decoder takes for some bytes (Intel SDM vol. 2, chapter 2), found from the table alone. */
import type { Instruction, OpcodeMap } from '../../src/engine/soft/isa/row.ts';
import { bySpecificity, opcodesOf } from '../../src/engine/soft/isa/table.ts';
import type { Bits } from './layout.ts';

/** The parts of an instruction in front of its displacement. */
export interface Encoding {
  /** Legacy prefixes in their order; a REX that another prefix follows counts for nothing and is left out. */
  prefixes: number[];
  /** 0 when there is none. */
  rex: number;
  map: OpcodeMap;
  opcode: number;
  /** The byte behind the opcode, a ModRM if the instruction has one; 0 behind the end of the bytes. */
  modrm: number;
  /** Bytes up to and with the opcode. */
  length: number;
}

/** Groups 1 to 4 of the legacy prefixes. */
export const LEGACY_PREFIXES = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3] as const;

export type Mandatory = 'NP' | '66' | 'F2' | 'F3';

/** Undefined when the bytes end before the opcode does. */
export function split(bits: Bits, code: Uint8Array): Encoding | undefined {
  const prefixes: number[] = [];
  let at = 0;
  let rex = 0;
  for (; at < code.length; at++) {
    const byte = code[at] as number;
    if (bits === 64 && (byte & 0xf0) === 0x40) rex = byte;
    else if ((LEGACY_PREFIXES as readonly number[]).includes(byte)) {
      prefixes.push(byte);
      rex = 0;
    } else break;
  }
  let map: OpcodeMap = 0;
  if (code[at] === 0x0f) {
    const second = code[at + 1];
    map = second === 0x38 ? 2 : second === 0x3a ? 3 : 1;
    at += map === 1 ? 1 : 2;
  }
  const opcode = code[at];
  return opcode === undefined ? undefined : { prefixes, rex, map, opcode, modrm: code[at + 1] ?? 0, length: at + 1 };
}

/** What a row's mandatory prefix is compared with: 66 beside F2 or F3 only gives the operand size, and the last of F2 and F3 counts. */
export function mandatoryPrefix(prefixes: readonly number[]): Mandatory {
  const repeat = prefixes.filter((byte) => byte === 0xf2 || byte === 0xf3).at(-1);
  return repeat === 0xf2 ? 'F2' : repeat === 0xf3 ? 'F3' : prefixes.includes(0x66) ? '66' : 'NP';
}

/** Whether a row that has the opcode takes this prefix and ModRM. */
export function claims(row: Instruction, prefix: Mandatory, modrm: number): boolean {
  if (row.prefix !== 'any' && row.prefix !== prefix) return false;
  if (!row.hasModrm) return true;
  if (row.exactModrm !== undefined) return row.exactModrm === modrm;
  if (row.digit !== undefined && row.digit !== ((modrm >> 3) & 7)) return false;
  return row.place === 'any' || (row.place === 'register') === modrm >= 0xc0;
}

/** A function that finds the row for some bytes, or undefined: then the bytes are #UD. */
export function rowFinder(table: readonly Instruction[]): (bits: Bits, code: Uint8Array) => Instruction | undefined {
  const rows = new Map<number, Instruction[]>();
  for (const row of [...table].sort(bySpecificity)) {
    for (const opcode of opcodesOf(row)) {
      const key = (row.map << 8) | opcode;
      rows.set(key, [...(rows.get(key) ?? []), row]);
    }
  }
  return (bits, code) => {
    const encoding = split(bits, code);
    if (encoding === undefined) return undefined;
    const { map, opcode, modrm, prefixes } = encoding;
    const exists = ({ attributes }: Instruction): boolean => !(bits === 64 ? attributes.invalid64 : attributes.only64);
    return rows.get((map << 8) | opcode)?.find((row) => exists(row) && claims(row, mandatoryPrefix(prefixes), modrm));
  };
}
