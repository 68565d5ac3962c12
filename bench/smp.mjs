// Several virtual CPUs: what a second host thread gains where they compute, what it costs where they only cross the border, and what an idle guest takes.
import { counted, makeGuest, portcullis } from './guests.mjs';
import { guardedGuest, measure as measureNet } from './net.mjs';
import { runGuest, stretches } from './process.mjs';
import { median } from './report.mjs';

export const title = 'Several virtual CPUs';
const IDLE = 10;
const COMPUTE = `
work() { i=0; while [ $i -lt 8000 ]; do i=$((i+1)); done; }
both() { work & work & wait; }
timed one work
timed two both
timed idle sleep ${IDLE}
`;
const MIB = 4;
const ROUNDS = 4;
const DOWNLOAD = `
download() { wget -q -O /dev/null "http://10.0.2.2/file?bytes=$((${MIB} * 1048576))&seed=1"; }
insmod /lib/modules/guarded.ko
net=$(ls /sys/bus/pci/devices/0000:00:03.0/net)
ip link set $net up
udhcpc -i $net -n -q -t 5 -T 1 > /dev/null 2>&1
for round in $(seq ${ROUNDS}); do timed guarded download; done
`;

export async function measure() {
  const compute = await makeGuest('smp', COMPUTE);
  const on = async (cpus, cores) => {
    const { command, args } = portcullis(compute);
    const all = stretches(await runGuest({ command, args: [...args, '--cpus', `${cpus}`, '--cores', `${cores}`] }));
    return Object.fromEntries(all.map((stretch) => [stretch.name, stretch]));
  };
  const [single, double, four] = [await on(2, 1), await on(2, 2), await on(4, 2)];
  const rows = [
    {
      what: 'two processes that compute, 2 CPUs on 2 cores: time by the host',
      value: double.two.wall,
      unit: 's',
      beside: { name: '1 core', value: single.two.wall },
      ratio: single.two.wall / double.two.wall,
    },
    {
      what: '  by processor time',
      value: double.two.cpu,
      unit: 's',
      beside: { name: '1 core', value: single.two.cpu },
      ratio: single.two.cpu / double.two.cpu,
    },
    {
      what: 'one process, 2 CPUs on 2 cores: time by the host',
      value: double.one.wall,
      unit: 's',
      beside: { name: '1 core', value: single.one.wall },
      ratio: single.one.wall / double.one.wall,
    },
    { what: 'an idle guest of 4 CPUs on 2 cores: share of one processor', value: (four.idle.cpu / four.idle.wall) * 100, unit: '%' },
  ];
  const { guest, options } = await guardedGuest(DOWNLOAD);
  const download = async (cpus) => {
    const all = stretches(await runGuest(counted(guest, { ...options, cpus: `${cpus}`, cores: `${Math.min(cpus, 2)}` })));
    return { cpu: median(all.map(({ cpu }) => cpu)), crossing: median(all.map(({ cpu, crossings }) => cpu / crossings)) };
  };
  const one = await download(1);
  for (const cpus of [2, 4]) {
    const several = await download(cpus);
    rows.push({
      what: `guarded download of ${MIB} MiB, ${cpus} CPUs on 2 cores: processor time`,
      value: several.cpu,
      unit: 's',
      beside: { name: '1 CPU', value: one.cpu },
      ratio: several.cpu / one.cpu,
    });
    rows.push({
      what: '  for each crossing, with all that is between',
      value: several.crossing * 1e6,
      unit: 'us',
      beside: { name: '1 CPU', value: one.crossing * 1e6 },
      ratio: several.crossing / one.crossing,
    });
  }
  const [speed, byProcessor] = await measureNet({ cpus: '4', cores: '2' });
  rows.push({ ...speed, what: `4 CPUs on 2 cores: ${speed.what}` }, { ...byProcessor, what: '  by processor time' });
  return rows;
}
