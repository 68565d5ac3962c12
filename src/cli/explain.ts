/** `portcullis explain WORD`: what a refusal, violation, crossing or event means, and what to look at. */
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { CROSSINGS, ENDINGS, REFUSALS, VIOLATIONS } from '../monitor/reasons.ts';
import { EVENTS } from '../vm/event-words.ts';
import { ADVICE } from './advice.ts';
import { action } from './command.ts';
import { nearest } from './nearest.ts';
import { columns, printJson } from './output.ts';

const WIDTH = 88;

function wrap(text: string): string {
  const lines = [''];
  for (const word of text.split(' ')) {
    const last = lines[lines.length - 1];
    if (last.length + word.length < WIDTH) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(` ${word}`);
  }
  return lines.map((line) => ` ${line}`).join('\n');
}

/** Everything that logs, events and summaries say in one word. No word is in two tables. */
export const WORDS = { refusal: REFUSALS, violation: VIOLATIONS, ending: ENDINGS, crossing: CROSSINGS, event: EVENTS } as const;

export function addExplainCommand(program: Command): void {
  const command = program
    .command('explain')
    .argument('[word]', 'a word from a log line, an event or a summary')
    .description('what a refusal, violation, ending, crossing or event means; without a word: all of them')
    .addHelpText('after', '\nExamples:\n  portcullis explain text-differs\n  portcullis explain module.quarantined\n');
  action(command, ({ json }, word: string | undefined) => {
    const entries = Object.entries(WORDS).flatMap(([kind, table]) => Object.entries(table).map(([name, text]) => [kind, name, text]));
    if (word === undefined) {
      if (json) printJson(WORDS);
      else console.log(columns(entries));
      return 0;
    }
    const text = entries.find(([, name]) => name === word)?.[2];
    if (text === undefined) {
      const near = nearest(
        word,
        entries.map(([, name]) => name),
      );
      throw new UserError(`no such word: ${word}`, `${near ? `Did you mean ${near}? ` : ''}portcullis explain lists them all`);
    }
    const advice = Object.hasOwn(ADVICE, word) ? ADVICE[word as keyof typeof ADVICE] : undefined;
    if (json) printJson({ word, text, advice });
    else console.log([`${word}: ${text}`, ...(advice === undefined ? [] : [wrap(advice)])].join('\n'));
    return 0;
  });
}
