/**
 * The routines of a linked shadow stack: executed on the engine `soft`, instruction by instruction, in a view without a shadow stack of its own, while the test writes
 * to the stack as another CPU would; and read by a disassembler that is not ours.
 */
import { Decoder, DecoderOptions, Formatter, FormatterSyntax, Mnemonic } from 'iced-x86';
import { afterAll, describe, expect, test } from 'vitest';
import { R, SHT } from '../../src/elf/constants.ts';
import { readObject } from '../../src/elf/read.ts';
import { type Engine, type Exit, type HostPage, joinAddress, PERMISSION } from '../../src/engine/contract.ts';
import { createSoftEngine } from '../../src/engine/soft/engine.ts';
import { linkModule } from '../../src/linker/link.ts';
import { TinyModule } from '../../src/linker/testing.ts';
import { verifyLinked } from '../../src/linker/verify.ts';
import { type ImageSource, RELOCATION } from '../../src/monitor/image.ts';
import { imageFromElf } from '../../src/monitor/image-elf.ts';
import { LinkedShadowStack } from '../../src/monitor/linked-shadow-stack.ts';
import { PrivateMemory } from '../../src/monitor/private-memory.ts';
import type { Manifest } from '../../src/policy/manifest.ts';
import {
  recordBucket,
  SHADOW,
  SHADOW_RANGES,
  SHADOW_RECORDS,
  SHADOW_RECORDS_SIZE,
  SHADOW_TEXT,
  SHADOW_TRAPS,
} from '../../src/policy/shadow-stack.ts';
import { code as hexCode, Guest, HANDLER_PORT, HIGH, STACK } from '../conformance/guest.ts';
import { strayTransfers } from './transfers.ts';

const PAGE = 4096;
const BASE = -0x4000_0000;
/** A second place for init memory, as the kernel gives it. */
const INIT = -0x3000_0000;
const KERNEL = -0x7f00_0000;
const TOP = HIGH + STACK;
const engines: Engine[] = [];
afterAll(() => {
  for (const engine of engines) engine.close();
});

/** Functions that call each other in every way that there is. Each ends in `leave`, but for those without __fentry__. */
function tinyModule(): TinyModule {
  const tiny = new TinyModule();
  const [fentry, back, thunk] = ['__fentry__', '__x86_return_thunk', '__x86_indirect_thunk_rax'].map((name) => tiny.kernel(name));
  const recorded = (name: string, build: (code: Parameters<Parameters<TinyModule['function']>[1]>[0]) => void, section = tiny.text) =>
    tiny.function(
      name,
      (code) => {
        code.call(fentry);
        build(code);
      },
      section,
    );
  const inner = recorded('inner', (code) => code.emit(0x90).jump(back));
  recorded('outer', (code) => code.call(inner).emit(0x90).call(inner).jump(back));
  const other = recorded('other', (code) => code.emit(0x90).jump(back));
  recorded('callsOther', (code) => code.call(other).jump(back));
  recorded('byPointer', (code) => code.emit(0x48, 0xc7, 0xc0).field(R.abs32s, inner, 0).call(thunk).jump(back));
  const tail = recorded('tail', (code) => code.jump(inner));
  recorded('callsTail', (code) => code.call(tail).emit(0x90).jump(back));
  const plain = tiny.function('plain', (code) => code.jump(inner));
  recorded('callsPlain', (code) => code.call(plain).jump(back));
  const bare = tiny.function('bare', (code) => code.emit(0x90).jump(back));
  recorded('callsBare', (code) => code.call(bare).jump(back));
  recorded('callsKernel', (code) => code.call(tiny.kernel('kfunc')).call(tiny.kernel('kfunc')).jump(back));
  recorded('leaves', (code) => code.jump(tiny.kernel('kfunc')));
  tiny.function('bareLeaves', (code) => code.jump(tiny.kernel('kfunc')));
  const unlikely = tiny.add('.text.unlikely', tiny.text.flags);
  const cold = tiny.function('withCold.cold', (code) => code.jump(back), unlikely);
  recorded('withCold', (code) => code.jump(cold));
  const init = tiny.add('.init.text', tiny.text.flags);
  recorded('fromInit', (code) => code.call(inner).jump(back), init);
  return tiny;
}

const { image: bytes, manifest, warnings } = linkModule(tinyModule().bytes(), 'tiny.ko', { shadowStack: true });
const image = imageFromElf(bytes, manifest);
const indexOf = (name: string) => image.sections.findIndex((section) => section.name === name);

/** Section addresses as a kernel would choose them: whole pages each, init memory apart. */
const bases = (() => {
  const next = { core: BASE, init: INIT };
  return Float64Array.from(image.sections, ({ size, init, role }) => {
    if (role === 'metadata' || size === 0) return Number.NaN;
    const base = init ? next.init : next.core;
    next[init ? 'init' : 'core'] += Math.ceil(size / PAGE) * PAGE;
    return base;
  });
})();
const at = (section: string, offset = 0) => (bases[indexOf(section)] as number) + offset;
const object = readObject(bytes, 'tiny.ko');
function address(name: string): number {
  const symbol = object.symbols.find((candidate) => candidate.name === name);
  if (!symbol || typeof symbol.place === 'string') throw new Error(`there is no ${name}`);
  return at(symbol.place.name, symbol.value);
}
/** Return address of the first call of `callee` in `caller`. */
function behindCall(caller: string, callee: string, skip = 0): number {
  const start = address(caller);
  for (let from = start, left = skip; from < start + 64; from++) {
    if (memory[offsetOf(from)] !== 0xe8) continue;
    if (from + 5 + new DataView(memory.buffer).getInt32(offsetOf(from) + 1, true) === address(callee) && left-- === 0) return from + 5;
  }
  throw new Error(`${caller} does not call ${callee}`);
}

/** All sections, relocated: [address, bytes] by page. */
const memory = new Uint8Array(1 << 20);
const offsetOf = (place: number) => (place >= INIT ? place - INIT + (1 << 19) : place - BASE);
relocate(image);
function relocate({ sections }: ImageSource): void {
  const view = new DataView(memory.buffer);
  for (const [index, section] of sections.entries()) {
    const base = bases[index] as number;
    if (Number.isNaN(base)) continue;
    memory.set(section.bytes, offsetOf(base));
    for (const { offset, type, section: target, addend } of section.relocations) {
      const value = (target < 0 ? KERNEL : (bases[target] as number)) + addend;
      const place = base + offset;
      if (type === RELOCATION.R64) view.setBigInt64(offsetOf(place), BigInt(value), true);
      else view.setInt32(offsetOf(place), type === RELOCATION.R32S ? value : value - place, true);
    }
  }
}

const { read, write, execute } = PERMISSION;

/** A CPU in the module's view, and what the monitor would have. */
class Module {
  readonly guest: Guest;
  readonly linked: LinkedShadowStack;
  private readonly pages: { address: number; bytes: Uint8Array }[];

  constructor() {
    const engine = createSoftEngine({ memorySize: 32 * 2 ** 20, cpus: 1, clock: 'instructions', hostPages: 128 });
    engines.push(engine);
    this.guest = new Guest(engine).longMode();
    const wanted = image.sections.flatMap(({ role, size }, index) =>
      Number.isNaN(bases[index]) || role === 'data'
        ? []
        : Array.from({ length: Math.ceil(size / PAGE) }, (_, page) => ({ role, address: (bases[index] as number) + page * PAGE })),
    );
    const hosts = engine.allocateHostPages(wanted.length);
    const placed = wanted.map(({ role, address: where }, index) => {
      const page = hosts[index] as HostPage;
      page.bytes.set(memory.subarray(offsetOf(where), offsetOf(where) + PAGE));
      return { address: where, page, permission: role === 'private' ? read | write : role === 'constants' ? read : read | execute, role };
    });
    const view = engine.createView('module');
    view.setFixedPages(placed);
    this.pages = placed.filter(({ role }) => role === 'private').map(({ address: where, page }) => ({ address: where, bytes: page.bytes }));
    const linked = LinkedShadowStack.of(image, bases, new PrivateMemory(image, bases, this.pages));
    if (!linked) throw new Error('the module has no shadow stack');
    this.linked = linked;
    this.guest.cpu.enter(view);
  }

  get rip(): number {
    return Number(BigInt.asIntN(64, this.guest.get('rip')));
  }
  get rsp(): number {
    return Number(BigInt.asIntN(64, this.guest.get('rsp')));
  }
  word(where: number): number {
    return Number(BigInt.asIntN(64, this.guest.get64(where - HIGH)));
  }
  /** Another CPU writes to the kernel's stack. */
  rewrite(where: number, value: number): void {
    this.guest.put64(where - HIGH, BigInt(value));
  }

  /** The kernel has called a function: as the monitor enters it. */
  enter(name: string, rsp = TOP, entries: number[] = []): void {
    this.rewrite(rsp, at('.text.guard'));
    this.guest.set('rsp', rsp);
    const rip = this.linked.enter(address(name), rsp, at('.text.guard'), () => Float64Array.from(entries));
    this.guest.set('rip', rip);
  }

  /** To an exit that is no call of an own function by its gate: those go on in the function, as the monitor has them do. */
  run(): Exit {
    this.guest.set('rflags', this.guest.get('rflags') & ~0x100n);
    const exit = this.guest.run();
    const gate = exit.kind === 'io' ? manifest.gates[(exit.address - RETURN_GATE) / 16] : undefined;
    if (gate?.kind !== 'entry') return exit;
    this.guest.set('rip', address(gate.symbol));
    return this.run();
  }

  /** One instruction. Gives what else than its end has happened. */
  step(): Exit | undefined {
    this.guest.set('rflags', this.guest.get('rflags') | 0x100n);
    const { cpu, engine } = this.guest;
    const exit = this.guest.run();
    if (exit.kind !== 'event' || exit.event.vector !== 1) return exit;
    // The trap leaves the module, the kernel's handler writes below the stack pointer, and the module goes on.
    const { view } = cpu;
    const saved = cpu.registers.words.slice();
    cpu.enter(engine.untrusted);
    cpu.deliver(exit.event);
    expect(this.guest.run()).toMatchObject({ kind: 'io', port: HANDLER_PORT });
    cpu.registers.words.set(saved);
    cpu.enter(view);
    return undefined;
  }

  /** Steps until an instruction begins at `place`. */
  runTo(place: number): void {
    for (let steps = 0; steps < 300; steps++) {
      if (this.rip === place) return;
      const exit = this.step();
      if (exit)
        throw new Error(
          `${JSON.stringify(exit, (_, value) => (typeof value === 'bigint' ? `${value}` : value))} before ${place.toString(16)}`,
        );
    }
    throw new Error(`${place.toString(16)} was not reached`);
  }

  /** Records in use: slot and return address. */
  records(): [number, number][] {
    return this.pages.flatMap(({ address: where, bytes: page }) => {
      if (where < at(SHADOW_RECORDS) || where >= at(SHADOW_RECORDS) + SHADOW_RECORDS_SIZE) return [];
      const words = new Uint32Array(page.buffer, page.byteOffset, PAGE / 4);
      const found: [number, number][] = [];
      for (let word = 0; word < words.length; word += 4) {
        const [low, high, backLow, backHigh] = words.subarray(word, word + 4) as unknown as [number, number, number, number];
        if (low !== 0 || high !== 0) found.push([joinAddress(low, high), joinAddress(backLow, backHigh)]);
      }
      return found;
    });
  }

  /** Writes a record into the bucket of `slot`, at `position`. */
  setRecord(slot: number, position: number, pointer: number, back: number): void {
    const where = at(SHADOW_RECORDS) + recordBucket(slot) + 16 * position;
    const page = this.pages.find(({ address: start }) => start === Math.floor(where / PAGE) * PAGE);
    const view = new DataView((page as { bytes: Uint8Array }).bytes.buffer, (page as { bytes: Uint8Array }).bytes.byteOffset);
    view.setBigInt64(where % PAGE < 0 ? (where % PAGE) + PAGE : where % PAGE, BigInt(pointer), true);
    view.setBigInt64((where % PAGE < 0 ? (where % PAGE) + PAGE : where % PAGE) + 8, BigInt(back), true);
  }
}

const RETURN_GATE = at('.text.guard');
const trapOf = (module: Module, exit: Exit) =>
  exit.kind === 'event' && exit.event.vector === 6 ? module.linked.trap(module.rip) : `${exit.kind} at ${module.rip.toString(16)}`;
/** The module has come to its return gate with the stack as it was. */
const expectReturned = (module: Module, exit: Exit, rsp = TOP) => {
  expect(exit).toMatchObject({ kind: 'io', port: 0x5e, address: RETURN_GATE });
  expect([module.rsp, module.records()]).toEqual([rsp + 8, []]);
};

describe('what the module does by itself goes on as without', () => {
  test.each(['inner', 'outer', 'callsOther', 'byPointer', 'tail', 'callsTail', 'callsPlain', 'callsBare', 'withCold', 'fromInit'])(
    '%s',
    (name) => {
      const module = new Module();
      module.enter(name);
      expect(module.records()).toEqual([[TOP, RETURN_GATE]]);
      expectReturned(module, module.run());
    },
  );

  test('an instruction at a time, with every register that a callee keeps or a caller gives in place', () => {
    const module = new Module();
    module.enter('outer');
    const kept = ['rbx', 'rbp', 'r12', 'r13', 'r14', 'r15', 'rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9'] as const;
    for (const [index, register] of kept.entries()) module.guest.set(register, 0x1111 * (index + 1));
    let exit: Exit | undefined;
    let steps = 0;
    while (exit === undefined && steps++ < 500) {
      exit = module.step();
      // The word above the stack pointer is a return address wherever the unwinder says so; past `gone` R11 says where the caller goes on.
      if (module.linked.gone(module.rip))
        expect([behindCall('outer', 'inner'), behindCall('outer', 'inner', 1), RETURN_GATE]).toContain(
          Number(BigInt.asIntN(64, module.guest.get('r11'))),
        );
    }
    for (const [index, register] of kept.entries()) expect(module.guest.get(register)).toBe(BigInt(0x1111 * (index + 1)));
    expectReturned(module, exit as Exit);
  });

  test('the result of a function is left alone', () => {
    const module = new Module();
    module.enter('inner');
    module.runTo(at(SHADOW_TEXT, SHADOW.leave));
    module.guest.set('rax', 0x1234_5678_9abcn);
    module.guest.set('rdx', 77);
    module.run();
    expect([module.guest.get('rax'), module.guest.get('rdx')]).toEqual([0x1234_5678_9abcn, 77n]);
  });
});

describe('another CPU writes to the stack', () => {
  const inInner = (module: Module) => {
    module.enter('outer');
    module.runTo(address('inner') + 5); // behind its stub
    return module.rsp;
  };

  test.each([
    ['to another call site of the module', () => behindCall('callsOther', 'other')],
    ['to another call of the same function', () => behindCall('outer', 'inner', 1)],
    ['to the kernel', () => KERNEL],
    ['to the return gate', () => RETURN_GATE],
    ['to no address', () => 0],
  ])('a return address is changed %s: the return finds it', (_, value) => {
    const module = new Module();
    const slot = inInner(module);
    module.rewrite(slot, value());
    expect(trapOf(module, module.run())).toBe('differs');
    expect(module.rsp).toBe(slot);
  });

  test('at any instruction of a call: it goes where it should, or stops', () => {
    const legal = behindCall('outer', 'inner');
    const elsewhere = behindCall('callsOther', 'other');
    const seen = new Set<string>();
    for (let when = 0; when < 80; when++) {
      const module = new Module();
      module.enter('outer');
      module.runTo(address('inner')); // the call has pushed its return address, and nothing has read it
      const slot = module.rsp;
      expect(module.word(slot)).toBe(legal);
      let exit: Exit | undefined;
      for (let step = 0; exit === undefined && module.rip !== legal && module.rip !== elsewhere && step < 200; step++) {
        if (step === when) module.rewrite(slot, elsewhere);
        exit = module.step();
      }
      expect(module.rip).not.toBe(elsewhere);
      seen.add(exit === undefined ? 'returned' : `${trapOf(module, exit)}`);
    }
    expect([...seen].sort()).toEqual(['differs', 'foreign', 'returned']);
  });

  test('the return address of an entry is not read from the stack at all', () => {
    const module = new Module();
    module.enter('inner');
    module.rewrite(TOP, behindCall('outer', 'inner'));
    expect(trapOf(module, module.run())).toBe('differs');
  });

  /** What may stand on the stack when `inner` is called, and has just not been read. */
  test.each<[string, string, () => number]>([
    ['another call of the same function', 'taken', () => behindCall('outer', 'inner', 1)],
    ['a call from init text', 'taken', () => behindCall('fromInit', 'inner')],
    ['a call by pointer', 'taken', () => behindCall('byPointer', 'guard.jmp.rax')],
    ['a call of a function that has no record', 'taken', () => behindCall('callsPlain', 'plain')],
    ['a call of another function', 'foreign', () => behindCall('callsOther', 'other')],
    ['a call of a function that jumps there, from elsewhere', 'foreign', () => behindCall('callsTail', 'tail')],
    ['a call of the kernel', 'foreign', () => address('callsKernel') + 10],
    ['no call', 'foreign', () => behindCall('outer', 'inner') + 1],
    ["the function's own start", 'foreign', () => address('inner') + 5],
    ['the start of a section', 'foreign', () => at('.text')],
    ['the kernel', 'foreign', () => KERNEL],
    ['the gates', 'foreign', () => RETURN_GATE + 16],
    ['private memory', 'foreign', () => at(SHADOW_RECORDS)],
    ['nothing', 'foreign', () => 0],
  ])('between the call and the first look at it, to %s: %s', (_, outcome, value) => {
    const module = new Module();
    module.enter('outer');
    module.runTo(address('inner'));
    module.rewrite(module.rsp, value());
    if (outcome === 'taken') {
      module.runTo(address('inner') + 5);
      expect(module.records()).toContainEqual([module.rsp, value()]);
    } else expect(trapOf(module, module.run())).toBe(outcome);
  });

  test('a return address in init text is good until init is over', () => {
    for (const over of [false, true]) {
      const module = new Module();
      if (over) module.linked.dropInit();
      module.enter('outer');
      module.runTo(address('inner'));
      module.rewrite(module.rsp, behindCall('fromInit', 'inner'));
      if (over) expect(trapOf(module, module.run())).toBe('foreign');
      else module.runTo(address('inner') + 5);
    }
  });
});

describe('records', () => {
  test('what a call that never returned has left is written over', () => {
    const module = new Module();
    module.setRecord(TOP - 8, 0, TOP - 8, 0x1234);
    module.enter('outer');
    module.runTo(address('inner') + 5);
    expect(module.records()).toContainEqual([TOP - 8, behindCall('outer', 'inner')]);
    expectReturned(module, module.run());
  });

  test('other stacks in the same bucket: the next free place, and back', () => {
    const module = new Module();
    const slot = TOP - 8;
    for (let position = 0; position < 15; position++) module.setRecord(slot, position, -1000 - 8 * position, -5);
    module.enter('outer');
    expectReturnedBeside(module, module.run(), 15);
  });

  const expectReturnedBeside = (module: Module, exit: Exit, others: number) => {
    expect(exit).toMatchObject({ kind: 'io', address: RETURN_GATE });
    expect(module.records()).toHaveLength(others);
  };

  test('a place that another CPU is about to fill is left alone', () => {
    const module = new Module();
    module.setRecord(TOP - 8, 0, -(2 ** 63), 0);
    module.enter('outer');
    module.runTo(address('inner') + 5);
    expect(module.run()).toMatchObject({ kind: 'io', address: RETURN_GATE });
    expect(module.records()).toHaveLength(1);
  });

  test('the newest of two with one stack pointer is the valid one', () => {
    const module = new Module();
    module.setRecord(TOP - 8, 3, TOP - 8, 0x1234);
    module.enter('outer');
    module.runTo(address('inner') + 5);
    expect(module.run()).toMatchObject({ kind: 'io', address: RETURN_GATE });
    expect(module.records()).toEqual([[TOP - 8, 0x1234]]);
  });

  test('a full bucket: the dead are swept and the stub begins anew; of the living none is lost', () => {
    const module = new Module();
    const slot = TOP - 8;
    const alive = HIGH + 0x80_0000;
    module.enter('outer');
    for (let position = 0; position < 16; position++)
      module.setRecord(slot, position, position < 8 ? -0x7000 - 8 * position : alive - 8 * position - 8, -5);
    expect(trapOf(module, module.run())).toBe('full');
    expect(module.linked.sweep(Float64Array.of(alive, TOP + 8).sort(), module.rsp)).toBe(true);
    module.guest.set('rip', module.linked.again);
    expectReturnedBeside(module, module.run(), 8);

    for (let position = 0; position < 16; position++) module.setRecord(slot, position, alive - 8 * position - 8, -5);
    module.enter('outer');
    expect(trapOf(module, module.run())).toBe('full');
    expect(module.linked.sweep(Float64Array.of(alive, TOP + 8).sort(), module.rsp)).toBe(false);
    expect(module.records()).toHaveLength(17);
  });

  test('an entry finds room in the same way, or none', () => {
    const module = new Module();
    for (let position = 0; position < 16; position++) module.setRecord(TOP, position, -0x7000 - 8 * position, -5);
    module.enter('inner');
    expectReturned(module, module.run());
    for (let position = 0; position < 16; position++) module.setRecord(TOP, position, -0x7000 - 8 * position, -5);
    expect(module.linked.enter(address('inner'), TOP, RETURN_GATE, () => Float64Array.of(-0x6f00))).toBeNaN();
    expect(module.linked.enter(address('bare'), TOP, RETURN_GATE, () => Float64Array.of())).toBe(address('bare'));
  });

  test('a return without a record stops', () => {
    const module = new Module();
    module.enter('inner');
    module.setRecord(TOP, 0, 0, 0);
    expect(trapOf(module, module.run())).toBe('differs');
  });

  test('ten thousand threads asleep at one depth of the same function find room', () => {
    // Kernel stacks of 16 KiB, aligned to that, with a guard page between: 32 KiB apart.
    const used = new Map<number, number>();
    for (let thread = 0; thread < 10_000; thread++) {
      const bucket = recordBucket(-0x3700_0000_0000 + thread * 0x8000 + 0x3e58);
      used.set(bucket, (used.get(bucket) ?? 0) + 1);
    }
    expect(Math.max(...used.values())).toBeLessThanOrEqual(16);
    expect([...used.keys()].every((bucket) => bucket % 256 === 0 && bucket >= 0 && bucket < SHADOW_RECORDS_SIZE)).toBe(true);
  });
});

describe('ways out', () => {
  const gatesOf = (symbol: string) =>
    manifest.gates.flatMap((gate, index) => (gate.symbol === symbol && gate.kind === 'call' ? [{ ...gate, index }] : []));

  test('each call of the kernel has a gate that says where it returns to', () => {
    const module = new Module();
    const gates = gatesOf('kfunc');
    expect(gates).toHaveLength(4); // two calls, a jump with a record, one without
    for (const back of [address('callsKernel') + 10, address('callsKernel') + 15]) {
      const allowed = gates.filter(({ index, recorded }) => !recorded && module.linked.mayLeave(index, TOP - 8, back));
      // The other one that lets it pass is that of the function without a record.
      expect(allowed).toHaveLength(2);
    }
    expect(gates.filter(({ index }) => module.linked.mayLeave(index, TOP - 8, behindCall('outer', 'inner')))).toHaveLength(1);
  });

  test('a jump into the kernel uses the record up, and needs it', () => {
    const module = new Module();
    const gate = gatesOf('kfunc').find(({ recorded }) => recorded)?.index as number;
    module.enter('leaves');
    expect(module.run()).toMatchObject({ kind: 'io', address: RETURN_GATE + 16 * gate });
    expect(module.linked.mayLeave(gate, TOP, behindCall('outer', 'inner'))).toBe(false);
    expect(module.linked.mayLeave(gate, TOP, RETURN_GATE)).toBe(true);
    expect(module.records()).toEqual([]);
    expect(module.linked.mayLeave(gate, TOP, RETURN_GATE)).toBe(false);
  });

  test('by pointer: a record that fits is used up, another is of a call long past', () => {
    const module = new Module();
    module.enter('inner');
    expect(module.linked.mayLeave(-1, TOP, KERNEL)).toBe(true);
    expect(module.records()).toHaveLength(1);
    expect(module.linked.mayLeave(-1, TOP, RETURN_GATE)).toBe(true);
    expect(module.records()).toEqual([]);
  });
});

describe('the file', () => {
  test('functions without a record are named', () => {
    expect(warnings).toEqual([expect.stringMatching(/^3 function\(s\) do not call __fentry__ .*: bare, bareLeaves, plain$/)]);
    expect(linkModule(tinyModule().bytes(), 'tiny.ko').warnings).toEqual([]);
  });

  test('links to the same bytes again, without the option as ever, and no branch goes astray', () => {
    expect(linkModule(tinyModule().bytes(), 'tiny.ko', { shadowStack: true }).image).toEqual(bytes);
    const { image: other, manifest: without } = linkModule(tinyModule().bytes(), 'tiny.ko', { shadowStack: false });
    expect([without.shadowStack, readObject(other, 'other').section(SHADOW_TEXT)]).toEqual([undefined, undefined]);
    expect(manifest.shadowStack).toBe(true);
    expect(strayTransfers(tinyModule().bytes(), bytes, manifest)).toEqual([]);
  });

  const routines = (object.section(SHADOW_TEXT) as { data: Uint8Array }).data;
  function listing(from: number, to: number): { at: number; text: string; mnemonic: Mnemonic }[] {
    const decoder = new Decoder(64, routines.subarray(from, to), DecoderOptions.None);
    decoder.ip = BigInt(from);
    const formatter = new Formatter(FormatterSyntax.Gas);
    return decoder
      .decodeAll()
      .map((instruction) => ({ at: Number(instruction.ip), text: formatter.format(instruction), mnemonic: instruction.mnemonic }));
  }

  test('another disassembler: no stack but one look at its top, no register but those that may change, and traps where the VMM looks for them', () => {
    const whole = listing(0, routines.length);
    expect(
      whole
        .filter(({ text }) => /push|pop|call|ret|\(%rsp\)/.test(text))
        .map(({ at: place, text }) => [place < SHADOW.stubs ? 'routine' : 'stub', text]),
    ).toEqual([
      ['routine', 'cmp (%rsp),%r11'],
      ['routine', 'lea 8(%rsp),%rsp'],
      ...Array.from({ length: (routines.length - SHADOW.stubs) / 16 }, () => ['stub', 'mov (%rsp),%r10']),
    ]);
    for (const { text } of whole) expect(text).not.toMatch(/%[re]?[bcd]x|%[re]?[sd]i|%[re]?bp|%r1[2-5]|%r[89]/);
    for (const { text, at: place } of whole) if (place >= SHADOW.leave && place < SHADOW.stubs) expect(text).not.toMatch(/%[re]?ax|%al/);
    expect(whole.filter(({ mnemonic }) => mnemonic === Mnemonic.Ud2).map(({ at: place }) => place)).toEqual(
      Object.values(SHADOW_TRAPS).sort((a, b) => a - b),
    );
    expect(whole.filter(({ at: place }) => place === SHADOW.gone).map(({ text }) => text)).toEqual(['jmp *%r11']);
    const constant = listing(SHADOW.leave, SHADOW.leave + 16).map(({ text }) => text);
    expect(constant.slice(0, 3)).toEqual(['imul $0x9E3779B1,%esp,%r10d', 'shr $0xE,%r10d', 'xor %r10b,%r10b']);
  });

  test.each<[string, (changed: ReturnType<typeof readObject>, manifest: Manifest) => void, RegExp]>([
    ['a byte of a routine', (changed) => change(changed, SHADOW_TEXT, 0x29), /something other than the routines/],
    [
      'a stub that leads into another function',
      (changed) => redirect(changed, SHADOW_TEXT, ({ offset }) => offset >= SHADOW.stubs),
      /leads into .text.shadow/,
    ],
    ['a routine that looks elsewhere', (changed) => redirect(changed, SHADOW_TEXT, ({ offset }) => offset === 0xb0), /relocated otherwise/],
    ['a range that is longer', (changed) => redirect(changed, SHADOW_RANGES, ({ offset }) => offset === 8), /relocated otherwise/],
    ['records that are not zero', (changed) => fill(changed, SHADOW_RECORDS), /is not 262144 bytes of zeros/],
    [
      'a return that goes to a stub',
      (changed) => redirect(changed, '.text', ({ symbol }) => symbol.name === 'guard.leave', 16 - (SHADOW.leave - SHADOW.stubs) - 32),
      /leads into .text.shadow/,
    ],
    ['two calls by one gate', (changed) => share(changed), /is called, and reached from elsewhere too/],
    ['a manifest that does not say so', (_, said) => delete said.shadowStack, /disagree about a shadow stack/],
    ['a gate said to be jumped to', (_, said) => markRecorded(said), /is called, and said to be jumped to/],
  ])('%s is found', async (_, edit, message) => {
    const { writeObject } = await import('../../src/elf/write.ts');
    const { createHash } = await import('node:crypto');
    const changed = readObject(bytes, 'tiny.ko');
    const said = structuredClone(manifest);
    edit(changed, said);
    const file = writeObject(changed);
    expect(verifyLinked(file, { ...said, image: createHash('sha256').update(file).digest('hex') }, 'tiny.ko').join('\n')).toMatch(message);
  });
  type Changed = ReturnType<typeof readObject>;
  const sectionOf = (changed: Changed, name: string) => changed.section(name) as NonNullable<ReturnType<Changed['section']>>;
  function change(changed: Changed, name: string, offset: number): void {
    const { data } = sectionOf(changed, name);
    data[offset] = (data[offset] as number) ^ 1;
  }
  function redirect(
    changed: Changed,
    name: string,
    which: (relocation: { offset: number; symbol: { name: string } }) => boolean,
    by = 16,
  ): void {
    const relocation = sectionOf(changed, name).relocations.find(which);
    if (!relocation) throw new Error('there is nothing to redirect');
    relocation.addend += by;
  }
  function fill(changed: Changed, name: string): void {
    const section = sectionOf(changed, name);
    section.type = SHT.progbits;
    section.data = new Uint8Array(section.reserved).fill(1);
  }
  function share(changed: Changed): void {
    const [first, second] = sectionOf(changed, '.text').relocations.filter(({ symbol }) => symbol.name === 'guard.out.kfunc');
    if (!first || !second) throw new Error('there are no two calls');
    second.symbol = first.symbol;
    second.addend = first.addend;
  }
  function markRecorded(said: Manifest): void {
    const gate = said.gates.find(({ kind, recorded, symbol }) => kind === 'call' && !recorded && symbol === '_printk');
    if (!gate) throw new Error('there is no gate');
    gate.recorded = true;
  }

  test('bytes of a tiny module, once by hand: a stub', () => {
    expect(routines.subarray(SHADOW.stubs, SHADOW.stubs + 7)).toEqual(hexCode('4c 8b 14 24 4c 8d 1d'));
  });
});
