/** System registers of a virtual CPU: reading and writing them whole, and their values after reset (Intel SDM vol. 3, table 10-1). */

import type { Segment, SystemRegisters } from '../contract.ts';
import {
  CPL,
  CR0,
  CR2,
  CR3,
  CR4,
  CR8,
  DEBUGCTL,
  DR,
  EFER,
  FORCED_TYPE,
  GDTR_BASE,
  GDTR_LIMIT,
  GPR,
  IDTR_BASE,
  IDTR_LIMIT,
  INJECTED,
  KERNEL_GS_BASE,
  MISC_ENABLE,
  NMI_BLOCKED,
  NMI_PENDING,
  PAT,
  REPLAY_COUNT,
  REPLAY_INDEX,
  RFLAGS,
  RIP,
  SEG_ATTR,
  SEG_BASE,
  SEG_LIMIT,
  SEG_SELECTOR,
  SHADOW,
  SPEC_CTRL,
  TRAPS,
  TSC_ADJUST,
  TSC_AUX,
  WINDOW_WANTED,
  XCR0,
} from './core/layout.ts';
import type { Space } from './space.ts';

const SEGMENTS = 8;
/** Family, model and stepping in RDX after reset: as CPUID leaf 1 (core/cpuid.ts). */
const SIGNATURE = 0x0008_06f8n;

/** Events that wait, and what is half done: none after a reset. */
const PENDING_WORDS = [NMI_BLOCKED, NMI_PENDING, SHADOW, TRAPS, WINDOW_WANTED, INJECTED, FORCED_TYPE, REPLAY_COUNT, REPLAY_INDEX];

export class SystemState {
  private readonly view: DataView;

  constructor(space: Space, block: number) {
    this.view = new DataView(space.memory.buffer, block, 0x1000);
  }

  private get64(offset: number): bigint {
    return this.view.getBigUint64(offset, true);
  }
  private set64(offset: number, value: bigint): void {
    this.view.setBigUint64(offset, BigInt.asUintN(64, value), true);
  }
  private get32(offset: number): number {
    return this.view.getUint32(offset, true);
  }
  private set32(offset: number, value: number): void {
    this.view.setUint32(offset, value >>> 0, true);
  }

  read(): SystemRegisters {
    const segments = Array.from(
      { length: SEGMENTS },
      (_, i): Segment => ({
        selector: this.view.getUint16(SEG_SELECTOR + 2 * i, true),
        base: this.get64(SEG_BASE + 8 * i),
        limit: this.get32(SEG_LIMIT + 4 * i),
        attributes: this.view.getUint16(SEG_ATTR + 2 * i, true),
      }),
    );
    return {
      segments,
      gdtr: { base: this.get64(GDTR_BASE), limit: this.get32(GDTR_LIMIT) },
      idtr: { base: this.get64(IDTR_BASE), limit: this.get32(IDTR_LIMIT) },
      cr0: this.get64(CR0),
      cr2: this.get64(CR2),
      cr3: this.get64(CR3),
      cr4: this.get64(CR4),
      cr8: this.get64(CR8),
      efer: this.get64(EFER),
    };
  }

  write(system: SystemRegisters): void {
    if (system.segments.length !== SEGMENTS) throw new RangeError(`${system.segments.length} segments: expected ${SEGMENTS}`);
    system.segments.forEach((segment, i) => {
      this.writeSegment(i, segment);
    });
    this.set64(GDTR_BASE, system.gdtr.base);
    this.set32(GDTR_LIMIT, system.gdtr.limit & 0xffff);
    this.set64(IDTR_BASE, system.idtr.base);
    this.set32(IDTR_LIMIT, system.idtr.limit & 0xffff);
    this.set64(CR0, system.cr0);
    this.set64(CR2, system.cr2);
    this.set64(CR3, system.cr3);
    this.set64(CR4, system.cr4);
    this.set64(CR8, system.cr8);
    this.set64(EFER, system.efer);
    // In protected mode the RPL of CS is the privilege level.
    this.set32(CPL, system.cr0 & 1n ? (system.segments[1]?.selector ?? 0) & 3 : 0);
  }

  private writeSegment(i: number, segment: Segment): void {
    this.view.setUint16(SEG_SELECTOR + 2 * i, segment.selector, true);
    this.set64(SEG_BASE + 8 * i, segment.base);
    this.set32(SEG_LIMIT + 4 * i, segment.limit);
    this.view.setUint16(SEG_ATTR + 2 * i, segment.attributes & 0xf0ff, true);
  }

  /** The caller then lets the core derive what depends on these, and resets the vector unit at power-up. */
  reset(kind: 'power-up' | 'init'): void {
    for (let i = 0; i < 16; i++) this.set64(GPR + 8 * i, 0n);
    this.set64(GPR + 16, SIGNATURE);
    this.set64(RIP, 0xfff0n);
    this.set64(RFLAGS, 2n);
    const cr0 = kind === 'init' ? (this.get64(CR0) & 0x6000_0000n) | 0x10n : 0x6000_0010n;
    const data: Segment = { selector: 0, base: 0n, limit: 0xffff, attributes: 0x93 };
    const code: Segment = { selector: 0xf000, base: 0xffff_0000n, limit: 0xffff, attributes: 0x9b };
    const table = { base: 0n, limit: 0xffff };
    this.write({
      segments: [data, code, data, data, data, data, { ...data, attributes: 0x8b }, { ...data, attributes: 0x82 }],
      gdtr: table,
      idtr: table,
      cr0,
      cr2: 0n,
      cr3: 0n,
      cr4: 0n,
      cr8: 0n,
      efer: 0n,
    });
    for (let i = 0; i < 4; i++) this.set64(DR + 8 * i, 0n);
    this.set64(DR + 48, 0xffff_0ff0n);
    this.set64(DR + 56, 0x400n);
    for (const offset of PENDING_WORDS) this.set32(offset, 0);
    if (kind === 'init') return;
    for (const offset of [TSC_ADJUST, TSC_AUX, SPEC_CTRL, DEBUGCTL, KERNEL_GS_BASE]) this.set64(offset, 0n);
    this.set64(PAT, 0x0007_0406_0007_0406n);
    this.set64(MISC_ENABLE, 1n);
    this.set64(XCR0, 1n);
  }
}
