// Download through the guarded driver and through the stock one, in turns, in one machine: two cards of the same kind with the same peer; the
// first is granted to the guarded module, the second is everyone's.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeGrant } from '../dist/cli/keys.js';
import { stockExportVersion } from '../dist/guest/export-versions.js';
import { linkModule } from '../dist/linker/link.js';
import { manifestDigest } from '../dist/policy/canonical.js';
import { generateKeyPair, signGrant } from '../dist/policy/signing.js';
import { counted, folder, makeGuest, stockModule } from './guests.mjs';
import { runGuest, stretches } from './process.mjs';
import { median } from './report.mjs';

export const title = 'Download through the guarded driver, beside the stock driver';
const MIB = 8;
const CARDS = { guarded: '0000:00:03.0', stock: '0000:00:04.0' };
/** Each visit loads the driver anew and downloads three times; the order takes slow drifts of the machine out. */
const VISITS = ['guarded', 'stock', 'stock', 'guarded'];
const PER_VISIT = 3;

const SCRIPT = `
download() { wget -q -O /dev/null "http://10.0.2.2/file?bytes=$((${MIB} * 1048576))&seed=1"; }
visit() { # driver, card
  insmod /lib/modules/$1.ko
  net=$(ls /sys/bus/pci/devices/$2/net)
  ip link set $net up
  udhcpc -i $net -n -q -t 5 -T 1 > /dev/null 2>&1
  ping -c 1 10.0.2.2 > /dev/null || echo "no network through $1 on $net"
  for round in ${Array.from({ length: PER_VISIT }, (_, round) => round).join(' ')}; do timed $1 download; done
  ip link set $net down
  rmmod e1000
}
${VISITS.map((name) => `visit ${name} ${CARDS[name]}`).join('\n')}
`;

/** `processors`: options of `run` about them. */
export async function measure(processors = {}) {
  const { guest, options } = await guardedGuest(SCRIPT);
  const all = stretches(await runGuest(counted(guest, { ...options, ...processors })));
  const expected = VISITS.length * PER_VISIT;
  const packets = (MIB * 1048576) / 1460;
  if (all.length !== expected || all.some((stretch) => stretch.packets < packets))
    throw new Error(`expected ${expected} whole downloads, got ${JSON.stringify(all)}`);
  const of = (name, what) => median(all.filter((stretch) => stretch.name === name).map(what));
  const pair = (what, unit, value, ratio, aim) => {
    const [guarded, stock] = [of('guarded', value), of('stock', value)];
    return { what, value: guarded, unit, beside: { name: 'stock driver', value: stock }, ratio: ratio(guarded, stock), aim };
  };
  const divided = (guarded, stock) => guarded / stock;
  const crossings = of('guarded', (stretch) => stretch.crossings);
  const extra = of('guarded', ({ cpu }) => cpu) - of('stock', ({ cpu }) => cpu);
  return [
    pair(
      `speed by the guest's clock, ${MIB} MiB, median of ${expected / 2}`,
      'MiB/s',
      ({ guest: seconds }) => MIB / seconds,
      divided,
      '0.9',
    ),
    pair('speed by processor time', 'MiB/s', ({ cpu }) => MIB / cpu, divided, '0.9'),
    pair('guest instructions per packet', '', (stretch) => stretch.instructions / stretch.packets, divided),
    { what: 'crossings per packet received', value: of('guarded', (stretch) => stretch.crossings / stretch.packets) },
    { what: 'processor time per crossing, by difference', value: (extra / crossings) * 1e9, unit: 'ns' },
    { what: 'share of processor time at the border, by difference', value: (extra / of('guarded', ({ cpu }) => cpu)) * 100, unit: '%' },
  ];
}

/** A guest that runs `script`, and the options of `run` that give it two cards and the guarded module, for the first. `policy` is for linking that, `name` for its files. */
export async function guardedGuest(script, policy = {}, name = 'net') {
  const { path, bytes } = await stockModule('e1000');
  const { image, manifest } = linkModule(bytes, path, policy, stockExportVersion);
  const key = generateKeyPair();
  const privileges = [{ kind: 'pci-device', parameters: { device: CARDS.guarded, vendor: '8086', product: '100e' } }];
  const grant = signGrant(
    makeGrant({ manifest: manifestDigest(manifest), vms: ['bench'], days: 1, onViolation: 'stop', privileges }),
    key.privateKey,
  );
  const write = (file, data) => {
    const at = join(folder, `${name}-${file}`);
    writeFileSync(at, data);
    return at;
  };
  const module = write('e1000.guarded.ko', image);
  write('e1000.guarded.ko.manifest.json', JSON.stringify(manifest));
  const guest = await makeGuest(name, script, [
    ['lib/modules/guarded.ko', image],
    ['lib/modules/stock.ko', bytes],
  ]);
  return {
    guest,
    options: {
      name: 'bench',
      net: ['peer', 'peer'],
      module: [module],
      grant: [write('grant.json', JSON.stringify(grant))],
      trust: [write('admin.pub', key.publicKey)],
    },
  };
}
