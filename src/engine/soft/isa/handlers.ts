/**
 * The interpreter's fast handlers: hot instruction forms, specialised by operand size and by register, immediate or memory operands,
 * written as cases of the one switch in core/generated/run.ts (a switch is 2.3 to 3.8 times faster than a table of functions). Forms not
 * found here execute in core/integer.ts, which reads sizes and forms from the record.
 *
 * In a body, `c` is the state block and `op` the record. A body of kind `next` falls through to the following record. A body of kind
 * `jump` sets `op` to the next record and continues (or breaks for the loop to look at events), or sets `op = 0` with `rip` (and `patch`,
 * the link to fill in, or 0) and breaks.
 */
import { CONDITIONS } from './integer.ts';
import type { Instruction } from './row.ts';

export type Size = 1 | 2 | 4 | 8;

export interface Handler {
  readonly name: string;
  readonly body: string;
  readonly kind: 'next' | 'jump';
  /** Only valid in 64-bit mode with a flat address: memory operands, stack, branches. */
  readonly only64: boolean;
}

const UNSIGNED = { 1: 'u8', 2: 'u16', 4: 'u32', 8: 'u64' } as const;
const SIGNED = { 1: 'i8', 2: 'i16', 4: 'i32', 8: 'i64' } as const;
/** Type of the arithmetic: u32 for all smaller sizes. */
const wide = (size: Size) => (size === 8 ? 'u64' : 'u32');
const extend = (size: Size, value: string) => (size === 8 ? `<i64>${value}` : `<i64><${SIGNED[size]}>${value}`);
const register = (size: Size, field: string) => `<${wide(size)}>load<${UNSIGNED[size]}>(load<u32>(op, ${field}))`;
const immediate = (size: Size) => `<${wide(size)}>load<${UNSIGNED[size]}>(op, OP_IMM)`;
const read = (size: Size, address = 'eaFlat(op)') => `rd${size * 8}(${address})`;
const storeAs = (type: string, field: string, value: string) => `store<${type}>(load<u32>(op, ${field}), <${type}>(${value}));`;
/** Writing 32 bits clears the upper half (SDM vol. 1, 3.4.1.1). */
const toRegister = (size: Size, field: string, value: string) => storeAs(size === 4 ? 'u64' : UNSIGNED[size], field, value);

/** The condition in the low four opcode bits, as an expression. */
export function condition(code: number): string {
  const even = ['overflow()', 'condB(c)', 'condZ(c)', 'condBE(c)', 'condS(c)', 'parity()', 'condL(c)', 'condLE(c)'][code >> 1]!;
  return code & 1 ? `!(${even})` : even;
}

const ARITHMETIC: Record<string, { expression: string; kind: string }> = {
  ADD: { expression: 'a + b', kind: 'ADD' },
  SUB: { expression: 'a - b', kind: 'SUB' },
  CMP: { expression: 'a - b', kind: 'SUB' },
  AND: { expression: 'a & b', kind: 'LOGIC' },
  TEST: { expression: 'a & b', kind: 'LOGIC' },
  OR: { expression: 'a | b', kind: 'LOGIC' },
  XOR: { expression: 'a ^ b', kind: 'LOGIC' },
  ADC: { expression: 'a + b + carry', kind: 'ADC' },
  SBB: { expression: 'a - b - carry', kind: 'SBB' },
};

function storeFlags(kind: string, size: Size): string {
  return kind === 'LOGIC'
    ? `logicFlags(c, ${extend(size, 'r')});`
    : `arithmeticFlags(c, FLAGS_${kind}, ${extend(size, 'a')}, ${extend(size, 'b')}, ${extend(size, 'r')});`;
}

/** `place`: operand forms, first letter the destination: r, m (memory), i (immediate). */
function alu(mnemonic: string, size: Size, place: 'rr' | 'ri' | 'rm' | 'mr' | 'mi'): Handler {
  const { expression, kind } = ARITHMETIC[mnemonic]!;
  const writes = mnemonic !== 'CMP' && mnemonic !== 'TEST';
  const memory = place[0] === 'm';
  const a = !memory ? register(size, 'OP_A') : `${writes ? 'rmw' : 'rd'}${size * 8}(la)`;
  const b = place[1] === 'r' ? register(size, 'OP_B') : place[1] === 'i' ? immediate(size) : read(size);
  const lines = [
    memory ? 'const la = eaFlat(op);' : '',
    `const a: ${wide(size)} = ${a};`,
    `const b: ${wide(size)} = ${b};`,
    expression.endsWith('carry') ? `const carry: ${wide(size)} = cf();` : '',
    `const r: ${wide(size)} = ${expression};`,
    !writes ? '' : memory ? `wr${size * 8}(la, r);` : toRegister(size, 'OP_A', 'r'),
    storeFlags(kind, size),
  ];
  return { name: `${mnemonic}${size * 8}_${place}`, body: lines.join(' '), kind: 'next', only64: place.includes('m') };
}

/**
 * MOV. Its loads and stores of up to 4 bytes are what drivers reach their devices with: they leave run() without an unwinding, which costs ten
 * times as much as the rest of the exit.
 */
function move(size: Size, place: string): Handler {
  const name = `MOV${size * 8}_${place}`;
  const value = place[1] === 'r' ? register(size, 'OP_B') : place[1] === 'i' ? immediate(size) : read(size);
  if (!place.includes('m')) return { name, body: toRegister(size, 'OP_A', value), kind: 'next', only64: false };
  const body =
    size === 8
      ? place[0] === 'm'
        ? `wr64(eaFlat(op), ${value});`
        : toRegister(size, 'OP_A', value)
      : place[0] === 'm'
        ? `const la = eaFlat(op); const e = entryIn(tlb, la); const value: u32 = ${value};
        if (hits(load<u64>(e, WRITE_TAG), la, ${size - 1})) store<${UNSIGNED[size]}>(hostIn(e, la), <${UNSIGNED[size]}>value);
        else if (storeLeaves(la, ${size}, value)) return leave(op, nextRip(op), EXIT_MMIO);`
        : `const la = eaFlat(op); const e = entryIn(tlb, la);
        if (hits(load<u64>(e, READ_TAG), la, ${size - 1})) ${toRegister(size, 'OP_A', `load<${UNSIGNED[size]}>(hostIn(e, la))`)}
        else if (loadLeaves(op, la, ${size})) return leave(op, currentRip(), EXIT_MMIO);`;
  return { name, body, kind: 'next', only64: true };
}

function extension(signed: boolean, from: Size, to: Size, memory: boolean): Handler | undefined {
  if (to === 2) return undefined;
  const source = memory ? read(from) : register(from, 'OP_B');
  const extended = extend(from, `(${source})`);
  const value = !signed ? `<u64>(${source})` : to === 8 ? `<u64>(${extended})` : `<u64><u32><i32>(${extended})`;
  // Zero extension to 32 and to 64 bits is the same.
  const name = `MOV${signed ? 'S' : 'Z'}X${signed ? to * 8 : ''}_${from * 8}_${memory ? 'rm' : 'rr'}`;
  return { name, body: `store<u64>(load<u32>(op, OP_A), ${value});`, kind: 'next', only64: memory };
}

function shift(mnemonic: string, size: Size, count: 'immediate' | 'cl'): Handler {
  const bits = size * 8;
  const type = wide(size);
  const n = count === 'cl' ? `load<u8>(c, GPR + 8) & ${bits - 1}` : `load<u8>(op, OP_IMM) & ${bits - 1}`;
  const result = { SHL: 'a << n', SHR: 'a >> n', SAR: `<${type}>(<${SIGNED[size]}>a >> <${SIGNED[size]}>n)` }[mnemonic]!;
  const carry = {
    SHL: `(a >> (${bits} - n)) & 1`,
    SHR: '(a >> (n - 1)) & 1',
    SAR: `<${type}>(<${SIGNED[size]}>a >> <${SIGNED[size]}>(n - 1)) & 1`,
  }[mnemonic]!;
  const over = { SHL: `(r >> ${bits - 1}) ^ carry`, SHR: `a >> ${bits - 1}`, SAR: '0' }[mnemonic]!;
  const body =
    `const n: ${type} = ${n}; if (n != 0) { const a: ${type} = ${register(size, 'OP_A')}; const r: ${type} = ${result}; ` +
    `const carry: ${type} = ${carry}; carryFlags(c, <i64>carry, <i64>(${over}), ${extend(size, 'r')}); ${toRegister(size, 'OP_A', 'r')} }` +
    // A 32-bit shift by zero still clears the upper half.
    (size === 4 ? ` else store<u64>(load<u32>(op, OP_A), <u64>load<u32>(load<u32>(op, OP_A)));` : '');
  return { name: `${mnemonic}${bits}_${count === 'cl' ? 'rc' : 'ri'}`, body, kind: 'next', only64: false };
}

/** ROL and ROR by an immediate. They keep SF, ZF, AF and PF, which is dear with lazy flags; `quiet`: the flags are dead. */
export function rotate(mnemonic: string, size: Size, quiet: boolean): Handler {
  const type = wide(size);
  const top = size * 8 - 1;
  const next = mnemonic === 'ROL' ? '(r & 1)' : `((r >> ${top - 1}) & 1)`;
  const carry = mnemonic === 'ROL' ? '(r & 1)' : `(r >> ${top})`;
  const flags = `if (n != 0) setSomeArith(CF | OF, <u32>${carry} | (<u32>((r >> ${top}) ^ ${next}) << 11));`;
  return {
    name: `${mnemonic}${size * 8}_ri${quiet ? '_quiet' : ''}`,
    kind: 'next',
    only64: false,
    body:
      `const n: ${type} = load<u8>(op, OP_IMM) & ${top}; ` +
      `const r: ${type} = rot${mnemonic === 'ROL' ? 'l' : 'r'}<${type}>(${register(size, 'OP_A')}, n); ` +
      `${toRegister(size, 'OP_A', 'r')} ${quiet ? '' : flags}`,
  };
}

function multiply(size: Size, memory: boolean, three: boolean): Handler {
  const b = memory ? read(size) : register(size, 'OP_B');
  const a = three ? `<i64>load<i64>(op, OP_IMM)` : extend(size, `(${register(size, 'OP_A')})`);
  const other = `const b: i64 = ${extend(size, `(${b})`)}; const a: i64 = ${a};`;
  const body =
    size === 4
      ? `${other} const r: i64 = a * b; const over: i64 = i64(r != <i64><i32>r); carryFlags(c, over, over, <i64><i32>r); ` +
        'store<u64>(load<u32>(op, OP_A), <u64><u32>r);'
      : `${other} const r: i64 = a * b; const over: i64 = i64((a != <i64><i32>a || b != <i64><i32>b) && productOverflows(a, b, r)); ` +
        `carryFlags(c, over, over, r); store<i64>(load<u32>(op, OP_A), r);`;
  return { name: `IMUL${size * 8}_${three ? 'r' : ''}${memory ? 'rm' : 'rr'}${three ? 'i' : ''}`, body, kind: 'next', only64: memory };
}

function unary(mnemonic: string, size: Size, memory: boolean): Handler | undefined {
  const type = wide(size);
  const load = memory ? `const la = eaFlat(op); const a: ${type} = rmw${size * 8}(la);` : `const a: ${type} = ${register(size, 'OP_A')};`;
  const save = memory ? `wr${size * 8}(la, r);` : toRegister(size, 'OP_A', 'r');
  const [result, flags] =
    {
      INC: ['a + 1', `const carry = cf(); arithmeticFlags(c, FLAGS_INC, ${extend(size, 'a')}, <i64>carry, ${extend(size, 'r')});`],
      DEC: ['a - 1', `const carry = cf(); arithmeticFlags(c, FLAGS_DEC, ${extend(size, 'a')}, <i64>carry, ${extend(size, 'r')});`],
      NEG: ['0 - a', `arithmeticFlags(c, FLAGS_SUB, 0, ${extend(size, 'a')}, ${extend(size, 'r')});`],
      NOT: ['~a', ''],
    }[mnemonic] ?? [];
  if (result === undefined) return undefined;
  return {
    name: `${mnemonic}${size * 8}_${memory ? 'm' : 'r'}`,
    kind: 'next',
    only64: memory,
    body: `${load} const r: ${type} = ${result}; ${save} ${flags}`,
  };
}

const next = (name: string, body: string, only64 = false): Handler => ({ name, body, kind: 'next', only64 });
const jump = (name: string, body: string): Handler => ({ name, body, kind: 'jump', only64: true });

const NEXT_RIP = 'load<u64>(c, PAGE_BASE) + <u64>load<u16>(op, OP_OFFSET) + <u64>load<u8>(op, OP_LENGTH)';
const PUSH = (value: string) => `const sp = load<u64>(c, RSP) - 8; wr64(sp, ${value}); store<u64>(c, sp, RSP);`;
/** Reads the 8 bytes that a register (an offset in the state block) points to; RSP goes behind them. */
const POP = (pointer: string) => `const sp = load<u64>(c, ${pointer}); const value = rd64(sp); store<u64>(c, sp + 8, RSP);`;
/** A transfer to a non-canonical address faults before it has changed anything (SDM vol. 2, JMP, CALL, RET). */
const CANONICAL = 'if (!isCanonical(rip)) faultCode(13, 0);';
/** Goes on at the record `found`: at once (worth 15 % in branchy code), or by way of the loop when there is something to look at. */
const ENTER = (found: string) => `op = ${found}; if (mayEnter(c, op)) continue; break;`;
/** Goes on at `rip`, by the jump cache. */
const JUMP = `const entry = jumpEntry(rip); patch = 0;
        if (knows(entry, rip, key, keyOfGlobal)) {
          store<u64>(c, rip & ~0xfff, PAGE_BASE); ${ENTER('load<u32>(entry, 12)')}
        }
        op = 0; break;`;
/**
 * Takes the link at `link` of a direct branch to `to` (from PAGE_BASE); when it is not made yet, asks the loop to make it if the target
 * lies in the page.
 */
const TAKE = (link: string, to: string, otherPage: string) => `const linked: usize = load<u32>(${link});
        if (linked != 0) { ${ENTER('linked')} }
        const to: u64 = ${to}; rip = load<u64>(c, PAGE_BASE) + to; if (to < 4096) { patch = ${link}; op = 0; break; } ${otherPage}`;
/** JMP and CALL with a relative target. */
const DIRECT = TAKE('op + OP_TAKEN', 'load<u64>(op, OP_IMM)', JUMP);

/** Body of a conditional jump, the record at `op`, for a condition given as an expression. */
export function conditionalJump(holds: string): string {
  return `const taken: usize = ${holds} ? 4 : 0;
        ${TAKE(
          'op + OP_FALL + taken',
          'taken ? load<u64>(op, OP_IMM) : <u64>load<u16>(op, OP_OFFSET) + <u64>load<u8>(op, OP_LENGTH)',
          'patch = 0; op = 0; break;',
        )}`;
}

function branch(row: Instruction, memory: boolean): Handler | undefined {
  const target = memory ? 'rd64(eaFlat(op))' : 'load<u64>(load<u32>(op, OP_A))';
  const place = memory ? 'm' : 'r';
  switch (row.handler) {
    case 'JCC':
      return jump(`J${CONDITIONS[row.opcode & 15]}`, conditionalJump(condition(row.opcode & 15)));
    case 'JMP_J':
      return jump('JMP', DIRECT);
    case 'CALL_J':
      return jump('CALL', `${PUSH(NEXT_RIP)} ${DIRECT}`);
    case 'JMP_E':
      return jump(`JMP_${place}`, `rip = ${target}; ${CANONICAL} ${JUMP}`);
    case 'CALL_E':
      return jump(`CALL_${place}`, `rip = ${target}; if (!isCanonical(rip)) badCall(c); ${PUSH(NEXT_RIP)} ${JUMP}`);
    case 'RET':
    case 'RET_Iw': {
      const extra = row.handler === 'RET' ? '' : ' + <u64>load<u16>(op, OP_IMM)';
      return jump(row.handler, `const sp = load<u64>(c, RSP); rip = rd64(sp); ${CANONICAL} store<u64>(c, sp + 8${extra}, RSP); ${JUMP}`);
    }
    default:
      return undefined;
  }
}

function stack(row: Instruction, memory: boolean): Handler | undefined {
  switch (row.handler) {
    case 'PUSH_Z':
      return next('PUSH_r', PUSH('load<u64>(load<u32>(op, OP_A))'), true);
    case 'PUSH_E':
      return memory
        ? next('PUSH_m', `const value = rd64(eaFlat(op)); ${PUSH('value')}`, true)
        : next('PUSH_r', PUSH('load<u64>(load<u32>(op, OP_A))'), true);
    case 'PUSH_I':
      return next('PUSH_i', PUSH('load<u64>(op, OP_IMM)'), true);
    case 'POP_Z':
      return next('POP_r', `${POP('RSP')} store<u64>(load<u32>(op, OP_A), value);`, true);
    case 'LEAVE':
      return next('LEAVE', `${POP('GPR + 40')} store<u64>(c, value, GPR + 40);`, true);
    default:
      return undefined;
  }
}

function bitTest(size: Size, immediateIndex: boolean): Handler {
  const type = wide(size);
  const index = immediateIndex ? immediate(size) : register(size, 'OP_B');
  // ZF keeps its value (it comes from LF_RESULT); SF, PF, AF and OF are undefined.
  return next(
    `BT${size * 8}_${immediateIndex ? 'ri' : 'rr'}`,
    `const n: ${type} = (${index}) & ${size * 8 - 1}; keepZeroSetCarry(c, <i64>((${register(size, 'OP_A')} >> n) & 1));`,
  );
}

const swapRegisters = (size: Size) =>
  `const a = ${register(size, 'OP_A')}; const b = ${register(size, 'OP_B')}; ` +
  `${toRegister(size, 'OP_A', 'b')} ${toRegister(size, 'OP_B', 'a')}`;

/** The fast handler of a row for one operand size and operand place, if it has one. `sizes` smaller than the row's forms never reach it. */
export function fastHandler(row: Instruction, size: Size, memory: boolean): Handler | undefined {
  const name = row.mnemonic;
  const m = memory ? 'm' : 'r';
  switch (row.handler) {
    case 'ALU_E_G':
      return name !== 'ADC' && name !== 'SBB' ? alu(name, size, `${m}r`) : memory || size < 4 ? undefined : alu(name, size, 'rr');
    case 'ALU_G_E':
      return (name === 'ADC' || name === 'SBB') && size < 4 ? undefined : alu(name, size, `r${m}`);
    case 'ALU_A_I':
      return (name === 'ADC' || name === 'SBB') && size < 4 ? undefined : alu(name, size, 'ri');
    case 'ALU_E_I':
      return name !== 'ADC' && name !== 'SBB' ? alu(name, size, `${m}i`) : memory || size < 4 ? undefined : alu(name, size, 'ri');
    case 'TEST_E_G':
      return alu('TEST', size, `${m}r`);
    case 'TEST_A_I':
      return alu('TEST', size, 'ri');
    case 'TEST_E_I':
      return alu('TEST', size, `${m}i`);
    case 'MOV_E_G':
      return move(size, `${m}r`);
    case 'MOV_G_E':
      return move(size, `r${m}`);
    case 'MOV_E_I':
      return move(size, `${m}i`);
    case 'MOV_Z_I':
      return move(size, 'ri');
    case 'MOVZX_b':
      return extension(false, 1, size, memory);
    case 'MOVZX_w':
      return extension(false, 2, size, memory);
    case 'MOVSX_b':
      return extension(true, 1, size, memory);
    case 'MOVSX_w':
      return extension(true, 2, size, memory);
    case 'MOVSXD_Gv_Ed':
      return size === 8 ? extension(true, 4, 8, memory) : undefined;
    case 'LEA_Gv_M':
      return size === 8
        ? next('LEA64', 'store<u64>(load<u32>(op, OP_A), eaFlat(op));', true)
        : size === 4
          ? next('LEA32', 'store<u64>(load<u32>(op, OP_A), <u64><u32>eaFlat(op));', true)
          : undefined;
    case 'SHIFT_E_I':
    case 'SHIFT_E_1':
      if (memory || size < 4) return undefined;
      return /^(SHL|SHR|SAR)$/.test(name) ? shift(name, size, 'immediate') : /^RO[LR]$/.test(name) ? rotate(name, size, false) : undefined;
    case 'SHIFT_E_CL':
      return memory || size < 4 || !/^(SHL|SHR|SAR)$/.test(name) ? undefined : shift(name, size, 'cl');
    case 'IMUL_Gv_Ev':
      return size < 4 ? undefined : multiply(size, memory, false);
    case 'IMUL_Gv_Ev_I':
      return size < 4 ? undefined : multiply(size, memory, true);
    case 'INC_E':
    case 'DEC_E':
    case 'NEG':
    case 'NOT':
      return size < 4 ? undefined : unary(name, size, memory);
    case 'SET_E':
      return memory
        ? next(`SET${CONDITIONS[row.opcode & 15]}_m`, `wr8(eaFlat(op), u32(${condition(row.opcode & 15)}));`, true)
        : next(`SET${CONDITIONS[row.opcode & 15]}_r`, `store<u8>(load<u32>(op, OP_A), u8(${condition(row.opcode & 15)}));`);
    case 'CMOV_G_E': {
      if (size < 4) return undefined;
      const holds = condition(row.opcode & 15);
      const code = CONDITIONS[row.opcode & 15];
      // The memory operand is read, and a 32-bit destination zero-extended, whether or not the condition holds.
      return next(
        `CMOV${code}${size * 8}_r${m}`,
        memory
          ? `const value = ${read(size)}; ${toRegister(size, 'OP_A', `${holds} ? value : ${register(size, 'OP_A')}`)}`
          : toRegister(size, 'OP_A', `<${wide(size)}>load<${UNSIGNED[size]}>(${holds} ? load<u32>(op, OP_B) : load<u32>(op, OP_A))`),
        memory,
      );
    }
    case 'XCHG_E_G':
      return memory || size < 4 ? undefined : next(`XCHG${size * 8}`, swapRegisters(size));
    case 'XCHG_Z_A': {
      // Opcode 90 is NOP: it does not even clear the upper half.
      return size < 2 ? undefined : next(`XCHG${size * 8}_A`, `if (load<u32>(op, OP_A) != load<u32>(op, OP_B)) { ${swapRegisters(size)} }`);
    }
    case 'BSWAP_Zv':
      return size < 4 ? undefined : next(`BSWAP${size * 8}`, toRegister(size, 'OP_A', `bswap<${wide(size)}>(${register(size, 'OP_A')})`));
    case 'BIT_E_I':
      return name === 'BT' && !memory && size >= 4 ? bitTest(size, true) : undefined;
    case 'BIT_E_G':
      return name === 'BT' && !memory && size >= 4 ? bitTest(size, false) : undefined;
    case 'CBW':
      return size === 8
        ? next('CDQE', 'store<i64>(c, <i64>load<i32>(c, GPR), GPR);')
        : size === 4
          ? next('CWDE', 'store<u64>(c, <u64><u32><i32>load<i16>(c, GPR), GPR);')
          : undefined;
    case 'CWD':
      return size === 8
        ? next('CQO', 'store<i64>(c, load<i64>(c, GPR) >> 63, GPR + 16);')
        : size === 4
          ? next('CDQ', 'store<u64>(c, <u64><u32>(load<i32>(c, GPR) >> 31), GPR + 16);')
          : undefined;
    case 'NOP':
      return next('NOP', '');
    case 'PAUSE':
      // The rest of the block was charged and will be charged again.
      return {
        name: 'PAUSE',
        kind: 'jump',
        only64: false,
        body: `if (load<u32>(c, PAUSE_EXITS) == 0) { op += RECORD_SIZE; continue; }
        store<i64>(c, load<i64>(c, BUDGET) + <i64>load<u8>(op, OP_LEFT) - 1, BUDGET);
        return stop(nextRip(op), EXIT_PAUSE);`,
      };
    default:
      return size === 8 ? (stack(row, memory) ?? branch(row, memory)) : undefined;
  }
}
