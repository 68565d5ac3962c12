/** The judge of `demo idle`: it passes what a run that held says, and nothing less. */
import { expect, test } from 'vitest';
import { IDLE_PROBES, IDLE_SAMPLES, WAITS, WAKE_KINDS } from '../guest/idle-script.ts';
import { DemoTranscript } from './demo-transcript.ts';
import { idleSummary, judgeIdle } from './idle-report.ts';
import type { Ended } from './supervise.ts';

const NS = { unguarded: 2000, hlt: 4000, mwait: 1000 };
const change = (event: string, time: number, cpu = 1) => ({
  event,
  time,
  cpu,
  module: 'idle',
  instance: 1,
  privilege: 'MONITOR and MWAIT',
});

/** What a run that held leaves behind, after `edit` has changed what the guest said. */
function judged(edit: (lines: string[]) => string[] = (lines) => lines, ended: Partial<Ended> = {}) {
  const numbers = (ns: number) =>
    Array(IDLE_SAMPLES / 3)
      .fill(ns)
      .join(' ');
  const lines = [
    '@@ value kernel 6.1.0',
    '@@ value plain loaded',
    '@@ value loaded yes',
    '@@ value driver portcullis',
    ...WAITS.flatMap((wait) =>
      WAKE_KINDS.flatMap((kind) =>
        [0, 1, 2, 3].map((round) => `@@ value latency ${wait} ${round} ${kind} ${numbers(round === 0 ? 1e6 : NS[wait])}`),
      ),
    ),
    '@@ value switch alone 0 70',
    '@@ value switch shared 60 0',
    '@@ value switch stale 61 0',
    '@@ value switch again 0 72',
    '@@ value tried 100',
    ...Array.from({ length: IDLE_PROBES + 1 }, (_, index) => `@@ probe before: probe ${index} 6 6`),
    '@@ value unloaded yes',
    '@@ value bugs 0',
    '@@ stage done',
  ];
  const transcript = new DemoTranscript(() => {});
  for (const line of edit(lines)) transcript.add(Buffer.from(`${line}\r\n`));
  const report = {
    cpus: [{ refusedWaits: 0 }, { refusedWaits: 5 }],
    crossings: { callIn: 9, returnOut: 9, callOut: 1, returnIn: 1, eventOut: 4, resume: 4 },
    refusals: [],
  };
  const events = [
    change('privilege.raised', 1e9, 0),
    change('privilege.raised', 1e9),
    change('privilege.lowered', 2e9),
    change('privilege.raised', 3e9),
  ];
  const whole = { exit: 'ok', code: 0, outcome: { kind: 'off' }, report, events, ...ended } as unknown as Ended;
  return { result: judgeIdle({ release: '6.1.0', transcript, ended: whole }), ended: whole };
}
const broken = (...parameters: Parameters<typeof judged>) => judged(...parameters).result.checks.filter(({ ok }) => !ok);
const replaced = (from: string, to: string) => (lines: string[]) => lines.map((line) => line.replace(from, to));

test('a run that held', () => {
  const { result, ended } = judged();
  expect(result.checks.filter(({ ok }) => !ok)).toEqual([]);
  expect(result.latency.mwait.store).toEqual({ samples: IDLE_SAMPLES, median: 1000, p99: 1000 }); // without the first round
  expect(result.ratio).toEqual({ store: 4, ipi: 4, thread: 4 });
  expect(result.switches.map(({ when, event, time }) => [when, event, time])).toEqual([
    ['alone', 'privilege.raised', 1e9],
    ['shared', 'privilege.lowered', 2e9],
    ['stale', '', 0],
    ['again', 'privilege.raised', 3e9],
  ]);
  expect(idleSummary(result, ended)).toContain('All held.');
});

test.each<[string, (lines: string[]) => string[], RegExp]>([
  ['a probe that found something', replaced('probe 3 6 6', 'probe 3 6 256'), /nobody else/],
  ['a probe that is missing', (lines) => lines.filter((line) => !line.includes('probe 3 ')), /nobody else/],
  ['MWAIT on a shared core', replaced('shared 60 0', 'shared 60 1'), /used MWAIT while/],
  ['HLT on a core of its own', replaced('again 0 72', 'again 72 0'), /used MWAIT while/],
  ['a change that is missing', (lines) => lines.filter((line) => !line.includes('switch again')), /used MWAIT while/],
  ['a CPU that did not come', replaced('latency hlt 2 ipi 4000', 'latency hlt 2 ipi 0'), /every wake-up/],
  ['a guest that stopped early', (lines) => lines.slice(0, -1), /finished/],
  ['another idle driver', replaced('driver portcullis', 'driver none'), /idle driver/],
  ['a complaint of the kernel', replaced('bugs 0', 'bugs 1'), /no error/],
])('%s does not pass', (_, edit, name) => {
  expect(broken(edit).map((check) => check.name)).toEqual([expect.stringMatching(name)]);
});

test('an audit stream that does not tell of the changes does not pass', () => {
  expect(broken(undefined, { events: [] }).map(({ name }) => name)).toEqual([expect.stringMatching(/used MWAIT while/)]);
});
