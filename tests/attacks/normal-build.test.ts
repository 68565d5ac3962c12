/** A build has no switch for its defences: it is in the attack build alone (SECURITY.md, "Attacks"). */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { describe, expect, test } from 'vitest';
import { DEFENCES } from '../../src/base/defences.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const dist = join(root, 'dist');
const names = Object.keys(DEFENCES);
const built = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.js'));

/** What a build says of each defence, in a process of its own, with everything that might move it. */
function ask(folder: string): { off: string[]; switchable: boolean } {
  const module = (path: string) => JSON.stringify(pathToFileURL(join(folder, path)).href);
  const script = `
    const { on, withoutDefences } = await import(${module('base/defence-switch.js')});
    const { DEFENCES } = await import(${module('base/defences.js')});
    const off = () => Object.keys(DEFENCES).filter((name) => !on(name));
    const found = withoutDefences === undefined ? off() : await withoutDefences(Object.keys(DEFENCES), off);
    console.log(JSON.stringify({ off: found, switchable: withoutDefences !== undefined }));`;
  const env = { ...process.env, PORTCULLIS_DEFENCES: 'off', PORTCULLIS_WITHOUT: names.join(','), NODE_ENV: 'test' };
  return JSON.parse(
    execFileSync(process.execPath, ['--input-type=module', '-e', script, '--', '--without', ...names], { encoding: 'utf8', env }),
  );
}

describe('the normal build', () => {
  test('has no switch: every defence is on, whatever the environment and the arguments say', () => {
    expect(ask(dist)).toEqual({ off: [], switchable: false });
  });

  test('the switch is one constant, and the switchable one is in no file of the build', () => {
    const text = readFileSync(join(dist, 'base/defence-switch.js'), 'utf8').replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*/g, '');
    expect(text.replaceAll(/\s+/g, ' ').trim()).toBe('export const on = (_defence) => true; export const withoutDefences = undefined;');
    expect(built.filter((path) => path.includes('attack.js') && path.includes('defence'))).toEqual([]);
    for (const path of built) expect(readFileSync(join(dist, path), 'utf8'), path).not.toContain('portcullis attack build: defences');
  });

  test('the attack build differs from it in that file alone, and there every defence can be switched', async () => {
    const { attackBuild } = (await import('../../tools/attacks.mjs' as string)) as { attackBuild(name: string): Promise<string> };
    const folder = join(await attackBuild('attacks-compared'), '../..');
    const changed = built.filter((path) => !readFileSync(join(dist, path)).equals(readFileSync(join(folder, path))));
    expect(changed).toEqual(['base/defence-switch.js']);
    expect(ask(folder)).toEqual({ off: names, switchable: true });
  });

  test('every defence is a check in the code, and every check has its name in the list', () => {
    const used = new Set<string>();
    for (const path of built.filter((name) => !name.startsWith('attacks/') && !name.startsWith('base/')))
      for (const [, name] of readFileSync(join(dist, path), 'utf8').matchAll(/'([a-z-]+)'/g)) if (names.includes(name)) used.add(name);
    expect(names.filter((name) => !used.has(name))).toEqual([]);
  });
});
