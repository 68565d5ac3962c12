// What two of the guards cost: the shadow stack of the module's own calls, as the view keeps it and as the linker puts it into the module, and the invariant watch (`--watch`). All runs are of the attack build (tools/attacks.mjs), the
// only one in which the shadow stack can be left out, so that nothing else differs.
import { execFileSync } from 'node:child_process';
import { cpSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { attackBuild } from '../tools/attacks.mjs';
import { counted } from './guests.mjs';
import { guardedGuest } from './net.mjs';
import { runGuest, stretches } from './process.mjs';
import { median, minimum } from './report.mjs';

export const title = 'What the shadow stack and the invariant watch cost';
const WITHOUT = ['shadow-stack'];
/** The stubs are there or not by how the module is linked: a view keeps no shadow stack of its own for a module that has them. */
const LINKED = { shadowStack: true };
const VARIANTS = { plain: {}, without: { without: WITHOUT }, linked: { policy: LINKED }, watch: { watch: true } };
/** Each in turn, and back: slow drifts of the machine go out. */
const TURNS = ['plain', 'without', 'linked', 'watch', 'watch', 'linked', 'without', 'plain'];
const MIB = 8;
const DOWNLOADS = 3;
const SCRIPT = `
insmod /lib/modules/guarded.ko
net=$(ls /sys/bus/pci/devices/0000:00:03.0/net)
ip link set $net up
udhcpc -i $net -n -q -t 5 -T 1 > /dev/null 2>&1
download() { wget -q -O /dev/null "http://10.0.2.2/file?bytes=$((${MIB} * 1048576))&seed=1"; }
download
for round in ${Array.from({ length: DOWNLOADS }, (_, round) => round).join(' ')}; do timed download download; done
`;

export async function measure() {
  const folder = join(dirname(await attackBuild('attacks-bench')), '../..');
  cpSync(dirname(fileURLToPath(import.meta.url)), join(folder, 'bench'), { recursive: true });
  const pairs = await turns((variant) =>
    JSON.parse(execFileSync(process.execPath, [join(folder, 'bench/pairs.mjs'), JSON.stringify(variant)], { encoding: 'utf8' })),
  );
  const unlinked = await guardedGuest(SCRIPT);
  const linked = await guardedGuest(SCRIPT, LINKED, 'linked');
  const downloads = await turns(async ({ policy, ...variant }) => {
    const { guest, options } = policy === LINKED ? linked : unlinked;
    const { command, args } = counted(guest, { ...options, ...variant });
    const stretch = stretches(await runGuest({ command, args: [join(folder, 'bench/counted-guest.mjs'), ...args.slice(1)] }));
    if (stretch.length !== DOWNLOADS) throw new Error(`expected ${DOWNLOADS} downloads, got ${JSON.stringify(stretch)}`);
    return { cpu: stretch.map(({ cpu }) => cpu), crossings: stretch.map(({ crossings }) => crossings) };
  });
  const row = (what, unit, of, name, beside, ratio) => {
    const [here, there] = [of(name), of(beside)];
    return { what, value: here, unit, beside: { name: LABELS[beside], value: there }, ratio: ratio(here, there) };
  };
  const slower = (here, there) => here / there;
  const speed = (name) => MIB / median(downloads[name].flatMap(({ cpu }) => cpu));
  const perCrossing = (name) =>
    (median(downloads[name].flatMap(({ cpu }) => cpu)) / median(downloads[name].flatMap(({ crossings }) => crossings))) * 1e9;
  return Object.entries(COMPARED).flatMap(([label, [name, beside]]) => [
    ...Object.keys(pairs.plain[0]).map((kind) =>
      row(`${label}: ${kind}`, 'ns', (variant) => minimum(pairs[variant].map((all) => all[kind])), name, beside, slower),
    ),
    row(`${label}: guarded download by processor time`, 'MiB/s', speed, name, beside, slower),
    row(`${label}: all processor time of it, for each crossing`, 'ns', perCrossing, name, beside, slower),
  ]);
}

const LABELS = { plain: 'without the watch', without: 'without it' };
/** [with, without] */
const COMPARED = { 'shadow stack': ['plain', 'without'], 'linked shadow stack': ['linked', 'without'], watch: ['watch', 'plain'] };

/** Results of every variant, in the order of the turns. */
async function turns(run) {
  const results = Object.fromEntries(Object.keys(VARIANTS).map((name) => [name, []]));
  for (const name of TURNS) results[name].push(await run(VARIANTS[name]));
  return results;
}
