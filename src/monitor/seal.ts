/**
 * Sealed return addresses (P5). While the module is away its part of the kernel stack lies open to the kernel, so every return
 * address in it is written down at the exit and compared at the re-entry. Walking is exact, by the image's unwind table (code-map.ts).
 */
import { on } from '../base/defence-switch.ts';
import type { CodeMap, UnwindRule } from './code-map.ts';
import { NOT_RETURN, RETURN_ON_TOP } from './code-map.ts';
import { FRAME, SEALS } from './frames.ts';
import type { Frames } from './frames.ts';
import type { Instance } from './instance.ts';
import type { ViolationReason } from './reasons.ts';
import type { StackAccess } from './stack.ts';

export class Seals {
  constructor(
    private readonly frames: Frames,
    private readonly stack: StackAccess,
  ) {}

  /** Seals for a call-out whose return address is `address`; `pointer` is RSP after that return. Null, or what is wrong. */
  sealCall(frame: number, instance: Instance, address: number, pointer: number, rbp: number): ViolationReason | null {
    const { code, returnGate } = instance;
    if (address === returnGate) return null; // a tail call: none of the module's own frames is left
    let size = code.frameSize(address);
    let at = pointer;
    while (size > 0) {
      at += size;
      const gpa = this.stack.locate(at - 8);
      if (gpa < 0) return 'bad-stack';
      const value = this.stack.load(gpa);
      if (!this.add(frame, at - 8, value)) return 'stack-depth';
      if (value === returnGate) return null;
      size = code.frameSize(value);
      if (size === NOT_RETURN) return 'return-address';
    }
    // A frame counted from RBP, or unknown: start again with RBP followed.
    this.frames.sealCount[frame] = 0;
    return this.walk(frame, instance, code.rule(address - 1), pointer, rbp);
  }

  /** Seals for an event at `address`. */
  sealEvent(frame: number, instance: Instance, address: number, pointer: number, rbp: number): ViolationReason | null {
    if (address === instance.returnGate) return null; // the entry has returned: none of the module's own frames is left
    return this.walk(frame, instance, instance.code.rule(address), pointer, rbp);
  }

  /** Seals for an event on a private stack: `pointer` is the kernel stack pointer at the switch, and points at the return address of the code that switched. */
  sealSwitch(frame: number, instance: Instance, pointer: number, rbp: number): ViolationReason | null {
    return this.walk(frame, instance, RETURN_ON_TOP, pointer, rbp);
  }

  /** Null if every sealed word is as it was. */
  check(frame: number): ViolationReason | null {
    if (!on('return-address-seal')) return null;
    const first = frame * SEALS;
    for (let index = first; index < first + this.frames.sealCount[frame]; index++) {
      const gpa = this.stack.locate(this.frames.sealSlot[index]);
      if (gpa < 0) return 'bad-stack';
      if (this.stack.load(gpa) !== this.frames.sealValue[index]) return 'seal-broken';
    }
    return null;
  }

  private walk(frame: number, instance: Instance, first: UnwindRule, pointer: number, rbp: number): ViolationReason | null {
    const { code, returnGate } = instance;
    let rule = first;
    let at = pointer;
    for (;;) {
      if (rule.base === 'unknown') return this.scan(frame, instance, code, at);
      const end = (rule.base === 'rsp' ? at : rbp) + rule.size;
      if (!(end - 8 >= at)) return 'return-address'; // must go up: the walk ends
      const gpa = this.stack.locate(end - 8);
      if (gpa < 0) return 'bad-stack';
      const value = this.stack.load(gpa);
      if (!this.add(frame, end - 8, value)) return 'stack-depth';
      if (rule.savedRbp !== undefined) {
        const saved = this.stack.locate(end + rule.savedRbp);
        if (saved < 0) return 'bad-stack';
        rbp = this.stack.load(saved);
        // The caller may find its own return address by it, so it is sealed too. A value that is no address serves no frame.
        if (!Number.isNaN(rbp) && !this.add(frame, end + rule.savedRbp, rbp)) return 'stack-depth';
      }
      if (value === returnGate) return null;
      if (code.frameSize(value) === NOT_RETURN) return 'return-address';
      at = end;
      rule = code.rule(value - 1);
    }
  }

  /** Without unwind data: every word up to the entry that could be a return address counts as one. */
  private scan(frame: number, instance: Instance, code: CodeMap, from: number): ViolationReason | null {
    const entry = this.frames.newestOnStack(FRAME.callIn, instance.instance, from, this.stack.same);
    if (entry < 0) return 'no-frame';
    for (let slot = from; slot < this.frames.key[entry]; slot += 8) {
      const gpa = this.stack.locate(slot);
      if (gpa < 0) return 'bad-stack';
      const value = this.stack.load(gpa);
      if (value !== instance.returnGate && code.frameSize(value) === NOT_RETURN) continue;
      if (!this.add(frame, slot, value)) return 'stack-depth';
    }
    return null;
  }

  private add(frame: number, slot: number, value: number): boolean {
    const count = this.frames.sealCount[frame];
    if (count >= SEALS) return false;
    this.frames.sealSlot[frame * SEALS + count] = slot;
    this.frames.sealValue[frame * SEALS + count] = value;
    this.frames.sealCount[frame] = count + 1;
    return true;
  }
}
