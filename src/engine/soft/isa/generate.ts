/**
 * Writes core/generated/: handler constants of each family, the decoder's tables, and the interpreter's switch, all from the opcode table.
 * Run by tools/build-core.mjs.
 */
import { type Fused, fusedHandlers } from './fusion.ts';
import { fastHandler, type Handler, rotate, type Size } from './handlers.ts';
import type { Family, Instruction, Operand } from './row.ts';
import { bySpecificity, opcodesOf } from './table.ts';

const NOTE = '// Generated from src/engine/soft/isa by tools/build-core.mjs. Do not edit.\n';

/** Handlers that are not specialised; the fast ones follow. */
const FIXED_HANDLERS = [
  'RELOOKUP',
  'END',
  'UNDEFINED',
  'TOO_LONG',
  'INTEGER',
  'BRANCH',
  'STRING',
  'SYSTEM',
  'X87',
  'SSE',
  'SHADOWED',
] as const;
const FAMILY_HANDLER: Record<Family, (typeof FIXED_HANDLERS)[number]> = { integer: 'INTEGER', system: 'SYSTEM', x87: 'X87', sse: 'SSE' };

/** Bytes of a row in the decoder's table; fields in core/decode.ts. */
const ROW_BYTES = 32;

/** File name (below core/generated/) to content. */
export function generate(table: readonly Instruction[]): Map<string, string> {
  const fast = collectFast(table);
  const handlers = handlerConstants(table);
  const files = new Map<string, string>();
  for (const family of Object.keys(FAMILY_HANDLER) as Family[]) {
    const lines = [...handlers[family]].map(([name, id]) => `export const ${name}: u16 = ${id};`);
    files.set(`${family}.ts`, `${NOTE}${lines.join('\n')}\n`);
  }
  files.set(
    'handlers.ts',
    `${NOTE}${FIXED_HANDLERS.map((name, i) => `export const H_${name}: u16 = ${i};`).join('\n')}\n` +
      `export const H_FIRST_64: u16 = ${fast.first64}; // from here on: 64-bit mode and flat addresses only\n`,
  );
  const fused = fusedHandlers(fast.list);
  files.set('tables.ts', tables(table, handlers, fast) + fusionTable(fused, fast) + livenessTable(fast));
  files.set('run.ts', runFile([...fast.list, ...fused.map(({ handler }) => handler)]));
  return files;
}

interface Fast {
  readonly list: readonly Handler[];
  readonly ids: ReadonlyMap<string, number>;
  readonly first64: number;
}

function collectFast(table: readonly Instruction[]): Fast {
  const byName = new Map<string, Handler>();
  for (const row of table) {
    if (row.family !== 'integer') continue;
    for (const size of [1, 2, 4, 8] as const) {
      for (const memory of [false, true]) {
        const handler = reachable(row, size, memory) ? fastHandler(row, size, memory) : undefined;
        if (handler) byName.set(handler.name, handler);
      }
    }
  }
  const all = [...byName.values()];
  for (const name of ['ROL', 'ROR']) for (const size of [4, 8] as const) all.push(rotate(name, size, true));
  const list = [...all.filter((handler) => !handler.only64), ...all.filter((handler) => handler.only64)];
  const ids = new Map(list.map((handler, i) => [handler.name, FIXED_HANDLERS.length + i]));
  return { list, ids, first64: FIXED_HANDLERS.length + all.filter((handler) => !handler.only64).length };
}

/** Whether a row can have this operand size and place; keeps unused handlers out. */
function reachable(row: Instruction, size: Size, memory: boolean): boolean {
  const letter = sizeLetter(row);
  if (letter === 'b' ? size !== 1 : letter === 'w' ? size !== 2 : size === 1) return false;
  return !memory || (row.hasModrm && row.place !== 'register');
}

function handlerConstants(table: readonly Instruction[]): Record<Family, Map<string, number>> {
  const ids: Record<Family, Map<string, number>> = { integer: new Map(), system: new Map(), x87: new Map(), sse: new Map() };
  for (const row of table) {
    const family = ids[row.family];
    if (!family.has(row.handler)) family.set(row.handler, family.size);
  }
  return ids;
}

/** Size letter of the first general operand; '' = the effective operand size. */
function sizeLetter(row: Instruction): string {
  for (const operand of row.operands) {
    if ('EGMRZIXYO'.includes(operand.kind) && operand.kind.length === 1 && /^[bwdqvyz]$/.test(operand.size)) {
      // A byte immediate says nothing about the operation's size unless it is all there is.
      if (operand.kind === 'I' && row.operands.length > 1 && row.operands[0]!.kind !== 'I') continue;
      if (operand.kind === 'I') return 'v';
      return operand.size;
    }
    if (operand.text === 'AL') return 'b';
    if (operand.text === 'rAX') return 'v';
  }
  return '';
}

const SIZE_RULE: Record<string, number> = { '': 0, v: 0, b: 1, w: 2, d: 3, q: 4, y: 5, z: 6 };
const PREFIX_RULE = { any: 0, NP: 1, '66': 2, F2: 3, F3: 4 } as const;
const PLACE_RULE = { any: 0, memory: 1, register: 2 } as const;
const IMMEDIATE = { none: 0, Ib: 1, Iw: 2, Iz: 3, Iv: 4, Jb: 5, Jz: 6, O: 7, Ap: 8, IwIb: 9, one: 10 } as const;

function immediateRule(row: Instruction): number {
  const texts = row.operands.map((operand) => operand.text);
  if (texts.includes('Iw') && texts.includes('Ib')) return IMMEDIATE.IwIb;
  for (const operand of row.operands) {
    if (operand.text in IMMEDIATE) return IMMEDIATE[operand.text as keyof typeof IMMEDIATE];
    if (operand.kind === 'O') return IMMEDIATE.O;
    if (operand.kind === 'A') return IMMEDIATE.Ap;
    if (operand.text === '1') return IMMEDIATE.one;
  }
  return IMMEDIATE.none;
}

/** Where a general register operand comes from: 0 none, 1 ModRM.reg, 2 ModRM.rm, 3 opcode, 4 rAX, 5 rCX, 6 rDX. */
function registerSource(operand: Operand | undefined): number {
  if (!operand) return 0;
  switch (operand.kind) {
    case 'G':
      return 1;
    case 'E':
    case 'R':
      return 2;
    case 'Z':
      return 3;
    case 'AL':
    case 'AX':
    case 'rAX':
    case 'eAX':
      return 4;
    case 'CL':
      return 5;
    case 'DX':
      return 6;
    default:
      return 0;
  }
}

const isByte = (operand: Operand | undefined): boolean => operand?.size === 'b' || operand?.text === 'AL' || operand?.text === 'CL';

/** Mnemonics whose implicit memory access is the stack: faults there are #SS. */
const STACK = /^(PUSH|POP|CALL|RET|ENTER|LEAVE|IRET|INT)/;

/** What a view with a shadow stack treats in its own way (core/shadow-stack.ts). */
const SHADOWED = /^(CALL|RET|RETF|IRET)$/;
const shadowed = ({ mnemonic, handler }: Instruction) => SHADOWED.test(mnemonic) || handler === 'JMP_E';

/** Rows whose memory operand comes first but is only read. */
const READS_FIRST = /^(CMP|TEST|PUSH|CALL|JMP|BT|MUL|IMUL|DIV|IDIV|NOP|LEA|L[GIL]DT|LTR|LMSW|VER[RW]|INV|FXRSTOR|XRSTOR|LDMXCSR|F)$/;
const writesMemory = (row: Instruction) => /^([EMWQO]|m\d+)$/.test(row.operands[0]?.kind ?? '') && !READS_FIRST.test(row.mnemonic);

const REPEATABLE = new Set(['MOVS', 'CMPS', 'STOS', 'LODS', 'SCAS']);

function encodeRow(row: Instruction, handlers: Record<Family, Map<string, number>>, fast: Fast): number[] {
  const { attributes } = row;
  const [a, b] = row.operands;
  const flags =
    (attributes.lock ? 1 : 0) |
    (attributes.invalid64 ? 2 : 0) |
    (attributes.only64 ? 4 : 0) |
    (attributes.default64 ? 8 : 0) |
    (attributes.forced64 ? 16 : 0) |
    (attributes.end || row.family === 'system' ? 32 : 0) |
    (row.hasModrm ? 64 : 0) |
    (STACK.test(row.mnemonic) ? 128 : 0);
  const sub = handlers[row.family].get(row.handler)!;
  const family = FIXED_HANDLERS.indexOf(
    row.handler === 'UD'
      ? 'UNDEFINED'
      : row.family === 'integer' && attributes.end
        ? 'BRANCH'
        : row.family === 'integer' && REPEATABLE.has(row.handler)
          ? 'STRING'
          : FAMILY_HANDLER[row.family],
  );
  const bytes = [
    PREFIX_RULE[row.prefix],
    row.digit ?? 0xff,
    row.exactModrm === undefined ? 0 : 1,
    row.exactModrm ?? 0,
    PLACE_RULE[row.place],
    flags,
    SIZE_RULE[sizeLetter(row)]!,
    immediateRule(row),
    registerSource(a),
    registerSource(b),
    (isByte(a) ? 1 : 0) | (isByte(b) ? 2 : 0) | (row.handler === 'LEA_Gv_M' ? 4 : 0),
    family,
    sub & 0xff,
    sub >> 8,
    writesMemory(row) ? 1 : 0,
    shadowed(row) ? 1 : 0,
  ];
  for (const memory of [false, true]) {
    for (const size of [1, 2, 4, 8] as const) {
      const handler = row.family === 'integer' && reachable(row, size, memory) ? fastHandler(row, size, memory) : undefined;
      const id = handler ? fast.ids.get(handler.name)! : 0;
      bytes.push(id & 0xff, id >> 8);
    }
  }
  if (bytes.length !== ROW_BYTES) throw new Error(`row of ${bytes.length} bytes`);
  return bytes;
}

function tables(table: readonly Instruction[], handlers: Record<Family, Map<string, number>>, fast: Fast): string {
  const rows = table.flatMap((row) => encodeRow(row, handlers, fast));
  // For each map and opcode: where its candidates start in the candidate list, and how many there are.
  const byOpcode: Instruction[][] = Array.from({ length: 1024 }, () => []);
  for (const row of table) for (const opcode of opcodesOf(row)) byOpcode[row.map * 256 + opcode]!.push(row);
  const candidates: number[] = [];
  const index: number[] = [];
  for (const list of byOpcode) {
    index.push(candidates.length, list.length);
    candidates.push(...list.toSorted(bySpecificity).map((row) => row.index));
  }
  const data = (name: string, type: string, values: readonly number[]) =>
    `export const ${name}: usize = memory.data<${type}>([${values.join(',')}]);\n`;
  return (
    `${NOTE}export const ROW_BYTES: usize = ${ROW_BYTES};\n` +
    `// Opcode (map * 256 + byte) to {first candidate, count}\n${data('OPCODE_INDEX', 'u16', index)}` +
    `// Row numbers, most specific first\n${data('OPCODE_CANDIDATES', 'u16', candidates)}` +
    `// Rows\n${data('OPCODE_ROWS', 'u8', rows)}`
  );
}

/** Cannot fault, and replaces all six flags. */
const OVERWRITES = /^((ADD|SUB|AND|OR|XOR|CMP|TEST)\d+_r[ri]|NEG\d+_r|IMUL\d+_r?rri?)$/;
/** Cannot fault, and reads no flag. */
const NEUTRAL = /^(MOV\d+_r[ri]|MOV[SZ]X\w*_rr|LEA\d+|NOT\d+_r|BSWAP\d+|XCHG\w+|NOP|CDQE|CWDE|CQO|CDQ|(ROL|ROR|SHL|SHR|SAR)\d+_ri)$/;

/** What flag liveness needs: by handler 0 (anything), 1 (neutral), 2 (overwrites); and the quiet variant of a handler, or 0. */
function livenessTable(fast: Fast): string {
  const effects: number[] = FIXED_HANDLERS.map(() => 0);
  const quiet: number[] = FIXED_HANDLERS.map(() => 0);
  for (const { name } of fast.list) {
    effects.push(OVERWRITES.test(name) ? 2 : NEUTRAL.test(name) ? 1 : 0);
    quiet.push(fast.ids.get(`${name}_quiet`) ?? 0);
  }
  return (
    `// Flag effect by handler\nexport const FLAG_EFFECT: usize = memory.data<u8>([${effects.join(',')}]);\n` +
    `// Quiet variant by handler\nexport const QUIET: usize = memory.data<u16>([${quiet.join(',')}]);\n`
  );
}

/** For each handler: {first pair, count}; pairs: {second handler, fused handler}. The fused handlers are numbered after the fast ones. */
function fusionTable(fused: readonly Fused[], fast: Fast): string {
  const index: number[] = [];
  const pairs: number[] = [];
  for (let id = 0; id < FIXED_HANDLERS.length + fast.list.length; id++) {
    const start = pairs.length / 2;
    fused.forEach(({ first, second }, i) => {
      if (fast.ids.get(first) === id) pairs.push(fast.ids.get(second)!, FIXED_HANDLERS.length + fast.list.length + i);
    });
    index.push(start, pairs.length / 2 - start);
  }
  return (
    `// Fusion: handler to {first pair, count}\nexport const FUSION_INDEX: usize = memory.data<u16>([${index.join(',')}]);\n` +
    `// {second handler, fused handler}\nexport const FUSION_PAIRS: usize = memory.data<u16>([${pairs.join(',')}]);\n`
  );
}

function runFile(list: readonly Handler[]): string {
  const cases = list.map((handler, i) => {
    const end = handler.kind === 'next' ? 'op += RECORD_SIZE; continue;' : '';
    return `      case ${FIXED_HANDLERS.length + i}: { // ${handler.name}\n        ${handler.body} ${end}\n      }`;
  });
  return RUN_TEMPLATE.replace('/*CASES*/', () => cases.join('\n'));
}

const RUN_TEMPLATE = `${NOTE}// The interpreter: one loop over decoded records, one switch over handlers. What the loop keeps in
// locals (record, code key) is found again from RIP whenever run() is entered, since an unwinding loses them.
import { cpu } from '../state';
import { codeBase, codeKey, globalKey, jumpEntry, knows, link, lookup, single } from '../blocks';
import { leave, serveEvents, stop } from '../run';
import {
  arithmeticFlags, carryFlags, cf, CF, condB, condBE, condL, condLE, condS, condZ, FLAGS_ADC, FLAGS_ADD, FLAGS_DEC, FLAGS_INC, FLAGS_SBB,
  FLAGS_SUB, keepZeroSetCarry, logicFlags, OF, overflow, parity, setSomeArith } from '../flags';
import { badCall, execBranch } from '../branch';
import { execShadowed } from '../shadow-stack';
import { execInteger, productOverflows } from '../integer';
import {
  BUDGET, COUNT, CUR_OP, EVENT_STEP, EVENTS, EXIT_BUDGET, EXIT_FETCH, EXIT_MMIO, EXIT_PAUSE, GPR, PAGE_BASE, PAUSE_EXITS, RIP, RUN_END,
} from '../layout';
import { isCanonical } from '../paging';
import {
  entryIn, hits, hostIn, rd16, rd32, rd64, rd8, READ_TAG, rmw16, rmw32, rmw64, rmw8, tlb, wr16, wr32, wr64, wr8, WRITE_TAG,
} from '../memory';
import { loadLeaves, storeLeaves } from '../moves';
import { countUndefined } from '../statistics';
import { fault, faultCode } from '../events';
import {
  currentRip, eaFlat, nextRip, OP_A, OP_B, OP_FALL, OP_IMM, OP_LEFT, OP_LENGTH, OP_OFFSET, OP_TAKEN, RECORD_SIZE, wrapRip } from '../record';
import { execSse } from '../sse';
import { execString } from '../strings';
import { execSystem } from '../system';
import { execX87 } from '../x87';

const RSP = GPR + 32;

/** Charges the block at \`op\`, unless the loop has to look at events or the budget first. */
// @ts-ignore: decorator
@inline
function mayEnter(c: usize, op: usize): bool {
  const budget = load<i64>(c, BUDGET);
  if (budget <= 0 || load<u32>(c, EVENTS) != 0) return false;
  store<i64>(c, budget - <i64>load<u8>(op, OP_LEFT), BUDGET);
  return true;
}

/** Executes from RIP until an exit; the result is EXIT_*. The host sets BUDGET (instructions, > 0) first. */
export function run(): i32 {
  const c = cpu;
  store<u64>(c, load<u64>(c, COUNT) + load<u64>(c, BUDGET), RUN_END);
  let rip = load<u64>(c, RIP);
  let key = codeKey();
  let keyOfGlobal = globalKey();
  let base = codeBase();
  let op: usize = 0; // next record, or 0: find it by \`rip\`
  let patch: usize = 0; // link to fill in with the record found
  while (true) {
    if (load<u32>(c, EVENTS) != 0) {
      if (op != 0) rip = wrapRip(load<u64>(c, PAGE_BASE) + <u64>load<u16>(op, OP_OFFSET));
      const exit = serveEvents(rip);
      if (exit != 0) return exit;
      rip = load<u64>(c, RIP);
      key = codeKey();
      keyOfGlobal = globalKey();
      base = codeBase();
      op = (load<u32>(c, EVENTS) & EVENT_STEP) != 0 ? single(rip) : 0;
      patch = 0;
    }
    if (op == 0) {
      const entry = jumpEntry(rip + base);
      if (knows(entry, rip + base, key, keyOfGlobal)) {
        op = load<u32>(entry, 12);
        store<u64>(c, ((rip + base) & ~0xfff) - base, PAGE_BASE);
        if (patch != 0) link(patch, op);
      } else {
        op = lookup(rip, patch);
        if (op == 0) return stop(rip, EXIT_FETCH);
      }
    }
    const budget = load<i64>(c, BUDGET);
    if (budget <= 0) return stop(wrapRip(load<u64>(c, PAGE_BASE) + <u64>load<u16>(op, OP_OFFSET)), EXIT_BUDGET);
    store<i64>(c, budget - <i64>load<u8>(op, OP_LEFT), BUDGET);
    while (true) {
      store<u32>(c, <u32>op, CUR_OP);
      switch (load<u16>(op)) {
      case 0: { // RELOOKUP: this code was dropped
        store<i64>(c, load<i64>(c, BUDGET) + <i64>load<u8>(op, OP_LEFT), BUDGET);
        rip = wrapRip(load<u64>(c, PAGE_BASE) + <u64>load<u16>(op, OP_OFFSET));
        op = lookup(rip, 0);
        break;
      }
      case 1: { // END: the block goes on elsewhere
        const linked: usize = load<u32>(op, OP_FALL);
        if (linked != 0) { op = linked; if (mayEnter(c, op)) continue; break; }
        const to = <u64>load<u16>(op, OP_OFFSET);
        rip = wrapRip(load<u64>(c, PAGE_BASE) + to); patch = to < 4096 ? op + OP_FALL : 0; op = 0; break;
      }
      case 2: { countUndefined(op); fault(6); break; }
      case 3: { faultCode(13, 0); break; }
      case 4: { execInteger(op); op += RECORD_SIZE; continue; }
      case 5: {
        store<u64>(c, nextRip(op), RIP);
        execBranch(op);
        rip = load<u64>(c, RIP); op = 0; patch = 0; break;
      }
      case 6: {
        if (execString(op)) { op += RECORD_SIZE; continue; }
        store<i64>(c, load<i64>(c, BUDGET) + <i64>load<u8>(op, OP_LEFT) - 1, BUDGET); // the rest of the block is charged again
        rip = wrapRip(load<u64>(c, PAGE_BASE) + <u64>load<u16>(op, OP_OFFSET)); op = 0; patch = 0; break;
      }
      case 7: {
        store<u64>(c, nextRip(op), RIP);
        const exit = execSystem(op);
        rip = load<u64>(c, RIP);
        if (exit != 0) return stop(rip, exit);
        key = codeKey(); keyOfGlobal = globalKey(); base = codeBase(); op = 0; patch = 0; break;
      }
      case 8: { execX87(op); op += RECORD_SIZE; continue; }
      case 9: { execSse(op); op += RECORD_SIZE; continue; }
      case 10: {
        store<u64>(c, nextRip(op), RIP);
        execShadowed(op);
        rip = load<u64>(c, RIP); op = 0; patch = 0; break;
      }
/*CASES*/
      default: unreachable();
      }
      break;
    }
  }
}
`;
