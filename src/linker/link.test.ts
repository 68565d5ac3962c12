import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { R, STB, STT } from '../elf/constants.ts';
import { readObject } from '../elf/read.ts';
import { readVersions } from '../elf/versions.ts';
import type { LinkPolicy } from '../policy/link-policy.ts';
import { parseManifest } from '../policy/schema.ts';
import { linkModule } from './link.ts';
import { FLAGS, TinyModule } from './testing.ts';

function link(tiny: TinyModule, policy?: LinkPolicy) {
  const result = linkModule(tiny.bytes(), 'tiny.ko', policy);
  return { ...result, object: readObject(result.image, 'tiny.ko') };
}

/** What the relocation at an offset of a section points to, as `symbol+addend`. */
function linkAt({ object }: ReturnType<typeof link>, section: string, offset: number): string | undefined {
  const relocation = object.section(section)?.relocations.find((candidate) => candidate.offset === offset);
  return relocation && `${relocation.symbol.name || '(section)'}${relocation.addend < 0 ? '' : '+'}${relocation.addend}`;
}

function refusal(tiny: TinyModule, policy?: LinkPolicy): string {
  try {
    linkModule(tiny.bytes(), 'tiny.ko', policy);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  }
  return 'linked';
}

describe('control transfers', () => {
  test('__fentry__ becomes a nop, the return thunk a return, a kernel call goes to its call gate', () => {
    const linked = link(new TinyModule());
    const text = linked.object.section('.text');
    expect([...text!.data.subarray(0, 5)]).toEqual([0x0f, 0x1f, 0x44, 0, 0]);
    expect([...text!.data.subarray(10, 15)]).toEqual([0xc3, 0xcc, 0xcc, 0xcc, 0xcc]);
    expect(text!.relocations).toHaveLength(1);
    expect(linkAt(linked, '.text', 6)).toBe('guard.out._printk-4');
  });

  test('call and tail jump to one function share a gate', () => {
    const tiny = new TinyModule();
    tiny.function('tail', (code) => code.call(tiny.kernel('kfree')).jump(tiny.kernel('kfree')));
    const { manifest } = link(tiny);
    expect(manifest.gates.filter(({ symbol }) => symbol === 'kfree')).toHaveLength(1);
  });

  test("indirect branches go to the module's own thunk of that register", () => {
    const tiny = new TinyModule();
    tiny.function('indirect', (code) =>
      code.call(tiny.kernel('__x86_indirect_thunk_r10')).jump(tiny.kernel('__x86_indirect_jump_thunk_rax')),
    );
    const linked = link(tiny);
    expect([...linked.object.section('.text.thunks')!.data]).toEqual([0xff, 0xe0, 0xcc, 0xcc, 0x41, 0xff, 0xe2, 0xcc]);
    expect(linkAt(linked, '.text', 16)).toBe('guard.jmp.r10-4');
    expect(linkAt(linked, '.text', 21)).toBe('guard.jmp.rax-4');
  });

  test("helpers for device registers go to the module's own routines, which leave to the kernel by its gate", () => {
    const tiny = new TinyModule();
    tiny.function('registers', (code) => code.call(tiny.kernel('memcpy_toio')).call(tiny.kernel('ioread32')).jump(tiny.kernel('ioread32')));
    const linked = link(tiny);
    const section = linked.object.section('.text.device');
    expect(Buffer.from(section!.data).toString('hex')).toMatch(/^4881ffffff030076038b07c3.*e900000000cc+4885d2.*a4c3cc*$/);
    expect([16, 21, 26].map((offset) => linkAt(linked, '.text', offset))).toEqual([
      'guard.device.memcpy_toio-4',
      'guard.device.ioread32-4',
      'guard.device.ioread32-4',
    ]);
    expect(linkAt(linked, '.text.device', 27)).toBe('guard.out.ioread32-4');
    expect(linked.manifest.gates.map(({ symbol }) => symbol)).toContain('ioread32');
    expect(linked.manifest.gates.map(({ symbol }) => symbol)).not.toContain('memcpy_toio');
    expect(linked.object.symbols.map(({ name }) => name)).not.toContain('memcpy_toio');
  });

  test('a tracepoint loses its static call, for which the kernel would patch the text', () => {
    const tiny = new TinyModule();
    const key = tiny.symbol('__SCK__tp_func_tick', STT.object, tiny.add('.data', FLAGS.data, new Uint8Array(16)), 0, 16);
    const tracepoints = tiny.add('__tracepoints', FLAGS.data, new Uint8Array(24));
    tiny
      .code(tracepoints)
      .pointer(key)
      .pointer(tiny.function('iterate', (code) => code.jump(tiny.kernel('__x86_return_thunk'))));
    const { object } = link(tiny);
    expect(object.section('__tracepoints')?.relocations.map(({ offset }) => offset)).toEqual([32]);
  });

  test('a call through memory stays, and is an import', () => {
    const tiny = new TinyModule();
    tiny.function('pv', (code) => code.emit(0xff, 0x15).field(R.pc32, tiny.kernel('pv_ops'), 4));
    const linked = link(tiny);
    expect(linkAt(linked, '.text', 17)).toBe('pv_ops+4');
    expect(linked.manifest.imports).toEqual(['pv_ops']);
  });

  test('branches inside the module stay', () => {
    const tiny = new TinyModule();
    const cold = tiny.function('cold', (code) => code.emit(0xcc));
    const unlikely = tiny.add('.text.unlikely', FLAGS.text);
    tiny.function('hot', (code) => code.emit(0x0f, 0x84).field(R.pc32, cold, -4), unlikely);
    expect(linkAt(link(tiny), '.text.unlikely', 2)).toBe('cold-4');
  });
});

describe('escaping addresses', () => {
  function withCallback() {
    const tiny = new TinyModule();
    const section = tiny.symbol('', STT.section, tiny.text, 0);
    const callback = tiny.function('callback', (code) => code.emit(0xcc));
    return { tiny, section, callback };
  }

  test('in data, by symbol or by section and offset, become the entry gate', () => {
    const { tiny, section, callback } = withCallback();
    const table = tiny.add('.rodata', FLAGS.rodata);
    tiny.code(table).pointer(callback).pointer(section, callback.value);
    const linked = link(tiny);
    expect(linkAt(linked, '.rodata', 0)).toBe('guard.in.callback+0');
    expect(linkAt(linked, '.rodata', 8)).toBe('guard.in.callback+0');
    expect(linked.manifest.gates.filter(({ kind }) => kind === 'entry').map(({ symbol }) => symbol)).toEqual(['init_module', 'callback']);
  });

  test('in text, as an immediate and by lea, become the entry gate', () => {
    const { tiny, callback } = withCallback();
    tiny.function('register', (code) => code.loadAddress(callback).emit(0x48, 0x8d, 0x3d).field(R.pc32, callback, -4));
    const linked = link(tiny);
    expect(linkAt(linked, '.text', 19)).toBe('guard.in.callback+0');
    expect(linkAt(linked, '.text', 26)).toBe('guard.in.callback-4');
  });

  test('exports become the entry gate, keeping their relative form', () => {
    const { tiny, callback } = withCallback();
    tiny.code(tiny.add('__ksymtab', FLAGS.rodata)).field(R.pc32, callback, 0);
    expect(linkAt(link(tiny), '__ksymtab', 0)).toBe('guard.in.callback+0');
  });

  test('positions in unwind and bug tables stay', () => {
    const { tiny, callback } = withCallback();
    tiny.code(tiny.add('.orc_unwind_ip', FLAGS.rodata)).field(R.pc32, callback, 0);
    tiny.code(tiny.add('__bug_table', FLAGS.data)).field(R.pc32, callback, 1);
    const linked = link(tiny);
    expect(linkAt(linked, '.orc_unwind_ip', 0)).toBe('callback+0');
    expect(linkAt(linked, '__bug_table', 0)).toBe('callback+1');
    expect(linked.manifest.gates.some(({ symbol }) => symbol === 'callback')).toBe(false);
  });

  test('two static functions of one name get a gate each', () => {
    const tiny = new TinyModule();
    const first = tiny.function('twin', (code) => code.emit(0xcc));
    const second = tiny.function('twin', (code) => code.emit(0xcc));
    tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(second).pointer(first);
    const twins = link(tiny).manifest.gates.filter(({ symbol }) => symbol === 'twin');
    expect(twins.map(({ sectionOffset }) => sectionOffset)).toEqual([first.value, second.value]);
  });

  test('the setters of parameters may be entered before init, other functions may not', () => {
    const tiny = new TinyModule();
    const [set, get] = ['set', 'get'].map((name) => tiny.function(name, (code) => code.jump(tiny.kernel('__x86_return_thunk'))));
    const operations = tiny.add('.rodata', FLAGS.rodata, new Uint8Array(16));
    tiny.code(operations).emit(0, 0, 0, 0, 0, 0, 0, 0).pointer(set).pointer(get);
    const place = tiny.symbol('', STT.section, operations, 0);
    const parameters = tiny.add('__param', FLAGS.rodata, new Uint8Array(16));
    tiny
      .code(parameters)
      .pointer(place, 16)
      .emit(...new Array(16).fill(0));
    tiny
      .code(parameters)
      .emit(...new Array(16).fill(0))
      .pointer(tiny.kernel('param_ops_int'));
    const { manifest } = link(tiny);
    expect(manifest.gates.filter(({ beforeInit }) => beforeInit).map(({ symbol }) => symbol)).toEqual(['set']);
    expect(manifest.gates.map(({ symbol }) => symbol)).toContain('get');
    expect(parseManifest(JSON.stringify(manifest), 'test')).toEqual(manifest);
  });

  test('init and cleanup of this_module', () => {
    const tiny = new TinyModule();
    const cleanup = tiny.function('cleanup_module', (code) => code.emit(0xcc));
    tiny.thisModule.relocations.push({ offset: 0x350, type: R.abs64, symbol: cleanup, addend: 0 });
    const { manifest } = link(tiny);
    expect([manifest.initGate, manifest.cleanupGate]).toEqual([32, 48]);
    expect(link(new TinyModule()).manifest.cleanupGate).toBe(-1);
  });
});

describe('the gate section', () => {
  test('is whole pages of gates and int3, the last executable section', () => {
    const linked = link(new TinyModule());
    const gates = linked.object.section('.text.guard')!;
    expect([gates.alignment, gates.size]).toEqual([4096, 4096]);
    for (const { offset } of linked.manifest.gates) {
      expect([...gates.data.subarray(offset, offset + 16)]).toEqual([
        0xe6, 0x5e, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0, 0, 0, 0, 0, 0, 0, 0,
      ]);
    }
    expect(gates.data.subarray(linked.manifest.gates.length * 16).every((byte) => byte === 0xcc)).toBe(true);
    expect(linked.object.sections.filter(({ executable }) => executable).at(-1)).toBe(gates);
    expect(linked.manifest.gates.slice(0, 2).map(({ kind }) => kind)).toEqual(['return', 're-entry']);
    expect(gates.relocations.map(({ offset, type, symbol }) => [offset, type, symbol.name])).toEqual([
      [40, R.abs64, 'init_module'],
      [56, R.abs64, '_printk'],
    ]);
  });

  test('grows by pages', () => {
    const tiny = new TinyModule();
    tiny.function('many', (code) => {
      for (let index = 0; index < 300; index++) code.call(tiny.kernel(`callee_${index}`));
    });
    expect(link(tiny).object.section('.text.guard')!.size).toBe(8192);
  });
});

describe('the print function', () => {
  /** A module without a call of it, with a list of versions. */
  const mute = (build = (_: TinyModule) => {}) => {
    const tiny = new TinyModule('kfree');
    tiny.add('__versions', FLAGS.rodata, Buffer.concat([Buffer.from([1, 2, 3, 4, 0, 0, 0, 0]), Buffer.from('kfree'.padEnd(56, '\0'))]));
    build(tiny);
    return tiny.bytes();
  };
  const crcs: [string, string][] = [];
  const exportVersion = (release: string, symbol: string) => {
    crcs.push([release, symbol]);
    return 0x92997ed8n;
  };

  test('gets a call gate in a module that never prints, by a weak import with its CRC', () => {
    const { image, manifest } = linkModule(mute(), 'mute.ko', {}, exportVersion);
    const object = readObject(image, 'mute.ko');
    expect(crcs).toEqual([['6.1.0-tiny', '_printk']]);
    expect(manifest.gates.filter(({ kind }) => kind === 'call').map(({ symbol }) => symbol)).toEqual(['_printk', 'kfree']);
    expect(object.symbols.filter(({ name }) => name === '_printk')).toMatchObject([{ binding: STB.weak, place: 'undefined' }]);
    expect([...readVersions(object)]).toEqual([
      ['kfree', 0x0403_0201n],
      ['_printk', 0x92997ed8n],
    ]);
    expect(manifest.imports).toEqual([]);
  });

  test('without a known CRC the versions stay as they are', () => {
    const object = readObject(linkModule(mute(), 'mute.ko').image, 'mute.ko');
    expect([...readVersions(object).keys()]).toEqual(['kfree']);
  });

  test.each(['_printk', 'printk'])('%s that the module only stores is not imported twice', (name) => {
    const { image, manifest } = linkModule(
      mute((tiny) => tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(tiny.kernel(name))),
      'mute.ko',
    );
    const object = readObject(image, 'mute.ko');
    expect(object.symbols.filter((symbol) => /printk/.test(symbol.name))).toMatchObject([
      { name: `guard.out.${name}` },
      { name, binding: STB.global },
    ]);
    expect(manifest.imports).toEqual([name]);
  });

  test('a policy that allows no import does not forbid it', () => {
    expect(linkModule(mute(), 'mute.ko', { imports: ['kfree'] }).manifest.gates.map(({ symbol }) => symbol)).toContain('_printk');
  });
});

describe('the output', () => {
  test('is the same for the same input', () => {
    const input = new TinyModule().bytes();
    expect(linkModule(input, 'a.ko')).toEqual(linkModule(input, 'b.ko'));
  });

  test('loses an appended signature, dropped sections, and symbols only they used', () => {
    const tiny = new TinyModule();
    tiny.code(tiny.add('__jump_table', FLAGS.data)).pointer(tiny.kernel('some_key'));
    const plain = tiny.bytes();
    const signed = Buffer.concat([plain, Buffer.from('PKCS#7~Module signature appended~\n')]);
    const { image } = linkModule(signed, 'tiny.ko');
    expect(image).toEqual(linkModule(plain, 'tiny.ko').image);
    const object = readObject(image, 'tiny.ko');
    expect(object.section('__jump_table')).toBeUndefined();
    expect(object.symbols.filter(({ place }) => place === 'undefined').map(({ name }) => name)).toEqual(['', '_printk']);
  });

  test('has a manifest that its own schema accepts', () => {
    const { manifest } = link(new TinyModule());
    expect(parseManifest(JSON.stringify(manifest), 'manifest')).toEqual(manifest);
    expect(manifest.sections.map(({ name, role }) => `${name} ${role}`)).toEqual([
      '.modinfo metadata',
      '.text text',
      '.gnu.linkonce.this_module data',
      '.text.guard gates',
    ]);
  });

  test('names the vector unit when the module uses it', () => {
    const tiny = new TinyModule();
    tiny.function('simd', (code) => code.call(tiny.kernel('kernel_fpu_begin_mask')));
    expect([link(tiny).manifest.vector, link(new TinyModule()).manifest.vector]).toEqual([true, false]);
  });
});

describe('private sections', () => {
  test('a heap gets the size that the policy says, and is told it', () => {
    const heapOf = (policy: LinkPolicy) => {
      const tiny = new TinyModule();
      tiny.add(
        '.portcullis.private.heap',
        FLAGS.data,
        Uint8Array.from({ length: 24 }, (_, index) => (index === 0 ? 24 : index)),
      );
      return link(tiny, policy).object.section('.portcullis.private.heap')!.data;
    };
    for (const [heap, size] of [
      [undefined, 4096],
      [1, 4096],
      [4097, 8192],
      [1 << 20, 1 << 20],
    ] as const) {
      const data = heapOf({ heap });
      expect(data.length).toBe(size);
      expect(new DataView(data.buffer, data.byteOffset).getBigUint64(0, true)).toBe(BigInt(size));
      expect(data[23]).toBe(23);
      expect(data.subarray(24).every((byte) => byte === 0)).toBe(true);
    }
    expect(refusal(new TinyModule(), { heap: 4096 })).toContain('declares no PORTCULLIS_HEAP');
    const empty = new TinyModule();
    empty.bss('.portcullis.private.heap', 4096);
    expect(refusal(empty)).toContain('does not begin with the header of a heap');
  });

  test('are aligned and filled to whole pages, by policy or by name', () => {
    const tiny = new TinyModule();
    tiny.add('.data.secret', FLAGS.data, new Uint8Array([1, 2, 3]));
    tiny.bss('.portcullis.private.bss', 5000);
    const linked = link(tiny, { private: ['.data.secret'] });
    const secret = linked.object.section('.data.secret')!;
    expect([secret.alignment, secret.size, ...secret.data.subarray(0, 4)]).toEqual([4096, 4096, 1, 2, 3, 0]);
    expect(linked.object.section('.portcullis.private.bss')!.size).toBe(8192);
    expect(linked.manifest.sections.filter(({ role }) => role === 'private').map(({ name }) => name)).toEqual([
      '.data.secret',
      '.portcullis.private.bss',
    ]);
  });

  test("must exist and be the module's own writable data", () => {
    expect(refusal(new TinyModule(), { private: ['.data.none'] })).toContain('.data.none, which the module does not have');
    expect(refusal(new TinyModule(), { private: ['.text'] })).toContain('section .text cannot be private: it is not writable data');
    expect(refusal(new TinyModule(), { private: ['.gnu.linkonce.this_module'] })).toContain('the kernel itself reads or writes it');
  });
});

describe('alternatives', () => {
  /** One alternative for a feature: 3 nops in text, replaced by `stac`. */
  function withAlternative(feature: number, replacement = [0x0f, 0x01, 0xcb], room = 3) {
    const tiny = new TinyModule();
    const place = tiny.function('copy', (code) => code.emit(0x90, 0x90, 0x90, 0xcc));
    const replacements = tiny.add('.altinstr_replacement', FLAGS.text);
    const symbol = tiny.symbol('', STT.section, replacements, 0);
    tiny.code(replacements).emit(...replacement);
    tiny
      .code(tiny.add('.altinstructions', FLAGS.rodata))
      .field(R.pc32, place, 0)
      .field(R.pc32, symbol, 0)
      .emit(feature & 255, feature >> 8, room, replacement.length);
    return tiny;
  }
  const smap = 9 * 32 + 20;
  const codeOf = (tiny: TinyModule) => [...link(tiny).object.section('.text')!.data.subarray(15, 19)];

  test('for SMAP are applied', () => expect(codeOf(withAlternative(smap))).toEqual([0x0f, 0x01, 0xcb, 0xcc]));
  test('for the lack of SMAP and for other features are not', () => {
    expect(codeOf(withAlternative(smap | 0x8000))).toEqual([0x90, 0x90, 0x90, 0xcc]);
    expect(codeOf(withAlternative(4 * 32 + 23))).toEqual([0x90, 0x90, 0x90, 0xcc]);
    expect(link(withAlternative(4 * 32 + 23)).warnings).toEqual(['alternatives keep their default for CPU features 4*32+23 (1)']);
  });
  test('that do not fit are refused', () => {
    expect(refusal(withAlternative(smap, [0x0f, 0x01, 0xcb], 2))).toContain(
      '.text+0xf: the alternative for SMAP has 3 bytes of replacement for 2 bytes of room',
    );
  });
  test('the list and the replacements are gone', () => {
    const { object } = link(withAlternative(smap));
    expect([object.section('.altinstructions'), object.section('.altinstr_replacement')]).toEqual([undefined, undefined]);
  });
});

describe('what is not understood is refused', () => {
  const cases: [string, (tiny: TinyModule) => void, string][] = [
    [
      'a label in data',
      (tiny) => tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(tiny.symbol('', STT.section, tiny.text, 0), 3),
      '.rodata+0x0: R_X86_64_64 against .text+0x3 (bytes 00000000 from 0x0) takes the address of code (.text+0x3) where no function starts',
    ],
    [
      'a label in text',
      (tiny) => tiny.function('here', (code) => code.loadAddress(tiny.symbol('', STT.section, tiny.text, 0), 7)),
      'where no function starts',
    ],
    [
      'a branch relocation on a load',
      (tiny) => tiny.function('odd', (code) => code.emit(0x8b, 0x05).field(R.plt32, tiny.kernel('x'), -4)),
      'on something that is no branch',
    ],
    [
      'an unknown opcode',
      (tiny) => tiny.function('odd', (code) => code.emit(0x90, 0x90).field(R.pc32, tiny.kernel('x'), -4)),
      'is no branch and no RIP-relative access',
    ],
    [
      'a conditional branch out',
      (tiny) => tiny.function('odd', (code) => code.emit(0x0f, 0x84).field(R.plt32, tiny.kernel('x'), -4)),
      'conditional branch out of the module',
    ],
    [
      'a call into a function',
      (tiny) => tiny.function('odd', (code) => code.emit(0xe8).field(R.plt32, tiny.kernel('x'), 4)),
      'middle of a kernel function',
    ],
    [
      'an unknown thunk',
      (tiny) => tiny.function('odd', (code) => code.call(tiny.kernel('__x86_indirect_thunk_rsp'))),
      'unknown indirect branch thunk',
    ],
    [
      'a called return thunk',
      (tiny) => tiny.function('odd', (code) => code.call(tiny.kernel('__x86_return_thunk'))),
      'calls the return thunk',
    ],
    [
      'an unknown relocation',
      (tiny) => tiny.function('odd', (code) => code.emit(0x48, 0x8b, 0x05).field(42, tiny.kernel('x'), -4)),
      'R_X86_64_REX_GOTPCRELX against x-0x4',
    ],
    [
      'overlapping relocations',
      (tiny) => tiny.thisModule.relocations.push({ offset: 0x13c, type: R.abs64, symbol: tiny.kernel('x'), addend: 0 }),
      'overlaps another relocation',
    ],
    [
      'a field that ends outside',
      (tiny) => tiny.thisModule.relocations.push({ offset: 0x37c, type: R.abs64, symbol: tiny.kernel('x'), addend: 0 }),
      'lies outside the section',
    ],
    [
      'static calls of its own',
      (tiny) => tiny.symbol('__SCT__mine', STT.func, tiny.add('.static_call.text', FLAGS.text, new Uint8Array(8)), 0),
      'switches its own code',
    ],
    [
      'a reference to a dropped section',
      (tiny) =>
        tiny
          .code(tiny.add('.rodata', FLAGS.rodata))
          .pointer(tiny.symbol('keys', STT.object, tiny.add('__jump_table', FLAGS.data, new Uint8Array(16)), 0)),
      'refers to __jump_table, which is dropped',
    ],
  ];
  test.each(cases)('%s', (_, build, message) => {
    const tiny = new TinyModule();
    build(tiny);
    expect(refusal(tiny)).toContain(message);
  });

  test('a module that is guarded already', () => {
    const { image } = linkModule(new TinyModule().bytes(), 'tiny.ko');
    expect(() => linkModule(image, 'tiny.ko')).toThrow('it is guarded already');
  });

  test('no complete module', () => {
    const tiny = new TinyModule();
    tiny.object.section('.modinfo')!.data = new Uint8Array(0);
    expect(refusal(tiny)).toContain('its .modinfo has no name or no vermagic');
    tiny.object.removeSections(new Set([tiny.thisModule]));
    expect(refusal(tiny)).toContain('.gnu.linkonce.this_module');
  });

  test('entries and imports outside the policy', () => {
    const tiny = new TinyModule();
    const callback = tiny.function('callback', (code) => code.emit(0xcc));
    tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(callback);
    expect(refusal(tiny, { entries: ['callback'], imports: ['_printk'] })).toBe('linked');
    expect(refusal(tiny, { entries: [] })).toContain('function callback (.text+0xf) can be entered from outside');
    expect(refusal(tiny, { entries: ['callback', 'calback'] })).toContain('calback, which is no function of the module');
    expect(refusal(tiny, { imports: [] })).toContain('imports _printk');
  });
});
