/** The demos take the flags that mean something to them, and no others. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const demo = (...args: string[]) => {
  const { status, stderr } = spawnSync(process.execPath, ['dist/cli/main.js', 'demo', ...args], { cwd: root, encoding: 'utf8' });
  return { code: status, err: stderr };
};

test.each([
  [['vault', '--net', 'peer'], '--net means nothing to the demo "vault"'],
  [['vault', '--download', '4'], '--download means nothing to the demo "vault"'],
  [['idle', '--cores', '2'], '--cores means nothing to the demo "idle"'],
  [['idel'], 'there is no demo "idel"'],
  [['--download', '0'], '--download 0: expected MiB from 1 to 4096'],
])('%j is a clear error', (args, message) => {
  const { code, err } = demo(...args);
  expect(err).toContain(message);
  expect(code).toBe(2);
});
