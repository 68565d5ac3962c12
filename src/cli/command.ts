/** What all commands share: global flags, reading files with limits, and turning errors into exit codes. */
import { readFileSync, type Stats, statSync } from 'node:fs';
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { reportError } from './output.ts';
import { createProgress, type ProgressMode, type ProgressReporter } from './progress.ts';

export interface GlobalOptions {
  json: boolean;
  progress: ProgressMode;
}

/** What a command's body gets beside its own arguments. */
export interface Context {
  json: boolean;
  progress: ProgressReporter;
}

/**
 * Wraps a command's body: gives it the global options, prints errors, sets the exit code. The body returns its exit code.
 */
export function action<A extends unknown[]>(command: Command, body: (context: Context, ...args: A) => Promise<number> | number): void {
  command.action(async (...args: unknown[]) => {
    const { json, progress: mode } = command.optsWithGlobals() as GlobalOptions;
    const progress = createProgress(mode);
    try {
      process.exitCode = await body({ json, progress }, ...(args.slice(0, -1) as A));
    } catch (error) {
      progress.clear();
      process.exitCode = reportError(error, json);
    } finally {
      progress.clear();
    }
  });
}

/** Reads a regular file of at most `most` bytes. Throws UserError for what is missing, too large, no file or not for us to read. */
export function readInput(path: string, most: number, what: string): Buffer {
  const { size } = inputFile(path, what, 'check the path');
  if (size > most)
    throw new UserError(`${path} has ${size} bytes; at most ${most} are taken as ${what}`, 'check that it is the right file');
  return found(path, what, 'check its permissions', () => readFileSync(path));
}

/** A regular file, about to be read as `what`. Throws UserError, with this fix, where there is none. */
export function inputFile(path: string, what: string, fix: string): Stats {
  const stat = found(path, what, fix, () => statSync(path, { throwIfNoEntry: false }));
  if (stat === undefined) throw new UserError(`${path}: no such ${what}`, fix);
  if (!stat.isFile()) throw new UserError(`${path} is not a file; expected a ${what}`, fix);
  return stat;
}

/** What the system says about a path (a part of it is no folder, too long, not for us, ...) is the user's to mend. */
function found<T>(path: string, what: string, fix: string, look: () => T): T {
  try {
    return look();
  } catch (error) {
    throw new UserError(`${path} cannot be read as ${what}: ${(error as Error).message}`, fix);
  }
}

export const LIMITS = { kernel: 512 << 20, initramfs: 1 << 30, module: 64 << 20, policy: 16 << 20, config: 1 << 20, key: 1 << 16 } as const;
