/** The chained audit log: whatever is done to a line of it is noticed. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type ChainProblem, ChainReader, type ChainReport, ChainWriter } from './audit-chain.ts';

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const EVENTS = Array.from({ length: 5 }, (_, index) => ({ event: 'guard.violation', module: 'e1000', count: index }));

function run(last?: string): string[] {
  const writer = new ChainWriter(last === undefined ? undefined : Buffer.from(last));
  return [writer.start(), ...EVENTS.map((event) => writer.event(event)), writer.end()];
}
function read(lines: readonly string[]): ChainReport {
  const reader = new ChainReader();
  for (const line of lines) reader.line(Buffer.from(line));
  for (const [index, line] of lines.entries()) reader.place(index + 1, Buffer.from(line));
  return reader.report();
}
const holds = (lines: readonly string[]) => {
  const { ended, findings } = read(lines);
  return ended && findings.length === 0;
};

describe('the audit chain', () => {
  test('is JSON of the events, each with the hash of the line before', () => {
    const lines = run();
    expect(JSON.parse(lines[0])).toEqual({ event: 'audit.started', id: expect.stringMatching(/^[0-9a-f]{32}$/) });
    expect(JSON.parse(lines[1])).toEqual({ ...EVENTS[0], previous: sha256(lines[0]) });
    expect(JSON.parse(lines[6])).toEqual({ event: 'audit.ended', events: 5, previous: sha256(lines[5]) });
    expect(run()[0]).not.toBe(lines[0]);
  });

  test('holds as written, also over runs that follow each other', () => {
    const first = run();
    const both = [...first, ...run(first.at(-1))];
    expect(read(both)).toEqual({ lines: 14, runs: 2, events: 10, head: sha256(both[13]), ended: true, findings: [] });
  });

  test.each<[string, (lines: string[]) => string[], number, ChainProblem, string]>([
    ['a changed line', (lines) => lines.with(3, lines[3].replace('e1000', 'e1001')), 5, 'changed', 'that one was changed'],
    ['a removed line', (lines) => lines.toSpliced(3, 1), 4, 'removed', 'were removed; this run lacks 1'],
    ['three removed lines', (lines) => lines.toSpliced(2, 3), 3, 'removed', 'were removed; this run lacks 3'],
    ['two lines that changed places', (lines) => lines.with(2, lines[3]).with(3, lines[2]), 3, 'moved', 'follows line 4'],
    ['a line twice', (lines) => lines.toSpliced(3, 0, lines[3]), 5, 'added', 'or are here twice'],
    ['a cut start', (lines) => lines.slice(1), 1, 'start-missing', 'the start of the log was cut off'],
    ['an added line', (lines) => lines.toSpliced(3, 0, '{"event":"x"}'), 4, 'added', 'carries no hash'],
    ['a space added to the last line', (lines) => lines.with(6, `${lines[6]} `), 7, 'no-event', 'is no event'],
    ['a line that is no JSON', (lines) => lines.with(3, 'x'), 4, 'no-event', 'is no event'],
    [
      'a changed number in the last line',
      (lines) => lines.with(6, lines[6].replace('"events":5', '"events":4')),
      7,
      'added',
      'ends a run of 4 events; 5 are here',
    ],
    [
      'events behind the end',
      (lines) => [...lines, JSON.stringify({ event: 'x', previous: sha256(lines[6]) })],
      8,
      'start-missing',
      'its start is missing',
    ],
  ])('finds %s', (_, change, line, kind, problem) => {
    expect(read(change(run())).findings[0]).toEqual({ line, kind, problem: expect.stringContaining(problem) });
  });

  test('a log of an unfinished run with a gap: what cannot be told apart is said', () => {
    expect(read(run().slice(0, -1).toSpliced(2, 1)).findings).toEqual([
      { line: 3, kind: 'removed', problem: expect.stringContaining('that one was changed, or lines between them were removed') },
    ]);
  });

  test('parts of a log that was split are one chain; one alone has no start; a new log may follow', () => {
    const first = run();
    const parts = (...files: string[][]) => {
      const reader = new ChainReader();
      for (const file of files) {
        reader.file();
        for (const line of file) reader.line(Buffer.from(line));
      }
      return reader.report();
    };
    expect(parts(first.slice(0, 3), first.slice(3))).toMatchObject({ ended: true, findings: [] });
    expect(parts(first.slice(3)).findings[0]).toMatchObject({ line: 1, kind: 'start-missing' });
    expect(parts(first.slice(3), first.slice(0, 3)).findings.length).toBeGreaterThan(1);
    expect(parts(first, run())).toMatchObject({ runs: 2, ended: true, findings: [] });
    expect(parts([...first, ...run()]).findings[0]).toMatchObject({ line: 8, kind: 'added' });
  });

  test('events that the log says it lost are a finding', () => {
    const writer = new ChainWriter();
    const { findings } = read([writer.start(), writer.event({ event: 'audit.lost', count: 12 }), writer.end()]);
    expect(findings).toEqual([{ line: 2, kind: 'lost', problem: expect.stringContaining('12 events were lost') }]);
  });

  test('a cut end is no end; a cut line is said', () => {
    expect(read(run().slice(0, -1))).toMatchObject({ ended: false, findings: [] });
    expect(read([]).ended).toBe(false);
    const reader = new ChainReader();
    reader.line(Buffer.from(run()[0]), false);
    expect(reader.report().findings).toEqual([{ line: 1, kind: 'cut', problem: expect.stringContaining('is cut off') }]);
  });

  test('a run removed from between two others is missed by the next', () => {
    const first = run();
    const second = run(first.at(-1));
    const third = run(second.at(-1));
    expect(holds([...first, ...second, ...third])).toBe(true);
    expect(holds([...first, ...third])).toBe(false);
    expect(holds([...second, ...third])).toBe(false);
  });

  test('any single change of any byte is noticed', () => {
    const lines = run();
    const text = lines.join('\n');
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.integer({ min: 0x20, max: 0x7e }), (at, code) => {
        const changed = text.slice(0, at) + String.fromCharCode(code) + text.slice(at + 1);
        fc.pre(changed !== text);
        expect(holds(changed.split('\n'))).toBe(false);
      }),
    );
  });

  test('hostile lines are no events, never an exception', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.uint8Array(),
            fc.json().map((text) => Buffer.from(text)),
          ),
        ),
        (lines) => {
          const reader = new ChainReader();
          for (const line of lines) reader.line(line);
          expect(reader.report().lines).toBe(lines.length);
          if (lines.length > 0) expect(reader.report().findings.length).toBeGreaterThan(0);
        },
      ),
    );
  });
});
