// Boot: from the start of the process to the first line of the guest's init, the whole program included.
import { counted, makeGuest, portcullis, qemu } from './guests.mjs';
import { runGuest } from './process.mjs';
import { minimum } from './report.mjs';

export const title = 'Boot of the stock kernel to init';
const ROUNDS = 3;

export async function measure() {
  const guest = await makeGuest('boot', '');
  const others = qemu(guest);
  const here = [];
  const beside = [];
  for (let round = 0; round < ROUNDS; round++) {
    here.push(await toInit(portcullis(guest)));
    if (others) beside.push(await toInit(others));
  }
  const { instructions, run } = await toInit(counted(guest));
  const row = (what, key, aim) => {
    const value = minimum(here.map((sample) => sample[key]));
    if (!others) return { what, value, unit: 's', aim };
    const other = minimum(beside.map((sample) => sample[key]));
    return { what, value, unit: 's', beside: { name: 'QEMU TCG', value: other }, ratio: value / other, aim };
  };
  return [
    row(`elapsed, best of ${ROUNDS}`, 'wall', 'under 15 s; ratio under 6'),
    row(`processor time, best of ${ROUNDS}`, 'cpu'),
    { what: 'guest instructions', value: instructions / 1e6, unit: 'million' },
    { what: 'speed of kernel code, cold', value: instructions / 1e6 / run, unit: 'MIPS', aim: '150' },
  ];
}

async function toInit(command) {
  const samples = await runGuest(command);
  return samples.find(({ name }) => name === 'init');
}
