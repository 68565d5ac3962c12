/** The independent check of the linker's output finds each way in which a transfer or an address could have gone wrong. */
import { describe, expect, test } from 'vitest';
import { R } from '../../src/elf/constants.ts';
import type { ElfObject, ElfSymbol, Section } from '../../src/elf/object.ts';
import { readObject } from '../../src/elf/read.ts';
import { writeObject } from '../../src/elf/write.ts';
import { linkModule } from '../../src/linker/link.ts';
import { FLAGS, TinyModule } from '../../src/linker/testing.ts';
import type { Manifest } from '../../src/policy/manifest.ts';
import { SHADOW, SHADOW_TEXT, STUB_SIZE } from '../../src/policy/shadow-stack.ts';
import { strayTransfers } from './transfers.ts';

const tiny = new TinyModule();
const first = tiny.function('first', (code) =>
  code.call(tiny.kernel('__fentry__')).call(tiny.kernel('kfree')).call(tiny.kernel('__x86_indirect_thunk_rax')).jump(tiny.kernel('memcpy')),
);
const second = tiny.function('second', (code) =>
  code
    .call(tiny.kernel('ioread8'))
    .call(tiny.kernel('__x86_indirect_thunk_rdx'))
    .loadAddress(first)
    .jump(tiny.kernel('__x86_return_thunk')),
);
tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(first).pointer(second).pointer(tiny.kernel('jiffies'));
tiny.code(tiny.add('__ksymtab', FLAGS.rodata)).field(R.pc32, second, 0);
const stock = tiny.bytes();
const linked = linkModule(stock, 'tiny.ko');

/** What is found when the linker had made something else. */
function findingsAfter(change: (object: ElfObject, manifest: Manifest) => void): string[] {
  const object = readObject(linked.image, 'tiny.ko');
  const manifest = structuredClone(linked.manifest);
  change(object, manifest);
  return strayTransfers(stock, writeObject(object), manifest);
}
const section = (object: ElfObject, name: string) => object.section(name) as Section;
const symbol = (object: ElfObject, name: string) => object.symbols.find((candidate) => candidate.name === name) as ElfSymbol;
const to = (object: ElfObject, name: string) =>
  object.sections.flatMap(({ relocations }) => relocations).filter((it) => it.symbol.name === name);

/** All uses of one symbol become those of another. */
const redirect = (from: string, other: string) => (object: ElfObject) => {
  for (const relocation of to(object, from)) relocation.symbol = symbol(object, other);
};
const swapKinds = (one: string, other: string) => (_: ElfObject, manifest: Manifest) => {
  const [a, b] = [one, other].map((name) => manifest.gates.find((gate) => gate.symbol === name));
  if (a && b) [a.kind, b.kind] = [b.kind, a.kind];
};

test('nothing is found in what the linker makes', () => {
  expect(findingsAfter(() => {})).toEqual([]);
});

describe('is found:', () => {
  const cases: [string, (object: ElfObject, manifest: Manifest) => void, string][] = [
    [
      'a call that ends at an entry gate',
      redirect('guard.out.kfree', 'guard.in.first'),
      'a transfer to kfree ends at the entry gate first',
    ],
    ['a call that ends at the return gate', redirect('guard.out.kfree', 'guard.return'), 'a transfer to kfree ends at the return gate'],
    [
      'a tail call that ends at the re-entry gate',
      redirect('guard.out.memcpy', 'guard.re-entry'),
      'a transfer to memcpy ends at the re-entry gate',
    ],
    [
      "a call that ends at another function's gate",
      redirect('guard.out.kfree', 'guard.out.memcpy'),
      'a transfer to kfree ends at the call gate memcpy',
    ],
    ['a call past the gate', redirect('guard.out.kfree', 'kfree'), 'a transfer to kfree ends at kfree, no gate'],
    [
      'a call into the middle of a gate',
      (object) => {
        for (const relocation of to(object, 'guard.out.kfree')) relocation.addend += 2;
      },
      'a transfer to kfree ends at guard.out.kfree, no gate',
    ],
    [
      "an address that is another function's entry gate",
      redirect('guard.in.first', 'guard.in.second'),
      'hands out the entry gate second for .text+',
    ],
    ['an address that is a call gate', redirect('guard.in.second', 'guard.out.kfree'), 'hands out the call gate kfree for .text+'],
    ['an address that leads past the gates', redirect('guard.in.second', 'second'), 'hands out second, no gate for .text+'],
    [
      'an export past the gates',
      (object) => (section(object, '__ksymtab').relocations[0].symbol = symbol(object, 'second')),
      '__ksymtab+0x0: hands out',
    ],
    ['kinds swapped in the manifest, at a use', swapKinds('first', 'kfree'), 'a transfer to kfree ends at the entry gate kfree'],
    ['kinds swapped in the manifest, at the gate', swapKinds('first', 'kfree'), 'the manifest says call, its link word entry'],
    [
      'link words swapped',
      (object) => {
        const [a, b] = section(object, '.text.guard').relocations.slice(-2);
        [a.symbol, b.symbol] = [b.symbol, a.symbol];
      },
      'a transfer to ',
    ],
    ['a call through another register', redirect('guard.jmp.rax', 'guard.jmp.rdx'), 'a branch through rax goes by rdx'],
    [
      'another routine for a device',
      (object) => (symbol(object, 'guard.device.ioread8').name = 'guard.device.iowrite8'),
      'a transfer to ioread8 ends at',
    ],
    ['a return that goes by the return gate', returnByGate, 'the branch to __x86_return_thunk did not become c3cccccccc'],
    ['an instruction that was changed', changeInstruction(0x48, 0xc7, 0xc6), ': 48c7c700000000 became 48c7c600000000'],
    ["a gate's instruction in the text", changeInstruction(0xe6, 0x5e, 0xcc), "a gate's instruction"],
    [
      'an init function that the kernel enters elsewhere',
      (_, manifest) => (manifest.initGate += 16),
      "the manifest's gate of init_module is not",
    ],
    ['an import that is something else', redirect('jiffies', 'kfree'), '.rodata+0x10: refers to something else'],
    ['a relocation that is gone', (object) => section(object, '.rodata').relocations.pop(), '.rodata+0x10: the relocation is gone'],
    [
      'a relocation that is new',
      (object) =>
        section(object, '.gnu.linkonce.this_module').relocations.push({
          offset: 0x300,
          type: R.abs64,
          symbol: symbol(object, 'first'),
          addend: 0,
        }),
      '.gnu.linkonce.this_module+0x300: a relocation that the stock file does not have',
    ],
  ];
  test.each(cases)('%s', (_, change, finding) => {
    expect(findingsAfter(change)).toContainEqual(expect.stringContaining(finding));
  });
});

/** Other bytes for `mov $first, %rdi`. */
function changeInstruction(...bytes: number[]) {
  return (object: ElfObject) => {
    const { data } = section(object, '.text');
    data.set(bytes, Buffer.from(data).indexOf(Buffer.from('48c7c7', 'hex')));
  };
}

/** `jmp guard.return` in the place of RET: it would come to the right gate with one word too much on the stack. */
function returnByGate(object: ElfObject): void {
  const text = section(object, '.text');
  const at = Buffer.from(text.data).indexOf(Buffer.from('c3cccccccc', 'hex'));
  text.data.set([0xe9, 0, 0, 0, 0], at);
  text.relocations.push({ offset: at + 1, type: R.plt32, symbol: symbol(object, 'guard.return'), addend: -4 });
}

describe('with a linked shadow stack, is found:', () => {
  const shadowed = linkModule(stock, 'tiny.ko', { shadowStack: true });
  const findings = (change: (object: ElfObject) => void) => {
    const object = readObject(shadowed.image, 'tiny.ko');
    change(object);
    return strayTransfers(stock, writeObject(object), shadowed.manifest);
  };
  /** The relocations of the jumps to the shadow stack. */
  const jumps = (object: ElfObject) =>
    section(object, '.text').relocations.filter(({ symbol: { place } }) => place === object.section(SHADOW_TEXT));

  test('nothing in what the linker makes', () => {
    expect(findings(() => {})).toEqual([]);
    expect(jumps(readObject(shadowed.image, 'tiny.ko')).length).toBeGreaterThan(1);
  });

  test.each<[string, (object: ElfObject) => void, string]>([
    ["a function that begins at another one's stub", (object) => (jumps(object)[0].addend += STUB_SIZE), 'its stub goes on elsewhere'],
    ['a function that begins in the middle of its stub', (object) => (jumps(object)[0].addend += 4), 'is no stub'],
    [
      'a stub that goes on past the start of its function',
      (object) => (section(object, SHADOW_TEXT).relocations.find(({ offset }) => offset > SHADOW.stubs)!.addend += 3),
      'its stub goes on elsewhere',
    ],
    ['a stub that reads another word', (object) => (section(object, SHADOW_TEXT).data[SHADOW.stubs + 3] = 0x64), 'is no stub'],
    [
      'a function that ends without its record being looked at',
      (object) => (jumps(object).find(({ symbol: { name } }) => name === 'guard.leave')!.addend += SHADOW.gone - SHADOW.leave),
      'a function ends at .text.shadow+',
    ],
  ])('%s', (_, change, expected) => {
    const found = findings(change);
    expect(
      found.filter((finding) => finding.includes(expected)),
      found.join('; '),
    ).not.toEqual([]);
  });
});
