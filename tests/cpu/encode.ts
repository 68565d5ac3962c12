/** Machine code of one opcode table row with chosen operands (Intel SDM vol. 2, chapter 2). */
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import type { Bits } from './layout.ts';

/** A memory operand. `base` 'rip' is RIP-relative, undefined is an absolute address; `form16` is ModRM.rm of 16-bit addressing. */
export interface Memory {
  base?: number | 'rip';
  index?: number;
  scale: 0 | 1 | 2 | 3;
  displacement: number;
  displacementSize: 0 | 1 | 2 | 4;
  form16?: number;
}

export interface Choice {
  bits: Bits;
  /** Operand size in bits. */
  size: 16 | 32 | 64;
  /** Prefix bytes before all others: LOCK, REP, segment, 67. */
  prefixes: readonly number[];
  /** ModRM.reg with REX.R, or the register in the opcode with REX.B, or unused. */
  reg: number;
  /** Register operand of ModRM.rm, or memory. */
  rm: number | Memory;
  immediates: readonly { value: bigint; size: number }[];
  /** Emit a REX prefix even if it would be 40 (SPL, BPL, SIL, DIL), or REX.W where it has no meaning. */
  forceRex: boolean;
  wide?: boolean;
  /** An operand size prefix that the row ignores. */
  idle66?: boolean;
}

/** True when the row's operand size follows the operand-size attribute. */
export function hasVariableSize(row: Instruction): boolean {
  return (
    row.operands.some(({ text, size }) => 'vzy'.includes(size || '-') || /^[er][A-Z]X/.test(text)) ||
    /^(PUSH|POP)[AF]?$|^LEAVE|^ENTER|^RET|^IRET|^CALL|^JMPF|^C[BW][WD]/.test(row.mnemonic)
  );
}

/** Operand sizes to try, in bits. */
export function sizesOf(row: Instruction, bits: Bits): (16 | 32 | 64)[] {
  if (!hasVariableSize(row)) return [32];
  const { forced64, default64 } = row.attributes;
  if (row.prefix === '66' && row.operands.some(({ size }) => size === 'v')) return [bits === 16 ? 32 : 16];
  const with66 = row.prefix !== 'NP' && row.prefix !== '66';
  const small: (16 | 32)[] = with66 ? [16, 32] : [32];
  if (bits === 16) return with66 ? [16, 32] : [16];
  if (bits === 32) return small;
  if (forced64) return [64];
  if (default64) return with66 ? [16, 64] : [64];
  return row.operands.some(({ size }) => size === 'y') && !row.operands.some(({ size }) => size === 'v') ? [32, 64] : [...small, 64];
}

/** The bytes. A RIP-relative displacement is written as given: the caller makes it relative once it knows the length. */
export function encode(row: Instruction, choice: Choice): number[] {
  const { bits, size, rm } = choice;
  const bytes = [...choice.prefixes];
  if (choice.idle66 || (size === (bits === 16 ? 32 : 16) && row.prefix !== '66' && hasVariableSize(row))) bytes.push(0x66);
  if (row.prefix === '66' || row.prefix === 'F2' || row.prefix === 'F3') bytes.push(Number.parseInt(row.prefix, 16));
  const memory = typeof rm === 'object' ? rm : undefined;
  let rex = choice.wide || (size === 64 && !row.attributes.default64 && !row.attributes.forced64) ? 8 : 0;
  if (row.registerInOpcode) rex |= choice.reg >> 3;
  else if (row.hasModrm && row.digit === undefined && row.exactModrm === undefined) rex |= (choice.reg >> 3) << 2;
  if (memory !== undefined) {
    rex |= ((memory.index ?? 0) >> 3) << 1;
    if (typeof memory.base === 'number') rex |= memory.base >> 3;
  } else if (row.hasModrm && row.exactModrm === undefined) rex |= (rm as number) >> 3;
  if (bits === 64 && (rex !== 0 || choice.forceRex)) bytes.push(0x40 | rex);
  bytes.push(...([[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]][row.map] as number[]));
  bytes.push(row.registerInOpcode ? row.opcode + (choice.reg & 7) : row.opcode);
  if (row.exactModrm !== undefined) bytes.push(row.exactModrm);
  else if (row.hasModrm) bytes.push(...modrm((row.digit ?? choice.reg) & 7, rm, bits));
  for (const immediate of choice.immediates) bytes.push(...little(immediate.value, immediate.size));
  return bytes;
}

function modrm(reg: number, rm: number | Memory, bits: Bits): number[] {
  if (typeof rm === 'number') return [0xc0 | (reg << 3) | (rm & 7)];
  const { base, index, scale, displacement, displacementSize } = rm;
  const tail = little(BigInt(displacement), displacementSize);
  const mod = displacementSize === 0 ? 0 : displacementSize === 1 ? 0x40 : 0x80;
  if (rm.form16 !== undefined) return [(rm.form16 === 8 ? 0 : mod) | (reg << 3) | (rm.form16 === 8 ? 6 : rm.form16), ...tail];
  if (base === 'rip' || (base === undefined && index === undefined && bits !== 64)) return [(reg << 3) | 5, ...tail];
  if (base === undefined) return [(reg << 3) | 4, (scale << 6) | (((index ?? 4) & 7) << 3) | 5, ...tail];
  if (index === undefined && (base & 7) !== 4) return [mod | (reg << 3) | (base & 7), ...tail];
  return [mod | (reg << 3) | 4, (scale << 6) | (((index ?? 4) & 7) << 3) | (base & 7), ...tail];
}

export function little(value: bigint, size: number): number[] {
  return Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}
