// How fast an idle virtual CPU wakes, with MWAIT and with HLT: one run of `portcullis demo idle`, which measures both in turns in one guest.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const title = 'Wake-up of an idle CPU, with MWAIT in a guarded module';
const cli = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const WHAT = {
  store: 'the kernel wants the CPU, to its first instruction',
  ipi: 'an interrupt from another CPU, to its first instruction',
  thread: 'a thread is woken, to its first instruction',
};

export async function measure() {
  const { stdout } = await promisify(execFile)(process.execPath, [cli, 'demo', 'idle', '--json'], { maxBuffer: 1 << 24 });
  const { latency, ok } = JSON.parse(stdout.trimEnd().split('\n').at(-1));
  if (!ok) throw new Error('demo idle did not hold');
  return Object.keys(WHAT).flatMap((kind) => {
    const row = (what, key, baseline, name) => {
      const [value, other] = [latency.mwait[kind][key] / 1000, latency[baseline][kind][key] / 1000];
      return { what, value, unit: 'us', beside: { name, value: other }, ratio: other / value };
    };
    return [
      row(`${WHAT[kind]}: median`, 'median', 'hlt', 'HLT in the module'),
      row('  ', 'median', 'unguarded', "the kernel's own HLT"),
      row('  99 of 100', 'p99', 'hlt', 'HLT in the module'),
    ];
  });
}
