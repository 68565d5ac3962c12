/** The stock kernel on several virtual CPUs: start, hot-unplug and -plug, interrupts between CPUs, ends, a guarded driver under load. */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { cachedKernel } from '../../src/guest/fetch.ts';
import { buildProbeModule, PROBE_NAME } from '../../src/guest/probe-module.ts';
import { contentSha256 } from '../../src/net/peer/content.ts';
import { boot, scratch, succeed } from './guest.ts';

const space = scratch();
afterAll(() => space.remove());
const LIMIT = { timeout: 240_000 };
/** What a kernel says when something is wrong with it. */
const COMPLAINTS = 'dmesg | grep -E "BUG:|Oops|WARNING|Call Trace|stall|lockup|not responding|unsynchronized" | sed "s/^/@@ kernel: /"';
const lines = (screen: string, name: string) => [...screen.matchAll(new RegExp(`^@@ ${name} (.*)$`, 'gm'))].map(([, text]) => text);

describe('four CPUs', () => {
  test('all come up, each with its own APIC ID in one package; CPUs go and come back', LIMIT, () => {
    const {
      code,
      result,
      console: screen,
    } = boot(
      space.folder,
      `
CPU=/sys/devices/system/cpu
online() { echo "@@ online $(cat $CPU/online)"; }
online
grep -E '^(initial apicid|cpu cores|physical id)' /proc/cpuinfo | tr -d '\\t' | sort | uniq -c | sed 's/^ */@@ cpuinfo /'
for cpu in 1 2 3; do echo 0 > $CPU/cpu$cpu/online; done
online
for cpu in 3 1 2; do echo 1 > $CPU/cpu$cpu/online; done
online
for round in 1 2 3; do echo 0 > $CPU/cpu2/online; echo 1 > $CPU/cpu2/online; done
online
dmesg -c > /dev/null
echo l > /proc/sysrq-trigger # a back-trace of every CPU, by NMI
sleep 1
echo "@@ nmi $(dmesg | grep -c 'NMI backtrace for cpu') $(dmesg | grep -c 'Sending NMI')"
dmesg -c > /dev/null
for job in 1 2 3 4 5 6; do (dd if=/dev/zero bs=64k count=16 2>/dev/null | sha256sum | cut -c1-8 > /tmp/sum$job) & done
wait
echo "@@ sums $(cat /tmp/sum* | sort -u | wc -l)"
echo "@@ call $(grep CAL: /proc/interrupts | sed 's/^ *//' | tr -s ' ' | cut -d' ' -f2-5)"
${COMPLAINTS}
`,
      '--cpus',
      '4',
      '--cores',
      '2',
    );
    expect(code).toBe(0);
    expect(lines(screen, 'kernel:')).toEqual([]);
    expect(lines(screen, 'online')).toEqual(['0-3', '0', '0-3', '0-3']);
    const apicIds = [0, 1, 2, 3].map((id) => `1 initial apicid: ${id}`);
    expect(lines(screen, 'cpuinfo')).toEqual(['4 cpu cores: 4', ...apicIds, '4 physical id: 0']);
    const [[backtraces, sent]] = lines(screen, 'nmi').map((text) => (text ?? '').split(' ').map(Number)) as [[number, number]];
    expect([backtraces, sent]).toEqual([4, 1]); // the sender shows its own without an NMI
    expect(lines(screen, 'sums')).toEqual(['1']);
    for (const count of (lines(screen, 'call')[0] ?? '').split(' ')) expect(Number(count)).toBeGreaterThan(0);
    expect(result.cpus).toHaveLength(4);
    // The jobs computed in two host threads, where there can be two.
    const handovers = result.cpus.reduce((sum: number, cpu: { handovers: number }) => sum + cpu.handovers, 0);
    if (process.arch === 'x64' && availableParallelism() > 1) expect(handovers).toBeGreaterThan(0);
    else expect(handovers).toBe(0);
    for (const cpu of result.cpus) {
      expect(cpu.halts).toBeGreaterThan(10);
      expect(cpu.instructions).toBeGreaterThan(1_000_000);
      expect([0, 1]).toContain(cpu.core);
    }
  });

  test.each([
    ['panic', 'echo c > /proc/sysrq-trigger', 34, 'panic'],
    ['reboot', 'reboot -f', 32, 'reset'],
    ['halt', 'halt -f', 0, 'ok'],
  ])('%s', LIMIT, (_, script, code, exit) => {
    const ended = boot(space.folder, script, '--cpus', '4');
    expect(ended.code).toBe(code);
    expect(ended.result.exit).toBe(exit);
  });
});

test('sixteen CPUs', LIMIT, () => {
  const script = `echo "@@ online $(cat /sys/devices/system/cpu/online)"; ${COMPLAINTS}`;
  const { code, console: screen } = boot(space.folder, script, '--cpus', '16', '--cores', '4');
  expect(code).toBe(0);
  expect(lines(screen, 'online')).toEqual(['0-15']);
  expect(lines(screen, 'kernel:')).toEqual([]);
});

test('with the deterministic clock and a seed a run repeats to the byte and the instruction; another seed gives another', LIMIT, () => {
  const script = `
for job in 1 2 3; do (dd if=/dev/urandom bs=64k count=4 2>/dev/null | sha256sum) & done
wait
cat /proc/interrupts /proc/uptime
dmesg | sha256sum`;
  const options = ['--clock', 'instructions', '--cpus', '4', '--cores', '2', '--net', 'peer'];
  const once = boot(space.folder, script, ...options, '--seed', '7');
  const again = boot(space.folder, script, ...options, '--seed', '7');
  const other = boot(space.folder, script, ...options, '--seed', '8');
  expect(once.code).toBe(0);
  expect(again.console).toBe(once.console);
  expect(again.result).toEqual(once.result);
  expect(other.code).toBe(0);
  expect(other.result.cpus).not.toEqual(once.result.cpus);
});

test('P1 P8 the stock e1000 guarded on four CPUs: whole downloads, its interrupt moved about, a timer sees nothing', LIMIT, () => {
  const MIB = 1 << 20;
  const JOBS = 4;
  const kernel = cachedKernel();
  if (kernel === undefined) throw new Error('no stock kernel: run portcullis doctor --fetch');
  const ok = (...args: string[]) => succeed(space.folder, ...args);
  ok('keygen', 'admin');
  ok('link', 'e1000');
  ok(
    'grant',
    '--manifest',
    'e1000.guarded.ko.manifest.json',
    '--key',
    'admin.key',
    '--vm',
    'vm',
    '--output',
    'e1000.grant.json',
    '--privilege',
    'pci-device,device=0000:00:03.0,vendor=8086,product=100e',
  );
  writeFileSync(join(space.folder, 'probe.ko'), buildProbeModule(kernel.modules));
  const {
    code,
    result,
    console: screen,
  } = boot(
    space.folder,
    `
PCI=/sys/bus/pci/devices/0000:00:03.0
PROBE=/sys/module/${PROBE_NAME}/parameters
echo 1 > $PCI/enable
insmod /lib/modules/probe.ko address=$(($(head -n 1 $PCI/resource | cut -d' ' -f1)))
insmod /lib/modules/e1000.ko && echo "@@ loaded yes"
ip link set eth0 up
udhcpc -i eth0 -n -q -t 5 -T 1 >/dev/null 2>&1
IRQ=$(grep eth0 /proc/interrupts | cut -d: -f1 | tr -d ' ')
TICKS=$(cat $PROBE/ticks)
for job in $(seq ${JOBS}); do
  (wget -q -O - "http://10.0.2.2/file?bytes=${MIB}&seed=$job" | sha256sum | cut -d' ' -f1 > /tmp/sum$job; touch /tmp/done$job) &
done
# The interrupt goes from CPU to CPU while the downloads run, and a CPU goes and comes back.
turn=0
while [ $(ls /tmp/done* 2>/dev/null | wc -l) -lt ${JOBS} ]; do
  echo $((1 << (turn % 4))) > /proc/irq/$IRQ/smp_affinity
  if [ $((turn % 6)) = 5 ]; then for on in 0 1; do echo $on > /sys/devices/system/cpu/cpu2/online; done; fi
  turn=$((turn + 1))
  usleep 20000
done
wait
# However fast that was: every CPU takes the interrupt at least once. A new affinity holds from the second interrupt on.
for cpu in 0 1 2 3; do
  echo $((1 << cpu)) > /proc/irq/$IRQ/smp_affinity
  ping -c 4 -i 0.1 -q 10.0.2.2 >/dev/null
done
for job in $(seq ${JOBS}); do echo "@@ sum $(cat /tmp/sum$job)"; done
echo "@@ turns $turn"
echo "@@ interrupts $(grep eth0 /proc/interrupts | sed 's/^ *//' | tr -s ' ' | cut -d' ' -f2-5)"
echo "@@ ticks $(($(cat $PROBE/ticks) - TICKS))"
echo "@@ probe $(cat $PROBE/value) $(cat $PROBE/leaks)"
cd /sys/class/net/eth0/statistics
echo "@@ errors $(cat rx_errors rx_missed_errors rx_dropped tx_errors tx_dropped | tr '\\n' ' ')"
cd /
ip link set eth0 down
rmmod e1000 && rmmod ${PROBE_NAME} && echo "@@ unloaded yes"
${COMPLAINTS}
`,
    '--cpus',
    '4',
    '--net',
    'peer',
    '--append',
    'quiet iomem=relaxed',
    '--put',
    'lib/modules/probe.ko=probe.ko',
    '--module',
    'e1000.guarded.ko',
    '--grant',
    'e1000.grant.json',
    '--trust',
    'admin.pub',
  );
  expect(code, screen).toBe(0);
  expect(lines(screen, 'kernel:')).toEqual([]);
  expect([lines(screen, 'loaded'), lines(screen, 'unloaded')]).toEqual([['yes'], ['yes']]);
  expect(lines(screen, 'sum')).toEqual(Array.from({ length: JOBS }, (_, job) => contentSha256(MIB, job + 1)));
  expect(Number(lines(screen, 'turns')[0])).toBeGreaterThan(4);
  for (const count of (lines(screen, 'interrupts')[0] ?? '').split(' ')) expect(Number(count)).toBeGreaterThan(0);
  expect(Number(lines(screen, 'ticks')[0])).toBeGreaterThan(100);
  expect(lines(screen, 'probe')).toEqual(['4294967295 0']);
  expect(lines(screen, 'errors')[0]?.trim()).toBe('0 0 0 0 0');
  expect(result.refusals).toEqual([]);
  expect(result.refusedAccesses.reads).toBeGreaterThan(100);
  const { callIn, returnOut, callOut, returnIn, eventOut, resume } = result.crossings;
  expect([callIn, callOut, eventOut]).toEqual([returnOut, returnIn, resume]);
  for (const cpu of result.cpus) expect(cpu.crossings).toBeGreaterThan(100);
});
