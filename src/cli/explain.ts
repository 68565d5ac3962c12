/** `portcullis explain REASON`: what a refusal, violation or crossing means, and what to look at. */
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { CROSSINGS, ENDINGS, explain, REFUSALS, VIOLATIONS } from '../monitor/reasons.ts';
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

export function addExplainCommand(program: Command): void {
  const command = program
    .command('explain')
    .argument('[reason]', 'a word from a log line, an event or a summary')
    .description('what a refusal, violation, ending or crossing means; without a word: all of them')
    .addHelpText('after', '\nExample:\n  portcullis explain text-differs\n');
  action(command, ({ json }, reason: string | undefined) => {
    const tables = { refusal: REFUSALS, violation: VIOLATIONS, ending: ENDINGS, crossing: CROSSINGS };
    if (reason === undefined) {
      if (json) printJson(tables);
      else
        console.log(
          columns(
            Object.entries(tables).flatMap(([kind, table]) => Object.entries(table).map(([word, text]) => [kind, word, text as string])),
          ),
        );
      return 0;
    }
    const text = explain(reason);
    if (text === undefined) {
      const near = nearest(
        reason,
        Object.values(tables).flatMap((table) => Object.keys(table)),
      );
      throw new UserError(`no such reason: ${reason}`, `${near ? `Did you mean ${near}? ` : ''}portcullis explain lists them all`);
    }
    const advice = Object.hasOwn(ADVICE, reason) ? ADVICE[reason as keyof typeof ADVICE] : undefined;
    if (json) printJson({ reason, text, advice });
    else console.log([`${reason}: ${text}`, ...(advice === undefined ? [] : [wrap(advice)])].join('\n'));
    return 0;
  });
}
