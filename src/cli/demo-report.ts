/** Judges the demo: what the guest saw, what the monitor counted, and whether both are what was promised. */
import { DEMO_PROBES } from '../guest/demo-script.ts';
import type { StockKernel } from '../guest/fetch.ts';
import type { VmReport } from '../vm/config.ts';
import type { DemoTranscript, Probe } from './demo-transcript.ts';
import { columns, indent, mark, styled, title } from './output.ts';
import type { Ended } from './supervise.ts';

export interface DemoResult {
  ok: boolean;
  kernel: string;
  engine: string;
  /** Host seconds from the machine's start to the first line of its init. */
  bootSeconds: number;
  /** Host seconds from the machine's start to its end. */
  totalSeconds: number;
  instructions: number;
  crossings: Record<string, number>;
  crossingsPerPacket: number;
  callOuts: VmReport['callOuts'];
  packets: { rx: number; tx: number };
  download: { bytes: number; sha256: string; ok: boolean; seconds: number };
  probes: Probe[];
  refusals: VmReport['refusals'];
  refusedAccesses: VmReport['refusedAccesses'];
  checks: { name: string; ok: boolean; detail: string }[];
}

export interface DemoEvidence {
  kernel: StockKernel;
  engine: string;
  transcript: DemoTranscript;
  ended: Ended;
  bytes: number;
  expected: string;
  startedAt?: number;
}

const CROSSING_KINDS = ['callIn', 'returnOut', 'callOut', 'returnIn', 'eventOut', 'resume'] as const;

export function judge({ kernel, engine, transcript, ended, bytes, expected }: DemoEvidence): DemoResult {
  const { report } = ended;
  const stage = (name: string) => transcript.stages.find((entry) => entry.name === name)?.time ?? Number.NaN;
  const seconds = (from: number, to: number) => Math.round(to - from) / 1000;
  const sha256 = (transcript.value('sha256') ?? '').split(' ')[0];
  const card = report.cards[0] ?? { rxPackets: 0, txPackets: 0 };
  const packets = { rx: card.rxPackets, tx: card.txPackets };
  const crossings = Object.fromEntries(CROSSING_KINDS.map((kind) => [kind, report.crossings[kind] ?? 0]));
  const total = Object.values(crossings).reduce((sum, count) => sum + count, 0);
  const pings = transcript.values.get('ping') ?? [];
  const ticks = Number(transcript.value('ticks') ?? 0);
  const check = (name: string, ok: boolean, detail: string) => ({ name, ok, detail });
  const refusalReasons = report.refusals.map((refusal) => `${refusal.module}: ${refusal.reason}`);
  const checks = [
    check('the guest finished and powered off', ended.exit === 'ok' && transcript.stages.at(-1)?.name === 'done', ended.exit),
    check(
      'the guarded driver was loaded, unloaded and loaded again',
      ['loaded', 'unloaded', 'reloaded'].every((name) => transcript.value(name) === 'yes'),
      `${['loaded', 'unloaded', 'reloaded'].filter((name) => transcript.value(name) === 'yes').join(', ')}`,
    ),
    check(
      'DHCP gave an address, both times',
      (transcript.values.get('address') ?? []).filter((text) => /^10\./.test(text)).length === 2,
      (transcript.values.get('address') ?? []).join(', '),
    ),
    check('the peer answered every ping', pings.length === 2 && pings.every((text) => / 0% packet loss/.test(text)), pings.join('; ')),
    check('the download arrived whole', sha256 === expected, sha256),
    check(
      'every probe from outside got nothing',
      transcript.probes.length === DEMO_PROBES && transcript.probes.every((probe) => probe.ok),
      `${transcript.probes.filter((probe) => probe.ok).length} of ${transcript.probes.length}`,
    ),
    check(
      'interrupts that arrived in the driver found the privilege gone',
      report.refusedAccesses.interrupted > 0 && crossings.eventOut > 0 && ticks > 0,
      `${crossings.eventOut} interrupts in the driver, ${report.refusedAccesses.interrupted} of them probed the card`,
    ),
    check('the module without a grant was refused', refusalReasons.includes('e1000e: no-grant'), refusalReasons.join(', ')),
    check('the module with a byte changed was refused', refusalReasons.includes('e1000: text-differs'), refusalReasons.join(', ')),
    check(
      'no crossing was left open',
      crossings.callIn === crossings.returnOut && crossings.callOut === crossings.returnIn && crossings.eventOut === crossings.resume,
      '',
    ),
    check('the guest kernel reported no error', transcript.value('bugs') === '0', `${transcript.value('bugs') ?? '?'} reports`),
  ];
  return {
    ok: checks.every((entry) => entry.ok),
    kernel: transcript.value('kernel') ?? kernel.release,
    engine,
    bootSeconds: seconds(transcript.started, stage('init')),
    totalSeconds: seconds(transcript.started, transcript.now()),
    instructions: report.instructions,
    crossings,
    crossingsPerPacket: packets.rx + packets.tx === 0 ? 0 : Math.round((10 * total) / (packets.rx + packets.tx)) / 10,
    callOuts: report.callOuts.slice(0, 8),
    packets,
    download: { bytes, sha256, ok: sha256 === expected, seconds: seconds(stage('download'), stage('unload')) },
    probes: transcript.probes,
    refusals: report.refusals,
    refusedAccesses: report.refusedAccesses,
    checks,
  };
}

export function summary(result: DemoResult, ended: Ended): string {
  const count = (value: number) => value.toLocaleString('en');
  return [
    title(`Kernel ${result.kernel} on the ${result.engine} engine`),
    indent(
      columns([
        ['boot to init', `${result.bootSeconds.toFixed(1)} s`],
        ['whole run', `${result.totalSeconds.toFixed(1)} s, ${count(result.instructions)} guest instructions`],
        ['packets', `${count(result.packets.rx)} received, ${count(result.packets.tx)} sent`],
        [
          'download',
          `${(result.download.bytes / 1048576).toFixed(1)} MiB in ${result.download.seconds.toFixed(1)} s, SHA-256 ${result.download.ok ? 'as expected' : 'WRONG'}`,
        ],
      ]),
    ),
    title('Border crossings of the guarded driver'),
    indent(
      columns([
        ...Object.entries(result.crossings).map(([kind, value]) => [kind, count(value)]),
        ['per packet', String(result.crossingsPerPacket)],
      ]),
    ),
    title('Kernel functions it called most'),
    indent(columns(result.callOuts.map(({ symbol, count: value }) => [symbol, count(value)]))),
    title('Probes from outside the module'),
    indent(
      columns(
        result.probes.map((probe) => [mark(probe.ok), probe.name, probe.ok ? probe.got : `expected ${probe.expected}, got ${probe.got}`]),
      ),
    ),
    title('Refused'),
    indent(
      columns([
        ...result.refusals.map((refusal) => [refusal.module, refusal.reason, `${refusal.count} times`, refusal.detail]),
        [
          'the card',
          'outside the module',
          `${count(result.refusedAccesses.reads)} reads, ${count(result.refusedAccesses.writes)} writes`,
          `${count(result.refusedAccesses.interrupted)} while the driver was interrupted`,
        ],
      ]),
    ),
    title('Verdict'),
    indent(columns(result.checks.map((entry) => [mark(entry.ok), entry.name, entry.detail]))),
    `\n${result.ok ? styled('green', 'All held.') : styled('red', 'Something did not hold.')}${ended.exit === 'ok' ? '' : ` The machine ended: ${ended.exit}.`}`,
  ].join('\n');
}
