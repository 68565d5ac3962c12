/**
 * One test case of the CPU tests, what came of it, and both as a line of text:
 *
 *   CODE PROFILE+SEED [inputs] = [outputs]
 *
 * CODE is hex bytes, `32:` or `16:` before it for 32-bit or 16-bit code. Inputs change the state that profile and seed give (state.ts):
 *   rax=HEX  f=HEX (RFLAGS)  at=HEX (where the code lies)  @ADDRESS (64 bytes of operands)  @ADDRESS:BYTES
 *   ~ADDRESS+SIZE (memory not compared)  u=HEX (flags not compared)
 * Outputs say what differs afterwards; numbers are hex, memory and XMM contents are bytes in memory order:
 *   !VECTOR[:ERROR[:CR2]]  ip=HEX  rax=HEX  f=HEX  x0=BYTES  mx=.. cw=.. sw=.. tw=..  p0=BYTES (physical x87 register)  [ADDRESS]=BYTES
 * No `!` means that the code ran to the INT3 behind it.
 */
import { background, type Bits, START, WINDOWS } from './layout.ts';
import { fill, initialState, Random, type State } from './state.ts';

export interface Patch {
  address: number;
  bytes: Uint8Array | 'operands';
}

export interface Case {
  bits: Bits;
  code: Uint8Array;
  profile: string;
  seed: number;
  at: number;
  /** [index of the general register, value] */
  registers: (readonly [number, bigint])[];
  rflags?: bigint;
  patches: Patch[];
  ignored: { address: number; size: number }[];
  /** RFLAGS bits that nobody defines afterwards; for sequences of instructions. */
  undefinedFlags: number;
}

export interface Outcome {
  /** 3 = came to the INT3 behind the code; 255 = did not come to an end; 253 = made a system call (on the host only). */
  vector: number;
  error: number;
  cr2: bigint;
  rip: bigint;
  gpr: BigUint64Array;
  rflags: bigint;
  /** Normalised FXSAVE image; see `normalise`. */
  fx: Uint8Array;
  /** Contents of every window, in the order of WINDOWS. */
  memory: Uint8Array[];
}

export const END = 3;
export const TIMED_OUT = 255;
export const SYSTEM_CALL = 253;
export const NAMES = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'];

/** Named fields of the normalised FXSAVE image: [name, offset, size]. */
export const FIELDS: readonly (readonly [string, number, number])[] = [
  ['cw', 0, 2],
  ['sw', 2, 2],
  ['tw', 4, 1],
  ['mx', 24, 4],
  ...Array.from({ length: 8 }, (_, i) => [`p${i}`, 32 + 16 * i, 10] as const),
  ...Array.from({ length: 16 }, (_, i) => [`x${i}`, 160 + 16 * i, 16] as const),
];

export function newCase(bits: Bits, code: Iterable<number>, profile: string, seed: number): Case {
  return { bits, code: Uint8Array.from(code), profile, seed, at: START, registers: [], patches: [], ignored: [], undefinedFlags: 0 };
}

/** Registers and memory that the case starts with. Patches are in the order in which they are written; code comes last. */
export function input(test: Case): { state: State; patches: { address: number; bytes: Uint8Array }[] } {
  const state = initialState(test.profile, test.seed, test.bits);
  for (const [index, value] of test.registers) state.gpr[index] = value;
  if (test.rflags !== undefined) state.rflags = test.rflags;
  const random = new Random(~test.seed);
  const patches = test.patches.map(({ address, bytes }) => {
    if (bytes !== 'operands') return { address, bytes };
    const window = WINDOWS.find((w) => address >= w.base && address < w.base + w.size);
    const operands = new Uint8Array(Math.min(64, window === undefined ? 0 : window.base + window.size - address));
    fill(operands, test.profile[1] as string, random);
    return { address, bytes: operands };
  });
  return { state, patches: [...patches, { address: test.at, bytes: test.code }] };
}

/** Window contents that the case starts with, written to `memory`. */
export function memoryBefore(
  patches: readonly { address: number; bytes: Uint8Array }[],
  memory = WINDOWS.map(({ size }) => new Uint8Array(size)),
): Uint8Array[] {
  WINDOWS.forEach((window, w) => {
    const bytes = memory[w] as Uint8Array;
    bytes.set(background(window));
    for (const patch of patches) {
      if (patch.address >= window.base && patch.address < window.base + window.size) bytes.set(patch.bytes, patch.address - window.base);
    }
  });
  return memory;
}

/**
 * An FXSAVE image reduced to what every processor agrees on: no last-instruction pointers (AMD keeps them only while an
 * exception is pending), x87 registers in physical order so that a push changes one of them, no reserved bytes.
 */
export function normalise(fx: Uint8Array): Uint8Array {
  const out = new Uint8Array(416);
  out.set(fx.subarray(0, 5));
  out.set(fx.subarray(24, 28), 24);
  const top = ((fx[3] as number) >> 3) & 7;
  for (let i = 0; i < 8; i++) out.set(fx.subarray(32 + 16 * i, 42 + 16 * i), 32 + 16 * ((top + i) & 7));
  out.set(fx.subarray(160, 416), 160);
  return out;
}

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'));
const number = (bytes: Uint8Array): string => bytes.reduceRight((value, byte) => value * 256 + byte, 0).toString(16);
const isText = (field: string): boolean => field[0] === 'x' || field[0] === 'p';

export function formatCase(test: Case): string {
  const words = [(test.bits === 64 ? '' : `${test.bits}:`) + hexOf(test.code), test.profile + test.seed];
  if (test.at !== START) words.push(`at=${test.at.toString(16)}`);
  if (test.rflags !== undefined) words.push(`f=${test.rflags.toString(16)}`);
  for (const [index, value] of test.registers) words.push(`${NAMES[index]}=${value.toString(16)}`);
  for (const { address, bytes } of test.patches) words.push(`@${address.toString(16)}${bytes === 'operands' ? '' : `:${hexOf(bytes)}`}`);
  for (const { address, size } of test.ignored) words.push(`~${address.toString(16)}+${size.toString(16)}`);
  if (test.undefinedFlags !== 0) words.push(`u=${test.undefinedFlags.toString(16)}`);
  return words.join(' ');
}

export function formatOutcome(test: Case, outcome: Outcome): string {
  const { state, patches } = input(test);
  const words: string[] = [];
  if (outcome.vector !== END) {
    const error = outcome.vector === 14 || outcome.error !== 0 ? `:${outcome.error.toString(16)}` : '';
    const cr2 = outcome.vector === 14 ? `:${outcome.cr2.toString(16)}` : '';
    words.push(`!${outcome.vector}${error}${cr2}`);
  }
  if (outcome.rip !== usualRip(test, outcome.vector)) words.push(`ip=${outcome.rip.toString(16)}`);
  outcome.gpr.forEach((value, i) => {
    if (value !== state.gpr[i]) words.push(`${NAMES[i]}=${value.toString(16)}`);
  });
  if (outcome.rflags !== state.rflags) words.push(`f=${outcome.rflags.toString(16)}`);
  const before = normalise(state.fx);
  for (const [name, offset, size] of FIELDS) {
    const now = outcome.fx.subarray(offset, offset + size);
    if (Buffer.compare(now, before.subarray(offset, offset + size)) !== 0) words.push(`${name}=${isText(name) ? hexOf(now) : number(now)}`);
  }
  memoryBefore(patches).forEach((was, w) => {
    const now = outcome.memory[w] as Uint8Array;
    if (Buffer.compare(was, now) === 0) return;
    for (let i = 0; i < was.length; i++) {
      if (was[i] === now[i]) continue;
      let end = i + 1; // one run swallows up to three equal bytes
      for (let j = end; j < was.length && j < end + 4; j++) if (was[j] !== now[j]) end = j + 1;
      words.push(`[${((WINDOWS[w]?.base ?? 0) + i).toString(16)}]=${hexOf(now.subarray(i, end))}`);
      i = end;
    }
  });
  return words.join(' ');
}

/** Where RIP is if a line does not say: behind the code, or at its start after a fault. */
function usualRip(test: Case, vector: number): bigint {
  return BigInt(vector === END ? test.at + test.code.length : test.at);
}

/** Reads a fixture line. Throws an Error that names what it could not read. */
export function parseLine(line: string): { test: Case; expected: Outcome } {
  const cut = line.indexOf(' =');
  const [code = '', name = '', ...inputs] = line.slice(0, cut).split(' ');
  const match = /^([a-z]+)(\d+)$/.exec(name);
  if (cut < 0 || match === null) throw new Error(`fixture line not understood: ${line}`);
  const bits = code.startsWith('16:') ? 16 : code.startsWith('32:') ? 32 : 64;
  const test = newCase(bits, bytesOf(bits === 64 ? code : code.slice(3)), match[1] as string, Number(match[2]));
  for (const word of inputs) readInput(test, word);
  return {
    test,
    expected: readOutcome(
      test,
      line
        .slice(cut + 2)
        .split(' ')
        .filter((word) => word !== ''),
    ),
  };
}

function readInput(test: Case, word: string): void {
  const [key = '', value = ''] = word.split('=');
  if (word[0] === '@') {
    const [address = '', bytes] = word.slice(1).split(':');
    test.patches.push({ address: Number.parseInt(address, 16), bytes: bytes === undefined ? 'operands' : bytesOf(bytes) });
  } else if (word[0] === '~') {
    const [address = '', size = ''] = word.slice(1).split('+');
    test.ignored.push({ address: Number.parseInt(address, 16), size: Number.parseInt(size, 16) });
  } else if (key === 'at') test.at = Number.parseInt(value, 16);
  else if (key === 'f') test.rflags = BigInt(`0x${value}`);
  else if (key === 'u') test.undefinedFlags = Number.parseInt(value, 16);
  else if (NAMES.includes(key)) test.registers.push([NAMES.indexOf(key), BigInt(`0x${value}`)]);
  else throw new Error(`unknown input ${word} in a fixture line`);
}

function readOutcome(test: Case, words: readonly string[]): Outcome {
  const { state, patches } = input(test);
  const out: Outcome = {
    vector: END,
    error: 0,
    cr2: 0n,
    rip: 0n,
    gpr: state.gpr,
    rflags: state.rflags,
    fx: normalise(state.fx),
    memory: memoryBefore(patches),
  };
  let rip: bigint | undefined;
  for (const word of words) {
    const [key = '', value = ''] = word.split('=');
    const field = FIELDS.find(([name]) => name === key);
    if (word[0] === '!') {
      const [vector = '', error = '0', cr2 = '0'] = word.slice(1).split(':');
      out.vector = Number(vector);
      out.error = Number.parseInt(error, 16);
      out.cr2 = BigInt(`0x${cr2}`);
    } else if (word[0] === '[') {
      const address = Number.parseInt(key.slice(1, -1), 16);
      const w = WINDOWS.findIndex((window) => address >= window.base && address < window.base + window.size);
      out.memory[w]?.set(bytesOf(value), address - (WINDOWS[w]?.base ?? 0));
    } else if (key === 'ip') rip = BigInt(`0x${value}`);
    else if (key === 'f') out.rflags = BigInt(`0x${value}`);
    else if (NAMES.includes(key)) out.gpr[NAMES.indexOf(key)] = BigInt(`0x${value}`);
    else if (field === undefined) throw new Error(`unknown output ${word} in a fixture line`);
    else if (isText(key)) out.fx.set(bytesOf(value), field[1]);
    else for (let i = 0; i < field[2]; i++) out.fx[field[1] + i] = Number.parseInt(value, 16) / 256 ** i; // the array keeps the low byte
  }
  out.rip = rip ?? usualRip(test, out.vector);
  return out;
}
