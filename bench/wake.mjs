// How fast an idle virtual CPU wakes, with MWAIT and with HLT: `portcullis demo idle` measures both in turns in one guest. Once by the host's clock, and
// once by the deterministic one, which counts guest instructions: what the program itself needs for an interrupt or a border crossing is not in those.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { NS_PER_INSTRUCTION } from '../dist/engine/soft/core/layout.js';

export const title = 'Wake-up of an idle CPU, with MWAIT in a guarded module';
const cli = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const WHAT = {
  store: 'the kernel wants the CPU, to its first instruction',
  ipi: 'an interrupt from another CPU, to its first instruction',
  thread: 'a thread is woken, to its first instruction',
};

export async function measure() {
  const [time, counted] = [await demo('host'), await demo('instructions')];
  return Object.entries(WHAT).flatMap(([kind, what]) => {
    const row = (label, latency, key, baseline, name, [unit, divisor]) => {
      const [value, other] = [latency.mwait[kind][key] / divisor, latency[baseline][kind][key] / divisor];
      return { what: label, value, unit, beside: { name, value: other }, ratio: other / value };
    };
    const us = ['us', 1000];
    return [
      row(`${what}: median`, time, 'median', 'hlt', 'HLT in the module', us),
      row('', time, 'median', 'unguarded', "the kernel's own HLT", us),
      row('  99 of 100', time, 'p99', 'hlt', 'HLT in the module', us),
      row('  in guest instructions', counted, 'median', 'hlt', 'HLT in the module', ['', NS_PER_INSTRUCTION]),
    ];
  });
}

async function demo(clock) {
  const run = promisify(execFile)(process.execPath, [cli, 'demo', 'idle', '--json', '--clock', clock], { maxBuffer: 1 << 24 });
  const { stdout } = await run.catch((error) => error); // a demo that did not hold says what
  const { latency, checks, error } = JSON.parse(stdout.trimEnd().split('\n').at(-1));
  const broken = checks?.filter(({ ok }) => !ok).map(({ name, detail }) => `${name} (${detail})`) ?? [error?.message];
  if (broken.length > 0) throw new Error(`demo idle --clock ${clock}: ${broken.join('; ')}`);
  return latency;
}
