// The soak: a guest under guarded traffic for as long as wanted, while its driver is unloaded and loaded, its CPUs go and come, its cables are pulled, the
// far end of a card is killed, the event log's disk fills up and the console's reader stalls. Afterwards: was every byte, event and crossing accounted for,
// and is the process as large as before?
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { residentOverGuest } from '../../bench/resident.mjs';
import { readChain } from '../../dist/cli/audit.js';
import { contentSha256 } from '../../dist/net/peer/content.js';
import { soakScript } from './guest-script.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const CLI = here('../../dist/cli/main.js');
const MIB = 2 ** 20;
const MEMORY_MIB = 160;
const CPUS = 4;
const CORES = 2;
const CARDS = ['0000:00:03.0', '0000:00:04.0'];
const SAMPLE_MS = 2000;
/** A soak of this many minutes is long enough to ask that memory stays within the first share; in a shorter one the warm-up, some 15 minutes, is too much of it. */
const LONG_MINUTES = 30;
const GROWTH = { long: 0.05, short: 0.5 };
/** What the host does next comes after this long, ms. */
const FAULT_EVERY_MS = [1000, 5000];
const QUIET_END = 0.95;

/** Numbers drawn from a seed (mulberry32). */
function generator(seed) {
  let state = seed >>> 0;
  return (most) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % most;
  };
}

/** A file system of its own needs root; without it the disk never fills. */
function canMount() {
  return spawnSync('unshare', ['-m', 'sh', '-c', 'mount -t tmpfs none /mnt'], { stdio: 'ignore' }).status === 0;
}

function prepare(folder) {
  const run = (...args) => {
    const { status, stderr } = spawnSync(process.execPath, [CLI, ...args], { cwd: folder, encoding: 'utf8' });
    if (status !== 0) throw new Error(`portcullis ${args.join(' ')}: ${stderr}`);
  };
  run('keygen', 'admin');
  run('link', 'e1000');
  const privileges = CARDS.flatMap((device) => ['--privilege', `pci-device,device=${device},vendor=8086,product=100e`]);
  run(
    ...['grant', '--manifest', 'e1000.guarded.ko.manifest.json', '--key', 'admin.key', '--vm', 'soak', '--output', 'grant.json'],
    ...privileges,
  );
}

/**
 * Runs it. `seconds`: of the guest's time. `progress`: gets an object now and then. Gives { ok, checks: [{ name, ok, detail }], ... }. Rejects when the
 * soak itself cannot run.
 */
export async function soak({ seconds, seed, progress = () => {} }) {
  const folder = mkdtempSync(join(tmpdir(), 'soak-'));
  try {
    return await soakIn(folder, { seconds, seed, progress });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function soakIn(folder, { seconds, seed, progress }) {
  prepare(folder);
  const long = seconds >= LONG_MINUTES * 60;
  const disk = join(folder, 'disk');
  mkdirSync(disk);
  const start = join(folder, 'start.sh');
  writeFileSync(start, soakScript({ seconds, seed: (seed ^ 0x5eed) & 0x7fffffff, largest: long ? 60 : 20 }));
  const socket = join(folder, 'far-end.sock');
  const log = join(folder, 'events.ndjson');
  const fillable = canMount();
  const options = {
    disk,
    copy: log,
    flags: {
      name: 'soak',
      cpus: CPUS,
      cores: CORES,
      memory: `${MEMORY_MIB}M`,
      append: 'quiet',
      net: ['peer', `stream:listen:unix:${socket}`],
      module: [join(folder, 'e1000.guarded.ko')],
      grant: [join(folder, 'grant.json')],
      trust: [join(folder, 'admin.pub')],
      start,
      events: join(disk, 'events.ndjson'),
      eventsLost: 'hold',
      watch: true,
      log: 'error',
    },
  };
  const program = [process.execPath, here('./machine.mjs'), JSON.stringify(options)];
  const command = fillable ? ['unshare', '-m', 'sh', '-c', `mount -t tmpfs -o size=64M none '${disk}' && exec "$@"`, 'sh', ...program] : program;
  const machine = spawn(command[0], command.slice(1), { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
  const counts = { downloads: 0, bytes: 0, wrong: 0, apart: 0, cut: 0, retries: {}, rounds: 0, faults: {}, actions: {} };
  const complaints = [];
  const samples = [];
  let done;
  let result;
  let errors = '';
  const timers = new Set();
  const started = Date.now();
  const elapsed = () => (Date.now() - started) / 1000;

  const said = {
    sum([bytes, number, sum]) {
      counts.downloads += 1;
      counts.bytes += Number(bytes);
      if (sum === contentSha256(Number(bytes), Number(number))) return;
      counts.wrong += 1;
      complaints.push(`download of ${bytes} bytes, number ${number}: ${sum}`);
    },
    apart([bytes, number, size, sum]) {
      if (bytes !== size) return said.cut();
      counts.apart += 1;
      counts.bytes += Number(bytes);
      if (sum === contentSha256(Number(bytes), Number(number))) return;
      counts.wrong += 1;
      complaints.push(`download of ${bytes} bytes, number ${number}, through the second card: ${sum}`);
    },
    retry(words) {
      const why = words.join(' ').replace(/^wget: /, '') || 'no word';
      counts.retries[why] = (counts.retries[why] ?? 0) + 1;
    },
    cut() {
      counts.cut += 1;
    },
    do([action]) {
      counts.actions[action] = (counts.actions[action] ?? 0) + 1;
    },
    bad: (words) => complaints.push(`the guest could not do: ${words.join(' ')}`),
    kernel: (words) => complaints.push(`the guest's kernel: ${words.join(' ')}`),
    round([number]) {
      counts.rounds = Number(number);
    },
    done([rounds, loads]) {
      done = { rounds: Number(rounds), loads: Number(loads) };
    },
  };
  let pending = '';
  let tail = '';
  machine.stdout.on('data', (chunk) => {
    tail = (tail + chunk).slice(-4000);
    const lines = (pending + chunk).replaceAll('\r', '').split('\n');
    pending = lines.pop();
    for (const line of lines) {
      const [mark, name, ...words] = line.trim().split(' ');
      if (mark === '@@') said[name]?.(words);
    }
  });
  machine.stderr.on('data', (chunk) => {
    errors = (errors + chunk).slice(-20_000);
  });

  /** The far end of the second card. */
  let farEnd;
  let leaving = false;
  const startFarEnd = () => {
    if (!leaving) farEnd = spawn(process.execPath, [here('./far-end.mjs'), socket], { stdio: 'ignore' });
  };
  const later = (ms, action) => {
    const timer = setTimeout(() => {
      timers.delete(timer);
      action();
    }, ms);
    timers.add(timer);
  };
  const tell = (message) => machine.connected && machine.send(message);
  const random = generator(seed);
  const faults = {
    'link-flap': () => {
      const card = random(2);
      tell({ do: 'link', card, up: false });
      later(100 + random(2500), () => tell({ do: 'link', card, up: true }));
    },
    'far-end-killed': () => {
      farEnd.kill('SIGKILL');
      later(random(1500), startFarEnd);
    },
    'far-end-stalled': () => {
      const stalled = farEnd;
      stalled.kill('SIGSTOP');
      later(500 + random(2000), () => stalled.kill('SIGCONT'));
    },
    'console-stalled': () => tell({ do: 'slow', ms: 200 + random(1500) }),
    ...(fillable && {
      'disk-full': () => {
        tell({ do: 'fill' });
        later(200 + random(1500), () => tell({ do: 'free' }));
      },
    }),
  };
  /** Each kind once, in an order that is drawn anew each time. */
  let turn = [];
  const next = () => {
    if (turn.length === 0) turn = Object.keys(faults);
    return turn.splice(random(turn.length), 1)[0];
  };
  const breakSomething = () => {
    // The last stretch is quiet, so that the end is an end of work and not of a fault.
    if (elapsed() > seconds * QUIET_END) return;
    const name = next();
    counts.faults[name] = (counts.faults[name] ?? 0) + 1;
    faults[name]();
    later(FAULT_EVERY_MS[0] + random(FAULT_EVERY_MS[1] - FAULT_EVERY_MS[0]), breakSomething);
  };
  const sample = () => {
    try {
      const { own, guest, beside } = residentOverGuest(machine.pid, MEMORY_MIB * MIB, CPUS);
      samples.push({ at: elapsed(), own, guest, beside });
      progress({ seconds: Math.round(elapsed()), own, guest, beside, ...counts });
    } catch {
      // It has just ended.
    }
    later(SAMPLE_MS, sample);
  };
  machine.on('message', (message) => {
    if (message.running) {
      startFarEnd();
      later(5000, breakSomething);
      later(8000, sample);
    } else result = message;
  });
  const code = await new Promise((resolve, reject) => {
    machine.on('error', reject);
    machine.on('close', (status, signal) => resolve(signal ?? status));
  });
  leaving = true;
  for (const timer of timers) clearTimeout(timer);
  farEnd?.kill('SIGKILL');
  if (result === undefined) throw new Error(`the machine ended with ${code} and no result\n${errors}\n${tail}`);
  return judge({ seed, long, result, counts, complaints, samples, done, fillable, log, errors, tail });
}

function judge({ seed, long, result, counts, complaints, samples, done, fillable, log, errors, tail }) {
  const { outcome, eventsLost, report } = result;
  const chain = readChain(log);
  const events = readFileSync(log, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line));
  const count = (name) => events.filter(({ event }) => event === name).length;
  const suppressed = events.reduce((sum, event) => sum + (event.suppressed ?? 0), 0);
  const { callIn, returnOut, callOut, returnIn, eventOut, resume } = report.crossings;
  const memory = growth(samples);
  const limit = long ? GROWTH.long : GROWTH.short;
  const checks = [];
  const check = (name, ok, detail) => checks.push({ name, ok, detail });
  check('the guest did its rounds and powered off', outcome.kind === 'off' && done?.rounds > 0, `${outcome.kind}, ${done?.rounds ?? 0} rounds`);
  check('every download through the first card arrived whole', counts.wrong === 0 && counts.downloads > 0, `${counts.downloads} downloads, ${counts.wrong} wrong; tried again: ${JSON.stringify(counts.retries)}`);
  check('downloads through the second card arrived whole, or were cut by its far end', counts.apart > 0, `${counts.apart} whole, ${counts.cut} cut`);
  check('the guest reported nothing', complaints.length === 0, complaints.slice(0, 10).join('; ') || 'nothing');
  check('no violation, no refusal', report.refusals.length === 0 && count('guard.violation') === 0, JSON.stringify(report.refusals));
  check(
    'no crossing is open',
    callIn === returnOut && callOut === returnIn && eventOut === resume && callIn > 0,
    `${callIn}/${returnOut} in, ${callOut}/${returnIn} out, ${eventOut}/${resume} events`,
  );
  check('the event log is whole', chain.findings.length === 0 && chain.ended, `${chain.events} events; ${chain.findings.map(({ line, problem }) => `line ${line} ${problem}`).join('; ') || 'no finding'}`);
  check('no event was lost', eventsLost === 0 && chain.events === report.events && suppressed === 0, `${report.events} sent, ${chain.events} in the log, ${suppressed} held back`);
  check('each load and unload is in the log', count('module.live') === done?.loads && count('module.ended') === done?.loads, `${done?.loads} loads, ${count('module.live')} live, ${count('module.ended')} ended`);
  check(
    `memory of the process, beside the engine's fixed memory, is flat within ${limit * 100} %`,
    memory !== undefined && memory.growth <= limit,
    memory ? `${(memory.early / MIB).toFixed(1)} MiB, later ${(memory.late / MIB).toFixed(1)} MiB beside the engine's memory: ${(100 * memory.growth).toFixed(1)} %` : 'too short',
  );
  check('every fault was tried', Object.keys(counts.faults).length === (fillable ? 5 : 4), JSON.stringify(counts.faults));
  const ok = checks.every((entry) => entry.ok);
  return {
    ok,
    seed,
    checks,
    guestSeconds: report.seconds,
    instructions: report.instructions,
    crossings: report.crossings,
    diskFull: fillable,
    memory,
    ...counts,
    ...(!ok && { errors, tail }),
  };
}

/**
 * Medians of a stretch after the warm-up and of the last one, bytes. V8 compiles and its heaps grow for some ten minutes under this load. Counted is the process beside the engine's memory, which is as large as it was
 * made (decoded code fills it by and by, and then makes room for itself).
 */
function growth(samples) {
  const part = (from, to) => samples.slice(Math.floor(samples.length * from), Math.ceil(samples.length * to)).map(({ beside }) => beside).sort((a, b) => a - b);
  const median = (values) => values[Math.floor(values.length / 2)];
  if (samples.length < 10) return undefined;
  const [early, late] = [median(part(0.4, 0.6)), median(part(0.8, 1))];
  return { early, late, growth: late / early - 1 };
}
