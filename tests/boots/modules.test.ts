/** Stock drivers of several kinds, linked, granted without privileges, and loaded and unloaded guarded in one guest. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { boot, dependencies, scratch, stockModule, succeed } from './guest.ts';

const MODULES = ['e1000', 'e1000e', '8139cp', 'virtio_net', '8021q'];
const space = scratch();
const result: { boot?: ReturnType<typeof boot> } = {};

beforeAll(() => {
  const options: string[] = ['--trust', 'admin.pub', '--net', 'peer', 'none,model=rtl8139'];
  const ok = (...args: string[]) => succeed(space.folder, ...args);
  ok('keygen', 'admin');
  for (const name of MODULES) {
    ok('link', name);
    ok('grant', '--manifest', `${name}.guarded.ko.manifest.json`, '--key', 'admin.key', '--vm', 'vm', '--output', `${name}.grant.json`);
    options.push('--module', `${name}.guarded.ko`, '--grant', `${name}.grant.json`);
  }
  const needed = [...new Set(MODULES.flatMap(dependencies))].filter((name) => !MODULES.includes(name));
  for (const name of needed) options.push('--put', `lib/modules/stock/${name}.ko=${stockModule(name)}`);
  result.boot = boot(
    space.folder,
    `
for name in ${needed.join(' ')}; do insmod /lib/modules/stock/$name.ko; done
for name in ${MODULES.join(' ')}; do
  insmod /lib/modules/$name.ko && echo "@@ $name loaded"
  ls /sys/class/net | tr '\\n' ' ' | sed "s/^/@@ $name links /"; echo
  rmmod $name && echo "@@ $name unloaded"
done
dmesg | grep -E 'BUG:|Oops|general protection|Call Trace|WARNING' | sed 's/^/@@ kernel: /'
`,
    ...options,
  );
}, 240_000);
afterAll(() => space.remove());

test('the guest ended by itself, and its kernel complained of nothing', () => {
  expect(result.boot).toMatchObject({ code: 0, result: { ok: true } });
  expect(result.boot?.console).not.toContain('@@ kernel:');
});

test.each(MODULES)('%s: loaded and unloaded, guarded', (name) => {
  expect(result.boot?.console).toContain(`@@ ${name} loaded`);
  expect(result.boot?.console).toContain(`@@ ${name} unloaded`);
  const modules: { module: string; state: string; calls: { in: number; out: number } }[] = result.boot?.result.modules;
  const found = modules.find(({ module }) => module === name);
  expect(found?.state).toBe('ended');
  expect(found?.calls.in).toBeGreaterThanOrEqual(2); // init and exit
  expect(found?.calls.out).toBeGreaterThan(1);
});

test('the drivers whose card is there found it', () => {
  for (const name of ['e1000', '8139cp']) expect(result.boot?.console).toMatch(new RegExp(`@@ ${name} links .*eth0`));
});

test('nothing was refused, and no crossing is open', () => {
  const { refusals, crossings } = result.boot?.result ?? {};
  expect(refusals).toEqual([]);
  expect(crossings.callIn).toBe(crossings.returnOut);
  expect(crossings.callOut).toBe(crossings.returnIn);
});
