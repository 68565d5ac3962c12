/**
 * For tests: a tiny guarded module, a guest kernel's module loader, and the moves of a kernel and a module at the border, on the fake
 * engine. The loader relocates by its own few lines, so that the monitor's solving has something to be wrong against.
 *
 * It stands here, not in src/monitor, because it joins the monitor with an engine, which no part further left may do.
 */
import { silentLog } from '../base/log.ts';
import { PAGE_SIZE, REG, registerAddress, setRegisterAddress } from '../engine/contract.ts';
import type { Exit } from '../engine/contract.ts';
import { FakeEngine } from '../engine/fake/engine.ts';
import type { FakeCpu } from '../engine/fake/engine.ts';
import { PageTables } from '../engine/fake/page-tables.ts';
import { GATE_PORT, GATE_SIZE } from '../policy/manifest.ts';
import type { Gate, Manifest, SectionRole } from '../policy/manifest.ts';
import type { AuditEvent } from '../monitor/audit.ts';
import { createImage, RELOCATION } from '../monitor/image.ts';
import type { ImageRelocation, ImageSection, ImageSource } from '../monitor/image.ts';
import { createMonitor } from '../monitor/monitor.ts';
import type { Monitor, Verdict } from '../monitor/monitor.ts';
import type { Decision, RegisteredModule, ViolationPolicy } from '../monitor/registration.ts';
import { Watch } from '../monitor/watch.ts';

/** Sections of the tiny module, in order. */
export const S = {
  text: 0,
  thunks: 1,
  init: 2,
  rodata: 3,
  private: 4,
  data: 5,
  bugs: 6,
  exceptions: 7,
  orc: 8,
  orcIp: 9,
  gates: 10,
} as const;
/** Its gates. */
export const G = {
  return: 0,
  reentry: 1,
  init: 2,
  cleanup: 3,
  probe: 4,
  withBp: 5,
  inner: 6,
  kfunc: 7,
  stackFail: 8,
  fpuBegin: 9,
  fpuEnd: 10,
} as const;
/** Places in .text: return addresses behind calls, and single instructions. */
export const T = {
  probe: 0x00,
  afterInner: 0x09,
  afterCall: 0x0e,
  inner: 0x20,
  innerAfterCall: 0x26,
  warn: 0x26,
  afterThunk: 0x2d,
  faulting: 0x2d,
  fixup: 0x38,
  withBp: 0x40,
  bpAfterCall: 0x4d,
  cleanup: 0x80,
  init: 0,
  initAfterCall: 5,
} as const;

const GATE_CODE = [0xe6, GATE_PORT, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];
const TEXT_SIZE = 0xa0;

/** How far behind a symbol of the kernel the module looks. */
export const FAR = 0x5010;

export interface TinyOptions {
  module?: string;
  vector?: boolean;
  version?: number;
  private?: boolean;
  privateName?: string;
  /** It imports the kernel's print function. */
  prints?: boolean;
  /** The gate `probe` is that of a parameter's setter. */
  setter?: boolean;
  /** Call gates of `kfunc` beside the usual one, so that the image is told from others by its gates. */
  moreGates?: number;
}

/** The tiny module's image. `version` changes one constant in its text. */
export function tinyImage(options: TinyOptions = {}): ImageSource {
  const text = new Uint8Array(TEXT_SIZE).fill(0xcc);
  const put = (at: number, ...bytes: number[]) => text.set(bytes, at);
  const relocations: ImageRelocation[] = [];
  const reference = (offset: number, type: number, section: number, addend: number) =>
    relocations.push({ offset, type, section, symbol: '', addend });
  const callGate = (at: number, gate: number, opcode = 0xe8) => {
    put(at, opcode, 0, 0, 0, 0);
    reference(at + 1, RELOCATION.PLT32, S.gates, gate * GATE_SIZE - 4);
  };
  // probe: sub $16, %rsp; call inner; call kfunc; add $16, %rsp; ret
  put(0x00, 0x48, 0x83, 0xec, 0x10, 0xe8, 0x17, 0, 0, 0);
  callGate(0x09, G.kfunc);
  put(0x0e, 0x48, 0x83, 0xc4, 0x10, 0xc3);
  // inner: push %rbx; call kfunc; ud2 (WARN); call *%rax by thunk; mov (%rdi), %eax (may fault); pop %rbx; ret; fixup: xor %eax, %eax; pop; ret
  put(0x20, 0x53);
  callGate(0x21, G.kfunc);
  put(0x26, 0x0f, 0x0b, 0xe8, 0, 0, 0, 0, 0x8b, 0x07, 0x5b, 0xc3);
  reference(0x29, RELOCATION.PLT32, S.thunks, -4);
  put(0x38, 0x31, 0xc0, 0x5b, 0xc3);
  // with a frame pointer: push %rbp; mov %rsp, %rbp; sub $32, %rsp; call kfunc; leave; ret
  put(0x40, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20);
  callGate(0x48, G.kfunc);
  put(0x4d, 0xc9, 0xc3);
  // references: mov jiffies(%rip), %rax; mov $rodata, %rdi; mov $private, %rdi; mov $data, %rdi; jmp kfunc
  put(0x50, 0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x48, 0xc7, 0xc7, 0, 0, 0, 0, 0x48, 0xc7, 0xc7, 0, 0, 0, 0, 0x48, 0xc7, 0xc7, 0, 0, 0, 0);
  relocations.push({ offset: 0x53, type: RELOCATION.PC32, section: -1, symbol: 'jiffies', addend: -4 });
  reference(0x5a, RELOCATION.R32S, S.rodata, 0);
  if (options.private !== false) reference(0x61, RELOCATION.R32S, S.private, 8);
  reference(0x68, RELOCATION.R32S, S.data, 0);
  callGate(0x6c, G.kfunc, 0xe9);
  // mov %gs:preempt_count, %eax
  put(0x71, 0x65, 0x8b, 0x05, 0, 0, 0, 0);
  relocations.push({ offset: 0x74, type: RELOCATION.PC32, section: -1, symbol: 'preempt_count', addend: -4 });
  put(T.cleanup, 0xc3, options.version ?? 1);

  const init = Uint8Array.of(0xe8, 0, 0, 0, 0, 0xc3);
  const initRelocations = [{ offset: 1, type: RELOCATION.PLT32, section: S.gates, symbol: '', addend: G.kfunc * GATE_SIZE - 4 }];
  const rodata = Uint8Array.from({ length: 64 }, (_, index) => index);
  const rodataRelocations = [
    { offset: 0, type: RELOCATION.R64, section: S.gates, symbol: '', addend: G.probe * GATE_SIZE },
    { offset: 8, type: RELOCATION.PC64, section: -1, symbol: 'jiffies', addend: FAR },
    { offset: 16, type: RELOCATION.R64, section: -1, symbol: 'eth_validate_addr', addend: 0 },
  ];
  rodata.fill(0, 0, 24);
  const privateBytes = new Uint8Array(PAGE_SIZE);
  privateBytes.set([0x53, 0x45, 0x43, 0x52, 0x45, 0x54], 8);

  const gates: Gate[] = [
    { kind: 'return', offset: 0, symbol: '' },
    { kind: 're-entry', offset: 0x10, symbol: '' },
    { kind: 'entry', offset: 0x20, symbol: 'init_module', section: '.init.text', sectionOffset: 0 },
    { kind: 'entry', offset: 0x30, symbol: 'cleanup_module', section: '.text', sectionOffset: T.cleanup },
    {
      kind: 'entry',
      offset: 0x40,
      symbol: 'probe',
      section: '.text',
      sectionOffset: T.probe,
      ...(options.setter ? { beforeInit: true } : {}),
    },
    { kind: 'entry', offset: 0x50, symbol: 'with_bp', section: '.text', sectionOffset: T.withBp },
    { kind: 'entry', offset: 0x60, symbol: 'inner', section: '.text', sectionOffset: T.inner },
    { kind: 'call', offset: 0x70, symbol: 'kfunc' },
    { kind: 'call', offset: 0x80, symbol: '__stack_chk_fail' },
    { kind: 'call', offset: 0x90, symbol: 'kernel_fpu_begin_mask' },
    { kind: 'call', offset: 0xa0, symbol: 'kernel_fpu_end' },
    ...(options.prints ? [{ kind: 'call' as const, offset: 0xb0, symbol: '_printk' }] : []),
  ];
  for (let more = 0; more < (options.moreGates ?? 0); more++)
    gates.push({ kind: 'call', offset: gates.length * GATE_SIZE, symbol: 'kfunc' });
  const gateBytes = new Uint8Array(PAGE_SIZE).fill(0xcc);
  const gateRelocations: ImageRelocation[] = [];
  for (const gate of gates) {
    gateBytes.set([...GATE_CODE, 0, 0, 0, 0, 0, 0, 0, 0], gate.offset);
    const own = gate.kind === 'entry' ? (gate.section === '.text' ? S.text : S.init) : -1;
    if (gate.kind === 'entry' || gate.kind === 'call') {
      gateRelocations.push({
        offset: gate.offset + 8,
        type: RELOCATION.R64,
        section: own,
        symbol: own < 0 ? gate.symbol : '',
        addend: gate.sectionOffset ?? 0,
      });
    }
  }

  const SP = 0x05;
  const BP = 0x14; // and RBP saved relative to the CFA
  const orc: [number, number, number, number, number][] = [
    [S.text, 0, SP, 8, 0],
    [S.text, 4, SP, 24, 0],
    [S.text, 0x12, SP, 8, 0],
    [S.text, 0x20, SP, 8, 0],
    [S.text, 0x21, SP, 16, 0],
    [S.text, 0x30, SP, 8, 0],
    [S.text, 0x38, SP, 16, 0],
    [S.text, 0x40, SP, 8, 0],
    [S.text, 0x44, BP, 16, -16],
    [S.text, 0x4e, SP, 8, 0],
    [S.text, 0x50, SP, 8, 0],
    [S.init, 0, SP, 8, 0],
  ];
  const orcBytes = new DataView(new ArrayBuffer(orc.length * 6));
  for (const [index, [, , registers, size, rbp]] of orc.entries()) {
    orcBytes.setInt16(index * 6, size, true);
    orcBytes.setInt16(index * 6 + 2, rbp, true);
    orcBytes.setUint8(index * 6 + 4, registers);
  }
  const pc32 = (offset: number, section: number, addend: number) => ({ offset, type: RELOCATION.PC32, section, symbol: '', addend });
  const bugs = new Uint8Array(12);
  bugs[10] = 1;
  const exceptions = new DataView(new ArrayBuffer(12));
  exceptions.setInt32(8, (-14 << 16) | (REG.rdx << 8) | 17, true); // EX_TYPE_EFAULT_REG for %rdx

  const section = (
    name: string,
    role: SectionRole,
    bytes: Uint8Array,
    relocationsOf: ImageRelocation[] = [],
    align = 16,
  ): ImageSection => ({
    name,
    role,
    size: bytes.length,
    align,
    init: name.startsWith('.init'),
    bytes,
    relocations: relocationsOf,
  });
  const sections = [
    section('.text', 'text', text, relocations),
    section('.text.thunks', 'text', Uint8Array.of(0xff, 0xe0, 0xcc, 0xcc)),
    section('.init.text', 'text', init, initRelocations),
    section('.rodata', 'constants', rodata, rodataRelocations),
    section(options.privateName ?? '.portcullis.private', 'private', privateBytes, [], PAGE_SIZE),
    section('.data', 'data', new Uint8Array(64)),
    section('__bug_table', 'metadata', bugs, [pc32(0, S.text, T.warn)]),
    section('__ex_table', 'metadata', new Uint8Array(exceptions.buffer), [pc32(0, S.text, T.faulting), pc32(4, S.text, T.fixup)]),
    section('.orc_unwind', 'metadata', new Uint8Array(orcBytes.buffer)),
    section(
      '.orc_unwind_ip',
      'metadata',
      new Uint8Array(orc.length * 4),
      orc.map(([to, offset], index) => pc32(index * 4, to, offset)),
    ),
    section('.text.guard', 'gates', gateBytes, gateRelocations, PAGE_SIZE),
  ];
  const manifest: Manifest = {
    format: 'portcullis-manifest-1',
    module: options.module ?? 'tiny',
    vermagic: 'test',
    image: '',
    source: '',
    linker: 'test',
    gatePort: GATE_PORT,
    sections: sections.map(({ name, role, size, align, init: early }, index) => ({ index, name, role, size, align, init: early })),
    gates,
    initGate: 0x20,
    cleanupGate: 0x30,
    imports: ['eth_validate_addr', 'jiffies', 'preempt_count'],
    vector: options.vector ?? false,
    privileges: [],
  };
  return createImage(manifest, sections);
}

export const CORE = -0x3ff0_0000; // 0xffffffffc0100000
export const INIT = -0x3fe0_0000;
/** Kernel addresses of the tiny kernel. */
export const KERNEL: Record<string, number> = {
  kfunc: -0x7f00_0000,
  __stack_chk_fail: -0x7eff_0000,
  kernel_fpu_begin_mask: -0x7efe_0000,
  kernel_fpu_end: -0x7efd_0000,
  _printk: -0x7efb_0000,
  jiffies: -0x7e00_0000,
  eth_validate_addr: -0x7efc_0000,
  preempt_count: 0x3_1f00,
};
/** A 16 KiB kernel stack, the address above its end, and where kernel code calls from. */
export const STACK = -0x3700_0000_0000;
export const STACK_TOP = STACK + 0x4000;
export const KERNEL_TEXT = KERNEL.kfunc + 0x1234;
const IMAGE_FRAMES = 0x40_0000;
const STACK_FRAMES = 0x80_0000;

export const granted = (decision: Partial<Extract<Decision, { granted: true }>> = {}): Decision => ({
  granted: true,
  privileges: [],
  onViolation: 'quarantine',
  ...decision,
});
export const registered = (image: ImageSource, decision: Decision = granted()): RegisteredModule => ({
  image,
  digest: 'd'.repeat(64),
  decision,
});

export interface LoadOptions {
  bases?: Partial<Record<keyof typeof S, number>>;
  imports?: Record<string, number>;
  /** First guest frame of the module; each page gets the next lower one. */
  frames?: number;
  /** Where the module goes, relative to CORE and INIT. */
  shift?: number;
}

/** A guest: an engine with page tables, a kernel stack, and a monitor over it. */
export class Guest {
  readonly engine: FakeEngine;
  readonly tables: PageTables;
  readonly monitor: Monitor;
  readonly events: AuditEvent[] = [];
  private readonly watch: Watch;
  private nextStack = STACK_FRAMES;

  constructor(
    modules: readonly RegisteredModule[] | ((engine: FakeEngine) => readonly RegisteredModule[]),
    options: { cpus?: number; hostPages?: number; shadowStacks?: boolean } = {},
  ) {
    this.engine = new FakeEngine(options);
    this.tables = new PageTables(this.engine.memory, 0x1000, 0x2000, 0x10_0000);
    for (const cpu of this.engine.cpus) cpu.cr3 = 0x1000;
    this.stack(STACK);
    this.engine.memory.bytes.fill(0x90, 0x20_0000, 0x20_1000);
    this.tables.map(KERNEL.kfunc, 0x20_0000, false);
    this.tables.map(KERNEL_TEXT - (KERNEL_TEXT & 0xfff), 0x20_1000, false);
    const list = typeof modules === 'function' ? modules(this.engine) : modules;
    this.watch = new Watch(this.engine, 16);
    this.monitor = createMonitor({ engine: this.engine, modules: list, log: silentLog, audit: (event) => this.events.push(event) });
  }

  get cpu(): FakeCpu {
    return this.engine.cpus[0];
  }

  /** Maps a 16 KiB stack, with nothing mapped below it. */
  stack(base: number): void {
    for (let page = 0; page < 0x4000; page += PAGE_SIZE, this.nextStack += PAGE_SIZE) this.tables.map(base + page, this.nextStack);
  }

  /** What the guest kernel's loader does: places, relocates, maps. Gives the section addresses. */
  load(image: ImageSource, options: LoadOptions = {}): number[] {
    const shift = options.shift ?? 0;
    const core = CORE + shift;
    const places: Record<keyof typeof S, number> = {
      text: core,
      thunks: core + TEXT_SIZE,
      init: INIT + shift,
      gates: core + 0x1000,
      rodata: core + 0x2000,
      private: core + 0x3000,
      data: core + 0x4000,
      bugs: core + 0x2100,
      exceptions: core + 0x2200,
      orc: core + 0x2300,
      orcIp: core + 0x2400,
      ...options.bases,
    };
    const bases = (Object.keys(S) as (keyof typeof S)[]).map((name) => places[name]);
    const imports = { ...KERNEL, ...options.imports };
    let frame = options.frames ?? IMAGE_FRAMES;
    const pages = [core, core + 0x1000, core + 0x2000, core + 0x3000, core + 0x4000, INIT + shift];
    for (const page of pages) {
      if (this.cpu.translate(page, false) < 0) this.tables.map(page, frame);
      this.engine.memory.bytes.fill(0, this.cpu.translate(page, false), this.cpu.translate(page, false) + PAGE_SIZE);
      frame -= PAGE_SIZE;
    }
    for (const [index, section] of image.sections.entries()) {
      if (bases[index] >= 0) continue;
      const bytes = section.bytes.slice();
      for (const { offset, type, section: to, symbol, addend } of section.relocations) {
        const wide = type === RELOCATION.R64 || type === RELOCATION.PC64;
        const relative = type === RELOCATION.PC32 || type === RELOCATION.PLT32 || type === RELOCATION.PC64;
        let word = BigInt((to >= 0 ? bases[to] : imports[symbol]) + addend);
        if (relative) word -= BigInt(bases[index] + offset);
        for (let byte = 0; byte < (wide ? 8 : 4); byte++) bytes[offset + byte] = Number((word >> BigInt(8 * byte)) & 0xffn);
      }
      for (let byte = 0; byte < bytes.length; byte++) this.poke(bases[index] + byte, bytes[byte]);
    }
    return bases;
  }

  poke(address: number, byte: number): void {
    const gpa = this.cpu.translate(address, false);
    if (gpa >= 0) this.engine.memory.bytes[gpa] = byte;
  }
  peek(address: number): number {
    return this.engine.memory.bytes[this.cpu.translate(address, false)];
  }

  /** The 8-byte word at an address, as a signed number. */
  word(address: number): number {
    const word = this.cpu.translate(address, false) / 4;
    return (this.engine.memory.words[word + 1] | 0) * 0x1_0000_0000 + this.engine.memory.words[word];
  }
  setWord(address: number, value: number): void {
    const word = this.cpu.translate(address, false) / 4;
    this.engine.memory.words[word] = value >>> 0;
    this.engine.memory.words[word + 1] = Math.floor(value / 0x1_0000_0000) >>> 0;
  }

  rip(cpu = this.cpu): number {
    return registerAddress(cpu.registers, REG.rip);
  }
  rsp(cpu = this.cpu): number {
    return registerAddress(cpu.registers, REG.rsp);
  }
  setRsp(address: number, cpu = this.cpu): void {
    setRegisterAddress(cpu.registers, REG.rsp, address);
  }
  push(value: number, cpu = this.cpu): void {
    this.setRsp(this.rsp(cpu) - 8, cpu);
    this.setWord(this.rsp(cpu), value);
  }
  pop(cpu = this.cpu): number {
    const value = this.word(this.rsp(cpu));
    this.setRsp(this.rsp(cpu) + 8, cpu);
    return value;
  }

  /** Every exit of every test is watched: what the engine then allows must hold whatever the test is about. */
  handle(exit: Exit, cpu = this.cpu): Verdict {
    const verdict = this.monitor.handle(cpu, exit);
    const broken = this.watch.crossed(cpu);
    if (broken !== undefined) this.invariantBroken(broken);
    return verdict;
  }
  protected invariantBroken(what: string): void {
    throw new Error(`invariant: ${what}`);
  }
  gate(gate: number, cpu = this.cpu, shift = 0): Verdict {
    return this.handle(cpu.out(CORE + shift + 0x1000 + gate * GATE_SIZE, GATE_PORT), cpu);
  }
  gateAddress(gate: number, shift = 0): number {
    return CORE + shift + 0x1000 + gate * GATE_SIZE;
  }
  inside(cpu = this.cpu): boolean {
    return cpu.view !== this.engine.untrusted;
  }

  /** Kernel: `call gate` at the stack pointer given, return address KERNEL_TEXT. */
  call(gate: number, rsp = STACK_TOP - 0x100, cpu = this.cpu, shift = 0): Verdict {
    this.setRsp(rsp, cpu);
    this.push(KERNEL_TEXT, cpu);
    return this.gate(gate, cpu, shift);
  }
  /** Module: `call gate` whose return address is `back`. */
  callOut(back: number, gate: number = G.kfunc, cpu = this.cpu): Verdict {
    return this.within(back, cpu) ?? this.gate(gate, cpu);
  }
  /** Module: `call` of a function of its own, whose return address is `back`. A verdict if the call itself left the module. */
  within(back: number, cpu = this.cpu): Verdict | undefined {
    const exit = cpu.call(back);
    return exit && this.handle(exit, cpu);
  }
  /** `ret`, which must lead to a gate, or leave the module. */
  ret(cpu = this.cpu): Verdict {
    const to = cpu.ret();
    return this.handle(typeof to === 'number' ? cpu.out(to, GATE_PORT) : to, cpu);
  }

  /** Loads the module and runs its init with a result. */
  start(image: ImageSource, options: LoadOptions = {}, result = 0): Verdict {
    this.load(image, options);
    this.call(G.init, STACK_TOP - 0x100, this.cpu, options.shift);
    if (!this.inside()) return 'handled';
    setRegisterAddress(this.cpu.registers, REG.rax, result);
    return this.ret();
  }

  reasons(event: AuditEvent['event']): string[] {
    return this.events.filter((entry) => entry.event === event).map((entry) => ('reason' in entry ? (entry.reason ?? '') : ''));
  }
}

/** A guest with the tiny module loaded and live. */
export function live(
  options: { tiny?: TinyOptions; policy?: ViolationPolicy; cpus?: number; load?: LoadOptions; shadowStacks?: boolean } = {},
): Guest {
  const image = tinyImage(options.tiny);
  const guest = new Guest([registered(image, granted({ onViolation: options.policy ?? 'quarantine' }))], {
    cpus: options.cpus,
    shadowStacks: options.shadowStacks,
  });
  guest.start(image, options.load);
  return guest;
}
/** Stack pointer of the kernel code that calls an entry. */
export const ENTRY_RSP = STACK_TOP - 0x100;

/** The kernel calls probe, which calls inner, which calls kfunc. */
export function insideInner(guest: Guest, cpu = guest.cpu, rsp = ENTRY_RSP): void {
  guest.call(G.probe, rsp, cpu);
  guest.setRsp(guest.rsp(cpu) - 16, cpu);
  guest.within(CORE + T.afterInner, cpu);
  guest.push(0x77, cpu); // push %rbx
}
/** Back to where probe is about to return. */
export const returnFromInner = (guest: Guest): void => {
  guest.setRsp(guest.rsp() + 8);
  if (guest.cpu.ret() !== CORE + T.afterInner) throw new Error("the stack of the test does not hold inner's return address");
  guest.setRsp(guest.rsp() + 16);
};
export const status = (guest: Guest) => guest.monitor.modules()[0].instances[0]?.state;
export const reg = (guest: Guest, index: number) => registerAddress(guest.cpu.registers, index);
export const violations = (guest: Guest) => guest.monitor.violations().map(({ reason }) => reason);
