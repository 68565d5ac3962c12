/**
 * The attack that sealed return addresses do not see (SECURITY.md, P5): a second CPU of a real guest rewrites return addresses on the kernel stack while the stock
 * e1000 runs on it (modules/attacks/rewrite.c). Without the shadow stack, in the attack build, the driver is steered; with it, never.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isOnPath } from '../../src/guest/c-module.ts';
import { cachedKernel } from '../../src/guest/fetch.ts';
import { cachedPackage } from '../../src/guest/packages.ts';
import { cli, lastJson, portcullis, scratch, skipReason } from './guest.ts';

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
}

describe.skipIf(skipReason(missing))('P5 a second CPU rewrites return addresses of the running driver', () => {
  let attackMain: string;
  let runs = 0;

  beforeAll(async () => {
    const ok = (...args: string[]) => expect(portcullis(args, { cwd: space.folder }), args.join(' ')).toMatchObject({ code: 0 });
    ok('build-module', root('modules/attacks/rewrite.c'), '--output', 'rewrite.ko');
    ok('keygen', 'admin');
    ok('link', 'e1000');
    const privilege = 'pci-device,device=0000:00:03.0,vendor=8086,product=100e';
    const manifest = 'e1000.guarded.ko.manifest.json';
    ok('grant', '--manifest', manifest, '--key', 'admin.key', '--vm', 'vm', '--output', 'e1000.grant.json', '--privilege', privilege);
    const { attackBuild } = (await import('../../tools/attacks.mjs' as string)) as { attackBuild(name: string): Promise<string> };
    attackMain = await attackBuild('attacks-shadow-stack');
  }, 240_000);

  function run(command: string[], attack: string): Outcome {
    const name = `run${runs++}`;
    writeFileSync(join(space.folder, `${name}.sh`), script(attack));
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [
        ...command,
        ...['run', '--json', '--watch', '--start', `${name}.sh`, '--append', 'quiet', '--timeout', '240', '--cpus', '2', '--net', 'peer'],
        ...['--put', 'lib/modules/rewrite.ko=rewrite.ko', '--events', `${name}.ndjson`],
        ...['--module', 'e1000.guarded.ko', '--grant', 'e1000.grant.json', '--trust', 'admin.pub'],
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
    };
  }

  test('without the shadow stack the driver returns to where the attacker says: it raises a warning that it never comes to', LIMIT, () => {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const { results, warnings, violations } = run([root('tools/without.mjs'), attackMain, 'shadow-stack'], INNER);
      const [, steered, , writes] = results;
      expect(writes).toBeGreaterThan(0);
      expect(violations.map(({ reason }) => reason)).not.toContain('shadow-stack');
      if (steered === 0) continue;
      expect(warnings.filter((text) => text.includes('e1000_get_ethtool_stats+'))).toHaveLength(steered as number);
      return;
    }
    expect.fail(`never steered in ${ATTEMPTS} runs: the attack proves nothing`);
  });

  test('with it, it is never steered: the return is stopped, reported, and the driver quarantined', LIMIT, () => {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const { results, warnings, violations, states } = run([cli], INNER);
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

  test('under traffic, every return address on the interrupt stack, as fast as it goes', LIMIT, () => {
    const { results, warnings, violations, states } = run([cli], EVERYTHING);
    expect(results[0]).toBeGreaterThan(0);
    expect(warnings.filter((text) => text.includes('e1000_'))).toEqual([]);
    expect(states).toHaveLength(1);
    expect(['shadow-stack', 'seal-broken', 'return-address', 'bad-stack']).toContain(states[0]);
    expect(violations).toHaveLength(1);
  });
});
