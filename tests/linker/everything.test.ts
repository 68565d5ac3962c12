/**
 * Every module of the stock package: nearly all can be guarded, and what is refused is refused for a reason that is listed here. A sample of the
 * outputs is disassembled in every run, all of them with PORTCULLIS_ALL_MODULES=1 (minutes).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { UserError } from '../../src/base/errors.ts';
import { linkModule } from '../../src/linker/link.ts';
import { findModules } from './stock-testing.ts';
import { strayTransfers } from './transfers.ts';

const found = findModules();
const folder = 'folder' in found ? found.folder : '';
const modules =
  folder === ''
    ? []
    : readdirSync(folder, { recursive: true, encoding: 'utf8' })
        .filter((path) => path.endsWith('.ko'))
        .sort();
const ALL = process.env.PORTCULLIS_ALL_MODULES === '1';
/** Every so many-th module is disassembled. */
const SAMPLE = 41;

/** Why a module cannot be guarded, by the words of the message. */
const REASONS: [RegExp, string][] = [
  [/static calls/, 'static calls that the kernel patches'],
  [/no function starts/, 'a handed out address where no function starts'],
];
const reasonOf = (message: string) => REASONS.find(([pattern]) => pattern.test(message))?.[1] ?? message;

describe.skipIf(folder === '')(`all ${modules.length} stock modules`, () => {
  test('are linked, but for a few that are named with their reasons', { timeout: 600_000 }, () => {
    const refused = new Map<string, string[]>();
    const stray: string[] = [];
    let disassembled = 0;
    for (const [index, path] of modules.entries()) {
      const bytes = readFileSync(join(folder, path));
      const name = basename(path, '.ko');
      try {
        const plain = linkModule(bytes, path);
        if (!ALL && index % SAMPLE !== 0) continue;
        disassembled += 1;
        for (const { image, manifest } of [plain, linkModule(bytes, path, { shadowStack: true })])
          stray.push(...strayTransfers(bytes, image, manifest).map((finding) => `${name}: ${finding}`));
      } catch (error) {
        if (!(error instanceof UserError)) throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
        const reason = reasonOf(error.message);
        refused.set(reason, [...(refused.get(reason) ?? []), name]);
      }
    }
    const count = [...refused.values()].flat().length;
    const list = [...refused].map(([reason, names]) => `  ${reason}: ${names.join(', ')}`).join('\n');
    console.log(`${modules.length - count} of ${modules.length} modules linked, ${disassembled} disassembled; refused:\n${list}`);
    expect(stray).toEqual([]);
    expect(disassembled).toBeGreaterThan(modules.length / SAMPLE / 2);
    expect(count).toBeLessThan(modules.length / 100);
  });
});
