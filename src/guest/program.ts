/** A program without a C library, built from one C file for the guest's user space. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';

/** `flags`: more of the compiler's, such as where it is linked. Throws UserError where gcc is missing or does not like the file. */
export function buildProgram(path: string, flags: readonly string[] = []): Uint8Array {
  const folder = mkdtempSync(join(tmpdir(), 'portcullis-program-'));
  try {
    const output = join(folder, 'program');
    const result = spawnSync('gcc', ['-static', '-nostdlib', '-ffreestanding', '-O2', '-s', ...flags, '-o', output, path], {
      encoding: 'utf8',
    });
    if (result.error || result.status !== 0) {
      throw new UserError(
        `${path}: gcc failed: ${result.error?.message ?? result.stderr.trim().slice(0, 2000)}`,
        'apt-get install gcc',
        'failed',
      );
    }
    return readFileSync(output);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
