/**
 * Which device windows exist for nobody but the modules they were granted to. One registry per virtual machine, since the engine's
 * hidden list, and the question whether two devices claim the same addresses, belong to the machine as a whole.
 */
import { on } from '../base/defence-switch.ts';
import { hex } from '../base/hex.ts';
import type { Log } from '../base/log.ts';
import type { Engine, PhysicalRange } from '../engine/contract.ts';

/** Ranges of one owner: where it may be reached, and what is withheld from everyone else. */
export class WindowRegistry {
  private readonly memory = new Map<object, readonly PhysicalRange[]>();
  private readonly io = new Map<object, readonly PhysicalRange[]>();
  private readonly users = new Map<object, () => void>();

  constructor(
    private readonly engine: Pick<Engine, 'hide' | 'memory'>,
    private readonly log: Log,
  ) {}

  /** `changed` is called when the windows that `owner` may use are others, because of its own or another owner's ranges. */
  add(owner: object, changed: () => void): void {
    this.users.set(owner, changed);
  }

  /** Takes an owner's ranges, from a device whose registers the guest programs: they may lie anywhere. Hidden from this moment on. */
  set(owner: object, memory: readonly PhysicalRange[], io: readonly PhysicalRange[]): void {
    const ram = this.engine.memory.size;
    const outside = memory.filter(({ start, end }) => {
      if ((start >= ram || !on('window-outside-ram')) && end > start) return true;
      this.log.warn('device window over RAM or empty: not given', { start: hex(start), end: hex(end) });
      return false;
    });
    this.memory.set(owner, outside);
    this.io.set(
      owner,
      io.filter(({ start, end }) => end > start),
    );
    if (on('window-hide')) this.engine.hide(merge([...this.memory.values()].flat()));
    for (const changed of this.users.values()) changed();
  }

  /** Memory windows of `owner` less everything that another owner claims too: one device's grant must not open another device. */
  windows(owner: object): PhysicalRange[] {
    const others = [...this.memory].filter(([other]) => other !== owner && on('window-unshared')).flatMap(([, ranges]) => ranges);
    return subtract(this.memory.get(owner) ?? [], others);
  }

  /** Whose an I/O port is: undefined = no owner's; null = claimed by two, so nobody's. Runs at every port access of the guest. */
  ownerOfPort(port: number): object | null | undefined {
    let found: object | undefined;
    for (const [owner, ranges] of this.io) {
      for (const { start, end } of ranges) {
        if (port < start || port >= end) continue;
        if (found !== undefined && found !== owner && on('port-unshared')) return null;
        found = owner;
      }
    }
    return found;
  }
}

/** Sorted, joined where they touch. */
export function merge(ranges: readonly PhysicalRange[]): PhysicalRange[] {
  const out: { start: number; end: number }[] = [];
  for (const { start, end } of [...ranges].sort((a, b) => a.start - b.start)) {
    const last = out.at(-1);
    if (last && start <= last.end) last.end = Math.max(last.end, end);
    else out.push({ start, end });
  }
  return out;
}

/** What of `ranges` lies in none of `others`. */
export function subtract(ranges: readonly PhysicalRange[], others: readonly PhysicalRange[]): PhysicalRange[] {
  let left = merge(ranges);
  for (const other of others) {
    left = left.flatMap(({ start, end }) =>
      [
        { start, end: Math.min(end, other.start) },
        { start: Math.max(start, other.end), end },
      ].filter((part) => part.end > part.start),
    );
  }
  return left;
}
