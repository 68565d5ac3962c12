// What a border crossing costs with more guarded modules loaded, and with more unfinished crossings: it should not matter how many there are.
import { drive, fastest } from './crossing.mjs';
import { tinyGuest } from './tiny-guest.mjs';

export const title = 'Border crossings with many modules and many unfinished crossings';
const PAIRS = 100_000;
const MODULES = [1, 10, 100];
const FRAMES = 10_000;
const SLICE = 1_000_000;

const PAIR_KINDS = [
  { what: 'call-in and return-out', prepare: (guest, which) => guest.prepare('call', PAIRS, 'empty', 0, which) },
  { what: 'call-out and return-in', prepare: (guest, which) => guest.prepare('call', 1, 'outer', PAIRS, which) },
];

export async function measure() {
  const alone = MODULES.map((count) => ({ name: `${count} modules`, guest: live(count) }));
  const crowded = live(1);
  leaveUnfinished(crowded);
  const cases = [...alone, { name: `${crowded.monitor.frames().live.toLocaleString('en')} unfinished crossings`, guest: crowded }];
  return PAIR_KINDS.flatMap(({ what, prepare }) => {
    const cost = ({ guest, which }) => fastest(guest, { prepare: () => prepare(guest, which) }) / PAIRS;
    const times = cases.map(({ guest }, index) => cost({ guest, which: index < MODULES.length ? MODULES[index] - 1 : 0 }));
    return cases.slice(1).map(({ name }, index) => ({
      what: `${what}: ${name}`,
      value: times[index + 1],
      unit: 'ns',
      beside: { name: '1 module', value: times[0] },
      ratio: times[index + 1] / times[0],
    }));
  });
}

/** A machine in which `count` modules are loaded and live. */
function live(count) {
  const guest = tinyGuest(count);
  for (let which = 0; which < count; which++) {
    guest.prepare('call', 1, 'init_module', 0, which);
    drive(guest, {});
  }
  const states = guest.monitor.modules().flatMap(({ instances }) => instances.map(({ state }) => state));
  if (states.length !== count || states.some((state) => state !== 'live')) throw new Error(`expected ${count} live modules, got ${states}`);
  return guest;
}

/** Threads that enter the module, call the kernel from it, and never come back: two crossings each. */
function leaveUnfinished(guest) {
  const { cpu, engine, monitor, prepareLost, inKernel } = guest;
  for (let thread = 0; thread < FRAMES / 2; thread++) {
    prepareLost(thread, 'outer', 1);
    while (!inKernel()) {
      const exit = cpu.run(engine.clock.now() + SLICE);
      if (exit.kind === 'budget') continue;
      const verdict = monitor.handle(cpu, exit);
      if (verdict !== 'handled') throw new Error(`the crossing was not handled: ${JSON.stringify(verdict)} of ${exit.kind}`);
    }
  }
  const { live: open, evicted } = monitor.frames();
  if (open !== FRAMES || evicted !== 0) throw new Error(`expected ${FRAMES} unfinished crossings, got ${open}, ${evicted} evicted`);
}
