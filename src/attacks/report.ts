/** The table of the attacks, as text, as JSON and as the second half of SECURITY.md. */
import { holds, type About, type Outcome, PROMISES, type PromiseName, type Result } from './attack.ts';

/** How many held what they should, and promises that no attack is made on. */
export interface Summary {
  ok: boolean;
  attacks: number;
  /** Attacks that there are, tried or not. */
  known: number;
  stopped: number;
  /** Attacks that were shown to work without their defence; undefined: this build has no switch. */
  proven: number | undefined;
  /** Attacks that no missing check lets through. */
  byConstruction: number;
  promisesWithoutAttack: readonly PromiseName[];
}

export const promisesWithout = (attacks: readonly Pick<About, 'promises'>[]): PromiseName[] =>
  PROMISES.filter((promise) => !attacks.some(({ promises }) => promises.includes(promise)));

/** `catalogue`: all attacks that there are. */
export function summarise(results: readonly Result[], catalogue: readonly Pick<About, 'promises'>[]): Summary {
  const ran = results.some(({ without }) => without !== undefined);
  return {
    ok: results.every(holds),
    attacks: results.length,
    known: catalogue.length,
    stopped: results.filter(({ with: { gained, dead } }) => gained === undefined && dead === undefined).length,
    proven: ran ? results.filter(({ without }) => without?.gained !== undefined).length : undefined,
    byConstruction: results.filter(({ defences }) => typeof defences === 'string').length,
    promisesWithoutAttack: promisesWithout(catalogue),
  };
}

/** What happened with the defences on: the reason that was logged, why there is none, or what went wrong. */
export function stopped({ with: { gained, dead, reasons }, silent, defences }: Result): string {
  if (gained !== undefined) return `GAINED: ${gained}`;
  if (dead !== undefined) return `DEAD: ${dead}`;
  if (reasons.length > 0) return reasons.join(', ');
  return silent ?? (typeof defences === 'string' ? 'nothing' : 'NOT LOGGED');
}

/** What happened without them. */
export function unstopped({ without, defences }: { without: Outcome | undefined; defences: About['defences'] }): string {
  if (typeof defences === 'string') return `no switch: ${defences}`;
  if (without === undefined) return 'not shown: this build has no switch';
  return without.gained ?? 'NOTHING GAINED';
}

export const defencesText = (defences: About['defences']): string => (typeof defences === 'string' ? '' : defences.join(', '));

export function rows(results: readonly Result[]): string[][] {
  return results.map((result) => [
    holds(result) ? 'ok' : 'FAIL',
    result.name,
    result.promises.join(' '),
    result.stage,
    stopped(result),
    unstopped(result),
  ]);
}

const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('\n', ' ');

export function markdown(results: readonly Result[]): string {
  const lines = results.map((result) =>
    [
      `\`${result.name}\`: ${result.what}`,
      result.promises.join(' '),
      result.stage,
      typeof result.defences === 'string' ? '' : result.defences.map((name) => `\`${name}\``).join(', '),
      unstopped(result),
      stopped(result),
    ]
      .map(cell)
      .join(' | '),
  );
  return [
    '| attack | promise | staged | defence | without it | with it |',
    '|---|---|---|---|---|---|',
    ...lines.map((line) => `| ${line} |`),
  ].join('\n');
}

export function summaryText({ attacks, known, stopped: count, proven, byConstruction, promisesWithoutAttack }: Summary): string {
  const proof =
    proven === undefined
      ? 'Their proof, the same attacks without the defence, needs the attack build: npm run attacks, in a checkout.'
      : `${proven} work without their defence; ${byConstruction} have no single check to leave out.`;
  const missing = promisesWithoutAttack.length === 0 ? 'none' : promisesWithoutAttack.join(', ');
  return `${attacks === known ? attacks : `${attacks} of ${known}`} attacks tried, ${count} stopped. ${proof}\nPromises without an attack: ${missing}.`;
}
