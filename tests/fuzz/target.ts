/**
 * A fuzz target: one input of the product, or one pair of things that must agree, and how to run a case against it. `run` repeats cases until the steps
 * or the time are used up; a case that fails is made shorter and comes with the command that repeats it.
 */
import { Random } from './random.ts';

export interface Bench {
  /** Runs one case. Gives the number of steps it took; throws what is wrong. */
  run(random: Random): number | Promise<number>;
  /** How often the cases came to places that matter, so that a test can ask whether they still do. */
  readonly reached: Record<string, number>;
  close?(): void;
}

export interface Target {
  readonly name: string;
  /** One line: what goes in, and what must hold. */
  readonly about: string;
  /** What a step is. */
  readonly unit: string;
  /** Steps in `npm test`. */
  readonly share: number;
  /** Places that the test's share must come to. */
  readonly reaches: readonly string[];
  /** Undefined where it can run; else what is missing here. */
  missing?(): string | undefined;
  prepare(): Bench | Promise<Bench>;
}

export interface Limits {
  /** At least so many, in whole cases. */
  steps: number;
  seed: number;
  /** ms. */
  time?: number;
  /** False: a case that fails is reported as it is. */
  shorten?: boolean;
  /** After each case. */
  tick?(steps: number): void;
}

export interface Totals {
  steps: number;
  cases: number;
  reached: Record<string, number>;
}

/** A case that failed. `numbers`: the shortest form of it that still fails, when the failure can be repeated. */
export class CaseFailed extends Error {
  constructor(
    readonly target: string,
    readonly seed: number,
    problem: Error,
    readonly numbers: readonly number[] | undefined,
  ) {
    super(`${target}: ${problem.message}\nrepeat it: ${replayCommand(target, seed, numbers)}`, { cause: problem });
  }
}

function replayCommand(target: string, seed: number, numbers: readonly number[] | undefined): string {
  const whole = `npm run fuzz -- --target ${target} --seed ${seed} --steps 1`;
  if (numbers === undefined) return `${whole}   (it did not fail a second time by itself: an earlier case left something behind)`;
  const short = packCase(numbers);
  return short.length > 2000 ? whole : `${whole}\n  shortest: npm run fuzz -- --target ${target} --case ${short}`;
}

/** A case as one word of text. */
export function packCase(numbers: readonly number[]): string {
  const bytes: number[] = [];
  for (let number of numbers) {
    for (; number > 0x7f; number = Math.floor(number / 128)) bytes.push((number % 128) | 0x80);
    bytes.push(number);
  }
  return Buffer.from(bytes).toString('base64url') || '-';
}
export function unpackCase(text: string): number[] {
  const numbers: number[] = [];
  let scale = 1;
  let number = 0;
  for (const byte of Buffer.from(text, 'base64url')) {
    number += (byte & 0x7f) * scale;
    scale *= 128;
    if (byte & 0x80) continue;
    numbers.push(number);
    [number, scale] = [0, 1];
  }
  return numbers;
}

/** Runs cases seed, seed + 1, ... Throws CaseFailed. */
export async function run(
  target: Target,
  { steps, seed, time = Number.POSITIVE_INFINITY, shorten: wanted = true, tick }: Limits,
): Promise<Totals> {
  const bench = await target.prepare();
  const totals: Totals = { steps: 0, cases: 0, reached: bench.reached };
  const started = performance.now();
  try {
    for (; totals.steps < steps && performance.now() - started < time; totals.cases++) {
      const number = seed + totals.cases;
      try {
        const made = bench.run(new Random(number));
        totals.steps += typeof made === 'number' ? made : await made;
      } catch (thrown) {
        const problem = asError(thrown);
        throw new CaseFailed(target.name, number, problem, wanted ? await shorten(target, number, problem) : undefined);
      }
      tick?.(totals.steps);
    }
  } finally {
    bench.close?.();
  }
  return totals;
}

/** Runs one case that was given number by number. Throws what is wrong. */
export async function repeat(target: Target, numbers: readonly number[]): Promise<number> {
  const bench = await target.prepare();
  try {
    return await bench.run(new Random(0, { given: numbers }));
  } finally {
    bench.close?.();
  }
}

const asError = (thrown: unknown): Error => (thrown instanceof Error ? thrown : new Error(String(thrown)));
/** Two failures are one when their messages differ in numbers only. */
const kindOf = (error: Error): string => error.message.replaceAll(/0x[0-9a-f]+|\d+/gi, '#').slice(0, 60);

const SHORTEN_MS = 10_000;

/** Leaves steps out, then makes numbers zero, as long as the case fails in the same way. Undefined if it does not fail again at all. */
async function shorten(target: Target, seed: number, problem: Error): Promise<number[] | undefined> {
  const wanted = kindOf(problem);
  const until = performance.now() + SHORTEN_MS;
  const attempt = async (given?: readonly number[]): Promise<Random | undefined> => {
    const random = new Random(seed, { given, record: true });
    const bench = await target.prepare();
    try {
      await bench.run(random);
      return undefined;
    } catch (thrown) {
      return kindOf(asError(thrown)) === wanted ? random : undefined;
    } finally {
      bench.close?.();
    }
  };
  let best = await attempt();
  if (best === undefined) return undefined;
  for (let size = best.spans.length; size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let from = 0; from < best.spans.length && performance.now() < until; ) {
      const { drawn, spans }: Random = best;
      const end = from + size < spans.length ? spans[from + size] : drawn.length;
      const shorter = await attempt([...drawn.slice(0, spans[from]), ...drawn.slice(end)]);
      if (shorter && shorter.drawn.length < drawn.length) best = shorter;
      else from += size;
    }
  }
  for (let at = 0; at < best.drawn.length && performance.now() < until; at++) {
    if (best.drawn[at] === 0) continue;
    for (const value of [0, best.drawn[at] & 0xff, best.drawn[at] & 0xffff]) {
      if (value === best.drawn[at]) continue;
      const simpler = await attempt(best.drawn.with(at, value));
      if (simpler === undefined || simpler.drawn.length > best.drawn.length) continue;
      best = simpler;
      break;
    }
  }
  const last = best.drawn.findLastIndex((number) => number !== 0);
  return best.drawn.slice(0, last + 1);
}

/** The bench's tally of places: `at(name)` counts. */
export function places(): { readonly reached: Record<string, number>; at(name: string, times?: number): void } {
  const reached: Record<string, number> = {};
  return {
    reached,
    at: (name, times = 1) => {
      reached[name] = (reached[name] ?? 0) + times;
    },
  };
}
