/** `portcullis explain REASON`: what a refusal, violation or crossing means. */
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { CROSSINGS, ENDINGS, explain, REFUSALS, VIOLATIONS } from '../monitor/reasons.ts';
import { action } from './command.ts';
import { nearest } from './nearest.ts';
import { columns, printJson } from './output.ts';

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
    if (json) printJson({ reason, text });
    else console.log(`${reason}: ${text}`);
    return 0;
  });
}
