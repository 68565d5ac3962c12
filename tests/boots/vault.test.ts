/** Private memory and the privileges beside pci-device in a real guest, with modules built from C. Needs gcc, make and the kernel's headers. */
import { createHmac, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { boot, cModules, lastJson, portcullis, scratch, skipReason, succeed } from './guest.ts';

const source = (path: string) => fileURLToPath(new URL(`../../modules/${path}`, import.meta.url));
const space = scratch();
afterAll(() => space.remove());

const skip = skipReason(cModules());

const ok = (...args: string[]) => succeed(space.folder, ...args);
const build = (path: string) => ok('build-module', source(`${path}.c`), '--output', `${path.split('/').at(-1)}.ko`);
const grant = (module: string, ...privileges: string[]) =>
  ok(
    'grant',
    '--manifest',
    `${module}.guarded.ko.manifest.json`,
    '--key',
    'admin.key',
    '--vm',
    'vm',
    '--output',
    `${module}.grant.json`,
    ...privileges.flatMap((text) => ['--privilege', text]),
  );

test.skipIf(skip)('demo vault --json: signatures are right, and nobody finds the key', { timeout: 300_000 }, () => {
  const { code, out, err } = portcullis(['demo', 'vault', '--json']);
  const result = lastJson(out);
  expect(
    result.checks.filter((check: { ok: boolean }) => !check.ok),
    err,
  ).toEqual([]);
  expect(result.probes.filter((probe: { ok: boolean }) => !probe.ok)).toEqual([]);
  expect({ code, ok: result.ok }).toEqual({ code: 0, ok: true });
  expect(result.signatures.length).toBe(4);
  expect(result.interrupts.inVault).toBeGreaterThan(0);
});

describe.skipIf(skip)('the stock network driver and the vault, guarded together in one guest', () => {
  const key = randomBytes(40);
  let guest: ReturnType<typeof boot>;

  beforeAll(() => {
    space.write('key.bin', key);
    ok('keygen', 'admin');
    ok('keygen', '--vmm', 'vmm');
    build('vault/vault');
    build('attacks/forge');
    ok('link', './vault.ko', '--policy', source('vault/vault.policy.json'));
    ok('link', 'e1000');
    grant('vault', 'secret,name=key,file=key.bin,vmm=vmm.pub');
    grant('e1000', 'pci-device,device=0000:00:03.0,vendor=8086,product=100e');
    guest = boot(
      space.folder,
      `
insmod /lib/modules/e1000.ko && insmod /lib/modules/vault.ko && echo "@@ loaded"
ip link set eth0 up && udhcpc -i eth0 -n -q -t 5 -T 1 >/dev/null 2>&1
wget -q -O /tmp/file "http://10.0.2.2/file?bytes=2097152&seed=1" &
exec 3<>/dev/vault
i=0
while [ $i -lt 30 ]; do
  printf "message $i" >&3
  echo "@@ signature $i $(head -c 32 <&3 | hexdump -v -e '1/1 "%02x"')"
  i=$((i + 1))
done
exec 3>&-
wait
insmod /lib/modules/forge.ko
F=/sys/module/forge/parameters
for entry in write read; do echo 0x$(grep -w guard.in.vault_$entry /proc/kallsyms | cut -d' ' -f1) > $F/$entry; done
for section in secret.key stack.crypto status; do
  cat /sys/module/vault/sections/.portcullis.private.$section > $F/target
  echo "@@ forged $section $(cat $F/results)"
done
printf "message 0" > /tmp/message
exec 3<>/dev/vault
cat /tmp/message >&3
echo "@@ signature 0 $(head -c 32 <&3 | hexdump -v -e '1/1 "%02x"')"
exec 3>&-
echo "@@ bytes $(wc -c < /tmp/file)"
echo "@@ card $(devmem $(printf '0x%x' $(($(head -n 1 /sys/bus/pci/devices/0000:00:03.0/resource | cut -d' ' -f1) + 8))) 32)"
rmmod vault && ping -c 2 -q 10.0.2.2 | grep transmitted | sed 's/^/@@ ping /'
insmod /lib/modules/vault.ko && rmmod e1000 && printf again > /dev/vault && rmmod vault && echo "@@ unloaded"
dmesg | grep -E 'BUG:|Oops|general protection|Call Trace' | sed 's/^/@@ kernel: /'
`,
      '--append',
      'quiet iomem=relaxed',
      '--trust',
      'admin.pub',
      '--vmm-key',
      'vmm.key',
      '--net',
      'peer',
      '--events',
      'events.ndjson',
      '--put',
      'lib/modules/forge.ko=forge.ko',
      '--module',
      'vault.guarded.ko',
      'e1000.guarded.ko',
      '--grant',
      'vault.grant.json',
      'e1000.grant.json',
    );
  }, 240_000);

  test('both work while the other does, and after the other has gone', () => {
    expect(guest).toMatchObject({ code: 0, result: { ok: true, refusals: [] } });
    expect(guest.console).toContain('@@ loaded');
    expect(guest.console).toContain('@@ bytes 2097152');
    expect(guest.console).toMatch(/@@ ping 2 packets transmitted, 2 packets received/);
    expect(guest.console).toContain('@@ unloaded');
    expect(guest.console).not.toContain('@@ kernel:');
    const { crossings } = guest.result;
    expect([crossings.callIn, crossings.callOut, crossings.eventOut]).toEqual([crossings.returnOut, crossings.returnIn, crossings.resume]);
  });

  test('every signature is right', () => {
    const found = [...guest.console.matchAll(/@@ signature (\d+) ([0-9a-f]+)/g)];
    expect(found.length).toBe(31);
    for (const [, index, signature] of found) expect(signature).toBe(createHmac('sha256', key).update(`message ${index}`).digest('hex'));
  });

  test('forged files that lie in private memory are refused by the vault itself', () => {
    for (const section of ['secret.key', 'stack.crypto', 'status'])
      expect(guest.console).toContain(`@@ forged ${section} ${'-14 -14 '.repeat(3)}`.trim());
  });

  test('each has its own privilege, and the rest of the guest neither', () => {
    const events = readFileSync(`${space.folder}/events.ndjson`, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const attached = events.filter(({ event }) => event === 'privilege.attached').map(({ module, privilege }) => `${module}: ${privilege}`);
    expect([...new Set(attached)].sort()).toEqual(['e1000: PCI device 0000:00:03.0 (8086:100e)', 'vault: secret key']);
    expect(guest.console).toContain('@@ card 0xFFFFFFFF');
    expect(guest.console).not.toContain(key.toString('hex'));
    expect(JSON.stringify(events)).not.toContain(key.toString('base64'));
  });
});

describe.skipIf(skip)('msr and io-port', () => {
  let guest: ReturnType<typeof boot>;

  beforeAll(() => {
    build('registers/registers');
    ok('link', './registers.ko');
    grant('registers', 'msr,read=0x40000000', 'io-port,ports=0xf4');
    guest = boot(
      space.folder,
      `
insmod /lib/modules/registers-plain.ko
R=/sys/module/registers/parameters
echo "@@ plain $(cat $R/msr) $(cat $R/port)"
rmmod registers
insmod /lib/modules/registers.ko
dmesg | grep registers: | tail -n 1 | sed 's/.*registers:/@@ says/'
echo "@@ guarded $(cat $R/msr) $(cat $R/port)"
echo 5 > $R/msr || echo "@@ write refused"
echo "@@ after $(cat $R/msr)"
echo "@@ root $(dd if=/dev/port bs=1 count=1 skip=244 2>/dev/null | hexdump -v -e '1/1 "%02x"')"
printf '\\003' | dd of=/dev/port bs=1 count=1 seek=244 2>/dev/null
dmesg | grep -E 'BUG:|Oops|general protection|Call Trace' | sed 's/^/@@ kernel: /'
echo "@@ still here"
echo 21 > $R/port
echo "@@ not reached"
`,
      '--trust',
      'admin.pub',
      '--msr',
      '0x40000000=0x123456789abcdef0',
      '--debug-exit',
      '0xf4',
      '--events',
      'registers.ndjson',
      '--put',
      'lib/modules/registers-plain.ko=registers.ko',
      '--module',
      'registers.guarded.ko',
      '--grant',
      'registers.grant.json',
    );
  }, 240_000);

  test('the guarded module reads its register and its port; on its own it gets nothing', () => {
    expect(guest.console).toContain('@@ plain error 0xff');
    expect(guest.console).toContain('@@ says holds msr, holds io-port');
    expect(guest.console).toContain('@@ guarded 0x123456789abcdef0 0x0');
    expect(guest.console).not.toContain('@@ kernel:');
  });

  test('what is granted for reading cannot be written', () => {
    expect(guest.console).toContain('@@ write refused');
    expect(guest.console).toContain('@@ after 0x123456789abcdef0');
  });

  test("root gets all ones from the port, its writes go nowhere, and the module's write arrives", () => {
    expect(guest.console).toContain('@@ root ff');
    expect(guest.console).toContain('@@ still here');
    expect(guest.console).not.toContain('@@ not reached');
    expect(guest).toMatchObject({ code: 21, result: { outcome: { kind: 'debug-exit', code: 21 } } });
    const refused = readFileSync(`${space.folder}/registers.ndjson`, 'utf8')
      .split('\n')
      .filter((line) => line.includes('window.refused'))
      .map((line) => JSON.parse(line));
    expect(refused.map(({ space: kind, access, address }) => `${kind} ${access} ${address}`)).toEqual(
      expect.arrayContaining(['msr read 0x40000000', 'msr write 0x40000000', 'port read 0xf4', 'port write 0xf4']),
    );
  });
});
