/**
 * One row of the opcode table, as the tables in integer.ts, system.ts, x87.ts and sse.ts write it:
 * `['0F AF', 'IMUL Gv,Ev', 'undef:SF,ZF,AF,PF']`.
 *
 * Encoding: optional mandatory prefix `NP|66|F2|F3`, opcode bytes (escapes `0F`, `0F 38`, `0F 3A`), then optionally `/0../7` (ModRM.reg),
 * `m` or `r` (memory or register form only), `+r` (register in the low 3 opcode bits), `=F8` (exact ModRM byte).
 * Form: mnemonic and operands as in Intel SDM vol. 2, appendix A.2. Attributes: see `Attributes`.
 */
export type Row = readonly [encoding: string, form: string, attributes?: string];

export type Family = 'integer' | 'system' | 'x87' | 'sse';

/** Mandatory prefix. `any`: the row does not care. `NP`: none of 66, F2, F3. F2 and F3 win over 66. */
export type MandatoryPrefix = 'any' | 'NP' | '66' | 'F2' | 'F3';

/** 0: one-byte opcodes, 1: 0F, 2: 0F 38, 3: 0F 3A. */
export type OpcodeMap = 0 | 1 | 2 | 3;

/**
 * Where an operand is: an addressing letter of SDM vol. 2, A.2.1 (`A C D E G I J M N O P Q R S U V W X Y Z`), or a literal such as
 * `AL`, `rAX`, `DX`, `1`, `ST(i)`, `m64`. `size` is the operand type (`b`, `v`, `dq`, ...), empty for literals.
 */
export interface Operand {
  readonly text: string;
  readonly kind: string;
  readonly size: string;
}

/** A parsed row. */
export interface Instruction {
  /** Position in the whole table; stable for one version of the table only. */
  readonly index: number;
  readonly family: Family;
  readonly row: Row;
  readonly prefix: MandatoryPrefix;
  readonly map: OpcodeMap;
  readonly opcode: number;
  /** True: `opcode`..`opcode + 7`. */
  readonly registerInOpcode: boolean;
  readonly hasModrm: boolean;
  readonly digit: number | undefined;
  readonly exactModrm: number | undefined;
  readonly place: 'any' | 'memory' | 'register';
  readonly mnemonic: string;
  readonly operands: readonly Operand[];
  readonly attributes: Attributes;
  /** Name of the handler constant in core/generated/<family>.ts. */
  readonly handler: string;
}

export interface Attributes {
  /** `lock`: LOCK is allowed with a memory destination. */
  readonly lock: boolean;
  /** `i64`: invalid in 64-bit mode. */
  readonly invalid64: boolean;
  /** `o64`: only in 64-bit mode. */
  readonly only64: boolean;
  /** `d64`: operand size defaults to 64 bits in 64-bit mode, 66 gives 16. */
  readonly default64: boolean;
  /** `f64`: operand size is 64 bits in 64-bit mode whatever the prefixes. */
  readonly forced64: boolean;
  /** `undef:AF,OF`: RFLAGS bits that are undefined afterwards. */
  readonly undefinedFlags: number;
  readonly cpl0: boolean;
  /** `cpuid:sse3`: exists only when this feature is announced. */
  readonly cpuid: string | undefined;
  /** `end`: ends the block (branches, REP strings, all system rows). */
  readonly end: boolean;
  readonly slow: boolean;
}

const FLAG_BITS: Record<string, number> = { CF: 0x1, PF: 0x4, AF: 0x10, ZF: 0x40, SF: 0x80, OF: 0x800 };

/** Parses one row; throws an Error that names the row when it does not fit the notation. */
export function parseRow(row: Row, family: Family, index: number): Instruction {
  const fail = (why: string): never => {
    throw new Error(`opcode row [${row.join(' | ')}]: ${why}`);
  };
  const words = row[0].split(' ');
  let prefix: MandatoryPrefix = 'any';
  if (words[0] === 'NP' || ((words[0] === '66' || words[0] === 'F2' || words[0] === 'F3') && /^[0-9A-F]{2}$/.test(words[1] ?? ''))) {
    prefix = words.shift() as MandatoryPrefix;
  }
  let map: OpcodeMap = 0;
  if (words[0] === '0F' && words.length > 1) {
    words.shift();
    map = 1;
    const second = words.at(0);
    if ((second === '38' || second === '3A') && /^[0-9A-F]{2}$/.test(words[1] ?? '')) {
      words.shift();
      map = second === '38' ? 2 : 3;
    }
  }
  const opcodeText = words.shift() ?? '';
  if (!/^[0-9A-F]{2}$/.test(opcodeText)) fail('opcode byte expected');
  let digit: number | undefined;
  let exactModrm: number | undefined;
  let place: Instruction['place'] = 'any';
  let registerInOpcode = false;
  for (const word of words) {
    if (/^\/[0-7]$/.test(word)) digit = Number(word[1]);
    else if (word === 'm') place = 'memory';
    else if (word === 'r') place = 'register';
    else if (word === '+r') registerInOpcode = true;
    else if (/^=[0-9A-F]{2}$/.test(word)) exactModrm = Number.parseInt(word.slice(1), 16);
    else fail(`unknown encoding word "${word}"`);
  }
  const space = row[1].indexOf(' ');
  const mnemonic = space < 0 ? row[1] : row[1].slice(0, space);
  const operands =
    space < 0
      ? []
      : row[1]
          .slice(space + 1)
          .split(',')
          .map((text) => parseOperand(text.trim()));
  const usesModrm = operands.some(({ kind }) => /^(?:[CDEGMNPQRSUVW]$|m\d)/.test(kind));
  const attributes = parseAttributes(row[2] ?? '', fail);
  const override = /(?:^| )h:(\w+)/.exec(row[2] ?? '');
  return {
    index,
    family,
    row,
    prefix,
    map,
    opcode: Number.parseInt(opcodeText, 16),
    registerInOpcode,
    hasModrm: digit !== undefined || exactModrm !== undefined || place !== 'any' || (usesModrm && !registerInOpcode),
    digit,
    exactModrm,
    place,
    mnemonic,
    operands,
    attributes,
    handler: override?.[1] ?? row[1].replace(/[^A-Za-z0-9]+/g, '_').replace(/_$/, ''),
  };
}

function parseOperand(text: string): Operand {
  const match = /^([ACDEGIJMNOPQRSUVWXYZ])([a-z][a-z/]*)?$/.exec(text);
  // A general notation letter is one capital and lower-case size letters; everything else is a literal.
  return match ? { text, kind: match[1]!, size: match[2] ?? '' } : { text, kind: text, size: '' };
}

function parseAttributes(text: string, fail: (why: string) => never): Attributes {
  const words = text.split(' ').filter((word) => word !== '');
  const known = new Set(['lock', 'i64', 'o64', 'd64', 'f64', 'cpl0', 'end', 'slow']);
  let undefinedFlags = 0;
  let cpuid: string | undefined;
  for (const word of words) {
    if (word.startsWith('undef:')) {
      for (const flag of word.slice(6).split(',')) undefinedFlags |= FLAG_BITS[flag] ?? fail(`unknown flag "${flag}"`);
    } else if (word.startsWith('cpuid:')) cpuid = word.slice(6);
    else if (!word.startsWith('h:') && !known.has(word)) fail(`unknown attribute "${word}"`);
  }
  const has = (word: string) => words.includes(word);
  return {
    lock: has('lock'),
    invalid64: has('i64'),
    only64: has('o64'),
    default64: has('d64'),
    forced64: has('f64'),
    undefinedFlags,
    cpl0: has('cpl0'),
    cpuid,
    end: has('end'),
    slow: has('slow'),
  };
}
