/** Every attack is stopped with its defences, and works without them (SECURITY.md, "Attacks"). */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { CATALOGUE } from '../../src/attacks/catalogue.ts';
import { KNOWN_WEAKNESSES, knownWeaknessesTable, matches } from '../../src/attacks/known-weaknesses.ts';
import { promisesWithout } from '../../src/attacks/report.ts';
import { DEFENCES } from '../../src/base/defences.ts';
import { isOnPath } from '../../src/guest/c-module.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const run = (args: string[]) => {
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', maxBuffer: 64 << 20 });
  return { code: status, err: stderr, out: stdout };
};
interface Line {
  ok: boolean;
  name: string;
  promises: string[];
  defences: string[] | string;
  stopped: string;
  unstopped: string;
}
const failures = (results: Line[]) => results.filter(({ ok }) => !ok);

describe('the attack build', async () => {
  const { attackBuild } = (await import('../../tools/attacks.mjs' as string)) as { attackBuild(name: string): Promise<string> };
  const { code, out, err } = run([await attackBuild('attacks-tested'), 'attack', '--stage', 'contract', '--json', '--progress', 'none']);
  const report = JSON.parse(out.trimEnd().split('\n').at(-1) ?? '{}');

  test('every attack at the contract is stopped, and works without its defence', () => {
    expect(failures(report.results), err).toEqual([]);
    expect({ code, ok: report.ok, switchable: report.switchable }).toEqual({ code: 0, ok: true, switchable: true });
    expect(report.proven).toBe(report.attacks - report.byConstruction);
    expect(report.stopped).toBe(report.attacks);
  });

  test('few attacks have no check to leave out', () => {
    expect(report.byConstruction).toBeLessThan(report.attacks / 4);
  });
});

const missing = ['gcc', 'make', 'strip'].filter((name) => !isOnPath(name));
if (missing.length > 0) console.warn(`SKIPPED: ${missing.join(', ')} is not installed: no hostile guest`);

test.skipIf(missing.length > 0)(
  'every attack by a stock kernel is stopped, and works without its defence',
  { timeout: 600_000 },
  async () => {
    const { attackBuild } = (await import('../../tools/attacks.mjs' as string)) as { attackBuild(name: string): Promise<string> };
    const { code, out, err } = run([await attackBuild('attacks-guest'), 'attack', '--stage', 'guest', '--json', '--progress', 'none']);
    const report = JSON.parse(out.trimEnd().split('\n').at(-1) ?? '{}');
    expect(failures(report.results ?? []), err).toEqual([]);
    expect({ code, ok: report.ok, stopped: report.stopped }, err).toEqual({ code: 0, ok: true, stopped: report.attacks });
    expect(report.attacks).toBe(CATALOGUE.filter(({ stage }) => stage === 'guest').length);
  },
);

test('a build without a switch runs them too, and says that the proof is elsewhere', () => {
  const { code, out } = run(['dist/cli/main.js', 'attack', '--only', 'stack-*', '--stage', 'contract']);
  expect(code).toBe(0);
  expect(out).toContain('npm run attacks');
  expect(out).toContain('not shown: this build has no switch');
});

test('a name that is none is a clear error', () => {
  const { code, err } = run(['dist/cli/main.js', 'attack', '--only', 'stack-nowher']);
  expect(code).toBe(2);
  expect(err).toContain('Did you mean stack-nowhere?');
});

describe('the catalogue', () => {
  test('names are unique, and every promise has an attack', () => {
    expect(new Set(CATALOGUE.map(({ name }) => name)).size).toBe(CATALOGUE.length);
    expect(promisesWithout(CATALOGUE)).toEqual([]);
  });

  test('every defence is what some attack needs to be missing', () => {
    const used = new Set(CATALOGUE.flatMap(({ defences }) => (typeof defences === 'string' ? [] : defences)));
    expect(Object.keys(DEFENCES).filter((name) => !used.has(name as keyof typeof DEFENCES))).toEqual([]);
  });

  test('SECURITY.md has every attack with its promises: npm run attacks -- --markdown makes its table', () => {
    const security = readFileSync(`${root}/SECURITY.md`, 'utf8');
    for (const { name, what, promises } of CATALOGUE) expect(security).toContain(`| \`${name}\`: ${what} | ${promises.join(' ')} |`);
  });

  test('nothing known was left out: every weakness names attacks and tests that exist, and SECURITY.md has the table', () => {
    const patterns = KNOWN_WEAKNESSES.flatMap(({ attacks }) => attacks);
    expect(patterns.filter((pattern) => !CATALOGUE.some(({ name }) => matches(pattern, name)))).toEqual([]);
    expect(KNOWN_WEAKNESSES.flatMap(({ tests = [] }) => tests).filter((file) => !existsSync(`${root}/${file}`))).toEqual([]);
    expect(readFileSync(`${root}/SECURITY.md`, 'utf8')).toContain(knownWeaknessesTable());
  });
});
