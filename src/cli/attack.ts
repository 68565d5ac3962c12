/** `portcullis attack`: a hostile guest against this build. In the attack build (tools/attacks.mjs) it also shows that each attack works without its defence. */
import type { Command } from 'commander';
import { holds, type Result, runContractAttack } from '../attacks/attack.ts';
import { CONTRACT_ATTACKS } from '../attacks/catalogue.ts';
import { defencesText, markdown, rows, stopped, summarise, summaryText, unstopped } from '../attacks/report.ts';
import { withoutDefences } from '../base/defence-switch.ts';
import { EXIT_CODES, UserError } from '../base/errors.ts';
import { action } from './command.ts';
import { nearest } from './nearest.ts';
import { columns, printJson, styled } from './output.ts';

const STAGES = ['contract', 'guest'] as const;

interface AttackFlags {
  only?: string[];
  stage?: string;
  list?: boolean;
  markdown?: boolean;
}

export function addAttackCommand(program: Command): void {
  const command = program
    .command('attack')
    .description('try the attacks of a hostile guest against this build, and say what stopped each')
    .option('--only <name...>', 'only these attacks; NAME* is all that begin so')
    .option('--stage <stage>', `only those staged there: ${STAGES.join(' or ')}`)
    .option('--list', 'list the attacks, and run none')
    .option('--markdown', 'print the table as Markdown, as in SECURITY.md')
    .addHelpText(
      'after',
      `
Each attack is tried with all defences on: it must gain nothing, the reason must be logged, and the guest and the VMM must live. That it
works without the defence is shown by the attack build, which is made from a checkout: npm run attacks. A build has no switch for that.

Examples:
  portcullis attack
  portcullis attack --only 'stack-*' --json
  portcullis attack --list
  npm run attacks -- --markdown
`,
    );
  action(command, async ({ json, progress }, flags: AttackFlags) => {
    const chosen = choose(flags);
    if (flags.list) {
      const listed = chosen.map(({ name, what, promises, defences, stage }) => ({ name, what, promises, stage, defences }));
      if (json) printJson(listed);
      else
        console.log(
          columns(
            listed.map(({ name, promises, stage, defences, what }) => [name, promises.join(' '), stage, defencesText(defences), what]),
          ),
        );
      return 0;
    }
    const results: Result[] = [];
    progress.step({ text: `${chosen.length} attacks` });
    for (const { attack } of chosen) {
      results.push(await runContractAttack(attack));
    }
    progress.clear();
    const summary = summarise(results);
    if (json) printJson({ ...summary, switchable: withoutDefences !== undefined, results: results.map(forJson) });
    else if (flags.markdown) console.log(markdown(results));
    else {
      const table = rows(results).map(([mark, ...rest]) => [styled(mark === 'ok' ? 'green' : 'red', mark.padEnd(4)), ...rest]);
      console.log(columns([['', 'attack', 'promise', 'staged', 'with its defence', 'without'], ...table]));
      console.log(`\n${summaryText(summary)}`);
    }
    return summary.ok ? 0 : EXIT_CODES.failed.code;
  });
}

const forJson = (result: Result) => ({ ok: holds(result), ...result, stopped: stopped(result), unstopped: unstopped(result) });

function choose({ only = [], stage }: AttackFlags) {
  if (stage !== undefined && !STAGES.some((name) => name === stage))
    throw new UserError(`--stage ${stage}: there is no such stage`, `use ${STAGES.join(' or ')}`);
  const all = CONTRACT_ATTACKS.map((attack) => ({ ...attack, stage: 'contract' as const, attack }));
  const fits = (pattern: string, name: string) => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern);
  for (const pattern of only) {
    if (all.some(({ name }) => fits(pattern, name))) continue;
    const names = all.map(({ name }) => name);
    const near = nearest(pattern, names);
    throw new UserError(
      `there is no attack "${pattern}"`,
      `${near ? `Did you mean ${near}? ` : ''}portcullis attack --list names them all`,
    );
  }
  return all.filter(
    (attack) => (stage ?? attack.stage) === attack.stage && (only.length === 0 || only.some((pattern) => fits(pattern, attack.name))),
  );
}
