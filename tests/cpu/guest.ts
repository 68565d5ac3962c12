/**
 * The other side of the comparison: runs cases on an engine, through the engine contract alone. A minimal 64-bit guest: page tables for the
 * windows, a descriptor table like Linux's, and an interrupt table whose handlers are `hlt`. A case starts with IRETQ to CPL 3 and ends in
 * one of the handlers, so that RIP, RFLAGS, RSP and the error code are read from the stack as a kernel would see them.
 */
import type { Cpu, Engine } from '../../src/engine/contract.ts';
import { hasErrorCode, REG, SEG } from '../../src/engine/contract.ts';
import { type Case, END, input, normalise, type Outcome, TIMED_OUT } from './fixture.ts';
import { background, CODE, codeSegment, FS_BASE, GS_BASE, SELECTOR, WINDOWS } from './layout.ts';

/** The guest kernel's pages, from this linear address: interrupt table, descriptors and TSS, code, stack. */
const KERNEL = 0xffff_8000_0000_0000n;
const [IDT, GDT, LDT, TSS, STUBS, SCRATCH, STACK_TOP] = [0x0000, 0x1000, 0x1400, 0x1800, 0x2000, 0x3000, 0x5000];
const KERNEL_SIZE = 0x6000;
const KERNEL_GPA = 0x20_0000;
const TABLES_GPA = 0x1_0000;
const WINDOW_GPA = 0x10_0000;
const IRETQ = STUBS + 0x800;
const XSETBV = STUBS + 0x900;
/** ns of guest time; about 100,000 instructions. */
const LIMIT = 400_000;
/** Outcome.vector of a guest that ended otherwise than by an exception. */
export const BROKEN = 254;

const CR0 = 0x8005_0033n; // PG AM WP NE ET MP PE
const CR4 = 0x0004_06a0n; // OSXSAVE OSXMMEXCPT OSFXSR PGE PAE
const EFER = 0xd01n; // NXE LMA LME SCE

export class Guest {
  private readonly cpu: Cpu;
  private readonly data: DataView;
  private readonly bytes: Uint8Array;
  private readonly windowBytes: Uint8Array[];
  private readonly vector: Uint8Array;
  private nextTable = TABLES_GPA + 0x1000;
  private vectorIsDefault = false;

  /** `engine` has at least 16 MiB and is used by nothing else. */
  constructor(private readonly engine: Engine) {
    this.cpu = engine.cpus[0] as Cpu;
    this.bytes = engine.memory.bytes;
    this.data = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    this.vector = new Uint8Array(this.cpu.vectorSize);
    let gpa = WINDOW_GPA;
    this.windowBytes = WINDOWS.map((window) => {
      const flags = 0x65n | (window.readOnly ? 0n : 2n) | (window.code ? 0n : 1n << 63n); // P U A D, RW, NX
      for (let offset = 0; offset < window.size; offset += 4096) this.map(BigInt(window.base + offset), gpa + offset, flags);
      const bytes = this.bytes.subarray(gpa, gpa + window.size);
      bytes.set(background(window));
      gpa += 0x1_0000;
      return bytes;
    });
    for (let offset = 0; offset < KERNEL_SIZE; offset += 4096) this.map(KERNEL + BigInt(offset), KERNEL_GPA + offset, 0x63n);
    this.writeKernel();
    this.writeSystem();
    this.enter(XSETBV);
    const exit = this.cpu.run(this.engine.clock.now() + LIMIT);
    if (exit.kind !== 'halt') throw new Error(`the guest did not start: ${JSON.stringify(exit)}`);
  }

  /** Runs one case. The outcome's memory is the guest's own: compare before the next run. */
  run(test: Case): Outcome {
    const { state, patches } = input(test);
    this.restore();
    for (const { address, bytes } of patches) {
      const w = WINDOWS.findIndex((window) => address >= window.base && address < window.base + window.size);
      this.windowBytes[w]?.set(bytes, address - (WINDOWS[w]?.base ?? 0));
    }
    this.engine.memory.written(WINDOW_GPA, 0x1_0000 * WINDOWS.length);
    const usesVector = test.profile[0] !== 'g';
    if (usesVector || !this.vectorIsDefault) {
      this.vector.fill(0);
      this.vector.set(state.fx);
      this.vector[512] = 3; // XSTATE_BV: x87 and SSE
      this.cpu.loadVector(this.vector);
      this.vectorIsDefault = !usesVector;
    }
    const frame = STACK_TOP - 40;
    const { selector, base } = codeSegment(test.bits);
    const words = [BigInt(test.at - base), BigInt(selector), state.rflags, state.gpr[4] as bigint, BigInt(SELECTOR.data)];
    words.forEach((word, i) => {
      this.put(frame + 8 * i, word);
    });
    const registers = this.cpu.registers.words;
    registers.set(state.gpr);
    registers[REG.rsp] = KERNEL + BigInt(frame);
    this.enter(IRETQ);
    const exit = this.cpu.run(this.engine.clock.now() + LIMIT);
    const fx = usesVector ? this.readVector() : normalise(state.fx);
    const broken = {
      error: 0,
      cr2: 0n,
      rip: registers[REG.rip] as bigint,
      gpr: registers.slice(0, 16),
      rflags: registers[REG.rflags] as bigint,
      fx,
      memory: this.windowBytes,
    };
    if (exit.kind === 'budget') return { ...broken, vector: TIMED_OUT };
    if (exit.kind !== 'halt') return { ...broken, vector: BROKEN, error: exit.kind.length };
    return this.readOutcome(test, broken);
  }

  private readOutcome(test: Case, partial: Omit<Outcome, 'vector'>): Outcome {
    const vector = (Number(BigInt.asUintN(16, partial.rip)) - STUBS) >> 5;
    const top = Number(BigInt.asUintN(16, partial.gpr[4] as bigint));
    const saved = top + (hasErrorCode(vector) ? 8 : 0);
    const gpr = partial.gpr;
    gpr[4] = this.get(saved + 24);
    if (test.bits !== 64) gpr.fill(0n, 8);
    const rip = this.get(saved) + BigInt(codeSegment(test.bits).base);
    return {
      ...partial,
      vector,
      gpr,
      rip: vector === END ? rip - 1n : rip,
      rflags: this.get(saved + 16),
      error: hasErrorCode(vector) ? Number(this.get(top)) : 0,
      cr2: vector === 14 ? this.get(SCRATCH) : 0n,
    };
  }

  private readVector(): Uint8Array {
    this.cpu.saveVector(this.vector);
    const fx = this.vector.slice(0, 512);
    // XSTATE_BV may say that a part is in its initial state and was not written (SDM vol. 1, 13.7).
    if (((this.vector[512] as number) & 1) === 0) {
      fx.fill(0, 0, 24);
      fx.fill(0, 32, 160);
      fx[0] = 0x7f;
      fx[1] = 3;
    }
    if (((this.vector[512] as number) & 2) === 0) fx.fill(0, 160, 416);
    return normalise(fx);
  }

  private restore(): void {
    WINDOWS.forEach((window, w) => {
      this.windowBytes[w]?.set(background(window));
    });
  }

  private enter(offset: number): void {
    this.cpu.registers.words[REG.rip] = KERNEL + BigInt(offset);
    this.cpu.registers.words[REG.rflags] = 2n;
  }

  private put(offset: number, value: bigint): void {
    this.data.setBigUint64(KERNEL_GPA + offset, BigInt.asUintN(64, value), true);
  }
  private get(offset: number): bigint {
    return this.data.getBigUint64(KERNEL_GPA + offset, true);
  }

  /** Four-level paging (Intel SDM vol. 3, 4.5). */
  private map(address: bigint, gpa: number, flags: bigint): void {
    let table = TABLES_GPA;
    for (const shift of [39n, 30n, 21n]) {
      const at = table + 8 * Number((address >> shift) & 511n);
      if (this.data.getBigUint64(at, true) === 0n) {
        this.data.setBigUint64(at, BigInt(this.nextTable) | 0x67n, true);
        this.nextTable += 0x1000;
      }
      table = Number(this.data.getBigUint64(at, true) & 0xf_ffff_f000n);
    }
    this.data.setBigUint64(table + 8 * Number((address >> 12n) & 511n), BigInt(gpa) | flags, true);
  }

  private writeKernel(): void {
    const code = 0x00af_9b00_0000_ffffn,
      data = 0x00cf_9300_0000_ffffn,
      user = 0x6000_0000_0000n; // DPL 3
    [0n, 0n, code, data, 0x00cf_9b00_0000_ffffn | user, data | user, code | user].forEach((entry, i) => {
      this.put(GDT + 8 * i, entry);
    });
    this.put(LDT, 0x1000_fb00_0000_ffffn | (BigInt(CODE & 0xff_ffff) << 16n)); // base CODE, 64 KiB, 16-bit code, DPL 3
    const tss = KERNEL + BigInt(TSS);
    this.put(GDT + 0x40, 0x0000_8b00_0000_0067n | ((tss & 0xff_ffffn) << 16n) | (((tss >> 24n) & 0xffn) << 56n));
    this.put(GDT + 0x48, (tss >> 32n) & 0xffff_ffffn);
    this.put(TSS + 4, KERNEL + BigInt(STACK_TOP));
    this.data.setUint16(KERNEL_GPA + TSS + 102, 0x68, true); // no I/O permission map
    for (let vector = 0; vector < 32; vector++) {
      const stub = STUBS + 32 * vector,
        target = KERNEL + BigInt(stub);
      // PUSH RAX; MOV RAX, CR2; MOV [SCRATCH], RAX; POP RAX for #PF; then HLT.
      if (vector === 14) {
        this.code(stub, [0x50, 0x0f, 0x20, 0xd0, 0x48, 0xa3]);
        this.put(stub + 6, KERNEL + BigInt(SCRATCH));
        this.code(stub + 14, [0x58, 0xf4]);
      } else this.code(stub, [0xf4]);
      const type = vector === 3 || vector === 4 ? 0xeen : 0x8en;
      this.put(IDT + 16 * vector, (target & 0xffffn) | (0x10n << 16n) | (type << 40n) | (((target >> 16n) & 0xffffn) << 48n));
      this.put(IDT + 16 * vector + 8, (target >> 32n) & 0xffff_ffffn);
    }
    this.code(IRETQ, [0x48, 0xcf]);
    this.code(XSETBV, [0x31, 0xc9, 0x31, 0xd2, 0xb8, 3, 0, 0, 0, 0x0f, 0x01, 0xd1, 0xf4]);
  }

  private code(offset: number, bytes: readonly number[]): void {
    this.bytes.set(bytes, KERNEL_GPA + offset);
  }

  private writeSystem(): void {
    const system = this.cpu.readSystem();
    for (const i of [SEG.es, SEG.ds]) system.segments[i] = { selector: SELECTOR.data, base: 0n, limit: 0xffff_ffff, attributes: 0xc0f3 };
    system.segments[SEG.fs] = { selector: 0, base: BigInt(FS_BASE), limit: 0xffff_ffff, attributes: 0xc0f3 };
    system.segments[SEG.gs] = { selector: 0, base: BigInt(GS_BASE), limit: 0xffff_ffff, attributes: 0xc0f3 };
    system.segments[SEG.ss] = { selector: 0x18, base: 0n, limit: 0xffff_ffff, attributes: 0xc093 };
    system.segments[SEG.cs] = { selector: 0x10, base: 0n, limit: 0xffff_ffff, attributes: 0xa09b };
    system.segments[SEG.tr] = { selector: 0x40, base: KERNEL + BigInt(TSS), limit: 0x67, attributes: 0x8b };
    system.segments[SEG.ldtr] = { selector: 0x50, base: KERNEL + BigInt(LDT), limit: 7, attributes: 0x82 };
    system.gdtr = { base: KERNEL + BigInt(GDT), limit: 0x4f };
    system.idtr = { base: KERNEL + BigInt(IDT), limit: 0x1ff };
    Object.assign(system, { cr0: CR0, cr3: BigInt(TABLES_GPA), cr4: CR4, efer: EFER });
    this.cpu.writeSystem(system);
    this.cpu.registers.words[REG.rsp] = KERNEL + BigInt(STACK_TOP);
  }
}
