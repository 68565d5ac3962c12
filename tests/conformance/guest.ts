/**
 * A small bare-metal guest for the conformance suite: page tables, descriptor tables and interrupt handlers in guest memory, code given as
 * bytes. Handlers report by `out %al, $0xf0` after pushing their vector, so that every delivered event is an exit to look at.
 */

import { type Cpu, type Engine, type Exit, REG, SEG, type Segment } from '../../src/engine/contract.ts';

export const HANDLER_PORT = 0xf0;
export const DONE_PORT = 0xf1;

// Guest physical layout; low memory is mapped 1:1 (user too), and again in the upper half (supervisor only)
export const PML4 = 0x1000;
export const LOW_PDPT = 0x2000;
export const LOW_PD = 0x3000;
export const HIGH_PDPT = 0x4000;
export const HIGH_PD = 0xb000;
/** Page table of 2..4 MiB: 4 KiB pages, for tests that change them. */
export const PT = 0x5000;
export const GDT = 0x6000;
export const IDT = 0x7000;
export const STUBS = 0x8000; // 16 bytes a vector
export const TSS = 0x9000;
export const CODE = 0x1_0000;
export const USER = 0x2_0000;
export const DATA = 0x3_0000;
export const STACK = 0x1_c000;
export const USER_STACK = 0x2_c000;
export const RSP0 = 0x1_f000;
export const IST1 = 0x1_e000;
/** First linear address of the 4 KiB pages. */
export const SMALL = 0x20_0000;
/** Linear address of guest physical 0 in the upper half. */
export const HIGH = -(2 ** 47);

export const SELECTOR = {
  code: 0x08,
  data: 0x10,
  user32: 0x1b,
  userData: 0x23,
  user: 0x2b,
  tss: 0x30,
  code32: 0x40,
  code16: 0x48,
  data16: 0x50,
} as const;

const P = 1n;
const W = 2n;
const U = 4n;
const LARGE = 0x80n;

/** Bytes from hexadecimal text; everything from `;` to the line's end is comment. */
export function code(text: string): Uint8Array {
  const digits = text.replace(/;.*$/gm, '').replace(/\s+/g, '');
  if (!/^([0-9a-f]{2})*$/.test(digits)) throw new Error(`not hexadecimal: ${digits}`);
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

export class Guest {
  readonly cpu: Cpu;
  private readonly view: DataView;

  constructor(
    readonly engine: Engine,
    readonly index = 0,
  ) {
    this.cpu = engine.cpus[index] as Cpu;
    const { bytes } = engine.memory;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  // ---- Memory ----------------------------------------------------------------------------------------------------------------

  put(gpa: number, bytes: Uint8Array | string): void {
    const data = typeof bytes === 'string' ? code(bytes) : bytes;
    this.engine.memory.bytes.set(data, gpa);
    this.engine.memory.written(gpa, data.length);
  }
  put64(gpa: number, value: bigint): void {
    this.view.setBigUint64(gpa, BigInt.asUintN(64, value), true);
    this.engine.memory.written(gpa, 8);
  }
  get64(gpa: number): bigint {
    return this.view.getBigUint64(gpa, true);
  }
  get32(gpa: number): number {
    return this.view.getUint32(gpa, true);
  }

  /** Entry of the 4 KiB page table for linear address SMALL + n * 4096. */
  setPage(n: number, entry: bigint): void {
    this.put64(PT + 8 * n, entry);
  }

  // ---- Registers -------------------------------------------------------------------------------------------------------------

  get(register: keyof typeof REG): bigint {
    return this.cpu.registers.words[REG[register]] as bigint;
  }
  set(register: keyof typeof REG, value: bigint | number): void {
    this.cpu.registers.words[REG[register]] = BigInt.asUintN(64, BigInt(value));
  }

  // ---- Boot ------------------------------------------------------------------------------------------------------------------

  /** Builds tables and puts the CPU into 64-bit mode at CPL 0, RIP = CODE, RSP = STACK, interrupts off. */
  longMode(): this {
    this.tables();
    this.enterLong();
    return this;
  }

  private tables(): void {
    this.put64(PML4, BigInt(LOW_PDPT) | P | W | U);
    this.put64(PML4 + 8 * 256, BigInt(HIGH_PDPT) | P | W);
    this.put64(LOW_PDPT, BigInt(LOW_PD) | P | W | U);
    this.put64(HIGH_PDPT, BigInt(HIGH_PD) | P | W);
    for (let i = 0; i < 16; i++) {
      this.put64(LOW_PD + 8 * i, BigInt(i * 0x20_0000) | P | W | U | LARGE);
      this.put64(HIGH_PD + 8 * i, BigInt(i * 0x20_0000) | P | W | LARGE);
    }
    this.put64(LOW_PD + 8, BigInt(PT) | P | W | U);
    for (let i = 0; i < 512; i++) this.setPage(i, BigInt(SMALL + i * 4096) | P | W | U);
    // An address outside RAM for device memory: 1 GiB, mapped by a 1 GiB page
    this.put64(LOW_PDPT + 8, 0x4000_0000n | P | W | U | LARGE);
    const descriptors: [number, bigint][] = [
      [SELECTOR.code, 0x00af9b000000ffffn],
      [SELECTOR.data, 0x00cf93000000ffffn],
      [SELECTOR.user32, 0x00cffb000000ffffn],
      [SELECTOR.userData, 0x00cff3000000ffffn],
      [SELECTOR.user, 0x00affb000000ffffn],
      [SELECTOR.tss, 0x0000890000000067n | (BigInt(TSS & 0xffffff) << 16n)],
      [SELECTOR.tss + 8, 0n],
      [SELECTOR.code32, 0x00cf9b000000ffffn],
      [SELECTOR.code16, 0x00009b000000ffffn],
      [SELECTOR.data16, 0x000093000000ffffn],
    ];
    for (const [selector, descriptor] of descriptors) this.put64(GDT + (selector & ~7), descriptor);
    for (let vector = 0; vector < 256; vector++) {
      this.gate(vector, STUBS + 16 * vector);
      // push; out; add $8,%rsp; iretq
      this.put(STUBS + 16 * vector, Uint8Array.of(0x68, vector, 0, 0, 0, 0xe6, HANDLER_PORT, 0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf));
    }
    this.put64(TSS + 4, BigInt(RSP0));
    this.put64(TSS + 36, BigInt(IST1));
    this.put(TSS + 0x66, '68 00'); // no I/O permission bitmap
  }

  /** `dpl` of the gate; `ist` 0 = none. */
  gate(vector: number, offset: number, { dpl = 3, ist = 0, trap = false, selector = SELECTOR.code as number } = {}): void {
    const target = BigInt.asUintN(64, BigInt(offset));
    const type = trap ? 15n : 14n;
    this.put64(
      IDT + 16 * vector,
      (target & 0xffffn) |
        (BigInt(selector) << 16n) |
        (BigInt(ist) << 32n) |
        (type << 40n) |
        (BigInt(dpl) << 45n) |
        (1n << 47n) |
        (((target >> 16n) & 0xffffn) << 48n),
    );
    this.put64(IDT + 16 * vector + 8, target >> 32n);
  }

  private enterLong(): void {
    const flat = (selector: number, attributes: number): Segment => ({ selector, base: 0n, limit: 0xffffffff, attributes });
    const system = this.cpu.readSystem();
    system.segments[SEG.cs] = flat(SELECTOR.code, 0xa09b);
    for (const index of [SEG.ds, SEG.es, SEG.ss]) system.segments[index] = flat(SELECTOR.data, 0xc093);
    for (const index of [SEG.fs, SEG.gs]) system.segments[index] = flat(0, 0);
    system.segments[SEG.tr] = { selector: SELECTOR.tss, base: BigInt(TSS), limit: 0x67, attributes: 0x8b };
    this.cpu.writeSystem({
      ...system,
      gdtr: { base: BigInt(GDT), limit: 0xff },
      idtr: { base: BigInt(IDT), limit: 0xfff },
      cr0: 0x8001_0033n,
      cr3: BigInt(PML4),
      cr4: 0x6a0n,
      efer: 0xd01n,
    });
    this.set('rip', CODE);
    this.set('rsp', STACK);
    this.set('rflags', 2);
  }

  /** Continues at CPL 3, 64-bit, at USER. */
  user(selector: number = SELECTOR.user): void {
    const system = this.cpu.readSystem();
    system.segments[SEG.cs] = { selector, base: 0n, limit: 0xffffffff, attributes: selector === SELECTOR.user ? 0xa0fb : 0xc0fb };
    system.segments[SEG.ss] = { selector: SELECTOR.userData, base: 0n, limit: 0xffffffff, attributes: 0xc0f3 };
    this.cpu.writeSystem(system);
    this.set('rip', USER);
    this.set('rsp', USER_STACK);
  }

  // ---- Running ---------------------------------------------------------------------------------------------------------------

  /** Runs for at most `nanoseconds` of the engine's time. */
  run(nanoseconds = 1_000_000): Exit {
    return this.cpu.run(this.engine.clock.now() + nanoseconds);
  }

  /** Runs to the next handler; returns what it found on its stack. */
  runToHandler(): Delivered {
    const exit = this.run();
    if (exit.kind !== 'io' || exit.port !== HANDLER_PORT) throw new Error(`expected a handler, got ${show(exit)}`);
    const rsp = Number(this.get('rsp'));
    const vector = Number(this.get64(rsp));
    const coded = vector === 8 || (vector >= 10 && vector <= 14) || vector === 17;
    const frame = rsp + (coded ? 16 : 8);
    return {
      vector,
      errorCode: coded ? Number(this.get64(rsp + 8)) : -1,
      rip: Number(BigInt.asIntN(64, this.get64(frame))),
      cs: Number(this.get64(frame + 8)),
      rflags: Number(this.get64(frame + 16)),
      rsp: Number(BigInt.asIntN(64, this.get64(frame + 24))),
      ss: Number(this.get64(frame + 32)),
      stack: frame + 40,
    };
  }

  /** Runs to `out %al, $0xf1`. */
  runToDone(): void {
    const exit = this.run();
    if (exit.kind !== 'io' || exit.port !== DONE_PORT) throw new Error(`expected the end, got ${show(exit)}`);
  }
}

/** The frame that a handler found. `stack`: the stack pointer before delivery pushed anything. */
export interface Delivered {
  vector: number;
  errorCode: number;
  rip: number;
  cs: number;
  rflags: number;
  rsp: number;
  ss: number;
  stack: number;
}

function show(exit: Exit): string {
  return JSON.stringify(exit, (_, value) => (typeof value === 'bigint' ? `${value}` : value));
}
