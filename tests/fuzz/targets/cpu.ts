/**
 * The guest against the CPU: random bytes and random instructions as code, in every mode and ring, over page tables, descriptor tables and registers that
 * hold anything. The engine never fails, `run` comes back at its budget, and nothing is written but guest RAM and the state of the CPU that runs:
 * not the other CPU, not the views, not host memory, not what is secret. Results are compared with a real CPU elsewhere (tests/cpu).
 */
import {
  REG,
  SEG,
  type Cpu,
  type Engine,
  type Exit,
  type HostPage,
  type SystemRegisters,
  type View,
} from '../../../src/engine/contract.ts';
import { createSoftEngine } from '../../../src/engine/soft/engine.ts';
import { FRAME_CODE, FRAME_MONITORED, GPR, SYSTEM_SIZE } from '../../../src/engine/soft/core/layout.ts';
import * as layout from '../../../src/engine/soft/core/layout.ts';
import { opcodesOf, opcodeTable } from '../../../src/engine/soft/isa/table.ts';
import type { Random } from '../random.ts';
import { places, type Target } from '../target.ts';

const RAM = 16 << 20;
const PAGE = 4096;
/** Where things lie in guest RAM. */
const AT = {
  tables: 0x1000,
  gdt: 0x8000,
  idt: 0x9000,
  tss: 0xa000,
  ldt: 0xb000,
  idt32: 0xc000,
  code: 0x1_0000,
  stack: 0x2_8000,
  data: 0x3_0000,
} as const;
const CODE_SIZE = 0x2000;
const UPPER = 0xffff_8000_0000_0000n;
const ROUNDS = 8;
/** Exits that one round may have, ns of guest time between them (4 ns are an instruction), and how far past its end a run may go. */
const EXITS = 60;
const SLICE = 4000;
const SLACK = 4 * 20_000;
const SECRET = 0x5ec2e7_a11ce_b0bn;

const INSTRUCTIONS = opcodeTable();

const MODES = ['real', 'protected16', 'protected32', 'paging32', 'compatibility', 'long', 'long', 'long'] as const;
type Mode = (typeof MODES)[number];

const ESCAPES: readonly (readonly number[])[] = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]];
const PREFIXES = [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x64, 0x65] as const;
/** What a kernel does that changes the ground under its feet: control registers, tables, MSRs, returns to other rings. */
const SYSTEM_CODE: readonly (readonly number[])[] = [
  [0x0f, 0x22, 0xc0],
  [0x0f, 0x22, 0xd8],
  [0x0f, 0x22, 0xe0],
  [0x44, 0x0f, 0x22, 0xc0],
  [0x0f, 0x20, 0xc0],
  [0x0f, 0x23, 0xf8],
  [0x0f, 0x21, 0xf8],
  [0x0f, 0x30],
  [0x0f, 0x32],
  [0x0f, 0x01, 0x10],
  [0x0f, 0x01, 0x18],
  [0x0f, 0x01, 0x38],
  [0x0f, 0x00, 0xd0],
  [0x0f, 0x00, 0xd8],
  [0x48, 0xcf],
  [0xcf],
  [0x48, 0xcb],
  [0x0f, 0x05],
  [0x48, 0x0f, 0x07],
  [0x0f, 0x34],
  [0x0f, 0x35],
  [0x0f, 0x01, 0xf8],
  [0x0f, 0x09],
  [0x0f, 0x01, 0xc8],
  [0x0f, 0x01, 0xc9],
  [0x0f, 0xc7, 0x0f],
  [0x48, 0x0f, 0xc7, 0x0e],
  [0x0f, 0xae, 0x06],
  [0x0f, 0xae, 0x0e],
  [0x0f, 0xae, 0x26],
  [0x0f, 0xae, 0x2e],
  [0x0f, 0x01, 0xd1],
  [0xf3, 0x48, 0xa5],
  [0xf3, 0xa4],
  [0xf3, 0x6c],
  [0xf3, 0x6e],
  [0x8e, 0xd0],
  [0x8e, 0xd8],
  [0x0f, 0xa1],
  [0xfb],
  [0xfa],
  [0xf4],
  [0x9d],
  [0x9c],
  [0xcd, 0x80],
  [0xcc],
  [0xf1],
  [0x0f, 0x0b],
  [0xee],
  [0xec],
  [0x66, 0x0f, 0x38, 0x82, 0x07],
  [0xe8, 0xfb, 0xff, 0xff, 0xff],
  [0xeb, 0xfe],
  [0x0f, 0xb9],
  [0xd7],
  [0xc8, 0xff, 0xff, 0x1f],
  [0x62, 0x00],
];

/** An instruction of the table with everything around its opcode random; what it leaves over is decoded as the next. */
function instruction(random: Random): number[] {
  const row = random.pick(INSTRUCTIONS);
  const bytes: number[] = [];
  if (random.once(6)) bytes.push(random.pick(PREFIXES));
  if (row.prefix === '66' || row.prefix === 'F2' || row.prefix === 'F3') bytes.push(Number.parseInt(row.prefix, 16));
  if (random.once(2)) bytes.push(0x40 + random.below(16));
  bytes.push(...ESCAPES[row.map], random.pick(opcodesOf(row)));
  if (row.hasModrm) {
    const modrm = row.exactModrm ?? (row.digit === undefined ? random.below(256) : (random.below(256) & 0xc7) | (row.digit << 3));
    bytes.push(modrm);
    // An operand near a register that points somewhere, rather than at a random displacement.
    if (modrm < 0x40 && (modrm & 7) === 5) bytes.push(random.below(256), random.below(4), 0, 0);
    else if (modrm >= 0x80 && modrm < 0xc0) bytes.push(random.below(256), random.below(16), random.once(8) ? random.below(256) : 0, 0);
  }
  bytes.push(...random.bytes(random.below(3)));
  return bytes;
}

function code(random: Random): Uint8Array {
  const bytes: number[] = [];
  const kind = random.below(4);
  const length = 40 + random.below(200);
  while (bytes.length < length) {
    if (kind === 0) bytes.push(...random.bytes(16));
    else if (random.once(8)) bytes.push(...random.pick(SYSTEM_CODE));
    else if (random.once(12)) bytes.push(0x48, 0xb8 + random.below(8), ...new Uint8Array(BigUint64Array.of(pointer(random)).buffer));
    else bytes.push(...instruction(random));
  }
  return Uint8Array.from(bytes);
}

/** An address that code might use: in the tables, at the edges of RAM and of the canonical range, or anything. */
function pointer(random: Random): bigint {
  switch (random.below(8)) {
    case 0:
      return random.long();
    case 1:
      return BigInt(RAM) + BigInt(random.below(32) - 16);
    case 2:
      return random.pick([0xffff_ffffn, 0x7fff_ffff_fff8n, UPPER, 0xfee0_0000n, 0xffff_ffff_ffff_fff0n, 0n]) + BigInt(random.below(24));
    case 3:
      return BigInt(random.pick(Object.values(AT)) + random.below(PAGE));
    case 4:
      return UPPER + BigInt(random.pick([AT.data, AT.stack, AT.code]) + random.below(PAGE));
    default:
      return BigInt(random.pick([AT.data, AT.data, AT.stack]) + random.below(2 * PAGE));
  }
}

class Arena {
  readonly engine: Engine;
  readonly cpu: Cpu;
  readonly view: View;
  /** Executable and writable in the module view; in no view. */
  private readonly pages: { code: HostPage; data: HostPage; secret: HostPage };
  private readonly all: Uint8Array;
  private readonly ram: DataView;
  /** Parts of linear memory that only the VMM changes, with what they hold. */
  private readonly fenced: { name: string; start: number; was: Buffer }[] = [];

  constructor() {
    this.engine = createSoftEngine({ memorySize: RAM, cpus: 2, clock: 'instructions', hostPages: 16 });
    this.cpu = this.engine.cpus[0];
    const { bytes } = this.engine.memory;
    this.all = new Uint8Array(bytes.buffer);
    this.ram = new DataView(bytes.buffer, bytes.byteOffset, RAM);
    const [text, data, secret] = this.engine.allocateHostPages(3);
    this.pages = { code: text, data, secret };
    new BigUint64Array(secret.bytes.buffer, secret.bytes.byteOffset, 512).fill(SECRET);
    this.view = this.engine.createView('module');
    this.view.setFixedPages([
      { address: -0x3ff0_0000, page: text, permission: 5 },
      { address: -0x3fef_f000, page: data, permission: 3 },
    ]);
    this.view.setAllowed(new Set(['monitor-mwait']));
  }

  /** Everything as after power-up, so that a case depends on its numbers alone. */
  reset(): void {
    const { engine, cpu } = this;
    cpu.enter(engine.untrusted);
    engine.memory.bytes.fill(0);
    engine.memory.written(0, RAM);
    cpu.reset('power-up');
    this.pages.data.bytes.fill(0);
  }

  /** Notes what must not change. */
  fence(): void {
    const own = this.cpu.registers.words.byteOffset - GPR;
    const other = this.engine.cpus[1].registers.words.byteOffset - GPR;
    const host = this.pages.code.bytes.byteOffset;
    const ram = this.engine.memory.bytes.byteOffset;
    this.fenced.length = 0;
    const add = (name: string, start: number, end: number) =>
      this.fenced.push({ name, start, was: Buffer.from(this.all.slice(start, end)) });
    add('views and tables', PAGE, own);
    add('the other CPU', other, other + SYSTEM_SIZE + PAGE);
    for (const name of ['code', 'data', 'secret'] as const)
      add(`host page "${name}"`, this.pages[name].bytes.byteOffset, this.pages[name].bytes.byteOffset + PAGE);
    add('unused host pages', host + 3 * PAGE, Math.min(ram, host + 16 * PAGE));
    add('behind RAM', ram + RAM, this.all.length);
  }

  /** Throws if anything fenced has changed. `inModule`: the module's data page was writable. */
  check(inModule: boolean): void {
    for (const { name, start, was } of this.fenced) {
      if (inModule && name === 'host page "data"') continue;
      const now = Buffer.from(this.all.buffer as ArrayBuffer, start, was.length);
      if (now.equals(was)) continue;
      for (let index = 0; index < was.length; index++) {
        if (now[index] !== was[index] && !this.mayChange(name, start, index, now[index] ^ was[index]))
          throw new Error(`${name}: byte ${index} was ${was[index]} and is ${now[index]}`);
      }
    }
  }

  /** The page flags say where code was decoded or monitored; other CPUs are told of pages that were written. */
  private mayChange(name: string, start: number, index: number, bits: number): boolean {
    if (name === 'views and tables' && Math.abs(start + index - this.random - 3.5) < 4) return true;
    if (name === 'views and tables') return start + index >= this.frames && (bits & ~(FRAME_CODE | FRAME_MONITORED)) === 0;
    if (name !== 'the other CPU') return false;
    const from = (offset: number, size: number) => index >= offset && index < offset + size;
    return (
      from(layout.EVENTS, 4) || from(layout.DROPPED_ALL, 4) || from(layout.DROPPED, 4 * layout.DROPPED_MAX) || from(layout.MONITOR_LINE, 4)
    );
  }

  /** Address of the state of RDRAND's generator. */
  private get random(): number {
    const own = this.cpu.registers.words.byteOffset - GPR;
    return new Uint32Array(this.all.buffer)[(own + layout.SHARED) >>> 2] + layout.SHARED_RANDOM;
  }

  /** First byte of the page flags that stands for guest RAM or host pages: flags of others never change. */
  private get frames(): number {
    const own = this.cpu.registers.words.byteOffset - GPR;
    return own - PAGE - 0x10_0000 + Math.floor(this.pages.code.bytes.byteOffset / PAGE);
  }

  /** Nothing that the guest can see holds the secret. */
  checkSecret(): void {
    for (const [index, word] of this.cpu.registers.words.entries())
      if (word === SECRET) throw new Error(`register ${index} holds the secret`);
    const { bytes } = this.engine.memory;
    const needle = Buffer.alloc(8);
    needle.writeBigUInt64LE(SECRET);
    const found = Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length).indexOf(needle);
    if (found >= 0) throw new Error(`guest RAM holds the secret at ${found}`);
  }

  /** Page tables, descriptor tables, code and state for one round. */
  prepare(random: Random, mode: Mode): void {
    this.writeTables(random, mode);
    const text = code(random);
    this.engine.memory.bytes.set(text, AT.code);
    for (let at = AT.code + CODE_SIZE; at < AT.code + CODE_SIZE + PAGE; at += 256) this.engine.memory.bytes.set(text.subarray(0, 64), at);
    this.pages.code.bytes.set(text.subarray(0, PAGE));
    this.engine.memory.written(0, 0x4_0000);
    this.writeState(random, mode);
  }

  private writeTables(random: Random, mode: Mode): void {
    const { ram } = this;
    const put = (at: number, value: bigint) => ram.setBigUint64(at, BigInt.asUintN(64, value), true);
    const entry = (address: number) => BigInt(address) | (random.once(10) ? BigInt(random.below(4096)) : 0x67n);
    if (mode === 'paging32') {
      // Two-level (SDM vol. 3, 4.3): 4 MiB pages and one table.
      for (let index = 0; index < 1024; index++) ram.setUint32(AT.tables + 4 * index, 0, true);
      for (const index of [0, 1, 2, 3, 1023]) ram.setUint32(AT.tables + 4 * index, (index & 3) * 0x40_0000 + 0xe7, true);
      ram.setUint32(AT.tables, AT.tables + PAGE + 0x67, true);
      for (let index = 0; index < 1024; index++) ram.setUint32(AT.tables + PAGE + 4 * index, index * PAGE + 0x67, true);
      for (let change = 0; change < 4; change++) ram.setUint32(AT.tables + 4 * random.below(2048), random.word(), true);
    } else {
      for (const index of [0, 256, 511]) put(AT.tables + 8 * index, entry(AT.tables + PAGE));
      put(AT.tables + PAGE, entry(AT.tables + 2 * PAGE));
      put(AT.tables + PAGE + 8 * 511, entry(AT.tables + 2 * PAGE));
      put(AT.tables + 2 * PAGE, entry(AT.tables + 3 * PAGE));
      for (let index = 1; index < 9; index++) put(AT.tables + 2 * PAGE + 8 * index, (BigInt(index) << 21n) | 0xe7n);
      for (let index = 0; index < 512; index++) put(AT.tables + 3 * PAGE + 8 * index, BigInt(index * PAGE) | 0x67n);
      const changes = random.below(6);
      for (let change = 0; change < changes; change++) {
        const table = random.below(4);
        const value = random.pick([
          random.long(),
          pointer(random) | 0x67n,
          BigInt(random.below(4096) * PAGE) | 0x67n,
          0n,
          (1n << 63n) | 0x67n,
        ]);
        put(AT.tables + table * PAGE + 8 * (table === 3 ? random.below(64) : random.pick([0, 1, 2, 256, 511])), value);
      }
    }
    const wide = 0x00af_9b00_0000_ffffn;
    const user = 0x6000_0000_0000n;
    const descriptors = [
      0n,
      wide,
      0x00cf_9300_0000_ffffn,
      0x00cf_9b00_0000_ffffn,
      0x0001_9b01_0000_ffffn,
      0x0000_9300_0000_ffffn,
      wide | user,
      0x00cf_f300_0000_ffffn,
      0x0000_8b00_a000_0067n,
      0n,
      0x0000_8200_b000_00ffn,
      0n,
      0x0001_8c00_0008_0000n,
      0n,
      0x00cf_fb00_0000_ffffn,
      0x0000_8501_0040_0000n,
    ];
    for (const [index, descriptor] of descriptors.entries()) put(AT.gdt + 8 * index, random.once(24) ? random.long() : descriptor);
    for (let index = 0; index < 32; index++) put(AT.ldt + 8 * index, random.once(2) ? random.long() : descriptors[index % 8]);
    for (let at = 0; at < 0x80; at += 8) put(AT.tss + at, random.once(6) ? random.long() : BigInt(AT.stack + 8 * random.below(256)));
    ram.setUint16(AT.tss + 102, random.pick([0x68, 0xffff, 0, 0x1000]), true);
    const high = random.once(2) ? UPPER : 0n;
    for (let vector = 0; vector < 256; vector++) {
      const target = high + BigInt(AT.code + CODE_SIZE + 256 * (vector % 16));
      const type = random.once(24) ? BigInt(random.below(256)) : vector % 3 === 0 ? 0x8fn : 0xeen;
      const low = (target & 0xffffn) | (0x08n << 16n) | (type << 40n) | (((target >> 16n) & 0xffffn) << 48n);
      put(AT.idt + 16 * vector, random.once(48) ? random.long() : low | (random.once(8) ? BigInt(random.below(8)) << 32n : 0n));
      put(AT.idt + 16 * vector + 8, (target >> 32n) & 0xffff_ffffn);
      const at32 = BigInt(AT.code + CODE_SIZE + 256 * (vector % 16));
      const selector = mode === 'protected16' ? 0x20n : 0x18n;
      put(AT.idt32 + 8 * vector, (at32 & 0xffffn) | (selector << 16n) | (type << 40n) | (((at32 >> 16n) & 0xffffn) << 48n));
      if (mode === 'real') ram.setUint32(4 * vector, 0x1000_2000 + 16 * (vector % 16), true);
    }
  }

  private writeState(random: Random, mode: Mode): void {
    const { cpu } = this;
    const long = mode === 'long' || mode === 'compatibility';
    const ring3 = mode !== 'real' && random.once(3);
    const system: SystemRegisters = cpu.readSystem();
    const dpl = ring3 ? 0x60 : 0;
    const selector = (value: number) => value | (ring3 ? 3 : 0);
    const flat = { base: 0n, limit: 0xffff_ffff };
    const small = { base: 0n, limit: 0xffff };
    const is16 = mode === 'real' || mode === 'protected16';
    const data = is16
      ? { ...small, selector: mode === 'real' ? 0 : selector(0x28), attributes: 0x93 | dpl }
      : { ...flat, selector: selector(0x10), attributes: 0xc093 | dpl };
    for (const index of [SEG.es, SEG.ss, SEG.ds, SEG.fs, SEG.gs]) system.segments[index] = { ...data };
    if (long && random.once(2)) system.segments[SEG.gs].base = pointer(random);
    const text = {
      real: { selector: 0x1000, base: 0x1_0000n, limit: 0xffff, attributes: 0x9b },
      protected16: { selector: selector(0x20), base: 0x1_0000n, limit: 0xffff, attributes: 0x9b | dpl },
      protected32: { ...flat, selector: selector(0x18), attributes: 0xc09b | dpl },
      paging32: { ...flat, selector: selector(0x18), attributes: 0xc09b | dpl },
      compatibility: { ...flat, selector: selector(0x18), attributes: 0xc09b | dpl },
      long: { ...flat, selector: selector(0x08), attributes: 0xa09b | dpl },
    }[mode];
    system.segments[SEG.cs] = text;
    system.segments[SEG.tr] = { selector: 0x40, base: BigInt(AT.tss), limit: 0x67, attributes: 0x8b };
    system.segments[SEG.ldtr] = { selector: 0x50, base: BigInt(AT.ldt), limit: 0xff, attributes: 0x82 };
    system.gdtr = { base: BigInt(AT.gdt), limit: 0x7f };
    system.idtr =
      mode === 'real'
        ? { base: 0n, limit: 0x3ff }
        : long
          ? { base: BigInt(AT.idt), limit: 0xfff }
          : { base: BigInt(AT.idt32), limit: 0x7ff };
    const optional = [0x4n, 0x8n, 0x80n, 0x200n, 0x400n, 0x800n, 0x1_0000n, 0x4_0000n, 0x10_0000n, 0x20_0000n];
    system.cr4 = optional.reduce((bits, bit) => (random.once(3) ? bits : bits | bit), long ? 0x20n : mode === 'paging32' ? 0x10n : 0n);
    system.cr0 = mode === 'real' ? 0x10n : long || mode === 'paging32' ? 0x8005_0033n : 0x33n;
    if (random.once(8)) system.cr0 |= random.pick([0x8n, 0x4n, 0x4_0000n]); // TS, EM, AM
    system.cr3 = BigInt(AT.tables);
    system.efer = long ? 0xd01n : random.once(2) ? 0x801n : 0n;
    cpu.writeSystem(system);
    const { words } = cpu.registers;
    for (let register = 0; register < 16; register++) words[register] = random.once(6) ? random.long() : pointer(random);
    if (random.once(3))
      words[REG.rcx] = random.pick([0xc000_0080n, 0x10n, 0x1b0n, 0xc000_0101n, 0xc000_0082n, 0x277n, BigInt(random.below(0x400)), 5n]);
    words[REG.rsp] = BigInt(AT.stack + 8 * random.below(512)) + (mode === 'long' && random.once(4) ? UPPER : 0n);
    words[REG.rip] = BigInt(is16 ? 0 : AT.code) + (mode === 'long' && random.once(4) ? UPPER : 0n);
    words[REG.rflags] = 2n | BigInt(random.word() & (random.once(8) ? 0x25_4fd5 : 0xed5));
    if (random.once(4)) {
      const vector = new Uint8Array(cpu.vectorSize);
      vector.set(random.bytes(512));
      vector.fill(0, 24, 28);
      vector.fill(0, 512);
      vector[512] = random.below(4);
      cpu.loadVector(vector);
    }
  }

  /** Stands in for the VMM: answers every exit with something. False when the round is over. */
  answer(random: Random, exit: Exit): boolean {
    const { cpu, engine } = this;
    switch (exit.kind) {
      case 'io':
      case 'mmio':
        if (!exit.write) cpu.completeRead(random.word() >>> (32 - 8 * exit.size));
        return true;
      case 'msr':
        cpu.completeMsr(random.once(2));
        return true;
      case 'event': {
        const event = { ...exit.event };
        cpu.enter(engine.untrusted);
        cpu.deliver(event);
        return true;
      }
      case 'fetch':
        if (cpu.view === engine.untrusted) return false; // a frame that is protected from execution
        cpu.enter(engine.untrusted);
        return true;
      case 'shadow-stack':
        throw new Error('a shadow stack in a view that has none');
      case 'halt':
      case 'mwait':
        if (!cpu.canInterrupt && random.once(2)) return false;
        return true;
      case 'window':
        if (!cpu.canInterrupt) throw new Error('the CPU says that it can be interrupted, and cannot');
        return true;
      case 'budget':
        return true;
      case 'shutdown':
        return false;
      case 'debug':
        throw new Error(`the engine gave up: ${exit.reason}`);
      default:
        throw new Error(`unknown exit ${JSON.stringify(exit satisfies never)}`);
    }
  }

  /** What devices and other CPUs may do at any time. */
  disturb(random: Random): void {
    const { cpu, engine } = this;
    switch (random.below(16)) {
      case 0:
        if (cpu.canInterrupt) cpu.inject(random.below(256));
        else cpu.requestInterruptWindow();
        break;
      case 1:
        cpu.nmi();
        break;
      case 2:
        cpu.kick();
        break;
      case 3: {
        const at = random.pick([AT.code, AT.tables, AT.data, AT.stack]) + random.below(PAGE);
        engine.memory.bytes.set(random.bytes(8), at);
        engine.memory.written(at, 8);
        break;
      }
      case 4:
        if (cpu.view === engine.untrusted) cpu.enter(this.view);
        else cpu.enter(engine.untrusted);
        break;
      default:
    }
  }
}

const cpu: Target = {
  name: 'cpu',
  about:
    'random code in every mode and ring over random tables, with interrupts, DMA and view changes: no failure, no way out of its memory',
  unit: 'instruction',
  share: 6_000_000,
  reaches: [
    'real',
    'protected16',
    'protected32',
    'paging32',
    'compatibility',
    'long',
    'io',
    'mmio',
    'halt',
    'event',
    'fetch',
    'budget',
    'shutdown',
    'module view',
  ],
  prepare() {
    const arena = new Arena();
    arena.reset();
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const { engine, cpu } = arena;
        arena.reset();
        const first = cpu.instructions;
        let inModule = false;
        for (const _ of random.steps(ROUNDS)) {
          const mode = random.pick(MODES);
          for (const page of [AT.code, AT.stack, AT.data]) engine.protect(page, random.once(6) ? random.below(8) : 7);
          cpu.enter(engine.untrusted);
          cpu.reset('power-up');
          arena.prepare(random, mode);
          at(mode);
          const disturbed = random.once(2);
          if (random.once(4) && mode === 'long') {
            cpu.enter(arena.view);
            if (random.once(2)) cpu.registers.words[REG.rip] = BigInt.asUintN(64, -0x3ff0_0000n);
          }
          arena.fence();
          inModule = false;
          for (let exits = 0; exits < EXITS; exits++) {
            if (disturbed) arena.disturb(random);
            if (cpu.view !== engine.untrusted) {
              inModule = true;
              at('module view');
            }
            const until = engine.clock.now() + SLICE;
            const exit = cpu.run(until, random.once(4));
            if (engine.clock.now() > until + SLACK) throw new Error(`a run went ${engine.clock.now() - until} ns past its end`);
            at(exit.kind);
            if (!arena.answer(random, exit)) break;
          }
          arena.check(inModule);
        }
        arena.checkSecret();
        return Math.max(1, cpu.instructions - first);
      },
    };
  },
};

export const CPU_TARGETS: readonly Target[] = [cpu];
