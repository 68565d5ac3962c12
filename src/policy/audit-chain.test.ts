/** The chained audit log: whatever is done to a line of it is noticed. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ChainReader, type ChainReport, ChainWriter } from './audit-chain.ts';

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const EVENTS = Array.from({ length: 5 }, (_, index) => ({ event: 'guard.violation', module: 'e1000', count: index }));

function run(last?: string): string[] {
  const writer = new ChainWriter(last === undefined ? undefined : Buffer.from(last));
  return [writer.start(), ...EVENTS.map((event) => writer.event(event)), writer.end()];
}
function read(lines: readonly string[]): ChainReport {
  const reader = new ChainReader();
  for (const line of lines) reader.line(Buffer.from(line));
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

  test.each<[string, (lines: string[]) => string[], number, string]>([
    ['a changed line', (lines) => lines.with(3, lines[3].replace('e1000', 'e1001')), 5, 'does not follow'],
    ['a removed line', (lines) => lines.toSpliced(3, 1), 4, 'does not follow'],
    ['two lines that changed places', (lines) => lines.with(2, lines[3]).with(3, lines[2]), 3, 'does not follow'],
    ['a line twice', (lines) => lines.toSpliced(3, 0, lines[3]), 5, 'does not follow'],
    ['a cut start', (lines) => lines.slice(1), 1, 'the start of the log was cut off'],
    ['an added line', (lines) => lines.toSpliced(3, 0, '{"event":"x"}'), 4, 'carries no hash'],
    ['a space added to the last line', (lines) => lines.with(6, `${lines[6]} `), 7, 'is no event'],
    ['a line that is no JSON', (lines) => lines.with(3, 'x'), 4, 'is no event'],
    [
      'a changed number in the last line',
      (lines) => lines.with(6, lines[6].replace('"events":5', '"events":4')),
      7,
      'ends a run of 4 events; 5 are here',
    ],
    ['events behind the end', (lines) => [...lines, JSON.stringify({ event: 'x', previous: sha256(lines[6]) })], 8, 'its start is missing'],
  ])('finds %s', (_, change, line, problem) => {
    expect(read(change(run())).findings[0]).toEqual({ line, problem: expect.stringContaining(problem) });
  });

  test('a cut end is no end; a cut line is said', () => {
    expect(read(run().slice(0, -1))).toMatchObject({ ended: false, findings: [] });
    expect(read([]).ended).toBe(false);
    const reader = new ChainReader();
    reader.line(Buffer.from(run()[0]), false);
    expect(reader.report().findings).toEqual([{ line: 1, problem: 'is cut off' }]);
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
