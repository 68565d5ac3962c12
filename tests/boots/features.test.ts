/**
 * What kernel modules meet in a kernel (modules/features): every context in which a module's function can run, every interface by which it can be
 * reached, and what goes wrong. The same script with the same modules, unguarded and guarded, must say the same. Needs gcc, make and the headers.
 */
import { readFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { boot, cModules, scratch, skipReason, succeed } from './guest.ts';

const source = (name: string) => fileURLToPath(new URL(`../../modules/features/${name}`, import.meta.url));
const MODULES = ['contexts', 'interfaces', 'faults', 'io', 'switches', 'client'];
const space = scratch();
afterAll(() => space.remove());
const skip = skipReason(cModules());

const SCRIPT = `
say() { echo "@@ $*"; }
exec >> /tmp/said # an oops makes the kernel talkative: on the console it would fall into the middle of our lines
M=/lib/modules
mount -t debugfs none /sys/kernel/debug
insmod $M/contexts.ko && say contexts loaded
cat /proc/contexts
insmod $M/io.ko && say io loaded
cat /proc/registers_io
rmmod io && say io unloaded
insmod $M/switches.ko && say switches loaded
cat /proc/switches
rmmod switches && say switches unloaded
insmod $M/interfaces.ko doubled=4 plain=9 words=one,two && say interfaces loaded
cat /proc/interfaces
P=/sys/module/interfaces/parameters
say parameters $(cat $P/doubled) $(cat $P/plain) $(cat $P/words)
echo 21 > $P/doubled; say parameter set $(cat $P/doubled)
echo x > $P/doubled 2>/dev/null || say parameter refused $(cat $P/doubled)
echo 17 > /sys/kernel/features/stored; say sysfs $(cat /sys/kernel/features/stored)
echo x > /sys/kernel/features/stored 2>/dev/null || say sysfs refused
ping -c 1 -q 127.0.0.1 >/dev/null; say packets $(cat /sys/kernel/features/packets)
say debugfs $(cat /sys/kernel/debug/features/upper) $(cat /sys/kernel/debug/features/word)
echo 500 > /proc/sys/kernel/features_limit; say sysctl $(cat /proc/sys/kernel/features_limit)
user
insmod $M/client.ko && say client loaded
cat /proc/client
say modules $(cat /sys/kernel/features/modules)
rmmod interfaces 2>/dev/null || say interfaces in use
rmmod client && say client unloaded
user wait & sleep 0.3; kill -9 $!; wait $!; say reader ended $?
rmmod interfaces && say interfaces unloaded
insmod $M/interfaces.ko doubled=x 2>/dev/null || say parameter refused at load
insmod $M/faults.ko fail=1 2>/dev/null || say init failed
insmod $M/faults.ko fail=2 2>/dev/null || say init failed
insmod $M/faults.ko && say faults loaded
cat /proc/faults
for what in warn bug null warn; do sh -c "echo $what > /dev/faults"; say $what $?; done
rmmod faults && say faults unloaded
insmod $M/interfaces.ko && say interfaces loaded
user wait & sleep 0.3
rmmod -f interfaces && say interfaces forced out
kill -9 $!; sleep 0.2
say reports $(dmesg | grep -c 'WARNING:') $(dmesg | grep -c 'kernel BUG at') $(dmesg | grep -c 'NULL pointer')
dmesg | grep -o -E 'RIP: 0010:.*\\[faults\\]' | sed 's/^/@@ /'
say end
cat /tmp/said > /dev/console
`;

/** What the script says, in order; the last line comes from the reboot notifier, when nothing of the script runs any more. */
const said = (console: string) => [...console.matchAll(/@@ (.*)$/gm)].map(([, line]) => line);

/** Boots with the modules in `guarded` guarded and the others as they are. */
function run(guarded: readonly string[], ...options: string[]) {
  const plain = MODULES.filter((name) => !guarded.includes(name)).map((name) => `lib/modules/${name}.ko=${name}.ko`);
  const guard = guarded.flatMap((name) => ['--module', `${name}.guarded.ko`, '--grant', `${name}.grant.json`]);
  const events = `events-${guarded.length}-${options.length}`;
  const guest = boot(
    space.folder,
    SCRIPT,
    '--put',
    'bin/user=user',
    ...plain,
    ...guard,
    '--trust',
    'admin.pub',
    '--events',
    events,
    ...options,
  );
  const log: { event: string; [key: string]: unknown }[] = readFileSync(`${space.folder}/${events}`, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  return { ...guest, said: said(guest.console), events: log };
}

describe.skipIf(skip)('what modules meet', () => {
  let control: ReturnType<typeof run>;

  beforeAll(() => {
    const ok = (...args: string[]) => succeed(space.folder, ...args);
    ok('keygen', 'admin');
    ok('build-module', ...MODULES.map((name) => source(`${name}.c`)));
    const compiled = spawnSync('gcc', ['-static', '-O2', '-o', 'user', source('user.c')], { cwd: space.folder, encoding: 'utf8' });
    expect(compiled.status, compiled.stderr).toBe(0);
    for (const name of MODULES) {
      ok('link', `./${name}.ko`);
      ok('grant', '--manifest', `${name}.guarded.ko.manifest.json`, '--key', 'admin.key', '--vm', 'vm', '--output', `${name}.grant.json`);
    }
    control = run([]);
  }, 400_000);

  test('unguarded, every feature works: what the guarded ones are measured by', () => {
    expect(control).toMatchObject({ code: 0, result: { ok: true } });
    expect(control.said.filter((line) => line.includes('failed') && line !== 'init failed')).toEqual([]);
    expect(control.said.filter((line) => line.endsWith(': ok')).length).toBe(51);
    expect(control.said.slice(-2)).toEqual(['end', 'contexts reboot notifier: ok']);
    expect(control.said).toContain('reports 10 2 1');
    expect(control.said).toContain('parameters 1008 9 one,two');
    expect(control.said.filter((line) => line.endsWith(': works')).length).toBe(2);
  });

  const CASES: [string, string[], string[]][] = [
    ['all guarded', MODULES, []],
    ['all guarded, on three CPUs', MODULES, ['--cpus', '3']],
    ['only the one that depends on another is guarded', ['client'], []],
    ['an unguarded one depends on a guarded one', MODULES.slice(0, -1), ['--cpus', '2']],
  ];
  test.each(CASES)('%s: the same', { timeout: 300_000 }, (_, guarded, options) => {
    const guest = run(guarded, ...options);
    expect(guest).toMatchObject({ code: 0, result: { ok: true, refusals: [] } });
    // Nobody patches the text of a guarded module: what the kernel switches stays as compiled, without harm.
    const stays = (line: string) => (guarded.includes('switches') ? line.replace(/^(switches .*): works$/, '$1: stays') : line);
    expect(guest.said).toEqual(control.said.map(stays));
    expect(guest.events.filter(({ event }) => event === 'guard.violation')).toEqual([]);
    const ended = guest.events.filter(({ event }) => event === 'module.ended');
    const left = (name: string) => ended.filter(({ module }) => module === name).map(({ reason, unfinished }) => [reason, unfinished]);
    if (guarded.includes('contexts')) expect(left('contexts')).toEqual([['stopped', 0]]);
    if (guarded.includes('io')) expect(left('io')).toEqual([['unloaded', 0]]);
    if (guarded.includes('client')) expect(left('client')).toEqual([['unloaded', 0]]);
    if (!guarded.includes('interfaces')) return;
    // The kill of a reader finishes what it had begun; a forced unload leaves its entry and its call of the kernel.
    expect(left('interfaces').filter(([reason]) => reason === 'unloaded')).toEqual([
      ['unloaded', 0],
      ['unloaded', 2],
    ]);
    // insmod tries again by the older system call. Each of the three that die leaves its entry and its exception, until its stack is used anew.
    expect(left('faults').slice(0, -1)).toEqual(new Array(4).fill(['init-failed', 0]));
    const [reason, unfinished] = left('faults').at(-1) ?? [];
    expect(reason).toBe('unloaded');
    expect(unfinished).toBeLessThanOrEqual(6);
  });
});
