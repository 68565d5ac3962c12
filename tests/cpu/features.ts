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
const ALWAYS = ['INTEL8086', 'INTEL186', 'INTEL286', 'INTEL386', 'INTEL486', 'X64', 'FPU', 'FPU287', 'FPU387', 'CPUID', 'MULTIBYTENOP'];

/** Names of the features of a CPU that runs cases. */
export function featuresOf(run: (tests: readonly Case[]) => Iterable<Outcome>): ReadonlySet<string> {
  const names = Object.keys(BITS);
  const questions = Object.values(BITS).map(([leaf, subleaf]) => {
    const test = newCase(64, [0x0f, 0xa2], 'gi', 1);
    test.registers = [
      [EAX, BigInt(leaf)],
      [ECX, BigInt(subleaf)],
    ];
    return test;
  });
  const answers = [...run(questions)];
  const has = (name: string, i: number): boolean => {
    const [, , register, bit] = BITS[name] as readonly [number, number, number, number];
    return (((answers[i] as Outcome).gpr[register] as bigint) >> BigInt(bit)) % 2n === 1n;
  };
  return new Set([...ALWAYS, 'PAUSE', 'RDPMC', ...names.filter(has)]);
}
