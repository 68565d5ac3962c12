// A guest's process, of whatever VMM: its console is read, and at every console line "@@ NAME WORDS..." a sample of the process is taken.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** /proc/PID/stat counts in these (USER_HZ, fixed at 100 on x86-64). */
const TICKS = 100;
const TAIL = 2000;

/** CPU seconds of a living process, all threads, and of its children that have ended (proc(5): fields 14 to 17). */
function cpuSeconds(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0) / TICKS;
}

/**
 * Runs a guest to its end. Gives its samples in order: { name, words, wall, cpu, ...what the process itself adds in lines "@# JSON" }, times in
 * seconds since the start. `onSample(sample, pid)` is called at each. Rejects when it fails, or takes longer than `timeout` seconds.
 */
export function runGuest({ command, args }, { timeout = 240, onSample = () => {} } = {}) {
  const started = performance.now();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const samples = [];
  let pending = '';
  let tail = '';
  const line = (text) => {
    const [mark, name, ...words] = text.trim().split(' ');
    if (mark === '@#') Object.assign(samples.at(-1), JSON.parse(text.slice(3)));
    if (mark !== '@@') return;
    const sample = { name, words, wall: (performance.now() - started) / 1000, cpu: cpuSeconds(child.pid) };
    samples.push(sample);
    onSample(sample, child.pid);
  };
  child.stdout.on('data', (chunk) => {
    tail = (tail + chunk).slice(-TAIL);
    const lines = (pending + chunk).split('\n');
    pending = lines.pop();
    lines.forEach(line);
  });
  child.stderr.on('data', (chunk) => {
    tail = (tail + chunk).slice(-TAIL);
  });
  return new Promise((resolve, reject) => {
    const limit = setTimeout(() => child.kill('SIGKILL'), timeout * 1000);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(limit);
      if (code === 0) resolve(samples);
      else reject(new Error(`${command} ended with ${signal ?? `code ${code}`}; last lines:\n${tail}`));
    });
  });
}

/** Pairs "@@ begin NAME UPTIME" and "@@ end NAME UPTIME": what each stretch cost. `guest`: seconds by the guest's own clock. */
export function stretches(samples) {
  return samples.flatMap((begin, index) => {
    if (begin.name !== 'begin') return [];
    const end = samples.slice(index).find(({ name, words }) => name === 'end' && words[0] === begin.words[0]);
    if (!end) return [];
    const numbers = Object.keys(end).filter((key) => typeof end[key] === 'number' && typeof begin[key] === 'number');
    const differences = Object.fromEntries(numbers.map((key) => [key, end[key] - begin[key]]));
    return [{ ...differences, name: begin.words[0], guest: Number(end.words[1]) - Number(begin.words[1]) }];
  });
}
