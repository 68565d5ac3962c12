/**
 * What an attack is: who tries what against which promise (SECURITY.md), and the check that stops it. An attack reports what it gained, never
 * whether that is good or bad: the same attack must gain something without its defences and nothing with them.
 */
import { withoutDefences } from '../base/defence-switch.ts';
import type { Defence } from '../base/defences.ts';

export const PROMISES = ['P1', 'P2', 'P3', 'P4', 'P5', 'P6', 'P7', 'P8', 'P9', 'P10', 'P11', 'P12'] as const;
export type PromiseName = (typeof PROMISES)[number];

/** What an attack found. */
export interface Outcome {
  /** Evidence of what was gained; undefined: nothing. */
  gained: string | undefined;
  /** Reasons that were logged (src/monitor/reasons.ts), each once. */
  reasons: readonly string[];
  /** What of the guest or the VMM no longer works afterwards; undefined: all does. */
  dead: string | undefined;
}

export interface About {
  /** Lower-case words with hyphens. */
  name: string;
  /** What the attacker does, for the table. */
  what: string;
  promises: readonly PromiseName[];
  /**
   * All checks that must be missing for it to work; more than one where several stand one behind the other. A text: no check can be left out,
   * because of how things are built.
   */
  defences: readonly Defence[] | string;
  /** Why the defence has nothing to log: it takes the gain away instead of refusing. */
  silent?: string;
}

export interface ContractAttack extends About {
  run(): Outcome;
}

/** One line of the table. */
export interface Result extends About {
  /** contract: on the scripted engine, at the engine contract. guest: by a stock kernel with hostile modules and programs. */
  stage: 'contract' | 'guest';
  /** Undefined: not run, since this build has no switch, or nothing can be switched off. */
  without: Outcome | undefined;
  with: Outcome;
}

/** True if everything that could be shown was shown: stopped with its defences, for a reason that was logged; works without them. */
export function holds({ defences, silent, without, with: held }: Result): boolean {
  if (held.gained !== undefined || held.dead !== undefined) return false;
  if (typeof defences !== 'string' && silent === undefined && held.reasons.length === 0) return false;
  return without === undefined ? typeof defences === 'string' || withoutDefences === undefined : without.gained !== undefined;
}

/** Runs one attack with its defences, and where there is a switch without them. */
export async function runContractAttack(attack: ContractAttack): Promise<Result> {
  const { run, ...about } = attack;
  const { defences } = attack;
  const without =
    typeof defences === 'string' || withoutDefences === undefined ? undefined : await withoutDefences(defences, () => attempt(run, true));
  return { ...about, stage: 'contract', without, with: attempt(run, false) };
}

/** Without its checks the monitor may well come to grief; that is then what the attack has gained. */
function attempt(run: () => Outcome, unchecked: boolean): Outcome {
  try {
    return run();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return unchecked
      ? { gained: `the VMM fails: ${message}`, reasons: [], dead: undefined }
      : { gained: undefined, reasons: [], dead: message };
  }
}
