/** What all commands share: global flags, reading files with limits, and turning errors into exit codes. */
import { readFileSync, statSync } from 'node:fs';
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

/** Reads a regular file of at most `most` bytes. Throws UserError for what is missing, too large or no file. */
export function readInput(path: string, most: number, what: string): Buffer {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) throw new UserError(`${path}: no such ${what}`, 'check the path');
  if (!stat.isFile()) throw new UserError(`${path} is not a file`, `expected a ${what}`);
  if (stat.size > most)
    throw new UserError(`${path} has ${stat.size} bytes; at most ${most} are taken as ${what}`, 'check that it is the right file');
  return readFileSync(path);
}

export const LIMITS = { kernel: 512 << 20, initramfs: 1 << 30, module: 64 << 20, policy: 16 << 20, config: 1 << 20, key: 1 << 16 } as const;
