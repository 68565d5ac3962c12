/** Which features of the CPU each side announces. Both are asked by CPUID, run as any other case. */
import { type Case, newCase, type Outcome } from './fixture.ts';

const [EAX, ECX, EDX, EBX] = [0, 1, 2, 3] as const;

/** Where CPUID announces a feature: [leaf, subleaf, register, bit], by iced-x86's name of it. All that the engine may announce are here. */
const BITS: Readonly<Record<string, readonly [number, number, number, number]>> = {
  SSE3: [1, 0, ECX, 0],
  MONITOR: [1, 0, ECX, 3],
  SSSE3: [1, 0, ECX, 9],
  CMPXCHG16B: [1, 0, ECX, 13],
  SSE4_1: [1, 0, ECX, 19],
  SSE4_2: [1, 0, ECX, 20],
  MOVBE: [1, 0, ECX, 22],
  POPCNT: [1, 0, ECX, 23],
  XSAVE: [1, 0, ECX, 26],
  RDRAND: [1, 0, ECX, 30],
  TSC: [1, 0, EDX, 4],
  MSR: [1, 0, EDX, 5],
  CX8: [1, 0, EDX, 8],
  SEP: [1, 0, EDX, 11],
  CMOV: [1, 0, EDX, 15],
  CLFSH: [1, 0, EDX, 19],
  MMX: [1, 0, EDX, 23],
  FXSR: [1, 0, EDX, 24],
  SSE: [1, 0, EDX, 25],
  SSE2: [1, 0, EDX, 26],
  FSGSBASE: [7, 0, EBX, 0],
  INVPCID: [7, 0, EBX, 10],
  RDSEED: [7, 0, EBX, 18],
  SMAP: [7, 0, EBX, 20],
  RDPID: [7, 0, ECX, 22],
  XSAVEOPT: [0xd, 1, EAX, 0],
  SYSCALL: [0x8000_0001, 0, EDX, 11],
  RDTSCP: [0x8000_0001, 0, EDX, 27],
};

/** What every x86-64 CPU has, announced or not. */
const ALWAYS = [
  ...['INTEL8086', 'INTEL186', 'INTEL286', 'INTEL386', 'INTEL486', 'X64', 'FPU', 'FPU287', 'FPU387'],
  ...['CPUID', 'MULTIBYTENOP', 'PAUSE', 'RDPMC'],
];

type Run = (tests: readonly Case[]) => Iterable<Outcome>;

/** Registers after CPUID, for each leaf and subleaf. */
function cpuid(run: Run, leaves: readonly (readonly [leaf: number, subleaf: number])[]): BigUint64Array[] {
  const questions = leaves.map(([leaf, subleaf]): Case => {
    const registers = [[EAX, BigInt(leaf)] as const, [ECX, BigInt(subleaf)] as const];
    return { ...newCase(64, [0x0f, 0xa2], 'gi', 1), registers };
  });
  return [...run(questions)].map(({ gpr }) => gpr);
}

/** Names of the features of a CPU that runs cases. */
export function featuresOf(run: Run): ReadonlySet<string> {
  const places = Object.entries(BITS);
  const answers = cpuid(
    run,
    places.map(([, [leaf, subleaf]]) => [leaf, subleaf]),
  );
  const announced = places.filter(([, [, , register, bit]], i) => ((answers[i]?.[register] ?? 0n) >> BigInt(bit)) % 2n === 1n);
  return new Set([...ALWAYS, ...announced.map(([name]) => name)]);
}

/** Such as `AuthenticAMD`. */
export function vendorOf(run: Run): string {
  const [answer] = cpuid(run, [[0, 0]]);
  const text = Buffer.alloc(12);
  [EBX, EDX, ECX].forEach((register, i) => {
    text.writeUInt32LE(Number((answer?.[register] ?? 0n) & 0xffff_ffffn), 4 * i);
  });
  return text.toString('latin1');
}
