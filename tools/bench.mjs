// `npm run bench`: the measures of docs/measures.md, each figure beside a baseline of the same run. Nothing is asserted.
import { availableParallelism, cpus, loadavg } from 'node:os';
import { build, install, root } from './lib.mjs';

const MEASURES = ['boot', 'cpu', 'crossing', 'net', 'guarding', 'modules', 'memory', 'wake', 'smp'];
const HELP = `Usage: npm run bench -- [${MEASURES.join('] [')}] [--json]

Without a name all measures run, one after another. They need Linux, the stock kernel (fetched once), and for comparison qemu-system-x86_64.
docs/measures.md says what each figure means.

  --json  one JSON object on standard output instead of tables
  --help  this text`;

const words = process.argv.slice(2);
if (words.includes('--help')) {
  console.log(HELP);
  process.exit(0);
}
const json = words.includes('--json');
const wanted = words.filter((word) => word !== '--json');
const unknown = wanted.find((word) => !MEASURES.includes(word));
if (unknown !== undefined) {
  console.error(`portcullis: unknown measure "${unknown}"\n${HELP}`);
  process.exit(2);
}
if (process.platform !== 'linux') {
  console.error('portcullis: the measures read /proc and need Linux');
  process.exit(1);
}
install();
build();
const { table } = await import(`${root}/bench/report.mjs`);
const load = () => loadavg()[0];
const machine = { processor: cpus()[0]?.model.trim(), processors: availableParallelism(), node: process.version, load: load() };
const result = { machine, measures: {} };
if (!json) console.log(`${machine.processor}, ${machine.processors} processors, Node ${machine.node}, load ${machine.load.toFixed(1)}`);
for (const name of MEASURES) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const { title, measure } = await import(`${root}/bench/${name}.mjs`);
  console.error(`bench: ${name}`);
  const started = performance.now();
  const rows = await measure();
  const seconds = (performance.now() - started) / 1000;
  result.measures[name] = { title, seconds, load: load(), rows };
  if (!json) console.log(`\n${title} (took ${seconds.toFixed(0)} s, load ${load().toFixed(1)})\n${table(rows)}`);
}
if (json) console.log(JSON.stringify(result, null, 2));
