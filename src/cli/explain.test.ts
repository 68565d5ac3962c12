import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { ENDINGS, REFUSALS, VIOLATIONS } from '../monitor/reasons.ts';
import { EVENTS } from '../vm/event-words.ts';
import { ADVICE } from './advice.ts';
import { WORDS } from './explain.ts';

const advised = Object.keys({ ...REFUSALS, ...VIOLATIONS, ...ENDINGS });

test.each(Object.entries(ADVICE))('%s says what to look at', (_, advice) => {
  expect(advice.length).toBeGreaterThan(15);
});

test('advice is given for every reason and nothing else', () => {
  expect(Object.keys(ADVICE).sort()).toEqual([...advised].sort());
});

test('every word has a meaning, and none has two', () => {
  const words = Object.values(WORDS).flatMap((table) => Object.keys(table));
  expect(words.filter((word, index) => words.indexOf(word) !== index)).toEqual([]);
  for (const table of Object.values(WORDS)) for (const meaning of Object.values(table)) expect(meaning.length).toBeGreaterThan(20);
});

test('docs/events.md has every event with its meaning', () => {
  const page = readFileSync(fileURLToPath(new URL('../../docs/events.md', import.meta.url)), 'utf8');
  for (const [event, meaning] of Object.entries(EVENTS)) expect(page).toContain(`| \`${event}\` | ${meaning} |`);
});
