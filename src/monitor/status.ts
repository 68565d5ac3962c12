/** What an instance is told of its privileges, in its own private memory, where the guest cannot lie to it (policy/private-memory.ts). */
import { PRIVILEGE_BITS, STATUS, STATUS_CPUS, STATUS_MAGIC, STATUS_SECTION, STATUS_VERSION } from '../policy/private-memory.ts';
import type { PrivateMemory, PrivateSection } from './private-memory.ts';

export class Status {
  private readonly section: PrivateSection | undefined;
  private held = 0;
  private readonly withheld: Uint32Array;

  constructor(memory: PrivateMemory, cpus: number) {
    const section = memory.section(STATUS_SECTION);
    this.section = section && section.size >= STATUS.size ? section : undefined;
    this.withheld = new Uint32Array(Math.min(cpus, STATUS_CPUS));
    this.section?.writeWord(STATUS.magic, STATUS_MAGIC);
    this.section?.writeWord(STATUS.version, STATUS_VERSION);
    this.section?.writeWord(STATUS.cpus, this.withheld.length);
    this.writeAddress(STATUS.start, Math.min(...memory.ranges.map(({ start }) => start)));
    this.writeAddress(STATUS.end, Math.max(...memory.ranges.map(({ end }) => end)));
  }

  /** The instance now holds privileges of these kinds. */
  hold(kinds: readonly string[]): void {
    this.held = kinds.reduce((bits, kind) => bits | (PRIVILEGE_BITS[kind] ?? 0), 0);
    this.section?.writeWord(STATUS.held, this.held);
    for (let cpu = 0; cpu < this.withheld.length; cpu++) this.write(cpu);
  }

  /** A held privilege of this kind can, or cannot, be used on one virtual CPU at present. */
  setUsable(kind: string, cpu: number, usable: boolean): void {
    if (!(cpu >= 0 && cpu < this.withheld.length)) return;
    const bit = PRIVILEGE_BITS[kind] ?? 0;
    this.withheld[cpu] = usable ? this.withheld[cpu] & ~bit : this.withheld[cpu] | bit;
    this.write(cpu);
  }

  private writeAddress(offset: number, address: number): void {
    this.section?.writeWord(offset, address);
    this.section?.writeWord(offset + 4, Math.floor(address / 0x1_0000_0000));
  }

  private write(cpu: number): void {
    this.section?.writeWord(STATUS.usable + 4 * cpu, this.held & ~this.withheld[cpu]);
  }
}
