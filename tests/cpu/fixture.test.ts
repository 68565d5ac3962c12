/** The notation of the fixtures: a line that is read and written again is the same line. Every SAMPLEth line, for the sake of time. */
import { expect, test } from 'vitest';
import { formatCase, formatOutcome, parseLine } from './fixture.ts';
import { fixtureFiles, readGroups } from './fixtures.ts';

const SAMPLE = 20;

test.each(fixtureFiles())('%s reads and writes back the same', (file) => {
  const changed: string[] = [];
  for (const group of readGroups(file)) {
    for (const line of group.lines.filter((_, i) => i % SAMPLE === 0)) {
      const { test: one, expected } = parseLine(line);
      const again = `${formatCase(one)} = ${formatOutcome(one, expected)}`.trimEnd();
      if (again !== line) changed.push(`${line}\n${again}`);
    }
  }
  expect(changed).toEqual([]);
});

test.each(['01d8', '01d8 gi1', '01d8 1 =', '01d8 gi1 zz=1 =', '01d8 gi1 = zz=1'])('refuses %j', (line) => {
  expect(() => parseLine(line)).toThrow(/fixture line/);
});
