/**
 * The numbers that a fuzz case is made of: from a seed, or given one by one (a case that was made shorter). A case asks for nothing else, so whatever
 * happened once happens again. Zero is the simplest answer to every question; a given list that has run out answers zero.
 */

/** What the machine's and the formats' fields have at their edges. */
const EXTREMES = [
  0, 1, 2, 3, 4, 7, 8, 0xf, 0x10, 0x7f, 0x80, 0xff, 0x100, 0x7ff, 0x800, 0xfff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x1_0000,
] as const;

export class Random {
  /** Kept when asked for: every number drawn, and where in them each step begins. */
  readonly drawn: number[] = [];
  readonly spans: number[] = [];
  private state: number;
  private at = 0;

  /** 32-bit generator (Marsaglia, "Xorshift RNGs", 2003), its first state spread by a multiplication so that near seeds give unlike cases. */
  constructor(
    seed: number,
    private readonly options: { readonly given?: readonly number[]; readonly record?: boolean } = {},
  ) {
    this.state = (Math.imul(seed, 0x9e37_79b9) ^ 0x5bd1_e995) | 0 || 1;
  }

  /** 0 to 2^32 - 1. */
  next(): number {
    const { given, record } = this.options;
    let value: number;
    if (given) value = given[this.at++] ?? 0;
    else {
      let { state } = this;
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      this.state = state;
      value = state >>> 0;
    }
    if (record) this.drawn.push(value);
    return value;
  }

  /** 0 to `limit` - 1; `limit` up to 2^32. */
  below(limit: number): number {
    return this.next() % Math.max(1, limit);
  }
  /** True once in `n`. */
  once(n: number): boolean {
    return this.next() % n === n - 1;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }
  /** A 32-bit number with the edges of fields more likely than the rest. */
  word(): number {
    const kind = this.next();
    const edge = EXTREMES[(kind >>> 3) % EXTREMES.length];
    switch (kind % 8) {
      case 0:
      case 1:
        return edge;
      case 2:
        return -edge >>> 0;
      case 3:
        return (1 << (kind >>> 27)) >>> 0;
      case 4:
        return ((1 << (kind >>> 27)) - 1) >>> 0;
      default:
        return this.next();
    }
  }
  /** The same for 64 bits. */
  long(): bigint {
    const low = BigInt(this.word());
    switch (this.below(4)) {
      case 0:
        return low;
      case 1:
        return BigInt.asUintN(64, -low);
      default:
        return (BigInt(this.word()) << 32n) | low;
    }
  }
  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    const words = new DataView(bytes.buffer);
    for (let at = 0; at < length; at += 4) {
      const word = this.next();
      if (at + 4 <= length) words.setUint32(at, word, true);
      else for (let i = at; i < length; i++) bytes[i] = word >>> (8 * (i - at));
    }
    return bytes;
  }

  /** The steps of a case, `count` at most. Each can be left out of a case that is made shorter. */
  *steps(count: number): Generator<number> {
    for (let step = 0; step < count; step++) {
      const { given, record } = this.options;
      if (given && this.at >= given.length) return;
      if (record) this.spans.push(this.drawn.length);
      yield step;
    }
  }
}
