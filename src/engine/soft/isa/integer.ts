/**
 * The general-purpose instructions (Intel SDM vol. 2, tables ), less those that belong to the system (isa/system.ts).
 *
 * Rows of one operation share a handler for all operand sizes: the handler reads the size from the record. The eight ALU operations, the
 * eight shifts and the sixteen conditions share one each and read the operation from the opcode byte or the ModRM reg field.
 */
import type { Row } from './row.ts';

const ALU = ['ADD', 'OR', 'ADC', 'SBB', 'AND', 'SUB', 'XOR', 'CMP'] as const;
const SHIFT = ['ROL', 'ROR', 'RCL', 'RCR', 'SHL', 'SHR', 'SAL', 'SAR'] as const;
const BIT = ['BT', 'BTS', 'BTR', 'BTC'] as const;
export const CONDITIONS = ['O', 'NO', 'B', 'NB', 'Z', 'NZ', 'BE', 'NBE', 'S', 'NS', 'P', 'NP', 'L', 'NL', 'LE', 'NLE'] as const;

const byte = (value: number): string => value.toString(16).toUpperCase().padStart(2, '0');

function alu(): Row[] {
  return ALU.flatMap((name, i): Row[] => {
    const undefinedFlags = name === 'OR' || name === 'AND' || name === 'XOR' ? 'undef:AF ' : '';
    const lock = name === 'CMP' ? '' : 'lock ';
    const at = (low: number) => byte(i * 8 + low);
    return [
      [at(0), `${name} Eb,Gb`, `${lock}${undefinedFlags}h:ALU_E_G`],
      [at(1), `${name} Ev,Gv`, `${lock}${undefinedFlags}h:ALU_E_G`],
      [at(2), `${name} Gb,Eb`, `${undefinedFlags}h:ALU_G_E`],
      [at(3), `${name} Gv,Ev`, `${undefinedFlags}h:ALU_G_E`],
      [at(4), `${name} AL,Ib`, `${undefinedFlags}h:ALU_A_I`],
      [at(5), `${name} rAX,Iz`, `${undefinedFlags}h:ALU_A_I`],
      [`80 /${i}`, `${name} Eb,Ib`, `${lock}${undefinedFlags}h:ALU_E_I`],
      [`81 /${i}`, `${name} Ev,Iz`, `${lock}${undefinedFlags}h:ALU_E_I`],
      [`82 /${i}`, `${name} Eb,Ib`, `i64 ${lock}${undefinedFlags}h:ALU_E_I`],
      [`83 /${i}`, `${name} Ev,Ib`, `${lock}${undefinedFlags}h:ALU_E_I`],
    ];
  });
}

/** Counts other than 1 leave OF undefined; counts that can exceed the operand leave CF undefined too (SDM vol. 2, SAL/SAR/SHL/SHR). */
function shifts(): Row[] {
  return SHIFT.flatMap((name, digit): Row[] => {
    const shift = digit >= 4;
    const one = shift ? 'undef:AF ' : '';
    const many = shift ? 'undef:AF,OF ' : 'undef:OF ';
    const manyByte = shift ? 'undef:AF,OF,CF ' : many;
    return [
      [`C0 /${digit}`, `${name} Eb,Ib`, `${manyByte}h:SHIFT_E_I`],
      [`C1 /${digit}`, `${name} Ev,Ib`, `${manyByte}h:SHIFT_E_I`],
      [`D0 /${digit}`, `${name} Eb,1`, `${one}h:SHIFT_E_1`],
      [`D1 /${digit}`, `${name} Ev,1`, `${one}h:SHIFT_E_1`],
      [`D2 /${digit}`, `${name} Eb,CL`, `${manyByte}h:SHIFT_E_CL`],
      [`D3 /${digit}`, `${name} Ev,CL`, `${manyByte}h:SHIFT_E_CL`],
    ];
  });
}

function conditional(): Row[] {
  return CONDITIONS.flatMap((name, i): Row[] => [
    [byte(0x70 + i), `J${name} Jb`, 'f64 end h:JCC'],
    [`0F ${byte(0x80 + i)}`, `J${name} Jz`, 'f64 end h:JCC'],
    [`0F ${byte(0x40 + i)}`, `CMOV${name} Gv,Ev`, 'h:CMOV_G_E'],
    [`0F ${byte(0x90 + i)}`, `SET${name} Eb`, 'h:SET_E'],
  ]);
}

function bits(): Row[] {
  return BIT.flatMap((name, i): Row[] => {
    const attributes = `${i === 0 ? '' : 'lock '}undef:OF,SF,AF,PF`;
    return [
      [`0F ${byte(0xa3 + 8 * i)}`, `${name} Ev,Gv`, `${attributes} h:BIT_E_G`],
      [`0F BA /${4 + i}`, `${name} Ev,Ib`, `${attributes} h:BIT_E_I`],
    ];
  });
}

/** Byte and full-size forms of a one-operand instruction. */
function unary(opcode: number, digit: number, name: string, handler: string, attributes = ''): Row[] {
  return [
    [`${byte(opcode)} /${digit}`, `${name} Eb`, `${attributes} h:${handler}`],
    [`${byte(opcode + 1)} /${digit}`, `${name} Ev`, `${attributes} h:${handler}`],
  ];
}

/** Hint and no-operation encodings: 0F 0D (PREFETCHW), 0F 18 (PREFETCHh), 0F 19..1F. */
const hints: Row[] = [
  ['0F 0D m', 'NOP Ev', 'h:NOP'],
  ...['18', '19', '1A', '1B', '1C', '1D', '1E', '1F'].map((opcode): Row => [`0F ${opcode}`, 'NOP Ev', 'h:NOP']),
];

const transfer: Row[] = [
  ['88', 'MOV Eb,Gb', 'h:MOV_E_G'],
  ['89', 'MOV Ev,Gv', 'h:MOV_E_G'],
  ['8A', 'MOV Gb,Eb', 'h:MOV_G_E'],
  ['8B', 'MOV Gv,Ev', 'h:MOV_G_E'],
  ['A0', 'MOV AL,Ob', 'h:MOV_A_O'],
  ['A1', 'MOV rAX,Ov', 'h:MOV_A_O'],
  ['A2', 'MOV Ob,AL', 'h:MOV_O_A'],
  ['A3', 'MOV Ov,rAX', 'h:MOV_O_A'],
  ['B0 +r', 'MOV Zb,Ib', 'h:MOV_Z_I'],
  ['B8 +r', 'MOV Zv,Iv', 'h:MOV_Z_I'],
  ['C6 /0', 'MOV Eb,Ib', 'h:MOV_E_I'],
  ['C7 /0', 'MOV Ev,Iz', 'h:MOV_E_I'],
  ['8D m', 'LEA Gv,M'],
  ['0F B6', 'MOVZX Gv,Eb', 'h:MOVZX_b'],
  ['0F B7', 'MOVZX Gv,Ew', 'h:MOVZX_w'],
  ['0F BE', 'MOVSX Gv,Eb', 'h:MOVSX_b'],
  ['0F BF', 'MOVSX Gv,Ew', 'h:MOVSX_w'],
  ['63', 'MOVSXD Gv,Ed', 'o64'],
  ['86', 'XCHG Eb,Gb', 'lock h:XCHG_E_G'],
  ['87', 'XCHG Ev,Gv', 'lock h:XCHG_E_G'],
  ['90 +r', 'XCHG Zv,rAX', 'h:XCHG_Z_A'],
  ['F3 90', 'PAUSE'],
  ['0F C0', 'XADD Eb,Gb', 'lock h:XADD'],
  ['0F C1', 'XADD Ev,Gv', 'lock h:XADD'],
  ['0F B0', 'CMPXCHG Eb,Gb', 'lock h:CMPXCHG'],
  ['0F B1', 'CMPXCHG Ev,Gv', 'lock h:CMPXCHG'],
  ['0F C7 /1 m', 'CMPXCHG8B M', 'lock'],
  ['0F C8 +r', 'BSWAP Zv'],
  ['NP 0F 38 F0 m', 'MOVBE Gv,Mv', 'cpuid:movbe h:MOVBE_G_M'],
  ['66 0F 38 F0 m', 'MOVBE Gv,Mv', 'cpuid:movbe h:MOVBE_G_M'],
  ['NP 0F 38 F1 m', 'MOVBE Mv,Gv', 'cpuid:movbe h:MOVBE_M_G'],
  ['66 0F 38 F1 m', 'MOVBE Mv,Gv', 'cpuid:movbe h:MOVBE_M_G'],
  ['98', 'CBW', 'h:CBW'],
  ['99', 'CWD', 'h:CWD'],
  ['D7', 'XLAT'],
];

const stack: Row[] = [
  ['50 +r', 'PUSH Zv', 'd64 h:PUSH_Z'],
  ['58 +r', 'POP Zv', 'd64 h:POP_Z'],
  ['68', 'PUSH Iz', 'd64 h:PUSH_I'],
  ['6A', 'PUSH Ib', 'd64 h:PUSH_I'],
  ['FF /6', 'PUSH Ev', 'd64 h:PUSH_E'],
  ['8F /0', 'POP Ev', 'd64 h:POP_E'],
  ['60', 'PUSHA', 'i64'],
  ['61', 'POPA', 'i64'],
  ['9C', 'PUSHF', 'd64'],
  ['9D', 'POPF', 'd64 end'],
  ['C8', 'ENTER Iw,Ib', 'd64'],
  ['C9', 'LEAVE', 'd64'],
];

const arithmetic: Row[] = [
  ['40 +r', 'INC Zv', 'i64 h:INC_E'],
  ['48 +r', 'DEC Zv', 'i64 h:DEC_E'],
  ...unary(0xfe, 0, 'INC', 'INC_E', 'lock'),
  ...unary(0xfe, 1, 'DEC', 'DEC_E', 'lock'),
  ['84', 'TEST Eb,Gb', 'undef:AF h:TEST_E_G'],
  ['85', 'TEST Ev,Gv', 'undef:AF h:TEST_E_G'],
  ['A8', 'TEST AL,Ib', 'undef:AF h:TEST_A_I'],
  ['A9', 'TEST rAX,Iz', 'undef:AF h:TEST_A_I'],
  ...[0, 1].flatMap((digit): Row[] => [
    [`F6 /${digit}`, 'TEST Eb,Ib', 'undef:AF h:TEST_E_I'],
    [`F7 /${digit}`, 'TEST Ev,Iz', 'undef:AF h:TEST_E_I'],
  ]),
  ...unary(0xf6, 2, 'NOT', 'NOT', 'lock'),
  ...unary(0xf6, 3, 'NEG', 'NEG', 'lock'),
  ...unary(0xf6, 4, 'MUL', 'MUL', 'undef:SF,ZF,AF,PF'),
  ...unary(0xf6, 5, 'IMUL', 'IMUL', 'undef:SF,ZF,AF,PF'),
  ...unary(0xf6, 6, 'DIV', 'DIV', 'undef:CF,OF,SF,ZF,AF,PF'),
  ...unary(0xf6, 7, 'IDIV', 'IDIV', 'undef:CF,OF,SF,ZF,AF,PF'),
  ['0F AF', 'IMUL Gv,Ev', 'undef:SF,ZF,AF,PF'],
  ['69', 'IMUL Gv,Ev,Iz', 'undef:SF,ZF,AF,PF h:IMUL_Gv_Ev_I'],
  ['6B', 'IMUL Gv,Ev,Ib', 'undef:SF,ZF,AF,PF h:IMUL_Gv_Ev_I'],
  ['0F A4', 'SHLD Ev,Gv,Ib', 'undef:AF,OF,CF h:SHLD_I'],
  ['0F A5', 'SHLD Ev,Gv,CL', 'undef:AF,OF,CF h:SHLD_CL'],
  ['0F AC', 'SHRD Ev,Gv,Ib', 'undef:AF,OF,CF h:SHRD_I'],
  ['0F AD', 'SHRD Ev,Gv,CL', 'undef:AF,OF,CF h:SHRD_CL'],
  ['0F BC', 'BSF Gv,Ev', 'undef:CF,OF,SF,AF,PF'],
  ['0F BD', 'BSR Gv,Ev', 'undef:CF,OF,SF,AF,PF'],
  ['F3 0F BC', 'TZCNT Gv,Ev', 'cpuid:bmi1 undef:OF,SF,AF,PF'],
  ['F3 0F BD', 'LZCNT Gv,Ev', 'cpuid:lzcnt undef:OF,SF,AF,PF'],
  ['F3 0F B8', 'POPCNT Gv,Ev', 'cpuid:popcnt'],
  ['F2 0F 38 F0', 'CRC32 Gy,Eb', 'cpuid:sse4_2 h:CRC32_b'],
  ['F2 0F 38 F1', 'CRC32 Gy,Ev', 'cpuid:sse4_2 h:CRC32_v'],
  ['27', 'DAA', 'i64 undef:OF'],
  ['2F', 'DAS', 'i64 undef:OF'],
  ['37', 'AAA', 'i64 undef:OF,SF,ZF,PF'],
  ['3F', 'AAS', 'i64 undef:OF,SF,ZF,PF'],
  ['D4', 'AAM Ib', 'i64 undef:OF,AF,CF'],
  ['D5', 'AAD Ib', 'i64 undef:OF,AF,CF'],
  ['62 m', 'BOUND Gv,Ma', 'i64'],
];

const flags: Row[] = [
  ['9E', 'SAHF'],
  ['9F', 'LAHF'],
  ['F5', 'CMC'],
  ['F8', 'CLC'],
  ['F9', 'STC'],
  ['FC', 'CLD'],
  ['FD', 'STD'],
];

const strings: Row[] = [
  ['A4', 'MOVS Yb,Xb', 'h:MOVS'],
  ['A5', 'MOVS Yv,Xv', 'h:MOVS'],
  ['A6', 'CMPS Xb,Yb', 'h:CMPS'],
  ['A7', 'CMPS Xv,Yv', 'h:CMPS'],
  ['AA', 'STOS Yb,AL', 'h:STOS'],
  ['AB', 'STOS Yv,rAX', 'h:STOS'],
  ['AC', 'LODS AL,Xb', 'h:LODS'],
  ['AD', 'LODS rAX,Xv', 'h:LODS'],
  ['AE', 'SCAS AL,Yb', 'h:SCAS'],
  ['AF', 'SCAS rAX,Yv', 'h:SCAS'],
];

const control: Row[] = [
  ['E8', 'CALL Jz', 'f64 end h:CALL_J'],
  ['E9', 'JMP Jz', 'f64 end h:JMP_J'],
  ['EB', 'JMP Jb', 'f64 end h:JMP_J'],
  ['FF /2', 'CALL Ev', 'f64 end h:CALL_E'],
  ['FF /4', 'JMP Ev', 'f64 end h:JMP_E'],
  ['C2', 'RET Iw', 'f64 end'],
  ['C3', 'RET', 'f64 end'],
  ['E0', 'LOOPNE Jb', 'f64 end h:LOOP'],
  ['E1', 'LOOPE Jb', 'f64 end h:LOOP'],
  ['E2', 'LOOP Jb', 'f64 end h:LOOP'],
  ['E3', 'JCXZ Jb', 'f64 end h:LOOP'],
  ['0F 0B', 'UD2', 'h:UD'],
  ['0F B9', 'UD1 Gv,Ev', 'h:UD'],
  ['0F FF', 'UD0 Gv,Ev', 'h:UD'],
];

export const integerRows: readonly Row[] = [
  ...alu(),
  ...shifts(),
  ...conditional(),
  ...bits(),
  ...hints,
  ...transfer,
  ...stack,
  ...arithmetic,
  ...flags,
  ...strings,
  ...control,
];
