/**
 * A module that is refused or quarantined says why: in the guest's own log, in the report, the events and the exit code. Needs gcc, make and the
 * kernel's headers.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { boot, cModules, scratch, skipReason, succeed } from './guest.ts';

const source = (name: string) => fileURLToPath(new URL(`../../modules/${name}.c`, import.meta.url));
/** Imports no print function. */
const MUTE = 'dummy';
const space = scratch();
afterAll(() => space.remove());
const skip = skipReason(cModules());

/** Each module's fate, and what the guest's kernel was told about it. */
const SCRIPT = `
say() { echo "@@ $*"; }
for name in faults example; do insmod /lib/modules/$name.ko 2>/dev/null && say $name loaded || say $name refused; done
sh -c 'echo wild > /dev/faults' 2>/dev/null; say wild $?
sh -c 'echo warn > /dev/faults' 2>/dev/null; say warn $?
rmmod faults 2>/dev/null && say faults unloaded
dmesg | grep 'portcullis:' | sed 's/^\\[[^]]*\\] /@@ log /'
dmesg | grep -E 'BUG:|Oops|general protection|Call Trace' | sed 's/^/@@ kernel: /'
`;
const said = (console: string) => [...console.matchAll(/^@@ (.*)$/gm)].map(([, line]) => line);

describe.skipIf(skip)('refusals help', () => {
  beforeAll(() => {
    const ok = (...args: string[]) => succeed(space.folder, ...args);
    ok('keygen', 'admin');
    ok('build-module', source('features/faults'), source('example/example'));
    for (const name of ['faults', 'example']) ok('link', `./${name}.ko`);
    ok('grant', '--manifest', 'faults.guarded.ko.manifest.json', '--key', 'admin.key', '--vm', 'vm', '--output', 'faults.grant.json');
  }, 120_000);

  const run = (...modules: string[]) => {
    const grant = ['--grant', 'faults.grant.json', '--trust', 'admin.pub', '--events', `events-${modules.length}`];
    const guest = boot(space.folder, SCRIPT, '--module', ...modules.map((name) => `${name}.guarded.ko`), ...grant);
    const events = readFileSync(`${space.folder}/events-${modules.length}`, 'utf8').trimEnd().split('\n');
    return { ...guest, said: said(guest.console), events: events.map((line) => JSON.parse(line)) };
  };

  test('without a grant, and breaking a rule: exit code 43', { timeout: 120_000 }, () => {
    const guest = run('faults', 'example');
    expect(guest.said).toContain('example refused');
    expect(guest.said).toContain(
      'log portcullis: example: refused, no-grant: the image is registered, but no valid grant names it for this virtual machine',
    );
    // The other one went on, until it broke a rule.
    expect(guest.said).toContain('faults loaded');
    expect(guest.said).toContain('wild 1');
    expect(guest.said).toContain('warn 1');
    expect(guest.said).toContain('faults unloaded');
    const line =
      'log portcullis: faults: quarantined, wild-fetch: the module jumped out of its text without a call; calls of it fail from now on';
    expect(guest.said.filter((text) => text === line)).toEqual([line]);
    expect(guest.said.filter((text) => text.startsWith('kernel:'))).toEqual([]);
    expect(guest.events.filter(({ event }) => event === 'module.quarantined')).toMatchObject([{ module: 'faults', reason: 'wild-fetch' }]);
    expect(guest.events.filter(({ event }) => event === 'module.refused').map(({ module, reason }) => `${module} ${reason}`)).toContain(
      'example no-grant',
    );
    // A quarantine weighs more than a refusal.
    expect(guest).toMatchObject({ code: 43, result: { ok: false, exit: 'quarantined', outcome: { kind: 'off' } } });
    expect(guest.result.modules).toMatchObject([
      { module: 'faults', state: 'quarantined' },
      { module: 'example', state: 'not granted' },
    ]);
  });

  test('a stock module that never prints says it too, and the kernel has nothing to say about that', { timeout: 120_000 }, () => {
    succeed(space.folder, 'link', MUTE);
    const script = `insmod /lib/modules/${MUTE}.ko || echo "@@ refused"; dmesg | grep -E 'portcullis:|symbol version' | sed 's/^\\[[^]]*\\] /@@ /'`;
    const guest = boot(space.folder, script, '--module', `${MUTE}.guarded.ko`);
    expect(said(guest.console)).toEqual([
      'refused',
      'portcullis: dummy: refused, no-grant: the image is registered, but no valid grant names it for this virtual machine',
    ]);
    expect(guest.code).toBe(41);
  });

  test('not registered: refused without a word in the guest, but not of the host', { timeout: 120_000 }, () => {
    const grant = ['--grant', 'faults.grant.json', '--trust', 'admin.pub'];
    const put = ['--put', 'lib/modules/example.ko=example.guarded.ko'];
    const script = 'insmod /lib/modules/example.ko || echo "@@ refused"; dmesg | grep portcullis: | sed "s/^/@@ log /"';
    const guest = boot(space.folder, script, '--module', 'faults.guarded.ko', ...grant, ...put);
    expect(said(guest.console)).toEqual(['refused']);
    expect(guest).toMatchObject({ code: 41, result: { ok: false, exit: 'refused' } });
    expect(guest.result.refusals).toMatchObject([{ module: '(unknown)', reason: 'not-registered' }]);
  });
});
