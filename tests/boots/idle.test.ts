/** MONITOR and MWAIT for one module of a real guest: the demo, and the idle driver beside two other guarded modules. Needs gcc, make and the kernel's headers. */
import { createHmac, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { cachedPackage } from '../../src/guest/packages.ts';
import { cachedKernel } from '../../src/guest/fetch.ts';
import { isOnPath } from '../../src/guest/c-module.ts';
import { contentSha256 } from '../../src/net/peer/content.ts';
import { boot, lastJson, portcullis, scratch, skipReason, succeed } from './guest.ts';

const source = (path: string) => fileURLToPath(new URL(`../../modules/${path}`, import.meta.url));
const space = scratch();
afterAll(() => space.remove());

const tools = ['gcc', 'make', 'strip'].filter((name) => !isOnPath(name));
const release = cachedKernel()?.release;
const missing = tools.length > 0 ? `${tools.join(', ')} is not installed: no C modules` : undefined;
const offline =
  missing === undefined &&
  (release === undefined || cachedPackage(`linux-headers-${release}`) === undefined) &&
  process.env.PORTCULLIS_OFFLINE !== undefined
    ? "the kernel's headers are not in the cache"
    : undefined;
const skip = skipReason(missing ?? offline);

describe.skipIf(skip)('demo idle --json', () => {
  let run: ReturnType<typeof portcullis>;
  let result: ReturnType<typeof lastJson>;

  beforeAll(() => {
    run = portcullis(['demo', 'idle', '--json', '--events', space.folder.concat('/demo.ndjson')]);
    result = lastJson(run.out);
  }, 300_000);

  test('all held', () => {
    expect(
      result.checks.filter((check: { ok: boolean }) => !check.ok),
      run.err,
    ).toEqual([]);
    expect({ code: run.code, ok: result.ok }).toEqual({ code: 0, ok: true });
  });

  test('wake-ups were measured with HLT and with MWAIT', () => {
    for (const wait of ['unguarded', 'hlt', 'mwait']) {
      for (const kind of ['store', 'ipi', 'thread']) {
        const { samples, median, p99 } = result.latency[wait][kind];
        expect(samples).toBeGreaterThanOrEqual(200);
        expect(median).toBeGreaterThan(0);
        expect(p99).toBeGreaterThanOrEqual(median);
      }
    }
  });

  test('the module fell back while another CPU shared the core, and came back', () => {
    const seen = result.switches.map(({ when, hlt, mwait, event }: { when: string; hlt: number; mwait: number; event: string }) => [
      when,
      hlt > 0,
      mwait > 0,
      event,
    ]);
    expect(seen).toEqual([
      ['alone', false, true, 'privilege.raised'],
      ['shared', true, false, 'privilege.lowered'],
      ['stale', true, false, ''],
      ['again', false, true, 'privilege.raised'],
    ]);
    const times = result.switches.map(({ time }: { time: number }) => time).filter((time: number) => time > 0);
    expect(times).toEqual(times.toSorted((a: number, b: number) => a - b));
  });

  test('the audit stream has every change on both CPUs of the core, and the refusals', () => {
    const events = readFileSync(`${space.folder}/demo.ndjson`, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const changes = events.filter(({ event }) => /^privilege\.(raised|lowered)$/.test(event)).map(({ event, cpu }) => `${event} ${cpu}`);
    expect(events.findIndex(({ event }) => event === 'privilege.attached')).toBeLessThan(
      events.findIndex(({ event }) => event === 'privilege.raised'),
    );
    expect(changes).toEqual([
      ...[0, 1, 2].map((cpu) => `privilege.raised ${cpu}`),
      'privilege.lowered 1',
      'privilege.lowered 2',
      'privilege.raised 2',
      'privilege.raised 1',
    ]);
    const refused = events.filter(({ event }) => event === 'mwait.refused');
    expect(refused.length).toBeGreaterThan(0);
    expect(refused.every(({ module, cpu }) => module === 'idle' && [1, 2].includes(cpu))).toBe(true);
    succeed(space.folder, 'audit', 'verify', 'demo.ndjson');
  });

  test('everybody else got #UD throughout', () => {
    expect(result.probes.filter((probe: { ok: boolean }) => !probe.ok)).toEqual([]);
    const vectors = result.probes.filter(({ name }: { name: string }) => /kernel code executes/.test(name));
    expect(vectors.length).toBe(10);
    expect(vectors.every(({ got }: { got: string }) => got === '6')).toBe(true);
  });
});

describe.skipIf(skip)('a network driver, the idle driver and the vault, guarded together', () => {
  const BYTES = 1 << 20;
  const key = randomBytes(32);
  let guest: ReturnType<typeof boot>;
  let events: Record<string, string>[];

  beforeAll(() => {
    const ok = (...args: string[]) => succeed(space.folder, ...args);
    const build = (path: string) => ok('build-module', source(`${path}.c`), '--output', `${path.split('/').at(-1)}.ko`);
    const grant = (module: string, privilege: string) => {
      const files = ['--manifest', `${module}.guarded.ko.manifest.json`, '--key', 'admin.key', '--output', `${module}.grant.json`];
      ok('grant', ...files, '--vm', 'vm', '--privilege', privilege);
    };
    space.write('key.bin', key);
    ok('keygen', 'admin');
    ok('keygen', '--vmm', 'vmm');
    for (const path of ['vault/vault', 'idle/idle', 'attacks/mwait']) build(path);
    ok('link', './vault.ko', '--policy', source('vault/vault.policy.json'));
    ok('link', './idle.ko');
    ok('link', 'e1000');
    grant('vault', 'secret,name=key,file=key.bin,vmm=vmm.pub');
    grant('idle', 'mwait');
    grant('e1000', 'pci-device,device=0000:00:03.0,vendor=8086,product=100e');
    const names = ['e1000', 'idle', 'vault'];
    guest = boot(
      space.folder,
      `
for name in ${names.join(' ')}; do insmod /lib/modules/$name.ko && echo "@@ $name loaded"; done
insmod /lib/modules/mwait.ko
ip link set eth0 up && udhcpc -i eth0 -n -q -t 5 -T 1 >/dev/null 2>&1
wget -q -O - "http://10.0.2.2/file?bytes=${BYTES}&seed=1" | sha256sum | sed 's/^/@@ download /' &
i=0
while [ $i -lt 10 ]; do
  exec 3<>/dev/vault
  printf "message $i" >&3
  echo "@@ signature $i $(head -c 32 <&3 | hexdump -v -e '1/1 "%02x"')"
  exec 3>&-
  sleep 0.05
  i=$((i + 1))
done
wait
for cpu in 0 1; do
  C=/sys/devices/system/cpu/cpu$cpu/cpuidle
  echo "@@ idle $cpu hlt $(cat $C/state0/usage) mwait $(cat $C/state1/usage)"
done
echo "@@ others $(cat /sys/module/mwait/parameters/monitor) $(cat /sys/module/mwait/parameters/mwait)"
echo "@@ card $(devmem $(printf '0x%x' $(($(head -n 1 /sys/bus/pci/devices/0000:00:03.0/resource | cut -d' ' -f1) + 8))) 32)"
for name in ${names.join(' ')}; do rmmod $name && echo "@@ $name unloaded"; done
dmesg | grep -E 'BUG:|Oops|general protection|Call Trace' | sed 's/^/@@ kernel: /'
`,
      ...['--cpus', '2', '--pin', '0=0,1=1', '--append', 'quiet iomem=relaxed', '--net', 'peer', '--events', 'three.ndjson'],
      ...['--trust', 'admin.pub', '--vmm-key', 'vmm.key', '--put', 'lib/modules/mwait.ko=mwait.ko'],
      '--module',
      ...names.map((name) => `${name}.guarded.ko`),
      '--grant',
      ...names.map((name) => `${name}.grant.json`),
    );
    events = readFileSync(`${space.folder}/three.ndjson`, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
  }, 300_000);

  test('all three work at the same time, and go', () => {
    expect(guest).toMatchObject({ code: 0, result: { ok: true, refusals: [] } });
    for (const name of ['e1000', 'idle', 'vault']) {
      expect(guest.console).toContain(`@@ ${name} loaded`);
      expect(guest.console).toContain(`@@ ${name} unloaded`);
    }
    expect(guest.console).toContain(`@@ download ${contentSha256(BYTES, 1)}`);
    for (let i = 0; i < 10; i++)
      expect(guest.console).toContain(`@@ signature ${i} ${createHmac('sha256', key).update(`message ${i}`).digest('hex')}`);
    for (const cpu of [0, 1]) expect(guest.console).toMatch(new RegExp(`@@ idle ${cpu} hlt 0 mwait [1-9]\\d*`));
    expect(guest.console).not.toContain('@@ kernel:');
    const { callIn, returnOut, callOut, returnIn, eventOut, resume } = guest.result.crossings;
    expect([callIn, callOut, eventOut]).toEqual([returnOut, returnIn, resume]);
  });

  test('each holds its own privilege and no other, and the rest of the guest none', () => {
    const attached = events.filter(({ event }) => event === 'privilege.attached').map(({ module, privilege }) => `${module}: ${privilege}`);
    expect(attached.sort()).toEqual(['e1000: PCI device 0000:00:03.0 (8086:100e)', 'idle: MONITOR and MWAIT', 'vault: secret key']);
    expect(events.filter(({ event }) => event === 'privilege.raised').map(({ module, cpu }) => `${module} ${cpu}`)).toEqual([
      'idle 0',
      'idle 1',
    ]);
    expect(guest.console).toContain('@@ others 6 6');
    expect(guest.console).toContain('@@ card 0xFFFFFFFF');
    expect(guest.console).not.toContain(key.toString('hex'));
  });
});
