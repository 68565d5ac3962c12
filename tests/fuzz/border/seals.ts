/** What the kernel may not have changed while a module is away: the return addresses of its own calls, which lie on the kernel's stack. */
import type { Frame } from './frames.ts';
import type { Layout } from './guarded-module.ts';
import type { Stacks } from './stacks.ts';
import { canonical } from './words.ts';

const MOST_SEALS = 48;

/** Walks the module's own frames up to its entry and writes down every return address, and every RBP that a frame hangs on. Gives what is wrong. */
export function seal(stacks: Stacks, frame: Frame, { size, base }: Layout, pointer: number, rbp: number): string | undefined {
  const { module, seals } = frame;
  const end = (base === 'rsp' ? pointer : rbp) + size;
  if (!(end - 8 >= pointer)) return 'return-address';
  const top = stacks.get(end - 8);
  if (top === undefined) return 'bad-stack';
  if (seals.push([end - 8, top]) > MOST_SEALS) return 'stack-depth';
  let outer = rbp;
  if (base === 'rbp') {
    const saved = stacks.get(end - 16);
    if (saved === undefined) return 'bad-stack';
    outer = canonical(saved);
    if (!Number.isNaN(outer) && seals.push([end - 16, saved]) > MOST_SEALS) return 'stack-depth';
  }
  const back = canonical(top);
  if (back === module.returnGate) return undefined;
  if (!module.isReturnAddress(back)) return 'return-address';
  return seal(stacks, frame, module.layout(back - 1), end, outer);
}

/** What is wrong with them, if anything. */
export function unsealed(stacks: Stacks, { seals }: Frame): string | undefined {
  for (const [slot, value] of seals) {
    const found = stacks.get(slot);
    if (found === undefined) return 'bad-stack';
    if (found !== value) return 'seal-broken';
  }
  return undefined;
}
