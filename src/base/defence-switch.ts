/**
 * The switch of the defences, as everybody gets it: welded on. There is no option, file, variable or call that turns one off; the compiler folds
 * `on` away. The attack suite (tools/attacks.mjs) runs a copy of the build in which this one file is replaced by defence-switch.attack.ts, to show
 * that each attack works without the check that stops it.
 */
import type { Defence } from './defences.ts';

/** True if the check is made. */
export const on = (_defence: Defence): boolean => true;

/** Runs `work` without some checks, and with them again afterwards. There is no such thing here. */
export const withoutDefences: undefined | (<T>(defences: readonly Defence[], work: () => T | Promise<T>) => Promise<T>) = undefined;
