// Speed of the processor: work inside the guest, timed by the guest's own clock, and the same in QEMU; and small loops without a kernel.
import { counted, makeGuest, qemu } from './guests.mjs';
import { LOOPS, measureLoop } from './cpu-micro.mjs';
import { runGuest, stretches } from './process.mjs';
import { median, minimum } from './report.mjs';

export const title = 'Processor: work in the guest, seconds by its own clock';
const ROUNDS = 3;

const WORK = {
  sha256: { what: 'SHA-256 of 4 MiB', script: 'sha256sum /tmp/zeros > /dev/null' },
  gzip: { what: 'gzip of 1 MiB of busybox', script: 'gzip -c /tmp/program > /dev/null' },
  shell: { what: 'shell loop, 10000 rounds', script: 'i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done' },
  fork: { what: '100 times fork and exec', script: 'i=0; while [ $i -lt 100 ]; do /bin/busybox true; i=$((i+1)); done' },
};

const SCRIPT = `
dd if=/dev/zero of=/tmp/zeros bs=1M count=4 2>/dev/null
dd if=/bin/busybox of=/tmp/program bs=1M count=1 2>/dev/null
${Object.entries(WORK)
  .map(([name, { script }]) => `work_${name}() { ${script}; }`)
  .join('\n')}
for round in ${Array.from({ length: ROUNDS }, (_, round) => round).join(' ')}; do
${Object.keys(WORK)
  .map((name) => `  timed ${name} work_${name}`)
  .join('\n')}
done
`;

export async function measure() {
  const guest = await makeGuest('cpu', SCRIPT);
  const here = stretches(await runGuest(counted(guest)));
  const others = qemu(guest);
  const beside = others && stretches(await runGuest(others));
  const rows = Object.entries(WORK).flatMap(([name, { what }]) => {
    const own = here.filter((stretch) => stretch.name === name);
    const value = minimum(own.map(({ guest: seconds }) => seconds));
    const other = beside && minimum(beside.filter((stretch) => stretch.name === name).map(({ guest: seconds }) => seconds));
    const mips = median(own.map(({ instructions, cpu }) => instructions / cpu / 1e6));
    return [
      { what, value, unit: 's', ...(other && { beside: { name: 'QEMU TCG', value: other }, ratio: value / other }) },
      { what: '', value: mips, unit: 'MIPS', aim: name === 'fork' ? '150' : '' },
    ];
  });
  for (const name of Object.keys(LOOPS))
    rows.push({ what: `loop without a kernel: ${name}`, value: measureLoop(name), unit: 'MIPS', aim: '350' });
  return rows;
}
