import { expect, test } from 'vitest';
import { R } from '../elf/constants.ts';
import { describeModule } from './describe.ts';
import { linkModule } from './link.ts';
import { FLAGS, TinyModule } from './testing.ts';

function withCallback(): TinyModule {
  const tiny = new TinyModule();
  const callback = tiny.function('callback', (code) => code.emit(0xff, 0x15).field(R.pc32, tiny.kernel('pv_ops'), 4));
  tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(callback);
  tiny.code(tiny.add('__jump_table', FLAGS.data)).emit(0, 0, 0, 0, 0, 0, 0, 0).field(R.pc64, tiny.kernel('some_key'), 0);
  return tiny;
}

test('a stock module', () => {
  const described = describeModule(withCallback().bytes(), 'tiny.ko');
  expect(described).toMatchObject({
    kind: 'stock',
    module: 'tiny',
    license: 'GPL',
    signed: false,
    calls: ['_printk'],
    imports: ['pv_ops'],
    problems: [],
    gates: [],
    edits: { 'function-entry': 1, return: 1, 'call-out': 1, escape: 2 },
    memoryBranches: [{ section: '.text', offset: 17, symbol: 'pv_ops', jump: false }],
    warnings: ["1 jump label(s) of the kernel's some_key stay as compiled"],
  });
  expect(described.entries.map(({ name, offset }) => [name, offset])).toEqual([
    ['init_module', 0],
    ['callback', 15],
  ]);
  expect(described.dropped.map(({ name }) => name)).toEqual(['__jump_table']);
  expect(described.sections.map(({ name, permission }) => `${name} ${permission}`)).toContain('.text r-x');
});

test('a guarded module shows the same entries and calls, and its gates', () => {
  const stock = describeModule(withCallback().bytes(), 'tiny.ko');
  const guarded = describeModule(linkModule(withCallback().bytes(), 'tiny.ko').image, 'tiny.ko');
  expect(guarded).toMatchObject({ kind: 'guarded', entries: stock.entries, calls: stock.calls, imports: stock.imports, problems: [] });
  expect(guarded.gates).toEqual([
    { offset: 0, kind: 'return', symbol: '' },
    { offset: 16, kind: 're-entry', symbol: '' },
    { offset: 32, kind: 'entry', symbol: 'init_module' },
    { offset: 48, kind: 'entry', symbol: 'callback' },
    { offset: 64, kind: 'call', symbol: '_printk' },
  ]);
});

test('a module that cannot be guarded is described with every obstacle', () => {
  const tiny = withCallback();
  tiny.function('odd', (code) => code.emit(0x90, 0x90).field(R.pc32, tiny.kernel('x'), -4).call(tiny.kernel('__x86_return_thunk')));
  const { problems } = describeModule(tiny.bytes(), 'tiny.ko');
  expect(problems).toHaveLength(2);
  expect(problems[0]).toContain('.text+');
});

test('a signature is seen', () => {
  expect(describeModule(Buffer.concat([new TinyModule().bytes(), Buffer.from('~Module signature appended~\n')]), 'tiny.ko').signed).toBe(
    true,
  );
});
