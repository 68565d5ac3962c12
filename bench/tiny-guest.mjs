// A kernel of a few instructions with a tiny guarded module, linked and loaded as any other: nothing runs but border crossings.
import { createSoftEngine } from '../dist/engine/soft/engine.js';
import { PageTables } from '../dist/engine/fake/page-tables.js';
import { REG, SEG, setRegisterAddress } from '../dist/engine/contract.js';
import { R, STT } from '../dist/elf/constants.js';
import { silentLog } from '../dist/base/log.js';
import { linkModule } from '../dist/linker/link.js';
import { FLAGS, TinyModule } from '../dist/linker/testing.js';
import { imageFromElf } from '../dist/monitor/image-elf.js';
import { RELOCATION } from '../dist/monitor/image.js';
import { createMonitor } from '../dist/monitor/monitor.js';

export const DONE_PORT = 0xf1;
export const PLAIN_PORT = 0xf2;
export const VECTOR = 0x40;
const SINGLE_STEP = 1;

// Guest physical and linear addresses. The kernel's half is where Linux puts text, modules and stacks.
const ROOT = 0x1000;
const TABLES = { start: 0x1_0000, end: 0x8_0000 };
const DESCRIPTORS = { gpa: 0x10_0000, address: -0x7e00_0000, idt: 0x1000 };
const KERNEL = { gpa: 0x11_0000, address: -0x7f00_0000 };
const STACK = { gpa: 0x12_0000, address: -0x3700_0000_0000, size: 0x4000 };
const MODULE = { gpa: 0x20_0000, address: -0x3ff0_0000 };
/** Stacks of threads that never come back: as many as wanted, all on one page of RAM. */
const LOST = { gpa: 0x13_0000, address: -0x3600_0000_0000, apart: 0x4000 };
/** A page of device registers, outside RAM. */
const DEVICE = { gpa: 0xf000_0000, address: -0x7d00_0000 };
const PAGE = 4096;
const CODE = 0x08;
const DATA = 0x10;

/** The kernel, by offset in its page. */
const CODE_AT = {
  kfunc: { at: 0x00, bytes: [0xc3] }, // ret
  _printk: { at: 0x10, bytes: [0x31, 0xc0, 0xc3] }, // xor %eax, %eax; ret
  handler: { at: 0x20, bytes: [0x48, 0xcf] }, // iretq
  call: { at: 0x30, bytes: [0xff, 0xd3, 0x49, 0xff, 0xcc, 0x75, 0xf9, 0xe6, DONE_PORT] }, // 1: call *%rbx; dec %r12; jnz 1b; out
  plain: { at: 0x40, bytes: [0xe6, PLAIN_PORT, 0x49, 0xff, 0xcc, 0x75, 0xf9, 0xe6, DONE_PORT] }, // 1: out; dec %r12; jnz 1b; out
  device: { at: 0x50, bytes: [0x89, 0x03, 0x49, 0xff, 0xcc, 0x75, 0xf9, 0xe6, DONE_PORT] }, // 1: mov %eax, (%rbx); dec %r12; jnz 1b; out
};

/** `empty` returns at once; `calls` calls it %rdi times; `outer` calls `inner`, which calls the kernel %rdi times; `spin` counts %rdi down. */
function tinyModule() {
  const tiny = new TinyModule();
  const fentry = tiny.kernel('__fentry__');
  const back = tiny.kernel('__x86_return_thunk');
  const frames = [[0, 8]]; // where in the text which frame size begins, from RSP
  const define = (name, build) =>
    tiny.function(name, (code) => {
      frames.push([code.offset, 8]);
      const pushed = (bytes, size, pop, body) => {
        code.emit(...bytes);
        frames.push([code.offset, size]);
        body();
        code.emit(...pop);
        frames.push([code.offset, 8]);
      };
      code.call(fentry);
      build(code, pushed);
      code.jump(back);
    });
  const empty = define('empty', () => {});
  const inner = define('inner', (code, pushed) =>
    pushed([0x53], 16, [0x5b], () => {
      // push %rbx ... pop %rbx
      code.emit(0x48, 0x89, 0xfb); // mov %rdi, %rbx
      code.call(tiny.kernel('kfunc')).emit(0x48, 0xff, 0xcb, 0x75, 0xf6); // 1: call kfunc; dec %rbx; jnz 1b
    }),
  );
  const outer = define('outer', (code, pushed) =>
    pushed([0x41, 0x54], 16, [0x41, 0x5c], () => {
      code.call(inner);
    }),
  ); // push %r12 ... pop %r12
  const calls = define('calls', (code, pushed) =>
    pushed([0x53], 16, [0x5b], () => {
      code.emit(0x48, 0x89, 0xfb); // mov %rdi, %rbx
      code.call(empty).emit(0x48, 0xff, 0xcb, 0x75, 0xf6); // 1: call empty; dec %rbx; jnz 1b
    }),
  );
  const spin = define('spin', (code) => {
    code.emit(0x48, 0xff, 0xcf, 0x75, 0xfb);
  }); // 1: dec %rdi; jnz 1b
  const pointers = tiny.code(tiny.add('.data', FLAGS.data));
  for (const symbol of [empty, calls, outer, spin]) pointers.pointer(symbol);
  const text = tiny.symbol('', STT.section, tiny.text, 0);
  const places = tiny.code(tiny.add('.orc_unwind_ip', FLAGS.rodata));
  const entries = tiny.code(tiny.add('.orc_unwind', FLAGS.rodata));
  for (const [offset, size] of frames) {
    places.field(R.pc32, text, offset);
    entries.emit(size, 0, 0, 0, 5, 0); // counted from RSP
  }
  return tiny.bytes();
}

/** The machine with the module loaded `count` times, to be made live by calling `init_module`; `which` of `prepare` says whose entry. `policy` is for linking it. */
export function tinyGuest(count = 1, policy = {}) {
  const { image: file, manifest } = linkModule(tinyModule(), 'tiny.ko', policy);
  const image = imageFromElf(file, manifest);
  const engine = createSoftEngine({ memorySize: 32 << 20, cpus: 1, clock: 'host' });
  const [cpu] = engine.cpus;
  const decision = { granted: true, privileges: [], onViolation: 'stop' };
  const monitor = createMonitor({ engine, modules: [{ image, digest: manifest.image, decision }], log: silentLog, audit: () => {} });
  const tables = new PageTables(engine.memory, ROOT, TABLES.start, TABLES.end);
  const put = (gpa, bytes) => {
    engine.memory.bytes.set(bytes, gpa);
    engine.memory.written(gpa, bytes.length);
  };

  tables.map(KERNEL.address, KERNEL.gpa);
  for (const { at, bytes } of Object.values(CODE_AT)) put(KERNEL.gpa + at, bytes);
  for (let page = 0; page < STACK.size; page += PAGE) tables.map(STACK.address + page, STACK.gpa + page);
  for (const page of [0, PAGE]) tables.map(DESCRIPTORS.address + page, DESCRIPTORS.gpa + page);
  tables.map(DEVICE.address, DEVICE.gpa);
  putDescriptors(engine.memory);
  const loads = Array.from({ length: count }, (_, index) => moduleLoader(image, tables, put, index * roomOf(image)));
  startLongMode(cpu);

  const gateOf = (symbol, which) => {
    const { offset } = manifest.gates.find((gate) => gate.kind === 'entry' && gate.symbol === symbol);
    return loads[which][image.gateSection] + offset;
  };
  const set = (register, value) => setRegisterAddress(cpu.registers, REG[register], value);
  /** Puts the CPU at kernel code `name`, to go round `times`. `entry`: what `call` calls; `argument`: its %rdi. */
  const prepare = (name, times, entry, argument = 0, which = 0) => {
    set('rip', KERNEL.address + CODE_AT[name].at);
    set('rsp', STACK.address + STACK.size - 0x100);
    set('rflags', 0x202);
    set('r12', times);
    set('rdi', argument);
    set('rbx', entry ? gateOf(entry, which) : DEVICE.address);
  };
  /** As `prepare`, on a stack of its own that nobody comes back to. */
  const prepareLost = (thread, entry, argument) => {
    const page = LOST.address + thread * LOST.apart;
    tables.map(page, LOST.gpa);
    prepare('call', 1, entry, argument);
    set('rsp', page + PAGE - 0x100);
  };
  /** The kernel is at the function that the module calls. */
  const inKernel = () => Number(BigInt.asIntN(64, cpu.registers.words[REG.rip])) === KERNEL.address + CODE_AT.kfunc.at;
  return { engine, cpu, monitor, prepare, prepareLost, inKernel };
}

const wholePages = (size) => Math.ceil(Math.max(size, 1) / PAGE) * PAGE;
const roomOf = ({ sections }) => sections.reduce((room, { size }) => room + wholePages(size), 0);

/** What the kernel's module loader does: places sections on pages of their own and relocates them. Gives their addresses. */
function moduleLoader(image, tables, put, shift) {
  let next = 0;
  const offsets = image.sections.map(({ size }) => {
    const offset = next;
    next += wholePages(size);
    return offset;
  });
  for (let page = 0; page < next; page += PAGE) tables.map(MODULE.address + shift + page, MODULE.gpa + shift + page);
  const bases = offsets.map((offset) => MODULE.address + shift + offset);
  for (const [index, section] of image.sections.entries()) {
    const bytes = section.bytes.slice();
    const words = new DataView(bytes.buffer);
    for (const { offset, type, section: to, symbol, addend } of section.relocations) {
      const target = (to >= 0 ? bases[to] : KERNEL.address + CODE_AT[symbol].at) + addend;
      if (type === RELOCATION.R64) words.setBigInt64(offset, BigInt(target), true);
      else words.setInt32(offset, type === RELOCATION.R32S ? target : target - (bases[index] + offset), true);
    }
    put(MODULE.gpa + shift + offsets[index], bytes);
  }
  return bases;
}

/** Flat segments and interrupt gates (Intel SDM vol. 3, 3.4.5 and 6.14.1). */
function putDescriptors(memory) {
  const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset);
  view.setBigUint64(DESCRIPTORS.gpa + CODE, 0x00af_9b00_0000_ffffn, true);
  view.setBigUint64(DESCRIPTORS.gpa + DATA, 0x00cf_9300_0000_ffffn, true);
  const target = BigInt.asUintN(64, BigInt(KERNEL.address + CODE_AT.handler.at));
  for (const vector of [SINGLE_STEP, VECTOR]) {
    const at = DESCRIPTORS.gpa + DESCRIPTORS.idt + 16 * vector;
    view.setBigUint64(at, (target & 0xffffn) | (BigInt(CODE) << 16n) | (0x8en << 40n) | (((target >> 16n) & 0xffffn) << 48n), true);
    view.setBigUint64(at + 8, target >> 32n, true);
  }
}

function startLongMode(cpu) {
  const system = cpu.readSystem();
  const flat = (selector, attributes) => ({ selector, base: 0n, limit: 0xffffffff, attributes });
  system.segments[SEG.cs] = flat(CODE, 0xa09b);
  for (const index of [SEG.ds, SEG.es, SEG.ss]) system.segments[index] = flat(DATA, 0xc093);
  const base = (offset) => BigInt.asUintN(64, BigInt(DESCRIPTORS.address + offset));
  cpu.writeSystem({
    ...system,
    gdtr: { base: base(0), limit: 0x17 },
    idtr: { base: base(DESCRIPTORS.idt), limit: 0xfff },
    cr0: 0x8001_0033n,
    cr3: BigInt(ROOT),
    cr4: 0x6a0n,
    efer: 0xd01n,
  });
}
