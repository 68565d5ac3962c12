/**
 * The RTL8139 model under the stock kernel's own drivers: 8139cp unguarded, 8139cp and the mii module beneath it both guarded, and 8139too,
 * which uses the C mode. Needs the kernel package (fetched once into the cache).
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fetchKernel, findModule } from '../../src/guest/fetch.ts';
import { contentSha256 } from '../../src/net/peer/content.ts';

const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'rtl8139-'));
const file = (name: string) => join(folder, name);
const DOWNLOAD = 1 << 20;
const UPLOAD = 1 << 18;
const TIMEOUT = { timeout: 300_000 };
const ONES = '0xFFFFFFFF';
let modules = '';

beforeAll(async () => {
  modules = (await fetchKernel(() => {})).modules;
}, 600_000);
afterAll(() => rmSync(folder, { recursive: true }));

function portcullis(...options: string[]) {
  return spawnSync(process.execPath, [cli, ...options], { encoding: 'utf8', input: '', maxBuffer: 64 << 20 });
}

/** Runs a command that must succeed. */
function did(...options: string[]): void {
  const run = portcullis(...options);
  expect(run.status, run.stderr).toBe(0);
}

function stock(name: string): string {
  const path = findModule(modules, name);
  if (path === undefined) throw new Error(`the stock kernel has no module ${name}`);
  return path;
}

/** Loads mii and the driver, uses the card, and asks for a register of it (TCR, which is never zero) from user space at four times. */
const script = (driver: string, words: string) => `
say() { echo "@@ $*"; }
PCI=/sys/bus/pci/devices/0000:00:03.0
echo 1 > $PCI/enable
PORT=$(head -n 1 $PCI/resource | cut -d' ' -f1)
BAR=$(sed -n 2p $PCI/resource | cut -d' ' -f1)
look() {
  say memory-$1 $(devmem $(printf '0x%x' $((BAR + 0x40))) 32)
  say port-$1 0x$(dd if=/dev/port bs=4 count=1 skip=$(((PORT + 0x40) / 4)) 2>/dev/null | hexdump -v -e '1/4 "%08X"')
}
look before
insmod /lib/modules/mii.ko && insmod /lib/modules/${driver}.ko ${words} && say loaded yes
ip link set eth0 up
udhcpc -i eth0 -n -q -t 5 -T 1 >/dev/null 2>&1
say ping $(ping -c 3 -i 0.2 -q 10.0.2.2 | grep 'packets transmitted' | cut -d, -f2)
look during
say download $(wget -q -O - "http://10.0.2.2/file?bytes=${DOWNLOAD}&seed=1" | sha256sum | cut -d' ' -f1)
head -c ${UPLOAD} /dev/urandom | base64 > /tmp/upload # text, for this wget posts up to the first zero byte
say sent $(sha256sum /tmp/upload | cut -d' ' -f1)
say upload $(wget -q -O - --post-file /tmp/upload http://10.0.2.2/upload)
say errors $(cat /sys/class/net/eth0/statistics/rx_errors) $(cat /sys/class/net/eth0/statistics/tx_errors)
ip link set eth0 down
rmmod ${driver} && rmmod mii && say unloaded yes
sleep 0.3
echo 1 > $PCI/enable
look after
say bugs $(dmesg | grep -c -E 'BUG:|Oops|general protection|Call Trace')
`;

/** Boots with the card, and gives what the script said and the report. */
function boot(driver: string, model: string, ...options: string[]) {
  const [name, ...words] = driver.split(' ');
  writeFileSync(file('start'), script(name, words.join(' ')));
  const run = portcullis(
    'run',
    '--json',
    '--net',
    `peer,model=${model}`,
    '--start',
    file('start'),
    '--append',
    'quiet iomem=relaxed',
    '--timeout',
    '250',
    ...options,
  );
  expect(run.status, run.stderr.slice(-4000)).toBe(0);
  const said = new Map([...run.stderr.matchAll(/^@@ (\S+) ?(.*?)\r?$/gm)].map(([, name, value]) => [name, value]));
  return { said, report: JSON.parse(run.stdout), console: run.stderr };
}

function expectTraffic({ said, report, console }: ReturnType<typeof boot>): void {
  expect(Object.fromEntries(said), console.slice(-4000)).toMatchObject({
    loaded: 'yes',
    ping: '3 packets received',
    download: contentSha256(DOWNLOAD, 1),
    errors: '0 0',
    unloaded: 'yes',
    bugs: '0',
  });
  expect(said.get('upload')).toContain(`${said.get('sent')}`);
  const [card] = report.cards;
  expect(card.rxPackets).toBeGreaterThan(DOWNLOAD / 1500);
  expect(card.txPackets).toBeGreaterThan(UPLOAD / 1500);
  expect(card.statistics).toMatchObject({ badDescriptors: 0, badRings: 0, txDropped: 0 });
}

describe('stock drivers', () => {
  test('8139cp and mii, unguarded', TIMEOUT, () => {
    const result = boot('8139cp', 'rtl8139', '--put', `lib/modules/mii.ko=${stock('mii')}`, `lib/modules/8139cp.ko=${stock('8139cp')}`);
    expectTraffic(result);
    // The probe must be able to see the card: TCR holds the hardware version.
    expect(Number(result.said.get('memory-before')) & 0x7c80_0000).toBe(0x7480_0000);
    expect(result.said.get('port-before')).toBe(result.said.get('memory-before'));
  });

  test('8139too and mii, unguarded, on the chip without C+ mode', TIMEOUT, () => {
    expectTraffic(boot('8139too', 'rtl8139c', '--put', `lib/modules/mii.ko=${stock('mii')}`, `lib/modules/8139too.ko=${stock('8139too')}`));
  });

  // 8139too reaches its card by ioread32 and its like, for memory and for ports: the linker's routines do what those do.
  test.each([
    ['8139cp', 'rtl8139'],
    ['8139too', 'rtl8139c'],
    ['8139too use_io=1', 'rtl8139c'],
  ])("%s and mii, both guarded: the same traffic, and the card is nobody else's", TIMEOUT, (words, model) => {
    const [driver] = words.split(' ');
    rmSync(folder, { recursive: true });
    mkdirSync(folder);
    did('keygen', file('admin'));
    for (const name of ['mii', driver]) {
      const image = file(`${name}.guarded.ko`);
      did('link', stock(name), '--output', image);
      const privilege = name === 'mii' ? [] : ['--privilege', 'pci-device,device=0000:00:03.0,vendor=10ec,product=8139'];
      const grant = ['--manifest', `${image}.manifest.json`, '--key', file('admin.key'), '--vm', 'vm', '--output', file(`${name}.grant`)];
      did('grant', ...grant, ...privilege);
    }
    const guard = ['--module', file('mii.guarded.ko'), file(`${driver}.guarded.ko`), '--grant', file('mii.grant'), file(`${driver}.grant`)];
    const result = boot(words, model, ...guard, '--trust', file('admin.pub'), '--events', file('events'));
    expectTraffic(result);
    for (const when of ['before', 'during', 'after']) {
      expect([when, result.said.get(`memory-${when}`), result.said.get(`port-${when}`)]).toEqual([when, ONES, ONES]);
    }
    const { report } = result;
    expect(report.refusals).toEqual([]);
    // Three looks, each one double word of memory and four ports.
    expect(report.refusedAccesses).toMatchObject({ reads: 15, writes: 0 });
    // mii is called by the driver, and calls the driver's register access back by a pointer: neither enters the other but by the border.
    const module = (name: string) => report.modules.find((entry: { module: string }) => entry.module === name);
    expect(module(driver).calls.out).toBeGreaterThan(1000);
    expect(module('mii').calls.in).toBeGreaterThan(0);
    const callOuts = (name: string, symbol: string) =>
      report.callOuts.find((entry: { module: string; symbol: string }) => entry.module === name && entry.symbol === symbol)?.count ?? 0;
    expect(callOuts(driver, 'mii_check_media')).toBeGreaterThan(0);
    expect(callOuts('mii', '(by pointer)')).toBeGreaterThan(0);
    const events = readFileSync(file('events'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    // mii has no cleanup function: it is missed when the kernel is idle.
    expect(events.filter(({ event }) => event === 'module.ended').map((event) => [event.module, event.reason])).toEqual([
      [driver, 'unloaded'],
      ['mii', 'memory-reused'],
    ]);
    expect(events.filter(({ event }) => event === 'privilege.attached').map((event) => event.module)).toEqual([driver]);
  });
});
