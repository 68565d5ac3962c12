/** How commands speak: results on standard output (text or JSON), everything else on standard error. */
import { styleText } from 'node:util';
import { EXIT_CODES, type ExitName, UserError } from '../base/errors.ts';

/** How long the last output may take to be read, ms. */
export const LAST_WORDS_MS = 2000;

/** Columns aligned by their longest cell. Rows may have different lengths. */
export function columns(rows: readonly (readonly string[])[], gap = 2): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, index) => {
      widths[index] = Math.max(widths[index] ?? 0, cell.length);
    });
  return rows
    .map((row) =>
      row
        .map((cell, index) => (index === row.length - 1 ? cell : cell.padEnd(widths[index] + gap)))
        .join('')
        .trimEnd(),
    )
    .join('\n');
}

export type Style = Parameters<typeof styleText>[0];

/** Coloured text where standard output is a terminal and NO_COLOR is not set. */
export function styled(style: Style, text: string): string {
  return process.stdout.isTTY && !process.env.NO_COLOR ? styleText(style, text) : text;
}

/** A heading of a report, with an empty line before it. */
export const title = (text: string): string => `\n${styled('bold', text)}`;

/** Every line moved in by two. */
export const indent = (text: string): string =>
  text
    .split('\n')
    .map((line) => `  ${line}`)
    .join('\n');

/** How a report marks what held and what did not. */
export const mark = (ok: boolean): string => (ok ? styled('green', 'ok  ') : styled('red', 'FAIL'));

/** One JSON object on one line: the machine-readable result, last on standard output. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/**
 * A stream for output that may come faster than its reader takes it: `write` gives a promise when the reader is behind, which resolves
 * when it has caught up. `finish` waits for the rest, but at most two seconds; false: the reader takes nothing.
 */
export function pacedStream(stream: NodeJS.WriteStream): {
  write(bytes: Uint8Array): Promise<void> | undefined;
  finish(): Promise<boolean>;
} {
  let behind: Promise<void> | undefined;
  return {
    write(bytes) {
      if (stream.write(bytes)) return undefined;
      behind ??= new Promise((resolve) => {
        stream.once('drain', () => {
          behind = undefined;
          resolve();
        });
      });
      return behind;
    },
    async finish() {
      if (stream.writableLength === 0) return true;
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<boolean>((resolve) => {
        timer = setTimeout(() => resolve(false), LAST_WORDS_MS);
      });
      const out = new Promise<boolean>((resolve) => {
        stream.write('', () => resolve(true));
      });
      const done = await Promise.race([out, late]);
      clearTimeout(timer);
      return done;
    },
  };
}

/** Who wants to end in order when standard output is closed. */
const closers = new Set<() => void>();

/** Standard output cannot be written. A closed pipe (| head) is no error worth a message: whoever registered ends, or the process does. */
export function outputFailed(error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE' && closers.size > 0) for (const close of closers) close();
  else if (error.code === 'EPIPE') process.exit(0);
  else process.exit(reportError(new UserError(`cannot write to standard output: ${error.message}`, undefined, 'failed'), false));
}

/** Calls `close` when the reader of standard output leaves. The result takes that back. */
export function whenOutputCloses(close: () => void): () => void {
  closers.add(close);
  return () => closers.delete(close);
}

/** Prints an error for people (and as JSON with `json`) and returns the exit code. Stack traces only for defects of ours. */
export function reportError(error: unknown, json: boolean): number {
  const { message, fix, exit, text } = describeError(error);
  const { code } = EXIT_CODES[exit];
  if (json) printJson({ ok: false, exit, code, error: { message, fix } });
  process.stderr.write(`portcullis: ${text}\n`);
  return code;
}

function describeError(error: unknown): { message: string; fix?: string; exit: ExitName; text: string } {
  if (error instanceof UserError) {
    const { message, fix, exit } = error;
    return { message, fix, exit, text: fix ? `${message}\n  ${fix}` : message };
  }
  const system = error as NodeJS.ErrnoException;
  if (typeof system?.code === 'string' && typeof system.syscall === 'string')
    return { message: system.message, exit: 'failed', text: system.message };
  return {
    message: String(error),
    exit: 'failed',
    text: `this is a defect of Portcullis, please report it\n${(error as Error)?.stack ?? error}`,
  };
}
