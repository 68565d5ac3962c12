/** Judges the idle module's demo: what it waited with, how fast the CPU woke, and whether anybody else could do the same. */
import { IDLE_CPU, IDLE_PROBES, IDLE_SAMPLES, WAITS, WAKE_KINDS } from '../guest/idle-script.ts';
import type { DemoTranscript, Probe } from './demo-transcript.ts';
import { columns, indent, mark, styled, title } from './output.ts';
import type { Ended } from './supervise.ts';

type Wait = (typeof WAITS)[number];
type WakeKind = (typeof WAKE_KINDS)[number];

/** ns. */
export interface Latency {
  samples: number;
  median: number;
  p99: number;
}

/** How the CPU idled after something changed: idle periods of each kind. `event`: what the audit stream said of it, and when (ns). */
export interface Switch {
  when: string;
  cpu: number;
  hlt: number;
  mwait: number;
  event: string;
  time: number;
  ok: boolean;
}

export interface IdleResult {
  ok: boolean;
  kernel: string;
  latency: Record<Wait, Record<WakeKind, Latency>>;
  /** Median with HLT in the module over that with MWAIT. */
  ratio: Record<WakeKind, number>;
  switches: Switch[];
  probes: Probe[];
  /** MWAITs refused because the module guessed. */
  refusedWaits: number;
  crossings: Record<string, number>;
  checks: { name: string; ok: boolean; detail: string }[];
}

export interface IdleEvidence {
  release: string;
  transcript: DemoTranscript;
  ended: Ended;
}

const KINDS_TEXT: Record<WakeKind, string> = {
  store: 'the kernel wants the CPU: a store, and with HLT an interrupt',
  ipi: 'an interrupt from another CPU',
  thread: 'a thread is woken, to its first instruction',
};
const WAITS_TEXT: Record<Wait, string> = { unguarded: "kernel's HLT", hlt: 'HLT', mwait: 'MWAIT' };
const CELL = 15;

export function judgeIdle({ release, transcript, ended }: IdleEvidence): IdleResult {
  const { report, events } = ended;
  const samples = readSamples(transcript.values.get('latency') ?? []);
  const each = <Value>(names: readonly string[], value: (name: string) => Value) =>
    Object.fromEntries(names.map((name) => [name, value(name)]));
  const latency = each(WAITS, (wait) =>
    each(WAKE_KINDS, (kind) => latencyOf(samples.get(`${wait} ${kind}`) ?? [])),
  ) as IdleResult['latency'];
  const ratio = each(WAKE_KINDS, (kind) => {
    const value = latency.hlt[kind as WakeKind].median / latency.mwait[kind as WakeKind].median;
    return Number.isFinite(value) ? Math.round(100 * value) / 100 : 0;
  }) as IdleResult['ratio'];
  const changes = events.flatMap((event) =>
    (event.event === 'privilege.raised' || event.event === 'privilege.lowered') && event.cpu === IDLE_CPU ? [event] : [],
  );
  // One change for each of the three; a module that guesses changes nothing.
  const switches = (transcript.values.get('switch') ?? []).map((text, index): Switch => {
    const [when, hlt, mwait] = text.split(' ');
    const change = when === 'stale' ? undefined : changes[when === 'again' ? 2 : index];
    const waits = when === 'alone' || when === 'again';
    const [used, unused, event] = waits ? [Number(mwait), Number(hlt), 'raised'] : [Number(hlt), Number(mwait), 'lowered'];
    return {
      when,
      cpu: IDLE_CPU,
      hlt: Number(hlt),
      mwait: Number(mwait),
      event: change?.event ?? '',
      time: change?.time ?? 0,
      ok: used > 0 && unused === 0 && (when === 'stale' || change?.event === `privilege.${event}`),
    };
  });
  const { probes } = transcript;
  const { crossings } = report;
  const refusedWaits = report.cpus.reduce((sum, cpu) => sum + cpu.refusedWaits, 0);
  const tried = Number(transcript.value('tried') ?? 0);
  const counts = WAITS.flatMap((wait) => WAKE_KINDS.map((kind) => latency[wait][kind].samples));
  const check = (name: string, ok: boolean, detail = '') => ({ name, ok, detail });
  const checks = [
    check('the guest finished and powered off', ended.exit === 'ok' && transcript.stages.at(-1)?.name === 'done', ended.exit),
    check(
      "the module became the kernel's idle driver, and was unloaded",
      transcript.value('driver') === 'portcullis' && ['loaded', 'unloaded'].every((name) => transcript.value(name) === 'yes'),
      transcript.value('driver') ?? '',
    ),
    check('it loads on its own too, and halts', transcript.value('plain') === 'loaded', transcript.value('plain') ?? ''),
    check(
      'every wake-up was measured',
      counts.every((count) => count === IDLE_SAMPLES),
      `${counts.reduce((sum, count) => sum + count, 0)} samples`,
    ),
    check(
      `CPU ${IDLE_CPU} used MWAIT while it was alone on its core, and HLT while it was not`,
      switches.length === 4 && switches.every(({ ok }) => ok),
      switches.map(({ hlt, mwait }) => `${hlt}/${mwait}`).join(' '),
    ),
    check('a module that guesses is refused, and the kernel lives on', refusedWaits > 0, `${refusedWaits} refusals`),
    check(
      'nobody else could use the instructions',
      probes.length === IDLE_PROBES + 1 && probes.every(({ ok }) => ok),
      `${probes.filter(({ ok }) => ok).length} of ${probes.length}`,
    ),
    check('interrupts arrived in the module and tried', tried > 0 && crossings.eventOut > 0, `${crossings.eventOut} interrupts`),
    check('no crossing was left open', crossings.callIn === crossings.returnOut && crossings.eventOut === crossings.resume),
    check('nothing was refused at the border', report.refusals.length === 0, report.refusals.map(({ reason }) => reason).join(', ')),
    check('the guest kernel reported no error', transcript.value('bugs') === '0', `${transcript.value('bugs') ?? '?'} reports`),
  ];
  return {
    ok: checks.every(({ ok }) => ok),
    kernel: transcript.value('kernel') ?? release,
    latency,
    ratio,
    switches,
    probes,
    refusedWaits,
    crossings: { ...crossings },
    checks,
  };
}

/** "WAIT ROUND KIND NS NS ...", as the guest says it. Round 0 is for warming up; 0 ns: the CPU did not come. */
function readSamples(lines: readonly string[]): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const line of lines) {
    const [wait, round, kind, ...numbers] = line.split(' ');
    if (round === '0') continue;
    const values = numbers.map(Number).filter((value) => Number.isInteger(value) && value > 0);
    found.set(`${wait} ${kind}`, [...(found.get(`${wait} ${kind}`) ?? []), ...values]);
  }
  return found;
}

function latencyOf(samples: number[]): Latency {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (part: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0;
  return { samples: sorted.length, median: at(0.5), p99: at(0.99) };
}

export function idleSummary(result: IdleResult, ended: Ended): string {
  const cell = ({ median, p99 }: Latency) => [median, p99].map((ns) => (ns / 1000).toFixed(1).padStart(7)).join(' ');
  return [
    title(`Wake-up latency of CPU ${IDLE_CPU}, us: median and p99 of ${IDLE_SAMPLES}, kernel ${result.kernel}`),
    indent(
      columns([
        ['', ...WAITS.map((wait) => WAITS_TEXT[wait].padStart(CELL)), 'HLT : MWAIT'],
        ...WAKE_KINDS.map((kind) => [
          KINDS_TEXT[kind],
          ...WAITS.map((wait) => cell(result.latency[wait][kind]).padStart(CELL)),
          `${result.ratio[kind].toFixed(1)} : 1`.padStart(11),
        ]),
      ]),
    ),
    title(`What CPU ${IDLE_CPU} idled with`),
    indent(
      columns([
        ['', 'when', 'HLT', 'MWAIT', 'audit stream'],
        ...result.switches.map(({ ok, when, hlt, mwait, event, time }) => [
          mark(ok),
          SWITCHES_TEXT[when] ?? when,
          String(hlt),
          String(mwait),
          event === '' ? '' : `${event} at ${(time / 1e9).toFixed(1)} s`,
        ]),
      ]),
    ),
    title('MONITOR and MWAIT tried by kernel code and user space, asked of CPUID and IA32_MISC_ENABLE'),
    indent(
      columns([
        ...[...new Set(result.probes.map(whenOf))].map((when) => {
          const probes = result.probes.filter((probe) => whenOf(probe) === when);
          const held = probes.filter(({ ok }) => ok).length;
          return [mark(held === probes.length), when, `${held} of ${probes.length} gave nothing`];
        }),
        ...result.probes.filter(({ ok }) => !ok).map(({ name, expected, got }) => [mark(false), name, `expected ${expected}, got ${got}`]),
      ]),
    ),
    title('Verdict'),
    indent(columns(result.checks.map((entry) => [mark(entry.ok), entry.name, entry.detail]))),
    `\n${result.ok ? styled('green', 'All held.') : styled('red', 'Something did not hold.')}${ended.exit === 'ok' ? '' : ` The machine ended: ${ended.exit}.`}`,
  ].join('\n');
}

const whenOf = ({ name }: Probe) => name.split(': ')[0];

const SWITCHES_TEXT: Record<string, string> = {
  alone: 'alone on its core',
  shared: 'another CPU has come to the core',
  stale: 'the same, and the module guesses that it may wait',
  again: 'the other has gone',
};
