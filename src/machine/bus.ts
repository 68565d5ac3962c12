/**
 * The two buses: ports and memory. A bus finds the block that answers an address; unclaimed reads give all ones, unclaimed writes
 * vanish, as on a PC. Accesses wider than a block's data path are split into bytes.
 *
 * An access belongs to the block of its first byte; bytes beyond the block's end reach nobody. So whoever withholds a device need
 * look at the first address only: there is no way in over the edge of a neighbour.
 */
import { hex } from '../base/hex.ts';
import type { Log } from '../base/log.ts';
import type { RegisterBlock } from './ports.ts';

export type AccessSize = 1 | 2 | 4;

export interface Claim {
  readonly name: string;
  readonly start: number;
  readonly size: number;
  readonly registers: RegisterBlock;
  /** Widest access that the block takes in one piece; default 4. */
  readonly widest?: AccessSize;
}

export interface Bus {
  read(address: number, size: AccessSize): number;
  write(address: number, size: AccessSize, value: number): void;
  /** Adds a block. False, and no change, if it overlaps another or the bus is full or the range is not on the bus. */
  claim(claim: Claim): boolean;
  release(claim: Claim): void;
  ownerOf(address: number): Claim | undefined;
  /** Accesses that nobody answered. */
  readonly unclaimed: number;
}

const LOGGED = 32;
const CLAIM_LIMIT = 255;

export function onesOf(size: AccessSize): number {
  return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
}

/** The low `size` bytes as an unsigned number: devices need not mind how wide an access was. */
function cut(value: number, size: AccessSize): number {
  return size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff);
}

abstract class RangeBus implements Bus {
  unclaimed = 0;

  constructor(
    private readonly kind: 'port' | 'memory',
    private readonly limit: number,
    private readonly log: Log,
  ) {}

  abstract ownerOf(address: number): Claim | undefined;
  protected abstract readonly claims: readonly (Claim | undefined)[];
  protected abstract add(claim: Claim): boolean;
  abstract release(claim: Claim): void;

  claim(claim: Claim): boolean {
    const end = claim.start + claim.size;
    if (!(claim.start >= 0 && claim.size > 0 && end <= this.limit)) return false;
    if (this.claims.some((other) => other && claim.start < other.start + other.size && other.start < end)) return false;
    return this.add(claim);
  }

  read(address: number, size: AccessSize): number {
    const claim = this.ownerOf(address);
    if (claim === undefined) {
      this.note('read', address, size, 0);
      return onesOf(size);
    }
    const offset = address - claim.start;
    const { registers } = claim;
    if (size === 1 || (size <= (claim.widest ?? 4) && offset + size <= claim.size)) return cut(registers.read(offset, size), size);
    let value = 0;
    for (let i = 0; i < size; i++) value += (offset + i < claim.size ? registers.read(offset + i, 1) & 0xff : 0xff) * 2 ** (8 * i);
    return value;
  }

  write(address: number, size: AccessSize, value: number): void {
    const claim = this.ownerOf(address);
    if (claim === undefined) {
      this.note('write', address, size, value);
      return;
    }
    const offset = address - claim.start;
    const { registers } = claim;
    if (size === 1 || (size <= (claim.widest ?? 4) && offset + size <= claim.size)) {
      registers.write(offset, size, cut(value, size));
      return;
    }
    for (let i = 0; i < size && offset + i < claim.size; i++) registers.write(offset + i, 1, (value >>> (8 * i)) & 0xff);
  }

  private note(what: 'read' | 'write', address: number, size: number, value: number): void {
    if (this.unclaimed++ >= LOGGED) return;
    const fields = { address: hex(address), size };
    this.log.debug(`unclaimed ${this.kind} ${what}`, what === 'write' ? { ...fields, value: hex(value >>> 0) } : fields);
  }
}

/** 64 Ki ports; one byte per port says which block answers. */
class PortBus extends RangeBus {
  private readonly owners = new Uint8Array(0x1_0000);
  protected readonly claims: (Claim | undefined)[] = [undefined];

  constructor(log: Log) {
    super('port', 0x1_0000, log);
  }

  ownerOf(port: number): Claim | undefined {
    return this.claims[this.owners[port]];
  }

  protected add(claim: Claim): boolean {
    let index = 1;
    while (this.claims[index] !== undefined) index++;
    if (index > CLAIM_LIMIT) return false;
    this.claims[index] = claim;
    this.owners.fill(index, claim.start, claim.start + claim.size);
    return true;
  }

  release(claim: Claim): void {
    const index = this.claims.indexOf(claim);
    if (index <= 0) return;
    this.claims[index] = undefined;
    this.owners.fill(0, claim.start, claim.start + claim.size);
  }
}

/** Guest physical addresses without RAM: a short list, with the block of the last hit tried first. */
class MemoryBus extends RangeBus {
  protected readonly claims: Claim[] = [];
  private last: Claim | undefined;

  constructor(log: Log) {
    super('memory', 2 ** 52, log);
  }

  ownerOf(address: number): Claim | undefined {
    const last = this.last;
    if (last !== undefined && address >= last.start && address < last.start + last.size) return last;
    for (const claim of this.claims) {
      if (address >= claim.start && address < claim.start + claim.size) {
        this.last = claim;
        return claim;
      }
    }
    return undefined;
  }

  protected add(claim: Claim): boolean {
    if (this.claims.length >= CLAIM_LIMIT) return false;
    this.claims.push(claim);
    return true;
  }

  release(claim: Claim): void {
    const index = this.claims.indexOf(claim);
    if (index >= 0) this.claims.splice(index, 1);
    if (this.last === claim) this.last = undefined;
  }
}

export function createPortBus(log: Log): Bus {
  return new PortBus(log);
}

export function createMemoryBus(log: Log): Bus {
  return new MemoryBus(log);
}
