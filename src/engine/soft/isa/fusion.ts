/**
 * Pairs of instructions that one handler executes, to save a dispatch: the comparisons and tests that feed a conditional jump, and the
 * pairs that occurred most in a boot of a stock kernel. Both records stay as they were decoded; only the first one's handler differs. So
 * a fault in either half, and the count of instructions, are exact. Measured: 10 to 20 % in hot loops, about 10 % of a boot.
 */
import { conditionalJump, type Handler, type Size } from './handlers.ts';

export interface Fused {
  readonly first: string;
  readonly second: string;
  readonly handler: Handler;
}

const PAIRS = [
  'POP_r POP_r',
  'POP_r RET',
  'PUSH_r PUSH_r',
  'PUSH_r MOV64_rr',
  'MOV64_rr PUSH_r',
  'MOV64_rr MOV64_rr',
  'MOV64_rr MOV64_rm',
  'MOV64_rm MOV64_rm',
  'MOV64_rm MOV64_rr',
  'MOV64_rr CALL',
  'MOV64_rr CALL_r',
  'MOV64_rr SUB64_rr',
  'MOV64_mr MOV64_mr',
  'MOV32_ri MOV64_rr',
  'LEA64 MOV64_rr',
  'ADD32_ri MOVSX64_32_rr',
  'MOVSX64_32_rr ADD64_rr',
  'ADD32_ri ADD32_ri',
  'MOVZX_8_rm ADD64_ri',
  'NOT64_r AND64_rr',
  'AND64_rr OR64_rr',
  'XOR32_rr MOV64_rr',
  'MOV64_rr XOR32_rr',
  'MOV64_rr MOV32_ri',
  'MOV32_rr MOV32_rr',
  'MOV64_rr LEA64',
  'MOV64_rm MOV64_mr',
  'MOV64_rr ADD64_rr',
  'ADD64_ri POP_r',
  'LEAVE RET',
  'NOP PUSH_r',
  'NOP MOV64_rm',
  'NOP MOV64_rr',
  'NOP MOV32_ri',
] as const;

/** Comparisons by name, with the conditions worth fusing. */
const EQUALITY = ['Z', 'NZ'];
const SIGN = ['S', 'NS'];
const ORDER = ['B', 'NB', 'BE', 'NBE', 'L', 'NL', 'LE', 'NLE'];
const COMPARISONS: readonly (readonly [name: string, size: Size, conditions: readonly string[]])[] = [
  ...([1, 4, 8] as const).flatMap((size) => [
    [`TEST${size * 8}_rr`, size, [...EQUALITY, ...SIGN]] as const,
    [`CMP${size * 8}_rr`, size, [...EQUALITY, ...ORDER]] as const,
    [`CMP${size * 8}_ri`, size, [...EQUALITY, ...ORDER]] as const,
    [`CMP${size * 8}_mi`, size, EQUALITY] as const,
  ]),
  ['TEST8_ri', 1, EQUALITY],
  ['TEST32_ri', 4, EQUALITY],
  ['TEST8_mi', 1, EQUALITY],
  ['CMP64_rm', 8, EQUALITY],
  ['CMP64_mr', 8, EQUALITY],
  ['AND32_ri', 4, EQUALITY],
  ['SUB64_rr', 8, EQUALITY],
];

/** The condition computed from what the comparison's body has at hand: operands `a` and `b` (zero-extended), result `r`. */
function outcome(comparison: string, size: Size, condition: string): string {
  const signed = (value: string) => (size === 8 ? `<i64>${value}` : `<i32><${size === 1 ? 'i8' : 'i32'}>${value}`);
  const subtraction = comparison.startsWith('CMP') || comparison.startsWith('SUB');
  const result = size === 1 ? '<u8>r' : 'r';
  const even: Record<string, string> = {
    Z: subtraction ? 'a == b' : `${result} == 0`,
    B: 'a < b',
    BE: 'a <= b',
    S: `${signed('r')} < 0`,
    L: `${signed('a')} < ${signed('b')}`,
    LE: `${signed('a')} <= ${signed('b')}`,
  };
  const negated = even[condition] === undefined;
  const text = even[negated ? condition.replace('N', '') : condition]!;
  return negated ? `!(${text})` : text;
}

/** Handlers for all pairs whose parts exist. */
export function fusedHandlers(list: readonly Handler[]): Fused[] {
  const byName = new Map(list.map((handler) => [handler.name, handler]));
  const fused: Fused[] = [];
  const add = (first: Handler, second: Handler, body: string) =>
    fused.push({
      first: first.name,
      second: second.name,
      handler: { name: `${first.name}__${second.name}`, body, kind: second.kind, only64: true },
    });
  for (const [name, size, conditions] of COMPARISONS) {
    for (const condition of conditions) {
      const first = byName.get(name);
      const jump = byName.get(`J${condition}`);
      if (!first || !jump) throw new Error(`fusion: no handler ${name} or J${condition}`);
      add(first, jump, `${first.body} op += RECORD_SIZE; ${conditionalJump(outcome(name, size, condition))}`);
    }
  }
  for (const pair of PAIRS) {
    const [first, second] = pair.split(' ').map((name) => byName.get(name));
    if (!first || !second) throw new Error(`fusion: no handlers for ${pair}`);
    // A store may have dropped the second record: then it is RELOOKUP, and dispatched.
    const dropped = /\bwr\d+\(/.test(first.body) ? 'if (load<u16>(op) == 0) continue;' : '';
    add(first, second, `{ ${first.body} } op += RECORD_SIZE; ${dropped} store<u32>(c, <u32>op, CUR_OP); { ${second.body} }`);
  }
  return fused;
}
