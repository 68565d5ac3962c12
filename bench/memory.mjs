// Memory of the VMM over the guest's own: resident pages of the process less resident pages of guest RAM, some seconds after the guest is up,
// when what only the start needed has been given back.
import { makeGuest, MEMORY_MIB, portcullis, qemu } from './guests.mjs';
import { runGuest } from './process.mjs';
import { residentOver, residentOverGuest } from './resident.mjs';

export const title = "Memory of the program over the guest's own";
const MIB = 2 ** 20;
const GUEST = MEMORY_MIB * MIB;

const SCRIPT = `
dd if=/dev/urandom of=/tmp/file bs=1M count=4 2>/dev/null
gzip -c /tmp/file | sha256sum > /dev/null
sleep 4
echo "@@ up"
sleep 1`;

export async function measure() {
  const guest = await makeGuest('memory', SCRIPT);
  const here = await sample(portcullis(guest), (pid) => residentOverGuest(pid, GUEST));
  const others = qemu(guest);
  const beside =
    others && (await sample(others, (pid) => residentOver(pid, { size: GUEST, isMapping: ({ size }) => size === GUEST, offset: 0 })));
  const row = (what, key, aim) => ({
    what,
    value: here[key] / MIB,
    unit: 'MiB',
    ...(beside && { beside: { name: 'QEMU TCG', value: beside[key] / MIB }, ratio: here[key] / beside[key] }),
    aim,
  });
  return [row("over the guest's own", 'own', 'under 300 MB'), row('guest RAM touched', 'guest'), row('whole process', 'resident')];
}

async function sample(command, resident) {
  let result;
  await runGuest(command, {
    onSample: ({ name }, pid) => {
      if (name === 'up') result = resident(pid);
    },
  });
  return result;
}
