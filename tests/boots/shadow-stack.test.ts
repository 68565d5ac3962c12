/**
 * The attack that sealed return addresses do not see (SECURITY.md, P5): a second CPU of a real guest rewrites return addresses on the kernel stack while the stock
 * e1000 runs on it (modules/attacks/rewrite.c). Without the shadow stack, in the attack build, the driver is steered; with it, never.
 * The same against the driver that was linked with a shadow stack of its own, for which the view keeps none.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isOnPath } from '../../src/guest/c-module.ts';
import { cachedKernel } from '../../src/guest/fetch.ts';
import { cachedPackage } from '../../src/guest/packages.ts';
import { cli, lastJson, scratch, skipReason, succeed } from './guest.ts';

const root = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const space = scratch();
afterAll(() => space.remove());
const LIMIT = { timeout: 900_000 };
/** The race is nearly always won; should a border find the word changed first, the driver is quarantined and the attack over. */
const ATTEMPTS = 3;

const tools = ['gcc', 'make', 'strip'].filter((name) => !isOnPath(name));
const release = cachedKernel()?.release;
const missing =
  tools.length > 0
    ? `${tools.join(', ')} is not installed: no C modules`
    : (release === undefined || cachedPackage(`linux-headers-${release}`) === undefined) && process.env.PORTCULLIS_OFFLINE !== undefined
      ? "the kernel's headers are not in the cache"
      : undefined;

/** `attack` has set the module's parameters from the shell's `at` and `section`. */
const script = (attack: string) => `
insmod /lib/modules/e1000.ko && echo "@@ loaded"
ip link set eth0 up
udhcpc -i eth0 -n -q -t 5 -T 1 >/dev/null 2>&1
insmod /lib/modules/rewrite.ko
P=/sys/module/rewrite/parameters
at() { echo 0x$(grep -F " $1" /proc/kallsyms | grep -E " $1([[:space:]]|$)" | cut -d' ' -f1); }
section() { cat /sys/module/e1000/sections/$1; }
${attack}
wget -q -O /dev/null "http://10.0.2.2/file?bytes=1073741824&seed=1" 2>/dev/null &
while [ $(cat /sys/class/net/eth0/statistics/rx_packets) -lt 100 ]; do usleep 10000; done
dmesg -c > /dev/null
echo "@@ results $(cat $P/results)"
sleep 1
dmesg | grep -E 'WARNING: CPU|BUG:|Oops|general protection' | sed 's/^/@@ kernel: /'
echo "@@ alive $(($(cat /proc/interrupts | wc -l) > 5))"
`;
const INNER = `
at e1000_get_ethtool_stats > $P/entry
at e1000_update_stats > $P/inner
section .text.guard > $P/gates
echo 300 > $P/rounds`;
/** On, also when nothing is answered: the grant says that violations are only logged. */
const BLINDLY = `
at e1000_get_link > $P/entry
at e1000_has_link > $P/inner
echo 1 > $P/blind
echo 100000 > $P/rounds`;
const TRAFFIC = `
insmod /lib/modules/e1000.ko && echo "@@ loaded"
get() {
  ip link set eth0 up
  udhcpc -i eth0 -n -q -t 5 -T 1 >/dev/null 2>&1
  wget -q -O - "http://10.0.2.2/file?bytes=4194304&seed=1" | md5sum | sed 's/^/@@ sum /'
}
get
ip link set eth0 down
get
rmmod e1000 && insmod /lib/modules/e1000.ko && get
echo "@@ alive 1"
`;
const EVERYTHING = `
echo 1 > /proc/irq/$(grep eth0 /proc/interrupts | cut -d: -f1 | tr -d ' ')/smp_affinity
at hardirq_stack_ptr > $P/stack
section .text > $P/text
echo 65536 > $P/size
echo 4000 > $P/rounds`;

interface Outcome {
  results: number[];
  warnings: string[];
  violations: { reason: string; detail: string }[];
  states: string[];
  sums: string[];
}
/** A driver that is linked, and the grant for it. */
interface Driver {
  module: string;
  grant: string;
}
const PLAIN: Driver = { module: 'e1000.guarded.ko', grant: 'e1000.grant.json' };
const LINKED: Driver = { module: 'linked/e1000.guarded.ko', grant: 'linked.grant.json' };
const LOGGED: Driver = { module: 'linked/e1000.guarded.ko', grant: 'logged.grant.json' };
/** Who is the first to see a changed return address: the shadow stack, or a border. */
const FIRST = ['shadow-stack', 'seal-broken', 'return-address', 'bad-stack'];

describe.skipIf(skipReason(missing))('P5 a second CPU rewrites return addresses of the running driver', () => {
  let attackMain: string;
  let runs = 0;

  beforeAll(async () => {
    const ok = (...args: string[]) => succeed(space.folder, ...args);
    ok('build-module', root('modules/attacks/rewrite.c'), '--output', 'rewrite.ko');
    ok('keygen', 'admin');
    ok('link', 'e1000');
    mkdirSync(join(space.folder, 'linked'));
    ok('link', 'e1000', '--shadow-stack', '--output', LINKED.module);
    const privilege = 'pci-device,device=0000:00:03.0,vendor=8086,product=100e';
    for (const { module, grant } of [PLAIN, LINKED, LOGGED]) {
      const about = [
        '--manifest',
        `${module}.manifest.json`,
        '--privilege',
        privilege,
        '--on-violation',
        grant === LOGGED.grant ? 'log' : 'quarantine',
      ];
      ok('grant', ...about, '--key', 'admin.key', '--vm', 'vm', '--output', grant);
    }
    const { attackBuild } = (await import('../../tools/attacks.mjs' as string)) as { attackBuild(name: string): Promise<string> };
    attackMain = await attackBuild('attacks-shadow-stack');
  }, 240_000);

  function run(command: string[], work: string, { module, grant } = PLAIN): Outcome {
    const name = `run${runs++}`;
    writeFileSync(join(space.folder, `${name}.sh`), work);
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [
        ...command,
        ...['run', '--json', '--watch', '--start', `${name}.sh`, '--append', 'quiet', '--timeout', '240', '--cpus', '2', '--net', 'peer'],
        ...['--put', 'lib/modules/rewrite.ko=rewrite.ko', '--events', `${name}.ndjson`],
        ...['--module', module, '--grant', grant, '--trust', 'admin.pub'],
      ],
      { cwd: space.folder, encoding: 'utf8', maxBuffer: 64 << 20, timeout: 280_000 },
    );
    const screen = stderr.replaceAll('\r', '');
    expect(screen).toContain('@@ loaded');
    expect(screen).toContain('@@ alive 1');
    const events = readFileSync(join(space.folder, `${name}.ndjson`), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const violations = events.filter(({ event }) => event === 'guard.violation');
    const states = events.filter(({ event }) => event === 'module.quarantined').map(({ reason }) => reason);
    // The guest lives to its end, and so does the VMM; 43 says that a module was quarantined.
    expect(status, screen).toBe(states.length > 0 ? 43 : 0);
    expect(lastJson(stdout).outcome).toMatchObject({ kind: 'off' });
    return {
      results: (/^@@ results (.*)$/m.exec(screen)?.[1] ?? '').split(' ').map(Number),
      warnings: [...screen.matchAll(/^@@ kernel: (.*)$/gm)].map(([, text]) => text ?? ''),
      violations,
      states,
      sums: [...screen.matchAll(/^@@ sum (\w+)/gm)].map(([, sum]) => sum ?? ''),
    };
  }

  test('without the shadow stack the driver returns to where the attacker says: it raises a warning that it never comes to', LIMIT, () => {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const { results, warnings, violations } = run([root('tools/without.mjs'), attackMain, 'shadow-stack'], script(INNER));
      const [, steered, , writes] = results;
      expect(writes).toBeGreaterThan(0);
      expect(violations.map(({ reason }) => reason)).not.toContain('shadow-stack');
      if (steered === 0) continue;
      expect(warnings.filter((text) => text.includes('e1000_get_ethtool_stats+'))).toHaveLength(steered as number);
      return;
    }
    expect.fail(`never steered in ${ATTEMPTS} runs: the attack proves nothing`);
  });

  test.each([
    ['with it', PLAIN],
    ['linked with one, and no other', LINKED],
  ])('%s, it is never steered: the return is stopped, reported, and the driver quarantined', LIMIT, (_, driver) => {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const { results, warnings, violations, states } = run([cli], script(INNER), driver);
      const [, steered, unanswered, writes] = results;
      expect([steered, unanswered]).toEqual([0, 1]);
      expect(writes).toBeGreaterThan(0);
      expect(warnings.filter((text) => text.includes('e1000_'))).toEqual([]);
      expect(states).toHaveLength(1);
      expect(['shadow-stack', 'seal-broken']).toContain(states[0]); // whichever looks first
      expect(violations.map(({ reason }) => reason)).toEqual(states);
      if (states[0] === 'shadow-stack') return;
    }
    expect.fail(`the shadow stack was never the first to see it in ${ATTEMPTS} runs`);
  });

  test.each([
    ['with it', PLAIN],
    ['linked with one, and no other', LINKED],
  ])('%s, under traffic, every return address on the interrupt stack, as fast as it goes', LIMIT, (_, driver) => {
    const { results, warnings, violations, states } = run([cli], script(EVERYTHING), driver);
    expect(results[0]).toBeGreaterThan(0);
    expect(warnings.filter((text) => text.includes('e1000_'))).toEqual([]);
    expect(states).toHaveLength(1);
    expect([...FIRST, 'resume-mismatch']).toContain(states[0]); // what looks like a return address may be where an interrupt returns to
    expect(violations).toHaveLength(1);
  });

  test(
    'linked with one: each time that another CPU is there before the return, between the call and the first look too, it is reported',
    LIMIT,
    () => {
      const { results, warnings, violations, states } = run([cli], script(BLINDLY), LOGGED);
      const [rounds, , unanswered, writes] = results;
      expect(unanswered).toBeGreaterThan(0);
      expect(writes).toBeGreaterThanOrEqual(unanswered as number);
      expect(states).toEqual([]);
      expect(violations).toHaveLength(unanswered as number);
      expect(violations.filter(({ reason }) => !FIRST.includes(reason))).toEqual([]);
      expect(warnings.filter((text) => text.includes('e1000_'))).toEqual([]);
      const early = violations.filter(({ detail }) => detail.includes('began with a return address')).length;
      console.log(`of ${rounds} calls, ${unanswered} were hit, ${early} of them before the first look at the return address`);
    },
  );

  test('linked with one, the driver carries traffic, again and loaded again, and nothing is reported', LIMIT, () => {
    const { sums, violations, states } = run([cli], TRAFFIC, LINKED);
    expect(sums).toHaveLength(3);
    expect(new Set(sums).size).toBe(1);
    expect(sums[0]).not.toBe('d41d8cd98f00b204e9800998ecf8427e'); // of nothing
    expect([violations, states]).toEqual([[], []]);
  });
});
