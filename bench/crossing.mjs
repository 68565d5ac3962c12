// What one border crossing costs, by kind, with nothing else running. Pairs are timed whole, by processor time; how much of a pair is the
// monitor's is timed inside; what remains is the engine's: leaving the core, switching views, and entering the core again.
import { Watch } from '../dist/monitor/watch.js';
import { GATE_PORT } from '../dist/policy/manifest.js';
import { median, minimum } from './report.mjs';
import { DONE_PORT, PLAIN_PORT, tinyGuest, VECTOR } from './tiny-guest.mjs';

export const title = 'Border crossings';
const PAIRS = 100_000;
const ROUNDS = 5;
/** As the run loop of a machine: how far ahead `run` may go, ns. */
const SLICE = 1_000_000;

const CASES = [
  { kinds: ['callIn', 'returnOut'], names: ['call-in', 'return-out'], prepare: ({ prepare }) => prepare('call', PAIRS, 'empty') },
  { kinds: ['callOut', 'returnIn'], names: ['call-out', 'return-in'], prepare: ({ prepare }) => prepare('call', 1, 'outer', PAIRS) },
  {
    kinds: ['eventOut', 'resume'],
    names: ['event-out', 'resume'],
    prepare: ({ prepare }) => prepare('call', 1, 'spin', 1e9),
    interrupts: true,
  },
];

/** What happens between two crossings matters to a shadow stack. */
const WITH_CALLS = { names: ['call-in', 'return-out with 16 calls inside'], prepare: ({ prepare }) => prepare('call', PAIRS, 'calls', 16) };

/** A pair of each kind, ns by processor time. With `watch`, the invariant watch looks after each crossing; `policy` is for linking the module. */
export function pairs({ watch = false, policy = {} } = {}) {
  const guest = live(policy);
  if (watch) guest.watch = new Watch(guest.engine);
  return Object.fromEntries([...CASES, WITH_CALLS].map((work) => [work.names.join(' and '), fastest(guest, work) / PAIRS]));
}

function live(policy) {
  const guest = tinyGuest(1, policy);
  guest.prepare('call', 1, 'init_module');
  drive(guest, {});
  return guest;
}

export async function measure() {
  const guest = live();
  const plain = fastest(guest, { prepare: ({ prepare }) => prepare('plain', PAIRS) }) / PAIRS;
  const device = fastest(guest, { prepare: ({ prepare }) => prepare('device', PAIRS) }) / PAIRS;
  const rows = [
    { what: 'no crossing: a port write that nobody handles', value: plain, unit: 'ns' },
    {
      what: 'no crossing: a device register write that nobody handles',
      value: device,
      unit: 'ns',
      beside: { name: 'port write', value: plain },
      ratio: device / plain,
    },
  ];
  const clock = clockCost();
  for (const work of CASES) {
    const pair = fastest(guest, work) / PAIRS;
    work.prepare(guest);
    const times = Object.fromEntries(work.kinds.map((kind) => [kind, []]));
    drive(guest, { ...work, times });
    const monitor = work.kinds.map((kind) => Math.max(0, median(times[kind]) - clock));
    const engine = (pair - monitor[0] - monitor[1]) / 2;
    for (const [index, name] of work.names.entries()) {
      rows.push({
        what: name,
        value: monitor[index] + engine,
        unit: 'ns',
        beside: { name: 'port write', value: plain },
        ratio: (monitor[index] + engine) / plain,
      });
      rows.push({ what: '  of it in the monitor', value: monitor[index], unit: 'ns' });
    }
  }
  return rows;
}

/** Processor time of the fastest round, ns. */
export function fastest(guest, work) {
  return minimum(
    Array.from({ length: ROUNDS }, () => {
      work.prepare(guest);
      const before = process.cpuUsage();
      drive(guest, work);
      const { user, system } = process.cpuUsage(before);
      return (user + system) * 1000;
    }),
  );
}

/**
 * Runs to the end as a machine's run loop does. `interrupts`: sends one whenever the module has resumed, `PAIRS` times, then ends. `times`: by kind
 * of crossing, gets ns in the monitor.
 */
export function drive({ engine, cpu, monitor, watch }, { interrupts = false, times }) {
  let left = PAIRS;
  for (;;) {
    const exit = cpu.run(engine.clock.now() + SLICE);
    if (exit.kind === 'io' && exit.port !== GATE_PORT) {
      if (exit.port === PLAIN_PORT) continue;
      if (exit.port === DONE_PORT) return;
    }
    if (exit.kind !== 'budget' && exit.kind !== 'mmio') {
      const verdict = times ? timed(monitor, cpu, exit, times) : monitor.handle(cpu, exit);
      if (verdict !== 'handled') throw new Error(`the crossing was not handled: ${JSON.stringify(verdict)} of ${exit.kind}`);
      const broken = watch?.crossed(cpu);
      if (broken !== undefined) throw new Error(`an invariant does not hold: ${broken}`);
      if (exit.kind === 'event' || cpu.view === engine.untrusted) continue;
    }
    if (!interrupts) continue;
    if (left-- === 0) {
      // Let the module's loop end.
      cpu.registers.words[7] = 1n;
      interrupts = false;
    } else if (cpu.canInterrupt) cpu.inject(VECTOR);
  }
}

function timed(monitor, cpu, exit, times) {
  const before = { ...monitor.crossings };
  const started = performance.now();
  const verdict = monitor.handle(cpu, exit);
  const ended = performance.now();
  for (const kind of Object.keys(times)) if (monitor.crossings[kind] > before[kind]) times[kind].push((ended - started) * 1e6);
  return verdict;
}

/** What asking the clock adds to a time taken with it, ns. */
function clockCost() {
  const costs = Array.from({ length: 100_000 }, () => {
    const started = performance.now();
    return (performance.now() - started) * 1e6;
  });
  return median(costs);
}
