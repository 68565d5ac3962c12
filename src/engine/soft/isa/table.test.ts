import { describe, expect, test } from 'vitest';
import { fusedHandlers } from './fusion.ts';
import { generate } from './generate.ts';
import { fastHandler, type Handler } from './handlers.ts';
import { type Instruction, parseRow } from './row.ts';
import { bySpecificity, checkClashes, opcodesOf, opcodeTable } from './table.ts';

const row = (encoding: string, form: string, attributes?: string): Instruction =>
  parseRow(attributes === undefined ? [encoding, form] : [encoding, form, attributes], 'integer', 0);

describe('a row of the opcode table', () => {
  test('takes prefix, map, opcode and ModRM conditions from the encoding', () => {
    const full = { prefix: 'F3', map: 2, opcode: 0xf6, digit: 3, place: 'memory', hasModrm: true };
    expect(row('F3 0F 38 F6 /3 m', 'X Gv,Ev')).toMatchObject(full);
    expect(row('66 90', 'X')).toMatchObject({ prefix: '66', map: 0, opcode: 0x90, hasModrm: false });
    // 66 and F3 alone are opcodes' prefixes, not opcodes; 0F alone is an escape.
    expect(row('0F 01 =F8', 'SWAPGS')).toMatchObject({ map: 1, opcode: 1, exactModrm: 0xf8, hasModrm: true });
    expect(opcodesOf(row('B8 +r', 'MOV Zv,Iv'))).toEqual([0xb8, 0xb9, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf]);
  });

  test('takes operands, handler name and flags from form and attributes', () => {
    const add = row('01', 'ADD Ev,Gv', 'lock undef:AF,OF cpuid:none');
    expect(add.operands.map(({ kind, size }) => kind + size)).toEqual(['Ev', 'Gv']);
    expect(add.handler).toBe('ADD_Ev_Gv');
    expect(add.attributes).toMatchObject({ lock: true, undefinedFlags: 0x810, cpuid: 'none', only64: false });
    expect(row('01', 'ADD Ev,Gv', 'h:OTHER').handler).toBe('OTHER');
    expect(row('D8 r', 'FADD ST(0),ST(i)').handler).toBe('FADD_ST_0_ST_i');
  });

  test.each([
    ['GG', 'X'],
    ['0F', 'X', 'undef:XF'],
    ['01', 'X', 'typo'],
    ['01 /9', 'X'],
  ])('[%s | %s] is refused', (...words) => {
    expect(() => row(words[0], words[1], words[2])).toThrow(/opcode row/);
  });
});

describe('the table', () => {
  test('has no clashes, and finds one', () => {
    const table = opcodeTable();
    expect(table.length).toBeGreaterThan(900);
    expect(() => {
      checkClashes([...table, row('F3 90', 'OTHER')]);
    }).toThrow(/clash/);
    // A row for memory and one for registers do not clash, nor do 32-bit and 64-bit rows.
    const apart = [row('63', 'A Ew,Gw', 'i64'), row('63', 'B Gv,Ed', 'o64'), row('0F 0D m', 'C Ev'), row('0F 0D r', 'D Ev')];
    expect(() => {
      checkClashes(apart);
    }).not.toThrow();
  });

  test('tries exact ModRM before a mandatory prefix before a digit', () => {
    const rows = [row('0F 01 /7 m', 'A M'), row('0F 01 =F8', 'B'), row('F3 0F 01 /5 m', 'C M'), row('0F 01', 'D Ev')];
    expect(rows.toSorted(bySpecificity).map(({ mnemonic }) => mnemonic)).toEqual(['B', 'C', 'A', 'D']);
  });
});

describe('fast handlers', () => {
  const find = (encoding: string) => opcodeTable().find((one) => one.row[0] === encoding)!;

  test('exist for hot forms by size and place, with the right restriction to 64-bit mode', () => {
    expect(fastHandler(find('01'), 4, false)).toMatchObject({ name: 'ADD32_rr', only64: false, kind: 'next' });
    expect(fastHandler(find('03'), 8, true)).toMatchObject({ name: 'ADD64_rm', only64: true });
    expect(fastHandler(find('C3'), 8, false)).toMatchObject({ name: 'RET', only64: true, kind: 'jump' });
    expect(fastHandler(find('C3'), 2, false)).toBeUndefined();
    expect(fastHandler(find('9D'), 8, false)).toBeUndefined();
  });

  test('a fused pair checks for a dropped second half exactly where the first half stores to memory', () => {
    const table = opcodeTable();
    const handlers = new Map<string, Handler>();
    for (const one of table) {
      for (const size of [1, 2, 4, 8] as const) {
        for (const memory of [false, true]) {
          const handler = one.family === 'integer' ? fastHandler(one, size, memory) : undefined;
          if (handler) handlers.set(handler.name, handler);
        }
      }
    }
    const fused = fusedHandlers([...handlers.values()]);
    expect(fused.length).toBeGreaterThan(100);
    for (const { first, second, handler } of fused) {
      const stores = /PUSH|_mr$/.test(first) && !/^(CMP|TEST)/.test(first);
      expect(handler.body.includes('if (load<u16>(op) == 0) continue;'), `${first} ${second}`).toBe(stores);
    }
  });
});

test('the generator writes the same files for the same table', () => {
  const [one, two] = [generate(opcodeTable()), generate(opcodeTable())];
  expect([...one.keys()].sort()).toEqual(['handlers.ts', 'integer.ts', 'run.ts', 'sse.ts', 'system.ts', 'tables.ts', 'x87.ts']);
  expect(two).toEqual(one);
});
