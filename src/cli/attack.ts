/** `portcullis attack`: a hostile guest against this build. In the attack build (tools/attacks.mjs) it also shows that each attack works without its defence. */
import type { Command } from 'commander';
import { holds, type Result, runContractAttack } from '../attacks/attack.ts';
import { CATALOGUE, CONTRACT_ATTACKS, type Listed } from '../attacks/catalogue.ts';
import { runGuestAttacks } from '../attacks/guest.ts';
import { GUEST_ATTACKS } from '../attacks/guest-attacks.ts';
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

Those staged in a guest boot the stock kernel with a hostile module, which needs gcc, make and the kernel's headers (fetched once); those
staged at the contract need nothing, and take a second.

Examples:
  portcullis attack
  portcullis attack --stage contract
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
    const wanted = <A extends { name: string }>(attacks: readonly A[]) =>
      attacks.filter(({ name }) => chosen.some((one) => one.name === name));
    results.push(...(await runGuestAttacks(wanted(GUEST_ATTACKS), (what) => progress.step(what))));
    const scripted = wanted(CONTRACT_ATTACKS);
    if (scripted.length > 0) progress.step({ text: `${scripted.length} attacks at the engine contract` });
    for (const attack of scripted) results.push(await runContractAttack(attack));
    progress.clear();
    const summary = summarise(results, CATALOGUE);
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

function choose({ only = [], stage }: AttackFlags): Listed[] {
  if (stage !== undefined && !STAGES.some((name) => name === stage))
    throw new UserError(`--stage ${stage}: there is no such stage`, `use ${STAGES.join(' or ')}`);
  const fits = (pattern: string, name: string) => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern);
  for (const pattern of only) {
    if (CATALOGUE.some(({ name }) => fits(pattern, name))) continue;
    const names = CATALOGUE.map(({ name }) => name);
    const near = nearest(pattern, names);
    throw new UserError(
      `there is no attack "${pattern}"`,
      `${near ? `Did you mean ${near}? ` : ''}portcullis attack --list names them all`,
    );
  }
  return CATALOGUE.filter(
    (attack) => (stage ?? attack.stage) === attack.stage && (only.length === 0 || only.some((pattern) => fits(pattern, attack.name))),
  );
}
