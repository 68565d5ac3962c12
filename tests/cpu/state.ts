/**
 * The state a case starts from. It is made from a *profile* (which kind of values: two letters) and a *seed*, so that a
 * fixture line names it in a few characters and only states what the instruction really depends on beyond it.
 *
 * First letter, the registers: g general registers only; s, d, q the XMM registers hold singles, doubles, integers;
 * x the x87 stack; m, n, o MMX, with integers, singles, doubles in XMM. Second letter, memory operands: i integers, s singles, d doubles,
 * t 80-bit, b packed BCD.
 */
import { type Bits, STACK } from './layout.ts';

export interface State {
  gpr: BigUint64Array;
  rflags: bigint;
  /** FXSAVE64 image: Intel SDM vol. 1, table 10-2. */
  fx: Uint8Array;
}

/** Deterministic 32-bit generator (splitmix32). */
export class Random {
  constructor(private state: number) {}
  next(): number {
    this.state = (this.state + 0x9e3779b9) | 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }
  /** 0 <= result < limit. */
  below(limit: number): number {
    return this.next() % limit;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
  word(): bigint {
    return (BigInt(this.next()) << 32n) | BigInt(this.next());
  }
}

const MASK64 = (1n << 64n) - 1n;
const INTEGERS = [
  0n,
  1n,
  2n,
  3n,
  -1n,
  -2n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x100000000n,
  0x7fffffffffffffffn,
  0x8000000000000000n,
  -0x80n,
  -0x8000n,
  -0x80000000n,
  0x5555555555555555n,
  0xaaaaaaaaaaaaaaaan,
  0x0102030405060708n,
];

/** A 64-bit integer: an edge, a small number, sparse bits or anything. */
export function integer(random: Random): bigint {
  const kind = random.below(8);
  if (kind < 3) return random.pick(INTEGERS) & MASK64;
  if (kind === 3) return BigInt(random.below(70));
  if (kind === 4) return (random.pick(INTEGERS) + BigInt(random.below(5)) - 2n) & MASK64;
  if (kind === 5) return (1n << BigInt(random.below(64))) | (1n << BigInt(random.below(64)));
  return random.word();
}

const SINGLES = [
  0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xff812345, 0x7fc54321,
  0x00000001, 0x807fffff, 0x00400000, 0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff, 0x3f000000, 0x3fc00000, 0x40200000, 0xc0200000,
  0x4effffff, 0x4f000000, 0xcf000000, 0xcf000001, 0x5effffff, 0x5f000000, 0xdf000000, 0x4b000001, 0x4affffff, 0x3f7fffff, 0x3f800001,
  0x33800000,
];

export function single(random: Random): number {
  const kind = random.below(8);
  if (kind < 3) return random.pick(SINGLES);
  if (kind === 3) return floatBits(random.below(2000) / 4 - 250);
  if (kind === 4) return (random.next() & 0x807fffff) | (random.pick([0, 1, 2, 24, 150, 190, 253, 254, 255]) << 23);
  if (kind < 7) return ((random.next() & 0x807fffff) | ((100 + random.below(56)) << 23)) >>> 0;
  return random.next();
}

const DOUBLES = [
  0x0000000000000000n,
  0x8000000000000000n,
  0x3ff0000000000000n,
  0xbff0000000000000n,
  0x7ff0000000000000n,
  0xfff0000000000000n,
  0x7ff8000000000000n,
  0xfff8000000000000n,
  0x7ff0000000000001n,
  0xfff0123456789abcn,
  0x7ff8000012345678n,
  0x0000000000000001n,
  0x800fffffffffffffn,
  0x0008000000000000n,
  0x0010000000000000n,
  0x8010000000000000n,
  0x7fefffffffffffffn,
  0xffefffffffffffffn,
  0x3fe0000000000000n,
  0x3ff8000000000000n,
  0x4004000000000000n,
  0x41dfffffffc00000n,
  0x41e0000000000000n,
  0xc1e0000000200000n,
  0xc1e0000000000000n,
  0x43dfffffffffffffn,
  0x43e0000000000000n,
  0xc3e0000000000000n,
  0x4330000000000001n,
  0x3fefffffffffffffn,
  0x47efffffe0000000n,
  0x47effffff0000000n,
  0x3810000000000000n,
  0x380fffffffffffffn,
  0x36a0000000000000n,
  0x3690000000000000n,
];

export function double(random: Random): bigint {
  const kind = random.below(8);
  if (kind < 3) return random.pick(DOUBLES);
  if (kind === 3) return doubleBits(random.below(2000) / 4 - 250);
  if (kind === 4) {
    const exponent = random.pick([0, 1, 2, 53, 874, 897, 1022, 1075, 1150, 2045, 2046, 2047]);
    return (random.word() & 0x800fffffffffffffn) | (BigInt(exponent) << 52n);
  }
  if (kind < 7) return (random.word() & 0x800fffffffffffffn) | (BigInt(990 + random.below(66)) << 52n);
  return random.word();
}

/** Extended-precision values as [significand, sign and exponent] (Intel SDM vol. 1, 4.2.2 and 8.2.2). */
const EXTENDED: readonly (readonly [bigint, number])[] = [
  [0n, 0],
  [0n, 0x8000],
  [1n << 63n, 0x3fff],
  [1n << 63n, 0xbfff],
  [1n << 63n, 0x7fff],
  [1n << 63n, 0xffff], // zeros, ones, infinities
  [3n << 62n, 0x7fff],
  [3n << 62n, 0xffff],
  [(1n << 63n) + 1n, 0x7fff],
  [0xc000000012345678n, 0x7fff], // NaNs
  // denormals, pseudo-denormal, limits
  [1n, 0],
  [0x7fffffffffffffffn, 0x8000],
  [1n << 63n, 0],
  [1n << 63n, 1],
  [MASK64, 0x7ffe],
  [MASK64, 0xfffe],
  [0x4000000000000000n, 0x3fff],
  [0n, 0x7fff],
  [0x4000000000000000n, 0x7fff], // unnormal, pseudo-infinity, pseudo-NaN: unsupported
  // pi, pi/2, pi/4, ln 2
  [0xc90fdaa22168c235n, 0x4000],
  [0xc90fdaa22168c235n, 0x3fff],
  [0xc90fdaa22168c235n, 0x3ffe],
  [0xb17217f7d1cf79acn, 0x3ffe],
  [MASK64, 0x401d],
  [1n << 63n, 0x401e],
  [1n << 63n, 0xc01e],
  [MASK64, 0x403d],
  [1n << 63n, 0x403e],
  [1n << 63n, 0xc03e],
  [MASK64 - 1n, 0xc03e],
  // 0.5, 1.5, 2.5, about 1e18
  [1n << 63n, 0x3ffe],
  [3n << 62n, 0x3fff],
  [0xa000000000000000n, 0x4000],
  [0xde0b6b3a763fffe0n, 0x403a],
  [0xde0b6b3a76400000n, 0x403a],
];

/** Where denormals, singles, doubles, 64-bit integers and the format itself end. */
const EXPONENTS = [0, 1, 2, 64, 0x3c01, 0x3f81, 0x3fbf, 0x403e, 0x407e, 0x43fe, 0x43ff, 0x7ffd, 0x7ffe, 0x7fff];

export function extended(random: Random): readonly [bigint, number] {
  const kind = random.below(10);
  const top = random.word() | (1n << 63n);
  const sign = random.next() & 0x8000;
  if (kind < 3) return random.pick(EXTENDED);
  if (kind === 3) return fromNumber(random.below(2000) / 4 - 250);
  if (kind === 4) return [top, sign | random.pick(EXPONENTS)];
  if (kind === 5) return [top & ~0x7ffn, sign | (0x3fff - 70 + random.below(140))]; // representable as a double
  if (kind < 9) return [top, sign | (0x3fff - 33 + random.below(66))];
  return [random.word(), random.next() & 0xffff];
}

const view = new DataView(new ArrayBuffer(8));
function floatBits(value: number): number {
  view.setFloat32(0, value);
  return view.getUint32(0);
}
function doubleBits(value: number): bigint {
  view.setFloat64(0, value);
  return view.getBigUint64(0);
}
function fromNumber(value: number): readonly [bigint, number] {
  if (value === 0) return [0n, 0];
  const bits = doubleBits(value);
  return [(1n << 63n) | ((bits & 0xfffffffffffffn) << 11n), (Number((bits >> 52n) & 0x7ffn) - 1023 + 0x3fff) | (value < 0 ? 0x8000 : 0)];
}

/** Fills `bytes` with values of one kind (second letter of a profile, or the kind of XMM contents). */
export function fill(bytes: Uint8Array, kind: string, random: Random): void {
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  switch (kind) {
    case 's':
      for (let i = 0; i + 4 <= bytes.length; i += 4) data.setUint32(i, single(random), true);
      return;
    case 't':
      for (let i = 0; i + 10 <= bytes.length; i += 10) {
        const [significand, exponent] = extended(random);
        data.setBigUint64(i, significand, true);
        data.setUint16(i + 8, exponent, true);
      }
      return;
    case 'b':
      for (let i = 0; i < bytes.length; i++) bytes[i] = i % 10 === 9 ? random.pick([0, 0x80]) : random.below(10) * 16 + random.below(10);
      return;
    default: // i, d, q
      for (let i = 0; i + 8 <= bytes.length; i += 8) data.setBigUint64(i, kind === 'd' ? double(random) : integer(random), true);
  }
}

const ARITHMETIC_FLAGS = [1, 4, 16, 64, 128, 2048];

/** The whole initial state. In 32-bit code the upper halves of registers are zero and R8 to R15 take no part. */
export function initialState(profile: string, seed: number, bits: Bits): State {
  const random = new Random(seed);
  const gpr = new BigUint64Array(16);
  for (let i = 0; i < 16; i++) gpr[i] = bits === 64 ? integer(random) : integer(random) & 0xffffffffn;
  if (bits !== 64) gpr.fill(0n, 8);
  gpr[4] = BigInt(STACK);
  let flags = 0x202 | (random.chance(12) ? 0x400 : 0);
  for (const flag of ARITHMETIC_FLAGS) flags |= random.chance(50) ? flag : 0;
  const fx = new Uint8Array(512);
  const control = new DataView(fx.buffer);
  control.setUint16(0, 0x37f, true);
  control.setUint32(24, 0x1f80, true);
  const kind = profile[0] as string;
  if ('sdq'.includes(kind)) {
    control.setUint32(24, randomMxcsr(random), true);
    fill(fx.subarray(160, 416), kind, random);
  } else if (kind !== 'g') {
    x87State(control, kind, random);
    if (kind !== 'x') fill(fx.subarray(160, 416), kind === 'n' ? 's' : kind === 'o' ? 'd' : 'q', random);
    if (kind === 'n' || kind === 'o') control.setUint32(24, randomMxcsr(random), true);
  }
  return { gpr, rflags: BigInt(flags), fx };
}

/** Intel SDM vol. 1, 10.2.3: flags 0..5, DAZ 6, masks 7..12, RC 13..14, FTZ 15. */
function randomMxcsr(random: Random): number {
  let value = random.chance(20) ? random.below(64) : 0;
  if (random.chance(25)) value |= random.below(4) << 13;
  if (random.chance(12)) value |= random.pick([0x40, 0x8000, 0x8040]);
  return value | (random.chance(12) ? random.next() & 0x1f80 : 0x1f80);
}

/** Intel SDM vol. 1, 8.1.3 and 8.1.5. ES and B follow from flags and masks, as the processor keeps them. */
function x87State(control: DataView, kind: string, random: Random): void {
  let fcw = 0x37f;
  if (random.chance(35)) fcw = 0x7f | (random.pick([0, 2, 3, 3]) << 8) | (random.below(4) << 10);
  if (random.chance(10)) fcw &= ~random.below(64);
  let fsw = (random.below(8) << 11) | (random.next() & 0x4700);
  if (random.chance(20)) fsw |= random.below(64) & (random.chance(85) ? fcw : 63);
  if (random.chance(5)) fsw |= 0x40 | (fcw & 1);
  if ((fsw & ~fcw & 0x3f) !== 0) fsw |= 0x8080;
  control.setUint16(0, fcw, true);
  control.setUint16(2, fsw, true);
  control.setUint8(4, random.chance(70) ? 0xff : random.below(256));
  for (let i = 0; i < 8; i++) {
    const [significand, exponent] = extended(random);
    control.setBigUint64(32 + 16 * i, kind === 'x' ? significand : integer(random), true);
    control.setUint16(40 + 16 * i, kind !== 'x' && random.chance(90) ? 0xffff : exponent, true);
  }
}
