/**
 * The module's own calls, where the engine keeps them on a shadow stack (contract.ts). The stack itself lies open to the kernel and to every other CPU, also
 * while the module runs; what a return or a border may believe is written down here, in memory that no guest address reaches.
 *
 * A virtual CPU has one shadow stack, the kernel has many threads: at every exit its entries go with the frame of the crossing, and they come back
 * with it, on whatever CPU that is. An entry into the module begins a new one, whose only entry is the return gate.
 */
import { joinAddress } from '../engine/contract.ts';
import type { Cpu } from '../engine/contract.ts';
import { SHADOW_HALVES } from './frames.ts';
import type { Frames } from './frames.ts';

export class ShadowStacks {
  constructor(private readonly frames: Frames) {}

  /** Call-in: the function entered may return to `address` only, by the slot at `slot`. */
  begin(cpu: Cpu, address: number, slot: number): void {
    const { halves } = cpu.shadowStack;
    halves[0] = address >>> 0;
    halves[1] = Math.floor(address / 0x1_0000_0000) >>> 0;
    halves[2] = slot >>> 0;
    halves[3] = Math.floor(slot / 0x1_0000_0000) >>> 0;
    cpu.shadowStack.depth = 1;
  }

  /** Takes the newest call off; false if its return address is not `address`, in the slot at `slot`. */
  takes(cpu: Cpu, address: number, slot: number): boolean {
    const { halves, depth } = cpu.shadowStack;
    const at = 4 * (depth - 1);
    if (depth === 0 || joinAddress(halves[at], halves[at + 1]) !== address || joinAddress(halves[at + 2], halves[at + 3]) !== slot)
      return false;
    cpu.shadowStack.depth = depth - 1;
    return true;
  }

  /** An exit: the calls go with its frame. */
  keep(cpu: Cpu, frame: number): void {
    const { halves, depth } = cpu.shadowStack;
    const { shadow } = this.frames;
    const at = frame * SHADOW_HALVES;
    for (let half = 0; half < 4 * depth; half++) shadow[at + half] = halves[half];
    this.frames.shadowDepth[frame] = depth;
  }

  /** The crossing of that frame ends: its calls are the CPU's again. */
  restore(cpu: Cpu, frame: number): void {
    const { halves } = cpu.shadowStack;
    const { shadow, shadowDepth } = this.frames;
    const at = frame * SHADOW_HALVES;
    const depth = shadowDepth[frame];
    for (let half = 0; half < 4 * depth; half++) halves[half] = shadow[at + half];
    cpu.shadowStack.depth = depth;
  }
}
