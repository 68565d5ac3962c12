/**
 * The x87 instructions: D8..DF and FWAIT (Intel SDM vol. 2, tables ).
 *
 * Many rows share a handler: the arithmetic operation (reg field: add mul com comp sub subr div divr), the condition of FCMOVcc and the
 * constant of FLD1.. are read from the instruction's own fields. Rows marked "alias" are encodings without a documented mnemonic that
 * every x86 CPU executes.
 */

import type { Row } from './row.ts';

const ARITHMETIC = ['ADD', 'MUL', 'COM', 'COMP', 'SUB', 'SUBR', 'DIV', 'DIVR'] as const;
/** In the reversed register forms (DC, DE) SUB and SUBR, DIV and DIVR change places in the encoding. */
const REVERSED = ['ADD', 'MUL', 'COM', 'COMP', 'SUBR', 'SUB', 'DIVR', 'DIV'] as const;

/** The eight arithmetic operations of one opcode byte, /0 to /7. */
function arithmetic(opcode: string, mnemonics: readonly string[], operands: string, handler: string): Row[] {
  const place = operands.startsWith('m') ? 'm' : 'r';
  return mnemonics.map((name, digit): Row => [`${opcode} /${digit} ${place}`, `${name} ${operands}`, `h:${handler}`]);
}

const CONSTANTS = ['FLD1', 'FLDL2T', 'FLDL2E', 'FLDPI', 'FLDLG2', 'FLDLN2', 'FLDZ'] as const;

export const x87Rows: readonly Row[] = [
  ['9B', 'FWAIT'],

  ...arithmetic(
    'D8',
    ARITHMETIC.map((name) => `F${name}`),
    'm32',
    'ARITH_m32',
  ),
  ...arithmetic(
    'D8',
    ARITHMETIC.map((name) => `F${name}`),
    'ST(0),ST(i)',
    'ARITH_ST0_STi',
  ),
  ...arithmetic(
    'DC',
    ARITHMETIC.map((name) => `F${name}`),
    'm64',
    'ARITH_m64',
  ),
  ...arithmetic(
    'DA',
    ARITHMETIC.map((name) => `FI${name}`),
    'm32',
    'ARITH_mi32',
  ),
  ...arithmetic(
    'DE',
    ARITHMETIC.map((name) => `FI${name}`),
    'm16',
    'ARITH_mi16',
  ),
  // DC /2 /3 and DE /2: aliases of FCOM, FCOMP and FCOMP.
  ...arithmetic(
    'DC',
    REVERSED.map((name) => `F${name}`),
    'ST(i),ST(0)',
    'ARITH_STi_ST0',
  ),
  ['DE /0 r', 'FADDP ST(i),ST(0)', 'h:ARITHP_STi_ST0'],
  ['DE /1 r', 'FMULP ST(i),ST(0)', 'h:ARITHP_STi_ST0'],
  ['DE /2 r', 'FCOMP ST(0),ST(i)', 'h:ARITHP_STi_ST0'],
  ['DE =D9', 'FCOMPP'],
  ['DE /4 r', 'FSUBRP ST(i),ST(0)', 'h:ARITHP_STi_ST0'],
  ['DE /5 r', 'FSUBP ST(i),ST(0)', 'h:ARITHP_STi_ST0'],
  ['DE /6 r', 'FDIVRP ST(i),ST(0)', 'h:ARITHP_STi_ST0'],
  ['DE /7 r', 'FDIVP ST(i),ST(0)', 'h:ARITHP_STi_ST0'],

  ['D9 /0 m', 'FLD m32'],
  ['D9 /2 m', 'FST m32'],
  ['D9 /3 m', 'FSTP m32'],
  ['D9 /4 m', 'FLDENV m'],
  ['D9 /5 m', 'FLDCW m16'],
  ['D9 /6 m', 'FNSTENV m'],
  ['D9 /7 m', 'FNSTCW m16'],
  ['D9 /0 r', 'FLD ST(i)'],
  ['D9 /1 r', 'FXCH ST(i)'],
  ['D9 =D0', 'FNOP'],
  ['D9 /3 r', 'FSTP ST(i)', 'h:FSTPNCE_STi'], // alias
  ['D9 =E0', 'FCHS'],
  ['D9 =E1', 'FABS'],
  ['D9 =E4', 'FTST'],
  ['D9 =E5', 'FXAM'],
  ...CONSTANTS.map((name, n): Row => [`D9 =E${(8 + n).toString(16).toUpperCase()}`, name, 'h:FLDCONST']),
  ['D9 =F0', 'F2XM1'],
  ['D9 =F1', 'FYL2X'],
  ['D9 =F2', 'FPTAN'],
  ['D9 =F3', 'FPATAN'],
  ['D9 =F4', 'FXTRACT'],
  ['D9 =F5', 'FPREM1'],
  ['D9 =F6', 'FDECSTP'],
  ['D9 =F7', 'FINCSTP'],
  ['D9 =F8', 'FPREM'],
  ['D9 =F9', 'FYL2XP1'],
  ['D9 =FA', 'FSQRT'],
  ['D9 =FB', 'FSINCOS'],
  ['D9 =FC', 'FRNDINT'],
  ['D9 =FD', 'FSCALE'],
  ['D9 =FE', 'FSIN'],
  ['D9 =FF', 'FCOS'],

  ['DA /0 r', 'FCMOVB ST(0),ST(i)', 'h:FCMOVcc'],
  ['DA /1 r', 'FCMOVE ST(0),ST(i)', 'h:FCMOVcc'],
  ['DA /2 r', 'FCMOVBE ST(0),ST(i)', 'h:FCMOVcc'],
  ['DA /3 r', 'FCMOVU ST(0),ST(i)', 'h:FCMOVcc'],
  ['DA =E9', 'FUCOMPP'],
  ['DB /0 r', 'FCMOVNB ST(0),ST(i)', 'h:FCMOVNcc'],
  ['DB /1 r', 'FCMOVNE ST(0),ST(i)', 'h:FCMOVNcc'],
  ['DB /2 r', 'FCMOVNBE ST(0),ST(i)', 'h:FCMOVNcc'],
  ['DB /3 r', 'FCMOVNU ST(0),ST(i)', 'h:FCMOVNcc'],

  ['DB /0 m', 'FILD m32'],
  ['DB /1 m', 'FISTTP m32', 'cpuid:sse3'],
  ['DB /2 m', 'FIST m32'],
  ['DB /3 m', 'FISTP m32'],
  ['DB /5 m', 'FLD m80'],
  ['DB /7 m', 'FSTP m80'],
  ['DB =E0', 'FNENI', 'h:FNENI'], // 8087 and 80287 only; no operation since
  ['DB =E1', 'FNDISI', 'h:FNENI'],
  ['DB =E2', 'FNCLEX'],
  ['DB =E3', 'FNINIT'],
  ['DB =E4', 'FNSETPM', 'h:FNENI'],
  ['DB /5 r', 'FUCOMI ST(0),ST(i)'],
  ['DB /6 r', 'FCOMI ST(0),ST(i)'],

  ['DD /0 m', 'FLD m64'],
  ['DD /1 m', 'FISTTP m64', 'cpuid:sse3'],
  ['DD /2 m', 'FST m64'],
  ['DD /3 m', 'FSTP m64'],
  ['DD /4 m', 'FRSTOR m'],
  ['DD /6 m', 'FNSAVE m'],
  ['DD /7 m', 'FNSTSW m16'],
  ['DD /0 r', 'FFREE ST(i)'],
  ['DD /1 r', 'FXCH ST(i)'], // alias
  ['DD /2 r', 'FST ST(i)'],
  ['DD /3 r', 'FSTP ST(i)'],
  ['DD /4 r', 'FUCOM ST(i)'],
  ['DD /5 r', 'FUCOMP ST(i)'],

  ['DF /0 m', 'FILD m16'],
  ['DF /1 m', 'FISTTP m16', 'cpuid:sse3'],
  ['DF /2 m', 'FIST m16'],
  ['DF /3 m', 'FISTP m16'],
  ['DF /4 m', 'FBLD m80'],
  ['DF /5 m', 'FILD m64'],
  ['DF /6 m', 'FBSTP m80'],
  ['DF /7 m', 'FISTP m64'],
  ['DF /0 r', 'FFREEP ST(i)'], // alias
  ['DF /1 r', 'FXCH ST(i)'], // alias
  ['DF /2 r', 'FSTP ST(i)'], // alias
  ['DF /3 r', 'FSTP ST(i)'], // alias
  ['DF =E0', 'FNSTSW AX'],
  ['DF /5 r', 'FUCOMIP ST(0),ST(i)'],
  ['DF /6 r', 'FCOMIP ST(0),ST(i)'],
];
