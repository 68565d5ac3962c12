// One machine in this process's main thread. After each console line "@@ ..." it prints "@# JSON" with its counters at that moment.
// Usage: node bench/counted-guest.mjs '{"kernel": ..., other options of `portcullis run`}'
// In an attack build (tools/attacks.mjs) "without" names defences that are off.
import { writeSync } from 'node:fs';
import { withoutDefences } from '../dist/base/defence-switch.js';
import { assemble } from '../dist/cli/assemble.js';
import { resolveRunOptions } from '../dist/cli/run-options.js';
import { Vm } from '../dist/vm/vm.js';

const { without = [], ...options } = JSON.parse(process.argv[2]);
if (without.length > 0) void withoutDefences(without, () => new Promise(() => {}));
const config = await assemble(resolveRunOptions(options, undefined), () => {});

/** `cpu`: of this process, seconds; `run`: of it since the machine started. */
function counters() {
  const { instructions, crossings, cards } = vm.report();
  const { user, system } = process.cpuUsage();
  const run = process.cpuUsage(atStart);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  return {
    cpu: (user + system) / 1e6,
    run: (run.user + run.system) / 1e6,
    instructions,
    crossings: sum(Object.values(crossings)),
    packets: sum(cards.map(({ rxPackets }) => rxPackets)),
  };
}

let line = '';
const vm = await Vm.create(config, [], {
  console(bytes) {
    writeSync(1, bytes);
    line += Buffer.from(bytes).toString('latin1');
    if (!line.endsWith('\n')) return;
    if (line.includes('@@ ')) writeSync(1, `@# ${JSON.stringify(counters())}\n`);
    line = '';
  },
  event() {},
  log: ({ message }) => writeSync(2, `${message}\n`),
  poll() {},
  sleep: (milliseconds) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds),
});
const atStart = process.cpuUsage();
const outcome = vm.run();
if (outcome.kind !== 'off') {
  writeSync(2, `the guest ended: ${JSON.stringify(outcome)}\n`);
  process.exitCode = 1;
}
